"""Atomic file writing, which never destroys the previous file, and the JSON style of all documents."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TextIO

from refiner.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Json = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_writable(folder: str | Path) -> Path:
    """Create the folder if it is missing, and check that files can be written into it.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise _output_error("to the folder", path, error) from error
    return path


def atomic_write(path: str | Path, data: bytes | str) -> Path:
    """Write a file atomically: a previous file of that name stays until the new one is complete.

    Args:
        path: the file, in an existing folder.
        data: its content; text is encoded as UTF-8, and bytes of file names that are no UTF-8 are kept.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path)
    content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return atomic_write_all(target.parent, {target.name: content})[target.name]


def atomic_write_all(folder: Path, files: Mapping[str, bytes]) -> dict[str, Path]:
    """Write several files into a folder; previous files are replaced only after all new ones are on the disk.

    Args:
        folder: an existing folder.
        files: file name -> content; the previous files are replaced in this order.

    Raises:
        OutputError: a file cannot be written.
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
        raise _output_error("the file", Path(error.filename or folder), error) from error
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return {name: folder / name for name in files}


@contextlib.contextmanager
def atomic_stream(path: str | Path) -> Iterator[TextIO]:
    """Write a text file piece by piece: it gets its name when the block ends, and is not there if the block fails.

    Args:
        path: the file, in an existing folder.

    Yields:
        A text file, encoded as UTF-8.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OutputError:
        raise
    except OSError as error:
        raise _output_error("the file", target, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def append_line(path: str | Path, line: str) -> None:
    """Append a line to a text file; it is on the disk when this returns.

    Several threads and processes may append to the same file: each line is written whole, under a lock of the file. (On
    systems without ``flock``, only threads and processes that take turns.) If the last line is unfinished, because a
    process was killed while it wrote, it is ended first.

    Args:
        path: the file, in an existing folder; made if it is missing.
        line: without a line break; encoded as UTF-8.

    Raises:
        OutputError: the line cannot be written; the file may end with a part of it.
    """
    target = Path(path)
    try:
        with target.open("ab+", buffering=0) as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
            unfinished = size > 0 and file.read(1) != b"\n"
            data = memoryview(("\n" * unfinished + line + "\n").encode())
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise _output_error("the file", target, error) from error


def lock_file(file: IO[Any]) -> bool:
    """Lock an open file until it is closed, against other processes that lock it too.

    Returns:
        Whether no other process has it. Always True on systems without ``flock``.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _output_error(what: str, path: Path, error: OSError | ValueError) -> OutputError:
    reason = ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
    return OutputError(
        f"Cannot write {what} {str(path)!r} ({reason}): choose a writable folder on a disk with free space."
    )


def dumps(document: Any, *, indent: int | None = 2) -> str:
    """Encode a document as JSON text: Unicode not escaped, NaN refused with a ValueError.

    Bytes of file names that are no UTF-8, which Python keeps as lone surrogates, are escaped; so the text is UTF-8.

    Args:
        document: of JSON values.
        indent: spaces by which a level is indented; None writes one line.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
