"""Detectors that are made of other detectors: what they do with their parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from refiner.protocols import Borrower, Concurrent, Detector, Movable, Spender
from refiner.types import Calls

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class ComposedDetector(ABC):
    """Base class of detectors that ask other detectors. It passes on what concerns each of them."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Detector]:
        """The detectors that it asks."""

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
