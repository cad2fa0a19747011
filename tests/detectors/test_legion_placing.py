"""Where LEGION's network is put and in which precision, by arguments and by the id."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.conformance import assert_same
from support.legion_folders import save_original

from refiner.detectors import load_detector
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.saving import convert_folder
from refiner.errors import ConfigError, MissingExtraError

PICTURE = Image.effect_mandelbrot((60, 40), (-2, -1.5, 1, 1.5), 30)
TOKENS = 10


@pytest.fixture(scope="module", params=["published", "ours"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("legion")
    original = save_original(root / "published")
    return original if request.param == "published" else convert_folder(original, root / "ours")


def short(detector: object) -> LegionDetector:
    assert isinstance(detector, LegionDetector)
    detector.model.config.max_new_tokens = TOKENS
    return detector


@pytest.mark.parametrize(
    "device_map", ["auto", "cpu", {"": "cpu"}, {"llava": "cpu", "sam": "cpu", "text_hidden_fcs": "cpu"}]
)
def test_a_device_map_changes_no_answer(folder: Path, device_map: object) -> None:
    usual = short(LegionDetector.from_pretrained(folder, device="cpu"))(PICTURE)
    placed = short(LegionDetector.from_pretrained(folder, device_map=device_map))  # type: ignore[arg-type]
    assert_same(placed(PICTURE), usual)
    assert usual.regions
    if isinstance(device_map, str):
        assert_same(short(load_detector(f"legion:{folder},device_map={device_map}"))(PICTURE), usual)
        assert_same(short(load_detector(folder, device_map=device_map))(PICTURE), usual)


@pytest.mark.parametrize(
    ("option", "words"),
    [("quantize=2bit", "quantize=8bit or quantize=4bit"), ("device_map=nowhere", "nowhere"), ("gpu=1", "gpu=")],
)
def test_what_cannot_be_placed_is_refused(folder: Path, option: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_detector(f"legion:{folder},{option}", device="cpu")


@pytest.mark.parametrize("device_map", [{"": "disk"}, {"": "cpu", "llava": "meta"}, {"": "nowhere"}])
def test_a_device_map_that_leaves_parts_elsewhere_is_refused(folder: Path, device_map: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="device_map"):
        LegionDetector.from_pretrained(folder, device_map=device_map)


def test_only_families_with_the_option_take_it() -> None:
    with pytest.raises(ConfigError, match="leave the quantize out"):
        load_detector("micro:probe", quantize="4bit")


def test_quantising_needs_bitsandbytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    with pytest.raises(MissingExtraError, match=r"\[quantized\]"):
        load_detector(folder, device="cpu", quantize="4bit")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="the extra 'quantized' is not installed")
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_only_the_layers_of_the_language_model_are_quantised(folder: Path, bits: str) -> None:
    detector = short(load_detector(f"legion:{folder},quantize={bits}", device="cpu"))
    layers = {
        name: type(module).__name__
        for name, module in detector.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    quantised = {name for name, kind in layers.items() if "bit" in kind}
    assert quantised == {name for name in layers if ".language_model.layers." in name}
    answer = detector(PICTURE)
    assert "[SEG]" in answer.raw
    assert detector.to("cpu") is detector
    with pytest.raises(ConfigError, match="load it there"):
        detector.to("meta")
    assert_same(detector.batch([PICTURE, PICTURE])[1], answer)
