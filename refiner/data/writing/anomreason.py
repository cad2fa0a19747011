"""AnomReason's files and folders, as ``refiner.data.anomreason`` and the authors' code read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, TextIO

from refiner.data.anomreason import FAKE, REAL, to_entry
from refiner.data.anomreason.splits import SPLITS
from refiner.data.problems import UnusableError
from refiner.data.samples import UNNAMED, Sample
from refiner.data.writing.entries import Note, is_fake, plain
from refiner.files import Json, dumps
from refiner.types import Claim, Size

FILES: Final = ("anomalies.json", "descriptions.json", SPLITS)
_DECIMALS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Worded:
    """One image with what is said about it."""

    image: str
    """Path of its file below the data set's folder."""
    fake: bool
    flaws: tuple[Claim, ...]
    """Empty for a real image."""
    description: str
    """Why a real image looks real; "" if unknown."""
    split: str
    """"" if unknown."""


def worded_of(sample: Sample, file: str, size: Size, note: Note) -> Worded:
    """What is written about a sample. Place and category of a flaw are not, as they have no place in this format.

    Notes: ``empty_text`` (flaws without an explanation) and ``no_severity``; these are kept as they are.

    Args:
        sample: with its image.
        file: name of the image file that is written.
        size: of the image.
        note: is told what is missing.

    Raises:
        UnusableError: neither a label nor a truth (``no_label``), a real image with flaws (``real_with_regions``), or a
            generated image whose flaws are not known in words (``no_words``).
    """
    fake, flaws = is_fake(sample), _flaws(sample)
    if not fake and (count := len(flaws or (sample.truth and sample.truth.regions) or ())):
        raise UnusableError("real_with_regions", f"labelled real, but its truth has {count} flaws; left out")
    if fake and flaws is None:
        raise UnusableError("no_words", "generated, but it is not known in words what is wrong; left out")
    flaws = tuple(map(_plain, flaws or ()))
    if silent := sum(not flaw.explanation for flaw in flaws):
        note("empty_text", f"{silent} of {len(flaws)} flaws have no explanation; they are kept without one")
    if unknown := sum(flaw.severity is None for flaw in flaws):
        note("no_severity", f"{unknown} of {len(flaws)} flaws have no severity; they are kept without one")
    return Worded(
        image=f"{FAKE if fake else REAL}/{file}",
        fake=fake,
        flaws=flaws,
        description="" if fake else plain(sample.caption),
        split=plain(sample.split),
    )


def _flaws(sample: Sample) -> tuple[Claim, ...] | None:
    """The flaws in words; None if some are known only by their place."""
    if sample.anomalies is not None:
        return sample.anomalies
    regions = sample.truth.regions if sample.truth else ()
    if sample.truth is None or not all(region.explanation for region in regions):
        return None
    # The severity of a true region may be its default; only claims say that it is unknown.
    return tuple(Claim(name=each.name, explanation=each.explanation, reasoning=each.reasoning) for each in regions)


def _plain(flaw: Claim) -> Claim:
    name = "" if flaw.name == UNNAMED else plain(flaw.name)
    return replace(flaw, name=name, explanation=plain(flaw.explanation), reasoning=plain(flaw.reasoning))


def write_anomreason(entries: Iterable[Worded], anomalies: TextIO, descriptions: TextIO, splits: TextIO) -> None:
    """Write JSON of file name -> anomalies, of file name -> description, and of split -> file names.

    The anomalies have the capitalised keys and severities such as ``25/100``, 0 for the worst. A real image without a
    description has an empty one. An image whose split is not known is in neither ``train`` nor ``test``.
    """
    files: dict[str, list[str]] = {"train": [], "test": []}
    counts = {True: 0, False: 0}
    for entry in entries:
        file = entry.image.rpartition("/")[2]
        value = list(map(_entry, entry.flaws)) if entry.fake else entry.description
        stream = anomalies if entry.fake else descriptions
        stream.write("{\n" if not counts[entry.fake] else ",\n")
        stream.write(f"{dumps(file, indent=None)}: {dumps(value, indent=None)}")
        counts[entry.fake] += 1
        if entry.split:
            files.setdefault(entry.split, []).append(file)
    for fake, stream in ((True, anomalies), (False, descriptions)):
        stream.write("\n}\n" if counts[fake] else "{}\n")
    splits.write(dumps(files) + "\n")


def _entry(flaw: Claim) -> Json:
    entry = to_entry(flaw)
    if flaw.severity is not None:
        number = f"{entry['Severity Score']:.{_DECIMALS}f}".rstrip("0").rstrip(".")
        entry["Severity Score"] = f"{number}/100"
    return entry
