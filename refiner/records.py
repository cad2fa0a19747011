"""Run records: results to JSON and back, seeds that do not depend on order, and library versions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import operator
import platform
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner import __version__
from refiner.errors import BadAnswerError, ConfigError, InputError
from refiner.files import Json
from refiner.images import MAX_PIXELS
from refiner.ledger import Prices, bill
from refiner.masks import rle_decode, rle_encode
from refiner.reading import reason_of
from refiner.repairs import repair_summary
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size, Step

SCHEMA = 1
"""Version of the run record; it is raised when a field changes its meaning or is removed."""

_TEXTS = ("name", "location", "explanation", "reasoning")
_LIBRARIES = ("accelerate", "diffusers", "numpy", "open-clip-torch", "pillow", "safetensors", "torch", "transformers")


def derive_seed(*parts: int | str) -> int:
    """Derive a stable seed in [0, 2**63) for one step of a run, such as (seed, image index, round, region).

    It depends only on ``parts``: batch size, order and resuming do not change it.
    """
    key = json.dumps([str(part) if isinstance(part, str) else int(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def picture_digest(image: Image.Image) -> str:
    """Hash an image's mode, size and pixels (BLAKE2b, 32 hexadecimal digits); the same for all lossless formats."""
    return hashlib.blake2b(f"{image.mode} {image.size}".encode() + image.tobytes(), digest_size=16).hexdigest()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def region_summary(region: Region) -> Json:
    """Convert a region to the JSON that the CLI prints."""
    return {name: getattr(region, name) for name in _TEXTS} | {
        "category": str(region.category),
        "severity": float(region.severity),
        "score": float(region.score),
        "box": None if region.box is None else [int(value) for value in region.box],
    }


def analysis_summary(analysis: Analysis) -> Json:
    """Convert an analysis to the JSON that the CLI prints: verdict, area, gaps, tags and regions.

    ``unplaced`` is the number of regions that are in no area, because their place is not known.
    """
    return {
        "fake_probability": _finite(analysis.fake_probability),
        "artifact_ratio": analysis.artifact_ratio,
        "unplaced": sum(not region.placed for region in analysis.regions),
        "gaps": list(analysis.gaps),
        "tags": list(analysis.tags),
        "regions": [region_summary(region) for region in analysis.regions],
    }


def attempt_summary(attempt: Attempt) -> Json:
    """Convert an attempt to the JSON that the CLI prints."""
    names = ("index", "action", "prompt", "seed", "accepted", "reason")
    return {name: getattr(attempt, name) for name in names} | {
        "scores": {score.name: _finite(score.value) for score in attempt.scores},
        "analysis": None if attempt.analysis is None else analysis_summary(attempt.analysis),
    }


def result_summary(result: RefinementResult, files: Mapping[str, str]) -> Json:
    """Convert a result to the JSON document that ``refiner refine --json`` prints."""
    return {
        "prompt": result.prompt,
        "stop": result.stop,
        "best": result.best,
        "attempts": [attempt_summary(attempt) for attempt in result.attempts],
        "files": dict(files),
    }


def analysis_to_dict(analysis: Analysis, *, arrays: bool = False) -> Json:
    """Convert a whole analysis to JSON.

    Masks and the heat map are included only if ``arrays`` is True, the trace only if there is one.
    """
    regions = []
    for region in analysis.regions:
        mask = rle_encode(region.mask) if arrays and region.mask is not None else None
        regions.append(region_summary(region) | {"mask": mask})
    heatmap = None
    if arrays and analysis.heatmap is not None:
        packed = zlib.compress(np.ascontiguousarray(analysis.heatmap, dtype="<f4").tobytes())
        heatmap = base64.b64encode(packed).decode("ascii")
    document = analysis_summary(analysis) | {
        "regions": regions,
        "size": list(analysis.size),
        "heatmap": heatmap,
        "tags": list(analysis.tags),
        "raw": analysis.raw,
        "detector": analysis.detector,
    }
    return document | {"trace": [dict(vars(step)) for step in analysis.trace]} if analysis.trace else document


def analysis_from_dict(data: Mapping[str, Any]) -> Analysis:
    """Read the output of ``analysis_to_dict``; the round trip is exact if it was written with ``arrays=True``.

    Raises:
        InputError: a field is missing or cannot be read.
    """
    try:
        size = Size(*map(operator.index, data["size"]))
        if not (size.height > 0 < size.width and size.height * size.width <= MAX_PIXELS):
            raise ValueError(f"an image has 1 to {MAX_PIXELS} pixels")
        texts = [data["raw"], data["detector"], *data["tags"]]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("raw, detector and tags must be texts")
        return Analysis(
            size=size,
            regions=tuple(_region_from_dict(region, size) for region in data["regions"]),
            fake_probability=data["fake_probability"],
            heatmap=None if data["heatmap"] is None else _heatmap_from_text(data["heatmap"], size),
            tags=tuple(data["tags"]),
            raw=data["raw"],
            detector=data["detector"],
            trace=tuple(Step(**step) for step in data.get("trace", ())),
            gaps=tuple(data.get("gaps", ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError, BadAnswerError, zlib.error) as error:
        raise InputError(
            f"The stored analysis cannot be read ({reason_of(error)}): write it again with analysis_to_dict."
        ) from error


def _heatmap_from_text(text: str, size: Size) -> NDArray[np.float32]:
    length = 4 * size.height * size.width
    values = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), length + 1)
    if len(values) != length:
        raise ValueError(f"the heat map has not {length} bytes")
    return np.frombuffer(values, dtype="<f4").reshape(tuple(size)).astype(np.float32)


def _region_from_dict(data: Mapping[str, Any], size: Size) -> Region:
    if not all(isinstance(data[name], str) for name in _TEXTS):
        raise TypeError(f"{', '.join(_TEXTS)} must be texts")
    mask = data["mask"]
    if mask is not None and mask["size"] != list(size):  # so that masks that fill the memory are not decoded
        raise ValueError(f"a mask must have the size of the image, {list(size)}")
    return Region(
        mask=None if mask is None else rle_decode(mask),
        box=data["box"],
        category=Category(data["category"]),
        **{name: data[name] for name in (*_TEXTS, "severity", "score")},
    )


def to_record(
    result: RefinementResult,
    config: Mapping[str, Any] | None,
    files: Mapping[str, str],
    prices: Prices | None = None,
) -> Json:
    """Build the run record (``run.json``): ``result_summary``, plus the settings and everything the detector found.

    Everything that may differ between two equal runs (time, machine, versions, costs of chat models) is under
    ``environment``. The rest depends only on prompt, settings, weights and seed.

    Raises:
        ConfigError: ``config`` holds a value that JSON cannot store.
    """
    record = result_summary(result, files)
    for row, attempt in zip(record["attempts"], result.attempts, strict=True):
        row |= {"negative_prompt": attempt.negative_prompt, "note": attempt.note, "error": attempt.error}
        row["calls"] = {name: getattr(attempt.calls, name) for name in ("denoiser_rows", "detector_calls")}
        row["painted"] = None if attempt.painted is None else rle_encode(attempt.painted)
        row |= {"by": attempt.by, "choice": {str(patch): number for patch, number in attempt.choice.items()}}
        row["repairs"] = [repair_summary(repair) for repair in attempt.repairs]
        row["candidates"] = [
            {"name": patch.name, "mask": rle_encode(patch.mask), "seeds": list(patch.seeds), "shown": patch.shown}
            for patch in attempt.candidates
        ]
        if attempt.analysis is not None:
            row["analysis"] = analysis_to_dict(attempt.analysis, arrays=True)
    best = result.attempts[result.best].image
    record |= {"picture": None if best is None else picture_digest(best), "settings": dict(result.settings)}
    record["verified"] = result.verified
    record |= {"schema": SCHEMA, "config": dict(config or {}), "environment": environment()}
    record["environment"]["seconds"] = [round(attempt.seconds, 3) for attempt in result.attempts]
    if result.costs:
        record["environment"]["ledger"] = bill(result.costs, prices)
    try:
        json.dumps([record["config"], record["settings"]], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The run's config must hold only plain JSON values ({error}): use text, finite numbers, lists and dicts."
        ) from error
    return record


def environment() -> Json:
    """Describe the time, library versions and machine, without importing the libraries."""
    versions = {"refiner": __version__}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
