"""Names and seeds as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from refiner.types import RefinementResult

_JUDGES: Final[Mapping[str, tuple[str, str]]] = {
    "hps": ("fit to the prompt", "HPS"),
    "clip": ("fit to the prompt", "CLIP"),
    "burden": ("freedom from flaws", "minus the burden"),
    "realness": ("probability that it is real", ""),
    "checklist": ("share of the prompt's statements that hold", ""),
    "text": ("share of the wanted words that can be read", ""),
}
"""What a judge scores, and by what, by the part of its name before a colon; HPS has no such part."""


def judge_words(name: str) -> str:
    """What a page calls a judge, such as "fit to the prompt (HPS)", with its model unless that is bundled.

    Args:
        name: of the judge; that of an unknown kind is returned as it is.
    """
    kind, colon, model = name.partition(":")
    if not colon and name not in _JUDGES:
        kind, model = ("hps" if "hps" in name.lower() else ""), name
    if kind not in _JUDGES:
        return name
    what, by = _JUDGES[kind]
    told = " ".join(filter(None, (by, "" if "micro" in model else model)))
    return f"{what} ({told})" if told else what


def judges_abbreviated(result: RefinementResult) -> list[str]:
    """The abbreviations in the names of a result's judges, as ``refiner.reports.terms`` knows them."""
    told = [judge_words(score.name) for attempt in result.attempts for score in attempt.scores]
    return [kind for kind in ("hps", "clip") if any(f"({kind.upper()}" in name for name in told)]


def short_seed(seed: int) -> str:
    """A seed of at most nine digits; of a longer one, which only the run record needs, its first and last four."""
    digits = str(seed)
    return digits if len(digits) <= 9 else f"{digits[:4]}…{digits[-4:]}"
