"""Match the words that an image shows with those that the prompt asks for. No model is used.

What is read is split into pieces: words, and single letters of scripts without spaces. A run of neighbouring pieces can
match a run of words of one wanted text, because readers lose spaces and add some. Equal runs are matched first, the
longest before the others. Then come the runs of one line whose edit distance is at most half of their length, the
nearest first. No piece is matched twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from refiner.detectors.text.reader import Line
from refiner.lettering import folded, is_unspaced
from refiner.metrics.edits import edit_distance

FARTHEST: Final = 0.5
"""Edit distance, as a share of the longer text, up to which a run is taken for a misspelt word."""
_LONGEST_RUN: Final = 4
"""Words of a wanted text that may be matched together."""
_MAX_PIECES: Final = 200
"""Pieces of an image that are compared; the rest is left out."""
_LEAST_DOUBLE: Final = 3
"""Letters of a word that counts as doubled; scripts without spaces need one less."""
_WORD: Final = re.compile(r"\S+")


class Piece(NamedTuple):
    """A word or letter of a line."""

    form: str
    """As ``folded``."""
    line: int
    start: int
    """Place of its first character in the text of the line."""
    end: int


class Span(NamedTuple):
    """A run of pieces, by their numbers: from ``start`` to before ``end``."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Match:
    """A run of words of one wanted text, and what stands in their place."""

    text: int
    """Number of the wanted text."""
    words: Span
    """The words of this text."""
    pieces: Span
    share: float
    """The edit distance as a share of the longer side, in [0, ``FARTHEST``]; 0 if it is read as wanted."""


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which words were found where."""

    pieces: tuple[Piece, ...]
    matches: tuple[Match, ...]
    missing: tuple[tuple[int, Span], ...]
    """Runs of words that were found nowhere, each with the number of its text."""
    doubled: tuple[Span, ...]
    """Runs of pieces that repeat a wanted word once more than wanted."""
    unmatched: tuple[int, ...]
    """Numbers of the lines none of whose pieces belongs to a match or is doubled."""
    cut: bool
    """Whether the image has more pieces than are compared, so that a missing word may be there."""


def match(lines: Sequence[Line], wanted: Sequence[Sequence[str]]) -> Matching:
    """Find the wanted words in the lines of an image.

    Args:
        lines: in the order of reading.
        wanted: the words of each wanted text, as ``refiner.lettering.wanted_words`` returns them.
    """
    pieces, forms = tuple(_pieces(lines)), [[folded(word) for word in text] for text in wanted]
    return _Matcher(pieces[:_MAX_PIECES], forms).result(len(lines), cut=len(pieces) > _MAX_PIECES)


def _pieces(lines: Sequence[Line]) -> Iterator[Piece]:
    for number, line in enumerate(lines):
        for word in _WORD.finditer(line.text):
            start, end = word.span()
            alone = [at for at in range(start, end) if is_unspaced(line.text[at])]
            edges = sorted({start, end, *alone, *(at + 1 for at in alone)})
            for first, last in pairwise(edges):
                if form := folded(line.text[first:last]):
                    yield Piece(form, number, first, last)


class _Offer(NamedTuple):
    """A possible match; the smallest is taken first."""

    share: float
    shorter: int
    """Minus the number of wanted letters."""
    nearer: int
    """Minus the number of letters that are read."""
    pieces: Span
    text: int
    words: Span


@dataclass
class _Matcher:
    pieces: Sequence[Piece]
    wanted: Sequence[Sequence[str]]
    used: set[int] = field(default_factory=set)
    matches: list[Match] = field(default_factory=list)
    open: list[set[int]] = field(init=False)
    """The words of each text that were not found yet."""

    def __post_init__(self) -> None:
        self.open = [set(range(len(text))) for text in self.wanted]

    def result(self, lines: int, *, cut: bool) -> Matching:
        for offer in sorted(self._offers()):
            if self._is_open(offer):
                self._take(offer)
        doubled = self._doubled()
        taken = {self.pieces[at].line for at in self.used}
        return Matching(
            pieces=tuple(self.pieces),
            matches=tuple(sorted(self.matches, key=lambda each: (each.text, each.words))),
            missing=tuple(self._missing()),
            doubled=tuple(doubled),
            unmatched=tuple(line for line in range(lines) if line not in taken),
            cut=cut,
        )

    def _is_open(self, offer: _Offer) -> bool:
        return self.open[offer.text].issuperset(range(*offer.words)) and self.used.isdisjoint(range(*offer.pieces))

    def _take(self, offer: _Offer) -> None:
        self.open[offer.text].difference_update(range(*offer.words))
        self.used.update(range(*offer.pieces))
        self.matches.append(Match(text=offer.text, words=offer.words, pieces=offer.pieces, share=offer.share))

    def _offers(self) -> Iterator[_Offer]:
        forms = {
            (text, Span(first, last)): "".join(words[first:last])
            for text, words in enumerate(self.wanted)
            for first in range(len(words))
            for last in range(first + 1, min(first + _LONGEST_RUN, len(words)) + 1)
        }
        longest = max(map(len, forms.values()), default=0)
        counts = {wanted: Counter(wanted) for wanted in forms.values()}
        for run, form in self._runs(2 * longest):
            within, count = self.pieces[run.start].line == self.pieces[run.end - 1].line, Counter(form)
            for (text, words), wanted in forms.items():
                most = int(FARTHEST * max(len(form), len(wanted))) if within else 0
                if abs(len(form) - len(wanted)) > most or (counts[wanted] - count).total() > most:
                    continue
                distance = edit_distance(form, wanted)
                if distance <= most:
                    share = distance / max(len(form), len(wanted))
                    yield _Offer(share, -len(wanted), -len(form), run, text, words)

    def _runs(self, longest: int) -> Iterator[tuple[Span, str]]:
        """Runs of pieces with at most ``longest`` letters, with their form; they may go over the end of a line."""
        for start in range(len(self.pieces)):
            form = ""
            for end in range(start + 1, len(self.pieces) + 1):
                form += self.pieces[end - 1].form
                if len(form) > longest:
                    break
                yield Span(start, end), form

    def _missing(self) -> Iterator[tuple[int, Span]]:
        """Neighbouring words of a text that were not found are one run."""
        for text, left in enumerate(self.open):
            start: int | None = None
            for word in range(len(self.wanted[text]) + 1):
                if word in left:
                    start = word if start is None else start
                elif start is not None:
                    yield text, Span(start, word)
                    start = None

    def _doubled(self) -> list[Span]:
        forms = {word for text in self.wanted for word in text if len(word) >= _LEAST_DOUBLE - is_unspaced(word[0])}
        found = []
        for run, form in self._runs(max(map(len, forms), default=0)):
            if form in forms and self.used.isdisjoint(range(*run)):
                self.used.update(range(*run))
                found.append(run)
        return found
