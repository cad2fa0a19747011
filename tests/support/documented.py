"""The code of README and docs, read from Markdown and notebooks, and what runs it, with small models in place of large.

Snippets of a page share their names and their folder, as for a reader who goes from top to bottom.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refiner.cli.main import _parser, main
from refiner.data.sources import SOURCES
from refiner.micro.world import render, sample_scene
from refiner.training.recipes import load_recipe

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(DOCS.rglob("*.ipynb"))]
CODE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)

CAPITALS = re.compile(
    r"(?<![\w/])(MODEL|ID|FILE|FOLDER|NAME|PATH|TEXT|DATA|SRC|DST|RECORDS|TASK|URL|M@URL)(?![\w/])|\.\.\.|\b[A-Z]\.json"
)
"""Names that stand for the reader's own, as the pages say. Of such commands, only the options are checked."""
NOT_RUN: Mapping[str, str] = {
    "train": "takes hours; a notebook trains for a few steps",
    "demo": "serves until it is stopped",
    "verify": "serves until it is stopped",
    "micro build": "takes hours",
    "micro bench": "takes hours",
    "--engine ray": "starts processes for a minute; tests/evaluate and tests/cli do that",
    "--detector checklist:": "no small model answers its questions",
    "--detector univfd:": "needs a published file",
    "--gate npr": "needs a published file",
    "--perturb legion": "is eleven runs",
    "--controller": "the published prompts have words that the bundled models do not know",
    "evaluate hps": "needs a prompt for each image",
    "data pairs": "needs runs with better and with worse repairs",
}
"""Beginnings or parts of commands that are not run, and why. Their options are checked all the same."""


@dataclass(frozen=True)
class Snippet:
    """A block of code on a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path) -> list[Snippet]:
    """All code of a page, in order. Cells of a notebook are Python, or commands behind ``!``."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        commands = re.compile(r"^!", re.MULTILINE)
        return [
            Snippet(page, n, "notebook" if text.startswith("!") else "python", commands.sub("", text))
            for n, text in enumerate(sources)
        ]
    text = page.read_text(encoding="utf-8")
    return [Snippet(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in CODE.finditer(text)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell snippet, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


@dataclass
class Reader:
    """Someone who runs the code of a page from top to bottom, in a folder with a few images and prompts.

    Args:
        folder: where the code runs; it must be the current folder.
        names: what stands in for the names of large models.
        server: gives the address of a chat server; called only if a snippet needs one.
    """

    folder: Path
    names: Mapping[str, str]
    server: Callable[[], str]
    scope: dict[str, Any] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "pictures").mkdir()
        (self.folder / "others").mkdir()
        prompts = {}
        for n, name in enumerate(("pictures/00.png", "pictures/01.png", "others/00.png", "others/01.png")):
            scene = sample_scene(np.random.default_rng(n))
            prompts[Path(name).stem] = scene.caption
            render(scene).save(self.folder / name)
        for name in ("picture.png", "other.png", "photo.png", "sign.png"):
            Image.open(self.folder / "pictures/00.png").save(self.folder / name)
        (self.folder / "images" / "masks").mkdir(parents=True)
        rows = ["file_name,prompt"]
        for name in ("00.png", "01.png"):
            Image.open(self.folder / "pictures" / name).save(self.folder / "images" / name)
            Image.new("L", (96, 96), 255).save(self.folder / "images" / "masks" / name)
            rows.append(f"{name},a sign that says 'OPEN'")
        (self.folder / "images" / "metadata.csv").write_text("\n".join(rows))
        for name in ("photos", "runs"):
            (self.folder / name).symlink_to(self.folder / "pictures")
        (self.folder / "prompts.txt").write_text("\n".join([*prompts.values()][:2]))
        (self.folder / "prompts.json").write_text(json.dumps(prompts))
        (self.folder / "list.txt").write_text("others/00.png\n")

    def adapted(self, text: str) -> str:
        """The snippet with the names of what is at hand here."""
        for name in sorted(self.names, key=len, reverse=True):
            text = text.replace(name, self.names[name])
        if "http://gpu-box:8000/v1" in text or "https://api.openai.com/v1" in text:
            text = re.sub("http://gpu-box:8000/v1|https://api.openai.com/v1", self.server(), text)
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
        return text

    def run(self, snippet: Snippet) -> None:
        """Run a snippet; an error names its page and line."""
        if snippet.language == "python":
            exec(compile(self.adapted(snippet.text), snippet.place, "exec"), self.scope)
            return
        if snippet.language not in ("sh", "notebook"):
            return
        for words in commands(snippet.text):
            self._command(words, snippet)

    def _command(self, words: list[str], snippet: Snippet) -> None:
        program, *arguments = words
        if program in ("accelerate", "torchrun"):
            program, arguments = "refiner", arguments[arguments.index("refiner") + 1 :]
            assert arguments[0] == "train", snippet.place
        if program != "refiner":
            assert program in ("make", "pip", "vllm", "jupyter"), f"{snippet.place}: {program} is not known"
            return
        try:
            self._check(arguments)
        except SystemExit as error:
            raise AssertionError(f"{snippet.place}: refiner {shlex.join(arguments)} has a wrong argument") from error
        line = " ".join(arguments)
        held = [part for part in NOT_RUN if line.startswith(part) or f" {part}" in line]
        if (held and not (snippet.language == "notebook" and held == ["train"]) and "--list" not in line) or (
            CAPITALS.search(line)
        ):
            return
        text = self.adapted(shlex.join(arguments))
        data = "|".join(sorted(set(SOURCES) - {"micro", "micro-prompts", "prompts", "folder"}))
        few = "micro:64" if arguments[0] == "calibrate" else "micro:4"
        text = re.sub(rf"((?:--data|convert) )(?:{data}):\S+", r"\1micro:4", re.sub(r"(?<= )micro:\d{2,}", few, text))
        text = re.sub(r" --offload \w+| --dtype \w+", "", text)
        assert main(shlex.split(text)) == 0, f"{snippet.place}: {line}"
        self.ran.append(line)

    def _check(self, arguments: list[str]) -> None:
        """Check options, the names of data sets and their options, of recipes and their configs."""
        given = vars(_parser(arguments).parse_args(arguments))
        for before, word in pairwise(arguments):
            name, colon, place = word.partition(":")
            if colon and before in ("--data", "verify", "convert"):
                options = {option.partition("=")[0] for option in place.split(",")[1:]}
                assert options <= set(SOURCES[name].options), f"{word} has an unknown option"
        if arguments[0] == "train" and given["recipe"]:
            recipe = load_recipe(given["recipe"])
            for config in given["config"]:
                assert config in {"micro", *recipe.configs} or config.endswith(".json") or config == "FILE", config
