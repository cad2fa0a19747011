"""What images show, in a file beside them: LEGION's tables have a row for each of SynthScars' four contents."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.data.tables import read_csv
from refiner.errors import InputError
from refiner.reading import read_text, reason_of

CONTENTS: Final[Mapping[str, str]] = {
    word: content for content in ("human", "object", "animal", "scene") for word in (content, f"{content}s")
}
"""Spelling in lower case -> content."""
FILES: Final = ("content_types.json", "content_types.csv")
_COLUMNS: Final = ("image", "content_type")


def read_contents(folder: Path, images: Collection[str], problems: list[Problem]) -> dict[str, str]:
    """Image -> content, from the first of ``FILES`` in the folder; empty if there is none. Names are ``names.same``.

    Problems: ``unknown_content``, ``unknown_image`` and ``duplicate_image`` (the first one counts).

    Raises:
        InputError: the file is damaged as a whole.
    """
    file = next((folder / name for name in FILES if (folder / name).is_file()), None)
    found: dict[str, str] = {}
    for name, value in () if file is None else _rows(file):
        content = CONTENTS.get(value.strip().lower()) if isinstance(value, str) else None
        if content is None:
            kind, detail = "unknown_content", f"expected human, object, animal or scene, got {value!r:.60}"
        elif same(name) not in images:
            kind, detail = "unknown_image", "no record names this image"
        elif same(name) in found:
            kind, detail = "duplicate_image", "named before; the first one counts"
        else:
            found[same(name)] = content
            continue
        problems.append(Problem(kind, str(file), f"{name:.200}", detail))
    return found


def _rows(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".csv":
        yield from ((row["image"], row["content_type"]) for _, row in read_csv(file, _COLUMNS, "content types"))
        return
    try:
        document = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read {str(file)!r} ({reason_of(error)}): write an object of image -> content."
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"Expected an object of image -> content in {str(file)!r}, got {document!r:.60}: write one.")
    yield from document.items()
