"""Count the rows that go through denoisers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from refiner.pipelines.painting.borrowing import before_passes
from refiner.pipelines.painting.families import denoiser_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass
class Tally:
    """A count of denoiser rows (images times denoiser passes, guidance counted)."""

    rows: int = 0

    def on(self, pipe: DiffusionPipeline) -> AbstractContextManager[None]:
        """Count the rows that go through the denoiser of a pipeline."""

        def count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            rows = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
            self.rows += len(rows)

        return before_passes(denoiser_of(pipe), count)
