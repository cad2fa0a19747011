"""Checks of the fields of a record that others wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from refiner.data.names import with_slashes
from refiner.data.problems import UnusableError
from refiner.data.texts import is_unicode


def is_inside(name: str) -> bool:
    """Whether a path with forward slashes names a file inside the folder."""
    path = PurePosixPath(name)
    harmless = not set(name) & set("\\\0") and is_unicode(name) and not name.endswith("/")
    return harmless and path.name != "" and not path.is_absolute() and ".." not in path.parts


def path_inside(value: Any, field: str) -> str:
    """The path of an image as others wrote it, with either kind of slash; returned with forward slashes.

    Raises:
        UnusableError: no text, or a path that leads out of the folder (``bad_record``).
    """
    if isinstance(value, str) and is_inside(path := with_slashes(value)):
        return PurePosixPath(path).as_posix()
    raise UnusableError("bad_record", f"expected as {field} a path inside the folder, got {value!r:.60}")


def image_name(value: Any) -> str:
    """The name of an image as others wrote it: its path below the last folder ``images``, or as it is.

    Raises:
        UnusableError: no text, or a path that leads out of the folder (``bad_record``).
    """
    if isinstance(value, str) and "/images/" in (whole := f"/{with_slashes(value)}"):
        return path_inside(whole.rpartition("/images/")[2], "the name of an image")
    return path_inside(value, "the name of an image")


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def list_of(value: Mapping[str, Any], field: str) -> list[Any]:
    """A list in a record; empty if it is missing or null.

    Raises:
        UnusableError: something else (``bad_record``).
    """
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise UnusableError("bad_record", f"expected a list of {field}, got {found!r:.60}")
    return found or []


def text_of(value: Mapping[str, Any], field: str) -> str:
    """A text in a record, stripped; "" if it is missing or null.

    Raises:
        UnusableError: something else, or a text that is not Unicode (``bad_record``).
    """
    found = value.get(field)
    if found is not None and not (isinstance(found, str) and is_unicode(found)):
        raise UnusableError("bad_record", f"expected {field} as a text, got {found!r:.60}")
    return (found or "").strip()
