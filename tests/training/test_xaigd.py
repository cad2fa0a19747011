"""X-AIGD's trainings: losses against references, alignment through the rollout, pairs of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_xaigd import SIDE, tiny_config, tiny_model
from support.xaigd_pictures import ALIGNED, TOY, Pictures

from refiner.detectors.xaigd.heatmaps import class_map
from refiner.errors import InputError
from refiner.training.fit import Draw
from refiner.training.runs import Run
from refiner.training.xaigd.alignment import alignment_loss, patches, spectral_residual, target_of
from refiner.training.xaigd.data import Samples, XaigdBatch, collate, compressed, contents_of, lesson_of
from refiner.training.xaigd.drawn import DrawnPairs, Pair, draw_pair, moved
from refiner.training.xaigd.losses import Trainee, artifact_losses
from refiner.training.xaigd.model import start_from
from refiner.training.xaigd.settings import AlignmentSettings, XaigdSettings


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
            values.append(float(alignment_of(model, batch).detach()))
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
    assert batch.masks[0, 0].sum() == pytest.approx(
        20 * 10 * SIDE**2 / (50 * 60), rel=0.1
    )  # the box filter takes whole pixels
    assert not batch.masks[0, 1:].any()
    assert not batch.masks[1:].any()


def test_a_flaw_without_a_place_teaches_no_masks() -> None:
    sample = Pictures().load(0)
    assert sample.truth is not None
    assert lesson_of(sample).masks is not None
    unplaced = replace(sample.truth.regions[0], mask=None, box=None)
    for regions in ((unplaced,), (*sample.truth.regions, unplaced)):
        assert lesson_of(replace(sample, truth=replace(sample.truth, regions=regions))).masks is None


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
    assert names <= set(data.names) - {"002", "005"}
    assert names >= {"000", "001", "004", "006", "007"}
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
