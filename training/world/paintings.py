"""Images of scenes from the generator, with and without its own flaws. Detectors and the judge learn from them.

The judge is the model that scores an image against its prompt. A thing is one object of the micro world. A ``Painting``
holds four images of one scene, all of them from the generator's decoder:

* ``returned``: a clean render after a round trip through the autoencoder;
* ``poorer``: the image that the generator makes;
* ``better``: that image with every flaw inpainted again as in the refinement loop; it is not always better;
* ``repainted``: that image with just one region inpainted again, flawed or not, as a judge of fixes gets it.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from refiner.files import atomic_write
from refiner.masks import box_of
from refiner.micro.world import SIZE, Scene, Thing, render, sample_scene
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.pipelines.strategies import plan_patches
from refiner.protocols import InpaintJob
from refiner.taxonomy import Category
from refiner.training.world.flaws import Flaw, ImperfectGenerator, Pixels, annotate, regions_of
from refiner.training.world.scenes import EVENLY, disc_on
from refiner.types import Mask, Region, Size

VIEWS = ("returned", "better", "poorer", "repainted")  # the images of a ``Painting``, in order
_FLAWLESS = 0.25  # share of scenes that are kept if the poorer image has no flaw
_STEPS = (10, 17)  # Denoiser steps for the poorer image, from 10 to 16. With few steps the generator makes more flaws.
_FROM_NOTHING = 0.8  # probability that the poorer image is generated from pure noise, like a user's images
_HIGH = (0.75, 1.0)  # strength of the noise for the poorer image in the other cases
_UNFLAWED = 0.4  # probability that the one region that is inpainted again is a random one, not a flawed one
_SPOT = (3.0, 10.0)  # radius in pixels of such a random region, before it is grown
_AT_ONCE = 10  # scenes that are generated in one batch


class Painting(NamedTuple):
    """The images of one caption and their flaws, in the order of ``VIEWS``."""

    scenes: tuple[Scene, ...]  # for each image, the scene with the places of its things
    pictures: Pixels  # uint8 (4, 96, 96, 3)
    flaws: tuple[tuple[Flaw, ...], ...]


def paint(rng: np.random.Generator, count: int, imperfect: ImperfectGenerator) -> list[Painting]:
    """Generate paintings of up to ``count`` random scenes, all with the same strength of noise.

    ``rng`` is the only source of randomness. Most scenes whose poorer image has no flaw are left out, because they
    teach little.
    """
    planned = [sample_scene(rng, int(rng.choice(4, p=EVENLY)) + 1) for _ in range(count)]
    high = 1.0 if rng.random() < _FROM_NOTHING else float(rng.uniform(*_HIGH))
    poorer = imperfect.paint(planned, high, int(rng.integers(2**31)), int(rng.integers(*_STEPS)))
    said = [annotate(picture, scene) for picture, scene in zip(poorer, planned, strict=True)]
    kept = [row for row, (_, flaws) in enumerate(said) if flaws or rng.random() < _FLAWLESS]
    if not kept:
        return []
    scenes = [said[row][0] for row in kept]
    returned = imperfect.round_trip(np.stack([np.asarray(render(scene)) for scene in scenes]))
    jobs = [_jobs(poorer[row], *said[row], rng) for row in kept]
    repainted = iter(imperfect.repaint([job for each in jobs for job in each]))
    done = [[(job.mask, next(repainted)) for job in each] for each in jobs]
    rows = zip(kept, returned, done, strict=True)
    return [_painting(*said[row], clean, poorer[row], mended) for row, clean, mended in rows]


def _jobs(picture: Pixels, scene: Scene, flaws: tuple[Flaw, ...], rng: np.random.Generator) -> list[InpaintJob]:
    """The inpainting jobs of an image: one for every flaw, and last the one for the ``repainted`` image."""
    config, reviser = RefineConfig(), TemplateReviser(free_text=False)
    flawed = plan_patches(regions_of(flaws, scene), Size(SIZE, SIZE), config)
    chosen = [flawed[int(rng.integers(len(flawed)))]] if flawed and rng.random() >= _UNFLAWED else []
    alone = chosen or plan_patches([_spot(scene, rng)], Size(SIZE, SIZE), config)
    jobs = []
    for patch in [*flawed, *alone]:
        revision = reviser.for_region(scene.caption, patch.region)
        strength = config.strengths[int(rng.integers(len(config.strengths)))]
        jobs.append(
            InpaintJob(
                image=Image.fromarray(picture),
                mask=patch.mask,
                prompt=revision.prompt,
                seed=int(rng.integers(2**31)),
                strength=strength,
                whole=revision.whole,
            )
        )
    return jobs


def _painting(
    scene: Scene, flaws: tuple[Flaw, ...], clean: Pixels, poorer: Pixels, mended: Sequence[tuple[Mask, Pixels]]
) -> Painting:
    """``mended`` holds the mask and the result of each inpainting job, in the order of ``_jobs``."""
    better = poorer.copy()
    for mask, picture in mended[:-1]:
        better[mask] = picture[mask]
    repainted = mended[-1][1]
    said = [(scene, ()), annotate(better, scene), (scene, flaws), annotate(repainted, scene)]
    return Painting(
        scenes=tuple(each for each, _ in said),
        pictures=np.stack([clean, better, poorer, repainted]),
        flaws=tuple(each for _, each in said),
    )


def _spot(scene: Scene, rng: np.random.Generator) -> Region:
    """A random disc on a thing."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    spot = disc_on(thing, rng, _SPOT)
    box = box_of(spot)
    assert box is not None
    return Region(mask=spot, box=box, name=f"the {thing.colour} {thing.kind}", category=Category.SHAPE)


class Gallery:
    """Shards of ``shard`` paintings. A shard is made when it is first needed, and stored in ``folder``.

    It depends only on ``seed`` and its index.
    """

    def __init__(self, folder: Path, imperfect: ImperfectGenerator, seed: int = 1, shard: int = 250) -> None:
        self.folder, self.seed, self.shard = folder, seed, shard
        self._imperfect = imperfect

    def __getitem__(self, index: int) -> list[Painting]:
        path = self.folder / f"{self.seed}-{self.shard}-{index:03d}.npz"
        if not path.exists():
            rng, paintings = np.random.default_rng([self.seed, index]), list[Painting]()
            while len(paintings) < self.shard:
                paintings += paint(rng, _AT_ONCE, self._imperfect)
            _write(path, paintings[: self.shard])
        return _read(path)


def _write(path: Path, paintings: Sequence[Painting]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scenes = [[dataclasses.asdict(scene) for scene in painting.scenes] for painting in paintings]
    names = [[[(flaw.thing, flaw.part) for flaw in flaws] for flaws in painting.flaws] for painting in paintings]
    masks = [flaw.mask for painting in paintings for flaws in painting.flaws for flaw in flaws]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pictures=np.stack([painting.pictures for painting in paintings]),
        masks=np.packbits(np.array(masks, dtype=np.bool_).reshape(-1, SIZE, SIZE), axis=-1),
        texts=np.frombuffer(json.dumps([scenes, names]).encode(), dtype=np.uint8),
    )
    atomic_write(path, buffer.getvalue())


def _read(path: Path) -> list[Painting]:
    with np.load(path) as file:
        pictures, masks, texts = file["pictures"], file["masks"], json.loads(file["texts"].tobytes())
    left = iter(np.unpackbits(masks, axis=-1, count=SIZE).astype(np.bool_))
    paintings = []
    for shown, scenes, names in zip(pictures, *texts, strict=True):
        flaws = tuple(tuple(Flaw(thing, part, next(left)) for thing, part in each) for each in names)
        paintings.append(Painting(tuple(map(_scene, scenes)), shown, flaws))
    return paintings


def _scene(entry: dict[str, Any]) -> Scene:
    things = tuple(Thing(**thing) for thing in entry["things"])
    return Scene(things=things, rows=tuple(entry["rows"]), background=entry["background"])
