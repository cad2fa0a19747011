"""X-AIGD's trainings: what they start from, settings, resume, several processes, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.launching import launch
from support.tiny_xaigd import BACKBONES, SIDE, save_tiny
from support.xaigd_pictures import ALIGNED, TINY, TOY, Pictures

from refiner.cli import main
from refiner.detectors.xaigd.detector import load_network, load_xaigd
from refiner.detectors.xaigd.modeling import TRANSFORMERS
from refiner.errors import ConfigError, UserError, WeightsError
from refiner.training.runs import Run
from refiner.training.settings import changed
from refiner.training.xaigd.data import lesson_of
from refiner.training.xaigd.drawn import DrawnPairs, draw_pair
from refiner.training.xaigd.dry_run import activations
from refiner.training.xaigd.losses import Trainee
from refiner.training.xaigd.model import check_base, start_from
from refiner.training.xaigd.recipe import train_drawn, train_on
from refiner.training.xaigd.settings import CONFIGS, AlignmentSettings


def save_backbone(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Write a tiny pretrained backbone as it is on the hub; returns its weights."""
    torch.manual_seed(3)
    norm = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    if kind == "timm":
        import timm

        network = timm.create_model("test_resnet", num_classes=10)
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
        about = {"input_size": [3, SIDE, SIDE], "mean": norm["image_mean"], "std": norm["image_std"]}
        (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": about}))
        return weights
    config, model = TRANSFORMERS[kind]
    network = model(config(**BACKBONES[kind]))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(norm))
    return dict(network.state_dict())


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_a_training_starts_from_the_weights_of_a_backbone(kind: str, tmp_path: Path) -> None:
    weights = save_backbone(tmp_path / "base", kind)
    alignment = AlignmentSettings() if kind == "timm" else ALIGNED
    settings = replace(TOY, base=str(tmp_path / "base"), alignment=alignment, fit="crop", most_steps=1)
    check_base(settings)
    model = start_from(settings)
    own = model.backbone.model.state_dict()
    assert own
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.items())
    assert model.config.mean == (0.1, 0.2, 0.3)
    assert model.config.image_size == SIDE
    train_on(settings, Pictures(), Run(folder=tmp_path / "run"), tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()
    analysis = load_xaigd(tmp_path / "model", device="cpu")(Pictures().load(0).image)  # type: ignore[arg-type]
    assert analysis.size == (50, 60)


def test_a_whole_clip_gives_its_image_tower(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    whole = CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(), vision_config=CLIPVisionConfig(**BACKBONES["clip_vision_model"]).to_dict()
        )
    )
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    model = start_from(replace(TOY, base=str(tmp_path)))
    theirs = {name.removeprefix("vision_model."): tensor for name, tensor in whole.state_dict().items()}
    for name, tensor in model.backbone.model.state_dict().items():
        assert torch.equal(tensor, theirs[name.removeprefix("vision_model.")]), name


def save_open_clip(folder: Path, *, quick: bool, **changes: Any) -> Any:
    """Write a tiny CLIP as open_clip does; returns its image tower."""
    import open_clip

    torch.manual_seed(5)
    vision = {"image_size": SIDE, "patch_size": 12, "layers": 2, "width": 32, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}
    whole = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=quick).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(whole.visual.positional_embedding)
    folder.mkdir()
    save_file(whole.state_dict(), folder / "open_clip_model.safetensors")
    config = {"embed_dim": 24, "vision_cfg": {**vision, **changes}, "text_cfg": text, "quick_gelu": quick}
    norm = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": norm}))
    return whole.visual


@pytest.mark.parametrize("quick", [False, True])
@torch.no_grad()
def test_the_image_tower_of_open_clip_sees_what_open_clip_sees(quick: bool, tmp_path: Path) -> None:
    tower = save_open_clip(tmp_path / "base", quick=quick)
    settings = replace(TOY, base=str(tmp_path / "base"))
    check_base(settings)
    model = start_from(settings).eval()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    tower.proj = None
    assert torch.allclose(model.backbone(pixels, None).pooled, tower(pixels), atol=1e-5)
    assert model.config.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("changes", [{"layers": [2, 2, 2, 2]}, {"timm_model_name": "vit"}, {"head_width": 12}])
def test_other_networks_of_open_clip_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    save_open_clip(tmp_path / "base", quick=False, **changes)
    with pytest.raises(WeightsError, match="CLIP"):
        start_from(replace(TOY, base=str(tmp_path / "base")))


def test_a_transfer_keeps_what_was_learnt_and_adds_a_verdict(tmp_path: Path) -> None:
    save_tiny(tmp_path / "pad", verdict=False)
    old = load_network(tmp_path / "pad").state_dict()
    for frozen in (False, True):
        settings = replace(TOY, task="aj", base=str(tmp_path / "pad"), frozen=frozen, learning_rate=0.01)
        out = tmp_path / f"model-{frozen}"
        train_on(settings, Pictures(), Run(folder=tmp_path / f"run-{frozen}"), out)
        new = load_network(out)
        assert new.verdict is not None
        assert (new.artifacts is not None) == frozen
        moved_weights = [
            name for name, tensor in new.state_dict().items() if not torch.equal(tensor, old.get(name, tensor))
        ]
        assert bool(moved_weights) != frozen


def test_a_frozen_cnn_keeps_its_running_means(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base", "timm")
    old = load_network(tmp_path / "base").backbone.state_dict()
    settings = replace(TOY, base=str(tmp_path / "base"), frozen=True, alignment=AlignmentSettings())
    train_on(settings, Pictures(), Run(folder=tmp_path / "run"), tmp_path / "model")
    new = load_network(tmp_path / "model").backbone.state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items())


def test_bases_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError, match="bert"):
        check_base(replace(TOY, base=str(tmp_path)))
    with pytest.raises(ConfigError, match="frozen"):
        check_base(replace(TOY, frozen=True))
    save_tiny(tmp_path / "base")
    with pytest.raises(ConfigError, match="image_size"):
        start_from(replace(TOY, base=str(tmp_path / "base"), image_size=96))
    save_backbone(tmp_path / "dinov2", "dinov2")
    (tmp_path / "dinov2" / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="normalised"):
        start_from(replace(TOY, base=str(tmp_path / "dinov2")))
    weights = save_backbone(tmp_path / "cnn", "timm")
    first = next(iter(weights))
    save_file({first: weights[first]}, tmp_path / "cnn" / "model.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        start_from(replace(TOY, base=str(tmp_path / "cnn"), alignment=AlignmentSettings()))


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "all"}, {"batch": 3}, {"quality": [50]}, {"quality": [90, 50]}, {"quality": [0, 50]}, {"fit": "pad"},
        {"epochs": 0.0}, {"alignment": {"kind": "all"}}, {"alignment": {"benign": 2.0}},
        {"alignment": {"weights": "x"}}, {"task": "pad"}, {"architecture": {"patch": 7}},
        {"architecture": {"width": 18}}, {"losses": {"bce": -1.0}},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        changed(TOY, changes)


def test_the_shipped_configs_are_those_of_the_papers_trainings() -> None:
    tasks = {name: make().task for name, make in CONFIGS.items()}
    assert tasks == {
        "multi": "multi", "aj": "aj", "pad": "pad", "probe": "aj", "transfer": "aj", "align": "aj", "micro": "multi",
    }  # fmt: skip
    assert CONFIGS["probe"]().frozen
    assert CONFIGS["align"]().alignment.kind == "artifact"
    assert [name for name, make in CONFIGS.items() if not make().base] == ["probe", "transfer"]
    assert CONFIGS["micro"]().base == "micro:hps"


# Runs


@pytest.mark.parametrize("kind", ["none", "artifact"])
def test_a_resumed_run_is_a_straight_one(
    kind: str, tmp_path: Path, stopping_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    settings = replace(TOY, alignment=replace(ALIGNED, kind=kind), ema=0.9)
    train_on(settings, Pictures(), Run(folder=tmp_path / "straight"), tmp_path / "one")
    with stopping_at_a_checkpoint():
        train_on(settings, Pictures(), Run(folder=tmp_path / "broken"), tmp_path / "other")
    train_on(settings, Pictures(), Run(folder=tmp_path / "broken"), tmp_path / "other")
    one, other = (load_network(tmp_path / name).state_dict() for name in ("one", "other"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    start = start_from(settings).state_dict()
    assert any(not torch.equal(tensor, start[name]) for name, tensor in one.items())


def test_drawn_pairs_train_a_detector(tmp_path: Path) -> None:
    shape = replace(TINY, image_size=96)
    settings = replace(TOY, architecture=shape, most_steps=2)
    pairs = DrawnPairs(tmp_path / "pairs", shard=2)
    train_drawn(settings, pairs, Run(folder=tmp_path / "run"), tmp_path / "model")
    detector = load_xaigd(tmp_path / "model", device="cpu")
    assert detector.config.image_size == 96
    assert detector(draw_image()).fake_probability is not None


def draw_image() -> Image.Image:
    return Image.fromarray(draw_pair(np.random.default_rng(0), ("bite",)).generated)


def test_the_command_trains_and_resumes_on_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "base": "", "architecture": {**vars(TINY)}, "image_size": 0, "fit": "whole", "short_side": 0, "most_steps": 2,
        "batch": 4, "warmup": 1,
    }  # fmt: skip
    (tmp_path / "small.json").write_text(json.dumps(document))
    command = ["train", "xaigd", "--data", "micro:6", "--config", "align", "--config", str(tmp_path / "small.json")]
    command += ["--device", "cpu", "--out", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    model = json.loads(capsys.readouterr().out)["files"]["model"]
    card = json.loads((Path(model) / "card.json").read_text())
    assert card["family"] == "xaigd"
    assert card["settings"]["alignment"]["kind"] == "artifact"
    assert main([*command, "--resume"]) == 0
    with pytest.raises(UserError):
        load_xaigd(model, heatmap="gradcam", device="cpu")


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_same_global_batch(tmp_path: Path) -> None:
    small = {
        "base": "", "architecture": {**vars(TINY)}, "image_size": 0, "fit": "whole", "short_side": 0, "most_steps": 3,
        "batch": 2, "warmup": 1, "learning_rate": 0.001,
    }  # fmt: skip
    file = tmp_path / "small.json"
    arguments = ["xaigd", "--data", "micro:8", "--config", "align", "--config", str(file)]
    file.write_text(json.dumps(small))
    launch("refiner", arguments, tmp_path / "two", {})
    file.write_text(json.dumps({**small, "accumulate": 2}))
    command = ["train", *arguments, "--device", "cpu", "--out", str(tmp_path / "one")]
    assert main(command) == 0
    one, two = (load_network(tmp_path / name / "model").state_dict() for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name


@pytest.mark.parametrize("config", ["align", "probe"])
def test_a_dry_run_describes_the_training_and_shows_its_first_batch(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    save_backbone(base, "dinov2")
    small = tmp_path / "small.json"
    small.write_text(json.dumps({"image_size": 0, "fit": "whole", "short_side": 0}))
    command = ["train", "xaigd", "--data", "micro:6", "--config", config, "--config", str(small), "--base", str(base)]
    command += ["--device", "cpu", "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained, whole = (found["parameters"][name] for name in ("trained", "all"))
    assert 0 < trained <= whole
    assert (trained < whole) == (config == "probe")
    assert (found["images_per_step"], "tokens" in found) == (16, False)
    assert found["steps"] > 0
    answers = json.loads((tmp_path / "run" / "dry-run" / "answers.json").read_text())
    assert {row["answer"].partition(";")[0] for row in answers} == {"generated", "real"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry-run"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "memory, activations" in capsys.readouterr().out


def test_activations_are_measured_for_the_losses_that_are_trained() -> None:
    sizes = {}
    plain = replace(TOY, alignment=AlignmentSettings())
    kinds = {"aj": replace(plain, task="aj"), "multi": plain, "aligned": replace(TOY, task="aj")}
    for name, settings in kinds.items():
        model = start_from(settings)
        lessons = [lesson_of(Pictures().load(index)) for index in range(4)]
        measured = [activations(Trainee(model, frozen=False), settings, lessons[:count]) for count in (2, 4)]
        assert measured[1] == pytest.approx(2 * measured[0], rel=0.2)
        sizes[name] = measured[0]
    assert sizes["aj"] < sizes["multi"]
    assert sizes["aj"] < sizes["aligned"]
