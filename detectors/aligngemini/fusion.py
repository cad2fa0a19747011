"""How the verdicts of two branches become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from refiner.calibration import abstained
from refiner.errors import ConfigError
from refiner.types import Analysis

FUSIONS: Final = ("or", "mean", "max", "thresholds")
_MIDDLE: Final = 0.5


@dataclass(frozen=True)
class Fusion:
    """A rule. In all of them, the image counts as generated where the fused probability is above 0.5.

    - ``or``: one branch that calls the image generated is enough (the default, as in published evaluations with the
      authors' data; the paper's abstract names no rule). The probability is the higher one. A branch without
      probabilities counts as 1 if it finds a flaw and as 0 otherwise; that is no estimate.
    - ``mean``, ``max``: of the two probabilities; both branches must give one.
    - ``thresholds``: as ``or``, but each branch has a threshold of its own, which the training learns on samples that
      it holds out. Below and above its threshold, a probability is scaled linearly, so that the threshold becomes 0.5.

    Raises:
        ConfigError: there is no such rule, or the thresholds are missing, out of (0, 1), or given for another rule.
    """

    name: str = "or"
    thresholds: tuple[float, float] | None = None
    """Of the semantic and the pixel branch; only for ``thresholds``."""

    def __post_init__(self) -> None:
        if self.name not in FUSIONS:
            raise ConfigError(f"There is no fusion {self.name!r}: choose from {', '.join(FUSIONS)}.")
        if self.thresholds is None and self.name == "thresholds":
            raise ConfigError("The fusion thresholds needs the two thresholds: add ,thresholds=0.6/0.4 to the id.")
        if self.thresholds is not None and not all(0 < each < 1 for each in self.thresholds):
            raise ConfigError(f"Expected thresholds between 0 and 1, got {self.thresholds}: change them.")

    @property
    def needs_probabilities(self) -> bool:
        """Whether both branches must give a ``fake_probability``."""
        return self.name in ("mean", "max")

    def of(self, semantic: Analysis, pixel: Analysis) -> float | None:
        """The probability that the image is generated, in [0, 1].

        None if a calibrated branch leaves its verdict open and the other one does not settle it: by any rule but
        ``mean``, a probability above 0.5 does.

        Raises:
            ConfigError: a branch gives no probability, which the rule needs.
        """
        chances = [self._chance(analysis) for analysis in (semantic, pixel)]
        if self.thresholds is not None:
            pairs = zip(chances, self.thresholds, strict=True)
            chances = [None if chance is None else scaled(chance, threshold) for chance, threshold in pairs]
        known = [chance for chance in chances if chance is not None]
        if len(known) < len(chances):
            return max((chance for chance in known if chance > _MIDDLE and self.name != "mean"), default=None)
        return sum(known) / 2 if self.name == "mean" else max(known)

    def _chance(self, analysis: Analysis) -> float | None:
        if analysis.fake_probability is None and abstained(analysis.tags):
            return None
        if analysis.fake_probability is not None:
            return analysis.fake_probability
        if self.needs_probabilities:
            raise ConfigError(
                f"The branch {analysis.detector!r} gives no fake_probability, which the fusion {self.name} needs: use "
                "the fusion or, or another detector."
            )
        return float(bool(analysis.regions))


def scaled(probability: float, threshold: float) -> float:
    """A probability on a scale where the threshold is 0.5; 0 and 1 stay."""
    if probability <= threshold:
        return _MIDDLE * probability / threshold
    return _MIDDLE + _MIDDLE * (probability - threshold) / (1 - threshold)


def read_thresholds(text: str) -> tuple[float, float]:
    """Read two numbers with a slash between them.

    Raises:
        ConfigError: the text is of another form.
    """
    try:
        one, other = map(float, text.split("/"))
    except ValueError as error:
        raise ConfigError(f"Expected thresholds such as 0.6/0.4, got {text!r:.40}: write two numbers.") from error
    return one, other
