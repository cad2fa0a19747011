"""What a training would do, of the recipes with a chat model: told without weights, as the training then does it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.tiny_chat_models import save_viewer
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from refiner.cli import main
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.images import load_image
from refiner.training.aligngemini.expert import load_trainee
from refiner.training.aligngemini.recipe import RECIPE
from refiner.training.aligngemini.settings import AlignGeminiSettings, PixelSettings, SemanticSettings
from refiner.training.chat.pupils import load_pupil
from refiner.training.chat.running import without_foreign_warnings
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.runs import Run

STAGE = {"batch": 2, "accumulate": 2, "epochs": 3.0}
PIXEL = PixelSettings(width=32, layers=2, heads=2, patch=8, side=48, rank=0, batch=3, accumulate=2)
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "fakexplain": ({"stage": "sft", "sft": STAGE}, 1),
    "anomreason": ({"format": "authenticity_reasoning", "variants": 5, "sft": STAGE}, 10),
    "aligngemini": ({"branch": "semantic", "semantic": {"method": "sft", "sft": STAGE}}, 1),
}
"""Recipe -> its settings, and how often an image is learned from in an epoch."""


class Pairs:
    """Pairs of a grey image and a lighter one of the same size."""

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.names = tuple(f"{kind}/{number}.png" for number in range(count) for kind in ("real", "fake"))

    def load(self, index: int) -> Sample:
        pixels = np.full((64, 80, 3), 60 + 20 * (index % 2), dtype=np.uint8)
        name = self.names[index]
        return Sample(name=name, image=Image.fromarray(pixels), fake=index % 2 == 1, pair=str(index // 2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_viewer(tmp_path_factory.mktemp("base"), context=1536)


def without_weights(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def counts(model: nn.Module) -> dict[str, int]:
    def total(weights: Iterable[nn.Parameter]) -> int:
        return sum(weight.numel() for weight in weights)

    weights = list(model.parameters())
    return {"all": total(weights), "trained": total(weight for weight in weights if weight.requires_grad)}


@pytest.mark.parametrize("recipe", SETTINGS)
def test_a_chat_recipe_tells_what_it_would_train(
    recipe: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, turns = SETTINGS[recipe]
    place = {"base": str(without_weights(base, tmp_path / "bare"))}
    inner = {name: {**value, **place} for name, value in settings.items() if name == "semantic"}
    written = {**settings, **(inner or place)}
    (tmp_path / "own.json").write_text(json.dumps(written))
    command = ["train", recipe, "--data", "micro:6", "--config", str(tmp_path / "own.json"), "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    used = found["settings"]
    if recipe == "aligngemini":
        found, used = found["branches"]["semantic"], used["semantic"]
    wanted = PupilSettings(base=str(base), rank=used["rank"], vision=used["vision"])
    with without_foreign_warnings():
        pupil = load_pupil(wanted, Run(folder=tmp_path))
    assert found["parameters"] == counts(pupil.model)
    assert (found["samples"], found["images_per_step"]) == (6, 4)
    assert found["steps"] == math.ceil(3 * 6 * turns / 4)
    assert found["tokens"] > 0
    *images, answers = sorted(Path(file) for file in found["files"])
    assert [load_image(image).width for image in images] == [load_image(images[0]).width] * 4
    assert all(row["answer"] for row in json.loads(answers.read_text()))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "parameters, trained" in capsys.readouterr().out


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("start", ["", "dinov2"])
def test_both_branches_are_told(rank: int, start: str, base: Path, tmp_path: Path) -> None:
    if start:
        config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=40)
        Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    pixel = replace(PIXEL, rank=rank, base=str(tmp_path / start) if start else "")
    semantic = SemanticSettings(base=str(base), dpo=StageSettings(batch=2, accumulate=1, epochs=1.0))
    trainee = load_trainee(pixel)
    for file in tmp_path.glob("dinov2/*.safetensors"):
        file.unlink()
    assert RECIPE.dry_run is not None
    settings = AlignGeminiSettings(semantic=semantic, pixel=pixel)
    found = RECIPE.dry_run(settings, Pairs(5), Run(folder=tmp_path / "run"))["branches"]
    assert found["pixel"]["parameters"] == counts(trainee)
    assert (found["semantic"]["samples"], found["semantic"]["steps"]) == (10, 5)
    assert (found["pixel"]["samples"], found["pixel"]["steps"]) == (5, 1)
    assert ("moving average" in found["pixel"]["memory_gib"]) == (rank == 0)
    answers = json.loads((tmp_path / "run" / "dry-run" / "pixel" / "answers.json").read_text())
    assert [row["answer"] for row in answers] == ["real", "reconstruction"] * 3
    assert len({row["name"] for row in answers}) == 3
