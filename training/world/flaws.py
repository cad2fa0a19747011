"""The bundled generator's own flaws, and their annotation.

The latents of a clean render are noised, partly or completely, and denoised again with the scene's caption. The referee
(the program that knows the truth of the micro world, ``micro/oracle.py``) annotates the flaws of the result, as people
do for the detectors of the papers. The detectors and the judge (the model that scores an image against its prompt)
learn from these annotations and from injected flaws. Flaws are inpainted as in the refinement loop. All measurements
use other scenes. A thing is one object of the micro world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from refiner.masks import box_of, location_words
from refiner.micro.drawing import visible
from refiner.micro.oracle import inspect
from refiner.micro.world import SIZE, Scene, render
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.loading.parts import inside, pipeline_like
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.pipelines.saving.settings import SavedSettings
from refiner.protocols import InpaintJob
from refiner.taxonomy import Category
from refiner.training.world.scenes import round_trip
from refiner.types import Mask, Region, Size

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

EXPLANATION = "the {part} is malformed"
REASONING = "it hardly looks like the {part} of a {kind}"
OUTLINE = 2  # pixels by which a region is larger than the flaw, like a person's outline of a flaw
MOST_REGIONS = 9  # largest number of regions of an image: an answer can count to 9
_GUIDANCE = 3.0
_CATEGORIES: dict[Category, tuple[str, ...]] = {
    Category.TEXT: ("letter", "tick"),
    Category.OPTICS: ("shadow", "reflection", "sun"),
    Category.SHAPE: ("palm", "head", "body", "rim", "dial", "board", "post", "wall", "roof", "pond", "trunk", "crown"),
}
"""Words in the name of a part that determine the category of its flaw. The default is anatomy."""


class ImperfectGenerator:
    """The bundled generator and its inpainter. Their images have the generator's own flaws.

    Args:
        folder: folder of the bundled pipeline.
        inpainter: folder of the inpainter. None: the one that the pipeline's saved settings name.
    """

    def __init__(self, folder: Path, inpainter: Path | None = None) -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        self._pipeline = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
        self._pipeline.set_progress_bar_config(disable=True)
        saved = SavedSettings.read(folder)
        place = inpainter or inside(folder, saved.inpainter)
        filler = pipeline_like(place, pipeline) if place else pipeline
        filler.set_progress_bar_config(disable=True)
        settings = PaintSettings(options=saved.call, inpaint_options=saved.inpaint_call)
        painter = DiffusersPainter(pipeline, settings, inpainter=filler)
        self._inpainter = CropInpainter(
            painter.paint, native=painter.native, multiple=painter.multiple, cell=painter.cell, config=RefineConfig()
        )

    def round_trip(self, pictures: Pixels) -> Pixels:
        """Encode images, uint8 (N, 96, 96, 3), and decode them again, with the generator's autoencoder."""
        return round_trip(self._pipeline.vae, pictures)

    @torch.inference_mode()
    def paint(self, scenes: Sequence[Scene], strength: float, seed: int, steps: int = 10) -> Pixels:
        """Generate images of N scenes, uint8 (N, 96, 96, 3): noise their renders and denoise them again.

        The ``strength`` of the noise is in (0, 1]. ``steps`` are denoiser steps from pure noise; a smaller strength
        takes fewer.
        """
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + place) for place in range(len(scenes))]
        pictures = self._pipeline(
            [scene.caption for scene in scenes],
            image=[render(scene) for scene in scenes],
            strength=strength,
            num_inference_steps=steps,
            guidance_scale=_GUIDANCE,
            generator=generators,
        ).images
        return np.stack([np.asarray(picture) for picture in pictures])

    def repaint(self, jobs: Sequence[InpaintJob]) -> list[Pixels]:
        """Inpaint the jobs' images in crops, as in the refinement loop. Each result is uint8 (96, 96, 3)."""
        return [np.asarray(picture) for picture in self._inpainter.inpaint(jobs)]


def bundled_generator(weights: Path) -> ImperfectGenerator:
    """The generator and the inpainter of a folder of bundled models."""
    return ImperfectGenerator(weights / "generator", weights / "inpainter")


class Flaw(NamedTuple):
    """One flaw of an image."""

    thing: int  # index into the scene's things
    part: str  # name of the thing's part
    mask: Mask  # bool (96, 96)


def annotate(picture: Pixels, scene: Scene) -> tuple[Scene, tuple[Flaw, ...]]:
    """Let the referee annotate an image, uint8 (96, 96, 3), of a scene.

    Returns:
        The scene with the places and sizes of its things in the image, and the flaws. A blob of pixels that no part
        explains belongs to the part of which it covers most; small parts are favoured.
    """
    verdict = inspect(Image.fromarray(picture), scene)
    places = zip(scene.things, verdict.things, strict=True)
    found = replace(scene, things=tuple(replace(t, x=s.x, y=s.y, radius=s.radius) for t, s in places))
    seen = [flaw for flaw in verdict.flaws if flaw.mask.any()]
    owner = _owners(found) if seen else None
    flaws = []
    for flaw in seen:
        assert owner is not None
        thing, part = owner(flaw.mask) if flaw.part in ("blob", "thing") else (flaw.thing, flaw.part)
        flaws.append(Flaw(thing, part, flaw.mask))
    return found, tuple(flaws)


def regions_of(flaws: Sequence[Flaw], scene: Scene) -> list[Region]:
    """Regions of the largest flaws, at most ``MOST_REGIONS``. The flaws of one part are one region."""
    masks: dict[tuple[int, str], Mask] = {}
    for thing, part, mask in flaws:
        masks[thing, part] = masks.get((thing, part), np.zeros_like(mask)) | mask
    largest = sorted(masks, key=lambda key: -int(masks[key].sum()))[:MOST_REGIONS]
    return [_region(scene, *key, masks[key]) for key in largest]


def _owners(scene: Scene) -> Callable[[Mask], tuple[int, str]]:
    """A function that returns the thing and part that a blob belongs to."""
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
