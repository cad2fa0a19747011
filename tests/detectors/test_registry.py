"""Loading detectors by ids: the fixed table, families of other packages, and the message for an unknown id."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from refiner.detectors import load_detector
from refiner.detectors.registry import FAMILIES, families
from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.protocols import Detector


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on the path that adds a family "oracle_of_tests" and tries to replace a built-in one."""
    (tmp_path / "plugin_for_tests.py").write_text(
        "from refiner.detectors.scripted import ScriptedDetector\n"
        "from refiner.types import Analysis, Size\n"
        "def build(folder, device, dtype):\n"
        "    answer = Analysis(size=Size(8, 8), detector=folder.name)\n"
        "    return ScriptedDetector(lambda image: answer, name='from a plug-in')\n"
    )
    info = tmp_path / "plugin_for_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-for-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[refiner.detectors]\noracle_of_tests = plugin_for_tests:build\nlegion = plugin_for_tests:build\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "oracle_of_tests"


@pytest.mark.parametrize("name", ["micro:nothing", "no-such-folder/at/all", "", " ", "what:ever", "legion:", "../..no"])
def test_an_unknown_id_names_the_known_ones(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_detector(name)
    if not name.startswith("legion:"):
        assert "legion:<folder or hub id>" in str(caught.value)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="config matches no family"):
        load_detector(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelNotFoundError, match="config matches no family"):
        load_detector(tmp_path)
    with pytest.raises(WeightsError, match="bert"):
        load_detector(f"legion:{tmp_path}")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "refiner_legion"}'])
def test_a_damaged_folder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError):
        load_detector(f"legion:{tmp_path}")


def test_other_packages_add_families_but_do_not_replace_ours(plugin: str, tmp_path: Path) -> None:
    assert families()["legion"] is FAMILIES["legion"]
    detector = load_detector(f"{plugin}:{tmp_path}")
    assert isinstance(detector, Detector)
    assert detector.name == "from a plug-in"
    assert detector(Image.new("RGB", (8, 8))).detector == tmp_path.name
    with pytest.raises(ModelNotFoundError, match=plugin):
        load_detector("nobody:knows")


def test_a_plugin_may_make_a_plain_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_plugin: Callable[[Path, str, str], str]
) -> None:
    source = "def build(folder, device, dtype):\n    return everything\n"
    source += "def everything(image):\n    return [{'name': 'all', 'box': (0, 0, *image.size)}]\n"
    name = write_plugin(tmp_path / "plain", "plain_plugin_for_tests", source)
    monkeypatch.syspath_prepend(str(tmp_path / "plain"))
    detector = load_detector(name)
    assert detector.name == "everything"
    assert detector.batch([Image.new("RGB", (8, 6))])[0].regions[0].box == (0, 0, 8, 6)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        FAMILIES["mine"] = FAMILIES["legion"]  # type: ignore[index]


def test_other_packages_may_give_a_whole_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "family_of_tests.py").write_text(
        "from refiner.detectors.family import Family\n"
        "from refiner.detectors.scripted import ScriptedDetector\n"
        "def load(model, device, dtype):\n"
        "    return ScriptedDetector([], name=f'{model.model} at {model.base_url}, {dict(model.options)}')\n"
        "FAMILY = Family(name='told', load=load, options=('depth',), endpoint=True, needs_folder=False)\n"
    )
    info = tmp_path / "family_of_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: family-of-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[refiner.detectors]\ntold = family_of_tests:FAMILY\nbroken = family_of_tests:NOTHING\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_detector("told:m@http://127.0.0.1:1/v1,depth=3").name == "m at http://127.0.0.1:1/v1, {'depth': '3'}"
    assert load_detector("told").name == " at None, {}"
    with pytest.raises(ConfigError, match="plug-in 'family_of_tests:NOTHING'"):
        load_detector(f"broken:{tmp_path}")


def test_a_family_without_an_endpoint_is_not_sent_to_one() -> None:
    with pytest.raises(ConfigError, match="runs here"):
        load_detector("parts:hand@http://127.0.0.1:1/v1")


def test_neither_the_registry_nor_a_family_imports_a_network_library() -> None:
    code = """
import sys
from collections.abc import Callable
from refiner.detectors import load_detector
from refiner.errors import ModelNotFoundError
try:
    load_detector("nobody:knows")
except ModelNotFoundError as error:
    assert "vlm:<model>@<base url>" in str(error)
    print([name for name in ("torch", "transformers", "diffusers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
