"""What every format writes about a sample: its label, and its flaws with a box each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from refiner.data.problems import UnusableError
from refiner.data.samples import UNNAMED, Sample
from refiner.taxonomy import Category
from refiner.types import Box, Claim, Mask, Region, Size

SMALLEST_PART: Final = 0.0002
"""Share of the image; a connected part of a joined mask below it gets no box."""

Note = Callable[[str, str], None]
"""Takes kind and detail of a problem that does not cost the sample."""


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One flaw with its place."""

    box: Box
    """In pixels, half-open, inside the image."""
    description: str
    """What is wrong, else why, else a name or category; "" if nothing is known."""
    name: str = ""
    reasoning: str = ""
    category: Category | None = None
    """None if unknown."""
    severity: float | None = None
    """In [0, 1], 1 = worst; None if unknown."""
    mask: Callable[[], Mask] | None = None
    """Makes the mask, bool (H, W); None if only the box is known."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image with its flaws."""

    image: str
    """Path of its file below the folder of the images."""
    size: Size
    fake: bool | None
    """Whether it is generated; None if unknown."""
    group: str
    tags: tuple[str, ...]
    flaws: tuple[Flaw, ...]
    """Those whose place is known."""
    unplaced: tuple[str, ...] = ()
    """Descriptions of the others."""


def entry_of(sample: Sample, image: str, size: Size, note: Note) -> Entry:
    """What is written about a sample.

    Notes: ``unplaced_region`` (a flaw whose place is not known), ``small_part`` (parts of a joined mask below
    ``SMALLEST_PART``); these are left out. ``empty_text`` (flaws about which nothing is said) are kept.

    Args:
        sample: with its image.
        image: path of the file that is written.
        size: of the image.
        note: is told what is left out.

    Raises:
        UnusableError: neither a label nor a truth (``no_label``), or a real image with flaws (``real_with_regions``).
    """
    regions, fake = sample.truth.regions if sample.truth else (), is_fake(sample)
    if regions and not fake:
        raise UnusableError("real_with_regions", f"labelled real, but its truth has {len(regions)} regions; left out")
    separate = sample.truth is not None and sample.itemised
    flaws = tuple((_separate if separate else _joined)(sample, size, note))
    if silent := sum(not flaw.description for flaw in flaws):
        note("empty_text", f"{silent} of {len(flaws)} regions have no text; they are kept without one")
    tags = sample.truth.tags if sample.truth else ()
    return Entry(
        image=image,
        size=size,
        fake=fake,
        group=plain(sample.group),
        tags=tuple(filter(None, map(plain, tags))),
        flaws=flaws,
    )


def is_fake(sample: Sample) -> bool:
    """Whether a sample is generated: its label, or else whether it has flaws.

    Raises:
        UnusableError: neither a label nor a truth (``no_label``).
    """
    if sample.fake is not None:
        return sample.fake
    if sample.truth is None and sample.anomalies is None:
        raise UnusableError("no_label", "neither a label nor a truth says whether it is generated; left out")
    return bool((sample.truth and sample.truth.regions) or sample.anomalies)


def _separate(sample: Sample, size: Size, note: Note) -> Iterator[Flaw]:
    """The flaws of a truth that has a region for each."""
    regions, words = sample.truth.regions if sample.truth else (), sample.anomalies or ()
    claims = words if len(words) == len(regions) else (Claim(),) * len(regions)
    for region, claim in zip(regions, claims, strict=True):
        if region.box is None:
            note("unplaced_region", _unplaced(region.explanation or region.name))
        else:
            mask = None if region.mask is None else functools.partial(region.pixels, size)
            yield _flaw(region, claim, region.box, mask, categorised=sample.categorised)


def _joined(sample: Sample, size: Size, note: Note) -> Iterator[Flaw]:
    """The connected parts of a truth that joins the flaws in one mask; the words fit them only if there is one flaw."""
    regions, words = sample.truth.regions if sample.truth else (), sample.anomalies or ()
    parts = [(region, box, mask) for region in regions for box, mask in _parts(region.pixels(size), note)]
    known = len(words) == 1 and bool(parts)
    for claim in () if known else words:
        note("unplaced_region", _unplaced(claim.explanation or claim.name))
    for region, box, mask in parts:
        yield _flaw(region, words[0] if known else Claim(), box, mask, categorised=sample.categorised)


def _unplaced(text: str) -> str:
    return f"the place of {plain(text)!r:.60} is not known; left out"


def _parts(mask: Mask, note: Note) -> Iterator[tuple[Box, Callable[[], Mask]]]:
    """Box and mask of each connected part (8 neighbours), in the order of their first pixels."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = areas >= SMALLEST_PART * mask.size
    if not large.all():
        share = f"{100 * SMALLEST_PART:g} % of the image"
        note("small_part", f"{int((~large).sum())} of {count} parts of its mask cover less than {share}; left out")
    places = ndimage.find_objects(labels)
    for index in np.flatnonzero(large).tolist():
        rows, columns = places[index]
        yield (columns.start, rows.start, columns.stop, rows.stop), functools.partial(_part, labels, index + 1)


def _part(labels: NDArray[np.int32], number: int) -> Mask:
    part: Mask = labels == number
    return part


def _flaw(region: Region, claim: Claim, box: Box, mask: Callable[[], Mask] | None, *, categorised: bool) -> Flaw:
    category = region.category if categorised else claim.category
    name = plain("" if region.name == UNNAMED else region.name) or plain(claim.name)
    reasoning = plain(region.reasoning or claim.reasoning)
    words = "" if category is None else str(category).replace("_", " ")
    return Flaw(
        box=box,
        description=plain(region.explanation or claim.explanation) or reasoning or name or words,
        name=name,
        reasoning=reasoning,
        category=category,
        severity=claim.severity,
        mask=mask,
    )


def plain(text: str) -> str:
    """A text that can be encoded as UTF-8, without blanks around it."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()
