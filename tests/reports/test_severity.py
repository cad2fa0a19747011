"""The plot of severities."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refiner.reports.severity import save_severities


def columns(path, colour: tuple[int, int, int]) -> int:
    """How many columns of pixels have the colour."""
    with Image.open(path) as image:
        return int((np.asarray(image.convert("RGB")) == colour).all(axis=2).any(axis=0).sum())


@pytest.mark.parametrize(
    ("before", "after"), [([0.5], []), ([0.0, 1.0], [1.0]), (np.random.default_rng(0).random(500).tolist(), [0.2, 0.9])]
)
def test_there_is_a_bar_for_each_severity(tmp_path, before, after):
    path = save_severities(before, after, tmp_path / "severity.png")
    grey, green = columns(path, (0x8F, 0x8B, 0x82)), columns(path, (0x1F, 0x7A, 0x4D))
    assert grey > 0
    assert (green > 0) == bool(after)
    assert green <= grey
