"""Detectors behind endpoints: a bad answer costs its own image alone, and what was paid is counted."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import settle_environment
from support.odd_servers import Answer, OddServer, said

from refiner.answers import outcomes
from refiner.cli.main import main
from refiner.data.samples import Sample
from refiner.detectors.aligngemini.detector import AlignGeminiDetector
from refiner.detectors.gated import GatedDetector
from refiner.detectors.joint import JointDetector
from refiner.errors import ConfigError, InputError, ModelError, RefinerError, UnreadableOutputError
from refiner.evaluate.harness import answer, open_run
from refiner.evaluate.systems import Looker
from refiner.protocols import Sorting
from refiner.types import Analysis, Size

SIZE = Size(40, 60)
COUNT, BAD = 6, 3


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (SIZE.width, SIZE.height), (shade, shade, shade))


IMAGES = [picture(shade) for shade in range(COUNT)]


class Counting:
    """Counts how often it is asked about each image, and fails on one of them."""

    def __init__(self, name: str, bad: int | None = None, error: RefinerError | None = None) -> None:
        self.name, self.bad, self.error = name, bad, error or UnreadableOutputError("no list", "prose")
        self.asked = [0] * COUNT

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        found = [self._answer(image) for image in images]
        for outcome in found:
            if isinstance(outcome, RefinerError):
                raise outcome
        return [outcome for outcome in found if isinstance(outcome, Analysis)]

    def _answer(self, image: Image.Image) -> Analysis | RefinerError:
        place = np.asarray(image)[0, 0, 0]
        self.asked[place] += 1
        return self.error if place == self.bad else Analysis(size=SIZE, fake_probability=0.9, detector=self.name)


class Paid(Counting):
    """As a chat model: it fails on single images."""

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        return [self._answer(image) for image in images]


COMPOSED: dict[str, Callable[[Any, Any], Any]] = {
    "joint": lambda first, second: JointDetector([first, second]),
    "gated": lambda first, second: GatedDetector(second, first),
    "aligngemini": AlignGeminiDetector,
    "joint in joint": lambda first, second: JointDetector([JointDetector([first, second]), Counting("third")]),
}


@pytest.mark.parametrize("kind", COMPOSED)
@pytest.mark.parametrize("bad", ["first", "second"])
def test_a_bad_answer_of_a_part_asks_no_part_again(kind: str, bad: str) -> None:
    first, second = (Paid(name, BAD if name == bad else None) for name in ("first", "second"))
    detector = COMPOSED[kind](first, second)
    assert isinstance(detector, Sorting)
    found = outcomes(detector, IMAGES)
    assert [isinstance(outcome, UnreadableOutputError) for outcome in found] == [n == BAD for n in range(COUNT)]
    assert first.asked == [1] * COUNT
    assert second.asked == [int(bad == "second" or place != BAD) for place in range(COUNT)], "after an error it is free"
    with pytest.raises(UnreadableOutputError):
        detector.batch(IMAGES)
    assert detector(IMAGES[0]).fake_probability == 0.9


def test_a_detector_that_fails_as_a_whole_does_not_make_a_paid_one_be_asked_again() -> None:
    paid, whole = Paid("paid"), Counting("whole", BAD, InputError("too dark"))
    found = outcomes(JointDetector([paid, whole]), IMAGES)
    assert [isinstance(outcome, InputError) for outcome in found] == [place == BAD for place in range(COUNT)]
    assert paid.asked == [1] * COUNT


@pytest.mark.parametrize("streams", [True, False])
def test_a_judge_that_fails_on_one_image_does_not_make_a_detector_be_asked_again(streams: bool) -> None:
    class Judge:
        name = "judge"

        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
            if any(np.asarray(image)[0, 0, 0] == BAD for image in images):
                raise ModelError("no score")
            return [0.5] * len(images)

    paid = Paid("paid", bad=1)
    looker = Looker(detector=paid, judge=Judge(), batch_size=COUNT)
    samples = [Sample(name=str(place), image=image, prompt="a thing") for place, image in enumerate(IMAGES)]
    found = answer(looker, samples)
    assert [type(each).__name__ for each in found] == [
        {1: "UnreadableOutputError", BAD: "ModelError"}.get(place, "dict") for place in range(COUNT)
    ]
    assert paid.asked == [1] * COUNT


def test_an_error_that_the_user_must_fix_ends_the_run() -> None:
    paid = Paid("paid", BAD, ConfigError("no key"))
    with pytest.raises(ConfigError, match="no key"):
        Looker(detector=paid)([Sample(name="a", image=IMAGES[BAD])])


PRICES = 'currency = "EUR"\n["Qwen/Qwen3-VL"]\ninput = 1000\noutput = 2000\n'


def test_a_run_pays_once_for_each_image_and_adds_up_what_it_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settle_environment(monkeypatch)
    region = {"name": "hand", "explanation": "six fingers", "bbox_2d": [100, 100, 300, 300]}
    failing = [True]

    def reply(body: dict[str, Any]) -> Answer:
        url = body["messages"][-1]["content"][0]["image_url"]["url"]
        shade = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((0, 0))[0]  # type: ignore[index]
        if shade == BAD and failing[0]:
            return said("I would rather not say.")
        return said(json.dumps({"regions": [region], "verdicts": []}))

    server = OddServer(reply)
    (tmp_path / "pictures").mkdir()
    for place, image in enumerate(IMAGES):
        image.save(tmp_path / "pictures" / f"{place}.png")
    (tmp_path / "prices.toml").write_text(PRICES)
    command = ["evaluate", "realism", "--data", str(tmp_path / "pictures"), "--out", str(tmp_path / "run")]
    command += ["--detector", f"vlm:Qwen/Qwen3-VL@{server.url},grounder=box", "--prices", str(tmp_path / "prices.toml")]
    command += ["--endpoint-options", '{"max_side": 512, "extra_body": {"top_k": 1, "tag": "a, b"}}', "--json"]
    assert main(command) == 1
    said_first = capsys.readouterr()
    assert len(server.bodies) == 2 * COUNT - 1
    assert max(server.paid.values()) == 1
    assert all(body["top_k"] == 1 and body["tag"] == "a, b" for body in server.bodies)
    assert "costs of Qwen/Qwen3-VL: 11 calls, 77 + 33 tokens" in said_first.err
    assert "0.143 EUR" in said_first.err
    json.loads(said_first.out)
    failing[0] = False
    assert main([*command, "--resume"]) == 0
    assert len(server.bodies) == 2 * COUNT + 1, "the bad one alone is asked for again"
    ledger = open_run(tmp_path / "run").ledgers()["Qwen/Qwen3-VL"]
    assert (ledger.calls, ledger.prompt_tokens, ledger.completion_tokens) == (13, 91, 39)
    assert "13 calls" in capsys.readouterr().err
    assert all("spent" not in record for record in open_run(tmp_path / "run").records)
    server.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector", "micro", "--endpoint-options", '{"timeout": 5}'], "--endpoint-options has no effect"),
        (["--detector", "vlm:m@http://127.0.0.1:1/v1", "--endpoint-options", "{"], "Expected a JSON object"),
        (["--detector", "vlm:m@http://127.0.0.1:1/v1", "--endpoint-options", '{"speed": 5}'], "no option 'speed'"),
        (["--prices", "missing.toml"], "table of prices"),
    ],
)
def test_bad_options_are_refused_before_anything_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["detect", "no.png"], ["evaluate", "realism", "--data", "x", "--out", "y"], ["refine", "a cat"]):
        assert main([*command, *options]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1


def test_the_loop_records_what_its_models_cost_and_asks_for_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from refiner.detectors import load_detector
    from refiner.ledger import Price, Prices
    from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
    from refiner.records import to_record
    from refiner.types import Calls

    settle_environment(monkeypatch)
    region = {"name": "hand", "explanation": "six fingers", "bbox_2d": [100, 100, 300, 300]}
    server = OddServer(lambda body: said(json.dumps({"regions": [region], "verdicts": []})))

    class Painter:
        def __init__(self) -> None:
            self.pictures = iter(IMAGES)

        def generate(self, jobs: Sequence[object]) -> list[Image.Image]:
            return [next(self.pictures) for _ in jobs]

        inpaint = generate

        def spent(self) -> Calls:
            return Calls()

    painter: Any = Painter()
    detector = load_detector(f"vlm:Qwen/Qwen3-VL@{server.url},grounder=box")
    detector(picture(77))
    parts = Parts(generator=painter, inpainter=painter, detector=detector, reviser=TemplateReviser())
    result = refine(parts, "a thing", RefineConfig(strategy="regenerate", max_rounds=2)).result
    assert result.costs["Qwen/Qwen3-VL"].calls == len(server.bodies) - 2 == 6, "what came before is not of this run"
    prices = Prices(models={"Qwen/Qwen3-VL": Price(input=1000, output=0)})
    (row,) = to_record(result, None, {}, prices)["environment"]["ledger"].values()
    assert (row["calls"], row["cost"]) == (6, pytest.approx(0.042))
    server.stop()
