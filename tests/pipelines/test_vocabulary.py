"""Prompts with words that the bundled models do not know are refused before anything is painted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from support.tiny_pipelines import TINY  # noqa: E402

from refiner import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.cli.main import main  # noqa: E402
from refiner.errors import InputError  # noqa: E402
from refiner.micro.world import sample_scene  # noqa: E402
from refiner.pipelines.painting.vocabulary import check_words  # noqa: E402

torch.set_num_threads(1)
KNOWN = "a red hand with five fingers on a sky background"
STRANGE = "a photo of an astronaut riding a horse, best quality"


@pytest.fixture(scope="module")
def pipe() -> RefinedPipeline:
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def painted(pipe: RefinedPipeline) -> Iterator[list[object]]:
    """Collects the calls of the denoiser."""
    calls: list[object] = []
    handle = pipe.unet.register_forward_pre_hook(lambda *inputs: calls.append(inputs))
    yield calls
    handle.remove()


def test_every_caption_is_known(pipe: RefinedPipeline) -> None:
    rng = np.random.default_rng(0)
    captions = [sample_scene(rng).caption for _ in range(300)]
    check_words([pipe.pipe], [*captions, *map(str.upper, captions), "", KNOWN.replace(" ", ", ") + "."])
    check_words([pipe.pipe], ["a clock showing three o’clock"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": STRANGE}, ["photo", "astronaut", "riding", "horse", "best", "quality"]),
        ({"prompt": [KNOWN, "two red hands"]}, ["hands"]),
        ({"prompt": KNOWN, "negative_prompt": "blurry, red"}, ["blurry"]),
        ({"prompt": KNOWN, "config": RefineConfig(negative_prompt="ugly")}, ["ugly"]),
        ({"prompt": KNOWN, "config": RefineConfig(prompts={"dog": "[PROMPT] old"})}, ["old"]),
        ({"prompt": KNOWN, "config": RefineConfig(prompts="[SKIP][SEP]a tree[SEP]a bird")}, ["bird"]),
        ({"prompt": STRANGE, "image": Image.new("RGB", (96, 96))}, ["photo", "astronaut"]),
        ({"prompt": "a red 手, 🐶 and (a cat:1.2)"}, ["手", "🐶", "and", "1", "2"]),
    ],
)
def test_unknown_words_are_named_and_nothing_is_painted(
    pipe: RefinedPipeline, painted: list[object], arguments: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(InputError, match=f"not {re.escape(', '.join(map(repr, words)))}") as caught:
        pipe(**arguments, seed=0)
    assert painted == []
    assert KNOWN.partition(" on ")[0] in str(caught.value)
    if isinstance(arguments["prompt"], str):
        with pytest.raises(InputError, match=words[0]):
            pipe.stream(**arguments)


def test_at_most_eight_words_are_named(pipe: RefinedPipeline) -> None:
    words = [f"word{number}" for number in range(11)]
    with pytest.raises(InputError, match=f"{', '.join(map(repr, words[:8]))} and 3 more: write a prompt like"):
        check_words([pipe.pipe], [" ".join(words), " ".join(words)])


def test_the_pipeline_that_inpaints_must_know_the_words_too(pipe: RefinedPipeline) -> None:
    other = TINY["sd"].build()
    check_words([other, None], [STRANGE])
    with pytest.raises(InputError, match="astronaut"):
        check_words([other, None, pipe.inpainter], [STRANGE])


def test_words_that_were_taught_to_the_text_encoder_are_known(pipe: RefinedPipeline) -> None:
    own = RefinedPipeline.from_pretrained("micro").pipe
    own.tokenizer.add_tokens(["<sks-style>"])
    check_words([own], [f"{KNOWN} <sks-style>"])
    with pytest.raises(InputError, match="'sks', 'style'"):
        check_words([pipe.pipe], [f"{KNOWN} <sks-style>"])


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # in diffusers
@pytest.mark.parametrize("name", TINY)
def test_other_pipelines_take_any_words(name: str) -> None:
    check_words([TINY[name].build()], [STRANGE, "日本 🐶"])


def test_the_command_line_says_it_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["refine", STRANGE, "--rounds", "1", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(r"^refiner: .*'astronaut'.+: write .+\.$", said.err, re.MULTILINE)
    assert "Traceback" not in said.err
    assert list((tmp_path / "out").glob("*")) == []


def test_an_evaluation_counts_such_prompts_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text(f"{KNOWN}\n{STRANGE}\n")
    data, out = f"prompts:{tmp_path / 'p.txt'}", str(tmp_path / "o")
    assert main(["evaluate", "refinement", "--data", data, "--rounds", "0", "--out", out, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["scored"] == 1
    records = [json.loads(line) for line in (tmp_path / "o/records.jsonl").read_text().splitlines()]
    assert records[0]["error"] is None
    assert records[1]["error"]["kind"] == "InputError"
    assert "astronaut" in records[1]["error"]["detail"]


@pytest.mark.parametrize(("prompt", "option"), [(STRANGE, ""), (KNOWN, ",negative_prompt=an astronaut")])
def test_a_ranking_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str, option: str
) -> None:
    (tmp_path / "p.json").write_text(json.dumps([KNOWN, prompt]))
    systems = ["a=micro,num_inference_steps=2", f"b=micro{option}"]
    arguments = ["--prompts", str(tmp_path / "p.json"), "--out", str(tmp_path / "o")]
    assert main(["rank", *systems, *arguments]) == 2
    assert "'astronaut'" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.png")) == []
