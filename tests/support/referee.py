"""The accuracy of the referee on images whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from refiner.masks import iou
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.oracle import Verdict, inspect
from refiner.micro.world import SIZE, render, sample_scene
from refiner.types import Size


def referee_accuracy(pictures: int, seed: int) -> dict[str, Any]:
    """Measure the referee on pictures whose truth is known.

    Args:
        pictures: number of images for each kind of flaw; there are eight times as many clean images, and equally
            many softened clean images.
        seed: the only source of randomness.

    Returns:
        ``clean`` and ``softened`` (Gaussian blur of 0.6 pixels, noise and a tint): ``flaws`` per image and the flagged
        ``area``. ``kinds``: for each kind of flaw, the mean ``iou`` with the true mask, the share ``found`` (at least a
        quarter of the true mask is flagged), and the ``flaws`` counted per image. ``iou`` and ``found``: the means over
        the kinds.
    """
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(8 * pictures)]
    clean = [inspect(render(scene), scene) for scene in scenes]
    softened = [inspect(_softened(render(scene), rng), scene) for scene in scenes]
    kinds = {name: _measure_kind(name, pictures, rng) for name in FLAWS}
    return {
        "clean": _burden(clean),
        "softened": _burden(softened),
        "kinds": kinds,
        "iou": float(np.mean([each["iou"] for each in kinds.values()])),
        "found": float(np.mean([each["found"] for each in kinds.values()])),
    }


def _burden(verdicts: Sequence[Verdict]) -> dict[str, float]:
    return {
        "flaws": float(np.mean([verdict.count for verdict in verdicts])),
        "area": float(np.mean([verdict.area for verdict in verdicts])),
    }


def _softened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)
    pixels = blurred + rng.normal(0, 3.5, blurred.shape) + rng.uniform(-6, 6, 3)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def _measure_kind(name: str, pictures: int, rng: np.random.Generator) -> dict[str, float]:
    rows: list[tuple[float, bool, int]] = []
    while len(rows) < pictures:
        flawed = inject(sample_scene(rng), rng, 1, [name])
        if not flawed.regions:
            continue
        truth = flawed.regions[0].pixels(Size(SIZE, SIZE))
        verdict = inspect(flawed.image, flawed.scene)
        rows.append((iou(truth, verdict.mask), 4 * (truth & verdict.mask).sum() >= truth.sum(), verdict.count))
    means = np.mean(np.array(rows, dtype=np.float64), axis=0)
    return dict(zip(("iou", "found", "flaws"), means.tolist(), strict=True))
