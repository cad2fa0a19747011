"""The rule for coordinates that models write: a little outside the image is clipped, far outside is no place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

SLACK: Final = 0.05
"""Distance outside the image, as a share of the side, up to which a coordinate is moved to the border."""


def inside(corners: Sequence[float], sides: tuple[float, float]) -> tuple[float, ...] | None:
    """Clip points, such as the corners of a box or a polygon, to the image.

    Args:
        corners: x and y in turn, in any unit.
        sides: width and height of the image in that unit.

    Returns:
        The coordinates, each in [0, side]; None if one is not finite or farther outside than ``SLACK``.
    """
    clipped = []
    for place, value in enumerate(corners):
        side = sides[place % 2]
        if not (math.isfinite(value) and -SLACK * side <= value <= (1 + SLACK) * side):
            return None
        clipped.append(min(max(value, 0.0), side))
    return tuple(clipped)
