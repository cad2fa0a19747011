"""What a dry run shows of the first batch of a training: images with their regions, and answers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from refiner.files import atomic_write_all, dumps
from refiner.images import png_bytes
from refiner.reports.overlays import overlay
from refiner.types import Analysis, Region, Size

SHOWN = 8  # most images of the first batch that are written


class Shown(NamedTuple):
    """One image of the first batch."""

    name: str
    image: Image.Image
    answer: str
    regions: tuple[Region, ...]


def write_first_batch(items: Sequence[Shown], folder: Path) -> list[str]:
    """Write each of the first ``SHOWN`` images with its regions, numbered as in its answer, and all answers as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = items[:SHOWN]
    files = {f"{number:02d}.png": png_bytes(_marked(item)) for number, item in enumerate(shown)}
    answers = [{"name": item.name, "answer": item.answer} for item in shown]
    files["answers.json"] = (dumps(answers) + "\n").encode("utf-8")
    return [str(path) for path in atomic_write_all(folder, files).values()]


def _marked(item: Shown) -> Image.Image:
    size = Size(item.image.height, item.image.width)
    return overlay(item.image, Analysis(size=size, regions=item.regions, detector="truth"))
