"""LEGION's recipe at toy size: losses with known values, batches that depend on their seed, resume, the stages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, SamImageProcessor

from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.grammar import compose, parse
from refiner.errors import UnreadableOutputError, WeightsError
from refiner.masks import box_of, location_words
from refiner.training.averaging import Ema
from refiner.training.checkpoints import load_checkpoint, save_checkpoint
from refiner.training.fit import Draw, cosine_schedule
from refiner.training.legion.data import LEEWAY, Pool, moved, normalise, vocabulary_texts
from refiner.training.legion.losses import LossWeights, Trainee
from refiner.training.legion.model import Architecture
from refiner.training.legion.recipe import LegionSettings, Setting, export, prepare, run_stage
from refiner.training.runs import Run
from refiner.training.world.labels import KIND_NAMES, PART_NAMES, decoder_like
from refiner.training.world.localization import held_out
from refiner.training.world.losses import dice_loss
from refiner.training.world.marked import draw
from refiner.training.world.scores import pixel_f1
from refiner.training.world.tokenizers import answer_tokenizer
from refiner.types import Size

TOY = Architecture(
    clip_patch=24,
    clip_width=16,
    clip_layers=1,
    text_width=16,
    text_layers=1,
    sam_patch=16,
    sam_width=16,
    sam_layers=2,
    mask_width=16,
    verdict_width=8,
)
RECIPE = LegionSettings(
    architecture=TOY,
    weights=LossWeights(flaws=1.0, parts=0.5, count=0.3, verdict=0.3),
    steps=6,
    verdict_steps=4,
    batch=3,
    warmup=2,
    first_shards=1,
    shards=2,
    shard_every=2,
    bf16=False,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


def start(shards: Path, folder: Path, recipe: LegionSettings = RECIPE) -> tuple[Setting, Trainee]:
    return prepare(recipe, Pool(shards, shard=8), Run(folder=folder))


def test_the_papers_weights_are_the_defaults() -> None:
    assert (LossWeights().ce, LossWeights().bce, LossWeights().dice) == (1.0, 0.4, 0.2)


def test_dice_is_zero_for_a_hit_and_one_for_a_miss() -> None:
    truth = torch.zeros(2, 8, 8)
    truth[:, 2:5, 3:6] = 1
    assert dice_loss(truth, truth).item() == pytest.approx(0.0, abs=1e-5)
    assert dice_loss(1 - truth, truth).item() == pytest.approx(1.0, abs=1e-3)
    assert dice_loss(torch.ones_like(truth), truth).item() == pytest.approx(1 - 18 / 73, abs=1e-3)


def test_schedule_rises_then_falls() -> None:
    factor = cosine_schedule(10, 100)
    rates = [factor(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 1.0
    assert rates[-1] < 0.03


def test_the_tokenizer_gives_answers_back() -> None:
    tokenizer = answer_tokenizer(vocabulary_texts())
    for seed in range(40):
        findings = draw(np.random.default_rng(seed), clean_share=0.1).found
        ids = tokenizer.encode(compose(findings), add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        read = parse(tokenizer.decode(ids, skip_special_tokens=False))
        assert [(f.name, f.location, f.explanation, f.reasoning, f.category) for f in read] == [
            (f.name, f.location, f.explanation, f.reasoning, f.category) for f in findings
        ]


def test_a_shard_gives_back_what_was_drawn(shards: Path) -> None:
    pool = Pool(shards, shard=8)
    pool.grow(2)
    assert len(pool) == 16
    for shard in range(2):
        rng = np.random.default_rng(pool.seed + shard)
        for place in range(8):
            wanted, got = draw(rng), pool[8 * shard + place]
            assert np.array_equal(wanted.image, got.image)
            assert np.array_equal(wanted.masks, got.masks)
            assert np.array_equal(wanted.parts, got.parts)
            assert (wanted.kinds, wanted.found) == (got.kinds, got.found)


def test_a_batch_knows_where_the_number_of_flaws_stands(shards: Path, tmp_path: Path) -> None:
    setting, _ = start(shards, tmp_path)
    batch = setting.batch(1, Draw(0))
    words = [setting.tokenizer.decode([word]).strip() for word in batch.labels[:, int(batch.place)].tolist()]
    numbers = {0: "no", 1: "one", 2: "two", 3: "three", 4: "four"}
    assert words == [numbers[int((batch.rows == row).sum())] for row in range(len(batch.ids))]


def test_part_maps_show_what_should_be_there() -> None:
    for seed in range(10):
        item = draw(np.random.default_rng(seed))
        assert item.parts.max() <= len(PART_NAMES)
        assert 0.1 < (item.parts > 0).mean() < 0.9
        assert all(0 <= kind < len(KIND_NAMES) for kind in item.kinds)


def test_training_sees_what_the_processors_make() -> None:
    image = draw(np.random.default_rng(0)).image
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    clip = CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}, **mean)
    sam = SamImageProcessor(size={"longest_edge": 96}, pad_size={"height": 96, "width": 96}, **mean)
    for processor in (clip, sam):
        made = processor([Image.fromarray(image)], return_tensors="pt")["pixel_values"]
        assert torch.allclose(made, normalise(image[None]), atol=1e-5)


def test_augmentation_is_faint_and_depends_on_its_generator_alone() -> None:
    image = draw(np.random.default_rng(1)).image
    changes = []
    for seed in range(30):
        first, second = (decoder_like(image, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first, second)
        changes.append(np.abs(first.astype(float) - image).mean())
    assert min(changes) == 0.0
    assert 0.5 < max(changes) < 20


def test_what_is_said_of_a_picture_moves_with_it() -> None:
    moves = set()
    for seed in range(40):
        item = draw(np.random.default_rng([5, seed]), clean_share=0.2)
        got = moved(item, np.random.default_rng(seed))
        down, right = next(
            (down, right)
            for down in range(-LEEWAY, LEEWAY + 1, 2)
            for right in range(-LEEWAY, LEEWAY + 1, 2)
            if np.array_equal(inner(got.image), inner(np.roll(item.image, (down, right), (0, 1))))
        )
        moves.add((down, right))
        assert np.array_equal(
            inner(got.parts, LEEWAY // 2), inner(np.roll(item.parts, (down // 2, right // 2), (0, 1)), LEEWAY // 2)
        )
        rolled = np.roll(item.masks, (down, right), (1, 2))
        assert sorted(inner(mask).tobytes() for mask in got.masks if inner(mask).any()) == sorted(
            inner(mask).tobytes() for mask in rolled if inner(mask).any()
        )
        assert len(got.masks) == len(got.kinds) == len(got.found)
        boxes = [box_of(mask) for mask in got.masks]
        assert all(box is not None for box in boxes)
        assert [finding.location for finding in got.found] == [location_words(box, Size(96, 96)) for box in boxes]
        if (down, right) == (0, 0):
            assert np.array_equal(item.image, got.image)
            assert (item.found, item.kinds) == (got.found, got.kinds)
    assert (0, 0) in moves
    assert len(moves) > 15


def inner(pixels: np.ndarray, edge: int = LEEWAY) -> np.ndarray:
    """Cut off the edges of an image or mask."""
    return pixels[edge:-edge, edge:-edge]


def test_batches_depend_on_seed_stage_and_step_alone(shards: Path, tmp_path: Path) -> None:
    setting, _ = start(shards, tmp_path)
    first = setting.batch(1, Draw(3))
    setting.batch(1, Draw(4))
    again = setting.batch(1, Draw(3))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.pixels, setting.batch(2, Draw(3)).pixels)
    assert len(first.masks) == len(first.rows) == (first.ids == setting.tokenizer.convert_tokens_to_ids("[SEG]")).sum()
    assert first.real.tolist() == [int(row not in first.rows) for row in range(3)]


def test_a_resumed_run_equals_a_straight_one(
    shards: Path, tmp_path: Path, stopping_at_a_checkpoint: Callable[[], AbstractContextManager[None]]
) -> None:
    setting, straight = start(shards, tmp_path / "straight")
    straight_ema = run_stage(setting, straight, 1)
    setting, first = start(shards, tmp_path / "broken", replace(RECIPE, save_every=3))
    with stopping_at_a_checkpoint():
        run_stage(setting, first, 1)
    setting, resumed = start(shards, tmp_path / "broken")
    resumed_ema = run_stage(setting, resumed, 1)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        assert torch.equal(straight_ema.shadow[name], resumed_ema.shadow[name]), name


def test_stage_two_moves_the_verdict_head_alone(shards: Path, tmp_path: Path) -> None:
    setting, trainee = start(shards, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainee.state_dict().items()}
    run_stage(setting, trainee, 2)
    moved = {name for name, tensor in trainee.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"model.prediction_head.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}


def test_one_batch_can_be_learnt(shards: Path, tmp_path: Path) -> None:
    setting, trainee = start(shards, tmp_path)
    batch = setting.batch(1, Draw(0))
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        losses = trainee.losses(batch, RECIPE.weights)
        assert all(torch.isfinite(loss) for loss in losses.values())
        history.append({name: loss.item() for name, loss in losses.items()})
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    for name in ("ce", "flaws", "parts"):
        assert history[-1][name] < 0.7 * history[0][name], name


def test_an_exported_folder_is_a_detector(shards: Path, tmp_path: Path) -> None:
    setting, trainee = start(shards, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainee.model.state_dict().items()}
    export(setting, trainee.model, tmp_path / "out", torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainee.model.state_dict().items())
    detector = LegionDetector.from_pretrained(tmp_path / "out", device="cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.model.state_dict().items())
    assert detector.prompt_ids().tolist() == list(setting.prompt_ids)
    detector.model.config.max_new_tokens = 4
    with pytest.raises(UnreadableOutputError):
        detector(Image.fromarray(draw(np.random.default_rng(0)).image))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stage1.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 3})
    assert load_checkpoint(path) == {"step": 3}
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WeightsError, match=r"stage1\.pt"):
        load_checkpoint(path)


def test_the_average_follows_the_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    ema = Ema(layer.state_dict(), 0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for _ in range(400):
        ema.update(layer.state_dict())
    assert torch.allclose(ema.shadow["weight"], layer.weight, atol=1e-3)


def test_held_out_pictures_are_flawed_or_clean_as_asked() -> None:
    flawed, clean = held_out(6, clean=False), held_out(6, clean=True)
    assert all(item.kinds for item in flawed)
    assert not any(item.kinds for item in clean)
    assert np.array_equal(flawed[0].image, held_out(2, clean=False)[0].image)


def test_pooled_f1() -> None:
    true = np.zeros((4, 4), dtype=np.bool_)
    true[0] = True
    claimed = true.copy()
    claimed[1] = True
    assert pixel_f1([(claimed, true)]) == pytest.approx(2 * 4 / 12)
    assert pixel_f1([(claimed, true), (claimed, ~claimed)]) == pytest.approx(2 * 4 / 28)
    assert pixel_f1([]) == 0.0
