"""Folders with claims about images, as ``refiner detect`` and ``refiner evaluate`` write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refiner.data.pictures import Pictures
from refiner.data.problems import Problem
from refiner.data.sources import open_data
from refiner.errors import RefinerError
from refiner.evaluate.detecting import TASK, Detecting, located
from refiner.evaluate.harness import collect, describe, work
from refiner.evaluate.systems import Looker
from refiner.masks import box_of
from refiner.records import picture_digest
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size
from refiner.verify.sources import open_looks
from refiner.verify.verification import Verification, open_verification

SIZE = Size(40, 60)
CATEGORIES = list(Category)


def picture(seed: int, size: Size = SIZE) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def claimed(number: int, words: str = "") -> Region:
    """The claim of a number: with a mask, with a box, or without a place."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[3 + number % 5 : 20, 4 : 20 + number % 7] = True
    mask[3, 4] = False
    place = {0: {"mask": mask, "box": box_of(mask)}, 1: {"mask": None, "box": (2, 3, 30, 20)}}
    return Region(
        **place.get(number % 3, {"mask": None, "box": None}),
        name=f"the part {number}{words}",
        explanation=f"it is odd in way {number}{words}",
        reasoning=f"it should be even{words}",
        category=CATEGORIES[number % len(CATEGORIES)],
        severity=round(0.1 * (1 + number % 9), 1),
        score=0.5,
    )


def analysed(*regions: Region, detector: str = "critic 1") -> Analysis:
    return Analysis(size=SIZE, regions=regions, detector=detector)


def detected(root: Path, claims: Sequence[Sequence[Region] | RefinerError], detector: str = "critic 1") -> Path:
    """A folder of ``refiner detect`` for images in ``root/images``."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "found").mkdir()
    files, answers = [], {}
    for number, found in enumerate(claims):
        files.append(str(root / "images" / f"{number:03d}.png"))
        picture(number).save(files[-1])
        answers[picture_digest(picture(number))] = found

    def look(image: Image.Image) -> Analysis:
        found = answers[picture_digest(image)]
        if isinstance(found, RefinerError):
            raise found
        return analysed(*found, detector=detector)

    images, system = Pictures(tuple(files), (None,) * len(files)), Detecting(look, batch_size=1)
    description = describe(TASK, images, {"specification": "files"}, system, {})
    collect(images, system, description, root / "found", engine=located(work, root / "found", None))
    return root / "found"


def evaluated(data: str, folder: Path) -> Path:
    """A folder of ``refiner evaluate`` whose detector finds the claims 0 and 1 in each image."""

    def look(image: Image.Image) -> Analysis:
        box = (1, 1, image.width // 2, image.height // 2)
        regions = [Region(mask=None, box=box, name=f"part {at}", category=CATEGORIES[at]) for at in range(2)]
        return Analysis(size=Size(image.height, image.width), regions=tuple(regions), detector="critic 2")

    samples, system = open_data(data), Looker(detector=look)
    source = {"specification": data, "prompts": None, "references": None, "limit": None}
    collect(samples, system, describe("realism", samples, source, system, {}), folder)
    return folder


def opened(
    specification: str | Path, folder: Path, problems: list[Problem] | None = None, *, references: str | None = None
) -> Verification:
    """The candidates of a source, with judgements in ``folder``."""
    source = open_looks(str(specification), references=references)
    folder.mkdir(parents=True, exist_ok=True)
    return open_verification(source, folder, [] if problems is None else problems, range(len(source)))
