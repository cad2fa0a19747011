"""The generator's recipe: a resumed run equals an uninterrupted one, one token for each word, seeded batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from refiner.errors import WeightsError
from refiner.micro.world import parse_caption, sample_scene
from refiner.training.fit import Draw, FitSettings, fit
from refiner.training.generator.autoencoder import (
    AutoencoderSettings,
    autoencoder_loss,
    build_autoencoder,
    latent_scale,
)
from refiner.training.generator.recipe import (
    GeneratorSettings,
    TextToLatent,
    assemble,
    draw_noisy,
    draw_pool,
    emphasise,
    velocity_loss,
)
from refiner.training.runs import Run
from refiner.training.world.losses import detail_weight
from refiner.training.world.scenes import HARDEST, draw_batch, to_tensor
from refiner.training.world.tokenizers import TOKENS, caption_tokenizer


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rng = np.random.default_rng(5)
    return [sample_scene(rng).caption for _ in range(1500)]


@pytest.fixture(scope="module")
def tokenizer(captions):
    return caption_tokenizer(captions)


def _fit(steps_at_a_time: list[int], folder: Path) -> dict[str, torch.Tensor]:
    """Train a small network on batches that depend only on the step, without interruption or in several runs."""
    for steps in steps_at_a_time:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))

        def draw(part: Draw, last: int = steps) -> torch.Tensor:
            if part.step == last:
                raise KeyboardInterrupt
            return torch.tensor(np.random.default_rng(part.key).normal(size=(16, 4)), dtype=torch.float32)

        def loss(batch: torch.Tensor, model: nn.Module = model) -> tuple[torch.Tensor, dict]:
            return model(batch).square().mean(), {}

        settings = FitSettings(steps=9, learning_rate=0.01, warmup=2, save_every=1, report_every=3)
        try:
            fit(model, draw, loss, settings, Run(folder=folder), "toy")
        except KeyboardInterrupt:
            continue
    return model.state_dict()


def test_a_resumed_run_equals_a_straight_one(tmp_path):
    straight = _fit([100], tmp_path / "straight")
    resumed = _fit([3, 7, 100], tmp_path / "resumed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_damaged_checkpoint_is_named(tmp_path):
    _fit([100], tmp_path)
    (tmp_path / "toy.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"toy\.pt"):
        _fit([100], tmp_path)


def test_every_word_of_the_world_is_one_token(tokenizer, captions):
    for caption in captions[:300]:
        words = caption.replace("'", " ' ").split()
        assert tokenizer.convert_ids_to_tokens(tokenizer(caption, add_special_tokens=False).input_ids) == [
            f"{word}</w>" for word in words
        ]


def test_captions_fit_the_text_encoder_even_when_emphasised(tokenizer, captions):
    rng = np.random.default_rng(0)
    assert max(len(tokenizer(emphasise(caption, rng)).input_ids) for caption in captions) <= TOKENS


def test_emphasis_names_a_thing_of_the_scene(captions):
    rng = np.random.default_rng(0)
    for caption in captions[:50]:
        extra = emphasise(caption, rng).removeprefix(caption)
        assert parse_caption(extra).things[0].phrase in caption


def test_batches_depend_on_their_seed_alone():
    first, captions = draw_batch(np.random.default_rng(3), 4)
    again, same = draw_batch(np.random.default_rng(3), 4)
    assert np.array_equal(first, again)
    assert captions == same
    assert not np.array_equal(first, draw_batch(np.random.default_rng(4), 4)[0])


def test_practice_shows_what_is_learnt_last():
    _, captions = draw_batch(np.random.default_rng(6), 40, practice=1.0)
    kinds = [{thing.kind for thing in parse_caption(caption).things} for caption in captions]
    assert all(shown & set(HARDEST) for shown in kinds)
    assert any(len(shown) == 1 for shown in kinds)
    assert any(len(shown) == 4 for shown in kinds)


def test_detail_weighs_more_and_one_on_the_average():
    latents = torch.zeros(2, 4, 24, 24)
    latents[:, :, 4:8, 4:8] = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    weight = detail_weight(latents)
    assert weight.shape == (2, 1, 24, 24)
    torch.testing.assert_close(weight.mean(dim=(1, 2, 3)), torch.ones(2))
    assert weight[:, :, 4:8, 4:8].min() > 2 * weight[:, :, 12:, 12:].max()


def test_the_autoencoder_learns_and_its_latents_get_unit_variance():
    torch.manual_seed(0)
    model, recipe = build_autoencoder(), AutoencoderSettings()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    pixels = to_tensor(draw_batch(np.random.default_rng(0), 4)[0])
    losses = []
    for _ in range(12):
        loss, _ = autoencoder_loss(model, pixels, recipe)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    scale = latent_scale(model, pixels)
    with torch.no_grad():
        assert float((model.encode(pixels).latent_dist.mean * scale).std()) == pytest.approx(1, abs=1e-3)


def test_the_assembled_pipeline_paints(tokenizer):
    torch.manual_seed(0)
    autoencoder, model = build_autoencoder(), TextToLatent(tokenizer)
    autoencoder.register_to_config(scaling_factor=1.0)
    pool = draw_pool(autoencoder, tokenizer, 8, seed=1)
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    batch = draw_noisy(pool, empty, GeneratorSettings(batch=4), Draw(0))
    velocity_loss(model, batch).backward()
    assert all(parameter.grad is not None for parameter in model.unet.parameters())
    assert model.text_encoder.get_input_embeddings().weight.grad.abs().sum() > 0
    pipeline = assemble(model.eval(), autoencoder, tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red hand with five fingers on a sky background", num_inference_steps=2).images[0]
    assert image.size == (96, 96)
