"""Images of the micro world with injected flaws, in the layout of SynthScars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from refiner.micro.flaws import FlawedPicture, inject
from refiner.micro.world import sample_scene
from refiner.types import Mask, Region

CONTENT = {
    "hand": "human", "face": "human", "cat": "animal", "clock": "object", "sign": "object", "house": "scene",
    "tree": "scene",
}  # fmt: skip
"""What a thing of the micro world counts as."""
COUNTS = ("no artifacts", "one artifact", "two artifacts", "three artifacts", "four artifacts")
AROUND = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
"""Steps (x, y) to the eight neighbours, clockwise in the image."""


def write_synthscars(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write a split of ``count`` images with one to four flaws each; its name is that of the folder.

    Returns:
        ``folder``, which holds ``images`` and ``annotations``.
    """
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        picture, name = flawed_picture(seed, index), f"{index:06d}.png"
        picture.image.save(folder / "images" / name, compress_level=1)
        records.append({str(index): record_of(picture, name)})
    (folder / "annotations" / f"{folder.name}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def flawed_picture(seed: int, index: int) -> FlawedPicture:
    """The picture of a number: one to four things, and a flaw on one to all of them that can be seen."""
    rng = np.random.default_rng([seed, 40_961, index])
    while True:
        scene = sample_scene(rng, count=1 + index % 4)
        picture = inject(scene, rng, count=int(rng.integers(1, len(scene.things) + 1)))
        if picture.regions:
            return picture


def record_of(picture: FlawedPicture, name: str) -> dict[str, object]:
    """The annotation of a picture."""
    refs = [
        {
            "sentence": f"{region.name}, {region.location}",
            "segmentation": [[float(each) for point in outline for each in point] for outline in outlines(region)],
            "bbox": None,
            "explanation": f"{region.explanation}, because {region.reasoning}.",
            "type": str(region.category.legion),
        }
        for region in picture.regions
    ]
    caption = (
        f"Upon examining the image. I have found: {COUNTS[len(refs)]}.\n"
        "To elaborate, I have found the following artifacts. "
        + " ".join(f"{ref['sentence']}:{ref['explanation']}" for ref in refs)
    )
    kind = picture.regions[0].name.split()[-1]
    return {"img_file_name": name, "caption": caption, "content_type": CONTENT[kind], "refs": refs}


def outlines(region: Region) -> Iterator[list[tuple[int, int]]]:
    """The outer border of each connected part of a region's mask, as corners (x, y) on its own pixels."""
    assert region.mask is not None
    parts, count = ndimage.label(region.mask, structure=np.ones((3, 3)))
    for number in range(1, count + 1):
        yield corners(border(parts == number))


def border(part: Mask) -> list[tuple[int, int]]:
    """Walk along the outer pixels of a connected mask, clockwise from its first pixel."""
    inside = {(x, y) for y, x in np.argwhere(part).tolist()}
    first = min(inside, key=lambda pixel: (pixel[1], pixel[0]))
    path, here, towards = [first], first, 0
    first_step = None
    while True:
        step = next((way % 8 for way in range(towards + 5, towards + 13) if moved(here, way) in inside), None)
        if step is None or (here == first and step == first_step):
            return path if step is None else path[:-1]
        first_step = step if first_step is None else first_step
        here, towards = moved(here, step), step
        path.append(here)


def moved(pixel: tuple[int, int], way: int) -> tuple[int, int]:
    return pixel[0] + AROUND[way % 8][0], pixel[1] + AROUND[way % 8][1]


def corners(path: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A closed path without the points on straight lines; at least three points."""
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip([path[-1], *path], path, strict=False)]
    kept = [point for point, into, out in zip(path, steps, [*steps[1:], steps[0]], strict=True) if into != out]
    return (kept or path[:1]) * (1 if len(kept) > 2 else 3)
