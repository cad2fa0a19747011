"""Flaws as the bundled generator makes them, with exact truth.

A clean render's latents are noised part of the way and denoised again under the scene's caption. Things stay where they
are, their details come out as this generator paints them: what differs from the render is what it got wrong. Detector
and judge learn from such pictures beside the injected flaws; the oracle has no part in the labels, so that it stays a
referee.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from scipy import ndimage

from refiner.masks import box_of, components, location_words
from refiner.micro.drawing import visible
from refiner.micro.fitting import square_of
from refiner.micro.things import PLACES
from refiner.micro.world import SIZE, Scene, render
from refiner.taxonomy import Category
from refiner.types import Mask, Region, Size

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

EXPLANATION = "the {part} is malformed"
REASONING = "it should look like the {part} of a {kind}"
LEAST_PIXELS = 12
"""Least number of wrong pixels that make a flaw."""
CERTAINLY_CLEAN = 5
"""Pictures with fewer connected wrong pixels than this are clean; between the two nobody can tell."""
OUTLINE = 2
"""Pixels by which a region reaches beyond the wrong ones, as a person's outline of a flaw does."""
MOST_REGIONS = 4
"""Beyond so many, a wrong part joins the largest flaw of its thing."""
_STEPS = 10
_GUIDANCE = 3.0
_NUDGE = 3
"""Pixels by which a thing may stand beside its place."""
_WRONG = 50.0
"""Grey levels by which a pixel differs from all that the render shows within one pixel."""
_SOFT = 0.45
"""Share of the local contrast that may be lost or gained: decoders are soft."""

_GARBLED = 0.19
"""Share of its contrast by which a letter's place may differ on the average."""

_CATEGORIES: dict[Category, tuple[str, ...]] = {
    Category.TEXT: ("letter", "tick"),
    Category.OPTICS: ("shadow", "reflection", "sun"),
    Category.SHAPE: ("palm", "head", "body", "rim", "dial", "board", "post", "wall", "roof", "pond", "trunk", "crown"),
}
"""Words in a part's name that give its flaw's category; all others are anatomy."""


class Imperfect:
    """Paints scenes with the generator's own mistakes.

    Args:
        folder: of the bundled pipeline.
    """

    def __init__(self, folder: Path) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        self._pipeline = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
        self._pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def paint(self, scenes: Sequence[Scene], strength: float, seed: int) -> Pixels:
        """The scenes' pictures, uint8 (N, 96, 96, 3), noised to ``strength`` in (0, 1] and denoised again."""
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + place) for place in range(len(scenes))]
        with torch.autocast("cpu", torch.bfloat16):
            pictures = self._pipeline(
                [scene.caption for scene in scenes],
                image=[render(scene) for scene in scenes],
                strength=strength,
                num_inference_steps=_STEPS,
                guidance_scale=_GUIDANCE,
                generator=generators,
            ).images
        return np.stack([np.asarray(picture) for picture in pictures])


def malformed(picture: Pixels, scene: Scene) -> Mask:
    """Where a picture of a scene, uint8 (96, 96, 3), came out wrong; bool (96, 96).

    A pixel is wrong when its colour occurs nowhere within one pixel of the render, or the render's nowhere within one
    pixel of it, once every thing was moved to where it fits best. Letters are too small for such tolerance: one is
    wrong where its place looks different on the average.
    """
    wanted = _aligned(picture.astype(np.float32), scene)
    seen = picture - np.median(picture - wanted, axis=(0, 1)).clip(-8, 8)
    wrong = np.maximum(_gap(seen, wanted), _gap(wanted, seen)) > 0
    for letter in _letters(scene):
        wrong |= _garbled(seen, wanted, letter)
    closed = ndimage.binary_closing(np.pad(wrong, 2), iterations=2)[2:-2, 2:-2]
    return wrong | closed


def regions_of(wrong: Mask, scene: Scene) -> list[Region] | None:
    """What a mask of ``malformed`` means, part by part; None where nobody can tell whether it is a flaw.

    Connected pixels belong to the part of which they cover most, small parts being favoured; specks on a thing join its
    largest flaw.
    """
    blobs = [(blob, int(blob.sum())) for blob in components(wrong)]
    if not any(size >= LEAST_PIXELS for _, size in blobs):
        return None if any(size >= CERTAINLY_CLEAN for _, size in blobs) else []
    owner = _owners(scene)
    flaws: dict[tuple[int, str], Mask] = {}
    for blob, size in sorted(blobs, key=lambda pair: -pair[1]):
        key = owner(blob)
        if size < LEAST_PIXELS or (key not in flaws and len(flaws) >= MOST_REGIONS):
            key = next((known for known in flaws if known[0] == key[0]), key)
        if size >= LEAST_PIXELS or key in flaws:
            flaws[key] = flaws.get(key, np.zeros_like(blob)) | blob
    return [_region(scene, *key, mask) for key, mask in flaws.items()]


def _owners(scene: Scene) -> Callable[[Mask], tuple[int, str]]:
    """Which thing and part a blob belongs to."""
    parts: dict[tuple[int, str], Mask] = {}
    shapes = scene.shapes()
    for shape, mask in zip(shapes, visible(shapes, SIZE), strict=True):
        key = shape.thing, shape.part
        parts[key] = parts.get(key, np.zeros_like(mask)) | mask
    distances = {key: ndimage.distance_transform_edt(~mask) for key, mask in parts.items() if mask.any()}

    def owner(blob: Mask) -> tuple[int, str]:
        covered = {key: (each[blob] <= 2).sum() / (each <= 2).sum() ** 0.5 for key, each in distances.items()}
        if any(covered.values()):
            return max(covered, key=lambda key: float(covered[key]))
        return min(distances, key=lambda key: float(distances[key][blob].mean()))

    return owner


def _region(scene: Scene, index: int, part: str, mask: Mask) -> Region:
    thing = scene.things[index]
    share = float(mask.sum()) / (2 * thing.radius) ** 2
    mask = ndimage.binary_dilation(mask, iterations=OUTLINE)
    box = box_of(mask)
    assert box is not None
    return Region(
        mask=mask,
        box=box,
        name=f"the {part} of the {thing.colour} {thing.kind}",
        location=location_words(box, Size(SIZE, SIZE)),
        explanation=EXPLANATION.format(part=part),
        reasoning=REASONING.format(part=part, kind=thing.kind),
        category=category_of(part),
        severity=0.5 if share < 0.02 else 0.7 if share < 0.06 else 0.9,
    )


def category_of(part: str) -> Category:
    """The category of a malformed part."""
    for category, words in _CATEGORIES.items():
        if any(word in part.split() for word in words):
            return category
    return Category.ANATOMY


def _aligned(seen: Floats, scene: Scene) -> Floats:
    """The scene's render with every thing nudged to where it fits the picture best, float32 (96, 96, 3)."""
    clean = np.asarray(render(scene), dtype=np.float32)
    out = clean.copy()
    nudges = [(down, across) for down in range(-_NUDGE, _NUDGE + 1) for across in range(-_NUDGE, _NUDGE + 1)]
    for thing in scene.things:
        x0, y0, x1, y1 = square_of(thing)
        moved = [np.roll(clean, nudge, axis=(0, 1))[y0:y1, x0:x1] for nudge in nudges]
        costs = [np.minimum(np.abs(each - seen[y0:y1, x0:x1]), 60).sum() for each in moved]
        out[y0:y1, x0:x1] = moved[int(np.argmin(costs))]
    return out


def _letters(scene: Scene) -> list[Mask]:
    """Where each letter of each sign stands, a pixel around it included."""
    masks: dict[tuple[int, str], Mask] = {}
    shapes = scene.shapes()
    for shape, mask in zip(shapes, visible(shapes, SIZE), strict=True):
        if shape.part in PLACES:
            key = shape.thing, shape.part
            masks[key] = masks.get(key, np.zeros_like(mask)) | mask
    return [ndimage.binary_dilation(mask) for mask in masks.values()]


def _garbled(seen: Floats, wanted: Floats, letter: Mask) -> Mask:
    """The wrong pixels of a letter's place, none where the letter can be read; bool (96, 96)."""
    nudges = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    off = [np.abs(np.roll(wanted, nudge, axis=(0, 1)) - seen).max(axis=2) * letter for nudge in nudges]
    best = min(off, key=np.sum)
    contrast = np.ptp(wanted[letter], axis=0).max()
    return best > _WRONG if best[letter].mean() > _GARBLED * contrast else np.zeros_like(letter)


def _gap(pixels: Floats, other: Floats) -> Floats:
    """How far pixels lie beyond what the other picture shows within one pixel, less what is tolerated; (96, 96)."""
    low = ndimage.minimum_filter(other, (3, 3, 1), mode="nearest")
    high = ndimage.maximum_filter(other, (3, 3, 1), mode="nearest")
    beyond = np.maximum(pixels - high, low - pixels).max(axis=2)
    gap: Floats = beyond - np.maximum(_WRONG, _SOFT * (high - low).max(axis=2))
    return gap
