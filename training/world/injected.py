"""Images of the micro world with injected flaws as a data set: what the bundled model learns from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from PIL import Image

from refiner.claims import region_of
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import sample_scene
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.labels import decoder_like
from refiner.training.world.marked import generated, natural
from refiner.training.world.scores import HELD_OUT_SEED
from refiner.training.world.words import FRAME
from refiner.types import Analysis

CLEAN_SHARE = 0.4
_SEED = 6_000_000  # no other recipe uses it


class InjectedData:
    """``count`` images; ``CLEAN_SHARE`` of them are clean, the others have a flaw on one to all of their things.

    Half of the images look as if an autoencoder had decoded them.

    Args:
        count: number of images.
        without: kinds of flaws that never occur.
        seed: images with different seeds are different.
    """

    def __init__(self, count: int, without: tuple[str, ...] = (), seed: int = _SEED) -> None:
        self.problems: list[Problem] = []
        self.seed, self.count, self.kinds = seed, count, [name for name in FLAWS if name not in without]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``000000`` and so on."""
        return tuple(f"{index:06d}" for index in range(self.count))

    def load(self, index: int) -> Sample:
        """Draw one image, which depends only on ``index``."""
        rng = np.random.default_rng([self.seed, index])
        scene = sample_scene(rng)
        flawed = rng.random() >= CLEAN_SHARE
        flaws = inject(scene, rng, int(rng.integers(1, len(scene.things) + 1)) if flawed else 0, self.kinds)
        return Sample(
            name=self.names[index],
            prompt=scene.caption,
            image=Image.fromarray(decoder_like(np.asarray(flaws.image), rng)),
            fake=bool(flaws.regions),
            truth=Analysis(size=FRAME, regions=flaws.regions, detector="micro truth"),
        )


def painted(imperfect: ImperfectGenerator, count: int) -> Iterator[Sample]:
    """At least ``count`` held-out images from the generator, with the flaws that the referee finds, and without."""
    rng = np.random.default_rng([HELD_OUT_SEED, 6])
    for painting in generated(rng, count, imperfect):
        for item in natural(painting):
            pairs = zip(item.found, item.masks, strict=True)
            regions = tuple(region_of(claim, mask, FRAME) for claim, mask in pairs)
            truth = Analysis(size=FRAME, regions=regions, detector="referee")
            yield Sample(name="", image=Image.fromarray(item.image), fake=bool(regions), truth=truth)
