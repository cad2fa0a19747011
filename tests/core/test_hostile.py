"""Hostile inputs to every reader and parser: only the project's own errors leave, in one line; memory is bounded."""

from __future__ import annotations

import resource
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refiner.data.folders import read_mask
from refiner.errors import ConfigError, InputError, RefinerError
from refiner.images import load_image
from refiner.masks import rle_decode, rle_encode
from refiner.records import analysis_from_dict
from refiner.types import Size
from tests.support.hostile import hostile_json
from tests.support.hostile_files import MASK, STORED, compressed, picture
from tests.support.hostile_runs import feed, targets

SEED, INPUTS = 1, 40
"""``tests/benchmarks/hostile.py`` gives many more to each target."""
MOST_MEMORY = 500
"""MiB by which the process may grow."""


def test_nothing_but_errors_of_the_project_leaves_a_reader(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {name: feed(target, name, SEED, range(INPUTS)) for name, target in targets(tmp_path).items()}
    faults = {name: outcome.faults[:3] for name, outcome in outcomes.items() if outcome.faults}
    assert not faults
    assert [name for name, outcome in outcomes.items() if not outcome.read] == []
    assert sum(outcome.refused > 0 for outcome in outcomes.values()) > 0.8 * len(outcomes)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < MOST_MEMORY


def test_an_input_is_the_same_each_time_and_only_then() -> None:
    inputs: dict[str, list[bytes]] = {}
    for run, name, seed in [("a", "x", 1), ("again", "x", 1), ("name", "y", 1), ("seed", "x", 2)]:
        made = inputs[run] = []
        feed(lambda rng, made=made: made.append(hostile_json(rng, STORED)), name, seed, range(20))
    assert inputs["a"] == inputs["again"]
    assert len({b"".join(made) for made in inputs.values()}) == 3
    assert len(set(inputs["a"])) > 10


def test_compressed_run_lengths_are_those_of_coco() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        mask = rng.random((rng.integers(1, 40), rng.integers(1, 50))) < rng.random()
        plain = rle_encode(mask)
        for text in (compressed(plain["counts"]), compressed(plain["counts"]).encode()):
            assert (rle_decode({**plain, "counts": text}) == mask).all()  # type: ignore[typeddict-item]


HUGE = 10**9
SIZE, COUNTS = list(MASK.shape), rle_encode(MASK)["counts"]


@pytest.mark.parametrize(
    "rle",
    [
        None, 3, "text", [], {}, {"size": SIZE}, {"counts": COUNTS}, {"size": None, "counts": COUNTS},
        {"size": SIZE, "counts": None}, {"size": SIZE, "counts": {}}, {"size": SIZE, "counts": [*COUNTS, None]},
        {"size": SIZE, "counts": [COUNTS]}, {"size": SIZE, "counts": [float("nan")]}, {"size": SIZE, "counts": [600.0]},
        {"size": SIZE, "counts": [True] * 600}, {"size": SIZE, "counts": [-(10**30), 10**30 + 600]},
        {"size": SIZE, "counts": [2**63, 600 - 2**63]}, {"size": [20], "counts": [20]},
        {"size": [1, 2, 3], "counts": [6]},
        {"size": "20", "counts": [0]}, {"size": [-20, -30], "counts": [600]},
        {"size": [HUGE, HUGE], "counts": [HUGE**2]},
        {"size": [0, 10**400], "counts": []}, {"size": [20, float("inf")], "counts": [0]},
        *({"size": SIZE, "counts": text} for text in ("", "\0", "~~~", "o", "oooooooooooooooo1", "é", "0" * 10**5)),
    ],
)  # fmt: skip
def test_run_lengths_that_are_none_are_refused_without_memory(rle: Any) -> None:
    assert peak(lambda: rle_decode(rle), ConfigError) < 2 * 2**20


BOMB = b64encode(zlib.compress(bytes(400 * 2**20), 9)).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [HUGE, HUGE]}, {"size": [HUGE, HUGE], "regions": []}, {"size": [0, 5]}, {"size": [-1, -1]},
        {"size": "ab"},
        {"heatmap": BOMB}, {"heatmap": "!"}, {"heatmap": 3}, {"heatmap": "AAAA"}, {"tags": 3}, {"tags": [None]},
        {"raw": None}, {"detector": ["d"]}, {"fake_probability": float("nan")}, {"trace": [3]}, {"trace": {"a": "b"}},
        {"regions": [STORED["regions"][0] | {"mask": {"size": [HUGE, HUGE], "counts": [HUGE**2]}}]},
        {"regions": [STORED["regions"][0] | {"mask": {"size": [8000, 8000], "counts": [64_000_000]}}] * 100},
        *({"regions": [STORED["regions"][0] | {name: [3]}]} for name in STORED["regions"][0]),
        {"regions": 3}, {"regions": {"a": 1}}, {"regions": [[]]},
    ],
)  # fmt: skip
def test_analyses_that_are_none_are_refused_without_memory(changes: dict[str, Any]) -> None:
    assert peak(lambda: analysis_from_dict({**STORED, **changes}), InputError) < 3 * 2**20


@pytest.mark.parametrize("data", [None, 3, [], "text", {}])
def test_what_is_no_analysis_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="The stored analysis cannot be read"):
        analysis_from_dict(data)


@pytest.mark.parametrize("read", [load_image, lambda path: read_mask(path, Size(20, 30))])
def test_a_header_of_many_pixels_allocates_none(tmp_path: Path, read: Callable[[Path], object]) -> None:
    whole = picture()
    head = b"IHDR" + HUGE.to_bytes(4, "big") * 2 + whole[24:29]
    path = tmp_path / "a.png"
    path.write_bytes(whole[:12] + head + zlib.crc32(head).to_bytes(4, "big") + whole[33:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak(lambda: read(path), InputError) < 2 * 2**20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 50


def peak(read: Callable[[], object], kind: type[RefinerError]) -> int:
    """Bytes that are allocated at most until the error."""
    tracemalloc.start()
    try:
        with pytest.raises(kind) as error:
            read()
        assert len(str(error.value)) < 400
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
