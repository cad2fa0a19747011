"""Example prompts and images from the micro world, which the bundled models were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from refiner.images import save_png
from refiner.micro.flaws import inject
from refiner.micro.world import parse_caption

PROMPTS: Final = (
    "a red hand with five fingers left of a green clock showing three o'clock on a sky background",
    "a blue cat with four legs facing left on a snow background",
    "an orange face with two eyes smiling left of a green house by a pond on a rose background",
)
_PICTURES: Final = (
    (PROMPTS[0], "wrong_colour", 2),
    (PROMPTS[1], "floating_tail", 1),
    (PROMPTS[2], "wrong_reflection", 1),
)
"""Caption, kind of flaw, and seed of each example image."""


def write_pictures(folder: Path) -> list[str]:
    """Draw flawed images into a folder.

    Returns:
        Their paths, in the order of ``PROMPTS``.
    """
    paths = []
    for number, (caption, kind, seed) in enumerate(_PICTURES, start=1):
        scene = parse_caption(caption)
        flawed = inject(scene, np.random.default_rng(seed), len(scene.things), [kind])
        paths.append(str(save_png(flawed.image, folder / f"example-{number}.png")))
    return paths
