"""LEGION's caption grammar: the texts that the model is trained to write, and their parser.

They are captions of SynthScars, with each located phrase in the tags of GLaMM (papers/legion.md section 4.1)::

    Upon examining the image. I have found: {global}
    To elaborate, I have found the following artifacts. <p> {phrase} </p> [SEG]:{explanation}<p> ...

Within this grammar, refiner's own recipe uses a fixed wording, from which all fields of a region can be read::

    <p> {name}, {location} </p> [SEG]:{explanation}, because {reasoning} ({kind}, {category}, {severity}).

Captions without the parenthesis at the end (those of SynthScars) get the category of the first keyword in them, and
``DEFAULT_SEVERITY``; those without a keyword get ``DEFAULT_CATEGORY`` ("deformed objects" are the most common flaw in
SynthScars). There is one fixed sentence for a clean image, ``CLEAN``. All other texts are unreadable, never
clean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from refiner.claims import DEFAULT_CATEGORY, DEFAULT_SEVERITY
from refiner.data.captions import LISTING, OPENING
from refiner.detectors.reading.nothing import says_nothing
from refiner.errors import UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Claim

CLEAN = f"{OPENING} no artifacts."
FLAWED = f"{OPENING} one artifact."
"""Beginning of an answer with a single claim."""
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
"""The words for severity, and their values in [0, 1]."""
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
"""Keywords for the category of a caption without tags; the first matching row is used."""

_COUNTS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TAG = re.compile(r"\s*\(\s*(\w+)\s*,\s*(\w+)\s*,\s*(\w+)\s*\)\s*$")
_MARK = re.compile(r"\[SEG\](?:\s*\[SEG\])*")
_SPECIAL = re.compile(r"</?s>|<unk>|<pad>|<im_start>|<im_end>")


def severity_word(severity: float) -> str:
    return min(SEVERITIES, key=lambda word: abs(SEVERITIES[word] - severity))


def compose(claims: Sequence[Claim]) -> str:
    """Write the answer for these claims, in their order; ``parse`` reads it.

    Severities are rounded to tenths. ``marks``, ``score`` and ``box`` are ignored. A missing category or severity is
    replaced by the default.
    """
    if not claims:
        return CLEAN
    count = _COUNTS[len(claims)] if len(claims) < len(_COUNTS) else "many"
    noun = "artifact" if len(claims) == 1 else "artifacts"
    items = " ".join(map(_item, claims))
    return f"{OPENING} {count} {noun}.\n{LISTING} {items}"


def _item(claim: Claim) -> str:
    category = claim.category or DEFAULT_CATEGORY
    word = severity_word(DEFAULT_SEVERITY if claim.severity is None else claim.severity)
    because = f", because {claim.reasoning}" if claim.reasoning else ""
    return (
        f"<p> {claim.name}, {claim.location} </p> [SEG]:{claim.explanation}{because} "
        f"({category.legion or category}, {category}, {word})."
    )


def parse(raw: str) -> tuple[Claim, ...]:
    """Read an answer.

    Args:
        raw: the answer without the prompt; it may contain special tokens of the text model.

    Returns:
        The claims in reading order, with the [SEG] tokens of each in ``marks``; empty only for the clean sentence. A
        phrase such as "no artifacts" is no claim. If a caption does not separate the location from the name, the
        location is empty.

    Raises:
        UnreadableOutputError: the text has neither claims nor the clean sentence; ``raw`` is the unchanged text.
    """
    text = _SPECIAL.sub(" ", raw).strip()
    marks = list(_MARK.finditer(text))
    if not marks:
        if _squeeze(text) == _squeeze(CLEAN):
            return ()
        raise _unreadable("neither a [SEG] token nor the sentence for a clean image", raw)
    starts = [_phrase_start(text, marks, index, raw) for index in range(len(marks))]
    if "<p>" in text[marks[-1].end() :]:
        raise _unreadable("a phrase without a [SEG] token", raw)
    claims, drawn = [], 0
    for index, mark in enumerate(marks):
        tokens = mark.group().count("[SEG]")
        end = starts[index + 1] if index + 1 < len(marks) else len(text)
        phrase = text[starts[index] + len("<p>") : mark.start()].replace("</p>", " ")
        claim = _claim(phrase, text[mark.end() : end], tuple(range(drawn, drawn + tokens)), raw)
        claims += [] if says_nothing(claim.name) else [claim]
        drawn += tokens
    if not claims:
        raise _unreadable("a [SEG] token for the statement that there is no artifact", raw)
    return tuple(claims)


def _phrase_start(text: str, marks: Sequence[re.Match[str]], index: int, raw: str) -> int:
    low = marks[index - 1].end() if index else 0
    before = text[low : marks[index].start()]
    if before.count("<p>") != 1:
        raise _unreadable(f"{before.count('<p>')} phrases before one [SEG] token", raw)
    return low + before.index("<p>")


def _claim(phrase: str, tail: str, marks: tuple[int, ...], raw: str) -> Claim:
    phrase = " ".join(phrase.split()).rstrip(".")
    body = " ".join(tail.split()).lstrip(": ").rstrip(". ")
    if not phrase or "<p>" in tail or "</p>" in tail:
        raise _unreadable("an empty or unclosed phrase", raw)
    tag = _read_tag(body)
    name, comma, location = phrase.rpartition(", ") if tag else ("", "", "")
    category, severity = tag or (keyword_category(f"{phrase} {body}"), DEFAULT_SEVERITY)
    explanation, _, reasoning = (_TAG.sub("", body) if tag else body).partition(", because ")
    return Claim(
        name=name if comma else phrase,
        location=location if comma else "",
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
    """Find the category of a caption without tags: that of the first row of ``KEYWORDS`` with a word in it."""
    for category, words in KEYWORDS:
        if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE):
            return category
    return DEFAULT_CATEGORY


def _squeeze(text: str) -> str:
    return "".join(text.lower().split()).rstrip(".")


def _unreadable(what: str, raw: str) -> UnreadableOutputError:
    shown = raw if len(raw) <= 120 else f"{raw[:120]}..."
    return UnreadableOutputError(
        f"LEGION's answer {shown!r} has {what}, which its grammar does not allow: use another detector for this image.",
        raw,
    )
