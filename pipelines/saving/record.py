"""The settings of a run, so that it can be reproduced (see ``refiner.pipelines.saving.replay``).

``settings_of`` is called at the start of every run; its document is stored in ``RefinementResult.settings``. Weights
are identified by a digest of a sample of each matrix. This takes very little time, and detects LoRAs and fine-tuned
weights as well as other checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from refiner.files import Json
from refiner.pipelines.editing.hosted import HostedEditor
from refiner.pipelines.judges import judges_of
from refiner.pipelines.revisers.plain import PlainReviser
from refiner.plain import held_by
from refiner.protocols import Detector, Judge, Reviser
from refiner.records import picture_digest

if TYPE_CHECKING:
    import torch

    from refiner.pipelines.config import RefineConfig

_SAMPLES = 16
"""Number of values of each matrix that enter the digest."""


class Wrapped(Protocol):
    """The attributes of a ``RefinedPipeline`` that its images depend on; see ``RefinedPipeline``."""

    pipe: Any
    inpainter: Any
    second_stage: Any
    editor: Any
    detector: Detector
    judge: Judge | None
    reviser: Reviser
    ids: dict[str, str | list[str]]
    native: int | None
    call_defaults: dict[str, Any]
    inpaint_call_defaults: dict[str, Any]
    edit_call_defaults: dict[str, Any]


def settings_of(
    pipe: Wrapped,
    *,
    config: RefineConfig,
    index: int,
    call: Mapping[str, Any],
    image: Image.Image | None,
) -> Json:
    """Describe what a run depends on as plain JSON values, without its prompt and library versions.

    Args:
        pipe: the pipeline and its parts.
        config: settings of the loop, with the seed.
        index: number of the image among those with the same prompt and seed.
        call: arguments of the call of the wrapped pipeline that makes the start image, possibly with others. Of values
            that JSON cannot store, only the name is recorded.
        image: the image to refine, if it was not generated.
    """
    plain = {name: value for name, value in call.items() if _is_plain(value)}
    repaint, edit = (
        {name: value for name, value in defaults.items() if _is_plain(value)}
        for defaults in (pipe.inpaint_call_defaults, pipe.edit_call_defaults)
    )
    unrecorded = {*(call.keys() - plain.keys()), *(pipe.inpaint_call_defaults.keys() - repaint.keys())}
    unrecorded |= pipe.edit_call_defaults.keys() - edit.keys()
    return {
        "ids": dict(pipe.ids),
        "pipeline": _pipeline(pipe.pipe),
        "inpainter": None if pipe.inpainter is None else _pipeline(pipe.inpainter),
        "second_stage": None if pipe.second_stage is None else _pipeline(pipe.second_stage),
        "editor": None if pipe.editor is None else _pipeline(pipe.editor),
        "detector": _part(pipe.detector),
        "judges": [_part(judge) for judge in judges_of(pipe.judge)],
        "reviser": pipe.reviser.name if isinstance(pipe.reviser, PlainReviser) else type(pipe.reviser).__qualname__,
        "config": json.loads(json.dumps(asdict(config))),
        "index": index,
        "native": pipe.native,
        "call": json.loads(json.dumps(plain)),
        "inpaint_call": json.loads(json.dumps(repaint)),
        "edit_call": json.loads(json.dumps(edit)),
        "unrecorded": sorted(unrecorded),
        "image": None if image is None else picture_digest(image),
    }


def described(pipe: Wrapped) -> str:
    """Describe a RefinedPipeline in a few lines: the class of each pipeline, and the names of the other parts."""
    dtype = str(pipe.pipe.dtype).removeprefix("torch.")
    lines = {"pipe": f"{type(pipe.pipe).__name__}, {dtype} on {pipe.pipe.device}"}
    others = {"inpainter": pipe.inpainter, "second_stage": pipe.second_stage, "editor": pipe.editor}
    lines |= {name: type(other).__name__ for name, other in others.items() if other is not None}
    lines |= {"detector": pipe.detector.name}
    lines |= {"judge": " & ".join(judge.name for judge in judges_of(pipe.judge)) or "none"}
    lines |= {"reviser": type(pipe.reviser).__name__}
    return "\n".join(["RefinedPipeline", *(f"  {name}: {said}" for name, said in lines.items())])


def _pipeline(pipe: Any) -> Json:
    if isinstance(pipe, HostedEditor):
        return {"class": repr(pipe), "scheduler": None, "dtype": None, "device": None, "weights": {}}
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
    """Describe a detector or judge: its name and the fingerprints of its networks."""
    return {"name": part.name, "weights": fingerprints(dict(_networks(part, 3)))}


def _networks(part: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the networks that a part holds, and those that objects of refiner in it hold, ``depth`` levels deep."""
    for name, value in sorted(held_by(part).items()):
        for place, held in enumerate(value) if isinstance(value, tuple) else (("", value),):
            if hasattr(held, "named_parameters"):
                yield f"{name}{place}", held
            elif depth and type(held).__module__.startswith("refiner."):
                yield from ((f"{name}{place}.{inner}", network) for inner, network in _networks(held, depth - 1))


def fingerprints(components: Mapping[str, Any]) -> dict[str, str | None]:
    """Compute a digest of each network in ``components``: names and sizes of all tensors, and a sample of each matrix.

    The digest is None for a network whose weights are not loaded now, as with sequential offload.
    """
    networks = {name: part for name, part in sorted(components.items()) if hasattr(part, "named_parameters")}
    return {name: _digest(network) for name, network in networks.items()}


def _digest(network: torch.nn.Module) -> str | None:
    tensors = list(_tensors_of(network))
    matrices = [tensor.detach() for _, tensor in tensors if tensor.ndim > 1 and tensor.numel()]
    if any(tensor.is_meta for tensor in matrices):
        return None
    named = " ".join(f"{key}:{tensor.numel()}" for key, tensor in tensors)
    return hashlib.blake2b(named.encode() + _sampled(matrices)).hexdigest()[:32]


def _tensors_of(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors of parameters and buffers in one pass, because large networks have many modules."""
    for name, module in network.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield from _stored(f"{name}.{key}", tensor)


def _stored(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a tensor as it is stored: of a quantised one, the tensors in it, because its own class computes little."""
    import torch

    if hasattr(tensor, "__tensor_flatten__"):
        for part in tensor.__tensor_flatten__()[0]:
            yield from _stored(f"{name}.{part}", getattr(tensor, part))
    elif type(tensor) in (torch.Tensor, torch.nn.Parameter):
        yield name, tensor
    else:
        yield name, tensor.as_subclass(torch.Tensor)


def _sampled(tensors: Sequence[torch.Tensor]) -> bytes:
    """Sample each tensor as float32, with one copy for all tensors of the same device and dtype."""
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
