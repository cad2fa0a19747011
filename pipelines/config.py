"""Settings of the refinement loop. Lengths are shares, so that one setting fits a 96 and a 1024 pixel picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from refiner.errors import ConfigError

Strategy = Literal["auto", "inpaint", "regenerate"]
Order = Literal["worst", "largest", "left_to_right", "centre"]


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How a picture is refined.

    Raises:
        ConfigError: a setting is out of its range.
    """

    seed: int = 0  # every seed of the run is derived from it; >= 0
    negative_prompt: str = ""  # the user's own; joined with the reviser's
    strategy: Strategy = "auto"  # what to do about flaws; "auto" chooses by their number, size and category

    max_rounds: int = 5  # rounds after the start picture; >= 0
    patience: int = 2  # stop after so many rounds in a row with nothing accepted; >= 1
    max_denoiser_rows: int | None = None  # start no painting once so many rows are spent; None: no limit
    max_seconds: float | None = None  # start no painting after so many seconds; None: no limit

    min_burden_drop: float = 0.1  # a burden counts as smaller when it falls by more than this; severity x confidence
    min_score_gain: float = 1e-4  # a judge's score counts as higher when it rises by more than this; the judge's unit

    max_regions: int = 8  # patches that are repainted in one round, the first by ``order``; >= 1
    order: Order = "worst"  # whose pixels come first: by severity x confidence, by size, from the left, from the middle
    min_area: float = 0.0  # a flaw below this share of the picture is not repainted; in [0, 1]
    max_area: float = 1.0  # nor is one above this share; in [min_area, 1]
    large_share: float = 0.35  # a flaw above this share of the picture is not local; in [0, 1]
    global_share: float = 0.10  # the same for flaws of light and perspective; in [0, 1]

    fill_holes: bool = False  # repaint also what a region encloses
    dilate: float = 0.06  # a region grows by this share of the picture's longer side before it is repainted; >= 0
    feather: float = 0.02  # old and new pixels blend over this share of the longer side, inside the mask; >= 0
    merge_overlap: float = 0.5  # regions that, once grown, share this part of the smaller are one patch; in [0, 1]
    together: bool = False  # repaint all regions in one pass with the whole prompt, not each with its part of it
    crop_padding: float = 0.5  # context on each side of a region, as a share of its longer side; >= 0
    crop_min_side: float = 0.5  # smallest crop, as a share of the model's native side; in (0, 1]
    batch_size: int = 8  # crops in one call of the inpainting model; >= 1

    strengths: tuple[float, ...] = (0.7, 0.85, 1.0)  # share of the noise schedule at the 1st, 2nd, ... try at a region
    severity_strength: float = 0.0  # by this share a flaw of severity 0 gets less strength than one of 1; in [0, 1]
    area_strength: float = 0.0  # strength is multiplied by (1 - share of the picture) to this power; >= 0
    mixed_strengths: float = 0.0  # regions whose strengths differ by at most this share a batch; in [0, 1]
    soft_edge: float = 0.0  # inside the mask, strength rises to its whole over this share of the longer side; >= 0
    candidates: int = 1  # pictures painted of a region at the first try, one more at each later one; >= 1
    max_candidates: int = 4  # at most so many; >= candidates

    def __post_init__(self) -> None:
        self._check("strategy", self.strategy in get_args(Strategy), f"one of {', '.join(get_args(Strategy))}")
        for name in ("seed", "max_rounds"):
            self._check_least(name, 0)
        for name in ("patience", "max_regions", "batch_size", "candidates"):
            self._check_least(name, 1)
        self._check("order", self.order in get_args(Order), f"one of {', '.join(get_args(Order))}")
        lengths = ("dilate", "feather", "crop_padding", "soft_edge")
        for name in ("min_burden_drop", "min_score_gain", "area_strength", *lengths):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("max_denoiser_rows", "max_seconds"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "more than 0, or None")
        shares = ("large_share", "global_share", "min_area", "max_area", "merge_overlap")
        for name in (*shares, "severity_strength", "mixed_strengths"):
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        self._check("max_area", self.max_area >= self.min_area, f"at least min_area={self.min_area}")
        self._check("crop_min_side", 0 < self.crop_min_side <= 1, "in (0, 1]")
        self._check("max_candidates", self.max_candidates >= self.candidates, f"at least candidates={self.candidates}")
        usable = len(self.strengths) > 0 and all(0 < strength <= 1 for strength in self.strengths)
        self._check("strengths", usable, "one or more numbers in (0, 1]")

    def _check_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        self._check(name, isinstance(value, int) and value >= least, f"a whole number of at least {least}")

    def _check(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            raise ConfigError(f"RefineConfig.{name} must be {wanted}, got {getattr(self, name)!r}.")

    def strength(self, tries: int) -> float:
        """Strength for a region that failed ``tries`` times."""
        return self.strengths[min(tries, len(self.strengths) - 1)]

    def candidate_count(self, tries: int) -> int:
        """How many candidates to paint of a region that failed ``tries`` times."""
        return min(self.candidates + tries, self.max_candidates)
