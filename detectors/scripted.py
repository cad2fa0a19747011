"""A detector that returns prepared answers, for tests of code that uses detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from refiner.errors import ConfigError
from refiner.types import Analysis

Answer = Analysis | Exception


class ScriptedDetector:
    """Returns the answers of a list in order, or those of a function of the image. An exception is raised instead.

    Args:
        answers: one answer for each image, or a function that makes the answer from the image.
        name: of the detector.

    Raises:
        ConfigError: (when called) no answer is left.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[Image.Image], Answer], name: str = "scripted") -> None:
        self._answer = answers if callable(answers) else _reader(answers)
        self.name = name
        self.seen: list[Image.Image] = []
        """All images that it was called with."""

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Return or raise the next answer."""
        self.seen.append(image)
        answer = self._answer(image)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Return the next answers, one for each image."""
        return [self(image) for image in images]


def _reader(answers: Iterable[Answer]) -> Callable[[Image.Image], Answer]:
    left = iter(answers)

    def read(_image: Image.Image) -> Answer:
        try:
            return next(left)
        except StopIteration:
            raise ConfigError("The script of the detector has no answer left: add one for each image.") from None

    return read
