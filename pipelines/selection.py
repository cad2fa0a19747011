"""What makes a picture better than another, and which repainted patches are worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.pipelines.config import RefineConfig
from refiner.types import Analysis, Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A picture with what detector and judge said of it."""

    image: Image.Image | None
    """None where the model failed to paint."""
    analysis: Analysis | None = None
    """None where there is no image, or where the detector's answer could not be read."""
    scores: tuple[float, ...] = ()
    """The judges', in their order; empty without a judge or image."""
    error: str | None = None


class Verdict(NamedTuple):
    """Whether a picture is accepted, and why, in words."""

    accepted: bool
    reason: str


def compare(new: Look, best: Look | None, config: RefineConfig) -> Verdict:
    """Accept ``new`` only where it is nowhere worse than ``best`` and somewhere really better.

    Its burden must not be larger and none of its scores lower; one of them must improve by more than the margin. A
    picture that could not be analysed is never better than another; any other is better than no picture.
    """
    if new.image is None or new.analysis is None:
        return Verdict(False, "could not be painted" if new.image is None else "could not be analysed")
    if new.error is not None:
        return Verdict(False, "could not be judged")
    if best is None or best.image is None:
        return Verdict(True, "the first picture that could be analysed")
    pairs = list(zip(best.scores, new.scores, strict=False))
    gains = [after - before for before, after in pairs] or [0.0]
    judged = "".join(f", score {before:.4f} -> {after:.4f}" for before, after in pairs)
    if best.analysis is None:
        return Verdict(min(gains) >= 0, f"the best so far could not be analysed{judged}")
    drop = best.analysis.burden - new.analysis.burden
    change = f"burden {best.analysis.burden:.3f} -> {new.analysis.burden:.3f}{judged}"
    if drop < 0:
        return Verdict(False, f"worse for the detector: {change}")
    if min(gains) < 0:
        return Verdict(False, f"worse for the judge: {change}")
    if drop > config.min_burden_drop or max(gains) > config.min_score_gain:
        return Verdict(True, f"better: {change}")
    return Verdict(False, f"no better: {change}")


def burden_within(analysis: Analysis, mask: Mask) -> float:
    """The burden of the flaws inside a bool (H, W) mask, each counted by the share of its pixels that lies there."""
    total = 0.0
    for region in analysis.regions:
        pixels = region.pixels(analysis.size)
        area = np.count_nonzero(pixels)
        if area:
            total += region.severity * region.score * (np.count_nonzero(mask & pixels) / area)
    return total


def heat_within(analysis: Analysis, mask: Mask) -> float:
    """The sum of the heatmap inside a bool (H, W) mask, in pixels."""
    assert analysis.heatmap is not None
    return float(analysis.heatmap[mask].sum())


Choice = tuple[int | None, ...]
"""For each patch the candidate that is shown, or None where the old pixels stay."""


class Board:
    """A picture of which every patch can be shown as it was, or as one of its candidates.

    Args:
        base: the picture as it is; analysed.
        masks: the disjoint patches, bool (H, W) each.
        candidates: for each patch whole pictures that differ from the base inside its mask.
        look: asks detector and judge about pictures.
    """

    def __init__(
        self,
        base: Look,
        masks: Sequence[Mask],
        candidates: Sequence[Sequence[Image.Image]],
        look: Callable[[Sequence[Image.Image]], list[Look]],
    ) -> None:
        self.base, self.masks, self.candidates = base, masks, candidates
        self._look = look
        self._known: dict[Choice, Look] = {}

    def show(self, choices: Sequence[Choice]) -> list[Look]:
        """Detector and judge on each choice; none is asked about twice."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._known]
        if new:
            self._known.update(zip(new, self._look([self._compose(choice) for choice in new]), strict=True))
        return [self._known[choice] for choice in choices]

    def _compose(self, choice: Choice) -> Image.Image:
        assert self.base.image is not None
        picture = self.base.image.copy()
        for mask, candidates, shown in zip(self.masks, self.candidates, choice, strict=True):
            if shown is not None:
                picture.paste(candidates[shown], mask=Image.fromarray(mask))
        return picture


class Settled(NamedTuple):
    """What became of a board."""

    choice: Choice
    look: Look
    verdict: Verdict


def settle(board: Board, config: RefineConfig) -> Settled:
    """Keep the patches that got better, and accept the picture that shows them where it is better as a whole.

    All first candidates are looked at in one picture, all second ones in another, and so on: as many detector calls
    as the largest number of candidates. The kept patches together are looked at again unless that picture is
    already known. Where they fail together, each is tried alone, and then those together that pass alone.
    """
    assert board.base.analysis is not None
    rounds = max(len(candidates) for candidates in board.candidates)
    trials = [tuple(number % len(candidates) for candidates in board.candidates) for number in range(rounds)]
    looks = board.show(trials)
    kept = tuple(_best_candidate(board, patch, trials, looks, config) for patch in range(len(board.masks)))
    if _count(kept) == 0:
        verdict = compare(looks[0], board.base, config)
        reason = "no region got better" if looks[0].analysis else verdict.reason
        return Settled(trials[0], looks[0], Verdict(False, reason))
    together = _judged(board, kept, config)
    if together.verdict.accepted or _count(kept) == 1:
        return together
    return _one_by_one(board, kept, config) or together


def _best_candidate(
    board: Board, patch: int, trials: Sequence[Choice], looks: Sequence[Look], config: RefineConfig
) -> int | None:
    """The candidate with the least burden in its patch, the judges, the first before the others, deciding between
    equals; None: none is better.

    A detector's heatmap counts instead where it gives one: it also falls where a flaw became smaller or less sure, of
    which regions, all or nothing, tell little.
    """
    assert board.base.analysis is not None
    mask = board.masks[patch]
    seen = [(trial[patch], look, look.analysis) for trial, look in zip(trials, looks, strict=True) if look.analysis]
    if not seen:
        return None
    mapped = all(analysis.heatmap is not None for analysis in (board.base.analysis, *(row[2] for row in seen)))
    within, margin = (heat_within, 0.0) if mapped else (burden_within, config.min_burden_drop)
    ranked = [(within(analysis, mask), [-score for score in look.scores], number) for number, look, analysis in seen]
    least, _, candidate = min(ranked, key=lambda row: row[:2])
    return candidate if within(board.base.analysis, mask) - least > margin else None


def _one_by_one(board: Board, kept: Choice, config: RefineConfig) -> Settled | None:
    patches = [patch for patch, shown in enumerate(kept) if shown is not None]
    board.show([_only(kept, {patch}) for patch in patches])
    alone = {patch: _judged(board, _only(kept, {patch}), config) for patch in patches}
    passed = {patch: settled for patch, settled in alone.items() if settled.verdict.accepted}
    if 1 < len(passed) < len(alone):
        together = _judged(board, _only(kept, set(passed)), config)
        if together.verdict.accepted:
            return together
    return min(passed.values(), key=_burden, default=None)


def _judged(board: Board, choice: Choice, config: RefineConfig) -> Settled:
    look = board.show([choice])[0]
    return Settled(choice, look, compare(look, board.base, config))


def _only(choice: Choice, patches: set[int]) -> Choice:
    return tuple(shown if patch in patches else None for patch, shown in enumerate(choice))


def _count(choice: Choice) -> int:
    return sum(shown is not None for shown in choice)


def _burden(settled: Settled) -> float:
    return settled.look.analysis.burden if settled.look.analysis else math.inf
