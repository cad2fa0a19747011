"""AnomReasonor as a detector, and the ids of both detectors: scripted, behind an endpoint, and from folders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.chat_servers import ScriptedServer, settle_environment
from support.conformance import assert_same
from support.tiny_chat_models import save_teller, save_viewer

from refiner.cli.main import main
from refiner.detectors import load_detector
from refiner.detectors.anomreason.agent import AnomAgent
from refiner.detectors.anomreason.grammar import NOTHING, Anomaly, write
from refiner.detectors.anomreason.notes import NOTE, Note, read_note
from refiner.detectors.anomreason.question import IS_IT_GENERATED, asking
from refiner.detectors.anomreason.reasonor import WHOLE, AnomReasonorDetector
from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Outcome
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.registry import detector_needs
from refiner.detectors.vlm import VlmDetector
from refiner.errors import ConfigError, ModelError, UnreadableOutputError, WeightsError
from refiner.masks import box_of
from refiner.protocols import Deciding, Detector
from refiner.repository import Repository
from refiner.taxonomy import Category
from refiner.types import Analysis, Size

RED, GREEN, BLUE, GREY = (200, 10, 10), (10, 200, 10), (10, 10, 200), (90, 90, 90)
THOUSAND, PIXELS = BoxFormat(scale="thousand"), BoxFormat(scale="pixels")
ONLY = Note("anomaly_only", THOUSAND)
BOTH = Note("authenticity_reasoning", THOUSAND)
HAND = Anomaly("six fingers", "the hand has six fingers", "hands have five", 0.9, (0.25, 0.5, 0.75, 1.0))
LAMP = Anomaly("a lamp that floats", "it touches nothing", "lamps fall", 0.6)
LIST = write([HAND, LAMP], form=THOUSAND, shown=Size(60, 80))
REAL = "The light and the shadows agree."


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, colour)


class Scripted:
    """A chat model with the answers to both turns for each colour: texts, pairs with probabilities, or errors."""

    name, max_side, ledger = "scripted", 1000, Ledger()

    def __init__(self, script: dict[tuple[int, ...], tuple[Any, Any]]) -> None:
        self.script, self.asked = script, list[list[ChatRequest]]()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        self.asked.append(list(requests))
        answers = [self.script[request.images[0].getpixel((0, 0))] for request in requests]
        return [
            self._answer(pair[request.user != IS_IT_GENERATED]) for pair, request in zip(answers, requests, strict=True)
        ]

    def _answer(self, answer: Any) -> Outcome:
        if isinstance(answer, Exception):
            return answer  # type: ignore[return-value]
        text, shares = answer if isinstance(answer, tuple) else (answer, None)
        finish = "length" if text.endswith("...") else "stop"
        return ChatReply(text=text, finish=finish, prompt_tokens=1, completion_tokens=9, probabilities=shares)  # type: ignore[arg-type]


def detector_of(script: dict[tuple[int, ...], tuple[Any, Any]], note: Note = BOTH) -> AnomReasonorDetector:
    return AnomReasonorDetector(Scripted(script), grounder=BoxGrounder(), note=note)


def test_two_turns_become_a_probability_and_regions() -> None:
    detector = detector_of({RED: (("Yes", (0.8, 0.2)), LIST)})
    analysis = detector(picture(RED), "a prompt")
    hand, lamp = analysis.regions
    assert isinstance(detector, Detector)
    assert isinstance(detector, Deciding)
    assert detector.decides
    assert (hand.name, hand.explanation, hand.reasoning) == HAND[:3]
    assert (hand.category, hand.severity, hand.score) == (Category.ANATOMY, 0.9, 0.8)
    assert hand.box == box_of(hand.mask) == (20, 30, 60, 60)
    assert (lamp.placed, lamp.severity, analysis.fake_probability) == (False, 0.6, 0.8)
    assert analysis.raw.startswith(f"Yes\n\n{LIST}")
    assert analysis.detector == detector.name
    assert "format authenticity_reasoning" in detector.name
    assert isinstance(detector.backend, Scripted)
    (first,), (second,) = detector.backend.asked
    assert first.choice is not None
    assert (first.user, first.choice.words, first.history) == (IS_IT_GENERATED, ("Yes", "No"), ())
    assert second.history == ((IS_IT_GENERATED, "Yes"),)
    assert "a prompt" not in first.user + second.user


def test_what_the_turns_say_together() -> None:
    odd = (0.3, 0.7)
    script = {
        RED: ("Yes", NOTHING), GREEN: (("No", odd), REAL), BLUE: (("no.", odd), LIST), GREY: ("**No**", NOTHING),
    }  # fmt: skip
    red, green, blue, grey = detector_of(script).batch([picture(colour) for colour in script])
    (whole,) = red.regions
    assert (whole.name, whole.placed, whole.score, red.fake_probability) == (WHOLE, False, 1.0, 1.0)
    assert (green.regions, green.fake_probability) == ((), 0.3)
    assert [region.score for region in blue.regions] == [0.3, 0.3], "no anomaly is hidden"
    assert (grey.regions, grey.fake_probability, grey.burden) == ((), 0.0, 0)


def test_one_turn_decides_by_whether_anomalies_are_listed() -> None:
    detector = detector_of({RED: (None, LIST), GREEN: (None, NOTHING)}, ONLY)
    red, green = detector.batch([picture(RED), picture(GREEN)])
    assert [region.score for region in red.regions] == [1.0, 1.0]
    assert (red.fake_probability, green.fake_probability, green.regions) == (1.0, 0.0, ())
    assert isinstance(detector.backend, Scripted)
    assert len(detector.backend.asked) == 1


BAD = [
    ("Maybe", LIST), ("Yes", REAL), ("Yes", ""), ("No", ""), ("No", LIST[:-3]), ("No", LIST[:40]), ("No", "It is ..."),
    ("Yes", f"{LIST[:40]}\n..."), ("Yes", f"{NOTHING}..."), ("No", "@1. ..."),
    ("Yes", ModelError("no memory")), (ModelError("no memory"), LIST),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_an_error_is_that_of_its_image_alone(bad: tuple[Any, Any]) -> None:
    detector = detector_of({RED: ("Yes", LIST), GREY: bad, GREEN: ("No", REAL)})
    images = [picture(colour) for colour in (RED, GREY, GREEN)]
    red, grey, green = detector.outcomes(images)
    assert isinstance(red, Analysis)
    assert isinstance(green, Analysis)
    assert (len(red.regions), len(green.regions)) == (2, 0)
    if any(isinstance(each, ModelError) for each in bad):
        assert str(grey) == "no memory"
    else:
        assert isinstance(grey, UnreadableOutputError)
        assert grey.raw in bad
    with pytest.raises(ModelError):
        detector.batch(images)
    with pytest.raises(ConfigError, match="one prompt for each"):
        detector.outcomes(images, ["just one"])


@pytest.mark.parametrize("note", [BOTH, ONLY], ids=str)
@pytest.mark.parametrize("fake", ["Yes", "No"])
def test_a_list_that_is_cut_off_keeps_its_complete_anomalies(note: Note, fake: str) -> None:
    for end in range(LIST.index("@2") + 2, len(LIST) + 1):
        (analysis,) = detector_of({RED: (fake, f"{LIST[:end]}...")}, note).batch([picture(RED)])
        assert [region.name for region in analysis.regions] == [HAND.name]
        assert analysis.gaps == ("cut_short",)


@pytest.mark.parametrize("note", [BOTH, ONLY, Note("anomaly_only", PIXELS)], ids=str)
def test_a_batch_is_its_single_calls_in_any_order(note: Note) -> None:
    script = {RED: (("Yes", (0.8, 0.2)), LIST), GREEN: ("No", NOTHING), BLUE: ("Yes", LIST.partition("\n\n")[0])}
    together = detector_of(script, note).batch([picture(colour) for colour in (RED, GREEN, BLUE, RED)])
    for colour, analysis in zip((RED, GREEN, BLUE, RED), together, strict=True):
        assert_same(analysis, detector_of(script, note)(picture(colour)))
    assert detector_of(script, note).batch([]) == []


def test_the_model_is_asked_as_its_note_says() -> None:
    script = {RED: ("Yes", LIST)}
    for note, size, boxes in ((BOTH._replace(max_side=40), (40, 30), True), (Note(), (80, 60), False)):
        detector = detector_of(script, note)
        detector(picture(RED))
        assert isinstance(detector.backend, Scripted)
        requests = [request for sent in detector.backend.asked for request in sent]
        assert {request.images[0].size for request in requests} == {size}
        assert ("A box is" in requests[1].user) == boxes


@pytest.fixture(scope="module")
def teller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model of Qwen3-VL's architecture that answers both turns."""
    image = picture(RED, (64, 64))
    turns = [
        ChatRequest(user=IS_IT_GENERATED, images=(image,)),
        ChatRequest(
            user=asking(image, "authenticity_reasoning", THOUSAND), images=(image,), history=((IS_IT_GENERATED, "Yes"),)
        ),
        ChatRequest(user=asking(image, "anomaly_only", THOUSAND), images=(image,)),
    ]
    folder = tmp_path_factory.mktemp("qwen3-vl-teller")
    save_teller(folder, ["Yes", LIST], [*turns[:2], *turns])
    note = {"format": "authenticity_reasoning", "boxes": {"scale": "thousand"}}
    (folder / NOTE).write_text(json.dumps(note))
    return folder


def test_a_model_that_runs_here(teller: Path) -> None:
    """It is recognised by its note, and answers as it was made to, in both turns."""
    for name in (str(teller), f"anomreason:{teller}"):
        detector: Any = load_detector(name, device="cpu", grounder="box")
        assert isinstance(detector, AnomReasonorDetector)
        assert (detector.note, detector.boxes) == (BOTH, THOUSAND)
        analyses = detector.batch([picture(RED, (64, 64)), picture(RED, (64, 96))])
        for analysis in analyses:
            assert analysis.raw.startswith(f"Yes\n\n{LIST}")
            assert [region.name for region in analysis.regions] == [HAND.name, LAMP.name]
            assert 0.5 < analysis.fake_probability <= 1
            assert analysis.regions[0].score == analysis.fake_probability
    assert isinstance(load_detector(f"vlm:{teller}", device="cpu"), VlmDetector)


def test_a_model_without_a_note(tmp_path: Path) -> None:
    """An empty or random answer is an error; the format may stand in the id."""
    folder = save_viewer(tmp_path / "qwen3-vl", context=8192)
    for form in ("anomaly_only", "authenticity_reasoning"):
        detector: Any = load_detector(f"anomreason:{folder},format={form},grounder=box", device="cpu")
        assert detector.note == Note(form)
        assert detector.boxes == THOUSAND
        detector.backend.max_tokens = 8
        with pytest.raises(UnreadableOutputError):
            detector(picture(RED))
    assert isinstance(load_detector(folder, device="cpu"), VlmDetector), "a folder without a note is another family's"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"format": "anomaly_only"}', '{"format": "poem", "boxes": null}', '{"boxes": null}', "\x00",
        '{"format": ["anomaly_only"], "boxes": null}', '{"format": "anomaly_only", "boxes": 5}',
        '{"format": "anomaly_only", "boxes": {"scale": "miles"}}', '{"format": "anomaly_only", "boxes": {"depth": 1}}',
        '{"format": "anomaly_only", "boxes": null, "max_side": 0}',
        '{"format": "anomaly_only", "boxes": null, "max_side": true}',
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    (tmp_path / NOTE).write_text(text)
    with pytest.raises(WeightsError, match=r"anomreason\.json") as caught:
        read_note(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anomreason:m@http://127.0.0.1:1/v1,adapter=a", "serve the adapter there"),
        ("anomreason:m@http://127.0.0.1:1/v1,format=poem", "choose from anomaly_only, authenticity_reasoning"),
        ("anomreason:m@http://127.0.0.1:1/v1,drafts=3", "adapter=.*grounder="),
        ("anomreason:owner/model,cache=folder", "remove the cache"),
        ("anomagent:owner/model,cache=folder", "remove the cache"),
        ("anomagent:m@http://127.0.0.1:1/v1,format=anomaly_only", "max_calls=.*max_objects="),
        ("anomagent:m@http://127.0.0.1:1/v1,max_calls=13", r"Limits\.max_calls must be at least 14"),
        ("anomagent:m@http://127.0.0.1:1/v1,max_objects=0", r"Limits\.max_objects must be at least 1"),
        ("anomagent:m@http://127.0.0.1:1/v1,drafts=-1", "drafts as a whole number"),
        (f"anomagent:m@http://127.0.0.1:1/v1,max_calls={'9' * 5000}", "max_calls as a whole number"),
    ],
    ids=range(10),
)
def test_bad_ids_are_refused_before_anything_is_loaded(name: str, message: str) -> None:
    for find in (load_detector, detector_needs):
        with pytest.raises(ConfigError, match=message):
            find(name)


def test_just_the_families_are_the_models_of_paper_and_script() -> None:
    assert detector_needs("anomreason") == [Repository(name="Qwen/Qwen2.5-VL-7B-Instruct")]
    assert detector_needs("anomagent:,grounder=box") == [Repository(name="Qwen/Qwen3-VL-8B-Instruct")]
    assert detector_needs("anomreason:,grounder=box,adapter=owner/tuned") == [
        Repository(name="Qwen/Qwen2.5-VL-7B-Instruct"), Repository(name="owner/tuned"),
    ]  # fmt: skip
    agent = load_detector("anomagent:Qwen2.5-VL@http://127.0.0.1:1/v1,drafts=2,max_calls=30,max_objects=5,grounder=box")
    assert isinstance(agent, AnomAgent)
    assert vars(agent.limits) == {"drafts": 2, "max_calls": 30, "max_objects": 5}
    assert agent.boxes == PIXELS


class Served(ScriptedServer):
    """Says Yes with a probability, then lists; or says what is given."""

    def __init__(self, text: str = LIST) -> None:
        super().__init__(lambda asked: "Yes" if asked == IS_IT_GENERATED else text)

    def document(self, body: dict[str, Any], status: int, document: Any) -> tuple[int, Any]:
        if "logprobs" in body:
            top = [{"token": "Yes", "logprob": math.log(0.6)}, {"token": "No", "logprob": math.log(0.2)}]
            document["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return status, document


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settle_environment(monkeypatch)
    server = Served()
    try:
        picture(RED).save(tmp_path / "red.png")
        name = f"anomreason:Qwen3-VL@{server.url},grounder=box,cache={tmp_path / 'cache'}"
        command = ["detect", str(tmp_path / "red.png"), "--detector", name, "--json"]
        for count in (2, 2):
            assert main(command) == 0
            (row,) = json.loads(capsys.readouterr().out)
            assert row["analysis"]["fake_probability"] == 0.75
            assert [region["severity"] for region in row["analysis"]["regions"]] == [0.9, 0.6]
            assert len(server.asked) == count, "the second run is answered from the cache"
        roles = [turn["role"] for turn in server.bodies[1]["messages"]]
        assert roles == ["user", "assistant", "user"]
        server.script = lambda asked: "I cannot tell."
        assert main([*command[:3], f"anomreason:Qwen3-VL@{server.url},grounder=box", "--json"]) == 1
        assert "Expected the answer Yes or No, got 'I cannot tell.'" in capsys.readouterr().err
    finally:
        server.stop()
