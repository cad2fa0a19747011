"""The answers of AnomReasonor (papers/anomreason.md): a list of anomalies, or a verdict and then a list.

There are two formats:

* ``anomaly_only``: one turn, a list.
* ``authenticity_reasoning``: a first turn that asks whether the image is generated, answered with Yes or No. The answer
  to the second turn is a list, or, for a real image, a description of what makes it real.

A list has items with a blank line between them. The last line of an item is ours; the authors' weights write no boxes::

    @1. Name: The left hand has six fingers.
    Observed Phenomenon: A sixth finger grows beside the thumb.
    Reasoning: A human hand has five fingers.
    Severity Score: 10
    Box: [120, 40, 310, 220]

No anomalies are the sentence ``NOTHING``, which is ours, too. Other words for it ("no anomalies") are refused: a model
that was tuned for the sentence and writes another text may be about to write more. ``read`` accepts bold labels, texts
of several lines, items without a number, and scores such as ``25/100 (moderately unrealistic)``. All else raises
``UnreadableOutputError``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from refiner.claims import DEFAULT_SEVERITY
from refiner.detectors.anomreason.severity import read_severity, score_of
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.loose_json import spoken
from refiner.detectors.reading.nothing import is_bare, says_nothing
from refiner.detectors.reading.regions import MAX_NAME, MAX_REGIONS, MAX_WORDS, plain_text
from refiner.detectors.reading.shares import Shares, pixels_of, read_shares, shares_of, told_box
from refiner.detectors.reading.words import read_category
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Claim, Size

FORMATS = ("anomaly_only", "authenticity_reasoning")
NOTHING = "No anomalies."
NAMELESS = "an anomaly"
"""The name of an anomaly of which nothing is known."""
MAX_TEXT = 100_000
"""Longest answer that is read, in characters."""

_LABELS = ("Name", "Observed Phenomenon", "Reasoning", "Severity Score", "Box")
_NAME, _, _REASONING, _SEVERITY, _ = range(len(_LABELS))
_LONGEST = (MAX_NAME, MAX_WORDS, MAX_WORDS)
"""Longest texts of the first fields in characters; the rest is cut off."""
_FIELD = re.compile(rf"\*{{0,2}}(?:@(\d{{1,4}})\.\s{{0,9}})?\*{{0,2}}({'|'.join(_LABELS)})\*{{0,2}}\s{{0,9}}:(.*)")
_ITEM = re.compile(r"\*{0,2}@\d")
_NAMED = re.compile(rf"\*{{0,2}}{_LABELS[0]}\*{{0,2}}\s{{0,9}}:")
_BOX = re.compile(r"\[((?:[^\[\],]{1,20},){3}[^\[\],]{1,20})\]\.?")
_NUMBERS = re.compile(r"\s*-?\d{1,6}(?:\.\d{1,6})?\s*(?:,\s*-?\d{1,6}(?:\.\d{1,6})?\s*){3}")
_LISTED = re.compile(rf"(?:{'|'.join(_LABELS[1:4])})\*{{0,2}}\s{{0,9}}:")
_TRIMMED = "* "


class Anomaly(NamedTuple):
    """One anomaly of an answer: AnomReason's quadruplet, and its box."""

    name: str
    phenomenon: str
    reasoning: str
    severity: float
    """In [0, 1], 1 = worst. Answers hold 100 - 100 * severity, rounded."""
    box: Shares | None = None
    """None if the answer gives no usable box."""

    def claim(self, size: Size) -> Claim:
        """This about an image of ``size``; the category is that of the first known word, else common sense."""
        return Claim(
            name=self.name,
            explanation=self.phenomenon,
            reasoning=self.reasoning,
            category=read_category(f"{self.name} {self.phenomenon}") or Category.COMMONSENSE,
            severity=self.severity,
            box=None if self.box is None else pixels_of(self.box, size),
        )


def anomaly_of(claim: Claim, size: Size) -> Anomaly:
    """A claim about an image of ``size`` as an anomaly.

    A missing text is the one before it in the order name, phenomenon, reasoning; a missing severity is
    ``DEFAULT_SEVERITY``.
    """
    name = claim.name or claim.explanation or NAMELESS
    phenomenon = claim.explanation or name
    return Anomaly(
        name=name,
        phenomenon=phenomenon,
        reasoning=claim.reasoning or phenomenon,
        severity=DEFAULT_SEVERITY if claim.severity is None else claim.severity,
        box=None if claim.box is None else shares_of(claim.box, size),
    )


def check_format(name: str) -> str:
    """Return the name of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        raise ConfigError(f"There is no format {name!r} of AnomReasonor: choose from {', '.join(FORMATS)}.")
    return name


def write(anomalies: Sequence[Anomaly], *, form: BoxFormat | None, shown: Size) -> str:
    """Write a list. ``read`` returns the same anomalies, with rounded boxes and severities, and texts as by ``plain``.

    Args:
        anomalies: what to write; a text without a visible sign becomes ``NAMELESS``.
        form: how the model writes boxes; None leaves them out.
        shown: size of the image as the model sees it, to which boxes in pixels refer.
    """
    return "\n\n".join(_item(*numbered, form, shown) for numbered in enumerate(anomalies, start=1)) or NOTHING


def plain(text: str, longest: int = MAX_WORDS) -> str:
    """A text as ``write`` writes it and ``read`` returns it: on one line, cut off, without asterisks at its ends.

    A text that is empty, or says that there is no anomaly, becomes ``NAMELESS``.
    """
    words = plain_text(text.strip(_TRIMMED), longest).strip(_TRIMMED)
    return NAMELESS if is_bare(words) or says_nothing(words) else words


def _item(number: int, anomaly: Anomaly, form: BoxFormat | None, shown: Size) -> str:
    texts = (anomaly.name, anomaly.phenomenon, anomaly.reasoning)
    values = [plain(text, longest) for text, longest in zip(texts, _LONGEST, strict=True)]
    values.append(str(score_of(anomaly.severity)))
    if form is not None and anomaly.box is not None:
        values.append(told_box(anomaly.box, form, shown))
    lines = [f"{label}: {value}" for label, value in zip(_LABELS, values, strict=False)]
    return "\n".join([f"@{number}. {lines[0]}", *lines[1:]])


def read(text: str, *, form: BoxFormat, shown: Size, cut: bool = False) -> tuple[Anomaly, ...]:
    """Read a list.

    Args:
        text: what the model wrote.
        form: how it writes boxes.
        shown: size of the image as the model saw it.
        cut: whether the answer ended at the limit of its tokens. Its last item, which may be incomplete, is then left
            out, because items have no mark at their end.

    Returns:
        At most ``MAX_REGIONS`` anomalies, in their order; equal ones are returned once. An item that says that there is
        no anomaly is left out. None at all only if the answer is not cut, and is ``NOTHING``, or all its items say so
        and have the severity 0.

    Raises:
        UnreadableOutputError: a field is missing, empty, repeated or out of order, a score is no number from 0 to 100,
            a number of an item is left out, or there is other text; ``raw`` is the text.
    """
    if len(text) > MAX_TEXT:
        raise _unreadable(f"more than {MAX_TEXT:,} characters", text)
    answer = spoken(text).strip()
    if answer == NOTHING and not cut:
        return ()
    items = _items(_without_last(answer) if cut else answer, text)
    told = [_anomaly(fields, text, form, shown) for fields in items]
    anomalies = [anomaly for anomaly in told if not _is_statement(anomaly)]
    if cut and not anomalies:
        raise _unreadable("an answer that breaks off before its second item", text, "raise the limit of the backend")
    if not items:
        raise _unreadable("no item", text)
    if not anomalies and any(anomaly.severity > 0 for anomaly in told):
        raise _unreadable("only items that say that there is none, with a severity", text)
    return tuple(dict.fromkeys(anomalies))[:MAX_REGIONS]


def _is_statement(anomaly: Anomaly) -> bool:
    """Whether an item says that there is no anomaly."""
    texts = anomaly.name, anomaly.phenomenon
    return any(map(says_nothing, texts)) or all(map(is_bare, texts))


def read_verdict(text: str) -> bool:
    """Read whether the image is called generated: Yes or No, in any case, bold or not, with or without a full stop.

    Raises:
        UnreadableOutputError: it is another text.
    """
    word = spoken(text[:MAX_TEXT]).strip().strip("*.").lower()
    if word not in ("yes", "no"):
        raise UnreadableOutputError(
            f"Expected the answer Yes or No, got {plain_text(text, MAX_NAME)!r}: use a model that is tuned for it.",
            text,
        )
    return word == "yes"


def read_reasons(text: str, *, fake: bool, form: BoxFormat, shown: Size, cut: bool = False) -> tuple[Anomaly, ...]:
    """Read the answer to the second turn: a list, or, if the image is not called generated, any text that is none.

    Raises:
        UnreadableOutputError: as for ``read``; a text with a label of a list, or that is ``cut``, is read as one.
    """
    said = spoken(text[:MAX_TEXT]).strip()
    if not fake and not cut and said and not _LISTED.search(said) and not any(map(_ITEM.match, said.split("\n"))):
        return ()
    return read(text, form=form, shown=shown, cut=cut)


def _unreadable(what: str, text: str, remedy: str = "use a model that is tuned for it") -> UnreadableOutputError:
    shown = plain_text(text, MAX_NAME)
    return UnreadableOutputError(f"Expected a list of anomalies, got {what} in {shown!r}: {remedy}.", text)


def _without_last(answer: str) -> str:
    """The items before the last one that was begun."""
    lines = answer.split("\n")
    begun = [at for at, line in enumerate(lines) if _ITEM.match(line.strip()) or _NAMED.match(line.strip())]
    return "\n".join(lines[: begun[-1]]) if begun else ""


def _items(answer: str, text: str) -> list[list[str]]:
    """The texts of the fields of each item."""
    items: list[list[str]] = []
    for line in map(str.strip, answer.split("\n")):
        field = _FIELD.fullmatch(line)
        if field is None:
            if line and (not items or len(items[-1]) > _REASONING + 1 or _ITEM.match(line)):
                raise _unreadable(f"other text ({plain_text(line, MAX_NAME)!r})", text)
            if line:
                items[-1][-1] += f" {line}"
            continue
        number, label, value = field.groups()
        place = _LABELS.index(label)
        if place == _NAME:
            if items and len(items[-1]) <= _SEVERITY:
                raise _unreadable(f"an item without {_LABELS[len(items[-1])]}", text)
            items.append([])
            if number is not None and int(number) != len(items):
                raise _unreadable(f"the number {number} of item {len(items)}", text)
        elif not items or place != len(items[-1]) or number is not None:
            raise _unreadable(f"{label} in the wrong place", text)
        items[-1].append(value)
    if items and len(items[-1]) <= _SEVERITY:
        raise _unreadable(f"an item without {_LABELS[len(items[-1])]}", text)
    return items


def _anomaly(fields: Sequence[str], text: str, form: BoxFormat, shown: Size) -> Anomaly:
    texts = [value.strip(_TRIMMED) for value in fields[:_SEVERITY]]
    words = [plain_text(value, longest).strip(_TRIMMED) for value, longest in zip(texts, _LONGEST, strict=True)]
    for label, value in zip(_LABELS, words, strict=False):
        if not value:
            raise _unreadable(f"an empty {label}", text)
    severity = read_severity(fields[_SEVERITY].strip(_TRIMMED))
    if severity is None:
        raise _unreadable(f"the score {plain_text(fields[_SEVERITY], MAX_NAME)!r}", text)
    return Anomaly(words[0], words[1], words[2], severity, _box(fields[_SEVERITY + 1 :], form, shown))


def _box(told: Sequence[str], form: BoxFormat, shown: Size) -> Shares | None:
    numbers = _BOX.fullmatch(told[0].strip(_TRIMMED)) if told else None
    if numbers is None or _NUMBERS.fullmatch(numbers[1]) is None:
        return None
    return read_shares(numbers[1], form, shown)
