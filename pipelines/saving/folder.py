"""Save a RefinedPipeline as an ordinary diffusers folder with one more file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.files import check_writable
from refiner.pipelines.saving.record import Wrapped
from refiner.pipelines.saving.settings import PARTS, SavedSettings
from refiner.protocols import Saveable

_PIPELINES = ("inpainter", "second_stage", "editor")
_OF_UPLOADS = ("push_to_hub", "repo_id", "commit_message", "private", "create_pr", "token")
"""Options of diffusers' ``save_pretrained`` that say whether and how the folder is uploaded."""


def save_folder(
    pipe: Wrapped, folder: str | Path, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> None:  # fmt: skip
    """Save a pipeline with its parts.

    Args:
        pipe: the RefinedPipeline.
        folder: where to.
        settings: its fields of ``SavedSettings`` that are no parts.
        options: for ``save_pretrained`` of the pipelines.

    Raises:
        OutputError: the folder cannot be written.
    """
    files = {name: value for name, value in options.items() if name not in _OF_UPLOADS}
    check_writable(folder)
    places: dict[str, Any] = {name: pipe.ids[name] for name in PARTS if name in pipe.ids}
    for name in {"detector", "judge", *_PIPELINES} - places.keys():
        if isinstance(part := getattr(pipe, name), Saveable):
            part.save_pretrained(Path(folder) / name, **(files if name in _PIPELINES else {}))
            places[name] = f"./{name}"
    SavedSettings(**settings, **places).write(folder)
    pipe.pipe.save_pretrained(str(folder), **options)
