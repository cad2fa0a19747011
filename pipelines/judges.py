"""Who else may say that a picture is better: CLIP similarity, HPS, the burden that another detector sees, or several.

A judge is anything with ``score(images, prompts)``. Of several a picture must be worse under none and better under
one, or under the detector: no weights between scores of different units are needed, and each of them has a veto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from PIL import Image

from refiner.detectors.base import load_folder, one_for_each, placement
from refiner.errors import ConfigError, ModelError
from refiner.hub import resolve
from refiner.protocols import Detector, Judge, Movable

if TYPE_CHECKING:
    import torch

_PROMPTS = 256
"""Prompts whose features are remembered."""


class BurdenJudge:
    """What a detector sees, as a score: minus the burden. Meant for another detector than the one that guides repair.

    Args:
        detector: any; its ``UnreadableOutputError`` passes through.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    @property
    def name(self) -> str:
        """Says which detector."""
        return f"burden:{self.detector.name}"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Minus the sum of severity x confidence of what is wrong; 0 is the best."""
        return [-analysis.burden for analysis in self.detector.batch(images, prompts)]

    def to(self, device: str | torch.device) -> BurdenJudge:
        """Move the detector where it can be moved."""
        if isinstance(self.detector, Movable):
            self.detector.to(device)
        return self


class ClipJudge:
    """How well a picture fits its prompt: the cosine of CLIP's features (Radford et al., arXiv 2103.00020).

    Pictures are scaled and cropped as the model's own processor does, which by default leaves out what a picture is
    longer than wide, or wider than long. Of a prompt the model's first tokens count, 77 for the published weights.

    Args:
        model: transformers' ``CLIPModel``; it is set to evaluation.
        processor: its own.
        name: id and revision.
        batch_size: pictures per forward pass.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, batch_size: int = 16) -> None:
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self._name = name
        self._texts: LRUCache[str, torch.Tensor] = LRUCache(_PROMPTS)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> ClipJudge:
        """Load a folder or hub id.

        Args:
            model: a transformers folder of a CLIP, or a hub id with an optional ``@revision``.
            device: None takes CUDA where there is one.
            dtype: None takes float32.

        Raises:
            ModelNotFoundError: there is no such folder or hub model.
            WeightsError: it is damaged, incomplete or of another kind.
        """
        import torch
        from transformers import CLIPModel, CLIPProcessor

        folder = resolve(model, "judge")
        network, processor, _ = load_folder(folder, CLIPModel, CLIPProcessor, ("clip",), dtype or torch.float32)
        place, _ = placement(device)
        return cls(network.to(place), processor, name=Path(model).name)

    @property
    def name(self) -> str:
        """Id and revision."""
        return f"clip:{self._name}"

    @property
    def signature(self) -> str:
        """All that the scores depend on; scores of different signatures do not compare."""
        config = self.model.config
        facts = {
            "model": self._name,
            "size": config.vision_config.image_size,
            "tokens": config.text_config.max_position_embeddings,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "score": "cosine",
        }
        return "|".join(["clip", *(f"{name}:{value}" for name, value in facts.items())])

    def to(self, device: str | torch.device) -> ClipJudge:
        """Move the network."""
        self.model.to(device)
        self._texts.clear()
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Cosine of each picture with its prompt, in [-1, 1]; higher is better. Each prompt is encoded once.

        Raises:
            ConfigError: not as many prompts as images.
            ModelError: the network gave no finite score.
        """
        import torch

        one_for_each(images, prompts)
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                texts = torch.stack([self._text(text) for text in prompts[start : start + self.batch_size]])
                pictures = self._pictures(images[start : start + self.batch_size])
                scores += (pictures * texts).sum(dim=1).tolist()
        if not all(map(math.isfinite, scores)):
            raise ModelError(f"Expected finite scores of {self.name}, got NaN: check its weights and dtype.")
        return scores

    def _pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit features (N, D), float32."""
        pixels = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        seen = self.model.vision_model(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return _unit(self.model.visual_projection(seen.pooler_output))

    def _text(self, prompt: str) -> torch.Tensor:
        """Unit features (D,), float32; each prompt goes through alone, so that none depends on its neighbours."""
        if prompt not in self._texts:
            room = self.model.config.text_config.max_position_embeddings
            tokens = self.processor(text=[prompt], return_tensors="pt", truncation=True, max_length=room)
            read = self.model.text_model(input_ids=tokens.input_ids.to(self.model.device))
            self._texts[prompt] = _unit(self.model.text_projection(read.pooler_output))[0]
        return self._texts[prompt]


def _unit(features: torch.Tensor) -> torch.Tensor:
    wide = features.float()
    return wide / wide.norm(dim=-1, keepdim=True)


class JointJudge:
    """Several judges, of which none may see a worse picture.

    The loop asks each of them. Where one number is wanted it is that of the first.

    Raises:
        ConfigError: there is none.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        if not judges:
            raise ConfigError("Expected at least one judge, got none: pass None for no judge.")
        self.judges = tuple(judges)

    @property
    def name(self) -> str:
        """The names of all."""
        return " & ".join(judge.name for judge in self.judges)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """The first judge's scores."""
        return self.judges[0].score(images, prompts)


def load_judge(judge: str | Path, device: str | torch.device | None = None) -> Judge:
    """Load a judge by its id.

    Args:
        judge: ``clip:<folder or hub id>``, ``burden:<id of a detector>``, or for HPS ``hps:<...>``, ``micro``, or what
            else ``HPSScorer.from_pretrained`` reads.
        device: None takes CUDA where there is one.

    Raises:
        ModelNotFoundError: there is no such model.
        WeightsError: its weights are damaged or of another kind.
    """
    kind, colon, rest = str(judge).partition(":")
    if colon and kind == "clip":
        return ClipJudge.from_pretrained(rest, device=device)
    if colon and kind == "burden":
        from refiner.detectors import load_detector

        return BurdenJudge(load_detector(rest, device=device))
    from refiner.metrics.hps.scorer import HPSScorer

    scorer: Judge = HPSScorer.from_pretrained(rest if colon and kind == "hps" else judge, device=device)
    return scorer


def judges_of(judge: Judge | None) -> tuple[Judge, ...]:
    """One judge, several or none, as a tuple."""
    if judge is None:
        return ()
    return judge.judges if isinstance(judge, JointJudge) else (judge,)
