"""What a run leaves behind: its record as JSON and back, seeds that do not depend on order, and versions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import platform
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

from refiner.errors import BadAnswerError, ConfigError, InputError
from refiner.files import Json
from refiner.masks import rle_decode, rle_encode
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size

SCHEMA = 1
"""Version of the run record; it grows when a field changes its meaning or goes."""

_LIBRARIES = ("accelerate", "diffusers", "numpy", "open-clip-torch", "pillow", "safetensors", "torch", "transformers")


def derive_seed(*parts: int | str) -> int:
    """A stable seed in [0, 2**63) for a place in a run, such as (seed, image index, round, region).

    It depends on the parts alone: neither batch size nor order nor resuming changes it.
    """
    key = json.dumps([str(part) if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def picture_digest(image: Image.Image) -> str:
    """A digest of a picture's size and pixels, the same for every file format that loses nothing."""
    return hashlib.blake2b(f"{image.mode} {image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def region_summary(region: Region) -> Json:
    """A region as the CLI prints it."""
    return {
        "name": region.name,
        "location": region.location,
        "explanation": region.explanation,
        "reasoning": region.reasoning,
        "category": str(region.category),
        "severity": float(region.severity),
        "score": float(region.score),
        "box": [int(value) for value in region.box],
    }


def analysis_summary(analysis: Analysis) -> Json:
    """An analysis as the CLI prints it: ``fake_probability``, ``artifact_ratio``, ``regions``."""
    return {
        "fake_probability": _finite(analysis.fake_probability),
        "artifact_ratio": analysis.artifact_ratio,
        "regions": [region_summary(region) for region in analysis.regions],
    }


def attempt_summary(attempt: Attempt) -> Json:
    """An attempt as the CLI prints it."""
    return {
        "index": attempt.index,
        "action": attempt.action,
        "prompt": attempt.prompt,
        "seed": attempt.seed,
        "accepted": attempt.accepted,
        "reason": attempt.reason,
        "scores": {score.name: _finite(score.value) for score in attempt.scores},
        "analysis": None if attempt.analysis is None else analysis_summary(attempt.analysis),
    }


def result_summary(result: RefinementResult, files: Mapping[str, str]) -> Json:
    """The one document that ``refiner refine --json`` prints."""
    return {
        "prompt": result.prompt,
        "stop": result.stop,
        "best": result.best,
        "attempts": [attempt_summary(attempt) for attempt in result.attempts],
        "files": dict(files),
    }


def analysis_to_dict(analysis: Analysis, *, arrays: bool = False) -> Json:
    """Everything an analysis holds, ready for JSON; masks and heat map only where ``arrays`` is set."""
    regions = []
    for region in analysis.regions:
        mask = rle_encode(region.mask) if arrays and region.mask is not None else None
        regions.append(region_summary(region) | {"mask": mask})
    heatmap = None
    if arrays and analysis.heatmap is not None:
        packed = zlib.compress(np.ascontiguousarray(analysis.heatmap, dtype="<f4").tobytes())
        heatmap = base64.b64encode(packed).decode("ascii")
    return analysis_summary(analysis) | {
        "regions": regions,
        "size": list(analysis.size),
        "heatmap": heatmap,
        "tags": list(analysis.tags),
        "raw": analysis.raw,
        "detector": analysis.detector,
    }


def analysis_from_dict(data: Mapping[str, Any]) -> Analysis:
    """The inverse of ``analysis_to_dict``; exact where that was called with ``arrays=True``.

    Raises:
        InputError: a field is missing or cannot be read.
    """
    try:
        size = Size(*map(int, data["size"]))
        heatmap = None
        if data["heatmap"] is not None:
            packed = zlib.decompress(base64.b64decode(data["heatmap"]))
            heatmap = np.frombuffer(packed, dtype="<f4").reshape(tuple(size)).astype(np.float32)
        return Analysis(
            size=size,
            regions=tuple(_region_from_dict(region) for region in data["regions"]),
            fake_probability=data["fake_probability"],
            heatmap=heatmap,
            tags=tuple(data["tags"]),
            raw=data["raw"],
            detector=data["detector"],
        )
    except (KeyError, TypeError, ValueError, BadAnswerError, zlib.error) as error:
        raise InputError(
            f"Expected an analysis as analysis_to_dict writes it, got one that fails with {error!r}: write it again."
        ) from error


def _region_from_dict(data: Mapping[str, Any]) -> Region:
    x0, y0, x1, y1 = data["box"]
    return Region(
        mask=None if data["mask"] is None else rle_decode(data["mask"]),
        box=(x0, y0, x1, y1),
        name=data["name"],
        location=data["location"],
        explanation=data["explanation"],
        reasoning=data["reasoning"],
        category=Category(data["category"]),
        severity=data["severity"],
        score=data["score"],
    )


def to_record(result: RefinementResult, config: Mapping[str, Any] | None, files: Mapping[str, str]) -> Json:
    """The run record (``run.json``): ``result_summary``, and beside it the settings and all that was seen.

    Everything that may differ between two equal runs (time, machine, versions) stands under ``environment``;
    the rest is a function of prompt, settings, weights and seed.

    Raises:
        ConfigError: ``config`` holds something that JSON cannot carry.
    """
    record = result_summary(result, files)
    for row, attempt in zip(record["attempts"], result.attempts, strict=True):
        row["negative_prompt"] = attempt.negative_prompt
        row["note"] = attempt.note
        row["error"] = attempt.error
        row["calls"] = _calls(attempt)
        row["painted"] = None if attempt.painted is None else rle_encode(attempt.painted)
        if attempt.analysis is not None:
            row["analysis"] = analysis_to_dict(attempt.analysis, arrays=True)
    best = result.attempts[result.best].image
    record |= {"picture": None if best is None else picture_digest(best), "settings": dict(result.settings)}
    record |= {"schema": SCHEMA, "config": dict(config or {}), "environment": environment()}
    record["environment"]["seconds"] = [round(attempt.seconds, 3) for attempt in result.attempts]
    try:
        json.dumps([record["config"], record["settings"]], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A run's config must hold plain JSON values, got one that fails with {error}.") from error
    return record


def _calls(attempt: Attempt) -> Json:
    return {"denoiser_rows": attempt.calls.denoiser_rows, "detector_calls": attempt.calls.detector_calls}


def environment() -> Json:
    """Time, versions and machine; imports none of the libraries it names."""
    versions = {}
    for name in ("refiner", *_LIBRARIES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
