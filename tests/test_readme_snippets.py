"""The README's code is run: on a detector of one's own as it is, on vision-language models with names at hand here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.chat_servers import KEY, settle_environment

torch = pytest.importorskip("torch")

from support.tiny_chat_models import save_teller  # noqa: E402

from refiner.cli.main import main  # noqa: E402
from refiner.detectors.reading.boxes import BoxFormat  # noqa: E402
from refiner.detectors.vlm.questions import finding  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(900)  # the first test waits for the server
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("### Any vision-language model")[2].partition("\n### ")[0].partition("\n## ")[0]
SNIPPETS = dict(re.findall(r"^\*\*(.*?)\*\*.*?^```\w+\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE))
OWN = README.partition("### Write your own detector")[2].partition("```python\n")[2].partition("```")[0]
FLAW = {"name": "the hand", "category": "anatomy", "explanation": "six fingers", "bbox_2d": [9, 9, 500, 600]}


@pytest.fixture(scope="module")
def teller(tmp_path_factory):
    """Folder of a tiny model that finds the same flaw in every picture."""
    question = finding(Image.new("RGB", (64, 64), "red"), "", BoxFormat(scale="thousand"), thorough=True)
    return str(
        save_teller(
            tmp_path_factory.mktemp("qwen-teller"), [json.dumps({"regions": [FLAW], "verdicts": []})], [question]
        )
    )


@pytest.fixture
def adapted(transformers_server, teller, model, tmp_path, monkeypatch):
    """A snippet with the names of what is at hand here, in a folder with a picture."""
    settle_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("picture.png")
    names = {
        "Qwen/Qwen3-VL-8B-Instruct": teller, "gpt-5": teller, "stabilityai/stable-diffusion-xl-base-1.0": model,
        "http://gpu-box:8000/v1": transformers_server, "https://api.openai.com/v1": transformers_server,
        "sam:sam_vit_h_4b8939.pth": "box", "sam:facebook/sam2.1-hiera-large": "box",
    }  # fmt: skip

    def adapt(title):
        text = SNIPPETS[title]
        used = [name for name in names if name in text]
        assert used, "nothing of it is known here"
        for name in used:
            text = text.replace(name, names[name])
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
        return text

    return adapt


HEAD = README.partition("\n## ")[0]
PIPELINES = dict(re.findall(r"^\*\*([\w.]+)\*\*, .*?^```python\n(.*?)^```", HEAD, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", ["SDXL", "FLUX.1"])
def test_the_first_screen(name, teller, model, tmp_path, monkeypatch):
    """On a CPU, with a tiny pipeline and detector."""
    monkeypatch.chdir(tmp_path)
    text = PIPELINES[name]
    changes = {
        "stabilityai/stable-diffusion-xl-base-1.0": model, "black-forest-labs/FLUX.1-dev": model,
        "vlm:Qwen/Qwen3-VL-8B-Instruct,grounder=sam:facebook/sam2.1-hiera-large": f"vlm:{teller},grounder=box",
        ', variant="fp16"': "", '"cuda"': '"cpu"', "torch.float16": "torch.float32", "torch.bfloat16": "torch.float32",
    }  # fmt: skip
    for old, new in changes.items():
        text = text.replace(old, new)
    assert "/" not in text.replace(model, "").replace(teller, ""), "another model"
    scope = {}
    exec(compile(text, "README.md", "exec"), scope)
    assert (tmp_path / "chef.png").is_file()
    assert [region.name for region in scope["out"].results[0].attempts[0].analysis.regions] == ["the hand"]


def test_each_way_has_its_snippet():
    assert list(SNIPPETS) == ["A model here", "A model on another machine", "A hosted model"]


def test_a_model_here(adapted, capsys):
    exec(compile(adapted("A model here"), "README.md", "exec"), {})
    assert "the hand: six fingers (anatomy, 0.6)" in capsys.readouterr().out


def test_a_model_on_another_machine(adapted, capsys):
    """All but the line that starts the server, which runs already."""
    lines = [line for line in adapted("A model on another machine").replace("\\\n", " ").splitlines() if line.strip()]
    start, *commands = lines
    assert start.startswith("vllm serve ")
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "refiner"
        assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "the hand" in said
    assert "attempt 1: Prompt by the template" in said or "start: 1 flaw" in said
    assert KEY not in said


def test_a_hosted_model(adapted, capsys):
    """The second look at the same picture costs nothing."""
    snippet = adapted("A hosted model")
    for calls in (2, 0):
        exec(compile(snippet, "README.md", "exec"), {})
        said = capsys.readouterr().out
        assert "the hand" in said
        assert f"calls={calls}," in said


def test_a_detector_of_ones_own(capsys):
    """Fifteen lines; what they print shows that detector and judge were asked, and that nothing failed."""
    assert len([line for line in OWN.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(compile(OWN, "README.md", "exec"), names)
    first, *others = names["out"].results[0].attempts
    assert others
    assert first.analysis.detector == "overexposed"
    assert [region.name for region in first.analysis.regions] == ["an overexposed patch"]
    assert [score.name for score in first.scores][1:] == ["Contrast"]
    assert {attempt.error for attempt in (first, *others)} == {None}
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(others)
