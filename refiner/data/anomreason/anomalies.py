"""AnomReason's files: image name -> list of anomalies, for predictions and references (arXiv 2510.10231).

There are two spellings of the fields, and both are read: ``Name``, ``Observed Phenomenon``, ``Reasoning``, ``Severity
Score`` (the official evaluator) and ``name``, ``phenomenon``, ``reasoning``, ``severity`` (the data set's README).
Their severity runs from 0, completely irrational, to 100, realistic. Only this module converts it to ours: [0, 1], 1 =
worst. A file that is not such JSON is refused; smaller problems are named, counted and passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from refiner.data.json_stream import Item, Place, stream_object
from refiner.data.names import with_slashes
from refiner.data.problems import Problem
from refiner.data.texts import is_unicode
from refiner.errors import InputError
from refiner.files import Json
from refiner.reading import reason_of
from refiner.types import Claim, Region

FAKE: Final = "1_fake"
"""Folder of the generated images."""
REAL: Final = "0_real"
"""Folder of the real images."""
_FIELDS = {
    "observedphenomenon": "phenomenon",
    "phenomenon": "phenomenon",
    "reasoning": "reasoning",
    "name": "name",
    "severityscore": "severity",
    "severity": "severity",
}
_SEVERITY = re.compile(r"(\d+(?:\.\d+)?)(?:\s*/\s*100(?!\d)|\s*%)?(?:[\s.,;:()].*)?", re.DOTALL)
"""Such as ``25``, ``25/100`` and ``25/100 (moderately unrealistic).``"""


@dataclass(frozen=True, kw_only=True)
class AnomalySet:
    """A file of predictions or references."""

    file: str
    """Its path, for messages."""
    images: Mapping[str, tuple[Claim, ...]]
    """By the keys of the file."""
    unreadable: frozenset[str] = frozenset()
    """Keys of ``images`` whose value is not a list of anomalies; they have no anomalies there."""
    problems: tuple[Problem, ...] = field(default=())


def read_anomalies(path: str | Path) -> AnomalySet:
    """Read a file of predictions or references.

    Text is stripped. Null instead of a list means no anomalies, as in the official evaluator. Problems:
    ``duplicate_key`` (the last one counts, as in other JSON readers), ``unreadable_image`` (not a list),
    ``unreadable_anomaly`` (not an object; left out), ``unreadable_text`` (neither string nor number; read as empty),
    ``empty_text``, ``bad_severity`` (not a number from 0 to 100; read as no severity).

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """
    problems: list[Problem] = []
    images: dict[str, tuple[Claim, ...]] = {}
    unreadable: set[str] = set()
    for key, value in _load(Path(path), problems).items():
        found = _anomalies(key, value, str(path), problems)
        if found is None:
            unreadable.add(key)
        images[key] = found or ()
    return AnomalySet(file=str(path), images=images, unreadable=frozenset(unreadable), problems=tuple(problems))


def index_anomalies(path: str | Path, problems: list[Problem], *, strict: bool = False) -> dict[str, Place]:
    """The places of each image's anomalies, by the keys of the file; ``anomalies_at`` reads them.

    Problems are added to ``problems``, as in ``read_anomalies``. Keys of unreadable images are left out.

    Args:
        path: of the file.
        problems: gets the problems.
        strict: also leave out the images of which an anomaly is unreadable.

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """

    def readable(key: str, value: Any) -> bool:
        found = _anomalies(key, value, str(path), problems)
        return found is not None and not (strict and len(found) < len(value or ()))

    return _index(Path(path), members(path), readable, problems)


def index_descriptions(path: str | Path, problems: list[Problem]) -> dict[str, Place]:
    """The places of the descriptions of real images, by the keys of the file.

    Problems: ``duplicate_key`` (the last one counts), ``unreadable_image`` (not a text, or not valid Unicode; left
    out) and ``empty_text`` (kept).

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """

    def readable(key: str, value: Any) -> bool:
        known = isinstance(value, str) and is_unicode(value)
        if not known:
            problems.append(Problem("unreadable_image", str(path), key, f"expected a text, got {value!r:.60}"))
        elif not value.strip():
            problems.append(Problem("empty_text", str(path), key, "the description is empty"))
        return known

    return _index(Path(path), members(path, "text"), readable, problems)


def _index(
    file: Path, items: Iterable[tuple[str, Item]], readable: Callable[[str, Any], bool], problems: list[Problem]
) -> dict[str, Place]:
    found: dict[str, Place] = {}
    times: Counter[str] = Counter()
    for key, item in items:
        times[key] += 1
        found.pop(key, None)
        if readable(key, item.value):
            found[key] = item.place
    _note_duplicates(times, file, "", problems)
    return found


def anomalies_at(place: Place) -> tuple[Claim, ...]:
    """The anomalies of one image.

    Raises:
        InputError: the file has changed since it was indexed.
    """
    try:
        found = _anomalies("", place.read(), str(place.file), [])
    except (OSError, ValueError, RecursionError):
        found = None
    if found is None:
        raise InputError(
            f"Cannot read the anomalies at byte {place.start} of {str(place.file)!r} again: do not change the file "
            "during the evaluation."
        )
    return found


def members(path: str | Path, values: str = "list of anomalies") -> Iterator[tuple[str, Item]]:
    """Key, value and place of each image of a file.

    Args:
        path: of the file.
        values: what the file should hold for each image, in words.

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """
    try:
        yield from stream_object(Path(path), json.JSONDecoder(object_pairs_hook=_Object))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read anomalies from {str(path)!r} ({reason_of(error)}): give JSON of image name -> {values}."
        ) from error


def _load(path: Path, problems: list[Problem]) -> Json:
    """The JSON object of a file; repeated images are added to ``problems``."""
    found: Json = {}
    times: Counter[str] = Counter()
    for key, item in members(path):
        times[key] += 1
        found[key] = item.value
    _note_duplicates(times, path, "", problems)
    return found


class _Object(dict[str, Any]):
    """A JSON object that counts repeated keys."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        pairs = list(pairs)
        super().__init__(pairs)
        self.times = Counter(key for key, _ in pairs) if len(self) < len(pairs) else Counter[str]()


def _note_duplicates(times: Mapping[str, int], path: str | Path, where: str, problems: list[Problem]) -> None:
    for key, count in times.items():
        if count > 1:
            place = f"{where}, {key}" if where else key
            problems.append(Problem("duplicate_key", str(path), place, f"given {count} times; the last one counts"))


def _anomalies(key: str, value: Any, file: str, problems: list[Problem]) -> tuple[Claim, ...] | None:
    """None if the value is not a list."""
    if value is not None and not isinstance(value, list):
        problems.append(Problem("unreadable_image", file, key, f"expected a list of anomalies, got {_kind(value)}"))
        return None
    found = (_anomaly(entry, file, f"{key}, anomaly {at}", problems) for at, entry in enumerate(value or []))
    return tuple(anomaly for anomaly in found if anomaly is not None)


def _anomaly(entry: Any, file: str, where: str, problems: list[Problem]) -> Claim | None:
    if not isinstance(entry, dict):
        problems.append(Problem("unreadable_anomaly", file, where, f"expected an object, got {_kind(entry)}"))
        return None
    _note_duplicates(getattr(entry, "times", {}), file, where, problems)
    values: Json = {}
    for key, value in entry.items():
        name = _FIELDS.get("".join(c for c in key.lower() if c.isalnum()))
        if name is not None and values.get(name) in (None, ""):
            values[name] = value

    def note(kind: str, detail: str) -> None:
        problems.append(Problem(kind, file, where, detail))

    name, phenomenon, reasoning = (_text(values.get(key), key, note) for key in ("name", "phenomenon", "reasoning"))
    for what, text in (("phenomenon", phenomenon), ("reasoning", reasoning)):
        if not text:
            note("empty_text", f"the {what} is empty, so it scores 0 against each text")
    severity = _severity(values.get("severity"), note)
    return Claim(name=name, explanation=phenomenon, reasoning=reasoning, severity=severity)


def _text(value: Any, name: str, note: Callable[[str, str], None]) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).strip()
    note("unreadable_text", f"expected the {name} as text, got {_kind(value)}")
    return ""


def _severity(value: Any, note: Callable[[str, str], None]) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) <= 100 else math.inf
    elif isinstance(value, str) and (match := _SEVERITY.fullmatch(value.strip())):
        number = float(match[1])
    if not 0.0 <= number <= 100.0:
        note("bad_severity", f"expected a severity from 0 (worst) to 100, got {str(value)[:60]!r}")
        return None
    return (100.0 - number) / 100.0


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return "an object" if isinstance(value, dict) else names.get(type(value), "a number")


def from_regions(regions: Sequence[Region]) -> tuple[Claim, ...]:
    """The regions of a detector as anomalies, so that they can be scored like AnomReason's predictions."""
    return tuple(
        Claim(name=each.name, explanation=each.explanation, reasoning=each.reasoning, severity=each.severity)
        for each in regions
    )


def to_document(images: Mapping[str, Sequence[Claim]]) -> Json:
    """Anomalies by image in the official spelling, severity from 0 (worst) to 100; ``read_anomalies`` reads it back."""
    return {key: [to_entry(anomaly) for anomaly in anomalies] for key, anomalies in images.items()}


def to_entry(anomaly: Claim) -> Json:
    """One anomaly in the official spelling; a severity that is not known has no field."""
    entry: Json = {
        "Name": anomaly.name,
        "Observed Phenomenon": anomaly.explanation,
        "Reasoning": anomaly.reasoning,
    }
    return entry if anomaly.severity is None else entry | {"Severity Score": 100.0 - 100.0 * anomaly.severity}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A classifier's answers to "is this image generated?", by image."""

    file: str
    fake: Mapping[str, bool | None]
    """By the keys of the file; None if the answer starts with neither yes nor no."""
    problems: tuple[Problem, ...] = field(default=())


def read_answers(path: str | Path) -> Answers:
    """Read a file of image name -> answer. The first alphabetic word counts: yes or no, in any case.

    Problems: ``duplicate_key`` and ``unreadable_answer`` (counted as wrong).

    Raises:
        InputError: there is no such file, or it is not a JSON object.
    """
    problems: list[Problem] = []
    fake: dict[str, bool | None] = {}
    for key, value in _load(Path(path), problems).items():
        word = re.search("[a-z]+", str(value).lower()) if value is not None else None
        fake[key] = {"yes": True, "no": False}.get(word[0]) if word else None
        if fake[key] is None:
            detail = f"expected an answer that starts with yes or no, got {str(value)[:60]!r}"
            problems.append(Problem("unreadable_answer", str(path), key, detail))
    return Answers(file=str(path), fake=fake, problems=tuple(problems))


def label_of(key: str) -> bool | None:
    """Whether an image is generated, by the folder in its key: ``1_fake``, ``0_real``; None if it has neither."""
    parts = PurePosixPath(with_slashes(key)).parts
    return True if FAKE in parts else False if REAL in parts else None
