"""LEGION as a detector: returns regions with masks and explanations for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from refiner.claims import region_of
from refiner.detectors.base import BaseDetector
from refiner.detectors.legion.decoding import Answer, Lookup
from refiner.detectors.legion.grammar import CLEAN, FLAWED, parse
from refiner.detectors.legion.loading import load_legion
from refiner.detectors.legion.modeling import LegionModel
from refiner.detectors.legion.placing import DeviceMap, Placement, is_placed
from refiner.detectors.legion.reading import Reading, pieces, read
from refiner.errors import BadAnswerError, ConfigError, UnreadableOutputError
from refiner.types import Analysis, Claim, Mask, Region, Size


class LegionDetector(BaseDetector):
    """LEGION (papers/legion.md section 4.1) of any size; a ``refiner.protocols.Detector``.

    It uses one fixed instruction and greedy decoding. All images of a batch share the prompt, so nothing is padded, and
    each answer is the same as in a separate call. A region's ``score`` is the mean mask probability inside its mask
    times the geometric mean of the probabilities of its phrase's tokens, including ``[SEG]``. The user's prompt is not
    used.

    Weights that were trained with the published code answer as they do there (``LegionConfig.published``): no answer is
    unreadable, what belongs to no mask is named in ``Analysis.tags``, and a mask without a pixel is a region whose
    place is not known. An answer that claims artifacts, but has no mask, is one such region with the answer as its
    explanation; its ``score`` is the geometric mean of the probabilities of all tokens.

    Args:
        model: the network, in eval mode.
        tokenizer: with the tokens ``<image>``, ``<p>``, ``</p>`` and ``[SEG]``.
        clip_processor: makes the input of the CLIP tower.
        sam_processor: resizes the longest side, normalises, and pads on the right and below, as SAM does.
        name: id and revision.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    batch_size = 16

    def __init__(
        self,
        model: LegionModel,
        tokenizer: PreTrainedTokenizerBase,
        clip_processor: BaseImageProcessor,
        sam_processor: BaseImageProcessor,
        *,
        name: str,
        domain: str = "",
    ) -> None:
        super().__init__(name=name, domain=domain)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.clip_processor = clip_processor
        self.sam_processor = sam_processor
        self._known = Lookup([self._ids(text) for text in (CLEAN, *model.config.examples)])

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantize: str | None = None,
        device_map: DeviceMap | None = None,
    ) -> LegionDetector:
        """Load a folder of ``save_pretrained``, or one in the layout of the public LEGION / GLaMM checkpoints.

        Args:
            folder: an existing folder. If the weights of the public layout do not hold the CLIP tower, it is loaded
                from ``vision_tower/`` in the folder if that exists, else from the hub id in the folder's config.
            device, dtype: as for ``load_detector``.
            quantize: "8bit" or "4bit": the layers of the language model in this precision, by bitsandbytes. Towers,
                projections, mask decoder and heads keep ``dtype``.
            device_map: where accelerate places the parts, such as "auto", or a dict of module name -> device; it
                replaces ``device``. All parts must be on accelerators, or all on the CPU.

        Raises:
            WeightsError: the folder is of another kind, incomplete or damaged.
            ConfigError: ``quantize`` or ``device_map`` is not one of these, or the parts do not fit on the devices.
            MissingExtraError: bitsandbytes is not installed.
        """
        held = load_legion(Path(folder), Placement.choose(device, dtype, quantize, device_map))
        return cls(held.model, held.tokenizer, held.clip_processor, held.sam_processor, **held.identity._asdict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Save weights (safetensors), config, tokenizer and both processors; ``from_pretrained`` loads them."""
        root = Path(folder)
        self.model.save_pretrained(root)
        self.tokenizer.save_pretrained(root)
        self.clip_processor.save_pretrained(root / "clip")
        self.sam_processor.save_pretrained(root / "sam")

    def to(self, device: str | torch.device) -> LegionDetector:
        """Move the network.

        Raises:
            ConfigError: it is quantised or spread over several devices, and stays where it was loaded.
        """
        if is_placed(self.model):
            if torch.device(device).type != self.model.device.type:
                raise ConfigError(
                    f"{self.name} is quantised or spread over devices, and cannot be moved to {device}: load it there."
                )
            return self
        self.model.to(device)
        return self

    @property
    def decides(self) -> bool:
        """Whether the weights have a real/fake head, so that each analysis has a ``fake_probability``."""
        return self.model.prediction_head is not None

    @torch.inference_mode()
    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        device, dtype = self.model.device, self.model.dtype
        pixels = self.clip_processor(images, return_tensors="pt")["pixel_values"].to(device, dtype)
        vision = self.model.encode_image(pixels)
        answer = self.model.answer(self.prompt_ids().to(device), vision, self._clean_ids(), self._known)
        verdict = self.model.verdict(vision)
        fake = [None] * len(images) if verdict is None else verdict.float().softmax(-1)[:, 0].tolist()
        masks = self._masks(images, answer)
        return [self._analysis(image, answer, row, masks[row], fake[row]) for row, image in enumerate(images)]

    def prompt_ids(self) -> Tensor:
        """Return the tokens of the prompt, int (L,), with one image token for each patch of the CLIP tower."""
        ids = self.tokenizer(self.model.config.prompt, return_tensors="pt")["input_ids"][0]
        llava = self.model.llava.config
        repeats = torch.where(ids == llava.image_token_index, llava.image_seq_length, 1)
        return ids.repeat_interleave(repeats)

    def _clean_ids(self) -> list[int]:
        """Return the tokens of the clean sentence, up to the first one in which the beginning of a list differs."""
        if self.model.config.clean_threshold is None:
            return []
        clean, flawed = self._ids(CLEAN), self._ids(FLAWED)
        pairs = enumerate(zip(clean, flawed, strict=False), start=1)
        return list(clean[: next((place for place, (one, other) in pairs if one != other), 0)])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _masks(self, images: Sequence[Image.Image], answer: Answer) -> list[Tensor]:
        """Compute the mask logits of each image's [SEG] tokens: float (S, H, W)."""
        marks = self._live_tokens(answer) & (answer.tokens == self.model.config.seg_token_id)
        rows, places = marks.nonzero(as_tuple=True)
        inputs = self.sam_processor(images, return_tensors="pt")
        logits = self._raw_masks(inputs["pixel_values"], rows, answer.states[rows, places])
        return [
            self.sam_processor.post_process_masks(
                [logits[rows == row, None].float()],
                inputs["original_sizes"][row : row + 1].tolist(),
                inputs["reshaped_input_sizes"][row : row + 1].tolist(),
                binarize=False,
            )[0][:, 0]
            if (rows == row).any()
            else torch.zeros(0, image.height, image.width)
            for row, image in enumerate(images)
        ]

    def _raw_masks(self, pixels: Tensor, rows: Tensor, states: Tensor) -> Tensor:
        if not len(rows):
            return torch.zeros(0, 1, 1)
        used, positions = rows.unique(return_inverse=True)
        ground = self.model.encode_ground(pixels[used.cpu()].to(self.model.device, self.model.dtype))
        return self.model.decode_masks(ground[positions.to(ground.device)], states).to(rows.device)

    def _live_tokens(self, answer: Answer) -> Tensor:
        """Mark the tokens before the end token of each row: bool (B, T)."""
        ends = answer.tokens == self.model.llava.config.text_config.eos_token_id
        return ends.int().cumsum(1) == 0

    def _analysis(self, image: Image.Image, answer: Answer, row: int, masks: Tensor, fake: float | None) -> Analysis:
        live = self._live_tokens(answer)[row]
        tokens, chances = answer.tokens[row][live], answer.chances[row][live]
        raw, (claims, tags) = self._read(tokens.tolist(), len(masks))
        is_cut = len(tokens) >= self.model.config.max_new_tokens
        size = Size(image.height, image.width)
        sure = self._phrase_chances(tokens, chances)
        painted = not self.model.config.published
        return Analysis(
            size=size,
            regions=tuple(
                _region(claim, masks[list(claim.marks)], sure[claim.marks[0]], size, painted=painted)
                if claim.marks
                else region_of(replace(claim, score=round(_mean_chance(chances), 6)), None, size)
                for claim in claims
            ),
            fake_probability=None if fake is None else round(fake, 6),
            tags=tags,
            raw=raw,
            detector=self.name,
            gaps=("cut_short",) if is_cut else (),
        )

    def _read(self, tokens: Sequence[int], masks: int) -> tuple[str, Reading]:
        """Read an answer: its text, and what it says.

        Raises:
            UnreadableOutputError: the weights were trained with refiner's grammar, which the text does not follow.
        """
        if self.model.config.published:
            answer = pieces(tokens, self.tokenizer)
            complete = len(tokens) < self.model.config.max_new_tokens
            return " ".join(piece.text for piece in answer), read(answer, complete=complete)
        raw = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        claims = parse(raw)
        if sum(len(claim.marks) for claim in claims) != masks:
            raise UnreadableOutputError(
                f"LEGION's answer {raw[:120]!r} does not have {masks} [SEG] tokens, one for each mask: "
                "use another detector for this image.",
                raw,
            )
        return raw, Reading(claims, ())

    def _phrase_chances(self, tokens: Tensor, chances: Tensor) -> list[float]:
        """Compute for each [SEG] token the geometric mean of the probabilities from its ``<p>`` to itself.

        Without a ``<p>`` after the [SEG] token before it, the mean is over all tokens since that one.
        """
        opening = self.tokenizer.convert_tokens_to_ids("<p>")
        found, start = [], 0
        for place, token in enumerate(tokens.tolist()):
            if token == opening:
                start = place
            elif token == self.model.config.seg_token_id:
                found.append(_mean_chance(chances[start : place + 1]))
                start = place + 1
        return found


def _mean_chance(chances: Tensor) -> float:
    """The geometric mean of probabilities."""
    return float(chances.log().mean().exp())


def _region(claim: Claim, logits: Tensor, chance: float, size: Size, *, painted: bool) -> Region:
    """Make a region from a claim and its mask logits, float (marks, H, W).

    The mask has the pixels with a probability above 0.5 in any of them. If there are none, ``painted`` decides: the
    mask has the pixels with at least half the maximum probability, or the place is not known. So no claim of the text
    is dropped; it only gets a low score.
    """
    highest = logits.amax(0)
    probability = highest.sigmoid().cpu().numpy()
    if np.isnan(probability).any():
        raise BadAnswerError("LEGION returned NaN as mask logits: load the detector in float32 or bfloat16.")
    mask: Mask = probability > 0.5 if painted else (highest > 0).cpu().numpy()
    inside = mask if mask.any() else probability >= probability.max() / 2
    score = round(float(np.clip(probability[inside].mean() * chance, 0.0, 1.0)), 6)
    return region_of(replace(claim, score=score), inside if painted or mask.any() else None, size)
