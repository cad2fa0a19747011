"""Folders in the layout of the public LEGION / GLaMM checkpoints: their tokenizer, processors, config and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    SamImageProcessorPil,
)

from refiner.detectors.base import first_line, read_config
from refiner.detectors.legion.conversion import (
    EMBEDDING,
    HEAD,
    PROMPT,
    TOWER,
    convert_weight,
    llava_config,
    sam_config,
    tower_config,
)
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.detectors.legion.reading import SPECIAL
from refiner.detectors.legion.weights import WeightFiles
from refiner.errors import WeightsError

_IMAGE = "<image>"


class PublishedFolder:
    """A folder in the layout of the public checkpoints; its weights are read when ``each`` yields them.

    The CLIP tower is among the weights (as a run of the second training stage saves it), in ``vision_tower/`` in the
    folder, or else at the hub id in the folder's config.

    Args:
        folder: an existing folder.

    Raises:
        WeightsError: it is incomplete or damaged, or its parts do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._flat = read_config(folder)
        self._files = WeightFiles(folder)
        self.dtype = torch.float32
        """Of the weights; that of ``lm_head``."""
        shapes = self._shapes()
        self._tower: Mapping[str, Tensor] = {}
        if not any(name.startswith(TOWER) for name in shapes):
            self._tower = self._read_tower()
            shapes |= {name: weight.to("meta") for name, weight in self._tower.items()}
        self.tokenizer = self._read_tokenizer()
        self.config = self._config(shapes)
        self._check(shapes)

    def each(self) -> Iterator[dict[str, Tensor]]:
        """Yield the weights with refiner's names, one file after the other."""
        for weights in self._files.each():
            yield {
                name: weight for key, tensor in weights.items() for name, weight in convert_weight(key, tensor).items()
            }
        yield dict(self._tower)

    @cached_property
    def clip_processor(self) -> CLIPImageProcessorPil:
        """The processor of the CLIP tower, by Pillow as in the published code."""
        place, side = self._tower_place, self.config.llava["vision_config"]["image_size"]
        if not self._tower and not (self.folder / "vision_tower" / "preprocessor_config.json").is_file():
            return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        try:
            return CLIPImageProcessorPil.from_pretrained(place)
        except (OSError, ValueError) as error:
            raise self._no_tower(error) from error

    @cached_property
    def sam_processor(self) -> SamImageProcessorPil:
        """The processor of SAM's encoder, by Pillow as in the published code."""
        side = self.config.sam["vision_config"]["image_size"]
        return SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})

    def _shapes(self) -> dict[str, Tensor]:
        """Return the names and shapes of all weights in the files, as tensors without data."""
        shapes: dict[str, Tensor] = {}
        for weights in self._files.each():
            for key, tensor in weights.items():
                if "lora_" in key or key.startswith("base_model."):
                    raise WeightsError(
                        f"The weights in {str(self.folder)!r} hold LoRA adapters that are not merged ({key!r}): merge "
                        "them with merge_and_unload of peft, and save the merged model."
                    )
                shapes |= convert_weight(key, tensor.to("meta"))
                if key == "lm_head.weight":
                    self.dtype = tensor.dtype
        return shapes

    @property
    def _tower_place(self) -> str | Path:
        own = self.folder / "vision_tower"
        return own if own.is_dir() else self._flat["mm_vision_tower"]

    def _read_tower(self) -> dict[str, Tensor]:
        try:
            tower = CLIPVisionModel.from_pretrained(self._tower_place)
        except Exception as error:  # damaged weights and settings may raise anything
            raise self._no_tower(error) from error
        self._vision = tower.config.to_dict()
        return {f"{TOWER}{key}": weight for key, weight in tower.state_dict().items()}

    def _no_tower(self, error: Exception) -> WeightsError:
        return WeightsError(
            f"The CLIP tower {str(self._tower_place)!r} of {str(self.folder)!r} cannot be loaded "
            f"({first_line(error)}): save it in {str(self.folder / 'vision_tower')!r}."
        )

    def _read_tokenizer(self) -> PreTrainedTokenizerBase:
        path = self.folder / "tokenizer.model"
        if not path.is_file():
            raise WeightsError(f"The tokenizer {str(path)!r} is missing: download it again.")
        try:
            tokenizer = LlamaTokenizer.from_pretrained(self.folder)
            tokenizer.add_tokens(
                [AddedToken(token, lstrip=True, rstrip=False) for token in (*SPECIAL, _IMAGE)], special_tokens=True
            )
        except Exception as error:  # a damaged sentencepiece model may raise anything
            raise WeightsError(
                f"The tokenizer {str(path)!r} cannot be read ({first_line(error)}): download it again."
            ) from error
        return tokenizer

    def _config(self, shapes: Mapping[str, Tensor]) -> LegionConfig:
        head = shapes.get("prediction_head.0.weight")
        try:
            inside = self.folder / "vision_tower" / "config.json"
            if not self._tower and inside.is_file():
                self._vision = CLIPVisionConfig.from_pretrained(inside.parent).to_dict()
            elif not self._tower:
                self._vision = tower_config(shapes)
            return LegionConfig(
                llava=llava_config(self._flat, self._vision),
                sam=sam_config(shapes),
                verdict_width=0 if head is None else head.shape[0],
                seg_token_id=self.tokenizer.convert_tokens_to_ids("[SEG]"),
                prompt=PROMPT,
                clean_threshold=None,
                published=True,
            )
        except KeyError as error:
            raise WeightsError(
                f"The folder {str(self.folder)!r} lacks {error} among its weights and settings: download it again."
            ) from error
        except Exception as error:  # settings of a wrong type may raise anything
            raise WeightsError(
                f"The weights and settings of {str(self.folder)!r} do not fit together ({first_line(error)}): "
                "download the folder again."
            ) from error

    def _check(self, shapes: Mapping[str, Tensor]) -> None:
        """Check that the tokens have their rows, and that the network has these weights, in these shapes."""
        words, image = self._flat["vocab_size"], self.tokenizer.convert_tokens_to_ids(_IMAGE)
        rows = {name: shapes[name].shape[0] - 1 for name in (EMBEDDING, HEAD) if name in shapes}
        if image != words:
            raise WeightsError(
                f"The config of {str(self.folder)!r} has a vocab_size of {words}, but its tokenizer has {image} "
                f"tokens, so that no id is left for the image: correct vocab_size to {image}, and cut the rows of "
                "embed_tokens and lm_head to as many."
            )
        if any(count != words for count in rows.values()):
            raise WeightsError(
                f"The config of {str(self.folder)!r} has a vocab_size of {words}, but its weights have "
                f"{' and '.join(map(str, rows.values()))} rows: download the folder again."
            )
        try:
            with torch.device("meta"):
                wanted = {name: weight.shape for name, weight in LegionModel(self.config).state_dict().items()}
        except Exception as error:  # settings of a wrong type may raise anything
            raise WeightsError(
                f"The settings of {str(self.folder)!r} make no network ({first_line(error)}): download it again."
            ) from error
        problems = [
            *(f"{name} is missing" for name in sorted(wanted.keys() - shapes.keys())),
            *(f"{name} is not part of it" for name in sorted(shapes.keys() - wanted.keys())),
            *(
                f"{name} has the shape {tuple(shapes[name].shape)} instead of {tuple(shape)}"
                for name, shape in sorted(wanted.items())
                if name in shapes and shapes[name].shape != shape
            ),
        ]
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            raise WeightsError(
                f"The weights in {str(self.folder)!r} do not fit LEGION's network ({problems[0]}{more}): download them "
                "again."
            )


def check_merged(folder: Path) -> None:
    """Raise ``WeightsError`` for a folder that training left behind and that must be converted before it is loaded."""
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"{str(folder)!r} holds a PEFT adapter without its model: load both with peft, call merge_and_unload, and "
            "save the merged model."
        )
    shards = any(folder.glob("global_step*")) or (folder / "zero_to_fp32.py").is_file()
    if shards and not any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("model*.safetensors")):
        raise WeightsError(
            f"{str(folder)!r} holds a DeepSpeed checkpoint, split over processes: run python zero_to_fp32.py . "
            "pytorch_model.bin in it, merge the LoRA adapters with merge_and_unload of peft, and save the merged model."
        )
