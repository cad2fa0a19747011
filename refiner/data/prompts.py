"""Files of prompts: file name -> what the picture was made from.

``.json`` holds an object of name -> prompt, or a list of prompts; ``.csv`` has the columns ``file`` and ``prompt``;
``.txt`` holds one prompt a line. Prompts without names are named by their number, ``00000`` on, as the pictures of the
HPS v2 benchmark are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from refiner.data.json_stream import first_letter, stream_list, stream_object
from refiner.data.problems import Problem
from refiner.data.samples import Sample, group_of
from refiner.data.tables import read_csv
from refiner.data.texts import Texts
from refiner.errors import InputError


class Prompts(Mapping[str, str]):
    """Name -> prompt, packed."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts = Texts()

    def __getitem__(self, name: str) -> str:
        return self._texts[self._numbers[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, name: str, prompt: str) -> None:
        """Add a name that is not there yet."""
        self._numbers[name] = len(self._texts)
        self._texts.append(prompt)


def read_prompts(path: str | Path, problems: list[Problem]) -> Prompts:
    """Read a file of prompts; spaces around them are cut off.

    Named and counted in ``problems``: ``duplicate_prompt`` (a name that is given twice; the first one counts),
    ``unreadable_prompt`` (no text, or not valid Unicode) and ``empty_prompt``; such entries are left out.

    Raises:
        InputError: the file is missing, of another format, or without any prompt.
    """
    file = Path(path)
    prompts = Prompts()
    for where, name, value in _entries(file):
        if not isinstance(value, str) or not _is_unicode(value):
            problems.append(Problem("unreadable_prompt", str(file), where, f"expected a text, got {value!r:.60}"))
        elif not value.strip():
            problems.append(Problem("empty_prompt", str(file), where, "expected what the picture shows, got no words"))
        elif name in prompts:
            problems.append(Problem("duplicate_prompt", str(file), where, "given before; the first one counts"))
        else:
            prompts.add(name, value.strip())
    if not prompts:
        raise InputError(f"Expected prompts in {str(file)!r}, got none that can be used: write name -> prompt into it.")
    return prompts


def _entries(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of each prompt."""
    if file.suffix.lower() == ".csv":
        for line, row in read_csv(file, ("file", "prompt"), "prompts"):
            yield f"line {line}, {row['file']}", row["file"].strip(), row["prompt"]
        return
    try:
        if file.suffix.lower() == ".txt":
            lines = file.read_text(encoding="utf-8-sig").splitlines()
            yield from _numbered(line for line in lines if line.strip())
        elif first_letter(file) == "[":
            yield from _numbered(item.value for item in stream_list(file))
        else:
            for name, item in stream_object(file, json.JSONDecoder()):
                yield name, name, item.value
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unusable(file, reason or str(error)) from error


def _numbered(values: Iterable[Any]) -> Iterator[tuple[str, str, Any]]:
    for number, value in enumerate(values):
        yield f"prompt {number}", f"{number:05d}", value


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
    names: Iterable[str], prompts: Iterable[str], file: str | Path, problems: list[Problem]
) -> dict[str, str]:
    """Give each picture its prompt.

    A picture is looked up by its whole name, then by that without the suffix, then by its file name, then by that
    without the suffix; each only where no other picture has the same. Named and counted: ``missing_prompt``,
    ``missing_image`` (a prompt of no picture) and ``duplicate_basename`` (a prompt that could be of several pictures).

    Args:
        names: of the pictures; relative paths with forward slashes.
        prompts: their names.
        file: where the prompts come from, for messages.

    Returns:
        Name of the picture -> name of its prompt; pictures without one are left out.
    """
    known, left = list(names), list(prompts)
    found: dict[str, str] = {}
    for shorten in (str, _without_suffix, _basename, _stem):
        if left:
            left = _match(known, left, shorten, found, (str(file), problems))
    for name in known:
        if name not in found:
            problems.append(Problem("missing_prompt", str(file), name, "the picture has no prompt; left out"))
    for name in left:
        problems.append(Problem("missing_image", str(file), name, "there is no such picture; left out"))
    return found


def _match(
    names: list[str],
    prompts: list[str],
    shorten: Callable[[str], str],
    found: dict[str, str],
    notes: tuple[str, list[Problem]],
) -> list[str]:
    """Give pictures the prompts of their shortened names; the names of prompts that are of no picture are left."""
    file, problems = notes
    owners: dict[str, str] = {}
    shared: Counter[str] = Counter()
    for name in names:
        short = shorten(name)
        if owners.setdefault(short, name) != name:
            shared[short] += 1
    left = []
    for key in prompts:
        if key not in owners:
            left.append(key)
        elif shared[key]:
            detail = f"{shared[key] + 1} pictures have this name; give the prompt under their whole paths"
            problems.append(Problem("duplicate_basename", file, key, detail))
        elif owners[key] in found:
            detail = f"{owners[key]} has a prompt under a longer name already; that one counts"
            problems.append(Problem("duplicate_prompt", file, key, detail))
        else:
            found[owners[key]] = key
    return left


def _basename(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    return _basename(name).rpartition(".")[0] or _basename(name)


def _without_suffix(name: str) -> str:
    return name.removesuffix(_basename(name)) + _stem(name)


class PromptData:
    """Nothing but prompts, to be painted; named by the file's own keys or by their numbers."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.prompts = read_prompts(file, self.problems)
        self.names = tuple(self.prompts)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return Sample(name=name, group=group_of(name), prompt=self.prompts[name])
