"""AnomAgent behind a real server, ``transformers serve``, and a proxy that makes faults: no image and no step is lost.

The model is tiny, has Qwen3-VL's architecture, and gives answers that fit all steps, depending on image and step.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.chat_servers import settle_environment
from support.conformance import pictures
from support.scripted_agent import Asked, save_agent
from support.served import FAULTS, ODD_ANSWERS, FaultProxy

from refiner.detectors.anomreason.agent import AnomAgent
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.chat.images import MAX_SIDE, Pictures
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ModelError, UnreadableOutputError
from refiner.hub import MICRO_WEIGHTS
from refiner.types import Analysis

pytestmark = pytest.mark.timeout(900)  # the first test waits for the server
SETTINGS = EndpointSettings(timeout=60, attempts=3, backoff=0.01, concurrency=4)
Fault = Callable[[int, Asked, int], str | None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_agent(tmp_path_factory.mktemp("qwen3-vl-agent"))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return pictures()


class Behind:
    """An agent behind a proxy, whose script gets the number of the image, the request, and how often it came before."""

    def __init__(self, target: str, images: list[Image.Image]) -> None:
        self.fault: Fault = lambda image, asked, number: None
        self.proxy = FaultProxy(target, self._script)
        encode = Pictures(MAX_SIDE)
        self._numbers = {encode.url(str(number), image): number for number, image in enumerate(images)}
        self._opened = list[EndpointChat]()

    def agent(self, model: str, cache: Path | None = None, **settings: Any) -> AnomAgent:
        chat = EndpointChat(model, base_url=self.proxy.url, cache=cache, settings=replace(SETTINGS, **settings))
        self._opened.append(chat)
        return AnomAgent(chat, grounder=BoxGrounder(), boxes=BoxFormat())

    def _script(self, body: dict[str, Any], number: int) -> str | None:
        shown, text = body["messages"][-1]["content"]
        return self.fault(self._numbers[shown["image_url"]["url"]], Asked(text["text"]), number)

    def close(self) -> None:
        for chat in self._opened:
            chat.close()
        self.proxy.stop()


@pytest.fixture
def behind(transformers_server: str, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    settle_environment(monkeypatch)
    opened = Behind(transformers_server, images)
    yield opened
    opened.close()


def told(analysis: Analysis) -> Any:
    return [(region.name, region.box, region.severity, region.score) for region in analysis.regions], analysis.trace


def test_faults_that_pass_cost_no_image_and_no_finished_step(
    behind: Behind, model: str, images: list[Image.Image]
) -> None:
    faults = [fault for fault in FAULTS if fault != "late"]

    def fault(image: int, asked: Asked, number: int) -> str | None:
        place = zlib.crc32(f"{image} {asked.text}".encode())
        return faults[place % len(faults)] if number == 0 else None

    behind.fault = fault
    agent = behind.agent(model)
    analyses = agent.batch(images)
    assert any(analysis.regions for analysis in analyses)
    assert {step.stage for analysis in analyses for step in analysis.trace} >= {"ObjectPerceiver", "RelationReasoner"}
    assert set(behind.proxy.spoiled) == set(faults)
    assert max(behind.proxy.answered.values()) == 1, "no finished step is asked again"
    assert agent.backend.ledger.failed == 0


def test_a_late_answer_is_asked_for_again(behind: Behind, model: str, images: list[Image.Image]) -> None:
    behind.agent(model)(images[1])  # now the server has loaded the model
    agent = behind.agent(model, timeout=6.0)
    behind.fault = lambda image, asked, number: "late" if asked.stage == "format" and number == 0 else None
    behind.proxy.delay = 8.0
    assert agent(images[0]).regions
    assert behind.proxy.spoiled["late"] == 1


STAYING = {
    0: ("perceive", "500"), 1: ("perceive", "prose"), 2: ("format", "wrong schema"),
    3: ("format", "JSON that breaks off"), 4: ("attributes", "JSON of another schema"), 5: ("integrate", "hang up"),
}  # fmt: skip
"""Image -> a step that always fails, and its fault."""


def test_faults_that_stay_cost_their_step_and_a_later_run_asks_only_for_it(
    behind: Behind, model: str, images: list[Image.Image], tmp_path: Path
) -> None:
    expected = behind.agent(model, tmp_path / "all").batch(images)
    behind.proxy.answered.clear()
    behind.fault = lambda image, asked, number: STAYING[image][1] if asked.stage == STAYING[image][0] else None
    outcomes = behind.agent(model, tmp_path / "part").outcomes(images)
    assert len(outcomes) == len(images)
    for number, outcome in enumerate(outcomes):
        stage, fault = STAYING[number]
        lost = stage in ("perceive", "format")
        assert isinstance(outcome, ModelError if lost else Analysis), (stage, fault)
        assert isinstance(outcome, UnreadableOutputError) == (lost and fault in ODD_ANSWERS)
        if isinstance(outcome, Analysis):
            assert [step for step in outcome.trace if step.outcome == "unreadable"]
            assert "without a readable answer" in outcome.tags[-1]
    finished = behind.proxy.answered.total()
    assert finished > len(images)
    behind.fault = lambda image, asked, number: None
    again = behind.agent(model, tmp_path / "part")
    analyses = again.batch(images)
    assert len(analyses) == len(expected) == len(images)
    assert max(behind.proxy.answered.values()) == 1, "no finished step is asked again"
    assert again.backend.ledger.cached > finished / 2
    calls = again.backend.ledger.calls
    assert told(again(images[0])) == told(analyses[0])
    assert again.backend.ledger.calls == calls, "and now all is in the cache"


def test_each_image_of_a_model_that_cannot_follow_is_accounted_for(behind: Behind, images: list[Image.Image]) -> None:
    """The bundled model knows one question alone; all that it says here is an error, with its words."""
    outcomes = behind.agent(str(MICRO_WEIGHTS / "vlm"), max_tokens=64).outcomes(images)
    assert len(outcomes) == len(images)
    for outcome in outcomes:
        assert isinstance(outcome, UnreadableOutputError)
        assert outcome.raw
