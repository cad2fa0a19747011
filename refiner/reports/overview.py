"""Several results of one prompt on disk: a folder for each, and one sheet of all kept images."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from refiner.files import atomic_write
from refiner.images import png_bytes
from refiner.provenance import ai_label
from refiner.reports.overlays import overview
from refiner.reports.result import remove_result
from refiner.types import RefinementResult

_SHEET = "overview.png"
_FOLDER = re.compile(r"image-\d{2,}")


def image_folder(root: Path, index: int) -> Path:
    """The folder of the result with this index, from 0."""
    return root / f"image-{index:02d}"


def save_overview(results: Sequence[RefinementResult], root: Path) -> Path:
    """Write ``overview.png``, with an AI-generated label if a model made a part of it.

    Raises:
        OutputError: the file cannot be written.
    """
    attempts = [attempt for result in results for attempt in result.attempts]
    made = any(attempt.image is not None and attempt.action != "given" for attempt in attempts)
    label = ai_label(from_given_image=any(attempt.action == "given" for attempt in attempts)) if made else {}
    return atomic_write(root / _SHEET, png_bytes(overview(results), label))


def remove_earlier(root: Path, current: Collection[Path]) -> None:
    """Delete what an earlier run wrote into ``root`` and into the folders of its images, except into ``current``."""
    if root in current:
        (root / _SHEET).unlink(missing_ok=True)
    else:
        remove_result(root)
    for folder in root.iterdir():
        if folder.is_dir() and _FOLDER.fullmatch(folder.name) and folder not in current:
            remove_result(folder)
            with contextlib.suppress(OSError):  # files of the user
                folder.rmdir()
