"""Texts that are one token each in the bundled model: its question, and what its answers share."""

from __future__ import annotations

from PIL import Image

from refiner.detectors.aligngemini.grammar import BULLET, FAKE, REAL
from refiner.detectors.aligngemini.question import asking
from refiner.detectors.reading.boxes import BoxFormat
from refiner.micro.world import SIZE

FORM = BoxFormat()  # how Qwen3-VL writes boxes


def tokens() -> tuple[str, ...]:
    """All texts. The question is the one about an image of 96 x 96 pixels."""
    question = asking(Image.new("RGB", (SIZE, SIZE)), FORM).user
    return (question, FAKE, REAL, BULLET, ": ", " [", ", ", "]")
