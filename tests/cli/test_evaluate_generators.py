"""``refiner evaluate detection`` on images of several generators: a row for each of them, and their means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.cli.main import main
from refiner.data.micro import MicroData
from refiner.data.samples import DataSet
from refiner.data.sources import open_data
from refiner.detectors.scripted import ScriptedDetector
from refiner.evaluate.harness import collect, describe
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.images import save_png
from refiner.types import Analysis, Size


def draw(root: Path, clean: list[str], flawed: list[str]) -> None:
    """Save images of the micro world: clean ones and flawed ones, under names without suffix."""
    data = MicroData(2 * max(len(clean), len(flawed)), painted=True)
    for start, names in enumerate((clean, flawed)):
        for at, name in enumerate(names):
            image = data.load(2 * at + start).image
            assert image is not None
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            save_png(image, root / f"{name}.png")


def test_genimage_with_a_bundled_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = ["Midjourney/val/nature/1", "ADM/imagenet_ai_0508_adm/val/nature/1", "ADM/train/nature/2"]
    flawed = ["Midjourney/val/ai/1", "Midjourney/val/ai/2", "ADM/imagenet_ai_0508_adm/val/ai/1"]
    draw(tmp_path / "genimage", clean, flawed)
    (tmp_path / "genimage/ADM/loose.png").write_bytes(b"no picture")
    (tmp_path / "genimage/Midjourney/val/ai/broken.png").write_bytes(b"\x89PNG")
    place = f"genimage:{tmp_path / 'genimage'},split=val"
    arguments = ["--detector", "micro:probe", "--out", str(tmp_path / "o"), "--json"]
    code = main(["evaluate", "detection", "--data", place, *arguments])
    said = capsys.readouterr()
    assert code == 1, "a sample without scores"
    table = json.loads(said.out)
    assert (table["samples"], table["scored"], table["problems"]) == (6, 5, {"unlabelled": 1})
    assert sum(table["errors"].values()) == 1
    assert {name: (row["scored"], row["images"]) for name, row in table["groups"].items()} == {
        "ADM": (2, 2), "Midjourney": (3, 3),
    }  # fmt: skip
    accuracies = [row["accuracy"] for row in table["groups"].values()]
    assert table["figures"]["accuracy_group_mean"] == pytest.approx(np.mean(accuracies))
    assert "Traceback" not in said.err


def measured(folder: Path, data: DataSet) -> dict[str, dict[str, float]]:
    """The rows of the groups for a detector that calls an image generated if it is red."""

    def look(image):
        share = float(np.asarray(image)[0, 0, 0] > 100)
        return Analysis(size=Size(image.height, image.width), detector="red", fake_probability=share)

    system = Looker(detector=ScriptedDetector(look))
    run = collect(data, system, describe("detection", data, {"specification": "x"}, system, {"threshold": 0.5}), folder)
    return score(run).table["groups"]


def test_generators_without_real_images_are_compared_with_the_shared_ones(tmp_path: Path) -> None:
    shades = {
        "dalle2/1": 200, "dalle2/2": 200, "glide/1": 0, "glide/2": 200, "own/0_real/1": 0, "own/1_fake/1": 0,
        "real_RAISE_1k/1": 200, "real_RAISE_1k/2": 0, "real_RAISE_1k/3": 0,
    }  # fmt: skip
    for name, red in shades.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (red, 0, 0)).save(tmp_path / f"set/{name}.png")
    groups = measured(tmp_path / "o", open_data(f"synthbuster:{tmp_path / 'set'}"))
    assert {name: (row["tp"], row["fn"], row["tn"], row["fp"]) for name, row in groups.items()} == {
        "dalle2": (2, 0, 2, 1), "glide": (1, 1, 2, 1), "own": (0, 1, 1, 0),
    }  # fmt: skip
    assert groups["dalle2"]["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert {name: row["scored"] for name, row in groups.items()} == {"dalle2": 5, "glide": 5, "own": 2}
