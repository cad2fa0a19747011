"""FakeXplain as a detector: what becomes of an answer, with tiny networks, behind an endpoint, and from folders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import ScriptedServer, settle_environment
from support.conformance import assert_same, pictures
from support.tiny_chat_models import KINDS, save_speaker
from transformers import Qwen2VLImageProcessor

from refiner.cli.main import main
from refiner.detectors import load_detector
from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Loaded, Outcome
from refiner.detectors.fakexplain import FakexplainDetector
from refiner.detectors.fakexplain.grammar import DIALECTS, WHOLE, Answer, Flaw, write
from refiner.detectors.fakexplain.notes import NOTE, Note, read_note
from refiner.detectors.gated import GatedDetector
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.registry import detector_needs
from refiner.detectors.vlm import VlmDetector
from refiner.errors import (
    ConfigError,
    ModelError,
    OutOfDomainError,
    UnreadableOutputError,
    WeightsError,
)
from refiner.hub import Card, write_card
from refiner.masks import box_of
from refiner.protocols import Deciding, Detector
from refiner.repository import Repository
from refiner.taxonomy import Category
from refiner.types import Analysis, Size

RED, GREEN, BLUE, GREY = (200, 10, 10), (10, 200, 10), (10, 10, 200), (90, 90, 90)
THOUSAND, PIXELS = BoxFormat(scale="thousand"), BoxFormat(scale="pixels")
HAND = Flaw("the hand: six fingers", (0.25, 0.5, 0.75, 1.0))


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> Image.Image:
    return Image.new("RGB", size, colour)


def paper(answer: Answer) -> str:
    return write(answer, DIALECTS["paper"], form=THOUSAND, shown=Size(60, 80))


class Scripted:
    """A chat model with an answer for each colour: a text, a text with probabilities, or an error."""

    name, max_side, ledger = "scripted", 1000, Ledger()

    def __init__(self, script: dict[tuple[int, ...], Any]) -> None:
        self.script, self.asked = script, list[ChatRequest]()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        self.asked += requests
        return [self._answer(self.script[request.images[0].getpixel((0, 0))]) for request in requests]

    def _answer(self, answer: Any) -> Outcome:
        if isinstance(answer, Exception):
            return answer
        text, shares = answer if isinstance(answer, tuple) else (answer, None)
        return ChatReply(text=text, finish="stop", prompt_tokens=1, completion_tokens=1, probabilities=shares)


def detector_of(script: dict[tuple[int, ...], Any], **options: Any) -> FakexplainDetector:
    return FakexplainDetector(Scripted(script), grounder=BoxGrounder(), boxes=THOUSAND, **options)


FAKE = paper(Answer((HAND, Flaw("melted text", (0, 0, 0.5, 0.25))), ("anatomy", "text"), True))


def test_an_answer_becomes_regions_tags_and_a_probability() -> None:
    detector = detector_of({RED: (FAKE, (0.9, 0.1))})
    analysis = detector(picture(RED), "a prompt")
    hand, text = analysis.regions
    assert isinstance(detector, Detector)
    assert (hand.name, hand.explanation, hand.category) == ("the hand", "the hand: six fingers", Category.ANATOMY)
    assert hand.box == box_of(hand.mask) == (20, 30, 60, 60)
    assert (text.name, text.category, text.box) == ("melted text", Category.SHAPE, (0, 0, 40, 15))
    assert (analysis.tags, analysis.fake_probability) == (("anatomy", "text"), 0.9)
    assert [region.score for region in analysis.regions] == [0.9, 0.9]
    assert analysis.raw.startswith(FAKE)
    assert "Masks by box (fallback without a model): box, box" in analysis.raw
    assert analysis.detector == detector.name == "fakexplain:scripted, dialect paper, masks by " + BoxGrounder.name


def test_without_probabilities_the_verdict_is_said_and_flaws_count_in_full() -> None:
    real = paper(Answer((), (), False))
    told = "<think>\n- odd [0, 0, 500, 500]\n</think>\n<tag>none</tag>\n<verdict>real</verdict>"
    detector = detector_of({RED: FAKE, GREEN: real, BLUE: told, GREY: (told, (0.2, 0.8))})
    red, green, blue, grey = detector.batch([picture(colour) for colour in (RED, GREEN, BLUE, GREY)])
    assert [analysis.fake_probability for analysis in (red, green, blue, grey)] == [1.0, 0.0, 0.0, 0.2]
    assert (green.regions, green.tags, green.burden) == ((), (), 0)
    assert [region.score for region in (*red.regions, *blue.regions)] == [1.0, 1.0, 1.0], "no flaw is hidden"
    assert [region.score for region in grey.regions] == [0.2]
    assert isinstance(detector, Deciding)
    assert detector.decides


@pytest.mark.parametrize(
    ("think", "tags", "explanation"),
    [
        ("no flaws", "texture, light", "texture, light"),
        ("The light comes\nfrom two sides.", "none", "The light comes from two sides."),
        ("no flaws", "none", "The answer calls the image generated and describes no flaw."),
        ("word " * 2000, "none", ("word " * 2000)[:597].rstrip() + "..."),
    ],
)
def test_an_image_that_is_called_generated_never_looks_clean(think: str, tags: str, explanation: str) -> None:
    text = f"<think>\n{think}\n</think>\n<tag>{tags}</tag>\n<verdict>fake</verdict>"
    analysis = detector_of({RED: (text, (0.8, 0.2))})(picture(RED))
    (region,) = analysis.regions
    assert (region.name, region.explanation, region.score) == (WHOLE, explanation, 0.8)
    assert not region.placed
    assert analysis.burden > 0
    assert analysis.artifact_ratio == 0


@pytest.mark.parametrize(
    "bad", ["The image is real.", FAKE[:-3], "", "<think>a</think><verdict>maybe</verdict>", ModelError("no memory")]
)
def test_an_error_is_that_of_its_image_alone(bad: Any) -> None:
    detector = detector_of({RED: FAKE, GREY: bad, GREEN: paper(Answer((), (), False))})
    images = [picture(colour) for colour in (RED, GREY, GREEN)]
    red, grey, green = detector.outcomes(images)
    assert isinstance(red, Analysis)
    assert isinstance(green, Analysis)
    assert (len(red.regions), len(green.regions)) == (2, 0)
    if isinstance(bad, str):
        assert isinstance(grey, UnreadableOutputError)
        assert grey.raw == bad
    with pytest.raises(UnreadableOutputError if isinstance(bad, str) else ModelError):
        detector.batch(images)
    with pytest.raises(ConfigError, match="one prompt for each"):
        detector.outcomes(images, ["just one"])


def test_one_request_is_made_for_each_image_and_prompts_are_not_in_it() -> None:
    detector = detector_of({RED: FAKE, GREEN: paper(Answer((), (), False))})
    detector.batch([picture(RED), picture(GREEN)], ["a secret hand", "a secret field"])
    red, green = detector.backend.asked
    assert red.user == green.user
    assert "secret" not in red.user
    assert (red.choice.after, red.choice.words) == ("<verdict>", ("fake", "real"))


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("form", [THOUSAND, PIXELS, BoxFormat(scale="unit"), BoxFormat(order="yxyx")], ids=str)
def test_the_example_in_the_request_is_an_answer_that_is_read(dialect: Any, form: BoxFormat) -> None:
    backend = Scripted({RED: ModelError("not yet")})
    detector = FakexplainDetector(backend, grounder=BoxGrounder(), dialect=dialect, boxes=form)
    detector.outcomes([picture(RED, (560, 280))])
    (request,) = backend.asked
    example, clean = request.user.partition("in this form:\n")[2].split("\nIf the image is real, answer:\n")
    backend.script = {RED: example, GREEN: clean}
    flawed, real = detector.batch([picture(colour, (560, 280)) for colour in (RED, GREEN)])
    (region,) = flawed.regions
    assert all(abs(side - near) <= 8 for side, near in zip(region.box, (67, 112, 174, 174), strict=True))
    assert (flawed.fake_probability, real.fake_probability, real.regions) == (1.0, 0.0, ())
    assert request.marks == (dialect.name != "paper")


PIECES = {
    "official": [
        "<think>", "<|object_ref_start|>", "six fingers", "<|object_ref_end|>", "<|box_start|>", "[28, 56, 84, 112]",
        "<|box_end|>", "\n<tag>anatomy</tag>", "</think>", "<verdict>", "generated", "</verdict>",
    ],
    "internvl": [
        "<think><ref>", "six fingers", "</ref><box>", "[28, 56, 84, 112]", "</box>", "\n<tag>anatomy</tag></think>",
        "<verdict>", "generated", "</verdict>",
    ],
    "paper": [
        "<think>", "\n- six fingers", " [28, 56, 84, 112]", "\n</think>", "\n<tag>anatomy</tag>", "\n", "<verdict>",
        "fake", "</verdict>",
    ],
}  # fmt: skip
MARKS = [piece for piece in PIECES["official"] if piece.startswith("<|")]


def speak(folder: Path, dialect: str, kind: str = "qwen3_vl") -> Path:
    """Folder of a model that answers each image alike, with a probability of 0.88 for a generated image."""
    pieces = [piece for piece in PIECES[dialect] if piece != "\n"]
    marks = MARKS if dialect == "official" else ()
    return Path(save_speaker(folder, pieces, kind=kind, marks=marks, rivals=[("<verdict>", "real", 2.0)]))


SURE = 1 / (1 + math.exp(-2))


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_model_that_runs_here(kind: str, dialect: str, tmp_path: Path) -> None:
    """Boxes in pixels of the image as Qwen2.5-VL sees it, in thousandths for Qwen3-VL and the dialect of InternVL."""
    folder = speak(tmp_path, dialect, kind)
    detector = load_detector(f"fakexplain:{folder},dialect={dialect},grounder=box", device="cpu")
    assert isinstance(detector, FakexplainDetector)
    images = [picture(colour, size) for colour, size in ((RED, (280, 140)), (GREEN, (140, 560)), (BLUE, (250, 130)))]
    analyses = detector.batch(images)
    pixels = kind == "qwen2_5_vl" and dialect != "internvl"
    for image, analysis in zip(images, analyses, strict=True):
        assert_same(analysis, detector(image))
        assert analysis.fake_probability == pytest.approx(SURE, abs=0.01)
        assert analysis.tags == ("anatomy",)
        (region,) = analysis.regions
        assert (region.explanation, region.score) == ("six fingers", analysis.fake_probability)
        seen = [28 * max(2, round(side / 28)) if pixels else 1000 for side in image.size] * 2
        wanted = [
            round(side * full / shown)
            for side, full, shown in zip((28, 56, 84, 112), image.size * 2, seen, strict=True)
        ]
        assert region.box == tuple(wanted)
    assert detector.to("cpu") is detector
    assert isinstance(detector.backend, Loaded)
    assert (detector.backend.kind, detector.backend.folders) == (kind, (folder,))
    assert detector.backend.pixel_limits == KINDS[kind].pixels


@pytest.mark.parametrize(("most", "size"), [(None, (80, 60)), (40, (40, 30)), (5000, (80, 60))])
def test_the_model_is_shown_images_of_the_size_that_it_was_trained_on(most: int | None, size: tuple[int, int]) -> None:
    detector = detector_of({RED: FAKE}, max_side=most)
    (hand, _) = detector(picture(RED)).regions
    assert detector.backend.asked[0].images[0].size == size
    assert hand.box == (20, 30, 60, 60)


class Limited(Scripted):
    """A scripted model with the limits of an image processor of Qwen2.5-VL; it answers nothing."""

    kind, folders = "qwen2_5_vl", ()

    def __init__(self, pixel_limits: tuple[int, int]) -> None:
        super().__init__({RED: ModelError("nothing")})
        self.pixel_limits = pixel_limits


@pytest.mark.parametrize("limits", [(3136, 20_000), (100_000, 313_600), (3136, 12_845_056)])
@pytest.mark.parametrize("size", [(280, 140), (100, 500), (30, 40), (56, 56), (900, 1400)])
def test_the_model_does_not_scale_an_image_whose_boxes_are_in_pixels(
    limits: tuple[int, int], size: tuple[int, int]
) -> None:
    backend = Limited(limits)
    assert isinstance(backend, Loaded)
    FakexplainDetector(backend, grounder=BoxGrounder(), boxes=PIXELS).outcomes([picture(RED, size)])
    (shown,) = backend.asked[0].images
    pixels = {"shortest_edge": limits[0], "longest_edge": limits[1]}
    processor = Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, size=pixels)
    _, rows, columns = processor([shown], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert shown.size == (14 * columns, 14 * rows)


class Served(ScriptedServer):
    """Answers with ``text``, and with probabilities if ``listed``."""

    def __init__(self, text: str, listed: bool) -> None:
        super().__init__(lambda _: text)
        self.listed = listed

    def document(self, body: dict[str, Any], status: int, document: Any) -> tuple[int, Any]:
        if not self.listed and "logprobs" in body:
            return 400, {"error": {"message": "logprobs are not supported"}}
        if "logprobs" in body:
            top = [{"token": "fake", "logprob": math.log(0.6)}, {"token": "real", "logprob": math.log(0.2)}]
            document["choices"][0]["logprobs"] = {
                "content": [{"token": "<verdict>", "logprob": 0}, {**top[0], "top_logprobs": top}]
            }
        return status, document


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    settle_environment(monkeypatch)
    opened = list[Served]()

    def start(text: str = FAKE, listed: bool = True) -> Served:
        opened.append(Served(text, listed))
        return opened[-1]

    yield start
    for server in opened:
        server.stop()


@pytest.mark.parametrize("listed", [True, False])
def test_behind_an_endpoint_with_and_without_probabilities(serve: Any, listed: bool, tmp_path: Path) -> None:
    server = serve(listed=listed)
    name = f"fakexplain:Qwen3-VL-tuned@{server.url},grounder=box,cache={tmp_path}"
    first, second = load_detector(name).batch([picture(RED), picture(GREEN)])
    assert first.fake_probability == second.fake_probability == (0.75 if listed else 1.0)
    assert [region.box for region in first.regions] == [(20, 30, 60, 60), (0, 0, 40, 15)]
    assert {region.score for region in first.regions} == {0.75 if listed else 1.0}
    asked = len(server.bodies)
    again = load_detector(name)(picture(RED))
    assert_same(again, first)
    assert len(server.bodies) == asked, "the cache keeps probabilities too"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("dialect", ["official", "paper"])
def test_behind_a_server_that_returns_thoughts_apart(
    dialect: str, transformers_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``transformers serve`` also refuses the field for marks, and lists no probabilities."""
    settle_environment(monkeypatch)
    folder, options = speak(tmp_path, dialect), f",dialect={dialect},boxes=thousand,grounder=box"
    there = load_detector(f"fakexplain:{folder}@{transformers_server}{options}")(picture(RED))
    here = load_detector(f"fakexplain:{folder}{options}", device="cpu")(picture(RED))
    assert [region.box for region in there.regions] == [region.box for region in here.regions] == [(2, 3, 7, 7)]
    assert (there.tags, there.fake_probability) == (here.tags, 1.0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_server_may_leave_the_marks_out(serve: Any, dialect: str) -> None:
    whole = write(Answer((HAND,), ("t",), True), DIALECTS[dialect], form=THOUSAND, shown=Size(60, 80))
    bare = (
        whole.replace("<|object_ref_start|>", "")
        .replace("<|object_ref_end|><|box_start|>", "")
        .replace("<|box_end|>", "")
    )
    for text in (whole, bare):
        server = serve(text, listed=False)
        (region,) = load_detector(f"fakexplain:Qwen3-VL@{server.url},dialect={dialect},grounder=box")(
            picture(RED)
        ).regions
        assert (region.explanation, region.box) == (HAND.description, (20, 30, 60, 60))
        assert ("skip_special_tokens" in server.bodies[-1]) == (dialect != "paper")


@pytest.mark.parametrize(
    ("name", "options", "dialect", "boxes"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "", "paper", PIXELS),
        ("Qwen/Qwen3-VL-8B-Instruct", "", "paper", THOUSAND),
        ("OpenGVLab/InternVL3-8B", "", "internvl", THOUSAND),
        ("OpenGVLab/InternVL3-8B", ",dialect=paper", "paper", BoxFormat(scale="unit")),
        ("mine", ",dialect=official", "official", BoxFormat(scale="unit")),
        ("mine", ",dialect=internvl", "internvl", THOUSAND),
        ("mine", ",boxes=pixels", "paper", PIXELS),
    ],
)
def test_dialect_and_boxes_follow_from_the_model_and_the_id(
    serve: Any, name: str, options: str, dialect: str, boxes: BoxFormat
) -> None:
    detector: Any = load_detector(f"fakexplain:{name}@{serve().url}{options}")
    assert (detector.dialect.name, detector.boxes) == (dialect, boxes)
    assert "grabcut" in detector.name.lower()


def write_note(folder: Path, dialect: str, boxes: BoxFormat, **more: Any) -> None:
    note = {"dialect": dialect, "boxes": {"scale": boxes.scale, "order": boxes.order}, **more}
    (folder / NOTE).write_text(json.dumps(note))


def test_a_note_in_the_folder_says_how_the_model_answers(tmp_path: Path, serve: Any) -> None:
    folder = speak(tmp_path / "model", "official")
    assert isinstance(load_detector(folder, device="cpu"), VlmDetector), "an ordinary model"
    form = BoxFormat(scale="unit", order="yxyx")
    write_note(folder, "official", form, max_side=50)
    assert read_note(folder) == Note(DIALECTS["official"], form, 50)
    for name in (str(folder), f"fakexplain:{folder}", f"fakexplain:{folder}@{serve().url}"):
        detector: Any = load_detector(name, device="cpu")
        assert isinstance(detector, FakexplainDetector)
        assert (detector.dialect.name, detector.boxes, detector.max_side) == ("official", form, 50)
    other: Any = load_detector(f"{folder},dialect=paper,boxes=thousand", device="cpu")
    assert (other.dialect.name, other.boxes) == ("paper", BoxFormat(order="yxyx"))
    assert isinstance(load_detector(f"vlm:{folder}", device="cpu"), VlmDetector)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "[" * 100_000, "{}", '{"dialect": "paper"}', '{"dialect": "klingon", "boxes": {}}',
        '{"dialect": ["paper"], "boxes": {}}', '{"dialect": "paper", "boxes": []}', '{"dialect": "paper", "boxes": 5}',
        '{"dialect": "paper", "boxes": {"scale": "miles"}}', '{"dialect": "paper", "boxes": {"scale": ["unit"]}}',
        '{"dialect": "paper", "boxes": {"depth": 1}}', '{"dialect": "paper", "boxes": {"order": null}}', "\x00",
        '{"dialect": "paper", "boxes": {}, "max_side": 0}', '{"dialect": "paper", "boxes": {}, "max_side": true}',
        '{"dialect": "paper", "boxes": {}, "max_side": "big"}',
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / NOTE).write_text(text)
    with pytest.raises(WeightsError, match=r"fakexplain\.json") as caught:
        read_note(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_loaded_with_its_note_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter changes nothing here (its weights are zero); its note and its domain count."""
    import warnings

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base, folder = speak(tmp_path / "base", "official"), tmp_path / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft uses names that transformers has deprecated
        model = AutoModelForImageTextToText.from_pretrained(base)
        get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    write_note(folder, "official", THOUSAND)
    facts = {"name": "tuned 1", "recipe": "none", "seed": 0, "data": "none", "domain": "micro", "family": "fakexplain"}
    write_card(folder, Card(**facts))
    images = pictures()[:2]
    for name in (str(folder), f"fakexplain:{folder}", f"fakexplain:{base},adapter={folder}"):
        detector: Any = load_detector(name, device="cpu", grounder="box")
        assert (detector.dialect.name, detector.boxes, detector.domain) == ("official", THOUSAND, "micro")
        assert [len(analysis.regions) for analysis in detector.batch(images)] == [1, 1]
        with pytest.raises(OutOfDomainError):
            detector(Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)))
    assert detector_needs(str(folder)) == detector_needs(f"fakexplain:{base},adapter={folder}") == [base, folder]
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(WeightsError, match="does not match the checksum"):
        load_detector(folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fakexplain:m@http://127.0.0.1:1/v1,adapter=a", "serve the adapter there"),
        ("fakexplain:m@http://127.0.0.1:1/v1,dialect=klingon", "choose from official, internvl, paper"),
        ("fakexplain:m@http://127.0.0.1:1/v1,boxes=miles", "BoxFormat.scale"),
        ("fakexplain:m@http://127.0.0.1:1/v1,dialect=internvl,boxes=pixels", "always has boxes in thousandths"),
        ("fakexplain:m@http://127.0.0.1:1/v1,size=3", "adapter=.*grounder="),
        ("fakexplain:owner/model,cache=folder", "remove the cache"),
    ],
)
def test_bad_ids_are_refused_before_anything_is_loaded(name: str, message: str) -> None:
    for find in (load_detector, detector_needs):
        with pytest.raises(ConfigError, match=message):
            find(name)


def test_just_the_family_is_the_backbone_of_the_paper() -> None:
    assert detector_needs("fakexplain") == [Repository(name="Qwen/Qwen2.5-VL-7B-Instruct")]
    assert detector_needs("fakexplain:,grounder=box,adapter=owner/tuned") == [
        Repository(name="Qwen/Qwen2.5-VL-7B-Instruct"), Repository(name="owner/tuned"),
    ]  # fmt: skip


def test_its_verdict_gates_another_detector() -> None:
    def odd(image: Image.Image) -> list[dict[str, Any]]:
        return [{"name": "odd", "box": (0, 0, 9, 9)}]

    gate = detector_of({RED: (FAKE, (0.9, 0.1)), GREEN: (paper(Answer((), (), False)), (0.1, 0.9))})
    red, green = GatedDetector(odd, gate).batch([picture(RED), picture(GREEN)])
    assert (red.fake_probability, [region.name for region in red.regions]) == (0.9, ["odd"])
    assert (green.fake_probability, green.regions) == (0.1, ())


def test_the_command_line(serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(paper(Answer((), ("light",), True)))
    picture(RED).save(tmp_path / "red.png")
    name = f"fakexplain:Qwen3-VL@{server.url}"
    assert main(["detect", str(tmp_path / "red.png"), "--detector", name, "--grounder", "box", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (region,) = row["analysis"]["regions"]
    assert (region["name"], region["explanation"]) == (WHOLE, "light")
    server.script = lambda _: "I cannot tell."
    assert main(["detect", str(tmp_path / "red.png"), "--detector", name, "--grounder", "box", "--json"]) == 1
    assert "got the elements none" in capsys.readouterr().err
