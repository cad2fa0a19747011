"""Our own records of FakeXplained::

    {"image": "sdxl/0001.png", "label": "fake", "generator": "sdxl", "tags": ["recognizability"],
     "regions": [{"box": [12, 40, 96.5, 128], "description": "The flamingo has three legs.", "name": "the legs",
                  "reasoning": "A flamingo has two.", "category": "anatomy", "severity": 0.8}]}

``image`` is a path in ``FOLDER/images``, or in ``FOLDER`` if the image is not there, with forward slashes. ``label`` is
``fake`` or ``real``. A box is (x0, y0, x1, y1) in pixels of the image, half-open. ``category`` is one of
``refiner.taxonomy.Category``, and ``severity`` runs from 0 to 1, the worst. Everything but ``image``, ``label`` and the
box of a region is optional. ``width`` and ``height`` are optional and are compared with the image. ``generator`` is the
group of the image; without it, the group is the first folder of the path. Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from refiner.data.fakexplained.images import IMAGES, FakexplainedImage, FakexplainedRegion, read_corners
from refiner.data.fields import is_finite, list_of, path_inside, text_of
from refiner.data.json_stream import Place
from refiner.data.problems import UnusableError
from refiner.data.texts import is_unicode
from refiner.taxonomy import Category
from refiner.types import Size

LABELS: Final = {"fake": True, "real": False}
"""Label -> whether the image is generated."""
_SMALLEST: Final = 1.0
"""Pixels of a side of a box."""


def read_own(value: Mapping[str, Any], place: Place) -> FakexplainedImage:
    """Read a record of our own.

    Raises:
        UnusableError: it cannot be used (``bad_record``, ``bad_region``).
    """
    label, generator = value.get("label"), value.get("generator")
    name = path_inside(value.get("image"), "image")
    if not isinstance(label, str) or label not in LABELS:
        raise UnusableError("bad_record", f"expected the label {' or '.join(LABELS)}, got {label!r:.60}")
    if generator is not None and not (isinstance(generator, str) and is_unicode(generator)):
        raise UnusableError("bad_record", f"expected the generator's name, got {generator!r:.60}")
    regions, tags = list_of(value, "regions"), list_of(value, "tags")
    if not all(isinstance(tag, str) and is_unicode(tag) for tag in tags):
        raise UnusableError("bad_record", f"expected tags as texts, got {tags!r:.60}")
    if regions and not LABELS[label]:
        raise UnusableError("bad_record", f"expected no regions for a real image, got {len(regions)}")
    return FakexplainedImage(
        name=name,
        paths=(f"{IMAGES}/{name}", name),
        fake=LABELS[label],
        generator=generator or "",
        regions=tuple(_region(region, number) for number, region in enumerate(regions)),
        tags=tuple(tags),
        size=_size(value),
        place=place,
    )


def _region(value: Any, number: int) -> FakexplainedRegion:
    try:
        if not isinstance(value, Mapping):
            raise UnusableError("bad_region", f"expected an object, got {value!r:.60}")
        return FakexplainedRegion(
            box=read_corners(value.get("box"), _SMALLEST),
            description=text_of(value, "description"),
            name=text_of(value, "name"),
            reasoning=text_of(value, "reasoning"),
            category=_category(text_of(value, "category")),
            severity=_severity(value.get("severity")),
        )
    except UnusableError as error:
        raise UnusableError("bad_region", f"region {number}: {error}") from error


def _category(text: str) -> Category | None:
    if not text:
        return None
    try:
        return Category(text)
    except ValueError as error:
        detail = f"expected a category of {', '.join(Category)}, got {text!r:.60}"
        raise UnusableError("bad_region", detail) from error


def _severity(value: Any) -> float | None:
    if value is None:
        return None
    if is_finite(value) and 0 <= value <= 1:
        return float(value)
    raise UnusableError("bad_region", f"expected a severity from 0 to 1, got {value!r:.60}")


def _size(value: Mapping[str, Any]) -> Size | None:
    height, width = (value.get(name) for name in ("height", "width"))
    if height is None and width is None:
        return None
    if isinstance(height, int) and isinstance(width, int) and not {bool} & {type(height), type(width)}:
        return Size(height, width)
    raise UnusableError(
        "bad_record", f"expected height and width in whole pixels, got {height!r:.30} and {width!r:.30}"
    )
