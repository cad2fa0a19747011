"""The examples of README, docs, help and demo: they are the same everywhere, and the bundled models repair them."""

from __future__ import annotations

from pathlib import Path

import pytest

from refiner import RefinedPipeline
from refiner.demo.examples import PROMPTS
from refiner.micro.examples import EXAMPLES, Example
from refiner.micro.oracle import inspect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipe() -> RefinedPipeline:
    loaded = RefinedPipeline.from_pretrained("micro")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.seed))
def test_the_bundled_models_visibly_repair_every_example(pipe: RefinedPipeline, example: Example) -> None:
    result = pipe(example.prompt, seed=example.seed).results[0]
    start = result.attempts[0].image
    assert start is not None
    before, after = (inspect(image, example.prompt) for image in (start, result.image))
    assert after.count < before.count
    assert after.area < 0.5 * before.area


@pytest.mark.parametrize(
    ("file", "number"), [("Makefile", 0), ("README.md", 1), ("docs/start.md", 0), ("docs/start.md", 1)]
)
def test_the_first_runs_of_a_newcomer_are_examples(file: str, number: int) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    prompt, seed = EXAMPLES[number]
    assert prompt in text
    assert any(f"{name}{seed}" in text for name in ("SEED ?= ", "--seed ", "seed="))


def test_the_demo_offers_the_examples() -> None:
    assert tuple(example.prompt for example in EXAMPLES) == PROMPTS
