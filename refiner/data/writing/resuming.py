"""Folders that a stopped run can continue: a record in the folder says with which settings it is written."""

from __future__ import annotations

import json
from pathlib import Path

from refiner.data.writing.conversion import check_target
from refiner.errors import ConfigError
from refiner.files import Json, atomic_write, check_writable, dumps


def open_target(folder: Path, file: str, record: Json) -> None:
    """Write the record into a folder, or check that an earlier run has written it with the same settings.

    Args:
        folder: new, empty, or of an earlier run.
        file: name of the record.
        record: the settings, plain JSON values.

    Raises:
        ConfigError: the earlier run had other settings, or its record cannot be read.
        OutputError: the folder holds other files and no record, or cannot be written.
    """
    path = folder / file
    if not path.is_file():
        check_target(folder)
        check_writable(folder)
        atomic_write(path, dumps(record) + "\n")
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The record {str(path)!r} cannot be read ({error}): choose another folder.") from error
    if earlier != record:
        raise ConfigError(
            f"{str(folder)!r} was written with {json.dumps(earlier)}, not with {json.dumps(record)}: choose another "
            "folder."
        )
    check_writable(folder)
