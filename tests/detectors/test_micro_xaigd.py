"""The bundled X-AIGD detector of drawn images, alone, as a gate, as a judge, and in refinement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refiner import RefinedPipeline
from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.hub import MICRO_WEIGHTS, checksum, read_card
from refiner.protocols import Detector
from refiner.training.xaigd.eval import rows_of, summary

DATA = MicroData(60, painted=True)
FOLDER = MICRO_WEIGHTS / "xaigd"
PROMPT = "a red hand with five fingers left of a green clock showing three o'clock on a sky background"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("micro:xaigd", device="cpu")


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [DATA.load(index) for index in range(60)]


def test_it_tells_flawed_images_from_clean_ones_and_where_the_flaws_are(
    detector: Detector, samples: list[Sample]
) -> None:
    scores = summary(list(rows_of(detector, samples)))
    assert scores["balanced_accuracy"] >= 0.95
    assert scores["mask_iou"] >= 0.40
    assert scores["clean_claimed"] <= 0.05


def test_its_heat_maps_are_nearer_to_the_flaws_than_those_of_other_images(
    detector: Detector, samples: list[Sample]
) -> None:
    own = [row.heat_iou for row in rows_of(detector, samples) if row.heat_iou is not None]
    flawed = [sample for sample in samples if sample.fake]
    swapped = [
        replace(sample, image=other.image) for sample, other in zip(flawed, [*flawed[1:], flawed[0]], strict=True)
    ]
    others = [row.heat_iou for row in rows_of(detector, swapped) if row.heat_iou is not None]
    assert sum(own) / len(own) > 2 * sum(others) / len(others)


def test_as_a_gate_it_clears_what_legion_says_about_clean_images(detector: Detector, samples: list[Sample]) -> None:
    gated = load_detector("micro:legion", device="cpu", gate=detector)
    clean = [sample.image for sample in samples if not sample.fake]
    assert sum(bool(analysis.regions) for analysis in gated.batch(clean)) <= 1


def test_it_steers_refinement_and_judges_it(detector: Detector) -> None:
    pipe = RefinedPipeline.from_pretrained("micro", detector=detector, judge="realness:micro:xaigd")
    runs = pipe(PROMPT, seed=[1, 2, 3], num_images_per_prompt=3, max_rounds=1).results
    starts = [run.attempts[0].analysis for run in runs]
    assert any(start is not None and start.regions for start in starts)
    for run in runs:
        first, best = run.attempts[0].analysis, run.attempts[run.best].analysis
        assert first is not None
        assert best is not None
        assert best.burden <= first.burden
    assert any(attempt.scores for run in runs for attempt in run.attempts)


def test_its_card_says_what_was_measured() -> None:
    card = read_card(FOLDER)
    assert card.family == "xaigd"
    assert checksum(FOLDER / "model.safetensors") == card.sha256["model.safetensors"]
    assert card.scores["injected/balanced_accuracy"] >= 0.95
    assert card.scores["injected/mask_iou"] >= 0.40
