"""Accepted candidates as a data set: our own records, and AnomReason's JSON beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from refiner.claims import DEFAULT_CATEGORY
from refiner.data.anomreason import to_document
from refiner.data.fakexplained.images import IMAGES
from refiner.data.problems import Problem
from refiner.data.samples import UNNAMED, Sample
from refiner.data.writing import check_target, convert_data
from refiner.data.writing.names import FileNames
from refiner.errors import InputError
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.images import save_png
from refiner.types import Analysis, Claim, Region
from refiner.verify.candidates import Flaw
from refiner.verify.listing import Row
from refiner.verify.summary import accepted_rows
from refiner.verify.verification import Verification

ANOMALIES_FILE: Final = "anomalies.json"
EXPORT_FILE: Final = "export.json"

Track = Callable[[Sequence[int]], Iterable[int]]
"""Yields numbers, and shows how many are done."""


class AcceptedData:
    """The images with accepted candidates as a data set; the placed candidates of each are its truth.

    Args:
        verification: of the candidates.
        rows: the accepted ones.
    """

    def __init__(self, verification: Verification, rows: Iterable[Row]) -> None:
        self.verification, self.problems = verification, list[Problem]()
        images: dict[str, list[Row]] = {}
        for row in rows:
            images.setdefault(row.image, []).append(row)
        self.rows = tuple(images.values())
        """The accepted candidates of each image."""
        self.names = tuple(images)
        self.claims: dict[int, tuple[Claim, ...]] = {}
        """Those of the samples that were read, unplaced ones included."""

    def load(self, index: int) -> Sample:
        """Read one sample. An image without a label is generated, because a flaw of it was accepted."""
        found = [self.verification.load(row.id) for row in self.rows[index]]
        look, flaws = found[0][0], [candidate.flaw for _, candidate in found]
        self.claims[index] = tuple(flaw.claim for flaw in flaws)
        placed = [flaw for flaw in flaws if flaw.claim.box is not None]
        regions = tuple(map(_region, placed))
        return Sample(
            name=look.name,
            group=look.group,
            image=look.image,
            fake=True if look.fake is None else look.fake,
            truth=Analysis(size=look.size, regions=regions, detector=look.detector),
            categorised=all(flaw.claim.category for flaw in placed),
            anomalies=tuple(flaw.claim for flaw in placed),
        )


def _region(flaw: Flaw) -> Region:
    claim, mask = flaw
    return Region(
        mask=mask,
        box=claim.box,
        name=claim.name or UNNAMED,
        location=claim.location,
        explanation=claim.explanation,
        reasoning=claim.reasoning,
        category=claim.category or DEFAULT_CATEGORY,
        severity=1.0 if claim.severity is None else claim.severity,
    )


def export_accepted(
    verification: Verification,
    target: str | Path,
    problems: list[Problem],
    *,
    by: str | None = None,
    track: Track = iter,
) -> Json:
    """Write the accepted candidates as training data.

    ``images/`` has the images as PNG files. ``annotations.jsonl`` has the candidates whose place is known, as our own
    records (``open_data("fakexplained:TARGET")``; boxes, no masks). ``anomalies.json`` has all of them in AnomReason's
    form, by the paths of the images below ``images/``. ``export.json`` has what is returned. An image of which nothing
    was accepted is not written: it may have flaws, so it is no example of an image without flaws.

    Args:
        verification: candidates and judgements.
        target: a folder that does not exist yet, or is empty.
        problems: gets what cannot be read, as from ``convert_data``.
        by: as for ``accepted_rows``.
        track: counts the images that are done.

    Returns:
        ``by``; ``images``, ``regions`` (in the records) and ``anomalies`` (in AnomReason's file): numbers of what was
        written; ``only_in_words``: images without a record, because the places of their flaws are not known;
        ``without_accepted``: names of the images of which no candidate was accepted; ``files``: name -> path.

    Raises:
        InputError: nothing was accepted, or no accepted image can be read.
        OutputError: the target is not empty, or cannot be written.
    """
    folder = Path(target)
    check_target(folder)
    rows = accepted_rows(verification, by)
    if not rows:
        raise InputError(f"Expected accepted candidates, got none of {len(verification.rows)}: judge some first.")
    new = not folder.exists()
    try:
        return _export(AcceptedData(verification, rows), folder, problems, by, track)
    except BaseException:
        _remove(folder, whole=new)
        raise


def _remove(folder: Path, *, whole: bool) -> None:
    """Remove what was written into a folder that was empty, or the folder itself."""
    for path in [folder] if whole else list(folder.iterdir()):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _export(data: AcceptedData, folder: Path, problems: list[Problem], by: str | None, track: Track) -> Json:
    placed = [number for number, own in enumerate(data.rows) if any(row.placed for row in own)]
    paths: dict[int, str] = {}
    regions = 0
    if placed:
        done = convert_data(data, folder, "refiner", problems, numbers=track(placed), note_path=paths.__setitem__)
        regions = done.regions
    in_words = dict(_save_others(data, folder / IMAGES, sorted(set(range(len(data.rows))) - set(placed)), problems))
    paths |= in_words
    if not paths:
        raise InputError("No accepted image can be read: fix the problems listed above.")
    claims = {paths[number]: data.claims[number] for number in sorted(paths)}
    atomic_write(folder / ANOMALIES_FILE, dumps(to_document(claims)) + "\n")
    kept = {row.image for own in data.rows for row in own}
    others = dict.fromkeys(row.image for row in data.verification.listing.rows if row.image not in kept)
    document: Json = {
        "by": by,
        "images": len(paths),
        "regions": regions,
        "anomalies": sum(map(len, claims.values())),
        "only_in_words": sorted(in_words.values()),
        "without_accepted": list(others),
        "files": {path.name: str(path) for path in sorted(folder.iterdir())},
    }
    atomic_write(folder / EXPORT_FILE, dumps(document) + "\n")
    return document


def _save_others(
    data: AcceptedData, folder: Path, numbers: Iterable[int], problems: list[Problem]
) -> Iterator[tuple[int, str]]:
    """Save the images whose flaws have no place; yields numbers and paths below ``folder``."""
    names = FileNames()
    for number in numbers:
        name = data.names[number]
        try:
            sample = data.load(number)
        except InputError as error:
            problems.append(Problem("unreadable_sample", f"{name!r:.200}", "", str(error)))
            continue
        if sample.fake is False or sample.image is None:
            problems.append(Problem("real_with_regions", f"{name!r:.200}", "", "labelled real, with flaws; left out"))
            continue
        while (folder / (path := names.of(name))).exists():
            pass
        check_writable((folder / path).parent)
        save_png(sample.image, folder / path)
        yield number, path
