"""What a record says about one image, whichever kind of record it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from refiner.data.fields import is_finite
from refiner.data.json_stream import Place
from refiner.data.problems import UnusableError
from refiner.data.samples import UNNAMED
from refiner.errors import InputError
from refiner.masks import clip_box
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Region, Size

IMAGES: Final = "images"
"""The folder of the images beside the file of records."""
_FARTHEST: Final = 1e6
"""A side of a box farther out is an error."""

Corners = tuple[float, float, float, float]


class FakexplainedRegion(NamedTuple):
    """One anomaly."""

    box: Corners
    """(x0, y0, x1, y1), half-open; see ``FakexplainedImage.extent`` for the unit."""
    description: str
    """What is wrong; may be empty."""
    name: str = ""
    """Short, such as "the left hand"; "" if unknown."""
    reasoning: str = ""
    """Why it is wrong; "" if unknown."""
    category: Category | None = None
    """None if unknown."""
    severity: float | None = None
    """In [0, 1], 1 = worst; None if unknown."""

    def claim(self) -> Claim:
        """The anomaly in words."""
        return Claim(
            name=self.name,
            explanation=self.description,
            reasoning=self.reasoning,
            category=self.category,
            severity=self.severity,
        )


@dataclass(frozen=True, kw_only=True)
class FakexplainedImage:
    """One image with its truth."""

    name: str
    """Path of the image without ``images/`` in front, unique in the data set."""
    paths: tuple[str, ...]
    """Where the image may lie, from the folder of the file of records; the first one that exists counts."""
    fake: bool
    """Whether it is generated."""
    generator: str = ""
    """"" if unknown."""
    regions: tuple[FakexplainedRegion, ...] = ()
    """Empty for a real image."""
    tags: tuple[str, ...] = ()
    """Flaws of the image as a whole."""
    size: Size | None = None
    """None if the record does not give it."""
    extent: float | None = None
    """Width and height of the image in the unit of the boxes, such as 1000; None if they are in pixels."""
    place: Place
    """Of the record; ``read_record`` reads it again."""

    def truth(self, size: Size) -> Analysis:
        """The regions in an image of ``size``: boxes rounded outwards to whole pixels and cut to the image.

        Raises:
            InputError: a box lies outside the image.
        """
        regions = (
            Region(
                mask=None,
                box=self._box(region, size),
                name=region.name or UNNAMED,
                explanation=region.description,
                reasoning=region.reasoning,
                # Without a category, no figure of this truth uses it.
                category=region.category or Category.TEXTURE,
                severity=1.0 if region.severity is None else region.severity,
            )
            for region in self.regions
        )
        return Analysis(size=size, regions=tuple(regions), tags=self.tags, detector="fakexplained")

    def _box(self, region: FakexplainedRegion, size: Size) -> tuple[int, int, int, int]:
        across, down = (1.0, 1.0) if self.extent is None else (size.width / self.extent, size.height / self.extent)
        x0, y0, x1, y1 = region.box
        box = clip_box((x0 * across, y0 * down, x1 * across, y1 * down), size)
        if box is None:
            unit = "pixels" if self.extent is None else f"units of which the image has {self.extent:g} each way"
            raise InputError(
                f"Expected boxes inside {size.width}x{size.height} pixels of {self.name!r}, got {region.box} in "
                f"{unit}: give boxes in pixels of the image."
            )
        return box


def read_corners(box: Any, least: float) -> Corners:
    """The corners of a box in a record.

    Args:
        box: a JSON value.
        least: width and height must be at least this.

    Raises:
        UnusableError: not four finite numbers, too small, or too far out (``bad_region``).
    """
    if not isinstance(box, list) or len(box) != 4 or not all(is_finite(side) for side in box):
        raise UnusableError("bad_region", f"expected a box of four finite numbers, got {box!r:.60}")
    x0, y0, x1, y1 = map(float, box)
    if max(map(abs, (x0, y0, x1, y1))) > _FARTHEST:
        raise UnusableError("bad_region", f"expected a box within {_FARTHEST:g} pixels, got {box!r:.60}")
    if not (x0 < x1 and y0 < y1 and x1 - x0 >= least and y1 - y0 >= least):
        raise UnusableError("bad_region", f"expected a box (x0, y0, x1, y1) of at least one pixel, got {box!r:.60}")
    return x0, y0, x1, y1
