"""From the records of a detector to a table, rows of CSV and JSON Lines, and COCO. Records are read one by one.

An image without an answer is in no figure: the columns of ``refiner.coverage`` count such images. Areas are those of
the flaws whose place is known.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from refiner.coverage import Coverage
from refiner.data.writing.coco import write_coco
from refiner.data.writing.entries import Entry, Flaw, plain
from refiner.errors import InputError
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_stream, atomic_write, dumps
from refiner.records import analysis_from_dict, analysis_summary
from refiner.types import Analysis, Region

TABLE_FILE, TABLE_CSV = "detections.json", "detections.csv"
IMAGES_CSV, FLAWS_CSV, IMAGES_JSONL, COCO_FILE = "images.csv", "flaws.csv", "images.jsonl", "coco.json"
_IMAGE_COLUMNS: Final = (
    "index", "name", "group", "status", "cut_short", "unverified", "unplaced", "flaws", "severity", "burden", "area",
    "fake_probability", "categories", "tags", "error", "seconds",
)  # fmt: skip
_OF_REGION: Final = ("category", "severity", "score", "location", "explanation", "reasoning")
_FLAW_COLUMNS: Final = (
    "index", "name", "cut_short", "unverified", "number", "flaw", "placed", "x0", "y0", "x1", "y1", *_OF_REGION,
)  # fmt: skip


class Found(NamedTuple):
    """A record, read."""

    record: Json
    analysis: Analysis | None
    """None if there is no answer."""
    coverage: Coverage
    """Of this image."""

    @property
    def status(self) -> str:
        """``answered``, ``unreadable`` or ``failed``."""
        return next(name for name in ("answered", "unreadable", "failed") if getattr(self.coverage, name))


def read_found(record: Json) -> Found:
    """Read a record of ``refiner detect``, or of an evaluation with a detector.

    Raises:
        InputError: it has neither an analysis nor an error, or an analysis that cannot be read.
    """
    error, answer = record["error"], record.get("answer")
    if not isinstance(record.get("name"), str):
        raise InputError(f"The record {record['index']} has no name: run the detector again.")
    if isinstance(error, dict) and isinstance(error.get("kind"), str) and isinstance(error.get("detail"), str):
        return Found(record, None, Coverage.of_error(error["kind"]))
    if error is not None or not isinstance(answer, dict) or answer.get("analysis") is None:
        raise InputError(
            f"The record of {record['name']!r:.200} has no analysis of an image: name a folder that refiner detect, or "
            "refiner evaluate with a detector, wrote."
        )
    analysis = analysis_from_dict(answer["analysis"])
    return Found(record, analysis, Coverage.of(analysis))


class _Sums:
    """Sums over images, or over the flaws of one category."""

    def __init__(self) -> None:
        self.flawed = self.flaws = 0
        self.severity = 0.0

    def add(self, regions: Sequence[Region]) -> None:
        self.flawed += bool(regions)
        self.flaws += len(regions)
        self.severity += sum(region.severity for region in regions)

    def row(self, answered: int) -> Json:
        """The figures; a mean of nothing is None."""
        return {
            "flawed": self.flawed,
            "flaws": self.flaws,
            "flaws_per_image": self.flaws / answered if answered else None,
            "severity": self.severity / self.flaws if self.flaws else None,
        }


class Summary:
    """The table of a run, which grows with each record."""

    def __init__(self) -> None:
        self.coverage, self.errors = Coverage(), Counter[str]()
        self._all, self._categories = _Sums(), dict[str, _Sums]()
        self._area = self._burden = 0.0

    def add(self, found: Found) -> None:
        """Add an image."""
        self.coverage += found.coverage
        if found.analysis is None:
            self.errors[found.record["error"]["kind"]] += 1
            return
        regions = found.analysis.regions
        self._all.add(regions)
        self._area += found.analysis.artifact_ratio
        self._burden += found.analysis.burden
        for category in {region.category for region in regions}:
            sums = self._categories.setdefault(str(category), _Sums())
            sums.add([region for region in regions if region.category is category])

    def table(self, images: int) -> Json:
        """``coverage``, ``missing``, ``errors`` by kind, ``figures``, and the same by category of flaw.

        ``flawed`` counts images. ``severity`` is the mean over flaws; ``burden`` (severity times confidence, summed
        over the flaws of an image) and ``area`` (share of the pixels) are means over the answered images.

        Args:
            images: in the run; those without a record are ``missing``.
        """
        answered = self.coverage.answered
        means = {"burden": self._burden, "area": self._area}
        return {
            "images": images,
            "missing": images - self.coverage.images,
            "coverage": self.coverage.row(),
            "errors": dict(sorted(self.errors.items())),
            "figures": self._all.row(answered)
            | {name: total / answered if answered else None for name, total in means.items()},
            "categories": {name: sums.row(answered) for name, sums in sorted(self._categories.items())},
        }


def write_table(table: Json, folder: Path) -> list[Path]:
    """Write ``detections.json`` and ``detections.csv``, which has the coverage in each row.

    Raises:
        OutputError: the folder cannot be written.
    """
    beside = {"images": table["images"], "missing": table["missing"], **table["coverage"]}
    rows = [{"scope": "all", "name": "all", **beside, **table["figures"]}]
    rows += [{"scope": "category", "name": name, **beside, **row} for name, row in table["categories"].items()]
    return [
        atomic_write(folder / TABLE_FILE, dumps(table) + "\n"),
        atomic_write(folder / TABLE_CSV, csv_text(rows)),
    ]


def write_csv(records: Iterable[Json], folder: Path) -> list[Path]:
    """Write ``images.csv``, a row for each image, and ``flaws.csv``, a row for each flaw.

    Raises:
        InputError: a record cannot be read.
        OutputError: the folder cannot be written.
    """
    targets = [folder / IMAGES_CSV, folder / FLAWS_CSV]
    with atomic_stream(targets[0]) as of_images, atomic_stream(targets[1]) as of_flaws:
        images = csv.DictWriter(of_images, _IMAGE_COLUMNS, lineterminator="\n")
        flaws = csv.DictWriter(of_flaws, _FLAW_COLUMNS, lineterminator="\n")
        images.writeheader()
        flaws.writeheader()
        for found in map(read_found, records):
            images.writerow(_encodable(_image_row(found)))
            flaws.writerows(map(_encodable, _flaw_rows(found)))
    return targets


def _image_row(found: Found) -> Json:
    record, analysis, coverage = found
    row = {name: record.get(name) for name in ("index", "name", "group", "seconds")} | {"status": found.status}
    if analysis is None:
        return row | {"error": f"{record['error']['kind']}: {record['error']['detail']}"}
    return row | {
        "cut_short": coverage.cut_short,
        "unverified": coverage.unverified,
        "unplaced": sum(not region.placed for region in analysis.regions),
        "flaws": len(analysis.regions),
        "severity": max((region.severity for region in analysis.regions), default=None),
        "burden": analysis.burden,
        "area": analysis.artifact_ratio,
        "fake_probability": analysis.fake_probability,
        "categories": "; ".join(dict.fromkeys(str(region.category) for region in analysis.regions)),
        "tags": "; ".join(analysis.tags),
    }


def _flaw_rows(found: Found) -> Iterator[Json]:
    for number, region in enumerate(found.analysis.regions if found.analysis else (), start=1):
        yield {
            "index": found.record["index"],
            "name": found.record["name"],
            "cut_short": found.coverage.cut_short,
            "unverified": found.coverage.unverified,
            "number": number,
            "flaw": region.name,
            "placed": int(region.placed),
            **dict(zip(("x0", "y0", "x1", "y1"), region.box or (), strict=False)),
            **{name: getattr(region, name) for name in _OF_REGION},
        }


def _encodable(row: Json) -> Json:
    """The row; bytes of file names that are no UTF-8, and lone surrogates of models, become question marks."""
    return {name: plain(value) if isinstance(value, str) else value for name, value in row.items()}


def write_jsonl(records: Iterable[Json], folder: Path) -> list[Path]:
    """Write ``images.jsonl``: a line for each image, with its status and what was found, without masks.

    Raises:
        InputError: a record cannot be read.
        OutputError: the folder cannot be written.
    """
    target = folder / IMAGES_JSONL
    with atomic_stream(target) as lines:
        for found in map(read_found, records):
            record = found.record
            row = {name: record[name] for name in ("index", "name", "file", "data", "error") if name in record}
            summary = {} if found.analysis is None else analysis_summary(found.analysis)
            lines.write(dumps(row | {"status": found.status} | summary, indent=None) + "\n")
    return [target]


def write_coco_file(records: Iterable[Json], folder: Path, table: Json) -> list[Path]:
    """Write ``coco.json``: the answered images with their placed flaws, and in ``info`` the coverage.

    An image has the names of its unplaced flaws as ``unplaced``, since an annotation needs a place.

    Raises:
        InputError: a record cannot be read.
        OutputError: the folder cannot be written.
    """
    target = folder / COCO_FILE
    with atomic_stream(target) as stream:
        entries = (_entry(found) for found in map(read_found, records) if found.analysis is not None)
        write_coco(entries, stream, info={name: table[name] for name in ("images", "missing", "coverage")})
    return [target]


def _entry(found: Found) -> Entry:
    record, analysis = found.record, found.analysis
    assert analysis is not None
    return Entry(
        image=plain(record["name"]),
        size=analysis.size,
        fake=None,
        group=plain(record.get("group") or ""),
        tags=analysis.tags,
        flaws=tuple(_flaw(region) for region in analysis.regions if region.box is not None),
        unplaced=tuple(plain(region.explanation or region.name) for region in analysis.regions if not region.placed),
    )


def _flaw(region: Region) -> Flaw:
    assert region.box is not None
    mask = region.mask
    return Flaw(
        box=region.box,
        description=plain(region.explanation or region.reasoning or region.name),
        name=plain(region.name),
        reasoning=plain(region.reasoning),
        category=region.category,
        severity=region.severity,
        mask=None if mask is None else lambda: mask,
    )
