"""Read categories, severities and confidences as models write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from refiner.taxonomy import Category

SEVERITY_WORDS: Mapping[str, float] = {
    "negligible": 0.1, "trace": 0.1, "trivial": 0.1, "faint": 0.2, "subtle": 0.2, "minor": 0.3, "slight": 0.3,
    "low": 0.3, "small": 0.3, "mild": 0.4, "moderate": 0.5, "medium": 0.5, "noticeable": 0.5, "marked": 0.6,
    "significant": 0.7, "strong": 0.7, "high": 0.8, "major": 0.8, "serious": 0.8, "large": 0.8, "obvious": 0.8,
    "severe": 0.9, "critical": 1.0, "extreme": 1.0, "catastrophic": 1.0, "worst": 1.0,
}  # fmt: skip
"""Words for severity, and their values in [0, 1]."""

_SYNONYMS: Mapping[Category, str] = {
    Category.ANATOMY: "anatomical body hand hands finger fingers limb limbs face facial eyes leg legs arm arms "
    "missing extra duplicate duplicated surplus count structural",
    Category.SHAPE: "geometry geometric deformed deformation deformity edge edges outline melted warped distorted "
    "asymmetry fusion fused",
    Category.TEXT: "letters lettering letter typography writing word words digits symbols sign signage garbled glyphs",
    Category.COLOR: "colour colors colours coloration hue tint saturation bleeding",
    Category.TEXTURE: "textures pattern patterns material materials surface",
    Category.NOISE_BLUR: "noise blur blurry blurred noisy grain grainy compression smudge smudged",
    Category.OPTICS: "light lighting shadow shadows reflection reflections mirror illumination refraction optical",
    Category.PHYSICAL_LAW: "gravity floating float hovering intersecting intersection collision support physical",
    Category.PERSPECTIVE: "proportion proportions proportion scale spatial size depth vanishing",
    Category.COMMONSENSE: "sense context contextual implausible unrealistic logical logic illogical functional",
}
_KNOWN = {word: category for category, words in _SYNONYMS.items() for word in words.split()}
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"(-?\d{1,9}(?:\.\d{1,9})?)\s*(%|(?:/|out of|of)\s*(\d{1,9}))?")


def read_category(text: str) -> Category | None:
    """Read a category: a name in any vocabulary of the taxonomy, else the first known synonym, else None."""
    try:
        return Category.parse(text)
    except ValueError:
        pass
    for word in _WORD.findall(text.lower()):
        if word in _KNOWN:
            return _KNOWN[word]
        try:
            return Category.parse(word)
        except ValueError:
            continue
    return None


def read_share(value: Any, default: float) -> float:
    """Read a severity or confidence in [0, 1] from a value of an answer.

    The value may be a number, a share such as "7/10" or "70%", or a word of ``SEVERITY_WORDS``. A number above 1
    without a unit is a share of 10 if it is at most 10, else of 100. If there are several words, the highest value
    counts. The result is ``default`` if the value cannot be read.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return default
    if isinstance(value, str):
        return _share_of_text(value[:200], default)
    return _share(float(value), None, default) if abs(value) < 1e6 else default


def _share_of_text(text: str, default: float) -> float:
    number = _NUMBER.search(text)
    if number is not None:
        whole = 100.0 if number[2] == "%" else float(number[3]) if number[3] else None
        return _share(float(number[1]), whole, default)
    known = [SEVERITY_WORDS[word] for word in _WORD.findall(text.lower()) if word in SEVERITY_WORDS]
    return max(known, default=default)


def _share(value: float, whole: float | None, default: float) -> float:
    if whole is None:
        whole = next((scale for scale in (1.0, 10.0, 100.0) if value <= scale), 0.0)
    share = value / whole if whole > 0 else math.nan
    return share if 0.0 <= share <= 1.0 else default
