"""Reading the answers of AnomAgent's steps. What is not of the form that is asked for raises ``UnreadableOutputError``.

"No issues" is read only from an answer without any other JSON, so that an answer that breaks off never means this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from refiner.detectors.anomreason.severity import read_severity
from refiner.detectors.anomreason.work import Issue, Thing
from refiner.detectors.reading.boxes import BoxFormat, place_boxes, read_boxes
from refiner.detectors.reading.loose_json import LooseDict, LooseList, documents, is_strict, spoken, unreadable
from refiner.detectors.reading.nothing import says_nothing
from refiner.detectors.reading.regions import MAX_NAME, MAX_WORDS, plain_text
from refiner.detectors.reading.words import read_category
from refiner.detectors.vlm.questions import box_key, read_verdicts
from refiner.taxonomy import Category
from refiner.types import Claim, Size

MAX_ITEMS = 200
"""Only this many items of a list are read: the first ones."""


class Verdict(NamedTuple):
    """The result of the verification of an issue."""

    score: float | None
    """Probability that it is an anomaly; None if it is clearly denied."""
    evidence: str


class Group(NamedTuple):
    """Items that are one anomaly, or one item that is none."""

    items: tuple[int, ...]
    """Indices, from 0."""
    name: str = ""
    phenomenon: str = ""
    reasoning: str = ""
    """Why it is an anomaly, or why not."""


class Final(NamedTuple):
    """The final list."""

    claims: dict[int, Claim]
    """By the indices of the issues."""
    raw: str


class Merging(NamedTuple):
    """The anomalies that the integrator kept, and what it removed."""

    kept: tuple[Group, ...]
    removed: tuple[Group, ...]


def read_things(text: str) -> list[Thing]:
    """Read the objects of a draft: at least one; those without a name are left out."""
    entries = _entries(_document(text), "objects", text)
    things = [Thing(_text(entry, "name", MAX_NAME), _text(entry, "description", MAX_WORDS)) for entry in entries]
    named = [thing for thing in things if _key(thing.name)]
    if not named:
        raise unreadable("no object with a name", text)
    return named


def union(drafts: Sequence[Sequence[Thing]]) -> list[tuple[Thing, tuple[int, ...]]]:
    """Merge drafts to one list: objects with the same name, apart from case, punctuation and articles, are one.

    Returns:
        Each object in the order of its first mention, with the first description of it and the indices of its drafts.
    """
    found: dict[str, tuple[Thing, tuple[int, ...]]] = {}
    for draft, things in enumerate(drafts):
        for thing in things:
            known, seen = found.get(_key(thing.name), (thing, ()))
            told = known if known.description else known._replace(description=thing.description)
            found[_key(thing.name)] = told, tuple(dict.fromkeys((*seen, draft)))
    return list(found.values())


def read_issues(text: str, thing: str) -> list[Issue]:
    """Read the issues of an object, each with a name or a phenomenon; equal ones are returned once.

    There are none only if the answer holds nothing but an empty list, or a list whose entries all say so in words, in
    valid JSON.
    """
    told = [_issue(entry, thing) for entry in _entries(_document(text), "issues", text)]
    if not all(issue.name for issue in told):
        raise unreadable("an issue without name and phenomenon", text)
    issues = [issue for issue in told if not (says_nothing(issue.name) or says_nothing(issue.phenomenon))]
    if not issues:
        _check_alone(text)
    return list(dict.fromkeys(issues))


def read_verification(text: str, issues: Sequence[Issue]) -> list[Verdict]:
    """Read a verdict on each issue; see ``read_verdicts`` for what denies one.

    Raises:
        UnreadableOutputError: there is no verdict on one of them.
    """
    entries = _entries(_document(text), "verdicts", text)
    told = {number: entry for entry in reversed(entries) if (number := _number(entry.get("item"))) is not None}
    missing = [number for number in range(1, len(issues) + 1) if number not in told or "verdict" not in told[number]]
    if missing:
        raise unreadable(f"no verdict on item {missing[0]}", text)
    scores = read_verdicts(text, [Claim(name=issue.name) for issue in issues])
    evidence = [_text(told[number], "evidence", MAX_WORDS) for number in range(1, len(issues) + 1)]
    return [Verdict(*pair) for pair in zip(scores, evidence, strict=True)]


def read_merging(text: str, count: int) -> Merging:
    """Read which of ``count`` items are one anomaly, and which are removed.

    An item that is in no list stays as it is. One that is both kept and removed is kept. Unknown numbers are ignored.

    Raises:
        UnreadableOutputError: a list is missing, or an entry names no item.
    """
    document = _document(text)
    if not isinstance(document, LooseDict):
        raise unreadable("a list in place of an object", text)
    groups: list[Group] = []
    taken: set[int] = set()
    for entry in _entries(document, "kept", text):
        numbers = entry.get("items")
        own = _known(numbers if isinstance(numbers, list) else [numbers], count, text)
        fresh = tuple(item for item in own if item not in taken)
        taken |= set(own)
        if fresh:
            groups.append(Group(fresh, *_words(entry)))
    removed: list[Group] = []
    for entry in _entries(document, "removed", text):
        fresh = tuple(item for item in _known([entry.get("item")], count, text) if item not in taken)
        taken |= set(fresh)
        removed += [Group(fresh, reasoning=_text(entry, "reason", MAX_WORDS))] if fresh else []
    groups += [Group((item,)) for item in range(count) if item not in taken]
    return Merging(tuple(sorted(groups)), tuple(removed))


def read_final(text: str, issues: Sequence[Issue], *, size: Size, form: BoxFormat, shown: Size) -> Final:
    """Read the final list; the first entry about an issue counts.

    The category is that of the first known word, else common sense. A severity that cannot be read is None, a box too.

    Args:
        text: the answer.
        issues: as they were given to the model; a text that an entry lacks is taken from them.
        size: of the image; boxes are returned in its pixels.
        form: how the model writes boxes.
        shown: size of the image as shown to the model.

    Raises:
        UnreadableOutputError: there is no entry about any issue.
    """
    entries: dict[int, LooseDict] = {}
    for entry in _entries(_document(text), "anomalies", text):
        number = _number(entry.get("item"))
        if number is not None and 1 <= number <= len(issues):
            entries.setdefault(number - 1, entry)
    if not entries:
        raise unreadable("no entry with the number of an item", text)
    boxes = place_boxes([read_boxes(entry.get(box_key(form)), form) for entry in entries.values()], size, form, shown)
    claims: dict[int, Claim] = {}
    for (place, entry), own in zip(entries.items(), boxes, strict=True):
        told = completed(Group((place,), *_words(entry)), issues[place])
        severity = read_severity(entry.get("severity_score"))
        claims[place] = claim_of(told, severity=severity, box=own[0])
    return Final(claims, text)


def completed(group: Group, issue: Issue) -> Issue:
    """The issue in the words of a group, where the group has words."""
    return Issue(
        thing=issue.thing,
        name=group.name or issue.name,
        phenomenon=group.phenomenon or issue.phenomenon,
        reasoning=group.reasoning or issue.reasoning,
        score=issue.score,
    )


def claim_of(issue: Issue, *, severity: float | None = None, box: tuple[int, int, int, int] | None = None) -> Claim:
    """An issue as a claim."""
    return Claim(
        name=issue.name,
        explanation=issue.phenomenon,
        reasoning=issue.reasoning,
        category=read_category(f"{issue.name} {issue.phenomenon}") or Category.COMMONSENSE,
        severity=severity,
        score=round(issue.score, 6),
        box=box,
    )


def _document(text: str) -> LooseDict | LooseList:
    """The last complete document of an answer that is not empty."""
    whole = [document.value for document in documents(spoken(text)) if document.value and not document.cut]
    if not whole:
        raise unreadable("no complete JSON document", text)
    return whole[-1]


def _check_alone(text: str) -> None:
    """Raise an error unless the answer has just one document, in valid JSON."""
    answer = spoken(text)
    found = list(documents(answer))
    if len(found) > 1 or not is_strict(answer[found[0].start : found[0].end]):
        raise unreadable("an empty list beside other or broken JSON", text)


def _entries(value: LooseDict | LooseList, name: str, text: str) -> list[LooseDict]:
    listed = value.get(name) if isinstance(value, LooseDict) else value
    if not isinstance(listed, LooseList) or not all(isinstance(entry, LooseDict) for entry in listed):
        raise unreadable(f"no list of objects under {name!r}", text)
    return list(listed[:MAX_ITEMS])


def _issue(entry: LooseDict, thing: str) -> Issue:
    name, phenomenon, reasoning = _words(entry)
    return Issue(thing=thing, name=name or plain_text(phenomenon, MAX_NAME), phenomenon=phenomenon, reasoning=reasoning)


def _words(entry: LooseDict) -> tuple[str, str, str]:
    return (
        _text(entry, "name", MAX_NAME),
        _text(entry, "observed_phenomenon", MAX_WORDS),
        _text(entry, "reasoning", MAX_WORDS),
    )


def _text(entry: LooseDict, name: str, longest: int) -> str:
    return plain_text(entry.get(name), longest)


def _known(values: Sequence[Any], count: int, text: str) -> list[int]:
    """Indices of the items that are named by their numbers."""
    numbers = [number for value in values if (number := _number(value)) is not None]
    known = [number - 1 for number in dict.fromkeys(numbers) if 1 <= number <= count]
    if not known:
        raise unreadable("an entry without the number of an item", text)
    return known


def _number(value: Any) -> int | None:
    """A whole number, also as a numeral."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    written = str(value).strip()
    return int(written) if written.isdecimal() and len(written) <= 4 else None


_ARTICLES = {"a", "an", "the"}


def _key(name: str) -> str:
    """The name without case, punctuation and articles."""
    spaced = "".join(letter if letter.isalnum() else " " for letter in name.casefold())
    words = spaced.split()
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)
