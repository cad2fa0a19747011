"""AnomReason's files: image name -> list of anomalies, for predictions and references alike (arXiv 2510.10231).

Two spellings of the fields are in use and both are read: ``Name``, ``Observed Phenomenon``, ``Reasoning``, ``Severity
Score`` (the official evaluator's) and ``name``, ``phenomenon``, ``reasoning``, ``severity`` (the data set's README).
Their severity runs from 0, completely irrational, to 100, realistic; it is turned here, and nowhere else, into ours:
[0, 1], 1 = worst. A file that is no such JSON at all is refused; anything smaller is named, counted and passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from refiner.data.json_stream import Item, Place, stream_object
from refiner.data.problems import Problem
from refiner.errors import InputError
from refiner.files import Json
from refiner.types import Claim, Region

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
    """By the file's own keys."""
    unreadable: frozenset[str] = frozenset()
    """Keys of ``images`` whose value was no list of anomalies; they stand there without any."""
    problems: tuple[Problem, ...] = field(default=())


def basename(key: str) -> str:
    """The file name of an image's key, whichever way its slashes lean; images are matched by it."""
    return PurePosixPath(key.replace("\\", "/")).name


def read_anomalies(path: str | Path) -> AnomalySet:
    """Read a file of predictions or references.

    Text is stripped; null in place of a list means no anomalies, as with the official evaluator. Named and counted:
    ``duplicate_key`` (the last one counts, as JSON readers have it), ``unreadable_image`` (no list),
    ``unreadable_anomaly`` (no object; left out), ``unreadable_text`` (neither string nor number; taken as empty),
    ``empty_text``, ``bad_severity`` (no number from 0 to 100; taken as none).

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    problems: list[Problem] = []
    document = _load(Path(path), problems)
    images: dict[str, tuple[Claim, ...]] = {}
    unreadable: set[str] = set()
    for key, value in document.items():
        found = _anomalies(key, value, str(path), problems)
        if found is None:
            unreadable.add(key)
        images[key] = found or ()
    return AnomalySet(file=str(path), images=images, unreadable=frozenset(unreadable), problems=tuple(problems))


def index_anomalies(path: str | Path, problems: list[Problem]) -> dict[str, Place]:
    """Where a file has the anomalies of each image, by the file's own keys; ``anomalies_at`` reads them.

    What is wrong is added to ``problems``, as with ``read_anomalies``; keys of unreadable images are left out.

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    file, found = Path(path), dict[str, Place]()
    unreadable: set[str] = set()
    repeated: Counter[str] = Counter()
    for key, item in _members(file):
        if found.pop(key, None) is not None or key in unreadable:
            repeated[key] += 1
        if _anomalies(key, item.value, str(file), problems) is None:
            unreadable.add(key)
        else:
            found[key] = Place(file, item.start, item.length)
    for key, times in repeated.items():
        problems.append(_duplicate(file, "", key, times + 1))
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
            f"Expected a list of anomalies at byte {place.start} of {str(place.file)!r}, got something else: "
            "leave the file as it is while it is evaluated."
        )
    return found


def _members(path: Path) -> Iterator[tuple[str, Item]]:
    try:
        yield from stream_object(path, json.JSONDecoder(object_pairs_hook=_Object))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_object(path, error) from error


def _anomalies(key: str, value: Any, file: str, problems: list[Problem]) -> tuple[Claim, ...] | None:
    """None where the value is no list."""
    if value is not None and not isinstance(value, list):
        problems.append(Problem("unreadable_image", file, key, f"expected a list of anomalies, got {_kind(value)}"))
        return None
    found = (_anomaly(entry, file, f"{key}, anomaly {at}", problems) for at, entry in enumerate(value or []))
    return tuple(anomaly for anomaly in found if anomaly is not None)


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys were given how many times, where that is more than once."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        pairs = list(pairs)
        super().__init__(pairs)
        times = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.repeated = {key: count for key, count in times.items() if count > 1}


def _duplicate(path: str | Path, where: str, key: str, times: int) -> Problem:
    place = f"{where}, {key}" if where else key
    return Problem("duplicate_key", str(path), place, f"given {times} times; the last one counts")


def _no_object(path: Path, error: Exception) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return InputError(
        f"Expected a JSON file of image name -> list of anomalies, got {str(path)!r}, which fails with "
        f"{reason!r}: check path and content."
    )


def _load(path: Path, problems: list[Problem]) -> _Object:
    """The JSON object of a file; images that stand twice in it are noted."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object)
    except (OSError, ValueError, RecursionError) as error:
        raise _no_object(path, error) from error
    if not isinstance(document, _Object):
        raise InputError(
            f"Expected a JSON object of image name -> list of anomalies, got {_kind(document)} in {str(path)!r}: "
            "write it as the official evaluator reads it."
        )
    problems.extend(_duplicate(path, "", key, times) for key, times in document.repeated.items())
    return document


def _anomaly(entry: Any, file: str, where: str, problems: list[Problem]) -> Claim | None:
    if not isinstance(entry, dict):
        problems.append(Problem("unreadable_anomaly", file, where, f"expected an object, got {_kind(entry)}"))
        return None
    for key, times in getattr(entry, "repeated", {}).items():
        problems.append(_duplicate(file, where, key, times))
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
            note("empty_text", f"the {what} is empty, so that it is like no other text")
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
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def from_regions(regions: Sequence[Region]) -> tuple[Claim, ...]:
    """What a detector found, as anomalies, so that it can be scored as AnomReason's predictions are."""
    return tuple(
        Claim(name=each.name, explanation=each.explanation, reasoning=each.reasoning, severity=each.severity)
        for each in regions
    )


def to_document(images: Mapping[str, Sequence[Claim]]) -> Json:
    """Anomalies by image in the official spelling, severity from 0 (worst) to 100; ``read_anomalies`` reads it back."""
    return {key: [_to_entry(anomaly) for anomaly in anomalies] for key, anomalies in images.items()}


def _to_entry(anomaly: Claim) -> Json:
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
    """By the file's own keys; None where the answer begins with neither yes nor no."""
    problems: tuple[Problem, ...] = field(default=())


def read_answers(path: str | Path) -> Answers:
    """Read a file of image name -> answer; its first alphabetic word, yes or no in any case, is what counts.

    Named and counted: ``duplicate_key`` and ``unreadable_answer`` (taken as wrong).

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    problems: list[Problem] = []
    fake: dict[str, bool | None] = {}
    for key, value in _load(Path(path), problems).items():
        word = re.search("[a-z]+", str(value).lower()) if value is not None else None
        fake[key] = {"yes": True, "no": False}.get(word[0]) if word else None
        if fake[key] is None:
            detail = f"expected an answer that begins with yes or no, got {str(value)[:60]!r}"
            problems.append(Problem("unreadable_answer", str(path), key, detail))
    return Answers(file=str(path), fake=fake, problems=tuple(problems))


def label_of(key: str) -> bool | None:
    """Whether an image is generated, by the folder in its key: ``1_fake``, ``0_real``, None where neither is there."""
    parts = PurePosixPath(key.replace("\\", "/")).parts
    return True if "1_fake" in parts else False if "0_real" in parts else None
