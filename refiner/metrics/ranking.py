"""Generators ranked by semantic realism: MAI, AF and CAP with bootstrap intervals and pairwise win probabilities.

AnomReason (arXiv 2510.10231) ranks generators by these three, lower is better, but does not define them. Our reading,
with s the severity of an anomaly in [0, 1], 1 = worst (the paper's scale runs from 100 down to 0):

- AF, anomaly frequency: anomalies per image. Variant ``AF_share``: share of the images that have any.
- MAI, mean anomaly intensity: mean s over all anomalies. Variant ``MAI_image``: the mean over images with anomalies of
  the image's mean s.
- CAP: AF times MAI, which is the mean over images of the sum of s. It ranks.

All generators are compared on the same prompts. Intervals and probabilities are those over prompts, so images of one
prompt count together; they also hold for few prompts. ``rank_by_score`` ranks by any other score of single images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refiner.data.problems import Problem
from refiner.data.samples import digest
from refiner.errors import ConfigError, InputError
from refiner.metrics.intervals import ANY, POSITIVE, UNIT, Range, mean_interval

Array = NDArray[np.float64]

VERSION = 2
"""Increases when the same input can give other numbers."""
FIGURES: Final[Mapping[str, str]] = {
    "CAP": "sum of the severities of an image's flaws, mean over the images",
    "MAI": "mean severity of the flaws",
    "AF": "flaws per image",
    "AF_share": "share of the images with any flaw",
    "MAI_image": "mean severity within a flawed image, mean over those images",
    "PAR": "share of flawed pixels, mean over the images of which the place of a flaw is known, or that have none",
    "HPS": "how well an image fits its prompt according to the judge, mean over the images",
}
"""What each figure of a ranking means; lower is better, except for HPS."""
_DRAWS_AT_A_TIME = 2**20


class Measure(NamedTuple):
    """A quotient of two sums over images, and its direction."""

    name: str
    over: int
    """Column of the numerator."""
    under: int
    """Column of the denominator; 0/0 is 0."""
    higher_is_better: bool
    within: Range
    """The values that a single image can have."""


_IMAGES, _ANOMALIES, _INTENSITY, _FLAWED, _MEANS = range(5)
ANOMALY_MEASURES = (
    Measure("CAP", _INTENSITY, _IMAGES, False, POSITIVE),
    Measure("MAI", _INTENSITY, _ANOMALIES, False, UNIT),
    Measure("AF", _ANOMALIES, _IMAGES, False, POSITIVE),
    Measure("AF_share", _FLAWED, _IMAGES, False, UNIT),
    Measure("MAI_image", _MEANS, _FLAWED, False, UNIT),
)
_DEFINITIONS = "CAP=AF*MAI|MAI=mean_over_anomalies|AF=anomalies_per_image"


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Settings of the intervals and of the draws."""

    resamples: int = 2000
    level: float = 0.95
    """How often an interval holds the true value, in (0, 1)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ConfigError(
                f"Expected at least 1 resample and a level in (0, 1), got {self.resamples} and {self.level}: "
                "use other values."
            )


class Estimate(NamedTuple):
    """A measure with its interval over prompts (``refiner.metrics.intervals.mean_interval``)."""

    value: float
    low: float | None
    high: float | None
    """Both are None if the prompts do not tell them: a single prompt, or no difference between any of them."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One generator."""

    name: str
    place: int
    """1 is best; generators of equal value share a place."""
    estimates: Mapping[str, Estimate]
    """By name of the measure; generators are ranked by the first one."""


class Duel(NamedTuple):
    """The probability that one generator is better than another, in [0, 1]; 0.5 is a tie."""

    overall: float
    """Share of the draws of a Bayesian bootstrap (Rubin, 1981) with a better measure; ties count half. To the prompts
    it adds a win and a loss as large as the largest difference, so that few prompts never look certain: three wins of
    equal size give 0.94."""
    per_prompt: float
    """Share of the prompts with a better image; ties count half."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Generators, best first."""

    rows: tuple[Ranked, ...]
    prompts: int
    """The number of prompts that all generators have."""
    duels: Mapping[tuple[str, str], Duel]
    """By (one, other): how probably the one is better than the other."""
    signature: str
    draws: Mapping[str, Array]
    """By name of the measure: its value in each bootstrap draw, (resamples, generators), generators as in ``rows``."""
    bootstrap: Bootstrap
    digest: str
    """Of the prompts' names. Rankings of equal digest and settings are paired: a draw has the same prompts in both."""
    problems: tuple[Problem, ...] = ()
    """Prompts that some generator lacks, and values that are not finite; these are left out."""


def rank_generators(
    severities: Mapping[str, Mapping[str, Sequence[float | None]]],
    bootstrap: Bootstrap | None = None,
    *,
    prompts_of: Mapping[str, str] | None = None,
) -> Ranking:
    """Rank generators by CAP, with MAI, AF and the variants.

    Args:
        severities: by generator, by prompt (or image id): severity of each anomaly, in [0, 1], 1 = worst. Anomalies
            without a severity are counted and left out.
        bootstrap: settings of the intervals.
        prompts_of: the prompt of each image, if ``severities`` is by images and several images share a prompt.

    Raises:
        InputError: there is no generator, or no prompt that all of them have.
        ConfigError: a severity is outside [0, 1].
    """
    problems: list[Problem] = []
    prompts = _common(severities, problems)
    tables = np.array(
        [[_row(name, prompt, severities[name][prompt], problems) for prompt in prompts] for name in severities]
    )
    signature = f"ranking|version={VERSION}|{_DEFINITIONS}|severity=1_is_worst|zero_by_zero=0"
    owners, tables = _by_prompt(tables, prompts, prompts_of)
    return _rank(list(severities), owners, tables, ANOMALY_MEASURES, bootstrap or Bootstrap(), signature, problems)


def rank_by_score(
    scores: Mapping[str, Mapping[str, float]],
    *,
    name: str,
    higher_is_better: bool = True,
    bootstrap: Bootstrap | None = None,
    prompts_of: Mapping[str, str] | None = None,
    within: Range = ANY,
) -> Ranking:
    """Rank generators by the mean of a score of their images, such as HPS or the share of flawed pixels.

    Args:
        scores: by generator, by prompt. A prompt whose score is NaN or infinite for one generator is counted and left
            out for all.
        name: of the score.
        higher_is_better: its direction.
        bootstrap: settings of the intervals.
        prompts_of: as for ``rank_generators``.
        within: the least and the greatest value that a score can have.

    Raises:
        InputError: there is no generator, or no prompt that all of them have a score for.
    """
    problems: list[Problem] = []
    finite: dict[str, dict[str, float]] = {}
    for generator, values in scores.items():
        finite[generator] = {prompt: float(value) for prompt, value in values.items() if np.isfinite(value)}
        for prompt in sorted(values.keys() - finite[generator].keys()):
            detail = f"expected a finite {name}, got {values[prompt]}; left out"
            problems.append(Problem("bad_score", generator, prompt, detail))
    prompts = _common(finite, problems)
    tables = np.array([[(1.0, finite[generator][prompt]) for prompt in prompts] for generator in finite])
    owners, tables = _by_prompt(tables, prompts, prompts_of)
    signature = f"ranking|version={VERSION}|{name}=mean_over_images"
    measures = [Measure(name, 1, 0, higher_is_better, within)]
    return _rank(list(finite), owners, tables, measures, bootstrap or Bootstrap(), signature, problems)


def _common(tables: Mapping[str, Mapping[str, object]], problems: list[Problem]) -> list[str]:
    """The prompts that all generators have, sorted."""
    if not tables:
        raise InputError("Expected generators to rank, got none: name at least one.")
    everything = set[str]().union(*tables.values())
    common = everything.intersection(*tables.values())
    for name, table in tables.items():
        for prompt in sorted(everything - table.keys()):
            problems.append(Problem("missing_image", name, prompt, "other generators have it; left out for all"))
    if not common:
        raise InputError(f"The generators {', '.join(tables)} have no prompt in common: give the same prompts to all.")
    return sorted(common)


def _by_prompt(
    tables: Array, images: Sequence[str], prompts_of: Mapping[str, str] | None
) -> tuple[Sequence[str], Array]:
    """Names of the prompts; (generators, images, columns) -> (generators, prompts, columns): sums over their images."""
    if prompts_of is None:
        return images, tables
    prompts = np.array([prompts_of[image] for image in images])
    order = np.argsort(prompts, kind="stable")
    names, firsts = np.unique(prompts[order], return_index=True)
    summed: Array = np.add.reduceat(tables[:, order], firsts, axis=1)
    return names.tolist(), summed


def _row(name: str, prompt: str, severities: Sequence[float | None], problems: list[Problem]) -> tuple[float, ...]:
    """The columns of ``ANOMALY_MEASURES`` for one image."""
    known = [float(value) for value in severities if value is not None and not np.isnan(value)]
    if len(known) < len(severities):
        detail = f"{len(severities) - len(known)} anomalies without a severity; left out"
        problems.append(Problem("missing_severity", name, prompt, detail))
    if not all(0 <= value <= 1 for value in known):
        raise ConfigError(
            f"Expected severities in [0, 1], 1 = worst, for {prompt!r} of {name!r}, got {known}: "
            "convert them as refiner.data.anomreason does."
        )
    mean = sum(known) / len(known) if known else 0.0
    return 1.0, float(len(known)), sum(known), float(bool(known)), mean


def _rank(
    names: Sequence[str],
    prompts: Sequence[str],
    tables: Array,
    measures: Sequence[Measure],
    bootstrap: Bootstrap,
    signature: str,
    problems: Sequence[Problem],
) -> Ranking:
    """Rank by the first measure.

    Args:
        names: of the generators.
        prompts: their names.
        tables: (generators, prompts, columns).
        measures: the quotients of the columns.
    """
    over, under = [measure.over for measure in measures], [measure.under for measure in measures]
    sums = tables.sum(axis=1)
    drawn = _draw(tables, bootstrap)
    values, draws = _quotients(sums, over, under), _quotients(drawn, over, under)
    cost = -values[:, 0] if measures[0].higher_is_better else values[:, 0]
    order = sorted(range(len(names)), key=lambda at: (cost[at], names[at]))
    rows = [
        Ranked(
            name=names[at],
            place=1 + int((cost < cost[at]).sum()),
            estimates={
                measure.name: Estimate(float(values[at, each]), *_interval(tables[at], measure, bootstrap.level))
                for each, measure in enumerate(measures)
            },
        )
        for at in order
    ]
    settings = f"resamples={bootstrap.resamples}|level={bootstrap.level:g}|seed={bootstrap.seed}"
    return Ranking(
        rows=tuple(rows),
        prompts=tables.shape[1],
        duels=_duels(names, tables, measures[0], bootstrap),
        signature=f"{signature}|interval=student|duels=bayesian_bootstrap|{settings}",
        draws={measure.name: draws[:, order, each] for each, measure in enumerate(measures)},
        bootstrap=bootstrap,
        digest=digest(prompts),
        problems=tuple(problems),
    )


def _interval(table: Array, measure: Measure, level: float) -> tuple[float | None, float | None]:
    """Of a measure of one generator, from its (prompts, columns); both ends are None if one is not known."""
    ends = mean_interval(table[:, measure.over], table[:, measure.under], within=measure.within, level=level)
    return (None, None) if None in ends else ends


def _quotients(sums: Array, over: Sequence[int], under: Sequence[int]) -> Array:
    """(..., columns) -> (..., measures); 0 for 0/0."""
    below = sums[..., under]
    return np.divide(sums[..., over], below, out=np.zeros_like(below), where=below != 0)


def _draw(tables: Array, bootstrap: Bootstrap) -> Array:
    """Sums over prompts drawn with replacement, (resamples, generators, columns); the same prompts for all."""
    generators, prompts, columns = tables.shape
    flat = tables.transpose(1, 0, 2).reshape(prompts, -1)
    rng = np.random.default_rng(bootstrap.seed)
    at_a_time = max(1, _DRAWS_AT_A_TIME // prompts)
    parts = []
    for begin in range(0, bootstrap.resamples, at_a_time):
        many = min(at_a_time, bootstrap.resamples - begin)
        drawn = rng.integers(prompts, size=(many, prompts)) + prompts * np.arange(many)[:, None]
        times = np.bincount(drawn.ravel(), minlength=many * prompts).reshape(many, prompts)
        parts.append(times @ flat)
    return np.concatenate(parts).reshape(-1, generators, columns)


def _duels(names: Sequence[str], tables: Array, measure: Measure, bootstrap: Bootstrap) -> dict[tuple[str, str], Duel]:
    """Args: ``tables`` (generators, prompts, columns), with the same denominators for all generators."""
    sums = tables[:, :, measure.over] if measure.higher_is_better else -tables[:, :, measure.over]
    images = sums / tables[:, :, measure.under]
    weights = np.random.default_rng(bootstrap.seed).exponential(size=(bootstrap.resamples, sums.shape[1] + 2))

    def better(differences: Array) -> float:
        # Rounded, because equal sums can differ in the last bit.
        return float((np.sign(np.round(differences, 12)).mean() + 1) / 2)

    def overall(differences: Array) -> float:
        largest = np.abs(differences).max()
        more, fewer = (weights @ np.append(sign * differences, (largest, -largest)) for sign in (1, -1))
        return (better(more) + 1 - better(fewer)) / 2  # so that both sides add up to 1

    return {
        (names[one], names[other]): Duel(overall(sums[one] - sums[other]), better(images[one] - images[other]))
        for one in range(len(names))
        for other in range(len(names))
        if one != other
    }
