"""Read regions from a language model's answer. The result is "no flaws" only if the answer clearly says so.

An answer is a list of objects, by itself or under a key such as ``regions``. If there are several lists, the last one
with a readable region counts. Separate objects, and those after a list that is cut off, count as one list.

"No flaws" is an empty list under such a key, or an empty list that is the whole answer. It must be valid JSON, without
broken JSON or regions beside it. An object that says so in words (``nothing.py``), or by severity 0 and an empty box,
is no region; an answer of only such objects means "no flaws" unless something in them speaks against it. Any other
answer raises ``UnreadableOutputError``, which holds the unchanged text: also one of bare words ("no flaws"), because a
model that leaves the form that it was asked for may not have looked for regions at all, and may be about to write more.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refiner.claims import DEFAULT_CATEGORY, DEFAULT_SEVERITY
from refiner.detectors.reading import loose_json
from refiner.detectors.reading.boxes import BoxFormat, place_boxes, read_boxes
from refiner.detectors.reading.loose_json import Document, LooseDict, LooseList
from refiner.detectors.reading.nothing import is_bare, says_nothing
from refiner.detectors.reading.words import read_category, read_share
from refiner.types import Box, Claim, Size

MAX_REGIONS = 100
"""Only this many regions of an answer are kept: the first ones."""
MAX_NAME = 80
"""Longest name or location in characters; the rest is cut off."""
MAX_WORDS = 600
"""Longest explanation or reasoning in characters; the rest is cut off."""

_LISTS = ("regions", "anomalies", "artifacts", "flaws", "defects", "issues", "problems", "findings", "detections")
_WRAPPERS = ("answer", "result", "results", "response", "output", "data", "analysis", "report")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "label", "region", "object", "part", "title"),
    "location": ("location", "position", "where"),
    "explanation": ("explanation", "observedphenomenon", "phenomenon", "description", "issue", "what"),
    "reasoning": ("reasoning", "reason", "why"),
    "category": ("category", "type", "kind", "class"),
    "severity": ("severity",),
    "score": ("score", "confidence", "probability"),
    "box": ("box", "bbox", "bbox2d", "box2d", "boundingbox", "boundingboxes", "boxes", "bboxes", "coordinates"),
}


def read_regions(text: str, size: Size, *, boxes: BoxFormat | None = None, shown: Size | None = None) -> list[Claim]:
    """Read the regions of an answer, in their order; empty only if the answer clearly says that there are none.

    Args:
        text: the text that the model wrote.
        size: of the image; boxes are returned in its pixels.
        boxes: how the model's family writes boxes; None: 0 to 1000, x before y.
        shown: size of the image as shown to the model, to which boxes in pixels refer; None: ``size``.

    Returns:
        One claim for each region. A region with several boxes gives one claim for each box; identical claims are
        returned once. Texts are one line without control characters, of at most ``MAX_NAME`` characters (name,
        location) or ``MAX_WORDS`` characters. A box is None if the answer has no reliable one. A score is 1 if the
        answer has none.

    Raises:
        UnreadableOutputError: the answer has no readable region and does not say "no flaws"; ``raw`` is the text.
    """
    answer = loose_json.spoken(text)
    found = list(loose_json.documents(answer))
    entries = _entries(found)[:MAX_REGIONS]
    if not entries:
        if _says_none(answer, found):
            return []
        raise loose_json.unreadable(_blame(found), text)
    form = boxes or BoxFormat()
    placed = place_boxes([read_boxes(_field(entry, "box"), form) for entry in entries], size, form, shown or size)
    claims = [_claim(entry, box) for entry, own in zip(entries, placed, strict=True) for box in own]
    return list(dict.fromkeys(claims))[:MAX_REGIONS]


def plain_text(value: Any, longest: int) -> str:
    """Convert a value of an answer to one line of at most ``longest`` characters.

    Control, direction, private-use and broken characters are removed.
    """
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value[:20] if isinstance(item, str | int | float))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    spaced = (" " if character.isspace() else character for character in str(value)[: 8 * longest])
    kept = (character for character in spaced if character == " " or unicodedata.category(character)[0] != "C")
    line = " ".join("".join(kept).split())
    return line if len(line) <= longest else f"{line[: longest - 3].rstrip()}..."


def _entries(found: Sequence[Document]) -> list[LooseDict]:
    """Return the entries of the last list that has any. Separate objects, and those after a broken list, are joined."""
    lists: list[list[LooseDict]] = []
    open_end = False
    for document in found:
        alone = isinstance(document.value, LooseDict) and _is_entry(document.value)
        own = [document.value] if alone else [entry for entry in _listed(document.value) if _is_entry(entry)]
        if own and alone and open_end:
            lists[-1] += own  # type: ignore[arg-type]
        elif own:
            lists.append(own)  # type: ignore[arg-type]
        if own:
            open_end = alone or document.cut
    return lists[-1] if lists else []


def _listed(value: Any, depth: int = 0) -> list[Any]:
    """Return the items of a list, or of the list inside an object."""
    if isinstance(value, LooseList):
        return value
    if not isinstance(value, LooseDict) or depth > 3:
        return []
    named = {_key(key): member for key, member in value.items()}
    for key in _LISTS + _WRAPPERS:
        if items := _listed(named.get(key), depth + 1):
            return items
    return []


def _is_entry(value: Any) -> bool:
    """Whether this is a complete object about a flaw: with a name, an explanation or a box, and without a list."""
    if not isinstance(value, LooseDict) or value.cut or _holds_objects(_listed(value)):
        return False
    name, words = _named(value)
    return bool(name or words or read_boxes(_field(value, "box"), BoxFormat())) and not _is_statement(value)


def _named(entry: LooseDict) -> tuple[str, str]:
    """Name and explanation."""
    return plain_text(_field(entry, "name"), MAX_NAME), plain_text(_field(entry, "explanation"), MAX_WORDS)


def _is_statement(entry: LooseDict) -> bool:
    """Whether an object is no flaw but says, in words or by severity 0 and an empty box, that there is none."""
    name, words = _named(entry)
    if says_nothing(name) or says_nothing(words) or ((name or words) and is_bare(name) and is_bare(words)):
        return True
    boxed = any(_key(key) in _FIELDS["box"] for key in entry)
    return boxed and not _has_area(entry) and read_share(_field(entry, "severity"), 1.0) == 0


def _is_clear(entry: LooseDict) -> bool:
    """Whether nothing in a statement speaks against it: no severity, box or explanation of a flaw."""
    name, words = _named(entry)
    severity = read_share(_field(entry, "severity"), math.nan)
    if severity == 0:
        return True
    stated = says_nothing(words) or (says_nothing(name) and is_bare(words))
    return stated and math.isnan(severity) and not _has_area(entry)


def _has_area(entry: LooseDict) -> bool:
    return any(box[0] < box[2] and box[1] < box[3] for box in read_boxes(_field(entry, "box"), BoxFormat()))


def _holds_objects(value: Any) -> bool:
    return isinstance(value, LooseList) and any(isinstance(item, LooseDict) for item in value)


def _says_none(answer: str, found: Sequence[Document]) -> bool:
    """Whether an answer without entries has only an empty list or clear statements, in valid JSON."""
    if not found or any(document.cut for document in found):
        return False
    whole = loose_json.unfenced(answer)
    texts = [answer[document.start : document.end] for document in found]
    return all(
        loose_json.is_strict(text) and (_is_empty(document.value, whole == text) or _only_states_none(document.value))
        for document, text in zip(found, texts, strict=True)
    )


def _is_empty(value: LooseList | LooseDict, alone: bool) -> bool:
    return _holds_empty_list(value) if isinstance(value, LooseDict) else alone and not value


def _only_states_none(value: LooseList | LooseDict) -> bool:
    """Whether all objects of a document are clear statements that there is no flaw, or hold only such objects."""
    objects = list(_innermost(value))
    return bool(objects) and all(_is_statement(entry) and _is_clear(entry) for entry in objects)


def _innermost(value: Any) -> Iterator[LooseDict]:
    """The objects in a value that hold no others."""
    members = list(value.values()) if isinstance(value, LooseDict) else value if isinstance(value, LooseList) else []
    inner = [entry for member in members for entry in _innermost(member)]
    yield from inner
    if isinstance(value, LooseDict) and not inner:
        yield value


def _holds_empty_list(value: LooseDict, depth: int = 0) -> bool:
    if any(_holds_objects(member) for member in value.values()):
        return False
    named = {_key(key): member for key, member in value.items()}
    lists = [named[key] for key in _LISTS if key in named]
    if lists:
        return all(isinstance(member, LooseList) and not member for member in lists)
    inner = [named[key] for key in _WRAPPERS if key in named]
    return len(inner) == 1 and (
        inner[0] == [] if not isinstance(inner[0], LooseDict) else depth < 3 and _holds_empty_list(inner[0], depth + 1)
    )


def _blame(found: Sequence[Document]) -> str:
    if not found:
        return "no list of regions"
    return "a list that breaks off before its first region" if any(one.cut for one in found) else "no readable region"


def _key(key: str) -> str:
    return "".join(character for character in key.lower() if character.isalnum())


def _field(entry: LooseDict, field: str) -> Any:
    named = {_key(key): value for key, value in reversed(entry.items())}
    return next((named[key] for key in _FIELDS[field] if named.get(key) is not None), None)


def _claim(entry: LooseDict, box: Box | None) -> Claim:
    name, explanation = _named(entry)
    name = plain_text(explanation, MAX_NAME) if is_bare(name) else name
    return Claim(
        name=name or "a flaw",
        location=plain_text(_field(entry, "location"), MAX_NAME),
        explanation=explanation,
        reasoning=plain_text(_field(entry, "reasoning"), MAX_WORDS),
        category=read_category(plain_text(_field(entry, "category"), MAX_NAME)) or DEFAULT_CATEGORY,
        severity=read_share(_field(entry, "severity"), DEFAULT_SEVERITY),
        score=read_share(_field(entry, "score"), 1.0),
        box=box,
    )
