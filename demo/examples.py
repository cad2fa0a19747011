"""Example prompts and images from the micro world, which the bundled models were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from refiner.images import save_png
from refiner.micro.examples import EXAMPLES
from refiner.micro.flaws import inject
from refiner.micro.world import parse_caption

PROMPTS: Final = tuple(example.prompt for example in EXAMPLES)
_PICTURES: Final = (
    (PROMPTS[0], "extra_finger", 2),
    (PROMPTS[1], "wrong_reflection", 1),
    (PROMPTS[2], "floating_tail", 1),
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
