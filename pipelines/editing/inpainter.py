"""Inpainters that are told what to change, instead of what the region shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from refiner.pipelines.config import RefineConfig
from refiner.pipelines.painting.crops import CropInpainter
from refiner.protocols import InpaintJob


class InstructedInpainter:
    """Passes each job's instruction on as its prompt, with the user's negative prompt.

    The instruction is about the region, so that a crop around it is enough, unless the user wants the whole image.

    Args:
        inner: inpaints with an edit model.
        config: settings of the run.
    """

    def __init__(self, inner: CropInpainter, config: RefineConfig) -> None:
        self._inner, self._config = inner, config

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        """See ``CropInpainter.inpaint``."""
        return self._inner.inpaint([self._instructed(job) for job in jobs])

    def remarks(self) -> list[str]:
        """See ``CropInpainter.remarks``."""
        return self._inner.remarks()

    def _instructed(self, job: InpaintJob) -> InpaintJob:
        return replace(
            job,
            prompt=job.instruction or job.prompt,
            negative_prompt=self._config.negative_prompt,
            texts={},
            whole=self._config.whole_image,
        )
