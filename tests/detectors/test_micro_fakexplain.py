"""The bundled FakeXplain, an adapter on the bundled vision-language model: verdicts, boxes, tokens, server, loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.chat_servers import settle_environment

from refiner import RefinedPipeline
from refiner.data.micro import MicroData
from refiner.detectors import load_detector
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.fakexplain.detector import FakexplainDetector
from refiner.detectors.fakexplain.question import asking
from refiner.hub import MICRO_WEIGHTS, checksum, read_card
from refiner.training.chat.eval import measured, summary

DATA = MicroData(60, painted=True)


@pytest.fixture(scope="module")
def detector() -> FakexplainDetector:
    found = load_detector("micro:fakexplain", device="cpu")
    assert isinstance(found, FakexplainDetector)
    return found


def test_it_tells_flawed_images_from_clean_ones_and_where_the_flaws_are(detector: FakexplainDetector) -> None:
    scores = summary(list(measured(detector, (DATA.load(index) for index in range(60)))))
    assert scores["balanced_accuracy"] >= 0.93
    assert scores["mask_iou"] >= 0.40
    assert scores["unreadable"] == 0


def test_its_base_is_the_bundled_model_untouched(detector: FakexplainDetector) -> None:
    card = read_card(MICRO_WEIGHTS / "vlm")
    assert checksum(MICRO_WEIGHTS / "vlm" / "model.safetensors") == card.sha256["model.safetensors"]
    assert not (MICRO_WEIGHTS / "fakexplain" / "model.safetensors").exists()
    size = sum(path.stat().st_size for path in (MICRO_WEIGHTS / "fakexplain").iterdir())
    assert size < 8_000_000


def test_its_question_is_one_token(detector: FakexplainDetector) -> None:
    """The model was trained on the exact text of the question: if the text changes, train the model again."""
    question = asking(Image.new("RGB", (96, 96)), detector.dialect, detector.boxes)
    assert len(detector.backend.processor.tokenizer.encode(question.user, add_special_tokens=False)) == 1


@pytest.mark.timeout(900)
def test_behind_a_server_it_answers_as_here(
    detector: FakexplainDetector, transformers_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``transformers serve`` runs the whole model, into which the adapter is merged."""
    settle_environment(monkeypatch)
    folder = tmp_path / "merged"
    detector.backend.model.save_pretrained(folder)
    detector.backend.processor.save_pretrained(folder)
    images = [DATA.load(index).image for index in range(6)]
    chat = EndpointChat(str(folder), base_url=transformers_server, settings=EndpointSettings(timeout=300, attempts=1))
    there = FakexplainDetector(chat, grounder=detector.grounder, dialect=detector.dialect, boxes=detector.boxes)
    answers = there.batch(images)
    chat.close()
    here = detector.batch(images)
    for one, other in zip(answers, here, strict=True):
        assert [(r.box, r.explanation) for r in one.regions] == [(r.box, r.explanation) for r in other.regions]
        assert one.tags == other.tags
        assert one.fake_probability is not None
        assert round(one.fake_probability) == round(other.fake_probability or 0)


def test_it_steers_refinement(detector: FakexplainDetector) -> None:
    pipe = RefinedPipeline.from_pretrained("micro", detector=detector)
    prompt = "a red hand with five fingers left of a green clock showing three o'clock on a sky background"
    result = pipe(prompt, seed=[1, 2, 3], num_images_per_prompt=3, max_rounds=1).results
    starts = [run.attempts[0].analysis for run in result]
    assert any(start is not None and start.regions for start in starts)
    for run in result:
        first, best = run.attempts[0].analysis, run.attempts[run.best].analysis
        assert first is not None
        assert best is not None
        assert best.burden <= first.burden


def test_its_card_says_what_was_measured() -> None:
    card = read_card(MICRO_WEIGHTS / "fakexplain")
    assert card.family == "fakexplain"
    assert card.scores["injected/balanced_accuracy"] >= 0.93
    assert card.scores["injected/mask_iou"] >= 0.40
