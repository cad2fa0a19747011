"""Writing files safely: whole or not at all, and never an earlier one lost. JSON as every document is written."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.errors import OutputError

Json = dict[str, Any]


def check_writable(folder: str | Path) -> Path:
    """Make the folder where it is missing, and try to write into it.

    Raises:
        OutputError: it cannot be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise _output_error("folder", path, error) from error
    return path


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write a whole file or nothing: an earlier file of that name stays until the new one is complete.

    Raises:
        OutputError: the folder or disk cannot be written.
    """
    target = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    return atomic_write_all(target.parent, {target.name: content})[target.name]


def atomic_write_all(folder: Path, files: Mapping[str, bytes]) -> dict[str, Path]:
    """Write several files into a folder; none takes the place of an earlier one before all of them are on the disk.

    Args:
        folder: an existing folder.
        files: file name -> content; put in place in this order.

    Raises:
        OutputError: the folder or disk cannot be written.
    """
    token = secrets.token_hex(4)
    parts = {name: folder / f".{name}.{token}.part" for name in files}
    try:
        for name, part in parts.items():
            with part.open("xb") as file:
                file.write(files[name])
                file.flush()
                os.fsync(file.fileno())
        for name, part in parts.items():
            os.replace(part, folder / name)
    except OSError as error:
        raise _output_error("file", Path(error.filename or folder), error) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return {name: folder / name for name in files}


def _output_error(what: str, path: Path, error: OSError | ValueError) -> OutputError:
    reason = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
    return OutputError(
        f"Expected to write the {what} {str(path)!r}, got {reason!r}: choose a writable place with free space."
    )


def dumps(document: Any) -> str:
    """JSON text: two spaces, Unicode as it is, no NaN."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
