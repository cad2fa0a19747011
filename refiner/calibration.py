"""What the scores of a detector mean, learned from labelled images: an operating point, a map, and an abstention band.

``refiner calibrate`` writes a calibration file, and a detector's id takes it as ``,calibration=FILE``. A score is the
``fake_probability`` that the detector gives by itself.

- The operating point is the score above which an image counts as generated; it is chosen for a false-positive rate.
- The map turns a score into the share of generated images among the labelled images with this score. It never falls.
- In the abstention band, a range of scores around the operating point, the verdict is wrong too often: it stays open.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError, InputError
from refiner.files import Json, atomic_write, dumps
from refiner.reading import read_text, reason_of

SCHEMA: Final = 1
"""Version of the file; it is raised when a field changes its meaning."""
ABSTAINED: Final = "abstained:"
"""Begins the tag of an analysis whose verdict is open. Its ``fake_probability`` is None."""
TINY: Final = 1e-6
"""Calibrated probabilities, and scores before their log odds are taken, lie in [TINY, 1 - TINY]."""
_EDGE: Final = 1e-6
"""Least distance of a ``fake_probability`` from 0.5, so that the side of the operating point is never in doubt."""

Scores = NDArray[np.float64]


def abstained(tags: Sequence[str]) -> bool:
    """Whether the tags of an analysis say that its verdict is open."""
    return any(tag.startswith(ABSTAINED) for tag in tags)


def log_odds(probabilities: Scores) -> Scores:
    """Log odds of probabilities (N,), which are moved into [TINY, 1 - TINY] first."""
    inside = np.clip(probabilities, TINY, 1 - TINY)
    return np.log(inside) - np.log1p(-inside)


@dataclass(frozen=True, kw_only=True)
class Platt:
    """A logistic curve over the log odds of the score: Platt's scaling (1999), for scores that are probabilities.

    Raises:
        ConfigError: a number is not finite, or the slope is negative.
    """

    method: ClassVar[str] = "platt"
    slope: float
    """At least 0."""
    intercept: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope >= 0):
            raise ConfigError(
                f"Expected a finite curve that does not fall, got slope {self.slope} and intercept {self.intercept}."
            )

    def __call__(self, scores: Scores) -> Scores:
        """Calibrated probabilities (N,) of scores (N,), in [TINY, 1 - TINY]."""
        with np.errstate(over="ignore"):
            return np.clip(1 / (1 + np.exp(-(self.slope * log_odds(scores) + self.intercept))), TINY, 1 - TINY)


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A line through points, flat outside them: isotonic regression (Zadrozny and Elkan, 2002).

    Raises:
        ConfigError: there is no point, a value is not in [0, 1], the scores do not rise, or the probabilities fall.
    """

    method: ClassVar[str] = "isotonic"
    scores: tuple[float, ...]
    """Rising, in [0, 1]."""
    probabilities: tuple[float, ...]
    """Of the scores; not falling, in [0, 1]."""

    def __post_init__(self) -> None:
        across, up = np.array(self.scores), np.array(self.probabilities)
        inside = all(((each >= 0) & (each <= 1)).all() for each in (across, up))
        if not len(across) == len(up) > 0 or not inside or (np.diff(across) <= 0).any() or (np.diff(up) < 0).any():
            raise ConfigError("Expected points in [0, 1] with rising scores and probabilities that do not fall.")

    def __call__(self, scores: Scores) -> Scores:
        """Calibrated probabilities (N,) of scores (N,), in [TINY, 1 - TINY]."""
        return np.clip(np.interp(scores, self.scores, self.probabilities), TINY, 1 - TINY)


Curve = Platt | Isotonic
_CURVES: Final[Mapping[str, type[Platt] | type[Isotonic]]] = {kind.method: kind for kind in (Platt, Isotonic)}


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The score above which an image counts as generated.

    Raises:
        ConfigError: the threshold is not in [0, 1).
    """

    threshold: float
    """An image counts as generated if its score is above this."""
    wanted: float
    """The chosen false-positive rate."""
    false_positives: int
    """Real images above the threshold."""
    real: int
    interval: tuple[float, float]
    """95 % interval of the false-positive rate."""
    found: int
    """Generated images above the threshold."""
    generated: int
    recall_interval: tuple[float, float]
    """95 % interval of the share of generated images above the threshold."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ConfigError(f"Expected a threshold in [0, 1), got {self.threshold!r:.40}.")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration of one detector.

    Raises:
        ConfigError: the band is not a range in [0, 1] around the operating point.
    """

    detector: str
    """Name of the detector that it is for: id and revision."""
    point: OperatingPoint
    max_error: float
    """In the band, the verdict is wrong more often than this."""
    band: tuple[float, float] | None
    """Lowest and highest score at which the verdict is open; None if there is none."""
    curve: Curve
    data: Mapping[str, Any] = field(default_factory=dict)
    """The labelled images: data set, their number, seed and fingerprint, and how many could not be used."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """What was measured, for people."""

    def __post_init__(self) -> None:
        if self.band is None:
            return
        low, high = self.band
        if not (
            0 <= low <= high <= 1 and low <= math.nextafter(self.point.threshold, 1) and high >= self.point.threshold
        ):
            raise ConfigError(
                f"Expected an abstention band in [0, 1] around the threshold {self.point.threshold}, got {self.band}."
            )

    @property
    def digest(self) -> str:
        """A fingerprint of all that the verdicts depend on, eight hexadecimal digits."""
        values = [self.detector, self.point.threshold, self.band, self.curve.method, asdict(self.curve)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]

    def probability(self, score: float) -> float:
        """The share of generated images among the labelled images with this score, by the map."""
        return float(self.curve(np.array([score]))[0])

    def verdict(self, score: float) -> float | None:
        """The ``fake_probability`` for a score; None in the abstention band.

        The odds of ``probability`` are divided by those at the operating point. So 0.5 is the operating point: values
        above it, and only these, belong to scores above the threshold. It is the probability that the image is
        generated where generated images are rarer or more frequent than among the labelled ones, by the same factor.
        """
        if self.band is not None and self.band[0] <= score <= self.band[1]:
            return None
        here, there = log_odds(np.array([self.probability(score), self.probability(self.point.threshold)]))
        value = 1 / (1 + math.exp(there - here))
        return max(value, 0.5 + _EDGE) if score > self.point.threshold else min(value, 0.5 - _EDGE)

    def document(self) -> Json:
        """The content of the file."""
        return {
            "schema": SCHEMA,
            "detector": self.detector,
            "data": dict(self.data),
            "operating_point": asdict(self.point),
            "abstention": {"max_error": self.max_error, "band": self.band},
            "map": {"method": self.curve.method, **asdict(self.curve)},
            "figures": dict(self.figures),
        }

    def save(self, path: str | Path) -> Path:
        """Write the file.

        Raises:
            OutputError: it cannot be written.
        """
        return atomic_write(path, dumps(self.document()) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read a file of ``save``.

        Raises:
            InputError: it is missing, or it is not a calibration.
        """
        file = Path(path).expanduser()
        try:
            return _read(json.loads(_text(file)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(
                f"The calibration {str(path)!r} cannot be read ({reason_of(error)}): name a file that refiner "
                "calibrate wrote."
            ) from error


def _text(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")
    return read_text(file)


def _read(document: Any) -> Calibration:
    if document["schema"] != SCHEMA or isinstance(document["schema"], bool):
        raise ValueError(f"its schema is {document['schema']!r:.40}, not {SCHEMA}")
    if not isinstance(document["detector"], str):
        raise ValueError("its detector is no text")
    abstention, band = document["abstention"], document["abstention"]["band"]
    return Calibration(
        detector=document["detector"],
        point=_point(document["operating_point"]),
        max_error=_number(abstention["max_error"]),
        band=None if band is None else _pair(band),
        curve=_curve(document["map"]),
        data=dict(document["data"]),
        figures=dict(document["figures"]),
    )


def _point(values: Any) -> OperatingPoint:
    counts = {name: values[name] for name in ("false_positives", "real", "found", "generated")}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise ValueError(f"its counts are {counts!r:.80}")
    return OperatingPoint(
        threshold=_number(values["threshold"]),
        wanted=_number(values["wanted"]),
        interval=_pair(values["interval"]),
        recall_interval=_pair(values["recall_interval"]),
        **counts,
    )


def _curve(values: Any) -> Curve:
    kind = _CURVES.get(str(values["method"]))
    if kind is Platt:
        return Platt(slope=_number(values["slope"]), intercept=_number(values["intercept"]))
    if kind is Isotonic:
        return Isotonic(
            scores=tuple(map(_number, values["scores"])), probabilities=tuple(map(_number, values["probabilities"]))
        )
    raise ValueError(f"its map is of the kind {values['method']!r:.40}, not {' or '.join(_CURVES)}")


def _pair(values: Any) -> tuple[float, float]:
    low, high = map(_number, values)
    return low, high


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)
