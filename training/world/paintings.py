"""Scenes as the generator paints them, well and badly: detector and judge learn its own flaws from them.

A painting shows one scene four times, always through the generator's decoder: clean; as the generator paints it; that
picture with every flaw repainted as the refinement loop would, for better or for worse; and with one place of it
repainted, flawed or not, which is what a judge of repairs is asked about.
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
from refiner.training.world.scenes import EVENLY
from refiner.types import Mask, Region, Size

VIEWS = ("returned", "better", "poorer", "repainted")
"""What a painting's pictures are, in order."""
_FLAWLESS = 0.25
"""Share of the scenes without a flaw in the poorer picture that are kept."""
_STEPS = (10, 17)
"""Of the generator for the poorer picture, from a to below b: with few it errs more."""
_FROM_NOTHING = 0.8
"""Chance that the poorer picture is painted from noise alone, as a user's pictures are."""
_HIGH = (0.75, 1.0)
"""Else the strength of the generator's noise for the poorer picture."""
_UNFLAWED = 0.4
"""Chance that the one place that is repainted is any, not a flawed one."""
_SPOT = (3.0, 10.0)
"""Radius in pixels of such a place, before it is grown."""
_AT_ONCE = 10


class Painting(NamedTuple):
    """One caption's pictures and what is wrong with each, in the order of ``VIEWS``."""

    scenes: tuple[Scene, ...]
    """Where the things stand in each picture."""
    pictures: Pixels
    """Uint8 (4, 96, 96, 3)."""
    flaws: tuple[tuple[Flaw, ...], ...]


def paint(rng: np.random.Generator, count: int, imperfect: ImperfectGenerator) -> list[Painting]:
    """Up to ``count`` scenes at random, painted with the same strengths of the generator's noise.

    Most scenes of which even the poorer picture came out well are left out: there is little to learn from them.

    Args:
        rng: the only source of chance.
        count: of scenes.
        imperfect: the generator.
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
    """What to repaint of a picture: every flaw, and last the one place that is repainted alone, often one of these."""
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
    """``mended``: what was repainted and the pictures with it; the place that is repainted alone is the last."""
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
    """A disc somewhere on a thing."""
    thing = scene.things[int(rng.integers(len(scene.things)))]
    x, y = np.clip(np.array([thing.x, thing.y]) + rng.uniform(-1, 1, 2) * thing.radius, 0, SIZE - 1)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    spot: Mask = np.hypot(rows - y, columns - x) < rng.uniform(*_SPOT)
    box = box_of(spot)
    assert box is not None
    return Region(mask=spot, box=box, name=f"the {thing.colour} {thing.kind}", category=Category.SHAPE)


class Gallery:
    """Shards of paintings, each drawn when it is first asked for and kept in a folder.

    Args:
        folder: of the shards.
        imperfect: the generator.
        seed: with a shard's number, what it is drawn from, whoever draws it and when.
        shard: paintings in each.
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
