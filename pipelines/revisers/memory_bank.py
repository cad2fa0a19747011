"""The memory bank of LEGION (section 4.2, equation 5): the flaws of all attempts, accepted or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refiner.taxonomy import Category
from refiner.types import Attempt


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A flaw that was found in at least one attempt."""

    name: str
    category: Category
    explanation: str
    """The detector's explanation from the attempt in which its burden was largest."""
    burden: float
    """Severity times confidence, summed over all attempts."""


def remember(history: Sequence[Attempt]) -> tuple[Memory, ...]:
    """Collect the flaws of all attempts: one entry for each name and category, the largest burden first.

    Attempts that could not be analysed add nothing.
    """
    bank: dict[tuple[str, Category], Memory] = {}
    worst: dict[tuple[str, Category], float] = {}
    for attempt in history:
        for region in attempt.analysis.regions if attempt.analysis else ():
            key, burden = (region.name.lower(), region.category), region.severity * region.score
            seen = bank.get(key)
            told = seen is not None and worst[key] >= burden
            bank[key] = Memory(
                name=region.name,
                category=region.category,
                explanation=seen.explanation if seen and told else region.explanation,
                burden=burden + (seen.burden if seen else 0.0),
            )
            worst[key] = max(burden, worst.get(key, 0.0))
    return tuple(sorted(bank.values(), key=lambda memory: -memory.burden))
