"""The wheel holds what the tree holds, and works from any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("refiner", "demo", "detectors", "pipelines", "training")

pytestmark = pytest.mark.slow


def run(*command, cwd, **env):
    done = subprocess.run(
        [sys.executable, "-P", *command], cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the tree, so that nothing of an earlier build can slip in."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ROOMS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", "dist")
    run("-m", "pip", "wheel", ".", *options, cwd=copy)
    (path,) = (copy / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(target))
    run("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def in_tree():
    """Every file of the rooms as its place in the package."""
    places = set()
    for name in ROOMS:
        prefix = "refiner" if name == "refiner" else f"refiner/{name}"
        files = (path for path in (ROOT / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        places |= {f"{prefix}/{path.relative_to(ROOT / name).as_posix()}" for path in files}
    return places


def test_the_wheel_holds_what_the_tree_holds(wheel):
    assert wheel.name.startswith("diffusers_refiner-")
    assert wheel.stat().st_size < 90_000_000
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert packed == in_tree()
    assert licences


def test_the_installed_command_runs_from_any_folder(installed, tmp_path):
    place = run(
        "-c", "import refiner.detectors; print(refiner.detectors.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(place.strip()).is_relative_to(installed)
    usage = run("-m", "refiner", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "refine" in usage
    assert (installed / "bin" / "refiner").is_file()


def test_the_installed_command_refines(installed, tmp_path):
    prompt = "a red hand left of a green clock showing three o'clock on a sky background"
    command = ("-m", "refiner", "refine", prompt, "--rounds", "1", "--out", "out", "--json")
    document = json.loads(run(*command, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert document["prompt"] == prompt
    assert all((tmp_path / path).is_file() for path in document["files"].values())
