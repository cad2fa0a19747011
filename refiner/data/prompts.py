"""Files of prompts: file name -> what the picture was made from.

``.json`` holds an object of name -> prompt, or a list of prompts; ``.csv`` has the columns ``file`` and ``prompt``;
``.txt`` holds one prompt a line. Prompts without names are named by their number, ``00000`` on, as the pictures of the
HPS v2 benchmark are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from refiner.data.problems import Problem
from refiner.data.tables import read_csv
from refiner.errors import InputError


def read_prompts(path: str | Path, problems: list[Problem]) -> dict[str, str]:
    """Read a file of prompts; spaces around them are cut off.

    Named and counted in ``problems``: ``duplicate_prompt`` (a name that is given twice; the first one counts),
    ``unreadable_prompt`` (no text, or not valid Unicode) and ``empty_prompt``; such entries are left out.

    Raises:
        InputError: the file is missing, of another format, or without any prompt.
    """
    file = Path(path)
    prompts: dict[str, str] = {}
    for where, name, value in _entries(file):
        if not isinstance(value, str) or not _is_unicode(value):
            problems.append(Problem("unreadable_prompt", str(file), where, f"expected a text, got {value!r:.60}"))
        elif not value.strip():
            problems.append(Problem("empty_prompt", str(file), where, "expected what the picture shows, got no words"))
        elif name in prompts:
            problems.append(Problem("duplicate_prompt", str(file), where, "given before; the first one counts"))
        else:
            prompts[name] = value.strip()
    if not prompts:
        raise InputError(f"Expected prompts in {str(file)!r}, got none that can be used: write name -> prompt into it.")
    return prompts


def _entries(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of each prompt."""
    if file.suffix.lower() == ".csv":
        for line, row in read_csv(file, ("file", "prompt"), "prompts"):
            yield f"line {line}, {row['file']}", row["file"].strip(), row["prompt"]
        return
    text = _text(file)
    if file.suffix.lower() == ".txt":
        lines = (line for line in text.splitlines() if line.strip())
        yield from _numbered(lines)
        return
    try:
        document = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise _unusable(file, str(error)) from error
    if text.lstrip().startswith("{"):
        yield from ((name, name, value) for name, value in document)
    elif isinstance(document, list):
        yield from _numbered(document)
    else:
        raise _unusable(file, f"{document!r:.60}")


def _numbered(values: Iterable[Any]) -> Iterator[tuple[str, str, Any]]:
    for number, value in enumerate(values):
        yield f"prompt {number}", f"{number:05d}", value


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unusable(file, reason or str(error)) from error


def _unusable(file: Path, reason: str) -> InputError:
    return InputError(
        f"Expected prompts as JSON of name -> prompt, CSV with the columns file and prompt, or lines of text, got "
        f"{str(file)!r}, which fails with {reason!r}: check path and content."
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def match_prompts(
    names: Iterable[str], prompts: dict[str, str], file: str | Path, problems: list[Problem]
) -> dict[str, str]:
    """Give each picture its prompt.

    A picture is looked up by its whole name, then by that without the suffix, then by its file name, then by that
    without the suffix; each only where no other picture has the same. Named and counted: ``missing_prompt``,
    ``missing_image`` (a prompt of no picture) and ``duplicate_basename`` (a prompt that could be of several pictures).

    Args:
        names: of the pictures; relative paths with forward slashes.
        prompts: name -> prompt.
        file: where the prompts come from, for messages.

    Returns:
        Name of the picture -> prompt; pictures without one are left out.
    """
    known = list(names)
    found: dict[str, str] = {}
    used: set[str] = set()
    for shorten in (str, _without_suffix, _basename, _stem):
        owners: dict[str, list[str]] = defaultdict(list)
        for name in known:
            owners[shorten(name)].append(name)
        for key in [key for key in prompts if key in owners and key not in used]:
            used.add(key)
            if len(owners[key]) > 1:
                detail = f"{len(owners[key])} pictures have this name; give the prompt under their whole paths"
                problems.append(Problem("duplicate_basename", str(file), key, detail))
            elif owners[key][0] in found:
                detail = f"{owners[key][0]} has a prompt under a longer name already; that one counts"
                problems.append(Problem("duplicate_prompt", str(file), key, detail))
            else:
                found[owners[key][0]] = prompts[key]
    for name in known:
        if name not in found:
            problems.append(Problem("missing_prompt", str(file), name, "the picture has no prompt; left out"))
    for name in [name for name in prompts if name not in used]:
        problems.append(Problem("missing_image", str(file), name, "there is no such picture; left out"))
    return found


def _basename(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _basename(name).rpartition(".")[0] or _basename(name)


def _without_suffix(name: str) -> str:
    return name.removesuffix(_basename(name)) + _stem(name)
