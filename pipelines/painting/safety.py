"""Images that a pipeline's safety checker blacked out become errors."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from refiner.errors import BadImageError
from refiner.protocols import Generator, PaintJob
from refiner.types import Calls


class SafetyChecked:
    """Wraps a generator whose pipeline has a safety checker; satisfies ``refiner.protocols.Generator``."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        """Return the generator's images.

        Raises:
            BadImageError: an image is completely black.
        """
        pictures = self._generator.generate(jobs)
        if not all(picture.getbbox() for picture in pictures):
            raise BadImageError(
                "The generated image is black, because the safety checker blocked it: use another seed or prompt."
            )
        return pictures

    def spent(self) -> Calls:
        """Return the network calls since construction."""
        return self._generator.spent()
