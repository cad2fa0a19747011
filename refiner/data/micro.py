"""Images of the micro world as a data set, with their exact truth; or only its captions, to generate from."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from refiner.data.anomreason import from_regions
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.errors import ConfigError
from refiner.micro.flaws import inject
from refiner.micro.world import SIZE, sample_scene
from refiner.types import Analysis, Size

_HELD_OUT = 900_003
"""First word of the seeds; no training uses it."""


class MicroData:
    """Scenes of the micro world: equally many with one, two, three and four things.

    Args:
        count: of the samples.
        painted: with images and their exact truth, else only captions.
    """

    def __init__(self, count: int, *, painted: bool) -> None:
        self.problems: list[Problem] = []
        self.count, self.painted = count, painted

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``00000`` and so on."""
        return tuple(f"{index:05d}" for index in range(self.count))

    def load(self, index: int) -> Sample:
        """Draw one sample; every second image has a flaw on one to all of its things."""
        rng = np.random.default_rng([_HELD_OUT, index])
        scene = sample_scene(rng, count=1 + index // 2 % 4)
        things = len(scene.things)
        name, group = self.names[index], f"{things} thing{'s' if things > 1 else ''}"
        if not self.painted:
            return Sample(name=name, group=group, prompt=scene.caption)
        flawed = index % 2 == 1
        flaws = inject(scene, rng, count=int(rng.integers(1, things + 1)) if flawed else 0)
        return Sample(
            name=name,
            group=group,
            prompt=scene.caption,
            image=flaws.image,
            fake=flawed,
            truth=Analysis(size=Size(SIZE, SIZE), regions=flaws.regions, detector="micro truth"),
            weighed=True,
            anomalies=from_regions(flaws.regions),
        )


def open_images(count: str) -> MicroData:
    """``micro:COUNT``: images with their exact truth.

    Raises:
        ConfigError: not a number of at least 1.
    """
    return MicroData(_number(count, "micro"), painted=True)


def open_captions(count: str) -> MicroData:
    """``micro-prompts:COUNT``: only captions. Raises as ``open_images``."""
    return MicroData(_number(count, "micro-prompts"), painted=False)


def _number(text: str, name: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise ConfigError(f"Expected a number of micro samples such as {name}:100, got {text!r}: name one.")
    return int(text)
