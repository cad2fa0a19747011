"""A result on disk: pictures, a sheet, a page to read, and the run record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from refiner.files import atomic_write_all, check_writable, dumps
from refiner.provenance import Kept, kept_of, of_attempt, png, slim
from refiner.records import to_record
from refiner.reports.overlays import KIND_COLOURS, before_after, fitted, flaw_words, marks, overlay, sheet
from refiner.reports.page import render
from refiner.reports.plots import charts, score_of
from refiner.types import Attempt, RefinementResult

_STOPS = {
    "clean": "Stopped because nothing wrong was left.",
    "rounds": "Stopped after the last of its rounds.",
    "no_progress": "Stopped because further rounds brought nothing better.",
    "budget": "Stopped because its budget was spent.",
    "repeat": "Stopped because a picture came out a second time.",
    "unreadable": "Stopped because the detector's answer could not be read.",
    "interrupted": "Stopped by the user.",
}

_SIDE = 640
"""Longest side of a picture on the page, in pixels."""
_OURS = re.compile(r"((attempt|regions)-\d+|start|best|before_after)\.png")


def save_result(
    result: RefinementResult,
    folder: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    made_from: str | Path | None = None,
) -> dict[str, str]:
    """Write a result into a folder, which is made where it is missing.

    ``start.png`` and ``best.png`` (bit-exact), ``attempt-00.png`` and so on (bit-exact), ``regions-00.png`` (the
    same with its regions marked), ``before_after.png``, ``sheet.png``, ``report.html``, ``run.json``. Every picture
    holds the run record, and those that a model made an AI-generated label (``refiner.provenance``). An earlier
    result in the folder stays whole until all of the new one is on the disk, and is then replaced.

    Args:
        result: what the loop returned.
        folder: where to write.
        config: the settings of the run, plain JSON values, for the record.
        made_from: the file that the run started from, whose XMP packet and colour profile the pictures keep.

    Returns:
        Name -> path of each file, such as ``best`` -> ``<folder>/best.png``.

    Raises:
        OutputError: the folder or disk cannot be written; nothing half-written stays behind.
        ConfigError: ``config`` holds something that JSON cannot carry.
    """
    root = check_writable(folder)
    pictures = _pictures(result)
    names = {name: f"{name}.png" for name in pictures} | {"report": "report.html", "run": "run.json"}
    record = to_record(result, config, names)
    small, kept = slim(record), kept_of(made_from) if made_from is not None else Kept()
    files = {
        f"{name}.png": png(image, of_attempt(result, index, small, kept), kept)
        for name, (image, index) in pictures.items()
    }
    files["report.html"] = _page(result, record).encode("utf-8")
    files["run.json"] = (dumps(record) + "\n").encode("utf-8")
    atomic_write_all(root, files)
    for path in root.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in files:
            with contextlib.suppress(OSError):
                path.unlink()
    return {name: str(root / file) for name, file in names.items()}


def _pictures(result: RefinementResult) -> dict[str, tuple[Image.Image, int]]:
    """Name -> picture, and the attempt that tells how it was made."""
    painted = [(attempt.index, attempt.image) for attempt in result.attempts if attempt.image is not None]
    pictures = {}
    best = result.attempts[result.best].image
    if painted:
        pictures["start"] = (painted[0][1], painted[0][0])
    if best is not None:
        pictures["best"] = (best, result.best)
    for index, image in painted:
        pictures[f"attempt-{index:02d}"] = (image, index)
        pictures[f"regions-{index:02d}"] = (overlay(image, result.attempts[index].analysis), index)
    pair = before_after(result)
    if pair is not None:
        pictures["before_after"] = (pair, result.best)
    made = (index for index, _ in painted if result.attempts[index].action != "given")
    pictures["sheet"] = (sheet(result), next(made, result.best))
    return pictures


def _page(result: RefinementResult, record: Mapping[str, Any]) -> str:
    """The whole HTML document of a result; ``record`` is its run record."""
    painted = [attempt for attempt in result.attempts if attempt.image is not None]
    start, best = (painted or result.attempts)[0], result.attempts[result.best]
    return render(
        "result.html",
        title=result.prompt,
        result=result,
        start=start,
        best=best,
        lead=_lead(result),
        figures=list(_figures(result, start, best)),
        charts=charts(result),
        settings=dumps({"config": record["config"], "environment": record["environment"]}),
        colours=KIND_COLOURS,
        layers=_layers,
        reason=_reason,
        facts=_facts,
    )


def _lead(result: RefinementResult) -> str:
    count = len(result.attempts)
    kept = "The start image was kept." if result.best == 0 else f"Attempt {result.best} was kept."
    return f"{kept} {count} attempt{'s' if count > 1 else ''}. {_STOPS[result.stop]}"


def _figures(result: RefinementResult, start: Attempt, best: Attempt) -> Iterator[tuple[str, str, str]]:
    """Name, value of the start ("" where it has none) and value of the best."""
    if start.analysis and best.analysis:
        yield "Flaws found", str(len(start.analysis.regions)), str(len(best.analysis.regions))
        before, after = (100 * analysis.artifact_ratio for analysis in (start.analysis, best.analysis))
        yield "Flagged area, %", f"{before:.1f}", f"{after:.1f}"
    for name in dict.fromkeys(score.name for score in best.scores):
        values = score_of(start, name), score_of(best, name)
        if None not in values:
            yield name, f"{values[0]:.4g}", f"{values[1]:.4g}"
    yield "Denoiser rows", "", str(result.calls.denoiser_rows)
    yield "Detector calls", "", str(result.calls.detector_calls)
    yield "Seconds", "", f"{sum(attempt.seconds for attempt in result.attempts):.1f}"


def _layers(attempt: Attempt, side: int) -> list[Image.Image]:
    """The picture of an attempt, and what is laid over it: marks for a picture shown at ``side`` pixels."""
    assert attempt.image is not None
    shown = attempt.image if max(attempt.image.size) <= _SIDE else fitted(attempt.image, _SIDE)
    if attempt.analysis is None or not attempt.analysis.regions:
        return [shown]
    return [shown, marks(attempt.analysis, fitted(shown, side).size)]


def _reason(attempt: Attempt) -> str:
    reason = attempt.reason + (f" ({attempt.error})" if attempt.error else "")
    return reason[:1].upper() + reason[1:]


def _facts(attempt: Attempt) -> list[str]:
    facts = [flaw_words(attempt.analysis)]
    facts += [f"{score.name}: {score.value:.4g}" for score in attempt.scores]
    if attempt.analysis is not None and attempt.analysis.fake_probability is not None:
        facts.append(f"looks generated: {attempt.analysis.fake_probability:.0%}")
    return [*facts, f"seed {attempt.seed}", f"{attempt.seconds:.1f} s"]
