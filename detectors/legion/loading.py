"""Load LEGION folders: refiner's own layout, and that of the public LEGION / GLaMM checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SamImageProcessor,
    SamImageProcessorPil,
)

from refiner.detectors.base import Identity, check_complete, first_line, identity, no_progress_bars, read_config
from refiner.detectors.legion.layouts import is_original, is_ours
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.detectors.legion.placing import Placement
from refiner.detectors.legion.published import PublishedFolder, check_merged
from refiner.errors import ConfigError, WeightsError
from refiner.hub import verify


class LegionFolder(NamedTuple):
    """The content of a folder."""

    model: LegionModel
    tokenizer: PreTrainedTokenizerBase
    clip_processor: BaseImageProcessor
    sam_processor: BaseImageProcessor
    identity: Identity


def load_legion(folder: Path, place: Placement) -> LegionFolder:
    """Load a folder of either layout to its place; raises the errors of ``LegionDetector.from_pretrained``."""
    check_merged(folder)
    config = read_config(folder)
    with no_progress_bars():
        if is_ours(config):
            return _load_ours(folder, place)
        if is_original(config):
            return _load_original(folder, place)
    raise WeightsError(
        f"Expected a LEGION detector in {str(folder)!r}, got a model of type {config.get('model_type')!r}: "
        "choose a folder with LEGION weights."
    )


def load_bare(folder: Path) -> LegionFolder:
    """Load a folder of either layout without its weights: the network is on the device "meta".

    Raises:
        WeightsError: as for ``load_legion``.
    """
    check_merged(folder)
    config = read_config(folder)
    if is_original(config):
        found = PublishedFolder(folder)
        with torch.device("meta"):
            model = LegionModel(found.config)
        name = Identity(f"legion:{folder.name}", "")
        return LegionFolder(model, found.tokenizer, found.clip_processor, found.sam_processor, name)
    try:
        own = LegionConfig.from_pretrained(folder)
        parts = _read_parts(folder, own)
        with torch.device("meta"):
            model = LegionModel(own)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise _unloadable(folder, error) from error
    return LegionFolder(model, *parts, identity(folder, "legion"))


def _load_ours(folder: Path, place: Placement) -> LegionFolder:
    verify(folder)
    try:
        model, info = place.load(folder, dtype=place.dtype or "auto")
        parts = _read_parts(folder, model.config)
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise _unloadable(folder, error) from error
    check_complete(folder, info)
    return LegionFolder(place.settled(model), *parts, identity(folder, "legion"))


def _read_parts(
    folder: Path, config: LegionConfig
) -> tuple[PreTrainedTokenizerBase, BaseImageProcessor, BaseImageProcessor]:
    clip, sam = (
        (CLIPImageProcessorPil, SamImageProcessorPil) if config.published else (CLIPImageProcessor, SamImageProcessor)
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer, clip.from_pretrained(folder / "clip"), sam.from_pretrained(folder / "sam")


def _unloadable(folder: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"The LEGION folder {str(folder)!r} cannot be loaded ({first_line(error)}): download or build it again."
    )


def _load_original(folder: Path, place: Placement) -> LegionFolder:
    found = PublishedFolder(folder)
    state = {name: weight for weights in found.each() for name, weight in weights.items()}
    model, info = place.load(None, config=found.config, state_dict=state, dtype=place.dtype or found.dtype)
    check_complete(folder, info)
    name = Identity(f"legion:{folder.name}", "")
    return LegionFolder(place.settled(model), found.tokenizer, found.clip_processor, found.sam_processor, name)
