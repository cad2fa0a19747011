"""X-AIGD's trainings: losses against references, alignment through the rollout, pairs, starts, resume."""

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
from support.tiny_xaigd import BACKBONES, SIDE, save_tiny, tiny_config, tiny_model

from refiner.cli import main
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors.xaigd.config import CATEGORIES
from refiner.detectors.xaigd.detector import load_network, load_xaigd
from refiner.detectors.xaigd.heatmaps import class_map
from refiner.detectors.xaigd.modeling import TRANSFORMERS
from refiner.errors import ConfigError, InputError, UserError, WeightsError
from refiner.taxonomy import FROM_XAIGD
from refiner.training.fit import Draw
from refiner.training.runs import Run
from refiner.training.settings import changed
from refiner.training.xaigd.alignment import alignment_loss, patches, spectral_residual, target_of
from refiner.training.xaigd.data import Samples, XaigdBatch, collate, compressed, contents_of, lesson_of
from refiner.training.xaigd.drawn import DrawnPairs, Pair, draw_pair, moved
from refiner.training.xaigd.losses import Trainee, artifact_losses
from refiner.training.xaigd.model import check_base, start_from
from refiner.training.xaigd.recipe import train_drawn, train_on
from refiner.training.xaigd.settings import CONFIGS, AlignmentSettings, Architecture, XaigdSettings
from refiner.types import Analysis, Region, Size

TINY = Architecture(image_size=48, patch=12, width=16, layers=3, heads=2, decoder_width=8, zoom=2)
ALIGNED = AlignmentSettings(kind="artifact", benign=0.4, layers=2)
TOY = XaigdSettings(
    architecture=TINY, alignment=ALIGNED, most_steps=4, batch=4, learning_rate=1e-3, warmup=1, report_every=1,
    save_every=2,
)  # fmt: skip


class Pictures:
    """Generated images, each with one region of a category, and real ones, in pairs."""

    def __init__(self, count: int = 5, *, real: bool = True, paired: bool = True, broken: tuple[int, ...] = ()) -> None:
        self.problems: list[Problem] = []
        self.real, self.paired, self.broken = real, paired, broken
        self.names = tuple(f"{row:03d}" for row in range(count * (2 if real else 1)))

    def load(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"The image {index} is damaged: download it again.")
        number, fake = (index // 2, index % 2 == 0) if self.real else (index, True)
        rng = np.random.default_rng(number)
        values = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
        mask = np.zeros((50, 60), dtype=np.bool_)
        mask[10 : 20 + number, 30:50] = True
        if fake:
            values[mask] = 255 - values[mask]
        region = Region(
            mask=mask, box=(30, 10, 50, 20 + number), name="spot", category=FROM_XAIGD[CATEGORIES[number % 7]]
        )
        truth = Analysis(size=Size(50, 60), regions=(region,), detector="truth")
        return Sample(
            name=self.names[index],
            image=Image.fromarray(values),
            fake=fake,
            truth=truth if fake else None,
            pair=f"uid{number}" if self.paired else "",
        )


def samples_of(data: Pictures, settings: XaigdSettings, folder: Path, **options: Any) -> Samples:
    told: list[str] = options.pop("told", [])
    model = start_from(settings)
    contents = contents_of(data, Run(folder=folder))
    values = {"side": model.side, "parts": 1, "stride": 1, "tell": told.append, **options}
    return Samples(data, contents, settings, model.config, **values)


def batch_of(folder: Path, settings: XaigdSettings = TOY) -> XaigdBatch:
    samples = samples_of(Pictures(), settings, folder)
    try:
        return samples.batch(Draw(0))
    finally:
        samples.close()


# Losses


@pytest.mark.parametrize("weights", ["hard", "soft"])
@pytest.mark.parametrize("benign", [0.0, 0.4, 1.0])
def test_the_alignment_loss_is_the_papers_patch_by_patch(weights: str, benign: float) -> None:
    rng = np.random.default_rng(1)
    maps, targets = rng.random((4, 3, 3)), rng.random((4, 3, 3)) * (rng.random((4, 3, 3)) > 0.5)
    known = np.array([True, False, True, True])
    total = 0.0
    for image in np.flatnonzero(known):
        for a, t in zip(maps[image].flat, targets[image].flat, strict=True):
            weight = (1.0 if t > 0 else benign) if weights == "hard" else t + benign * (1 - t)
            total += weight * (a - t) ** 2 / 9
    found = alignment_loss(
        torch.from_numpy(maps), torch.from_numpy(targets), torch.from_numpy(known), benign=benign, weights=weights
    )
    assert float(found) == pytest.approx(total / 3)
    nothing = torch.zeros(4, dtype=torch.bool)
    assert (
        float(alignment_loss(found.new_ones(4, 3, 3), found.new_zeros(4, 3, 3), nothing, benign=1, weights="hard")) == 0
    )


def alignment_of(model: Any, batch: XaigdBatch) -> torch.Tensor:
    maps = class_map(model.config, model(batch.pixels.double(), 2), "rollout", differentiable=True)
    return alignment_loss(maps, batch.targets.double(), batch.known, benign=0.4, weights="soft")


@pytest.mark.parametrize("kind", ["clip_vision_model", "dinov2", "dinov3_vit", "siglip_vision_model"])
def test_the_gradient_of_the_alignment_is_that_of_finite_differences(kind: str, tmp_path: Path) -> None:
    model, batch = tiny_model(kind).double(), batch_of(tmp_path)
    weights = [weight for name, weight in model.named_parameters() if "artifacts" not in name]
    gradients = torch.autograd.grad(alignment_of(model, batch), weights, materialize_grads=True, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
        slope = sum(float((way * gradient).sum()) for way, gradient in zip(ways, gradients, strict=True))
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                for weight, way in zip(weights, ways, strict=True):
                    weight += step * way
            values.append(float(alignment_of(model, batch)))
            with torch.no_grad():
                for weight, way in zip(weights, ways, strict=True):
                    weight -= step * way
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_losses_of_the_masks_are_those_of_a_plain_program() -> None:
    rng = np.random.default_rng(2)
    logits, masks = rng.normal(size=(3, 7, 4, 4)), (rng.random((3, 7, 8, 8)) > 0.7).astype(np.float64)
    masks[:, 5] = 0
    known = np.array([True, False, True])
    pooled = masks.reshape(3, 7, 4, 2, 4, 2).mean((3, 5))
    probability = 1 / (1 + np.exp(-logits))
    entropy = -(pooled * np.log(probability) + (1 - pooled) * np.log(1 - probability))
    wanted = np.mean([entropy[image].mean((1, 2)).sum() for image in (0, 2)])
    rows = [0, 2]
    dice = [
        1 - 2 * (probability[rows, c] * pooled[rows, c]).sum() / (probability[rows, c] + pooled[rows, c]).sum()
        for c in range(7)
        if pooled[rows, c].any()
    ]
    found = artifact_losses(torch.from_numpy(logits), torch.from_numpy(masks), torch.from_numpy(known))
    assert float(found[0]) == pytest.approx(wanted)
    assert float(found[1]) == pytest.approx(np.mean(dice))
    assert len(dice) == 6


@pytest.mark.parametrize(
    ("task", "kind", "names"),
    [
        ("aj", "none", {"verdict"}),
        ("pad", "none", {"bce", "dice"}),
        ("multi", "none", {"verdict", "bce", "dice"}),
        ("aj", "saliency", {"verdict", "alignment"}),
        ("multi", "benign", {"verdict", "bce", "dice", "alignment"}),
    ],
)
def test_each_task_has_its_losses_and_all_its_weights_learn(
    task: str, kind: str, names: set[str], tmp_path: Path
) -> None:
    settings = replace(TOY, task=task, alignment=replace(ALIGNED, kind=kind))
    model = start_from(settings)
    assert (model.verdict is None, model.artifacts is None) == (task == "pad", task == "aj")
    losses = Trainee(model, frozen=False).losses(batch_of(tmp_path, settings), settings)
    assert losses.keys() == names
    torch.stack(list(losses.values())).sum().backward()
    unmoved = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert unmoved <= {"backbone.model.embeddings.mask_token"}
    without = replace(settings, alignment=replace(settings.alignment, beta=0.0))
    assert "alignment" not in Trainee(model, frozen=False).losses(batch_of(tmp_path, settings), without)


def test_one_batch_can_be_learnt(tmp_path: Path) -> None:
    settings = replace(TOY, learning_rate=3e-3)
    trainee, batch = Trainee(start_from(settings), frozen=False), batch_of(tmp_path, settings)
    optimiser, history = torch.optim.AdamW(trainee.parameters(), lr=3e-3), []
    for _ in range(120):
        losses = trainee.losses(batch, settings)
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    for name, share in (("verdict", 0.3), ("bce", 0.5), ("alignment", 0.7)):
        assert history[-1][name] < share * history[0][name], name


# What heat maps are pulled to


def test_targets_are_the_artifacts_or_a_control() -> None:
    rng = np.random.default_rng(0)
    artifacts = np.zeros((48, 48), dtype=np.float32)
    artifacts[:12, :18] = 1
    image = rng.normal(size=(3, 48, 48)).astype(np.float32)

    def target(kind: str) -> np.ndarray:
        return target_of(kind, artifacts, image, 4, np.random.default_rng(1))

    wanted = np.zeros((4, 4))
    wanted[0, :2] = 1, 0.5
    assert np.array_equal(target("artifact"), wanted)
    assert np.array_equal(target("benign"), 1 - wanted)
    moved_away = target("random")
    assert not np.array_equal(moved_away, wanted)
    assert sorted(moved_away.flat) == sorted(wanted.flat)
    assert np.array_equal(target("saliency"), patches(spectral_residual(image.mean(axis=0)), 4))


def test_saliency_is_highest_at_what_stands_out() -> None:
    y, x = np.indices((96, 96))
    grey = np.sin(x / 3).astype(np.float32)
    grey[60:72, 20:32] = np.sin(y / 3)[60:72, 20:32]
    saliency = spectral_residual(grey)
    row, column = np.unravel_index(saliency.argmax(), saliency.shape)
    assert 54 < row < 78
    assert 14 < column < 38
    assert saliency.min() >= 0
    assert saliency.max() == pytest.approx(1, abs=0.05)
    assert not spectral_residual(np.zeros((96, 96), np.float32)).any()


def test_real_images_have_no_target_and_unknown_ones_no_loss() -> None:
    config, data = tiny_config(), Pictures()
    lessons = [lesson_of(data.load(0)), lesson_of(data.load(1)), lesson_of(replace(data.load(2), truth=None))]
    for kind in ("artifact", "benign", "saliency", "random"):
        batch = collate(lessons, config, 4, kind, np.random.default_rng(0))
        assert batch.targets[0].any()
        assert not batch.targets[1].any()
        assert batch.known.tolist() == [True, True, False]
        assert batch.fake.tolist() == [1, 0, 1]
    assert batch.masks[0, 0].sum() == pytest.approx(20 * 10 * SIDE**2 / (50 * 60), rel=0.01)
    assert not batch.masks[0, 1:].any()
    assert not batch.masks[1:].any()


# Pairs


def test_pairs_stand_together_with_the_same_compression(tmp_path: Path) -> None:
    data, settings = Pictures(7), replace(TOY, batch=6, quality=(20, 60))
    samples = samples_of(data, settings, tmp_path)
    for step in range(5):
        lessons = samples.lessons(Draw(step))
        assert [lesson.fake for lesson in lessons] == [True, False] * 3
        for generated, real in zip(lessons[::2], lessons[1::2], strict=True):
            first, second = (data.names.index(lesson.name) for lesson in (generated, real))
            assert first // 2 == second // 2
            images = [data.load(row).image for row in (first, second)]
            fitting = [
                quality
                for quality in range(20, 61)
                if all(
                    np.array_equal(compressed(image, quality), lesson.image)
                    for image, lesson in zip(images, (generated, real), strict=True)
                    if image is not None
                )
            ]
            assert fitting
    samples.close()


def test_an_epoch_has_every_generated_image_once(tmp_path: Path) -> None:
    for data in (Pictures(6), Pictures(6, paired=False)):
        samples = samples_of(data, replace(TOY, batch=4), tmp_path / str(data.paired))
        epochs = [
            [lesson.name for step in range(3 * epoch, 3 * epoch + 3) for lesson in samples.lessons(Draw(step))]
            for epoch in range(3)
        ]
        for names in epochs:
            assert sorted(names) == list(data.names)
        assert len({tuple(names) for names in epochs}) == 3
        samples.close()


def test_batches_depend_on_the_draw_alone(tmp_path: Path) -> None:
    samples = samples_of(Pictures(), replace(TOY, alignment=replace(ALIGNED, kind="random")), tmp_path)
    first = samples.batch(Draw(3))
    samples.batch(Draw(9))
    again = samples.batch(Draw(3))
    samples.close()
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_damaged_samples_are_told_and_others_are_used(tmp_path: Path) -> None:
    told: list[str] = []
    whole = Pictures(4)
    data = Pictures(4, broken=(2, 5))
    contents_of(whole, Run(folder=tmp_path))  # they are damaged after they were looked at
    samples = samples_of(data, replace(TOY, batch=8), tmp_path, told=told)
    names = {lesson.name for step in range(4) for lesson in samples.lessons(Draw(step))}
    samples.close()
    assert names == set(data.names) - {"002", "005"}
    assert len(told) == len(samples.unusable) == 2


def test_data_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    marks = samples_of(Pictures(real=False), replace(TOY, task="pad", alignment=AlignmentSettings()), tmp_path / "a")
    assert all(lesson.fake for lesson in marks.lessons(Draw(0)))
    marks.close()
    with pytest.raises(InputError, match="no usable real images"):
        samples_of(Pictures(real=False), TOY, tmp_path / "b")
    with pytest.raises(InputError, match="no usable generated"):
        samples_of(Pictures(2, broken=(0, 1, 2, 3)), TOY, tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "samples.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="delete the file"):
        contents_of(Pictures(), Run(folder=tmp_path / "d"))


def test_drawn_pairs_differ_only_at_the_flaws(tmp_path: Path) -> None:
    for seed in range(6):
        pair = draw_pair(np.random.default_rng(seed), ("wrong_colour", "third_eye", "texture_patch"))
        changed_pixels = np.abs(pair.generated.astype(int) - pair.real).max(axis=2) > 26
        assert pair.bits.any()
        assert not (changed_pixels & (pair.bits == 0)).any()
    drawn = DrawnPairs(tmp_path, shard=3, without=("blur_patch",))
    assert "blur_patch" not in drawn.kinds
    drawn.grow(2)
    again = DrawnPairs(tmp_path, shard=3, without=("blur_patch",))
    again.grow(2)
    for one, other in zip(drawn.lessons(Draw(1), 4), again.lessons(Draw(1), 4), strict=True):
        assert one.fake == other.fake
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.masks, other.masks)


def test_a_pair_is_moved_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    pair = moved(Pair(values, values, values[..., 0]), rng)
    assert np.array_equal(pair.generated, pair.real)
    assert np.array_equal(pair.generated[..., 0], pair.bits)
    assert not np.array_equal(pair.generated, values)


# Starts


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
    save_file({"conv1.weight": weights["conv1.weight"]}, tmp_path / "cnn" / "model.safetensors")
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
    assert [name for name, make in CONFIGS.items() if not make().base] == ["probe", "transfer", "micro"]


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
