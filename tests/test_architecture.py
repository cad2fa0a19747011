"""The rooms and their import rules (see CONTRIBUTING.md), read from the source and tried in a fresh interpreter."""

import ast
import json
import operator
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {"refiner": "refiner", **{name: f"refiner.{name}" for name in ("demo", "detectors", "pipelines", "training")}}

CORE = ("errors", "taxonomy", "types", "protocols", "masks", "runs", "images", "hub")
LAYERS = [
    [f"refiner.{name}" for name in CORE],
    ["refiner.overlays", "refiner.provenance", "refiner.report", "refiner.report_html"]
    + ["refiner.evaluate", "refiner.distributed"]
    + [f"refiner.evaluate_{name}" for name in ("annotated", "columns", "data", "figures", "localization", "plots")]
    + [f"refiner.evaluate_{name}" for name in ("records", "report", "robustness", "samples", "systems", "table")]
    + ["refiner.evaluate_tasks"]
    + [f"refiner.{name}" for name in ("rank", "rank_report", "rank_table")]
    + ["refiner.micro", "refiner.data", "refiner.metrics"],
    ["refiner.detectors"],
    ["refiner.pipelines"],
    ["refiner.training", "refiner.demo"],
]
DOORS = ("refiner", "refiner.__main__", "refiner.cli") + tuple(
    f"refiner.cli_{name}"
    for name in ("demo", "evaluate", "evaluate_files", "evaluate_tables", "micro", "rank", "replay", "view")
)
"""They may look up, inside functions."""
LOOKS_UP = {("refiner.types", "refiner.report")}
"""Inside a function: ``RefinementResult.save``."""

LIGHT = [*(f"refiner.{name}" for name in CORE), "refiner", "refiner.cli", "refiner.provenance", "refiner.report"]
LIGHT += [f"refiner.micro.{name}" for name in ("world", "flaws", "oracle")]
HEAVY = {"torch", "diffusers", "transformers", "gradio", "torchvision", "open_clip", "accelerate"}


@dataclass(frozen=True)
class Import:
    target: str
    line: int
    lazy: bool
    """Inside a function, or for type checking alone."""


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in HOMES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()
NAME = operator.attrgetter("name")


def imports(path: Path) -> Iterator[Import]:
    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(name.name, child.lineno, lazy) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative import"
                yield from (Import(f"{child.module}.{name.name}", child.lineno, lazy) for name in child.names)
            else:
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, lazy or typing or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def layer(module: str) -> int | None:
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def home(target: str) -> str:
    """The module that an imported name lives in."""
    return target if target in MODULES else target.rpartition(".")[0]


def broken_rules(module: str, path: Path) -> Iterator[str]:
    for item in imports(path):
        if item.target.split(".")[0] != "refiner":
            continue
        target = home(item.target)
        where = f"{path.name}:{item.line} imports {item.target}"
        if module in DOORS:
            if target not in DOORS and (layer(target) or 0) > 1 and not item.lazy:
                yield f"{where} outside a function"
            continue
        if target in DOORS:
            if item.target != "refiner.__version__":
                yield f"{where}, a door"
            continue
        own, other = layer(module), layer(target)
        assert own is not None, f"{module} has no layer: add it to LAYERS"
        assert other is not None, f"{target} has no layer: add it to LAYERS"
        if other > own and not (item.lazy and (module, target) in LOOKS_UP):
            yield f"{where}, a higher room"
        if own == other == len(LAYERS) - 1 and room(module) != room(target):
            yield f"{where}, a sister room"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_flow_one_way(module):
    assert list(broken_rules(module, MODULES[module])) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refiner.masks", "from refiner.report import save_result"),
        ("refiner.masks", "import refiner.detectors"),
        ("refiner.micro.world", "def f():\n    from refiner.pipelines import RefinedPipeline"),
        ("refiner.detectors.registry", "from refiner.pipelines.loop import refine"),
        ("refiner.training.legion", "from refiner.demo import app"),
        ("refiner.pipelines.loop", "from refiner.cli import main"),
        ("refiner.cli", "from refiner.pipelines import RefinedPipeline"),
    ],
)
def test_the_rules_catch_what_they_should(tmp_path, module, line):
    source = tmp_path / "imagined.py"
    source.write_text(line)
    assert len(list(broken_rules(module, source))) == 1


@pytest.mark.parametrize(
    "path", sorted([*MODULES.values(), *(ROOT / "tests").rglob("*.py")]), ids=lambda path: path.name
)
def test_rooms_are_only_known_by_their_full_names(path):
    """``import detectors`` works in a checkout, and is a second copy of ``refiner.detectors``."""
    assert not {item.target.split(".")[0] for item in imports(path)} & (HOMES.keys() - {"refiner"})


@pytest.mark.parametrize("path", sorted(MODULES.values()), ids=NAME)
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{path}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("module", [name for name in LIGHT if name in MODULES])
def test_light_modules_import_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(said))
    assert not loaded & HEAVY
    if layer(module) == 0:
        assert not loaded & {"scipy", "rich", "huggingface_hub"}


def test_every_package_is_listed_for_the_wheel():
    """A package that is not listed works in a checkout and is silently left out of the wheel."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    assert listed == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")
    assert all(name in MODULES or name.rpartition(".")[0] in listed for name in MODULES)
