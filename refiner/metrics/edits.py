"""Edit distance of texts (Levenshtein, 1966), plain and in shares of their length."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """The least number of insertions, deletions and replacements of characters that turn one text into the other.

    A column of the table is two numbers, with a bit for each character of ``first`` where the distance rises or falls
    (Myers, 1999, in the form of Hyyro, 2001); so a column takes a few operations.
    """
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for at, letter in enumerate(first):
        places[letter] = places.get(letter, 0) | 1 << at
    full, last, distance = (1 << len(first)) - 1, 1 << (len(first) - 1), len(first)
    rises, falls = full, 0
    for letter in second:
        same = places.get(letter, 0)
        still = (((same & rises) + rises) ^ rises) | same
        up, down = falls | (full & ~(still | rises)), rises & still
        distance += bool(up & last) - bool(down & last)
        up = (up << 1 | 1) & full
        rises = (down << 1 & full) | (full & ~(same | falls | up))
        falls = up & (same | falls)
    return distance


def edit_share(first: str, second: str) -> float:
    """The edit distance divided by the length of the longer text, in [0, 1]; 0 for two empty texts."""
    longest = max(len(first), len(second))
    return edit_distance(first, second) / longest if longest else 0.0
