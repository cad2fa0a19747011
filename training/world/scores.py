"""What the bundled autoencoder and generator are worth, by the oracle, on scenes that no training has seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from refiner.micro.oracle import inspect
from refiner.micro.world import Scene, render, sample_scene
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.paintings import VIEWS, Painting
from refiner.training.world.paintings import paint as paint_badly
from refiner.training.world.scenes import round_trip
from refiner.types import Mask

HELD_OUT_SEED = 10_000_000
"""Pictures for measuring are drawn from here on; pools for training lie below."""
HELD_OUT = 900_001
"""First word of every seed that is kept for measuring; no recipe draws from it."""


def pixel_f1(pairs: Sequence[tuple[Mask, Mask]]) -> float:
    """F1 over the pixels of all (claimed, true) pairs together, in [0, 1]; 0 where nothing is hit."""
    hits = sum(int((claimed & true).sum()) for claimed, true in pairs)
    total = sum(int(claimed.sum()) + int(true.sum()) for claimed, true in pairs)
    return 2 * hits / total if total else 0.0


def held_out_scenes(count: int) -> list[Scene]:
    """Scenes that are never trained on, as many of one thing as of two, three and four."""
    return [sample_scene(np.random.default_rng([HELD_OUT, i]), count=1 + i % 4) for i in range(count)]


def score_autoencoder(autoencoder: AutoencoderKL, count: int = 200) -> dict[str, Any]:
    """Flaws that the oracle finds on round trips of clean renders, a picture, and which parts they are."""
    autoencoder.eval()
    parts: dict[str, int] = defaultdict(int)
    error = 0.0
    for batch in _batches(held_out_scenes(count), 20):
        originals = np.stack([np.asarray(render(scene)) for scene in batch])
        returned = round_trip(autoencoder, originals)
        error += float(np.abs(originals.astype(np.float32) - returned).mean(axis=(1, 2, 3)).sum() / count)
        for scene, picture in zip(batch, returned, strict=True):
            for flaw in inspect(Image.fromarray(picture), scene).flaws:
                parts[f"{scene.things[flaw.thing].kind}: {flaw.part}"] += 1
    worst = dict(sorted(parts.items(), key=lambda item: -item[1])[:12])
    return {"pictures": count, "flaws": sum(parts.values()) / count, "mean_error_of_255": error, "parts": worst}


def paint(
    pipeline: StableDiffusionPipeline, scenes: Sequence[Scene], seed: int = 0, **settings: Any
) -> Iterator[Image.Image]:
    """One picture for each scene's caption, seeded by its place."""
    for start in range(0, len(scenes), 10):
        batch = scenes[start : start + 10]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(batch))]
        yield from pipeline([scene.caption for scene in batch], generator=generators, **settings).images


def score_generator(pipeline: StableDiffusionPipeline, count: int = 200, **settings: Any) -> dict[str, Any]:
    """Flaws a picture by the oracle, by number of things, and the share of things of the right kind and colour."""
    scenes = held_out_scenes(count)
    flaws: dict[int, list[int]] = defaultdict(list)
    parts: dict[str, int] = defaultdict(int)
    right: list[bool] = []
    for scene, picture in zip(scenes, paint(pipeline, scenes, **settings), strict=True):
        verdict = inspect(picture, scene)
        flaws[len(scene.things)].append(verdict.count)
        right += [thing.kind_ok and thing.colour_ok for thing in verdict.things]
        for flaw in verdict.flaws:
            parts[f"{scene.things[flaw.thing].kind}: {flaw.part}"] += 1
    return {
        "pictures": count,
        "flaws": float(np.mean([n for counts in flaws.values() for n in counts])),
        "flaws_by_things": {number: float(np.mean(counts)) for number, counts in sorted(flaws.items())},
        "right_kind_and_colour": float(np.mean(right)),
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1])[:20]),
    }


def score_inpainter(imperfect: ImperfectGenerator, count: int = 200) -> dict[str, float]:
    """Flaws a picture by the oracle before and after each is repainted once, at the places that the oracle names.

    The pictures are the generator's, those that came out well mostly left out.
    """
    rng = np.random.default_rng([HELD_OUT, 1])
    painted: list[Painting] = []
    while len(painted) < count:
        painted += paint_badly(rng, 10, imperfect)
    before, after = (
        float(np.mean([len(painting.flaws[VIEWS.index(view)]) for painting in painted[:count]]))
        for view in ("poorer", "better")
    )
    return {"flaws_before": before, "flaws_after": after, "mended": 1 - after / before}


def _batches(scenes: Sequence[Scene], size: int) -> Iterator[Sequence[Scene]]:
    for start in range(0, len(scenes), size):
        yield scenes[start : start + size]
