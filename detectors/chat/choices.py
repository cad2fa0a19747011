"""The probabilities of a few words at one place of an answer, from the tokens that a server lists there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

LISTED = 20
"""Number of most probable tokens that a server is asked for at each place, the most that OpenAI's protocol allows."""


class Choice(NamedTuple):
    """A place in an answer where one of a few words stands, whose probabilities are wanted."""

    after: str
    """The text before the word, such as an opening tag; its first occurrence counts. White space behind it is skipped.
    """
    words: tuple[str, ...]


def listed_shares(content: Any, choice: Choice) -> tuple[float, ...] | None:
    """Compute the probabilities of the words of a choice from the tokens that a server lists for an answer.

    A listed token counts for the only word that it begins, or that begins it; upper and lower case are equal. The
    probability of a word is the sum over its tokens. If none of its tokens is listed, an upper bound is taken instead:
    the smallest listed probability, or what the listed tokens leave of 1 if that is less.

    Args:
        content: ``logprobs.content`` of OpenAI's protocol: for each token of the answer its text ``token``, ``logprob``
            (natural logarithm) and ``top_logprobs``, the most probable tokens at its place. It is not trusted.
        choice: the place and the words.

    Returns:
        For each word, in order, its share of the sum of their probabilities, in [0, 1]. None if the content is not of
        this form, the place is not in the answer, or no token of a word is listed there.
    """
    try:
        texts = [str(entry["token"]) for entry in content]
        place = _place(texts, choice.after)
        if place is None:
            return None
        number, lead = place
        return _shares(_listed(content[number]), lead, choice.words)
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def _place(texts: Sequence[str], after: str) -> tuple[int, str] | None:
    """The number of the token in which the word begins, and the part of the token before the word."""
    said = "".join(texts)
    found = said.find(after)
    rest = said[found + len(after) :].lstrip()
    if found < 0 or not rest:
        return None
    start = len(said) - len(rest)
    ends = accumulate(map(len, texts))
    number, end = next((number, end) for number, end in enumerate(ends) if end > start)
    return number, said[end - len(texts[number]) : start]


def _listed(entry: Any) -> dict[str, float]:
    """The texts of the tokens at a place, that of the answer among them, and their probabilities."""
    found: dict[str, float] = {}
    for token in [*(entry.get("top_logprobs") or ()), entry]:
        chance = math.exp(min(float(token["logprob"]), 0.0))
        if math.isnan(chance):
            raise ValueError("NaN")
        found[str(token["token"])] = max(chance, found.get(str(token["token"]), 0.0))
    return found


def _shares(listed: dict[str, float], lead: str, words: Sequence[str]) -> tuple[float, ...] | None:
    sums: list[float | None] = [None] * len(words)
    for text, chance in listed.items():
        begun = [number for number, word in enumerate(words) if _begins(text, lead.strip(), word)]
        if len(begun) == 1:
            sums[begun[0]] = (sums[begun[0]] or 0.0) + chance
    bound = min(min(listed.values()), max(0.0, 1.0 - sum(listed.values())))
    chances = [bound if each is None else each for each in sums]
    whole = sum(chances)
    if all(each is None for each in sums) or whole <= 0:
        return None
    return tuple(chance / whole for chance in chances)


def _begins(text: str, lead: str, word: str) -> bool:
    """Whether a token is the beginning of ``lead`` and the word, with white space around ``lead``, or goes beyond."""
    bare = text.lstrip()
    told, wanted = bare.removeprefix(lead).lstrip().lower(), word.lower()
    if not bare.startswith(lead) or not told:
        return False
    return wanted.startswith(told) or (told.startswith(wanted) and not told[len(wanted) :][:1].isalnum())
