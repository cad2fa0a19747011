"""Texts that are one token each in the bundled model: its question, and what all of its answers share."""

from __future__ import annotations

from PIL import Image

from refiner.detectors.fakexplain.grammar import DIALECTS, NO_TAG, NOTHING
from refiner.detectors.fakexplain.question import asking
from refiner.detectors.reading.boxes import BoxFormat
from refiner.micro.world import SIZE

FORM = BoxFormat()  # how Qwen3-VL writes boxes


def tokens() -> tuple[str, ...]:
    """All texts. The question is the one about an image of 96 x 96 pixels, in the dialect ``paper``."""
    dialect = DIALECTS["paper"]
    question = asking(Image.new("RGB", (SIZE, SIZE)), dialect, FORM).user
    frame = ("<think>\n", "\n</think>\n<tag>", "</tag>\n<verdict>", "</verdict>")
    return (question, *frame, "- ", "\n- ", ": ", " [", ", ", NOTHING, NO_TAG, dialect.fake, "real")
