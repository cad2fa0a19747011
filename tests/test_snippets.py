"""What the main snippets of README and docs do: a detector of one's own, vision-language models, SDXL, FLUX.

``test_documentation.py`` runs all of them; here their results are looked at.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from PIL import Image
from support.chat_servers import KEY, settle_environment
from support.documented import DOCS, ROOT, Reader, snippets

torch = pytest.importorskip("torch")

from support.standing_in import names_of_models, teller_in  # noqa: E402

from refiner.cli.main import main  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(900)  # the first test waits for the server
SECTION = (DOCS / "vision-language.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^## (A .*?)\n.*?^```\w+\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE))
OWN = snippets(DOCS / "your-own.md")[0].text


@pytest.fixture(scope="module")
def teller(tmp_path_factory):
    """Folder of a tiny model that finds the same flaw in every picture."""
    return teller_in(tmp_path_factory.mktemp("qwen-teller"))


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


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "sdxl.md", DOCS / "flux.md"], ids=lambda page: page.name)
def test_the_first_script(page, model, tmp_path_factory, tmp_path, monkeypatch):
    """On a CPU, with a tiny pipeline and detector."""
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, names_of_models(tmp_path_factory.mktemp("models"), model), str)
    reader.run(next(snippet for snippet in snippets(page) if snippet.language == "python"))
    assert (tmp_path / "chef.png").is_file()
    result = reader.scope["out"].results[0]
    assert [region.name for region in result.attempts[0].analysis.regions] == ["the hand"]


def test_each_way_has_its_snippet():
    assert list(SNIPPETS) == ["A model here", "A model on another machine", "A hosted model"]


def test_a_model_here(adapted, capsys):
    exec(compile(adapted("A model here"), "docs", "exec"), {})
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
        exec(compile(snippet, "docs", "exec"), {})
        said = capsys.readouterr().out
        assert "the hand" in said
        assert f"calls={calls}," in said


def test_a_detector_of_ones_own(capsys):
    """Fifteen lines; what they print shows that detector and judge were asked, and that nothing failed."""
    assert len([line for line in OWN.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(compile(OWN, "docs", "exec"), names)
    first, *others = names["out"].results[0].attempts
    assert others
    assert first.analysis.detector == "overexposed"
    assert [region.name for region in first.analysis.regions] == ["an overexposed patch"]
    assert [score.name for score in first.scores][1:] == ["Contrast"]
    assert {attempt.error for attempt in (first, *others)} == {None}
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(others)
