"""A detector that says what it is told to: for tests of anything that works with detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from PIL import Image

from refiner.errors import ConfigError
from refiner.types import Analysis

Answer = Analysis | Exception


class ScriptedDetector:
    """Answers from a list, in order, or from a function of the image; an answer that is an exception is raised.

    Args:
        answers: one answer for each image to come, or a function that makes the answer.
        name: what it calls itself.

    Raises:
        ConfigError: (when called) the list is used up.
    """

    def __init__(self, answers: Iterable[Answer] | Callable[[Image.Image], Answer], name: str = "scripted") -> None:
        self._answer = answers if callable(answers) else _reader(answers)
        self._name = name
        self.seen: list[Image.Image] = []
        """Every image it was asked about."""

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self._name

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """The next answer."""
        self.seen.append(image)
        answer = self._answer(image)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """The next answers, one for each image."""
        return [self(image) for image in images]


def _reader(answers: Iterable[Answer]) -> Callable[[Image.Image], Answer]:
    left = iter(answers)

    def read(_image: Image.Image) -> Answer:
        try:
            return next(left)
        except StopIteration:
            raise ConfigError("Expected an answer for every image, but the script is used up: add more.") from None

    return read
