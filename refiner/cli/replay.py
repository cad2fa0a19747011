"""``refiner refine --replay``: make the kept image of a run again, from its record or from the image itself."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.machine import check_device, machine_of
from refiner.cli.view import Terminal
from refiner.errors import ConfigError, InputError
from refiner.files import Json, check_writable
from refiner.images import load_image
from refiner.machine import Machine
from refiner.provenance import read
from refiner.records import result_summary

if TYPE_CHECKING:
    from PIL import Image

    from refiner.pipelines import RefinedPipeline

DEFAULT_OUT = "replay"
_RECORDED = (
    "num_images", "seed", "negative_prompt", "steps", "guidance", "width", "height", "set", "controller", "strategy",
    "rounds", "max_rows", "max_seconds", "dtype",
)  # fmt: skip
"""Options whose values come from the record."""


def replay(args: argparse.Namespace, terminal: Terminal) -> int:
    """Make the image of ``args.replay`` again.

    Returns:
        0 if the new image equals the recorded one bit for bit.

    Raises:
        InputError: the file holds no run record, or the image that the run started from is missing.
        ConfigError: a model, detector or version differs, or the new image differs.
    """
    from refiner.reports.result import save_result

    if args.prompt is not None:
        raise ConfigError("Expected a prompt or --replay, got both: omit the prompt, the record holds it.")
    for name in _RECORDED:
        if getattr(args, name) not in (None, []):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect with --replay, because the record holds it: omit {option}.")
    check_device(args.device)
    file = Path(args.replay)
    record = _record(file)
    folder = check_writable(args.out or DEFAULT_OUT)
    if folder.resolve() == file.resolve().parent:
        raise ConfigError(f"--out {str(folder)!r} is the folder of the record itself: name another folder.")
    image = _start(args.image, file, record)
    with terminal.waiting("loading the models of the record"):
        pipe = _pipeline(args, record)
    with terminal.waiting("generating"):
        result = pipe.replay(record, image=image)
    files = save_result(result, folder, {"replay": file.name})
    terminal.answer(args, result_summary(result, files), f"the same image, bit for bit: {files['best']}")
    return 0


def _record(file: Path) -> Json:
    """A run record, from a JSON file or from the metadata of an image."""
    if file.suffix.lower() != ".json":
        found = read(file).record
        if found is None:
            raise InputError(f"The image {str(file)!r} holds no run record: name its run.json.")
        return found
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The run record {str(file)!r} cannot be read: check the path.") from error
    if not isinstance(document, dict):
        raise InputError(f"{str(file)!r} holds no run record: name a run.json.")
    return document


def _settings(record: Json) -> Json:
    return _mapping(record.get("settings"))


def _mapping(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _start(given: str | None, file: Path, record: Json) -> Image.Image | None:
    """The image that the run started from: the named file, or ``start.png`` beside the record; None if generated."""
    if given is not None:
        return load_image(given)
    if _settings(record).get("image") is None:
        return None
    beside = file.parent / "start.png"
    if not beside.is_file():
        raise InputError("The image that the run started from is missing: name it with --image.")
    return load_image(beside)


def _pipeline(args: argparse.Namespace, record: Json) -> RefinedPipeline:
    """The record's models, or those that the user names instead, with the record's dtype and device.

    The user may name another device; if the machine does not have that of the record, it is the CPU.
    """
    import torch

    from refiner.detectors.registry import with_grounder
    from refiner.pipelines.loading.loras import Lora
    from refiner.pipelines.loading.parts import trusted
    from refiner.pipelines.loading.placing import load_refined

    settings = _settings(record)
    ids, painted = _mapping(settings.get("ids")), _mapping(settings.get("pipeline"))
    names = {name: value for name, value in ids.items() if isinstance(value, str)}
    model = args.model or names.get("model")
    if model is None:
        raise ConfigError("The record does not name the model of the run: pass --model.")
    detector = args.detector or trusted("detector", names.get("detector"))
    if args.grounder:
        detector = with_grounder(detector or "micro", args.grounder)
    judges = args.judge or _judges(ids) or ("saved" if settings.get("judges") else None)
    dtype = getattr(torch, str(painted.get("dtype")), None)
    return load_refined(
        model,
        _machine(args, painted.get("device")),
        detector=detector,
        judge=judges,
        reviser=args.reviser or trusted("reviser", names.get("reviser")),
        inpainter=args.inpainter or trusted("inpainter", names.get("inpainter")),
        editor=args.editor or trusted("editor", names.get("editor")),
        second_stage=names.get("second_stage"),
        loras=args.lora or [Lora.parse(text) for text in ids.get("lora") or ()],
        dtype=dtype if isinstance(dtype, torch.dtype) else None,
    )


def _machine(args: argparse.Namespace, recorded: object) -> Machine:
    if args.device is None and isinstance(recorded, str):
        try:
            return Machine.choose(recorded, offload=args.offload)
        except ConfigError:
            args.device = "cpu"
    return machine_of(args)


def _judges(ids: Json) -> list[str]:
    from refiner.pipelines.loading.parts import trusted

    named = ids.get("judge") or []
    named = [named] if isinstance(named, str) else named
    return [judge for one in named if isinstance(one, str) and (judge := trusted("judge", one)) is not None]
