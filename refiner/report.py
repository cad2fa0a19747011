"""A result on disk: pictures, a sheet, a page to read, and the run record."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner import __version__
from refiner.images import ai_label, png_bytes
from refiner.overlays import before_after, overlay, sheet
from refiner.report_html import page
from refiner.runs import atomic_write_all, check_writable, dumps, to_record
from refiner.types import Attempt, RefinementResult

_OURS = re.compile(r"((attempt|regions)-\d+|start|best|before_after)\.png")


def save_result(
    result: RefinementResult, folder: str | Path, config: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Write a result into a folder, which is made where it is missing.

    ``start.png`` and ``best.png`` (bit-exact), ``attempt-00.png`` and so on (bit-exact), ``regions-00.png`` (the
    same with its regions marked), ``before_after.png``, ``sheet.png``, ``report.html``, ``run.json``. Pictures that a
    model made carry an AI-generated label (IPTC digital source type), prompt and seed in their metadata. An earlier
    result in the folder stays whole until all of the new one is on the disk, and is then replaced.

    Args:
        result: what the loop returned.
        folder: where to write.
        config: the settings of the run, plain JSON values, for the record.

    Returns:
        Name -> path of each file, such as ``best`` -> ``<folder>/best.png``.

    Raises:
        OutputError: the folder or disk cannot be written; nothing half-written stays behind.
        ConfigError: ``config`` holds something that JSON cannot carry.
    """
    root = check_writable(folder)
    files = _pictures(result)
    names = {Path(name).stem: name for name in files} | {"report": "report.html", "run": "run.json"}
    record = to_record(result, config, names)
    files["report.html"] = page(result, record).encode("utf-8")
    files["run.json"] = (dumps(record) + "\n").encode("utf-8")
    atomic_write_all(root, files)
    for path in root.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in files:
            with contextlib.suppress(OSError):
                path.unlink()
    return {name: str(root / file) for name, file in names.items()}


def _pictures(result: RefinementResult) -> dict[str, bytes]:
    given = any(attempt.action == "given" for attempt in result.attempts)
    painted = [attempt for attempt in result.attempts if attempt.image is not None]
    best = result.attempts[result.best]
    files = {}
    for name, attempt in [("start", painted[0]), ("best", best)] if painted else []:
        files[f"{name}.png"] = _attempt_png(attempt, given=given)
    for attempt in painted:
        files[f"attempt-{attempt.index:02d}.png"] = _attempt_png(attempt, given=given)
        if attempt.image is not None:
            marked = overlay(attempt.image, attempt.analysis)
            files[f"regions-{attempt.index:02d}.png"] = png_bytes(marked, _metadata(attempt, given=given))
    label = _metadata(best, given=given)
    pair = before_after(result)
    if pair is not None:
        files["before_after.png"] = png_bytes(pair, label)
    files["sheet.png"] = png_bytes(sheet(result), label)
    return files


def _attempt_png(attempt: Attempt, *, given: bool) -> bytes:
    assert attempt.image is not None
    return png_bytes(attempt.image, _metadata(attempt, given=given))


def _metadata(attempt: Attempt, *, given: bool) -> dict[str, str]:
    if attempt.action == "given":
        return {"Software": f"refiner {__version__}"}
    settings = {"prompt": attempt.prompt, "negative_prompt": attempt.negative_prompt, "seed": attempt.seed}
    label = ai_label(from_given_image=given and attempt.action == "inpaint")
    return label | {"Software": f"refiner {__version__}", "refiner": json.dumps(settings)}
