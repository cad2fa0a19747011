"""Convert claims to JSON values and back, for the shards that recipes store on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from refiner.taxonomy import Category
from refiner.types import Claim


def record_of(claim: Claim) -> dict[str, Any]:
    """The fields of a claim as JSON values, without empty ones. ``recorded`` is the inverse."""
    return {name: value for name, value in dataclasses.asdict(claim).items() if value not in (None, ())}


def recorded(entry: Mapping[str, Any]) -> Claim:
    """The claim of a record."""
    texts = {name: entry[name] for name in ("name", "location", "explanation", "reasoning")}
    box = tuple(entry["box"]) if "box" in entry else None
    category, score = Category(entry["category"]), entry.get("score")
    return Claim(**texts, category=category, severity=entry["severity"], score=score, box=box)
