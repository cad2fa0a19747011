"""Tiny images for X-AIGD's trainings, and settings of tiny trainings."""

from __future__ import annotations

import numpy as np
from PIL import Image

from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors.xaigd.config import CATEGORIES
from refiner.errors import InputError
from refiner.taxonomy import FROM_XAIGD
from refiner.training.xaigd.settings import AlignmentSettings, Architecture, XaigdSettings
from refiner.types import Analysis, Region, Size

TINY = Architecture(image_size=48, patch=12, width=16, layers=3, heads=2)
ALIGNED = AlignmentSettings(kind="artifact", benign=0.4, layers=2)
TOY = XaigdSettings(
    architecture=TINY, decoder_width=8, zoom=2, alignment=ALIGNED, most_steps=4, batch=4, learning_rate=1e-3,
    warmup=1, report_every=1, save_every=2,
)  # fmt: skip


class Pictures:
    """Generated images, each with one region of a category, and real ones, in pairs."""

    def __init__(self, count: int = 5, *, real: bool = True, paired: bool = True, broken: tuple[int, ...] = ()) -> None:
        self.problems: list[Problem] = []
        self.real, self.paired, self.broken = real, paired, broken
        self.names = tuple(f"{row:03d}" for row in range(count * (2 if real else 1)))

    def load(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"The image {index} is damaged: download it again.")
        number, fake = (index // 2, index % 2 == 0) if self.real else (index, True)
        rng = np.random.default_rng(number)
        values = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        mask = np.zeros((50, 60), dtype=np.bool_)
        mask[10 : 20 + number, 30:50] = True
        if fake:
            values[mask] = 255 - values[mask]
        region = Region(
            mask=mask, box=(30, 10, 50, 20 + number), name="spot", category=FROM_XAIGD[CATEGORIES[number % 7]]
        )
        truth = Analysis(size=Size(50, 60), regions=(region,), detector="truth")
        return Sample(
            name=self.names[index],
            image=Image.fromarray(values),
            fake=fake,
            truth=truth if fake else None,
            pair=f"uid{number}" if self.paired else "",
        )
