"""README and docs: their code runs, their links lead somewhere, no page is hidden, nothing is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.chat_servers import settle_environment
from support.documented import DOCS, PAGES, ROOT, Reader, snippets

torch = pytest.importorskip("torch")

from support.standing_in import names_of_models  # noqa: E402

from refiner.cli.main import _COMMANDS  # noqa: E402
from refiner.data.sources import SOURCES  # noqa: E402
from refiner.detectors.chat.options import CHAT_OPTIONS  # noqa: E402
from refiner.detectors.registry import FAMILIES  # noqa: E402
from refiner.training import RECIPES  # noqa: E402
from refiner.training.recipes import load_recipe  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(900)  # the first test that needs the server waits for it
MARKDOWN = [page for page in PAGES if page.suffix == ".md"]
WITH_CODE = [page for page in PAGES if snippets(page)]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, model: str) -> dict[str, str]:
    return names_of_models(tmp_path_factory.mktemp("models"), model)


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_code_of_every_page_runs(
    page: Path,
    names: dict[str, str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    reader = Reader(tmp_path, names, lambda: request.getfixturevalue("transformers_server"))
    for snippet in snippets(page):
        reader.run(snippet)


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_every_block_says_its_language(page: Path) -> None:
    assert {snippet.language for snippet in snippets(page)} <= {"python", "sh", "toml"}
    for snippet in snippets(page):
        if snippet.language == "toml":
            tomllib.loads(snippet.text)


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".ipynb"], ids=name_of)
def test_notebooks_are_stored_without_outputs(page: Path) -> None:
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


# Links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as mkdocs and as hosts of repositories make them; the two must agree."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        kept = re.sub(r"[^\w\s-]", "", title).strip().lower()
        hosts, site = kept.replace(" ", "-"), re.sub(r"[-\s]+", "-", kept)
        assert hosts == site, f"{name_of(page)}: the anchor of {title!r} depends on who shows the page"
        assert site not in found, f"{name_of(page)} has two headings {title!r}"
        found.add(site)
    return found


@pytest.mark.parametrize("page", MARKDOWN, ids=name_of)
def test_every_link_and_anchor_exists(page: Path) -> None:
    anchors(page)
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"
        assert DOCS not in page.parents or DOCS in target.parents, f"{name_of(page)}: {link} is not part of the site"


def pages_of(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:
            yield from pages_of(one)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = yaml.safe_load(CONFIG[CONFIG.index("\nnav:") :])["nav"]
    assert sorted(pages_of(navigation)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


# Nothing is left out


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "things"),
    [
        ("detectors.md", [f"`{name}" for name in FAMILIES if name not in ("dda", "semantic")]),
        ("detectors.md", ["dda:", "semantic"]),
        ("data.md", [f"`{name}:" for name in SOURCES]),
        ("command-line.md", [f"refiner {name}" for name in _COMMANDS]),
        ("vision-language.md", [f"{name}" for name in CHAT_OPTIONS]),
        ("training/index.md", [f"[{name}]({name}.md)" for name in RECIPES]),
        *((f"training/{name}.md", [f"`{config}`" for config in load_recipe(name).configs]) for name in RECIPES),
        (
            "start.md",
            [
                f"| `{extra}` |"
                for extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                if extra != "dev"
            ],
        ),
    ],
)
def test_everything_has_its_words(page: str, things: list[str]) -> None:
    text = text_of(page)
    assert [thing for thing in things if thing not in text] == []


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """As ``make docs`` does, with a tree of its own."""
    pytest.importorskip("mkdocstrings")
    tree = tmp_path / "tree" / "refiner"
    tree.mkdir(parents=True)
    for entry in (*(ROOT / "refiner").iterdir(), *(ROOT / n for n in ("demo", "detectors", "pipelines", "training"))):
        (tree / entry.name).symlink_to(entry)
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "REFINER_TREE": str(tree.parent), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "RefinedPipeline" in (tmp_path / "site" / "reference" / "pipeline.html").read_text(encoding="utf-8")
