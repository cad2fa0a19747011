"""The bundled vision-language model through the public functions: its answers, its limits, and its tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import settle_environment
from support.served import FAULTS, FaultProxy

from refiner.detectors import load_detector
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.chat.local import LocalChat
from refiner.detectors.vlm.detector import VlmDetector
from refiner.detectors.vlm.questions import finding
from refiner.errors import OutOfDomainError, UnreadableOutputError
from refiner.hub import MICRO_WEIGHTS, read_card
from refiner.micro.flaws import inject
from refiner.micro.world import render, sample_scene
from refiner.types import Size


@pytest.fixture(scope="module")
def detector():
    return load_detector("micro:vlm", device="cpu", grounder="box")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(40_000_000)
    return [sample_scene(rng, 1 + number % 3) for number in range(12)]


def test_its_name_says_how_it_looks(detector):
    assert isinstance(detector, VlmDetector)
    assert detector.name.startswith("vlm:micro:vlm, two-step, masks by ")
    assert load_detector("vlm:micro:vlm,grounder=box", device="cpu").name == detector.name


def test_it_tells_flawed_pictures_from_clean_ones_and_names_the_thing(detector, scenes):
    rng = np.random.default_rng(1)
    flawed = [inject(scene, rng, 1) for scene in scenes]
    captions = [scene.caption for scene in scenes]
    answers = detector.batch([picture.image for picture in flawed], captions)
    assert sum(bool(answer.regions) for answer in answers) >= 9
    named = [
        any(region.name.split()[-1] == picture.regions[0].name.split()[-1] for region in answer.regions)
        for picture, answer in zip(flawed, answers, strict=True)
    ]
    assert sum(named) >= 7
    clean = detector.batch([render(scene) for scene in scenes], captions)
    assert sum(not answer.regions for answer in clean) >= 10


def test_a_picture_of_any_size_is_seen_whole(detector, scenes):
    rng = np.random.default_rng(1)
    picture = inject(scenes[0], rng, 1, ["texture_patch"]).image
    large = picture.resize((192, 192), Image.Resampling.NEAREST)
    small, big = detector.batch([picture, large])
    assert big.size == Size(192, 192)
    assert abs(len(small.regions) - len(big.regions)) <= 1


def test_a_picture_from_elsewhere_is_refused(detector):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    with pytest.raises(OutOfDomainError, match="micro world"):
        detector(Image.fromarray(noise), "a red hand with five fingers on a sky background")


def test_an_answer_that_breaks_off_is_an_error_and_never_clean(detector, scenes):
    short = LocalChat(detector.backend.model, detector.backend.processor, name="short", max_tokens=3)
    hasty = VlmDetector(short, grounder=detector.grounder, boxes=detector.boxes)
    rng = np.random.default_rng(1)
    pictures = [inject(scene, rng, 1, ["texture_patch"]).image for scene in scenes[:6]]
    outcomes = []
    for picture in pictures:
        try:
            outcomes.append(hasty(picture).regions)
        except UnreadableOutputError as error:
            outcomes.append(error.raw)
    whole = detector.batch(pictures)
    for outcome, answer in zip(outcomes, whole, strict=True):
        assert outcome == () or isinstance(outcome, str)
        assert bool(outcome) == answer.raw.startswith('{"regions": [{')


@pytest.mark.timeout(900)
def test_behind_a_server_it_answers_as_here(detector, scenes, transformers_server, monkeypatch):
    """With ``transformers serve``, and a proxy that breaks each request once."""
    settle_environment(monkeypatch)
    rng = np.random.default_rng(1)
    pictures = [inject(scene, rng, 1).image for scene in scenes[:5]] + [render(scenes[5])]
    captions = [scene.caption for scene in scenes[:3]] + [""] * 3
    faults = itertools.cycle(fault for fault in FAULTS if fault != "late")
    proxy = FaultProxy(transformers_server, lambda body, number: None if number else next(faults))
    try:
        settings = EndpointSettings(timeout=300, backoff=0.01, concurrency=4)
        chat = EndpointChat(str(MICRO_WEIGHTS / "vlm"), base_url=proxy.url, settings=settings)
        there = VlmDetector(chat, grounder=detector.grounder, boxes=detector.boxes, domain=detector.domain)
        answers = there.batch(pictures, captions)
        chat.close()
    finally:
        proxy.stop()
    assert [_told(answer) for answer in answers] == [_told(answer) for answer in detector.batch(pictures, captions)]
    assert any("Verified:" in answer.raw for answer in answers)
    assert sum(proxy.spoiled.values()) == sum(1 + bool(answer.raw.startswith('{"regions": [{')) for answer in answers)
    assert chat.ledger.failed == 0


def _told(answer):
    """All fields of an analysis that come from the model."""
    regions = [(r.name, r.explanation, r.category, r.severity, r.box, r.score) for r in answer.regions]
    return answer.raw, regions


def test_questions_are_few_tokens(detector, scenes):
    """The model was trained on the exact text of the requests: if the text changes, train the model again."""
    tokenizer = detector.backend.processor.tokenizer
    for scene in scenes:
        question = finding(render(scene), scene.caption, detector.boxes, thorough=True)
        assert len(tokenizer.encode(question.system + question.text, add_special_tokens=False)) < 50


def test_its_card_says_what_was_measured():
    card = read_card(MICRO_WEIGHTS / "vlm")
    assert {"injected/found", "injected/right_category", "injected/clean_claimed", "natural/found"} <= set(card.scores)
    assert card.settings["architecture"]["patch"] == 8
