"""Boxes for words: open-vocabulary detectors of transformers (GroundingDINO, MM-GroundingDINO, OWL-ViT, OWLv2).

GroundingDINO reads one lower-case text with a full stop after each phrase. A box's score for a phrase is the maximum
over the tokens of this phrase, so that phrases do not mix. OWL reads each phrase separately.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import nms
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from refiner.detectors.base import chunks, load_folder, placement
from refiner.detectors.grounding.base import thickened
from refiner.errors import BadAnswerError, ConfigError, InputError, WeightsError
from refiner.hub import resolve
from refiner.masks import clip_box
from refiner.types import Box, Size

_Floats = NDArray[np.float64]
_Found = Iterator[tuple[str, _Floats, _Floats]]

THRESHOLDS: Mapping[str, float] = {"grounding-dino": 0.25, "mm-grounding-dino": 0.25, "owlvit": 0.1, "owlv2": 0.1}
"""``model_type`` in a folder's ``config.json`` -> minimum score of a box (the defaults of transformers)."""
LONGEST = 100
"""Characters of a phrase that are read."""
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt")
_AT_ONCE = 32
"""Number of phrases in one call of OWL."""
_THINNEST = 8
"""Largest ratio of an image's sides that needs no padding."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """One place where a phrase was found."""

    phrase: str
    """As given by the caller."""
    box: Box
    score: float
    """The model's confidence, in [0, 1]."""


@runtime_checkable
class Locator(Protocol):
    """Finds the things that phrases name."""

    @property
    def name(self) -> str: ...

    def locate(self, image: Image.Image, phrases: Sequence[str]) -> list[Located]:
        """Return the places of the phrases, best first; phrases without a letter or digit have none."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocateConfig:
    """Which boxes are kept."""

    threshold: float | None = None
    """Minimum score, in [0, 1]; None selects the default of the model type (``THRESHOLDS``)."""
    overlap: float = 0.5
    """Maximum IoU, in [0, 1], of a box with a better box of the same phrase; boxes above it are dropped."""
    limit: int = 20
    """Maximum number of boxes in an image."""

    def __post_init__(self) -> None:
        for name, value in (("threshold", self.threshold), ("overlap", self.overlap)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"LocateConfig.{name} must lie in [0, 1], got {value!r}.")
        if self.limit < 1:
            raise ConfigError(f"LocateConfig.limit must be at least 1, got {self.limit!r}.")


def clean_phrase(phrase: str) -> str:
    """Convert a text to a plain lower-case phrase of letters, digits, hyphens and apostrophes of any script.

    All other characters become spaces: full stops and question marks end a phrase in GroundingDINO, and brackets can
    form special tokens of a tokenizer.
    """
    text = unicodedata.normalize("NFKC", phrase[: 4 * LONGEST]).lower()
    words = " ".join(re.sub(r"[^\w'-]|_", " ", text).split())[:LONGEST].strip(" '-")
    return words if any(letter.isalnum() for letter in words) else ""


class TextLocator:
    """An open-vocabulary detector; a ``Locator``.

    Args:
        model: of one of the types in ``THRESHOLDS``, in eval mode.
        processor: of the model.
        name: id and revision.
        config: which boxes are kept.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, config: LocateConfig | None = None) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.config = config or LocateConfig()
        self._kind = str(model.config.model_type)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        config: LocateConfig | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> TextLocator:
        """Load a folder or hub id.

        Args:
            model: a transformers folder, or a hub id with an optional ``@revision``.
            config: which boxes are kept.
            device, dtype: as for ``load_detector``.

        Raises:
            ModelNotFoundError: there is no such folder or hub model.
            WeightsError: the model is damaged, incomplete or of another kind.
        """
        place, wanted = placement(device, dtype)
        folder = resolve(model, "detector")
        network, processor, kind = load_folder(
            folder, AutoModelForZeroShotObjectDetection, AutoProcessor, THRESHOLDS, wanted
        )
        if not any((folder / file).is_file() for file in _TOKENIZERS):  # transformers would make an empty one
            raise WeightsError(
                f"{str(folder)!r} holds no tokenizer ({', '.join(_TOKENIZERS)}): download the folder again."
            )
        return cls(network.to(place), processor, name=f"{kind}:{Path(model).name}", config=config)

    def to(self, device: str | torch.device) -> TextLocator:
        """Move the network."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def locate(self, image: Image.Image, phrases: Sequence[str]) -> list[Located]:
        """Find the phrases in an image; returns at most ``config.limit`` places, best first.

        Args:
            image: any mode; converted to RGB.
            phrases: texts, cleaned by ``clean_phrase``. Phrases that are equal after this are searched once, under the
                first of them. Phrases that are empty after this give no place.

        Raises:
            InputError: a phrase is not a text.
            BadAnswerError: the model's scores or boxes are not finite.
        """
        if isinstance(phrases, str) or not all(isinstance(phrase, str) for phrase in phrases):
            raise InputError(f"Expected a list of phrases, got {phrases!r:.120}: pass a list of texts.")
        asked: dict[str, str] = {}
        for phrase in phrases:
            if words := clean_phrase(phrase):
                asked.setdefault(words, phrase)
        picture = thickened(image.convert("RGB"), _THINNEST)
        find = self._find_apart if self._kind.startswith("owl") else self._find_together
        found: list[Located] = []
        for words, scores, boxes in find(picture, list(asked)):
            found += self._kept(asked[words], scores, boxes, Size(image.height, image.width))
        return sorted(found, key=lambda place: -place.score)[: self.config.limit]

    def _find_together(self, image: Image.Image, phrases: Sequence[str]) -> _Found:
        """Run GroundingDINO; yields for each phrase the scores (Q,) of all queries, and the boxes (Q, 4) in pixels."""
        sides = np.array([image.width, image.height, image.width, image.height])
        room = self.model.config.max_text_len
        for group in self._groups(phrases, room):
            text = " ".join(f"{words}." for words in group)
            inputs = self.processor(images=image, text=text, return_tensors="pt", truncation=True, max_length=room)
            scores, boxes = self._answer(inputs)
            places = self.processor.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=room)
            starts = np.array([start if end > start else -1 for start, end in places["offset_mapping"]])
            begin = 0
            for words in group:
                own = np.flatnonzero((starts >= begin) & (starts < begin + len(words)))
                begin += len(words) + 2
                if len(own):
                    yield words, scores[:, own].max(1), boxes * sides

    def _groups(self, phrases: Sequence[str], room: int) -> Iterator[list[str]]:
        """Group the phrases that fit into one text of ``room`` tokens, including its two end tokens."""
        group: list[str] = []
        used = 2
        for words in phrases:
            tokens = len(self.processor.tokenizer(f"{words}.", add_special_tokens=False)["input_ids"])
            if group and used + tokens > room:
                yield group
                group, used = [], 2
            group.append(words)
            used += tokens
        if group:
            yield group

    def _find_apart(self, image: Image.Image, phrases: Sequence[str]) -> _Found:
        """Run OWL; yields for each phrase the scores (Q,) of all queries, and the boxes (Q, 4) in pixels.

        The boxes of OWLv2 are shares of the padded, square image, those of OWL-ViT shares of the image itself.
        """
        longest = max(image.size)
        sides = [longest] * 4 if self._kind == "owlv2" else [image.width, image.height] * 2
        room = self.model.config.text_config.max_position_embeddings
        for group in chunks(list(phrases), _AT_ONCE):
            inputs = self.processor(images=image, text=[group], return_tensors="pt", truncation=True, max_length=room)
            scores, boxes = self._answer(inputs)
            for column, words in enumerate(group):
                yield words, scores[:, column], boxes * np.array(sides)

    def _answer(self, inputs: Mapping[str, Tensor]) -> tuple[_Floats, _Floats]:
        """Return the scores (Q, T) of queries for tokens or phrases, and boxes (Q, 4) as shares (x0, y0, x1, y1)."""
        inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        output = self.model(**inputs)
        scores = output.logits[0].double().sigmoid().cpu().numpy()
        x, y, width, height = output.pred_boxes[0].double().cpu().numpy().T
        boxes = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise BadAnswerError(
                f"{self.name} returned NaN or infinite scores or boxes: check its weights, or load it in float32."
            )
        return scores, boxes

    def _kept(self, phrase: str, scores: _Floats, boxes: _Floats, size: Size) -> Iterator[Located]:
        """Return the best boxes of one phrase, after the threshold and the suppression of overlapping boxes."""
        threshold = THRESHOLDS[self._kind] if self.config.threshold is None else self.config.threshold
        likely = np.flatnonzero(scores >= threshold)
        best = nms(torch.from_numpy(boxes[likely]), torch.from_numpy(scores[likely]), self.config.overlap)
        placed = ((clip_box(boxes[index], size), float(scores[index])) for index in likely[best.numpy()])
        found = (Located(phrase=phrase, box=box, score=score) for box, score in placed if box is not None)
        return islice(found, self.config.limit)
