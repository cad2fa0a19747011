"""From the records of ``refiner refine --prompts`` to a table, rows of CSV, and a contact sheet of before and after."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import numpy as np

from refiner.errors import InputError
from refiner.evaluate.records import Records
from refiner.files import Json, atomic_stream, atomic_write, dumps
from refiner.images import load_image
from refiner.metrics.intervals import mean_interval
from refiner.records import analysis_from_dict
from refiner.reports.gallery import thumbnail, write_pages
from refiner.reports.overlays import flaw_words
from refiner.types import Analysis

TABLE_FILE, ROWS_FILE = "refinements.json", "images.csv"
_COLUMNS: Final = (
    "index", "name", "prompt", "folder", "stop", "verified", "attempts", "accepted", "failed_attempts",
    "denoiser_rows", "detector_calls", "flaws_start", "flaws_best", "burden_start", "burden_best", "seconds", "error",
)  # fmt: skip
_SIDE: Final = 300


class Card(NamedTuple):
    """A prompt of the contact sheet."""

    name: str
    prompt: str
    link: str
    """Of the folder of its images, from the page; "" if there is none."""
    pictures: list[tuple[str, str]]
    """Name and data URI of the images."""
    said: str
    lost: bool
    """Whether there is no result."""
    details: list[tuple[str, list[str]]]
    """What was found in each image."""


def table_of(records: Records, total: int) -> Json:
    """The table of a run.

    ``prompts``, ``done``, ``missing``, ``errors`` by kind, ``better`` (images that another one replaced), ``clean``
    before and after, ``figures``: means over the done ones of flaws, burden (severity times confidence, summed over
    the flaws of an image) and each judge's score, at the start and of the kept image, and of their ``change`` with its
    95 % interval (None for a single image, and if all changed alike), and the sum of ``denoiser_rows``. An image whose
    start was not analysed is in no mean.

    Args:
        records: of the run.
        total: prompts of the run.
    """
    errors, counts = Counter[str](), Counter[str]()
    values: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        if record["error"] is not None:
            errors[record["error"]["kind"]] += 1
            continue
        answer = record["answer"]
        counts.update(done=1, better=answer["accepted"] > 0, denoiser_rows=answer["calls"]["denoiser_rows"])
        before, after = (_measures(answer[when]) for when in ("start", "best"))
        counts.update(clean_start=before.get("flaws") == 0, clean_best=after.get("flaws") == 0)
        for name in before.keys() & after.keys():
            both = values.setdefault(name, ([], []))
            both[0].append(before[name])
            both[1].append(after[name])
    return {
        "prompts": total,
        "done": counts["done"],
        "missing": total - counts["done"] - sum(errors.values()),
        "errors": dict(sorted(errors.items())),
        "better": counts["better"],
        "clean": {"start": counts["clean_start"], "best": counts["clean_best"]},
        "denoiser_rows": counts["denoiser_rows"],
        "figures": {name: _figure(*values[name]) for name in sorted(values, key=_place)},
    }


def _place(name: str) -> tuple[bool, str]:
    return name not in ("flaws", "burden"), name


def _figure(before: list[float], after: list[float]) -> Json:
    low, high = mean_interval(np.subtract(after, before))
    start, best = sum(before) / len(before), sum(after) / len(after)
    return {"images": len(before), "start": start, "best": best, "change": best - start, "low": low, "high": high}


def _measures(look: Json) -> dict[str, float]:
    """Flaws, burden and scores of an image; without an analysis, only what is known."""
    analysis = _analysis(look)
    found = {} if analysis is None else {"flaws": float(len(analysis.regions)), "burden": analysis.burden}
    return found | {f"score of {name}": value for name, value in look["scores"].items()}


def _analysis(look: Json) -> Analysis | None:
    return None if look["analysis"] is None else analysis_from_dict(look["analysis"])


def write_table(table: Json, records: Records, folder: Path) -> list[Path]:
    """Write ``refinements.json``, and ``images.csv`` with a row for each prompt.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows = folder / ROWS_FILE
    with atomic_stream(rows) as stream:
        writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_row, records))
    return [atomic_write(folder / TABLE_FILE, dumps(table) + "\n"), rows]


def _row(record: Json) -> Json:
    row = {name: record.get(name) for name in ("index", "name", "prompt", "seconds")}
    if record["error"] is not None:
        return row | {"error": f"{record['error']['kind']}: {record['error']['detail']}"}
    answer = record["answer"]
    row |= {name: answer[name] for name in ("folder", "stop", "verified", "attempts", "accepted")}
    row |= {"failed_attempts": answer["failed"], **answer["calls"]}
    for when in ("start", "best"):
        found = _measures(answer[when])
        row |= {f"{name}_{when}": found.get(name) for name in ("flaws", "burden")}
    return row


def write_sheet(records: Records, indices: Iterable[int], folder: Path, *, lead: str, total: int) -> Path:
    """Write the contact sheet, ``contact/index.html`` and further pages; returns the first one.

    Args:
        records: of the run.
        indices: of the prompts to show, in order; read once.
        folder: of the run.
        lead: the sentence below the heading.
        total: number of ``indices``.

    Raises:
        OutputError: the folder cannot be written.
    """
    cards = (_card(records[index], folder) for index in indices)
    title = folder.resolve().name
    return write_pages("refinements.html", cards, folder, total=total, title=title, lead=lead)[0]


def _card(record: Json, folder: Path) -> Card:
    name, prompt = str(record["name"]), str(record.get("prompt") or "")
    if record["error"] is not None:
        return Card(name, prompt, "", [], record["error"]["detail"], True, [])
    answer = record["answer"]
    place, changed = folder / answer["folder"], answer["best"]["attempt"] != answer["start"]["attempt"]
    shown = [("before", answer["start"]), ("after", answer["best"])]
    pictures = [(when, picture) for when, look in shown if (picture := _picture(place, look))]
    before, after = (_analysis(look) for _, look in shown)
    said = f"{flaw_words(before)} → {flaw_words(after)}" if changed else f"{flaw_words(after)}; kept as it was"
    details = [(when, lines) for when, look in shown[: 1 + changed] if (lines := list(_lines(_analysis(look))))]
    return Card(name, prompt, f"../{quote(answer['folder'])}/", pictures, said, False, details)


def _picture(place: Path, look: Json) -> str:
    """A small image with its flaws marked; "" if it cannot be read any more."""
    try:
        return thumbnail(load_image(place / look["file"]), _analysis(look), _SIDE) if look["file"] else ""
    except InputError:
        return ""


def _lines(analysis: Analysis | None) -> Iterator[str]:
    for region in analysis.regions if analysis is not None else ():
        said = f": {region.explanation}" if region.explanation else ""
        yield f"{region.name} ({region.category}, severity {region.severity:.2f}){said}"
