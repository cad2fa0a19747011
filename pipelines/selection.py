"""Which of two images is better, and which inpainted patches are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from refiner.pipelines.config import RefineConfig
from refiner.types import UNVERIFIED, Analysis, Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """An image with its analysis and scores."""

    image: Image.Image | None
    """None if the generation failed."""
    analysis: Analysis | None = None
    """None if there is no image, or if the answer of the detector could not be read."""
    scores: tuple[float, ...] = ()
    """One score for each judge, in their order; empty without a judge or image."""
    error: str | None = None


class Verdict(NamedTuple):
    """Whether an image is accepted, and the reason as a text."""

    accepted: bool
    reason: str


def compare(new: Look, best: Look | None, config: RefineConfig) -> Verdict:
    """Decide whether ``new`` is better than ``best``.

    The burden (sum of severity times confidence over the regions) must not rise and no score may fall. At least one of
    them must improve by more than its margin in ``config``. An image that could not be analysed is never accepted. If
    there is no image yet, any analysed and judged image is accepted. If the best image could not be analysed, an
    analysed image is accepted unless a score falls.

    With ``keep="last"`` in ``config``, nothing is verified: any image is accepted. The reason says so, and what
    verifying would have said.

    The bundled reviser was trained on these reasons; keep their wording.
    """
    verdict = _verified(new, best, config)
    if config.keep == "best" or new.image is None or best is None or best.image is None:
        return verdict
    return Verdict(True, f"{UNVERIFIED}; {verdict.reason}")


def _verified(new: Look, best: Look | None, config: RefineConfig) -> Verdict:
    if new.image is None or new.analysis is None:
        return Verdict(False, "could not be generated" if new.image is None else "could not be analysed")
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
    """Sum the burden of the flaws in a bool (H, W) mask; each flaw counts by the share of its pixels in the mask."""
    total = 0.0
    for region in analysis.regions:
        pixels = region.pixels(analysis.size)
        area = np.count_nonzero(pixels)
        if area:
            total += region.severity * region.score * (np.count_nonzero(mask & pixels) / area)
    return total


def heat_within(analysis: Analysis, mask: Mask) -> float:
    """Sum the heat map inside a bool (H, W) mask."""
    assert analysis.heatmap is not None
    return float(analysis.heatmap[mask].sum())


Choice = tuple[int | None, ...]
"""For each patch the index of the candidate that is shown; None: the old pixels."""


@dataclass(eq=False)
class Board:
    """Combinations of an image's patches: each patch shows its old pixels or one of its candidates."""

    base: Look
    """The image before inpainting; it must be analysed."""
    masks: Sequence[Mask]
    """The patches, bool (H, W) each; they do not overlap."""
    candidates: Sequence[Sequence[Image.Image]]
    """For each patch a list of whole images that differ from the base only inside its mask."""
    look: Callable[[Sequence[Image.Image]], list[Look]]
    """Analyses and scores images."""
    _known: dict[Choice, Look] = field(default_factory=dict, init=False)

    def show(self, choices: Sequence[Choice]) -> list[Look]:
        """Analyse and score the image of each choice; known choices are not analysed again."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._known]
        if new:
            self._known.update(zip(new, self.look([self._compose(choice) for choice in new]), strict=True))
        return [self._known[choice] for choice in choices]

    def _compose(self, choice: Choice) -> Image.Image:
        assert self.base.image is not None
        picture = self.base.image.copy()
        for mask, candidates, shown in zip(self.masks, self.candidates, choice, strict=True):
            if shown is not None:
                picture.paste(candidates[shown], mask=Image.fromarray(mask))
        return picture


class Settled(NamedTuple):
    """The outcome of ``settle``: a choice, its image, and whether it is accepted."""

    choice: Choice
    look: Look
    verdict: Verdict


def settle(board: Board, config: RefineConfig) -> Settled:
    """Keep the patches that became better, and accept the combined image if it is better as a whole.

    One image shows the first candidate of every patch, another image the second candidates, and so on. The image with
    only the kept patches is analysed again, unless it is known. If it is not accepted, each kept patch is tested by
    itself, and then those that passed are tested together.
    """
    assert board.base.analysis is not None
    rounds = max(len(candidates) for candidates in board.candidates)
    trials = [tuple(number % len(candidates) for candidates in board.candidates) for number in range(rounds)]
    looks = board.show(trials)
    kept = tuple(_best_candidate(board, patch, trials, looks, config) for patch in range(len(board.masks)))
    count = sum(shown is not None for shown in kept)
    if count == 0:
        verdict = compare(looks[0], board.base, config)
        reason = "no region got better" if looks[0].analysis else verdict.reason
        return Settled(trials[0], looks[0], Verdict(False, reason))
    together = _judged(board, kept, config)
    if together.verdict.accepted or count == 1:
        return together
    return _one_by_one(board, kept, config) or together


def _best_candidate(
    board: Board, patch: int, trials: Sequence[Choice], looks: Sequence[Look], config: RefineConfig
) -> int | None:
    """Return the candidate with the least burden in its patch; None: no candidate is better than the old pixels.

    The scores break ties, in the order of the judges. If the detector returns heat maps, the sum of the heat map is
    used instead of the burden. It also falls if a flaw becomes smaller or less certain, which regions hardly show.
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
    burdens = {patch: one.look.analysis.burden for patch, one in passed.items() if one.look.analysis}
    return passed[min(burdens, key=burdens.__getitem__)] if burdens else None


def _judged(board: Board, choice: Choice, config: RefineConfig) -> Settled:
    look = board.show([choice])[0]
    return Settled(choice, look, compare(look, board.base, config))


def _only(choice: Choice, patches: set[int]) -> Choice:
    return tuple(shown if patch in patches else None for patch, shown in enumerate(choice))
