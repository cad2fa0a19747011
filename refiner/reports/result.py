"""A result on disk: pictures, a sheet, a page to read, and the run record."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from refiner.files import atomic_write_all, check_writable, dumps
from refiner.provenance import Kept, kept_of, of_attempt, png, slim
from refiner.records import to_record
from refiner.reports.overlays import before_after, overlay, sheet
from refiner.reports.result_page import page
from refiner.types import RefinementResult

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
    files["report.html"] = page(result, record).encode("utf-8")
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
