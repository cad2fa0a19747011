"""A proxy that delays and breaks the answers of a real server, ``transformers serve``: no image is lost.

The model is tiny and random, has Qwen3-VL's architecture, and gives one of a few answers, depending on the image.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import KEY, settle_environment
from support.served import FAULTS, ODD_ANSWERS, FaultProxy

torch = pytest.importorskip("torch")

from support.tiny_chat_models import save_teller, save_viewer  # noqa: E402

from refiner.cli.main import main  # noqa: E402
from refiner.detectors.chat.backend import ChatReply, ChatRequest  # noqa: E402
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings  # noqa: E402
from refiner.detectors.chat.images import MAX_SIDE, Pictures  # noqa: E402
from refiner.detectors.chat.local import LocalChat  # noqa: E402
from refiner.detectors.grounding.base import BoxGrounder  # noqa: E402
from refiner.detectors.reading.boxes import BoxFormat  # noqa: E402
from refiner.detectors.vlm.detector import VlmDetector  # noqa: E402
from refiner.detectors.vlm.questions import finding  # noqa: E402
from refiner.errors import ModelError, RefinerError, UnreadableOutputError  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(900)  # the first test waits for the server
THOUSAND = BoxFormat(scale="thousand")
TIMEOUT = 6.0
"""Seconds; a server that shares its cores with other tests may be slow."""
FLAWS = [{"name": f"thing {n}", "category": "shape", "bbox_2d": [90 * n, 10, 90 * n + 200, 600]} for n in range(5)]
SAID = [json.dumps({"regions": found, "verdicts": []}) for found in (*([flaw] for flaw in FLAWS), [])]
"""Answers to both requests of the detector."""


def picture(number):
    colour = np.random.default_rng(number).integers(0, 255, 3).tolist()
    return Image.new("RGB", (80, 60), tuple(colour))


IMAGES = [picture(number) for number in range(13)]


@pytest.fixture(scope="module")
def teller(tmp_path_factory):
    """Folder of a model that answers with one of ``SAID``."""
    questions = [finding(picture(number), "", THOUSAND, thorough=True) for number in range(100, 112)]
    return str(save_teller(tmp_path_factory.mktemp("qwen3-vl-teller"), SAID, questions))


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    """Folder of a model that writes random text."""
    return str(save_viewer(tmp_path_factory.mktemp("viewer")))


def detector_of(backend):
    return VlmDetector(backend, grounder=BoxGrounder(), boxes=THOUSAND)


@pytest.fixture(scope="module")
def direct(teller):
    """The analyses of ``IMAGES`` by the model without a server."""
    analyses = detector_of(LocalChat.from_pretrained(teller, device="cpu")).batch(IMAGES)
    names = {region.name for analysis in analyses for region in analysis.regions}
    assert len(names) >= 3, "it sees no difference"
    return analyses


@pytest.fixture
def behind(transformers_server, teller, monkeypatch):
    """Start a proxy with a script for the number of each image, and a detector that uses the proxy."""
    settle_environment(monkeypatch)
    opened = []
    encode = Pictures(MAX_SIDE)
    urls = [encode.url(str(number), image) for number, image in enumerate(IMAGES)]

    def start(script, cache=None, **settings):
        def by_picture(body, number):
            url = body["messages"][-1]["content"][0]["image_url"]["url"]
            return script(urls.index(url), number)

        proxy = FaultProxy(transformers_server, lambda body, number: None)
        proxy.delay = TIMEOUT + 2
        usual = {"backoff": 0.05, "timeout": 60, "attempts": 4, "concurrency": 4}
        patient = EndpointSettings(**usual | settings)
        chat = EndpointChat(teller, base_url=proxy.url, cache=cache, settings=patient)
        opened.append((proxy, chat))
        detector = detector_of(chat)
        detector(picture(50))  # now the server has loaded the model, and the backend knows which schemas it accepts
        chat.settings = replace(patient, timeout=TIMEOUT)
        proxy.script, proxy.relayed = by_picture, 0
        return proxy, detector

    yield start
    for proxy, chat in opened:
        chat.close()
        proxy.stop()


def told(analysis):
    """All fields of an analysis that come from the model."""
    regions = [(r.name, r.category, r.box, r.score, None if r.mask is None else r.mask.sum()) for r in analysis.regions]
    return analysis.raw, regions, analysis.size


def each(detector, images=IMAGES):
    """An analysis or an error for each image; several requests run in parallel."""

    def look(image):
        try:
            return detector(image)
        except RefinerError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(look, images))


def test_a_server_gives_the_answers_of_the_model_itself(transformers_server, viewer, monkeypatch):
    settle_environment(monkeypatch)
    here = LocalChat.from_pretrained(viewer, device="cpu", max_tokens=24)
    there = EndpointChat(viewer, base_url=transformers_server, settings=EndpointSettings(max_tokens=24, attempts=1))
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 255, (70, 130, 3), np.uint8))
    requests = [
        ChatRequest(user="What is wrong?", images=(noise,), max_tokens=24),
        ChatRequest(user="And here? ünï <b>", system="Be brief.", images=(IMAGES[1], IMAGES[2]), max_tokens=24),
        ChatRequest(user="Say a word.", schema={"type": "object"}, images=(IMAGES[0],), max_tokens=24),
        ChatRequest(user="Which picture?", max_tokens=24),
        ChatRequest(user="Why?", history=(("Is it real?", "No"),), system="Be brief.", images=(noise,), max_tokens=24),
    ]
    spoken = 0
    for one, other in zip(here.complete(requests), there.complete(requests), strict=True):
        assert isinstance(one, ChatReply)
        if not one.text:
            assert "an empty answer" in str(other)
            continue
        spoken += 1
        assert (one.text, one.finish) == (other.text, other.finish)
        assert (one.prompt_tokens, one.completion_tokens) == (other.prompt_tokens, other.completion_tokens)
    assert spoken >= 3
    there.close()


def test_a_detector_behind_a_server_is_the_detector_itself(behind, direct):
    proxy, detector = behind(lambda picture, number: None)
    analyses = detector.batch(IMAGES)
    assert [told(analysis) for analysis in analyses] == [told(analysis) for analysis in direct]
    assert not proxy.spoiled


def test_faults_that_pass_change_no_answer(behind, direct):
    """Both requests of each image fail twice, each image with another fault."""
    faults = list(FAULTS)

    def script(picture, number):
        fault = faults[picture % len(faults)]
        return fault if number < (1 if fault == "late" else 2) else None

    proxy, detector = behind(script)
    analyses = detector.batch(IMAGES)
    assert [told(analysis) for analysis in analyses] == [told(analysis) for analysis in direct]
    assert set(proxy.spoiled) == set(FAULTS)
    ledger = detector.backend.ledger
    assert ledger.failed == 0
    assert ledger.retries > 2 * len(IMAGES)


@pytest.mark.parametrize("faults", [[*FAULTS][:4], [*FAULTS][4:8], [[*FAULTS][8], *ODD_ANSWERS]], ids=", ".join)
def test_faults_that_stay_cost_their_own_picture_alone(behind, direct, faults, caplog, capfd, tmp_path):
    """The other images get their answers; these give errors that name the fault. No message contains the key."""
    caplog.set_level(logging.DEBUG)
    bad = {3 * number: fault for number, fault in enumerate(faults)}
    _, detector = behind(lambda picture, number: bad.get(picture), cache=tmp_path, attempts=3)
    outcomes = each(detector)
    for number, (outcome, expected) in enumerate(zip(outcomes, direct, strict=True)):
        if number in bad:
            assert isinstance(outcome, ModelError), bad[number]
            assert isinstance(outcome, UnreadableOutputError) == (bad[number] in ODD_ANSWERS)
        else:
            assert told(outcome) == told(expected)
    trail = [caplog.text, *capfd.readouterr(), repr(detector.backend), repr(outcomes), detector.name]
    trail += [str(outcome) + repr(vars(outcome)) for outcome in outcomes if isinstance(outcome, RefinerError)]
    trail += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(trail) > 10
    assert not [text for text in trail if KEY.removeprefix("sk-") in text]
    calls, bad = detector.backend.ledger.calls, {}
    assert [told(outcome) for outcome in each(detector)] == [told(expected) for expected in direct], "no fault was kept"
    assert detector.backend.ledger.calls - calls <= 2 * len(faults), "and no answer was asked for again"


def test_a_spoiled_second_look_keeps_what_the_first_found(behind, direct):
    def script(picture, number):
        return "prose" if second and number == 0 else None

    second = False
    _, detector = behind(script)
    questions = [finding(image, "", THOUSAND, thorough=True) for image in IMAGES[:4]]
    assert all(isinstance(reply, ChatReply) for reply in detector.backend.complete(questions))
    second = True
    for analysis, expected in zip(detector.batch(IMAGES[:4]), direct, strict=False):
        assert [region.name for region in analysis.regions] == [region.name for region in expected.regions]
        assert ("Not verified: The model's answer " in analysis.raw) == bool(expected.regions)


def test_a_server_without_quota_is_left_at_once(behind):
    proxy, detector = behind(lambda picture, number: "429", max_wait=0.1)
    outcomes = each(detector)
    assert all(isinstance(outcome, ModelError) and "429" in str(outcome) for outcome in outcomes)
    assert sum(proxy.spoiled.values()) == len(IMAGES)
    assert proxy.relayed == 0


def test_the_command_line_goes_on(behind, direct, teller, tmp_path, capsys):
    bad = {1: "prose", 3: "JSON that breaks off"}
    proxy, _ = behind(lambda picture, number: bad.get(picture) or ("500" if picture + number == 0 else None))
    files = []
    for number, image in enumerate(IMAGES[:5]):
        files.append(str(tmp_path / f"{number}.png"))
        image.save(files[-1])
    code = main(["detect", *files, "--detector", f"vlm:{teller}@{proxy.url},grounder=box", "--json"])
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert code == 1
    assert [row["file"] for row in rows] == [files[number] for number in (0, 2, 4)]
    assert all(f"{number}.png: The model's answer " in said.err for number in bad)
    assert KEY not in said.out + said.err


def test_a_run_goes_on_with_what_it_has(behind, teller):
    """An image without an answer is recorded as such and not kept; the next image is analysed as usual."""
    from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
    from refiner.types import Calls

    alone = detector_of(LocalChat.from_pretrained(teller, device="cpu")).batch(IMAGES, ["a thing"] * len(IMAGES))
    first, bad, last = [number for number, analysis in enumerate(alone) if analysis.regions][:3]

    class Painter:
        """Generates these three images."""

        def __init__(self):
            self.pictures = iter([IMAGES[first], IMAGES[bad], IMAGES[last]])

        def generate(self, jobs):
            return [next(self.pictures) for _ in jobs]

        def inpaint(self, jobs):
            return self.generate(jobs)

        def spent(self):
            return Calls()

    _, detector = behind(lambda picture, number: "wrong schema" if picture == bad else None, attempts=2)
    painter = Painter()
    parts = Parts(generator=painter, inpainter=painter, detector=detector, reviser=TemplateReviser())
    result = refine(parts, "a thing", RefineConfig(strategy="regenerate", max_rounds=2)).result
    start, failed, end = result.attempts
    assert told(start.analysis) == told(alone[first])
    assert told(end.analysis) == told(alone[last])
    assert failed.analysis is None
    assert not failed.accepted
    assert "JSON that is not a chat completion" in failed.error
    assert result.best != 1
