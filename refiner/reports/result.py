"""A result on disk: images, a sheet, a report, and the run record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from refiner.files import atomic_write_all, check_writable, dumps
from refiner.ledger import Prices
from refiner.provenance import metadata_of_given, of_attempt, png, shows_given, slim
from refiner.records import to_record
from refiner.reports.overlays import KIND_COLOURS, before_after, fitted, marks, overlay, sheet
from refiner.reports.page import render
from refiner.reports.plots import charts, score_of
from refiner.reports.terms import legend
from refiner.reports.wording import judge_words, judges_abbreviated
from refiner.types import Attempt, RefinementResult

_STOPS = {
    "clean": "Stopped because no flaws were left.",
    "rounds": "Stopped after the last round.",
    "no_progress": "Stopped because further rounds brought no improvement.",
    "budget": "Stopped because the budget was used up.",
    "repeat": "Stopped because the same image was generated twice.",
    "unreadable": "Stopped because the detector's answer could not be read.",
    "interrupted": "Stopped by the user.",
    "failed": "Stopped because a part failed.",
    "unrefined": "Latents were returned, which are not refined.",
}

Files = Literal["all", "kept"]
_SIDE = 640
"""Longest side of an image on the page, in pixels."""
_OURS = re.compile(
    r"((attempt|regions)-\d+|candidate-\d+-\d+-\d+|start|best|before_after|sheet)\.png|report\.html|run\.json"
)


def save_result(
    result: RefinementResult,
    folder: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    made_from: str | Path | None = None,
    prices: Prices | None = None,
    files: Files = "all",
) -> dict[str, str]:
    """Write a result into a folder, which is created if it is missing.

    ``start.png`` and ``best.png`` (bit-exact), ``attempt-00.png`` and so on (bit-exact), ``regions-00.png`` (the
    same with its regions marked), ``before_after.png``, ``sheet.png``, ``report.html`` and ``run.json``. Of candidates
    that were kept, ``candidate-01-00-00.png`` and so on (attempt, patch, candidate; only the painted part). Every image
    holds the run record; those that a model made also hold an AI-generated label (``refiner.provenance``). An earlier
    result in the folder is replaced only after the whole new one is on the disk.

    Args:
        result: of the loop.
        folder: where to write.
        config: the settings of the run for the record, plain JSON values.
        made_from: the file of the given image that the run started from, whose metadata is kept; None: the metadata
            that ``load_image`` read with the image is kept.
        prices: of the chat models, for the record.
        files: "kept": only ``start.png``, ``best.png`` and ``run.json``.

    Returns:
        Name -> path of each file, such as ``best`` -> ``<folder>/best.png``.

    Raises:
        OutputError: the folder or disk cannot be written; no half-written file stays.
        ConfigError: ``config`` holds a value that JSON does not have.
    """
    root = check_writable(folder)
    pictures = _start_and_best(result) if files == "kept" else _pictures(result)
    names = {name: f"{name}.png" for name in pictures} | {"run": "run.json"}
    names |= {"report": "report.html"} if files == "all" else {}
    record = to_record(result, config, names, prices)
    small, kept = slim(record), metadata_of_given(result, made_from)
    contents = {}
    for name, (image, index) in pictures.items():
        whole = image is result.attempts[index].image and shows_given(result, index)
        label = of_attempt(result, index, small, kept)
        contents[f"{name}.png"] = png(image, label, kept if whole else kept.for_other_pixels())
    if "report" in names:
        contents["report.html"] = _page(result, record).encode("utf-8")
    contents["run.json"] = (dumps(record) + "\n").encode("utf-8")
    atomic_write_all(root, contents)
    remove_result(root, keep=contents)
    return {name: str(root / file) for name, file in names.items()}


def remove_result(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete the files that ``save_result`` wrote into a folder, except those whose names are in ``keep``."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _start_and_best(result: RefinementResult) -> dict[str, tuple[Image.Image, int]]:
    """As ``_pictures``, the first image and the kept one."""
    images = [(attempt.image, attempt.index) for attempt in result.attempts if attempt.image is not None]
    pictures = {"start": images[0]} if images else {}
    best = result.attempts[result.best].image
    return pictures if best is None else {**pictures, "best": (best, result.best)}


def _pictures(result: RefinementResult) -> dict[str, tuple[Image.Image, int]]:
    """Name -> image, and the index of the attempt whose record it holds."""
    images = [(attempt.image, attempt.index) for attempt in result.attempts if attempt.image is not None]
    pictures = _start_and_best(result)
    for image, index in images:
        pictures[f"attempt-{index:02d}"] = (image, index)
        pictures[f"regions-{index:02d}"] = (overlay(image, result.attempts[index].analysis), index)
        for patch, one in enumerate(result.attempts[index].candidates):
            cut = {f"candidate-{index:02d}-{patch:02d}-{number:02d}": each for number, each in enumerate(one.images)}
            pictures |= {name: (each, index) for name, each in cut.items()}
    pair = before_after(result)
    if pair is not None:
        pictures["before_after"] = (pair, result.best)
    made = (index for _, index in images if result.attempts[index].action != "given")
    pictures["sheet"] = (sheet(result), next(made, result.best))
    return pictures


def _page(result: RefinementResult, record: Mapping[str, Any]) -> str:
    """The whole HTML document of a result; ``record`` is its run record."""
    start = next((attempt for attempt in result.attempts if attempt.image is not None), result.attempts[0])
    best = result.attempts[result.best]
    return render(
        "result.html",
        title=result.prompt,
        result=result,
        start=start,
        best=best,
        stop=_STOPS[result.stop],
        figures=list(_figures(result, start, best)),
        charts=charts(result),
        terms=legend(("burden", "denoiser_rows", *judges_abbreviated(result))),
        settings=dumps({"config": record["config"], "environment": record["environment"]}),
        colours=KIND_COLOURS,
        layers=_layers,
        numbers={id(patch): number for number, patch in enumerate(result.candidates)},
        id=id,
    )


def _figures(result: RefinementResult, start: Attempt, best: Attempt) -> Iterator[tuple[str, str, str]]:
    """Name, value of the start ("" if it has none) and value of the best."""
    if start.analysis and best.analysis:
        yield "Flaws found", str(len(start.analysis.regions)), str(len(best.analysis.regions))
        shares = (analysis.known_ratio for analysis in (start.analysis, best.analysis))
        before, after = ("not known" if share is None else f"{100 * share:.1f}" for share in shares)
        yield "Flagged area, %", before, after
    for name in dict.fromkeys(score.name for score in best.scores):
        values = score_of(start, name), score_of(best, name)
        if None not in values:
            told = judge_words(name)
            yield f"{told[:1].upper()}{told[1:]}", f"{values[0]:.4g}", f"{values[1]:.4g}"
    yield "Denoiser rows", "", str(result.calls.denoiser_rows)
    yield "Detector calls", "", str(result.calls.detector_calls)
    yield "Seconds", "", f"{sum(attempt.seconds for attempt in result.attempts):.1f}"


def _layers(attempt: Attempt, side: int) -> list[Image.Image]:
    """The image of an attempt, and the layer of marks over it, for an image shown at ``side`` pixels."""
    assert attempt.image is not None
    shown = attempt.image if max(attempt.image.size) <= _SIDE else fitted(attempt.image, _SIDE)
    if attempt.analysis is None or not attempt.analysis.regions:
        return [shown]
    return [shown, marks(attempt.analysis, fitted(shown, side).size)]
