"""The layout and its import rules (see CONTRIBUTING.md), derived from the folders and tried in a fresh interpreter."""

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

ORDER = [
    {"core"},  # the files that lie in refiner/ itself
    {"data", "metrics", "micro"},
    {"evaluate", "reports", "verify"},
    {"detectors"},
    {"pipelines"},
    {"training", "demo"},
]
"""Layers of folders: each imports from its own layer and from those before it. ``training`` and ``demo`` are apart."""
LAYER = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
DOORS = {"refiner", "refiner.__main__"}
"""With ``refiner.cli`` the only ones that look up, inside functions."""
LOOKS_UP = {("refiner.types", "refiner.reports.result")}
"""Inside a function: ``RefinementResult.save``. The only circle of imports."""
HEAVY = {"torch", "diffusers", "transformers", "gradio", "torchvision", "open_clip", "accelerate"}
MOST_LINES, MOST_IN_A_FUNCTION = 450, 60


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


def room(module: str) -> str:
    """The folder of a module: the first one below ``refiner``, or ``core`` for the files of ``refiner`` itself."""
    parts = module.split(".")
    folder = ".".join(parts[:2])
    is_package = MODULES[folder].name == "__init__.py" if folder in MODULES else len(parts) > 2
    return parts[1] if len(parts) > 1 and is_package else "core"


def is_door(module: str) -> bool:
    return module in DOORS or room(module) == "cli"


def home(target: str) -> str:
    """The module that an imported name lives in."""
    return target if target in MODULES else target.rpartition(".")[0]


def broken_rules(module: str, path: Path) -> Iterator[str]:
    for item in imports(path):
        if item.target.split(".")[0] != "refiner":
            continue
        target = home(item.target)
        where = f"{path.name}:{item.line} imports {item.target}"
        if is_door(module):
            if not is_door(target) and LAYER[room(target)] > LAYER["evaluate"] and not item.lazy:
                yield f"{where} outside a function"
        elif is_door(target):
            if item.target != "refiner.__version__":
                yield f"{where}, a door"
        elif LAYER[room(target)] > LAYER[room(module)]:
            if not (item.lazy and (module, target) in LOOKS_UP):
                yield f"{where}, a higher folder"
        elif {room(module), room(target)} == ORDER[-1]:
            yield f"{where}, the folder beside it"


def test_every_folder_has_its_layer():
    assert {room(module) for module in MODULES if not is_door(module)} == set(LAYER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_flow_one_way(module):
    assert list(broken_rules(module, MODULES[module])) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("refiner.masks", "from refiner.reports.result import save_result"),
        ("refiner.masks", "import refiner.detectors"),
        ("refiner.micro.world", "def f():\n    from refiner.pipelines import RefinedPipeline"),
        ("refiner.data.samples", "from refiner.evaluate.harness import collect"),
        ("refiner.detectors.registry", "from refiner.pipelines.loop import refine"),
        ("refiner.training.legion.recipe", "from refiner.demo import app"),
        ("refiner.pipelines.loop", "from refiner.cli import main"),
        ("refiner.cli.main", "from refiner.pipelines import RefinedPipeline"),
    ],
)
def test_the_rules_catch_what_they_should(tmp_path, module, line):
    source = tmp_path / "imagined.py"
    source.write_text(line)
    assert len(list(broken_rules(module, source))) == 1


def test_no_circle_of_imports_but_the_one_that_is_named():
    edges: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, path in MODULES.items():
        for item in imports(path):
            target = home(item.target)
            if target in MODULES and target != module and (module, target) not in LOOKS_UP and not is_door(module):
                edges[module].add(target)
    assert circle(edges) == []


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges[module]):
            if found := visit(target, [*trail, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := visit(module, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c", "b"]


@pytest.mark.parametrize(
    "path", sorted([*MODULES.values(), *(ROOT / "tests").rglob("*.py")]), ids=lambda path: path.name
)
def test_packages_are_only_known_by_their_full_names(path):
    """``import detectors`` works in a checkout, and is a second copy of ``refiner.detectors``."""
    assert not {item.target.split(".")[0] for item in imports(path)} & (HOMES.keys() - {"refiner"})


@pytest.mark.parametrize("path", sorted(MODULES.values()), ids=NAME)
def test_files_and_functions_stay_readable(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= MOST_IN_A_FUNCTION, f"{path}:{node.lineno} {node.name} has {lines} lines"


def light_modules() -> list[str]:
    core = [module for module in MODULES if room(module) == "core"]
    world = [f"refiner.micro.{name}" for name in ("world", "flaws", "oracle")]
    reports = [module for module in MODULES if room(module) == "reports"]
    return sorted([*core, *world, *reports, "refiner.cli", "refiner.data.sources", "refiner.evaluate.harness"])


@pytest.mark.parametrize("module", light_modules())
def test_light_modules_import_nothing_heavy(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(said))
    assert not loaded & HEAVY
    if room(module) == "core" and not is_door(module):
        assert not loaded & {"scipy", "rich", "huggingface_hub"}


def test_every_package_is_listed_for_the_wheel():
    """A package that is not listed works in a checkout and is silently left out of the wheel."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    assert listed == sorted(name for name, path in MODULES.items() if path.name == "__init__.py")
    assert all(name in MODULES or name.rpartition(".")[0] in listed for name in MODULES)
