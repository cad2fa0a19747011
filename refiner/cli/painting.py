"""The options of what is generated and with which models, as text; they are checked before any weights are loaded."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from refiner.cli.options import count
from refiner.errors import ConfigError

if TYPE_CHECKING:
    from refiner.cli.view import Terminal
    from refiner.pipelines import RefineConfig, RefinedPipeline
    from refiner.pipelines.loading.loras import Lora

_OWN: Final[Mapping[str, str]] = {
    "seed": "seed", "strategy": "strategy", "tools": "tools", "max_rounds": "rounds", "max_denoiser_rows": "max_rows",
    "max_seconds": "max_seconds", "negative_prompt": "negative_prompt", "num_inference_steps": "steps",
    "guidance_scale": "guidance", "height": "height", "width": "width",
}  # fmt: skip
"""Setting of the loop or argument of the call -> the option that it has for itself."""
CONTROLLERS: Final = ("legion-inpaint", "legion-regenerate")
"""Values of ``--controller``."""
_ELSEWHERE: Final[Mapping[str, str]] = {
    "prompt": "pass the prompt as the first argument", "image": "use --image", "generator": "use --seed",
    "num_images_per_prompt": "use --num-images",
}  # fmt: skip


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def _lora(text: str) -> Lora:
    from refiner.pipelines.loading.loras import Lora

    try:
        return Lora.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected name=value, such as dilate=0.1, got {text!r}")
    return name, value


def add_image(group: argparse._ActionsContainer) -> None:
    """Add the options for the images that are generated."""
    group.add_argument("--negative-prompt", metavar="TEXT", help="what the image must not show")
    group.add_argument("--steps", type=count, metavar="N", help="denoiser steps of an image (the model's own)")
    group.add_argument("--guidance", type=_number, metavar="X", help="guidance scale (the model's own)")
    group.add_argument("--width", type=count, metavar="PIXELS", help="width of the image (the model's own)")
    group.add_argument("--height", type=count, metavar="PIXELS", help="height of the image (the model's own)")
    words = "any other argument of the pipeline's call, or setting of RefineConfig; JSON or text; may be repeated"
    group.add_argument("--set", type=_pair, action="append", default=[], metavar="NAME=VALUE", help=words)


def add_controller(group: argparse._ActionsContainer) -> None:
    """Add the option for the controller."""
    words = "LEGION's own schedule instead of refiner's: it verifies nothing and keeps the last image"
    group.add_argument("--controller", choices=CONTROLLERS, help=words)


def add_weights(group: argparse._ActionsContainer) -> None:
    """Add the options for the weights beside those of the model."""
    words = "inpainting or edit model: a folder, a hub id, or edit:MODEL@URL (the model's own)"
    group.add_argument("--inpainter", metavar="ID", help=words)
    words = "edit model beside what inpaints; see tools of RefineConfig (the model's own)"
    group.add_argument("--editor", metavar="ID", help=words)
    words = "LoRA of the model: a folder, a file, a hub id, or ORG/NAME/FILE, with an optional weight; may be repeated"
    group.add_argument("--lora", type=_lora, action="append", default=[], metavar="ID[=WEIGHT]", help=words)


def controlled(name: str, pipe: RefinedPipeline | None, terminal: Terminal | None = None) -> RefineConfig:
    """Return the settings of one of ``CONTROLLERS``, as they fit a pipeline.

    The bundled models do not know the words of LEGION's prompt, so they get the user's prompt; the terminal says so.
    """
    from refiner.pipelines.config import PROMPT_MARK, RefineConfig
    from refiner.pipelines.painting.vocabulary import knows_captions_only

    mode: Any = name.removeprefix("legion-")
    config = RefineConfig.legion(mode)
    pipes = () if pipe is None else tuple(filter(None, (pipe.pipe, pipe.inpainter)))
    if mode != "inpaint" or not any(map(knows_captions_only, pipes)):
        return config
    if terminal is not None:
        terminal.complain(
            "the bundled models do not know the words of LEGION's prompt: regions get your prompt instead."
        )
    return replace(config, prompts=PROMPT_MARK)


def measured(config: RefineConfig, records: Sequence[str] | None) -> RefineConfig:
    """Return the settings with the tools in the order that earlier runs measured; without records, unchanged."""
    from refiner.repairs import tool_table

    return replace(config, policy="measured", tool_table=tool_table(*records)) if records else config


class Given(NamedTuple):
    """A setting that the user gave."""

    option: str
    """As the user wrote it, such as "--steps" or "--set dilate"."""
    readings: tuple[Any, ...]
    """Its value; that of ``--set`` as JSON if possible, and as text."""


class Wanted(NamedTuple):
    """The settings that the user gave."""

    config: dict[str, Any]
    """Fields of ``RefineConfig``."""
    call: dict[str, Given]
    """Arguments of the pipeline's call, which are checked when its class is known."""

    def config_of(self, saved: RefineConfig) -> RefineConfig:
        """Return a config with the settings changed; a value out of its range is a ConfigError."""
        return replace(saved, **self.config)

    def call_of(self, cls: type) -> dict[str, Any]:
        """Return the arguments of the call, in the types that a class of pipelines takes.

        Raises:
            ConfigError: an argument is unknown or of another type.
        """
        from refiner.pipelines.loading.written import call_hints

        return self.read_call(cls.__name__, call_hints(cls))

    def read_call(self, cls: str, hints: Mapping[str, Any]) -> dict[str, Any]:
        """As ``call_of``, for the name of the class and the types of the arguments that it takes."""
        from refiner.pipelines.loading.written import config_hints, nearest

        found = {}
        for name, given in self.call.items():
            if name not in hints:
                how = _ELSEWHERE.get(name) or f"use {nearest(name, {**hints, **config_hints()})}"
                what = f"{cls} and RefineConfig have no argument {name!r} that can be written as text"
                raise ConfigError(f"{given.option}: {what}: {how}.")
            found[name] = _read(name, given, hints[name])
        return found


def check_models(args: argparse.Namespace, model: str) -> None:
    """Check the ids of a model and of its parts, and the settings that the user gave, before torch is imported.

    Raises:
        ConfigError: a setting is unknown, given twice, of another type or out of its range, or an id is wrong.
        ModelNotFoundError, WeightsError: the model, a part or a LoRA is unknown or damaged.
    """
    from refiner.detectors.registry import detector_needs
    from refiner.pipelines.loading.loras import find_loras
    from refiner.pipelines.loading.parts import find_source, part_needs
    from refiner.pipelines.loading.written import source_hints

    find_source(model)
    find_loras(args.lora)
    part_needs({name: getattr(args, name, None) for name in ("detector", "judge", "reviser", "inpainter", "editor")})
    if getattr(args, "grounder", None) is not None:
        detector_needs(args.detector or "micro", args.grounder)
    wanted, cls = _settings(args, model)
    if cls is not None and (hints := source_hints(cls)):
        wanted.read_call(cls, hints)


def wanted_of(args: argparse.Namespace, model: str) -> Wanted:
    """Read and check the settings that the user gave, with no more of the model than its index.

    Raises:
        ConfigError: a setting is unknown, given twice, of another type or out of its range; or pipelines of the model's
            class take no LoRA.
        ModelNotFoundError, WeightsError: the model or a LoRA is unknown or damaged.
    """
    from refiner.pipelines.loading.loras import check_loras
    from refiner.pipelines.loading.written import class_named

    wanted, name = _settings(args, model)
    cls = None if name is None else class_named(name)
    if cls is not None:
        wanted.call_of(cls)
        check_loras(cls, args.lora)
    return wanted


def _settings(args: argparse.Namespace, model: str) -> tuple[Wanted, str | None]:
    """The settings, of which those of the loop are checked, and the class of the model's pipeline, if it is known."""
    from refiner.pipelines.config import RefineConfig
    from refiner.pipelines.loading.written import class_name, config_hints, index_of
    from refiner.pipelines.saving.settings import SavedSettings

    given, hints = _given(args), config_hints()
    wanted = Wanted(
        config={name: _read(name, each, hints[name]) for name, each in given.items() if name in hints},
        call={name: each for name, each in given.items() if name not in hints},
    )
    folder, controller = index_of(model), getattr(args, "controller", None)
    if controller and "strategy" in wanted.config:
        raise ConfigError(f"--strategy has no effect with --controller {controller}: leave one of them out.")
    saved = RefineConfig() if folder is None else SavedSettings.read(folder).config
    wanted.config_of(controlled(controller, None) if controller else saved)
    return wanted, None if folder is None else class_name(folder)


def _given(args: argparse.Namespace) -> dict[str, Given]:
    """Return the settings by name; one that is given twice is a ConfigError."""
    from refiner.pipelines.loading.written import readings

    own = {name: (dest.replace("_", "-"), getattr(args, dest, None)) for name, dest in _OWN.items()}
    found = {name: Given(f"--{option}", (value,)) for name, (option, value) in own.items() if value is not None}
    for name, text in args.set:
        if name in found:
            raise ConfigError(f"--set {name} and {found[name].option} give the same setting: leave one of them out.")
        found[name] = Given(f"--set {name}", readings(text))
    return found


def _read(name: str, given: Given, hint: Any) -> Any:
    from refiner.pipelines.loading.written import read_argument

    try:
        return read_argument(name, given.readings, hint)
    except ConfigError as error:
        raise ConfigError(f"{given.option}: {str(error)[0].lower()}{str(error)[1:]}") from error
