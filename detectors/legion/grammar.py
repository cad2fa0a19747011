"""LEGION's caption grammar: what the model is taught to write, and how its text is read.

SynthScars' captions, with every located phrase wrapped as GLaMM does it (papers/legion.md section 4.1)::

    Upon examining the image. I have found: {global}
    To elaborate, I have found the following artifacts. <p> {phrase} </p> [SEG]:{explanation}<p> ...

Inside that grammar our own recipe writes a regular wording, from which every field of a region can be read::

    <p> {name}, {location} </p> [SEG]:{explanation}, because {reasoning} ({kind}, {category}, {severity}).

Captions without the closing parenthesis (SynthScars' own) get the category of the first keyword found in them, and
``DEFAULT_SEVERITY``. A clean image has one fixed sentence, ``CLEAN``. All else is unreadable, never clean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refiner.errors import UnreadableOutputError
from refiner.taxonomy import Category

OPENING = "Upon examining the image. I have found:"
CLEAN = f"{OPENING} no artifacts."
FLAWED = f"{OPENING} one artifact."
"""How an answer with a single finding begins."""
SEVERITIES: dict[str, float] = {
    "trace": 0.1,
    "faint": 0.2,
    "slight": 0.3,
    "mild": 0.4,
    "moderate": 0.5,
    "marked": 0.6,
    "strong": 0.7,
    "serious": 0.8,
    "severe": 0.9,
    "extreme": 1.0,
}
"""The words for severity, and what they stand for in [0, 1]."""
DEFAULT_SEVERITY = 0.6
"""Severity of a region whose text gives none."""
KEYWORDS: tuple[tuple[Category, str], ...] = (
    (Category.TEXT, r"text|letter|letters|word|words|digits?|characters?|signs?|writing|illegible|garbled"),
    (Category.OPTICS, r"shadows?|reflections?|reflected|light|lighting|mirror|mirrored|refraction|sun"),
    (Category.PERSPECTIVE, r"perspective|proportions?|scale|spatial|vanishing"),
    (Category.PHYSICAL_LAW, r"float|floats|floating|gravity|hovering|hovers|intersects?|through|support|suspended"),
    (Category.ANATOMY, r"fingers?|hands?|legs?|arms?|eyes?|ears?|limbs?|face|faces|teeth|paws?|missing|extra|surplus"),
    (Category.NOISE_BLUR, r"blur|blurry|blurred|blurs|noise|noisy|grain|grainy|smudged"),
    (Category.COLOR, r"colors?|colours?|hue|tint|discolou?red|saturated"),
    (Category.TEXTURE, r"textures?|patterns?|material|surface|smooth|plastic"),
    (Category.SHAPE, r"shapes?|edges?|outlines?|jagged|melted|deformed|distorted|warped|asymmetric|asymmetry"),
    (Category.COMMONSENSE, r"unlikely|implausible|sense|unusual|belongs?|wrong place"),
)
"""Words that give an untagged caption its category; the first row that matches wins."""
DEFAULT_CATEGORY = Category.SHAPE
"""Category of an untagged caption in which no keyword occurs: "deformed objects" are SynthScars' commonest flaw."""

_COUNTS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TAG = re.compile(r"\s*\(\s*(\w+)\s*,\s*(\w+)\s*,\s*(\w+)\s*\)\s*$")
_MARK = re.compile(r"\[SEG\](?:\s*\[SEG\])*")
_SPECIAL = re.compile(r"</?s>|<unk>|<pad>|<im_start>|<im_end>")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One located phrase of an answer."""

    phrase: str
    """The text between ``<p>`` and ``</p>``."""
    name: str
    location: str
    """Where in the picture, in words; empty where the text does not say it apart from the name."""
    explanation: str
    reasoning: str
    category: Category
    severity: float
    """In [0, 1]."""
    marks: tuple[int, ...]
    """Which of the answer's [SEG] tokens, counted from 0, draw this finding's mask; their masks are united."""


def severity_word(severity: float) -> str:
    """The word nearest to a severity in [0, 1]."""
    return min(SEVERITIES, key=lambda word: abs(SEVERITIES[word] - severity))


def compose(findings: Sequence[Finding]) -> str:
    """The answer that names these findings, in their order; ``parse`` gives them back.

    Severities are rounded to tenths; ``phrase`` and ``marks`` of the input are not looked at.
    """
    if not findings:
        return CLEAN
    count = _COUNTS[len(findings)] if len(findings) < len(_COUNTS) else "many"
    noun = "artifact" if len(findings) == 1 else "artifacts"
    items = " ".join(_item(finding) for finding in findings)
    return f"{OPENING} {count} {noun}.\nTo elaborate, I have found the following artifacts. {items}"


def _item(finding: Finding) -> str:
    kind, word = finding.category.legion, severity_word(finding.severity)
    return (
        f"<p> {finding.name}, {finding.location} </p> [SEG]:{finding.explanation}, because {finding.reasoning} "
        f"({kind}, {finding.category}, {word})."
    )


def parse(raw: str) -> tuple[Finding, ...]:
    """Read an answer, the prompt before it cut off, special tokens of the text model allowed.

    Returns:
        The findings in reading order; empty for the clean sentence alone.

    Raises:
        UnreadableOutputError: the text is neither; ``raw`` on the error is the text as it came.
    """
    text = _SPECIAL.sub(" ", raw).strip()
    marks = list(_MARK.finditer(text))
    if not marks:
        if _squeeze(text) == _squeeze(CLEAN):
            return ()
        raise _unreadable("no [SEG] token and not the sentence for a clean image", raw)
    starts = [_phrase_start(text, marks, index, raw) for index in range(len(marks))]
    if "<p>" in text[marks[-1].end() :]:
        raise _unreadable("a phrase without a [SEG] token", raw)
    findings, drawn = [], 0
    for index, mark in enumerate(marks):
        tokens = mark.group().count("[SEG]")
        end = starts[index + 1] if index + 1 < len(marks) else len(text)
        phrase = text[starts[index] + len("<p>") : mark.start()].replace("</p>", " ")
        findings.append(_finding(phrase, text[mark.end() : end], tuple(range(drawn, drawn + tokens)), raw))
        drawn += tokens
    return tuple(findings)


def _phrase_start(text: str, marks: Sequence[re.Match[str]], index: int, raw: str) -> int:
    low = marks[index - 1].end() if index else 0
    before = text[low : marks[index].start()]
    if before.count("<p>") != 1:
        raise _unreadable(f"{before.count('<p>')} phrases before one [SEG] token", raw)
    return low + before.index("<p>")


def _finding(phrase: str, tail: str, marks: tuple[int, ...], raw: str) -> Finding:
    phrase = " ".join(phrase.split()).rstrip(".")
    body = " ".join(tail.split()).lstrip(": ").rstrip(". ")
    if not phrase or "<p>" in tail or "</p>" in tail:
        raise _unreadable("an empty or unclosed phrase", raw)
    tag = _read_tag(body)
    if tag is None:
        category = keyword_category(f"{phrase} {body}")
        return _make(phrase, phrase, "", body, category, DEFAULT_SEVERITY, marks)
    name, comma, location = phrase.rpartition(", ")
    name, location = (name, location) if comma else (phrase, "")
    return _make(phrase, name, location, _TAG.sub("", body), *tag, marks)


def _make(
    phrase: str, name: str, location: str, body: str, category: Category, severity: float, marks: tuple[int, ...]
) -> Finding:
    explanation, _, reasoning = body.partition(", because ")
    return Finding(
        phrase=phrase,
        name=name,
        location=location,
        explanation=explanation.strip(),
        reasoning=reasoning.strip(),
        category=category,
        severity=severity,
        marks=marks,
    )


def _read_tag(body: str) -> tuple[Category, float] | None:
    match = _TAG.search(body)
    if match is None or match[3] not in SEVERITIES:
        return None
    try:
        return Category.parse(match[2]), SEVERITIES[match[3]]
    except ValueError:
        return None


def keyword_category(text: str) -> Category:
    """The category of a caption that names none: that of the first row of ``KEYWORDS`` found in it."""
    for category, words in KEYWORDS:
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            return category
    return DEFAULT_CATEGORY


def _squeeze(text: str) -> str:
    return "".join(text.lower().split()).rstrip(".")


def _unreadable(what: str, raw: str) -> UnreadableOutputError:
    shown = raw if len(raw) <= 120 else f"{raw[:120]}..."
    return UnreadableOutputError(
        f"Expected LEGION's caption grammar, got {what} in {shown!r}: use another detector for this picture.",
        raw,
    )
