"""LEGION's published layout answers as the published code, on the folder and the answers in ``golden/legion``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.conformance import assert_same

from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.reading import pieces, read
from refiner.types import Analysis, Mask

HOME = next(
    (found for root in Path(__file__).resolve().parents if (found := root / "shared" / "golden" / "legion").is_dir()),
    None,
)
pytestmark = pytest.mark.skipif(HOME is None, reason="the folder shared/golden/legion is not beside this checkout")
TOKENS = 40
"""Longest answer in the recorded run."""


@pytest.fixture(scope="module")
def home() -> Path:
    assert HOME is not None
    return HOME


@pytest.fixture(scope="module")
def expected(home: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((home / "expected.json").read_text(encoding="utf-8"))
    return rows


@pytest.fixture(scope="module")
def detector(home: Path) -> LegionDetector:
    found = LegionDetector.from_pretrained(home, device="cpu")
    found.model.config.max_new_tokens = TOKENS
    return found


@pytest.fixture(scope="module")
def images(home: Path, expected: list[dict[str, Any]]) -> list[Image.Image]:
    return [Image.open(home / row["picture"]).convert("RGB") for row in expected]


@pytest.fixture(scope="module")
def answers(detector: LegionDetector, images: list[Image.Image]) -> list[Analysis]:
    return detector.batch(images)


@pytest.fixture(scope="module")
def masks(home: Path, expected: list[dict[str, Any]]) -> list[Mask]:
    held = np.load(home / "expected.npz")
    return list(_unpacked(held, len(expected)))


def _unpacked(held: Any, count: int) -> Iterator[Mask]:
    for number in range(count):
        shape = tuple(held[f"shape{number}"])
        flat = np.unpackbits(held[f"masks{number}"], count=int(np.prod(shape)))
        yield flat.reshape(shape).astype(np.bool_)


def test_the_prompt_has_the_published_ids(detector: LegionDetector, expected: list[dict[str, Any]]) -> None:
    ids = detector.tokenizer(detector.model.config.prompt)["input_ids"]
    image = detector.model.llava.config.image_token_index
    for row in expected:
        assert ids == [image if token == -200 else token for token in row["prompt_ids"]]


def test_the_towers_get_the_published_pixels(detector: LegionDetector, images: list[Image.Image], home: Path) -> None:
    held = np.load(home / "expected.npz")
    for number, image in enumerate(images):
        for name, processor in (("clip", detector.clip_processor), ("sam", detector.sam_processor)):
            pixels = processor([image], return_tensors="np")["pixel_values"]
            assert [pixels.mean(), pixels.std()] == pytest.approx(held[f"{name}{number}_mean_std"], abs=1e-5)


def test_the_answers_are_equal(
    detector: LegionDetector, answers: list[Analysis], expected: list[dict[str, Any]]
) -> None:
    seg = detector.tokenizer.convert_tokens_to_ids("[SEG]")
    for answer, row in zip(answers, expected, strict=True):
        assert answer.raw == row["answer"].strip()
        assert [phrase.strip() for phrase in re.findall(r"<p>(.*?)</p>", answer.raw)] == row["phrases"]
        text = re.sub(r"<.*?>", "", answer.raw).replace("[SEG]", "")
        assert " ".join(text.split()) == row["text"]
        assert answer.raw.count("[SEG]") == row["answer_ids"].count(seg) == row["segments"]


def test_the_masks_are_equal(
    detector: LegionDetector, answers: list[Analysis], expected: list[dict[str, Any]], masks: list[Mask]
) -> None:
    """Mask by mask; a region of several [SEG] tokens has all their pixels."""
    differing, pixels = 0, 0
    for answer, row, wanted in zip(answers, expected, masks, strict=True):
        claims, _ = read(pieces(row["answer_ids"], detector.tokenizer), complete=False)
        assert [mark for claim in claims for mark in claim.marks] == list(range(row["segments"]))
        for region, claim in zip(answer.regions, claims, strict=True):
            truth = wanted[list(claim.marks)].any(axis=0)
            assert (region.mask is None) == (not truth.any())
            found = np.zeros_like(truth) if region.mask is None else region.mask
            differing += int(np.count_nonzero(found ^ truth))
            pixels += truth.size
    print(differing, pixels)
    assert differing <= 1e-5 * pixels


def test_a_batch_gives_the_answers_of_single_calls(home: Path, images: list[Image.Image]) -> None:
    """In float64: the weights are random, many pixels lie near the threshold, and float32 would move a few of them."""
    detector = LegionDetector.from_pretrained(home, device="cpu", dtype=torch.float64)
    detector.model.config.max_new_tokens = TOKENS
    for image, answer in zip(images[:2], detector.batch(images), strict=False):
        alone = detector(image)
        assert_same(alone, answer)
        for one, other in zip(alone.regions, answer.regions, strict=True):
            assert np.array_equal(one.mask, other.mask)
