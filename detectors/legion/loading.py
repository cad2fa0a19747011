"""Load LEGION folders: refiner's own layout, and that of the public LEGION / GLaMM checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    SamImageProcessor,
)

from refiner.detectors.base import Identity, check_complete, identity, no_progress_bars, read_config
from refiner.detectors.legion.conversion import PROMPT, convert_state_dict, llava_config, sam_config
from refiner.detectors.legion.layouts import is_original, is_ours
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.errors import WeightsError
from refiner.hub import verify

_ORIGINAL_TOKENS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>", "<image>")


class LegionFolder(NamedTuple):
    """The content of a folder."""

    model: LegionModel
    tokenizer: PreTrainedTokenizerBase
    clip_processor: CLIPImageProcessor
    sam_processor: SamImageProcessor
    identity: Identity


def load_legion(folder: Path, dtype: torch.dtype | None) -> LegionFolder:
    """Load a folder of either layout; raises the errors of ``LegionDetector.from_pretrained``."""
    config = read_config(folder)
    with no_progress_bars():
        if is_ours(config):
            return _load_ours(folder, dtype)
        if is_original(config):
            return _load_original(folder, config, dtype)
    raise WeightsError(
        f"Expected a LEGION detector in {str(folder)!r}, got a model of type {config.get('model_type')!r}: "
        "choose a folder with LEGION weights."
    )


def _load_ours(folder: Path, dtype: torch.dtype | None) -> LegionFolder:
    verify(folder)
    try:
        model, info = LegionModel.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        clip_processor = CLIPImageProcessor.from_pretrained(folder / "clip")
        sam_processor = SamImageProcessor.from_pretrained(folder / "sam")
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"The LEGION folder {str(folder)!r} cannot be loaded ({error}): download or build it again."
        ) from error
    check_complete(folder, info)
    return LegionFolder(model, tokenizer, clip_processor, sam_processor, identity(folder, "legion"))


def _load_original(folder: Path, original: dict[str, Any], dtype: torch.dtype | None) -> LegionFolder:
    own_tower = folder / "vision_tower"
    tower = own_tower if own_tower.is_dir() else original["mm_vision_tower"]
    try:
        clip = CLIPVisionModel.from_pretrained(tower)
        clip_processor = CLIPImageProcessor.from_pretrained(tower)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The CLIP tower {str(tower)!r} or the tokenizer in {str(folder)!r} cannot be loaded ({error}): "
            f"save the tower in {str(own_tower)!r}."
        ) from error
    tokenizer.add_tokens(
        [AddedToken(token, lstrip=True, rstrip=True) for token in _ORIGINAL_TOKENS], special_tokens=True
    )
    state = convert_state_dict(_read_weights(folder))
    for key, tensor in clip.state_dict().items():
        state.setdefault(f"llava.model.vision_tower.{key}", tensor)
    head = state.get("prediction_head.0.weight")
    config = LegionConfig(
        llava=llava_config(original, clip.config.to_dict()),
        sam=sam_config(state),
        verdict_width=0 if head is None else head.shape[0],
        seg_token_id=tokenizer.convert_tokens_to_ids("[SEG]"),
        prompt=PROMPT,
    )
    precision = dtype or state["llava.lm_head.weight"].dtype
    model, info = LegionModel.from_pretrained(
        None, config=config, state_dict=state, dtype=precision, output_loading_info=True
    )
    check_complete(folder, info)
    side = config.sam["vision_config"]["image_size"]
    sam_processor = SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    return LegionFolder(model, tokenizer, clip_processor, sam_processor, Identity(f"legion:{folder.name}", ""))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin")):
        try:
            loaded = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            )
        except Exception as error:  # unpickling damaged bytes may raise anything
            raise WeightsError(
                f"The weight file {str(path)!r} cannot be read ({error!r}): download it again."
            ) from error
        state |= loaded
    if not state:
        raise WeightsError(f"{str(folder)!r} holds no weights (*.safetensors or *.bin): download the folder again.")
    return state
