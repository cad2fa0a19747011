"""ROUGE-L and BLEU-2 of explanations, in the readings that papers leave open; every figure says which one it is.

LEGION names ROUGE-L and FakeXplain BLEU-2 and ROUGE-L, without tokens, weights or smoothing. The defaults are those of
the packages rouge-score (no stemmer) and nltk (sentence BLEU, smoothing method 1). All figures lie in [0, 1]; LEGION
prints them times 100.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, get_args

from refiner.errors import ConfigError
from refiner.metrics.localization import ratio

Words = Literal["rouge", "unicode", "space"]
"""Lower-cased runs of a-z and 0-9; lower-cased runs of letters and digits of any script; or whatever stands between
blanks, as it is."""

VERSION = 1
"""Grows when equal input may give other numbers."""
PYCOCO_BETA: Final = 1.2
"""Weight of recall in pycocoevalcap's ROUGE-L; 1 is rouge-score's."""
_EPSILON = 0.1
"""What nltk's smoothing method 1 takes for no match at all."""
_PATTERNS: dict[Words, re.Pattern[str]] = {"rouge": re.compile(r"[a-z0-9]+"), "unicode": re.compile(r"[^\W_]+")}


def split_words(text: str, words: Words) -> list[str]:
    """The words of a text.

    Raises:
        ConfigError: there is no such rule.
    """
    if words not in get_args(Words):
        raise ConfigError(f"Expected words of {', '.join(get_args(Words))}; got {words!r}: name one of these.")
    return text.split() if words == "space" else _PATTERNS[words].findall(text.lower())


@dataclass(frozen=True, kw_only=True)
class Rouge:
    """Overlap of two texts, in [0, 1]; 0 where either has no words."""

    precision: float
    recall: float
    f: float


def rouge_l(candidate: str, reference: str, *, beta: float = 1.0, words: Words = "rouge") -> Rouge:
    """ROUGE-L: the longest common subsequence of words (Lin, 2004).

    Args:
        candidate: what a model wrote.
        reference: what it should have written.
        beta: weight of recall in F, above 0: 1 as in rouge-score, 1.2 as in pycocoevalcap.
        words: see ``Words``.
    """
    if not beta > 0:
        raise ConfigError(f"Expected a beta above 0, got {beta!r}: 1 weighs precision and recall alike.")
    ours, theirs = split_words(candidate, words), split_words(reference, words)
    common = longest_common_subsequence(ours, theirs)
    precision, recall = ratio(common, len(ours)), ratio(common, len(theirs))
    f = ratio((1 + beta**2) * precision * recall, recall + beta**2 * precision)
    return Rouge(precision=precision, recall=recall, f=f)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, by a bit for each word of ``first``: a row of the usual table in a few operations (Hyyro, 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    row = full = (1 << len(first)) - 1
    for word in second:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()


@dataclass(frozen=True, kw_only=True)
class BleuCounts:
    """Matches of words and of pairs of words; those of many texts add up to corpus BLEU."""

    matches: tuple[int, int] = (0, 0)
    totals: tuple[int, int] = (0, 0)
    """Words and pairs of the candidate."""
    reference: int = 0
    """Words of the reference."""

    def __add__(self, other: BleuCounts) -> BleuCounts:
        return BleuCounts(
            matches=(self.matches[0] + other.matches[0], self.matches[1] + other.matches[1]),
            totals=(self.totals[0] + other.totals[0], self.totals[1] + other.totals[1]),
            reference=self.reference + other.reference,
        )

    def score(self, epsilon: float) -> float:
        """BLEU-2 with equal weights, in [0, 1]; 0 without a single common word.

        Args:
            epsilon: what stands for no match of pairs: 0.1 is nltk's smoothing method 1, 0 is no smoothing.
        """
        if not self.matches[0] or not self.reference:
            return 0.0
        one = self.matches[0] / self.totals[0]
        two = (self.matches[1] or epsilon) / max(1, self.totals[1])
        length = min(1.0, math.exp(1 - self.reference / self.totals[0]))
        return length * math.sqrt(one * two)


def count_bleu(candidate: str, reference: str, *, words: Words = "unicode") -> BleuCounts:
    """What BLEU-2 counts (Papineni et al., 2002), of one candidate and one reference."""
    ours, theirs = split_words(candidate, words), split_words(reference, words)
    pairs = [Counter(pairwise(text)) for text in (ours, theirs)]
    singles = [Counter(text) for text in (ours, theirs)]
    return BleuCounts(
        matches=((singles[0] & singles[1]).total(), (pairs[0] & pairs[1]).total()),
        totals=(len(ours), max(0, len(ours) - 1)),
        reference=len(theirs),
    )


def bleu_2(candidate: str, reference: str, *, words: Words = "unicode") -> float:
    """Sentence BLEU-2, cumulative with weights 1/2 and 1/2, smoothing method 1, in [0, 1]."""
    return count_bleu(candidate, reference, words=words).score(_EPSILON)
