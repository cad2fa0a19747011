"""Packed columns give back what went in, to the last bit, and hold little of it."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.data.texts import Texts
from refiner.evaluate.columns import BLOCK, Column, Columns

ANY = st.floats(allow_nan=True, allow_infinity=True)
KINDS = [st.just(0.0), st.integers(0, 255).map(float), st.integers(0, 2**40).map(float), st.sampled_from([-0.0, 0.0])]
KINDS += [st.floats(width=32), ANY, st.just(math.nan), st.integers(-5, 5).map(float)]


def column(values: list[float], missing: int = 0) -> Column:
    packed = Column(missing)
    for value in values:
        packed.append(value)
    return packed


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.lists(kind, min_size=1, max_size=40)), st.integers(0, 3 * BLOCK))
def test_numbers_come_back_bit_by_bit(few: list[float], missing: int) -> None:
    values = (few * (2 * BLOCK // len(few) + 2))[: 2 * BLOCK + 7]
    packed = column(values, missing)
    wanted = np.array([math.nan] * missing + values)
    found = packed.all()
    assert len(packed) == len(wanted)
    assert np.array_equal(found.view(np.int64), wanted.view(np.int64))
    assert packed.empty == np.isnan(wanted).all()


def test_columns_are_unpacked_row_by_row_and_block_by_block() -> None:
    numbers = list(map(float, range(BLOCK + 3)))
    columns = Columns({"a": column(numbers), "b": column([-1.5] * (BLOCK + 3))})
    chosen = np.array([number % 100 == 0 for number in range(BLOCK + 3)])
    assert columns["a"].tolist() == numbers
    assert columns.rows_of(chosen)["a"].tolist() == numbers[::100]
    assert columns.block(1).tolist() == [[number, -1.5] for number in numbers[BLOCK:]]
    assert list(columns) == ["a", "b"]
    assert "c" not in columns
    with pytest.raises(KeyError):
        columns["c"]


@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=20))
def test_texts_come_back(texts: list[str]) -> None:
    packed = Texts()
    for text in texts:
        packed.append(text)
    assert list(packed) == texts
    assert packed[::-2] == texts[::-2]
    assert [packed[at] for at in range(-len(texts), 0)] == texts


def test_what_little_a_sample_costs() -> None:
    rng, rows = np.random.default_rng(0), 20 * BLOCK
    counts, absent, shares = rng.integers(0, 65536, rows).tolist(), [0] * rows, rng.random(rows).tolist()
    tracemalloc.start()
    columns = [column(counts), column(absent), column(shares)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / rows < 2 + 0 + 8 + 2, "bytes of a count, of none and of a share"
    assert len(columns) == 3
