"""Files of prompts: file name -> the prompt of the image.

``.json`` holds an object of name -> prompt, or a list. ``.jsonl`` holds one value a line. ``.csv`` has the columns
``file`` and ``prompt``, separated by commas, semicolons or tabs. ``.txt`` holds one prompt a line. The values of a list
and of lines are prompts, or objects with ``file`` and ``prompt``. As in the hub's image folders (``metadata.csv`` and
``metadata.jsonl``), ``file_name`` may stand for ``file``, and ``text`` or ``caption`` for ``prompt``. Prompts without
names are named by their number, from ``00000``, like the images of the HPS v2 benchmark.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from refiner.data.json_stream import first_letter, stream_lines, stream_list, stream_object
from refiner.data.names import basename, same
from refiner.data.problems import Problem
from refiner.data.samples import Sample, group_of
from refiner.data.tables import read_csv
from refiner.data.texts import is_unicode
from refiner.errors import InputError
from refiner.reading import read_text, reason_of

_SPELLINGS: Final[Mapping[str, Sequence[str]]] = {"file": ("file_name",), "prompt": ("text", "caption")}
"""Field -> its names in the metadata of the hub's image folders."""


def read_prompts(path: str | Path, problems: list[Problem]) -> dict[str, str]:
    """Read a file of prompts: name -> prompt, without spaces around it.

    Problems: ``duplicate_prompt`` (a repeated name; the first one counts), ``unreadable_prompt`` (not a text, or not
    valid Unicode) and ``empty_prompt``; such entries are left out.

    Raises:
        InputError: the file is missing, has another format, or has no prompt.
    """
    file = Path(path)
    prompts: dict[str, str] = {}
    for where, name, value in _entries(file):
        if not isinstance(value, str) or not is_unicode(value):
            problems.append(Problem("unreadable_prompt", str(file), where, f"expected a text, got {value!r:.60}"))
        elif not value.strip():
            problems.append(Problem("empty_prompt", str(file), where, "expected a prompt, got no words"))
        elif name in prompts:
            problems.append(Problem("duplicate_prompt", str(file), where, "given before; the first one counts"))
        else:
            prompts[name] = value.strip()
    if not prompts:
        raise InputError(f"Expected prompts in {str(file)!r}, got none that can be used: write name -> prompt into it.")
    return prompts


def _entries(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of each prompt."""
    kind = file.suffix.lower()
    if kind in (".csv", ".tsv"):
        spellings = {each: ours for ours, others in _SPELLINGS.items() for each in others}
        for line, row in read_csv(file, tuple(_SPELLINGS), "prompts", spellings):
            yield f"line {line}, {row['file']:.200}", row["file"].strip(), row["prompt"]
        return
    try:
        if kind == ".txt":
            lines = read_text(file).splitlines()
            yield from _listed((f"prompt {number}", line) for number, line in enumerate(filter(str.strip, lines)))
        elif kind == ".jsonl":
            yield from _listed((f"line {number}", item.value) for number, item in stream_lines(file))
        elif first_letter(file) == "[":
            yield from _listed((f"prompt {number}", item.value) for number, item in enumerate(stream_list(file)))
        else:
            for name, item in stream_object(file, json.JSONDecoder()):
                yield f"{name:.200}", name, item.value
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read prompts from {str(file)!r} ({reason_of(error)}): give JSON of name -> prompt, CSV with the "
            "columns file and prompt, or lines of text."
        ) from error


def _listed(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for number, (where, value) in enumerate(values):
        name = _field(value, "file") if isinstance(value, Mapping) else None
        if isinstance(name, str):
            yield f"{where}, {name:.200}", name.strip(), _field(value, "prompt")
        else:
            yield where, f"{number:05d}", value


def _field(value: Mapping[str, Any], name: str) -> Any:
    """A field in any of its spellings; None if it is missing."""
    return next((value[each] for each in (name, *_SPELLINGS[name]) if each in value), None)


def match_prompts(
    names: Iterable[str], prompts: Iterable[str], file: str | Path, problems: list[Problem]
) -> dict[str, str]:
    """Find the prompt of each image.

    An image is matched by its whole name, then without the suffix, then by its file name, then by that without the
    suffix; each only if no other image has the same. Names are compared as in ``refiner.data.names``.

    Problems: ``missing_prompt``, ``missing_image`` (a prompt without an image), ``duplicate_prompt`` and
    ``duplicate_basename`` (a prompt that fits several images).

    Args:
        names: of the images; relative paths with forward slashes.
        prompts: names of the prompts.
        file: where the prompts come from, for messages.

    Returns:
        Name of the image -> name of its prompt; images without one are left out.
    """
    known, left = list(names), list(prompts)
    found: dict[str, str] = {}
    for shorten in (same, _without_suffix, basename, lambda name: _without_suffix(basename(name))):
        if left:
            left = _match(known, left, shorten, found, str(file), problems)
    for name in known:
        if name not in found:
            problems.append(Problem("missing_prompt", str(file), name, "the image has no prompt; left out"))
    for name in left:
        problems.append(Problem("missing_image", str(file), name, "there is no such image; left out"))
    return found


def _match(
    names: list[str],
    prompts: list[str],
    shorten: Callable[[str], str],
    found: dict[str, str],
    file: str,
    problems: list[Problem],
) -> list[str]:
    """Match images and prompts by the shortened names of the images; returns the prompts that fit no image."""
    owners: dict[str, str] = {}
    shared: Counter[str] = Counter()
    for name in names:
        short = shorten(name)
        if owners.setdefault(short, name) != name:
            shared[short] += 1
    left = []
    for key in prompts:
        name = same(key)
        if name not in owners:
            left.append(key)
        elif shared[name]:
            detail = f"{shared[name] + 1} images have this name; give the prompt under their whole paths"
            problems.append(Problem("duplicate_basename", file, key, detail))
        elif owners[name] in found:
            detail = f"{owners[name]} has a prompt under another name already; that one counts"
            problems.append(Problem("duplicate_prompt", file, key, detail))
        else:
            found[owners[name]] = key
    return left


def _without_suffix(name: str) -> str:
    folder, slash, base = same(name).rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


class PromptData:
    """A data set of prompts without images, named by the keys of the file or by number."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.prompts = read_prompts(file, self.problems)
        self.names = tuple(self.prompts)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return Sample(name=name, group=group_of(name), prompt=self.prompts[name])
