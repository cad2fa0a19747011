"""A new detector needs only a package with a ``FAMILY`` and one row in the registry."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support.conformance import Conformance, pictures

from refiner.cli.main import main
from refiner.detectors import load_detector, registry
from refiner.errors import ConfigError, ModelNotFoundError
from refiner.hub import Card, write_card
from refiner.protocols import Detector

SOURCE = """
from refiner.detectors.base import BaseDetector, identity
from refiner.claims import region_of
from refiner.detectors.family import Family
from refiner.types import Analysis, Claim, Size
from pathlib import Path
import numpy as np

class Darkest(BaseDetector):
    def _analyse(self, images, prompts):
        return [self._look(np.asarray(image.convert("L"))) for image in images]

    def _look(self, grey):
        claim, size = Claim(name="the darkest pixels", severity=0.5), Size(*grey.shape)
        return Analysis(size=size, regions=(region_of(claim, grey == grey.min(), size),), detector=self.name)

def load(model, device, dtype):
    return Darkest(name=model.options.get("name") or identity(Path(model.model), "darkest").name)

def recognise(config, folder):
    return config.get("model_type") == "darkest"

FAMILY = Family(name="darkest", load=load, recognise=recognise, options=("name",))
TWIN = Family(name="twin", load=load, recognise=recognise)
"""


@pytest.fixture(scope="module", autouse=True)
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The registry with one more row."""
    home = tmp_path_factory.mktemp("home")
    (home / "darkest_of_tests.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        patch.setattr(registry, "FAMILIES", {**registry.FAMILIES, "darkest": "darkest_of_tests:FAMILY"})
        yield registry.FAMILIES
    sys.modules.pop("darkest_of_tests", None)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as published by its authors, without a card."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_text(json.dumps({"model_type": "darkest"}))
    save_file({"weight": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose family is only in its card."""
    return carding(tmp_path_factory.mktemp("carded"), "darkest")


def carding(folder: Path, family: str) -> Path:
    save_file({"weight": np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    facts = {"name": "darkest 1", "recipe": "none", "seed": 0, "data": "none", "domain": ""}
    write_card(folder, Card(**facts, family=family))
    return folder


@pytest.fixture(scope="module")
def detector(bare: Path) -> Detector:
    return load_detector(bare)


class TestConformance(Conformance):
    pass


def test_it_is_found_by_prefix_by_card_and_by_recognition(bare: Path, carded: Path) -> None:
    assert load_detector(f"darkest:{bare}").name == load_detector(bare).name == f"darkest:{bare.name}"
    assert load_detector(f"darkest:{carded}").name == load_detector(carded).name == "darkest 1"
    for folder in (bare, carded):
        assert load_detector(folder)(pictures()[0]).regions[0].name == "the darkest pixels"


def test_its_options_stand_behind_its_ids(bare: Path) -> None:
    assert load_detector(f"darkest:{bare},name=mine").name == load_detector(f"{bare},name=mine").name == "mine"
    with pytest.raises(ConfigError, match="the options name="):
        load_detector(f"darkest:{bare},size=3")
    with pytest.raises(ConfigError, match="leave the grounder out"):
        load_detector(bare, grounder="box")


@pytest.mark.parametrize("command", [["darkest:{}"], ["{}"], ["joint:darkest:{}+micro"]])
def test_it_is_there_on_the_command_line(
    command: list[str], bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures()[0].save(tmp_path / "picture.png")
    assert main(["detect", str(tmp_path / "picture.png"), "--json", "--detector", command[0].format(bare)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["analysis"]["regions"][0]["name"] == "the darkest pixels"


def test_an_unknown_id_names_it_too() -> None:
    with pytest.raises(ModelNotFoundError, match="darkest:<folder or hub id>"):
        load_detector("nobody:knows")


def test_two_families_that_recognise_a_folder_are_told_apart_by_a_prefix(
    bare: Path, carded: Path, monkeypatch: pytest.MonkeyPatch, row: Mapping[str, str]
) -> None:
    monkeypatch.setattr(registry, "FAMILIES", {**row, "twin": "darkest_of_tests:TWIN"})
    with pytest.raises(ConfigError, match="darkest: or twin:"):
        load_detector(bare)
    assert load_detector(f"twin:{bare}")(Image.new("RGB", (8, 8))).regions
    assert load_detector(carded).name == "darkest 1"


def test_a_card_of_a_family_that_is_not_installed_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="unknown family"):
        load_detector(carding(tmp_path, "nowhere"))
