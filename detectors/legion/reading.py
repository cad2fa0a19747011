"""Read answers as the published code does: whatever the model writes, its masks and phrases are used.

The published inference (LEGION's code, section 4.1 of papers/legion.md) takes the mask of every [SEG] token and the
phrase of every ``<p> ... </p>``, whatever stands around them. So no answer is unreadable here. The phrase before a
[SEG] token is that of its mask, the text after it is the explanation. What belongs to no mask is named in tags.

Departure: an answer without any mask that claims artifacts is one claim without a mask, so that its image does not look
clean. It claims some if it has a phrase, or a sentence about artifacts that does not deny them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from refiner.detectors.legion.grammar import keyword_category
from refiner.detectors.reading.regions import MAX_NAME, MAX_WORDS, plain_text
from refiner.types import Claim

SPECIAL = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")
"""The tokens that LEGION adds to those of LLaMA, in the order of their ids."""
UNNAMED = "a flaw"
"""Name of a region whose answer has no phrase for it."""
_LONGEST = 200
"""Maximum number of characters of the answer in a tag."""
_SENTENCE = re.compile(r"[^.!?]+")
_CLAIM = re.compile(r"\bI have found\b|\bartifacts?\b", re.IGNORECASE)
"""Words of a sentence about artifacts, as LEGION's captions have them (``refiner.data.captions``)."""
_DENIAL = re.compile(
    r"\b(?:no|not|without|free of)(?: \w+){0,3} (?:artifacts?|flaws?)\b|\bfound:? (?:nothing|none)\b", re.IGNORECASE
)
"""Words of such a sentence that says that there are none."""


class Piece(NamedTuple):
    """A part of an answer: one special token, or the text between two of them."""

    text: str
    special: bool


class Reading(NamedTuple):
    """The content of an answer."""

    claims: tuple[Claim, ...]
    """In reading order; each has the indices of its [SEG] tokens in ``marks``, and each [SEG] token is in one. If there
    are no [SEG] tokens, there is at most one claim, without marks: the answer describes artifacts."""
    tags: tuple[str, ...]
    """What could not be used, in words."""


def pieces(tokens: Iterable[int], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Decode an answer as the published code does; its text is that of all pieces, with a space between them.

    Args:
        tokens: of the answer.
        tokenizer: with the tokens of ``SPECIAL``.
    """
    special = {tokenizer.convert_tokens_to_ids(token): token for token in SPECIAL}
    found, run = list[Piece](), list[int]()

    def flush() -> None:
        if run:
            found.append(Piece(tokenizer.decode(run, skip_special_tokens=False), False))
            run.clear()

    for token in tokens:
        if token in special:
            flush()
            found.append(Piece(special[token], True))
        else:
            run.append(token)
    flush()
    return found


@dataclass
class _Reader:
    """Collects claims and tags while it goes over the pieces of an answer."""

    claims: list[Claim] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    phrase: str | None = None
    """The phrase that waits for its [SEG] token; None if there is none."""
    is_open: bool = False
    """Whether the phrase is not closed yet."""
    lead: str = ""
    """Text between a closed phrase and its [SEG] token."""
    marks: list[int] = field(default_factory=list)
    """The [SEG] tokens of the last claim; empty if there is none."""
    name: str = ""
    explanation: str = ""
    drawn: int = 0
    lost: str = ""
    """The first phrase without a [SEG] token; empty if there is none."""

    def take(self, piece: Piece) -> None:
        if not piece.special:
            self._take_text(piece.text)
        elif piece.text == "<p>":
            self._drop_phrase()
            self._end_claim()
            self.phrase, self.is_open = "", True
        elif piece.text == "</p>":
            self.is_open = False
        elif piece.text == "[SEG]":
            self._take_mark()

    def _take_text(self, text: str) -> None:
        if self.phrase is not None and self.is_open:
            self.phrase += f" {text}"
        elif self.phrase is not None:
            self.lead += f" {text}"
        elif self.marks:
            self.explanation += f" {text}"

    def _take_mark(self) -> None:
        again = self.marks and self.phrase is None and not self.explanation.strip()
        if not again:
            self._end_claim()
            self.name = _squeezed(self.phrase or "")
            self.explanation = self.lead
            if not self.name:
                self.tags.append(f"[SEG] without a phrase (mask {self.drawn + 1})")
        self.marks.append(self.drawn)
        self.drawn += 1
        self.phrase, self.lead, self.is_open = None, "", False

    def _end_claim(self) -> None:
        if self.marks:
            name, explanation = self.name.rstrip(".") or UNNAMED, _squeezed(self.explanation).lstrip(": ").rstrip(". ")
            category = keyword_category(f"{self.name} {explanation}")
            self.claims.append(Claim(name=name, explanation=explanation, category=category, marks=tuple(self.marks)))
        self.marks, self.name, self.explanation = [], "", ""

    def _drop_phrase(self) -> None:
        if self.phrase is not None and (lost := _squeezed(f"{self.phrase} {self.lead}")):
            self.tags.append(f"phrase without [SEG]: {_cut(lost)}")
            self.lost = self.lost or _squeezed(self.phrase)
        self.phrase, self.lead = None, ""

    def finish(self) -> None:
        self._drop_phrase()
        self._end_claim()


def read(answer: Sequence[Piece], *, complete: bool) -> Reading:
    """Read an answer; no answer is unreadable.

    Args:
        answer: the pieces of the answer.
        complete: whether the model ended the answer itself; if not, it was cut at the maximum length.
    """
    reader = _Reader()
    for piece in answer:
        reader.take(piece)
    reader.finish()
    if not reader.drawn:
        text = _squeezed(" ".join(piece.text for piece in answer if not piece.special))
        reader.tags.insert(0, f"text without [SEG]: {_cut(text)}" if text else "empty answer")
        if reader.lost or _claims_artifacts(text):
            reader.claims.append(_unplaced(reader.lost, text))
    if not complete:
        reader.tags.append("answer cut at the maximum length")
    return Reading(tuple(reader.claims), tuple(dict.fromkeys(reader.tags)))


def _claims_artifacts(text: str) -> bool:
    return any(_CLAIM.search(told) and not _DENIAL.search(told) for told in _SENTENCE.findall(text))


def _unplaced(phrase: str, text: str) -> Claim:
    name = plain_text(phrase.rstrip("."), MAX_NAME) or UNNAMED
    return Claim(name=name, explanation=plain_text(text, MAX_WORDS), category=keyword_category(text))


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
