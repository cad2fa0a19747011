"""Pictures that a pipeline's safety checker blacked out are failures, with their reason, and no pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from refiner.errors import BadImageError
from refiner.protocols import Generator, PaintJob
from refiner.types import Calls


class SafetyChecked:
    """A generator whose pipeline has a safety checker; satisfies ``refiner.protocols.Generator``."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        """The generator's pictures.

        Raises:
            BadImageError: one of them is black all over.
        """
        pictures = self._generator.generate(jobs)
        if not all(picture.getbbox() for picture in pictures):
            raise BadImageError(
                "Expected a picture from the generator, got black: its safety checker blocked it; another seed or "
                "prompt may pass."
            )
        return pictures

    def spent(self) -> Calls:
        """Network work since construction."""
        return self._generator.spent()
