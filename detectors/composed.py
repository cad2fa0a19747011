"""Detectors that are made of other detectors: what they do with their parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from PIL import Image

from refiner.answers import outcomes, value_of
from refiner.errors import RefinerError
from refiner.ledger import Ledger, ledgers_of
from refiner.protocols import Borrower, Concurrent, Detector, Movable, Spender
from refiner.types import Analysis, Calls

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class ComposedDetector(ABC):
    """Base class of detectors that ask other detectors. It passes on what concerns each of them.

    If a part fails on an image, so does this detector, and the parts after it are not asked about that image.
    """

    @property
    @abstractmethod
    def parts(self) -> Sequence[Detector]:
        """The detectors that it asks, in this order."""

    @abstractmethod
    def _combined(self, found: Sequence[Analysis]) -> Analysis:
        """The analysis of an image, given those of the parts."""

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Find the flaws in one RGB image.

        Raises:
            RefinerError: a part failed, or its answer cannot be used.
        """
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse several images; the results are the same as with one call for each image.

        Raises:
            RefinerError: the error of the first image that failed, as for one image.
        """
        return [value_of(outcome) for outcome in self.outcomes(images, prompts)]

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """Like ``batch``, but with the error of each image that failed instead of its analysis."""
        found: list[list[Analysis]] = [[] for _ in images]
        failed: dict[int, RefinerError] = {}
        for part in self.parts:
            left = [place for place in range(len(images)) if place not in failed]
            if not left:
                break
            own = None if prompts is None else [prompts[place] for place in left]
            for place, outcome in zip(left, outcomes(part, [images[place] for place in left], own), strict=True):
                if isinstance(outcome, RefinerError):
                    failed[place] = outcome
                else:
                    found[place].append(outcome)
        return [failed[place] if place in failed else self._outcome(own) for place, own in enumerate(found)]

    def _outcome(self, found: Sequence[Analysis]) -> Analysis | RefinerError:
        try:
            return self._combined(found)
        except RefinerError as error:
            return error

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of all parts, by model."""
        return ledgers_of(self.parts)

    @property
    def concurrency(self) -> int:
        """That of the part with the lowest."""
        return min(part.concurrency if isinstance(part, Concurrent) else 1 for part in self.parts)

    def bind(self, pipe: DiffusionPipeline) -> None:
        """Give the generating pipeline to the parts that use its denoiser.

        Raises:
            ConfigError: one of them cannot use this pipeline.
        """
        for part in self.parts:
            if isinstance(part, Borrower):
                part.bind(pipe)

    def to(self, device: str | torch.device) -> Self:
        """Move the parts that can be moved."""
        for part in self.parts:
            if isinstance(part, Movable):
                part.to(device)
        return self

    def spent(self) -> Calls:
        """Denoiser rows (images times denoiser passes) of all parts so far."""
        return sum((part.spent() for part in self.parts if isinstance(part, Spender)), Calls())
