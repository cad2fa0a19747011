"""The bundled AnomReasonor, an adapter on the bundled vision-language model, and the whole of AnomAgent on it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
from support.chat_servers import settle_environment
from support.served import FAULTS, FaultProxy

from refiner import RefinedPipeline
from refiner.data.micro import MicroData
from refiner.detectors import load_detector
from refiner.detectors.anomreason.agent import AnomAgent
from refiner.detectors.anomreason.question import IS_IT_GENERATED, asking
from refiner.detectors.anomreason.reasonor import AnomReasonorDetector
from refiner.detectors.anomreason.work import Limits
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.hub import MICRO_WEIGHTS, checksum, read_card
from refiner.training.anomreason.words import PICTURE
from refiner.training.chat.eval import measured, summary
from refiner.types import Analysis

DATA = MicroData(60, painted=True)
FOLDER = MICRO_WEIGHTS / "anomreason"
SETTINGS = EndpointSettings(timeout=300, attempts=3, backoff=0.01, concurrency=2)


@pytest.fixture(scope="module")
def detector() -> AnomReasonorDetector:
    found = load_detector("micro:anomreason", device="cpu")
    assert isinstance(found, AnomReasonorDetector)
    return found


@pytest.fixture(scope="module")
def agent() -> AnomAgent:
    found = load_detector("anomagent:micro:anomreason", device="cpu")
    assert isinstance(found, AnomAgent)
    return found


def told(analysis: Analysis) -> Any:
    return [(region.name, region.box, region.explanation) for region in analysis.regions]


def test_it_tells_flawed_images_from_clean_ones_and_where_the_flaws_are(detector: AnomReasonorDetector) -> None:
    scores = summary(list(measured(detector, (DATA.load(index) for index in range(60)))))
    assert scores["balanced_accuracy"] >= 0.90
    assert scores["mask_iou"] >= 0.25
    assert scores["unreadable"] == 0


def test_its_base_is_the_bundled_model_untouched() -> None:
    card = read_card(MICRO_WEIGHTS / "vlm")
    assert checksum(MICRO_WEIGHTS / "vlm" / "model.safetensors") == card.sha256["model.safetensors"]
    assert not (FOLDER / "model.safetensors").exists()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000


def test_its_questions_are_one_token_each(detector: AnomReasonorDetector) -> None:
    """The model was trained on the exact texts of the questions: if a text changes, train the model again."""
    for text in (IS_IT_GENERATED, asking(PICTURE, detector.note.form, detector.note.boxes)):
        assert len(detector.backend.processor.tokenizer.encode(text, add_special_tokens=False)) == 1


def test_the_whole_agent_runs_offline_and_finds_flaws(agent: AnomAgent) -> None:
    samples = [DATA.load(index) for index in range(12)]
    analyses = agent.batch([sample.image for sample in samples])
    right = [bool(analysis.regions) == sample.fake for analysis, sample in zip(analyses, samples, strict=True)]
    assert sum(right) >= 10
    for analysis, sample in zip(analyses, samples, strict=True):
        named = {step.subject for step in analysis.trace if step.stage == "ObjectPerceiver" and step.outcome == "found"}
        assert named
        assert all(any(subject.endswith(part) for part in sample.prompt.split()) for subject in named)
    stages = {step.stage for analysis in analyses for step in analysis.trace}
    assert {"ObjectPerceiver", "AttributeAnalyzer"} <= stages
    assert not any(step.outcome == "unreadable" for analysis in analyses for step in analysis.trace)


@pytest.mark.timeout(900)
def test_behind_a_server_with_faults_the_agent_answers_as_here(
    detector: AnomReasonorDetector, transformers_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``transformers serve`` runs the whole model, and each first request of a fault's kind fails on its way."""
    settle_environment(monkeypatch)
    folder = tmp_path / "merged"
    whole = load_detector("anomagent:micro:anomreason", device="cpu")
    assert isinstance(whole, AnomAgent)
    backend: Any = whole.backend
    backend.model.save_pretrained(folder)
    backend.processor.save_pretrained(folder)
    images = [DATA.load(index).image for index in (1, 2, 3, 5)]
    faults = [fault for fault in FAULTS if fault != "late"]

    def script(body: dict[str, Any], number: int) -> str | None:
        place = zlib.crc32(str(body["messages"][-1]).encode())
        return faults[place % len(faults)] if number == 0 and place % 3 == 0 else None

    proxy = FaultProxy(transformers_server, script)
    chat = EndpointChat(str(folder), base_url=proxy.url, cache=tmp_path / "cache", settings=SETTINGS)
    limits = Limits(drafts=1)
    there = AnomAgent(chat, grounder=whole.grounder, boxes=whole.boxes, limits=limits)
    answers = there.batch(images)
    assert sum(proxy.spoiled.values()) >= 3
    assert max(proxy.answered.values()) == 1, "no finished step is asked again"
    relayed = proxy.relayed
    again = there.batch(images)
    assert proxy.relayed == relayed, "a second run is answered from the cache"
    chat.close()
    proxy.stop()
    here = AnomAgent(backend, grounder=whole.grounder, boxes=whole.boxes, limits=limits).batch(images)
    assert list(map(told, answers)) == list(map(told, again))
    assert any(answer.regions for answer in answers)
    same = [told(one) == told(other) for one, other in zip(answers, here, strict=True)]
    assert sum(same) >= 3, "the drafts are sampled, so that an object's description may differ"


def test_it_steers_refinement(detector: AnomReasonorDetector) -> None:
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
    card = read_card(FOLDER)
    assert card.family == "anomreason"
    assert card.scores["injected/balanced_accuracy"] >= 0.90
    assert card.scores["injected/mask_iou"] >= 0.25
    assert card.scores["agent/injected/balanced_accuracy"] > 0.5
