"""AnomReason's severity scores, from 0 (completely irrational) to 100 (realistic), and ours, where 1 is worst.

The detectors convert them only here; ``refiner.data.anomreason`` does it for files.
"""

from __future__ import annotations

import math
import re
from typing import Any

_SCORE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(?:\s*/\s*100(?!\d)|\s*%)?(?:[\s.,;:(].*)?", re.DOTALL)
"""Such as ``25``, ``25/100``, ``25 %`` and ``25/100 (moderately unrealistic).``"""


def read_severity(value: Any) -> float | None:
    """Read a severity score, a number or a text, as our severity in [0, 1]; None if it is no number from 0 to 100."""
    number = math.nan
    if isinstance(value, str) and (match := _SCORE.fullmatch(value.strip()[:200])):
        number = float(match[1])
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 100:
        number = float(value)
    return (100.0 - number) / 100.0 if 0.0 <= number <= 100.0 else None


def score_of(severity: float) -> int:
    """The severity score of our severity in [0, 1], rounded to a whole number from 0 (worst) to 100."""
    return round(100.0 - 100.0 * severity)
