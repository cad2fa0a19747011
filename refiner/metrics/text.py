"""ROUGE-L and BLEU-2 of explanations. Papers leave details open, so each signature names the reading.

LEGION reports ROUGE-L, FakeXplain reports BLEU-2 and ROUGE-L. Neither states tokens, weights or smoothing. The defaults
are those of the packages rouge-score (no stemmer) and nltk (sentence BLEU, smoothing method 1). All figures lie in
[0, 1]; LEGION prints them times 100.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from refiner.errors import ConfigError
from refiner.metrics.counts import ratio

Words = Literal["rouge", "unicode", "space"]
"""``rouge``: lower-cased runs of a-z and 0-9. ``unicode``: lower-cased runs of letters and digits of any script.
``space``: the parts between blanks, unchanged."""

VERSION = 1
"""Increases when the same input can give other numbers."""
_EPSILON = 0.1
"""What smoothing method 1 of nltk counts if no pair of words matches."""
_PATTERNS: dict[Words, re.Pattern[str]] = {"rouge": re.compile(r"[a-z0-9]+"), "unicode": re.compile(r"[^\W_]+")}


def split_words(text: str, words: Words) -> list[str]:
    """The words of a text.

    Raises:
        ConfigError: there is no such rule.
    """
    if words not in get_args(Words):
        raise ConfigError(f"Expected words of {', '.join(get_args(Words))}; got {words!r}: name one of these.")
    return text.split() if words == "space" else _PATTERNS[words].findall(text.lower())


def rouge_l(candidate: str, reference: str) -> float:
    """F of ROUGE-L with the words ``rouge``: the longest common subsequence of words (Lin, 2004), in [0, 1].

    0 if either text has no words.
    """
    ours, theirs = split_words(candidate, "rouge"), split_words(reference, "rouge")
    common = longest_common_subsequence(ours, theirs)
    precision, recall = ratio(common, len(ours)), ratio(common, len(theirs))
    return ratio(2 * precision * recall, precision + recall)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. Each word of ``first`` is a bit, so that a row of the table takes a few operations (Hyyro, 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    row = full = (1 << len(first)) - 1
    for word in second:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()


def bleu_2(candidate: str, reference: str, *, words: Words = "unicode") -> float:
    """Sentence BLEU-2 (Papineni et al., 2002), weights 1/2 and 1/2, smoothing method 1, in [0, 1].

    0 if the texts have no word in common.
    """
    ours, theirs = split_words(candidate, words), split_words(reference, words)
    singles = (Counter(ours) & Counter(theirs)).total()
    if not singles:
        return 0.0
    pairs = (Counter(pairwise(ours)) & Counter(pairwise(theirs))).total()
    length = min(1.0, math.exp(1 - len(theirs) / len(ours)))
    return length * math.sqrt(singles / len(ours) * ((pairs or _EPSILON) / max(1, len(ours) - 1)))
