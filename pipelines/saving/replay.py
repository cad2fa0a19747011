"""Reproduce an image from its run record: compare the record with the loaded models, then repeat the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Protocol

from PIL import Image

from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.pipelines.calling.call import Call
from refiner.pipelines.calling.marks import masks_of
from refiner.pipelines.calling.request import request_of
from refiner.pipelines.calling.seeding import Seeding, defaults_as, generator_from
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.saving.record import Wrapped, settings_of
from refiner.pipelines.saving.settings import config_from
from refiner.reading import reason_of
from refiner.records import environment, picture_digest
from refiner.types import RefinementResult

_WATCHING = frozenset({"callback_on_step_end", "callback", "callback_steps", "callback_on_step_end_tensor_inputs"})
"""Arguments that normally do not change the image; if they do, the comparison of the pixels shows it."""
_LIBRARIES = ("refiner", "diffusers", "transformers", "torch", "numpy", "pillow", "scipy", "open-clip-torch")
"""Libraries whose version can change pixels. Only the first two numbers of a version are compared; if the third one
matters, the comparison of the pixels shows it."""


class Refiner(Wrapped, Protocol):
    """A ``RefinedPipeline``."""

    def with_parts(self, **changes: Any) -> Refiner: ...


def replay(
    pipe: Refiner, record: Mapping[str, Any], *, image: Image.Image | None = None, **options: Any
) -> RefinementResult:
    """Reproduce the kept image of a run, and check that it is bit-identical.

    The call of the wrapped pipeline that made the start image is made again, with all images of its batch.

    Args:
        pipe: a RefinedPipeline with the same models; its default settings are not used.
        record: record of the run: ``run.json``, or ``refiner.provenance.read(picture).record``.
        image: the image that the run started from, if it did not generate one.
        options: arguments of the diffusers pipeline's call that the record could not store, and ``mask_image``.

    Returns:
        The result of the repeated run, which ends with the kept image.

    Raises:
        InputError: the record is not a run record, or its run cannot be reproduced.
        ConfigError: models, settings or versions differ, or the new image differs; the message names the difference.
    """
    settings, wanted, best = _settings_in(record)
    missing = [name for name in settings["unrecorded"] if name not in _WATCHING and name not in options]
    if missing:
        raise ConfigError(f"The record could not store {', '.join(missing)}: pass it again.")
    masks = options.pop("mask_image", None)
    try:
        config = replace(config_from(settings["config"]), max_seconds=None, batch_images=None)
        kept = {name: settings[name] for name in ("inpaint_call", "native")}
        again = pipe.with_parts(call={}, edit_call=settings.get("edit_call"), **kept)
        arguments = {**settings["call"], **options}
        now = settings_of(again, config=config, index=settings["index"], call=arguments, image=image)
        differences = [*_differences(settings, now), *_version_differences(record)]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The record cannot be read ({reason_of(error)}): use the version of refiner that wrote it."
        ) from error
    if differences:
        raise ConfigError(f"The run differs from its record ({'; '.join(differences)}): load the same.")
    choices = _choices(record, best)
    result = _again(again, record, config, arguments, image, masks, best - len(choices))
    for choice in choices:
        result = result.with_choice(choice)
    image = result.attempts[best].image if len(result.attempts) > best else None
    found = f"no attempt {best}" if image is None else picture_digest(image)
    if found != wanted:
        raise ConfigError(
            f"The new image ({found[:12]}) differs from that of the record ({wanted[:12]}), although models, settings "
            f"and versions agree: {_advice(settings)}."
        )
    return result


def _advice(settings: Json) -> str:
    together = settings.get("images_together", 1)
    if together > 1:
        return (
            f"{together} images were refined together, and a model rounds differently in another batch; set "
            "batch_images=1 for runs that must be repeated bit for bit"
        )
    return "use the same kind of processor and the same number of threads"


def _again(
    pipe: Refiner,
    record: Mapping[str, Any],
    config: RefineConfig,
    arguments: Mapping[str, Any],
    image: Image.Image | None,
    masks: Any,
    best: int,
) -> RefinementResult:
    """Repeat a run until its kept image is there."""
    settings = record["settings"]
    sizes = {name: value for name, value in arguments.items() if image is None or name not in ("height", "width")}
    request = request_of(pipe.pipe, sizes, config=config, call={}, start_image=image)
    request = replace(request, prompts=tuple(record["prompt"] for _ in request.prompts))
    start = settings.get("start") or {"row": 0, "generators": [], "default": False, "seed": 0}
    generators = tuple(map(generator_from, start["generators"]))
    seeding = Seeding(
        generators=generators,
        seeds=(config.seed or 0,) * request.total,
        indices=(settings["index"],) * request.total,
        first=(start["seed"] or 0,) * request.total,
        ours=start["seed"] is not None,
        default=start["default"],
    )
    run = Call(pipe, request, seeding, masks=() if masks is None else masks_of(masks)).run(start["row"])
    with defaults_as(pipe.pipe, generators[0]) if start["default"] else nullcontext():
        for attempt in run:
            if attempt.index == best:
                run.stop()
        return run.result


def _choices(record: Mapping[str, Any], best: int) -> list[dict[int, int]]:
    """What was picked by hand, in order, until the kept image was made.

    Raises:
        InputError: the record cannot be read.
    """
    try:
        choices = [row.get("choice") or {} for row in record["attempts"][: best + 1]]
        return [{int(patch): number for patch, number in choice.items()} for choice in choices if choice]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The choices in the record cannot be read ({error!r}): pick again by hand.") from error


def _settings_in(record: Mapping[str, Any]) -> tuple[Json, str, int]:
    """Return the settings, and the digest and number of the kept image, after checking that the record has them."""
    try:
        settings, wanted, best = record["settings"], record["picture"], record["best"]
        complete = {"pipeline", "detector", "config", "index", "call", "unrecorded", "image"}
        complete |= {"inpainter", "second_stage", "judges", "reviser", "inpaint_call", "native"}
        texts = isinstance(record["prompt"], str) and isinstance(wanted, str) and isinstance(best, int)
        texts = texts and isinstance(settings["unrecorded"], list)
        if not texts or not complete <= settings.keys():
            raise KeyError("settings")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "The record has no settings or no kept image: use a record of RefinedPipeline or of refiner refine; only "
            "their runs can be reproduced."
        ) from error
    return settings, wanted, best


def _differences(then: Json, now: Json) -> Iterator[str]:
    """Yield a text for each difference between two runs that can change pixels."""
    for part in ("pipeline", "inpainter", "second_stage", "editor"):
        name, old, new = part.replace("_", " "), then.get(part), now[part]
        if old is None or new is None:
            if old is not new:
                yield f"{'a' if old is None else 'no'} separate {name}"
            continue
        for fact in ("class", "scheduler", "dtype", "device"):
            if old[fact] != new[fact]:
                yield _told(f"another {fact} of the {name}", old[fact], new[fact])
        changed = _changed(old["weights"], new["weights"])
        if changed:
            yield f"other weights of the {name}'s {', '.join(changed)}"
    if _differ(then["detector"], now["detector"]):
        yield _told("another detector", then["detector"], now["detector"])
    if any(_differ(*pair) for pair in zip_longest(then["judges"], now["judges"])):
        yield _told("other judges", then["judges"], now["judges"])
    if then["reviser"] != now["reviser"]:
        yield _told("another reviser", then["reviser"], now["reviser"])
    if then["image"] != now["image"]:
        yield "no start image" if now["image"] is None else "another start image"


def _differ(then: Json | None, now: Json | None) -> bool:
    if then is None or now is None:
        return then is not now
    return then["name"] != now["name"] or bool(_changed(then["weights"], now["weights"]))


def _changed(then: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """List the networks that differ; weights that were not loaded in one of the runs are not compared."""
    known = [name for name in {**then, **now} if None not in (then.get(name, ""), now.get(name, ""))]
    return sorted(name for name in known if then.get(name) != now.get(name))


def _told(what: str, then: object, now: object) -> str:
    """Name a difference with both values, if they have a short form."""
    old, new = _short(then), _short(now)
    return f"{what} ({new} instead of {old})" if old != new and old and new else what


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
