"""The bundled AlignGemini of drawn images: two branches alone and together, as gate and judge, and in refinement."""

from __future__ import annotations

import pytest

from refiner import RefinedPipeline
from refiner.data.micro import MicroData
from refiner.detectors import load_detector
from refiner.detectors.aligngemini.detector import AlignGeminiDetector
from refiner.hub import MICRO_WEIGHTS, checksum, read_card
from refiner.training.aligngemini.drawn import Case, held_out
from refiner.training.aligngemini.eval import balanced_accuracy, chances

FOLDER = MICRO_WEIGHTS / "aligngemini"
PROMPT = "a red hand with five fingers left of a green clock showing three o'clock on a sky background"


@pytest.fixture(scope="module")
def detector() -> AlignGeminiDetector:
    found = load_detector("micro:aligngemini", device="cpu")
    assert isinstance(found, AlignGeminiDetector)
    return found


def test_it_tells_flawed_images_from_clean_ones(detector: AlignGeminiDetector) -> None:
    samples = [MicroData(60, painted=True).load(index) for index in range(60)]
    cases = [Case(sample.image, bool(sample.fake)) for sample in samples if sample.image is not None]
    found = chances(detector, [case.image for case in cases])
    assert balanced_accuracy(found, [case.fake for case in cases]) >= 0.93


def test_both_branches_see_more_than_either(detector: AlignGeminiDetector) -> None:
    cases = held_out(20, MICRO_WEIGHTS / "generator")["mixture"]
    truth, images = [case.fake for case in cases], [case.image for case in cases]
    alone = [balanced_accuracy(chances(part, images), truth) for part in detector.parts]
    assert balanced_accuracy(chances(detector, images), truth) >= max(alone) + 0.05


def test_it_gates_judges_and_steers(detector: AlignGeminiDetector) -> None:
    semantic = detector.parts[0]
    pipe = RefinedPipeline.from_pretrained("micro", detector=semantic, judge="realness:micro:aligngemini")
    for run in pipe(PROMPT, seed=[1, 2], num_images_per_prompt=2, max_rounds=1).results:
        first, best = run.attempts[0].analysis, run.attempts[run.best].analysis
        assert first is not None
        assert best is not None
        assert best.burden <= first.burden
    clean = [MicroData(8, painted=True).load(index) for index in range(8)]
    gated = load_detector("micro:legion", device="cpu", gate=detector)
    assert not any(analysis.regions for analysis in gated.batch([each.image for each in clean if not each.fake]))


def test_its_card_and_files_are_whole() -> None:
    card = read_card(FOLDER)
    assert card.family == "aligngemini"
    assert card.scores["injected/both"] >= 0.93
    for name, value in card.sha256.items():
        assert checksum(FOLDER / name) == value
    both = [path for part in ("aligngemini", "xaigd") for path in (MICRO_WEIGHTS / part).rglob("*.safetensors")]
    assert sum(path.stat().st_size for path in both) <= 8_000_000
