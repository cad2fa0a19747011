"""Scores of the bundled autoencoder, generator and inpainter on held-out scenes.

The referee (``micro/oracle.py``) counts the flaws. A thing is one object of the micro world.
"""

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

HELD_OUT_SEED = 10_000_000  # First seed of held-out images. All training seeds are smaller.
HELD_OUT = 900_001  # First element of the seeds of held-out scenes. No recipe uses it.


def pixel_f1(pairs: Sequence[tuple[Mask, Mask]]) -> float:
    """F1 over the pixels of all pairs (reported mask, true mask) together, in [0, 1]; 0 if all masks are empty."""
    hits = sum(int((claimed & true).sum()) for claimed, true in pairs)
    total = sum(int(claimed.sum()) + int(true.sum()) for claimed, true in pairs)
    return 2 * hits / total if total else 0.0


def held_out_scenes(count: int) -> list[Scene]:
    """Held-out scenes. They have one, two, three and four things in turn."""
    return [sample_scene(np.random.default_rng([HELD_OUT, i]), count=1 + i % 4) for i in range(count)]


def score_autoencoder(autoencoder: AutoencoderKL, count: int = 200) -> dict[str, Any]:
    """Scores of an autoencoder's round trips of clean renders.

    Returns:
        ``pictures``: number of images. ``flaws``: mean number of flaws in an image. ``mean_error_of_255``: mean
        absolute error of a pixel value. ``parts``: number of flaws by part, for the 12 worst parts.
    """
    autoencoder.eval()
    parts: dict[str, int] = defaultdict(int)
    error = 0.0
    scenes = held_out_scenes(count)
    for start in range(0, count, 20):
        batch = scenes[start : start + 20]
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
    """Generate one image for each scene's caption. Its seed depends on the scene's position."""
    for start in range(0, len(scenes), 10):
        batch = scenes[start : start + 10]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + i) for i in range(len(batch))]
        yield from pipeline([scene.caption for scene in batch], generator=generators, **settings).images


def score_generator(pipeline: StableDiffusionPipeline, count: int = 200, **settings: Any) -> dict[str, Any]:
    """Scores of a generator's images. ``settings`` are arguments of the pipeline call.

    Returns:
        ``pictures``: number of images. ``flaws``: mean number of flaws in an image. ``flaws_by_things``: the same by
        number of things. ``right_kind_and_colour``: share of things with the right kind and colour. ``parts``: number
        of flaws by part, for the 20 worst parts.
    """
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
    """Scores of an inpainter that inpaints each flaw of the generator's images once, where the referee finds it.

    Returns:
        ``flaws_before`` and ``flaws_after``: mean number of flaws in an image. ``mended``: relative decrease. Most of
        the images without flaws are left out.
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
