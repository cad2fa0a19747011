"""Making a picture again from its run record: what a run depends on, written down, compared, and run once more.

``settings_of`` is taken at the start of every run and lies in ``RefinementResult.settings``. Weights are told apart by
a sample of each matrix, which costs next to nothing and sees LoRAs and fine-tunings as well as other checkpoints.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from PIL import Image

from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.pipelines.judges import judges_of
from refiner.pipelines.saving.settings import config_from
from refiner.records import environment, picture_digest
from refiner.types import RefinementResult

if TYPE_CHECKING:
    import torch

    from refiner.pipelines.config import RefineConfig
    from refiner.pipelines.refined import RefinedPipeline

_SAMPLES = 16
"""Values of each matrix that are looked at."""
_WATCHING = frozenset({"callback_on_step_end", "callback", "callback_steps", "callback_on_step_end_tensor_inputs"})
"""Arguments that look on, as a rule; where they do change a picture, the pixels tell."""
_LIBRARIES = ("refiner", "diffusers", "transformers", "torch", "numpy", "pillow", "scipy", "open-clip-torch")
"""Versions of these change pixels; a third number in a version does not, as a rule, and else the pixels tell."""


def settings_of(
    pipe: RefinedPipeline,
    *,
    config: RefineConfig,
    index: int,
    height: int | None,
    width: int | None,
    call: Mapping[str, Any],
    image: Image.Image | None,
) -> Json:
    """What a run depends on, beside its prompt and the versions of libraries, as plain JSON values.

    Args:
        pipe: what runs.
        config: of this run, its seed included.
        index: number of the picture among those of one prompt and seed.
        height: that was asked for, in pixels.
        width: that was asked for, in pixels.
        call: arguments of the diffusers pipeline's call; what JSON cannot carry is noted by name alone.
        image: the picture that it starts from; None: it paints one.
    """
    plain = {name: value for name, value in call.items() if _is_plain(value)}
    repaint = {name: value for name, value in pipe.inpaint_call_defaults.items() if _is_plain(value)}
    unrecorded = {*(call.keys() - plain.keys()), *(pipe.inpaint_call_defaults.keys() - repaint.keys())}
    return {
        "ids": dict(pipe.ids),
        "pipeline": _pipeline(pipe.pipe),
        "inpainter": None if pipe.inpainter is None else _pipeline(pipe.inpainter),
        "second_stage": None if pipe.second_stage is None else _pipeline(pipe.second_stage),
        "detector": _part(pipe.detector),
        "judges": [_part(judge) for judge in judges_of(pipe.judge)],
        "reviser": type(pipe.reviser).__qualname__,
        "config": json.loads(json.dumps(asdict(config))),
        "index": index,
        "height": height,
        "width": width,
        "native": pipe.native,
        "call": json.loads(json.dumps(plain)),
        "inpaint_call": json.loads(json.dumps(repaint)),
        "unrecorded": sorted(unrecorded),
        "image": None if image is None else picture_digest(image),
    }


def replay(
    pipe: RefinedPipeline, record: Mapping[str, Any], *, image: Image.Image | None = None, **options: Any
) -> RefinementResult:
    """Make the kept picture of a run again, and check that it is the same to the last bit.

    Attempts that came after the kept one are not made.

    Args:
        pipe: the same models, loaded anew; its own defaults are not used.
        record: of the run: ``run.json``, or ``refiner.provenance.read(picture).record``.
        image: the picture that the run started from, where it did.
        options: arguments of the diffusers pipeline's call that the record could not hold.

    Raises:
        InputError: the record is none, or of a run that cannot be made again.
        ConfigError: something differs that matters, or the picture came out differently; says what.
    """
    from refiner.pipelines.loop import finish

    settings, wanted = _settings_in(record)
    best = record["best"]
    missing = [name for name in settings["unrecorded"] if name not in _WATCHING and name not in options]
    if missing:
        raise ConfigError(f"Expected {', '.join(missing)}, which the record could not hold, got none: pass it again.")
    place = {name: settings[name] for name in ("index", "height", "width")}
    try:
        config = replace(config_from(settings["config"]), max_seconds=None)
        again = _prepared(pipe, settings)
        now = settings_of(again, config=config, call={**settings["call"], **options}, image=image, **place)
        differences = [*_differences(settings, now), *_version_differences(record)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"Expected a record that this version knows, got one that fails with {error!r}.") from error
    if differences:
        raise ConfigError(f"Expected the run that the record describes, got {'; '.join(differences)}: load the same.")
    attempts = again.stream(record["prompt"], image=image, config=config, **place, **options)
    result = finish(attempts, lambda attempt: attempt.index == best)
    _check_picture(result, best, wanted)
    return result


def _prepared(pipe: RefinedPipeline, settings: Json) -> RefinedPipeline:
    """The same models with the record's defaults."""
    again = copy.copy(pipe)
    again.call_defaults, again.inpaint_call_defaults = dict(settings["call"]), dict(settings["inpaint_call"])
    again.native = settings["native"]
    return again


def _settings_in(record: Mapping[str, Any]) -> tuple[Json, str]:
    """Settings and digest of the kept picture, from a record that has both."""
    try:
        settings, wanted, best = record["settings"], record["picture"], record["best"]
        complete = {"pipeline", "detector", "config", "index", "height", "width", "call", "unrecorded", "image"}
        complete |= {"inpainter", "second_stage", "judges", "reviser", "inpaint_call", "native"}
        texts = isinstance(record["prompt"], str) and isinstance(wanted, str) and isinstance(best, int)
        texts = texts and isinstance(settings["unrecorded"], list)
        if not texts or not complete <= settings.keys():
            raise KeyError("settings")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "Expected the record of a run with its settings and a kept picture, got one without: only runs of "
            "RefinedPipeline and of refiner refine can be made again."
        ) from error
    return settings, wanted


def _differences(then: Json, now: Json) -> Iterator[str]:
    """What differs between two runs, in words, where it changes pixels."""
    for part in ("pipeline", "inpainter", "second_stage"):
        yield from _pipeline_differences(part.replace("_", " "), then[part], now[part])
    if _differ(then["detector"], now["detector"]):
        yield _told("another detector", then["detector"], now["detector"])
    judges = list(zip_longest(then["judges"], now["judges"]))
    if any(_differ(*pair) for pair in judges):
        yield _told("other judges", then["judges"], now["judges"])
    if then["reviser"] != now["reviser"]:
        yield _told("another reviser", then["reviser"], now["reviser"])
    if then["image"] != now["image"]:
        yield "no picture to start from" if now["image"] is None else "another picture to start from"


def _pipeline_differences(part: str, then: Json | None, now: Json | None) -> Iterator[str]:
    if then is None or now is None:
        if then is not now:
            yield f"{'a' if then is None else 'no'} separate {part}"
        return
    for name in ("class", "scheduler", "dtype", "device"):
        if then[name] != now[name]:
            yield _told(f"another {name} of the {part}", then[name], now[name])
    changed = _changed(then["weights"], now["weights"])
    if changed:
        yield f"other weights of the {part}'s {', '.join(changed)}"


def _differ(then: Json | None, now: Json | None) -> bool:
    if then is None or now is None:
        return then is not now
    return then["name"] != now["name"] or bool(_changed(then["weights"], now["weights"]))


def _changed(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """The networks that are not the same; weights that were out of reach on either side are not compared."""
    known = [name for name in {**then, **now} if None not in (then.get(name, ""), now.get(name, ""))]
    return sorted(name for name in known if then.get(name) != now.get(name))


def _told(what: str, then: object, now: object) -> str:
    """A difference with both sides, where they are short and tell something."""
    sides = [_short(then), _short(now)]
    return f"{what} ({sides[1]} instead of {sides[0]})" if sides[0] != sides[1] and all(sides) else what


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", ""))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " & ".join(map(_short, value)) or "none"
    return str(value)


def _version_differences(record: Mapping[str, Any]) -> Iterator[str]:
    then, now = record.get("environment", {}).get("versions", {}), environment()["versions"]
    for name in _LIBRARIES:
        if name in then and _first_two(then[name]) != _first_two(now.get(name, "none")):
            yield f"{name} {now.get(name, 'none')} instead of {then[name]}"


def _first_two(version: str) -> list[str]:
    return str(version).partition("+")[0].split(".")[:2]


def _check_picture(result: RefinementResult, best: int, wanted: str) -> None:
    if len(result.attempts) > best and (image := result.attempts[best].image) is not None:
        found = picture_digest(image)
    else:
        found = f"no attempt {best}"
    if found != wanted:
        raise ConfigError(
            f"Expected the picture {wanted[:12]} of the record, got {found[:12]}, although models, settings and "
            "versions agree: run it on the same kind of processor, with as many threads."
        )


def _pipeline(pipe: Any) -> Json:
    scheduler = getattr(pipe, "scheduler", None)
    config = {name: value for name, value in getattr(scheduler, "config", {}).items() if not name.startswith("_")}
    written = json.dumps(config, sort_keys=True, default=str).encode()
    return {
        "class": type(pipe).__name__,
        "scheduler": f"{type(scheduler).__name__} {hashlib.blake2b(written, digest_size=8).hexdigest()}",
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "device": pipe._execution_device.type,
        "weights": fingerprints(pipe.components),
    }


def _part(part: Any) -> Json:
    """A detector or judge: its name, and what its networks hold."""
    return {"name": part.name, "weights": fingerprints(dict(_networks(part, 3)))}


def _networks(part: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The networks that an object holds, and those of the objects that it holds."""
    for name, value in sorted(getattr(part, "__dict__", {}).items()):
        for place, held in enumerate(value) if isinstance(value, tuple) else (("", value),):
            if hasattr(held, "named_parameters"):
                yield f"{name}{place}", held
            elif depth and type(held).__module__.startswith("refiner."):
                yield from ((f"{name}{place}.{inner}", network) for inner, network in _networks(held, depth - 1))


def fingerprints(components: Mapping[str, Any]) -> dict[str, str | None]:
    """A digest of each network among ``components``: all tensors' names and sizes, and a sample of each matrix.

    None for a network whose weights are elsewhere at the moment, as with sequential offload.
    """
    found: dict[str, str | None] = {}
    for name, network in sorted(components.items()):
        if not hasattr(network, "named_parameters"):
            continue
        tensors = list(_tensors_of(network))
        digest = hashlib.blake2b(" ".join(f"{key}:{tensor.numel()}" for key, tensor in tensors).encode())
        matrices = [tensor.detach() for _, tensor in tensors if tensor.ndim > 1 and tensor.numel()]
        away = any(tensor.is_meta for tensor in matrices)
        digest.update(b"" if away else _sampled(matrices))
        found[name] = None if away else digest.hexdigest()[:32]
    return found


def _tensors_of(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of parameters and buffers, in one walk: large networks have thousands of modules."""
    for name, module in network.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{name}.{key}", tensor


def _sampled(tensors: Sequence[torch.Tensor]) -> bytes:
    """Some values of each tensor as float32; one copy for all of one device and dtype."""
    import torch

    samples: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for tensor in tensors:
        flat = tensor.reshape(-1)
        samples.setdefault((tensor.device, tensor.dtype), []).append(flat[:: -(-len(flat) // _SAMPLES)])
    return b"".join(torch.cat(some).to("cpu", torch.float32).numpy().tobytes() for some in samples.values())


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))
