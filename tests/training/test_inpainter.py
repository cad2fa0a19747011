"""The inpainter's recipe: holes like those of the loop, a UNet that starts as the generator's, runs that resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from refiner.hub import MICRO_WEIGHTS
from refiner.micro.world import SIZE, parse_caption
from refiner.pipelines.refined import RefinedPipeline
from refiner.training.fit import Draw
from refiner.training.inpainter.recipe import (
    HolePool,
    InpainterSettings,
    NoisyHoles,
    draw_hole,
    draw_noisy,
    draw_pool,
    loss_of,
    train,
    velocity_loss,
    widened,
)
from refiner.training.runs import Run

SMALL = InpainterSettings(steps=4, batch=4, pool=50)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator", dtype=torch.float32)


def test_holes_are_whole_cells_of_a_picture_that_the_caption_tells_of() -> None:
    holes = [draw_hole(np.random.default_rng([5, number]), practice=0.3) for number in range(40)]
    for hole in holes:
        assert hole.image.size == (SIZE, SIZE)
        cells = hole.mask.reshape(SIZE // 4, 4, SIZE // 4, 4)
        assert np.array_equal(cells.any(axis=(1, 3)), cells.all(axis=(1, 3)))
        assert 0 < hole.mask.mean() < 0.95
        assert parse_caption(hole.caption).things
    assert {len(parse_caption(hole.caption).things) for hole in holes} >= {1, 2, 3, 4}


def test_the_same_generator_draws_the_same_hole() -> None:
    first, second = (draw_hole(np.random.default_rng(8)) for _ in range(2))
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert np.array_equal(first.mask, second.mask)


@torch.inference_mode()
def test_a_widened_unet_says_at_first_what_the_narrow_one_says(pipe: StableDiffusionPipeline) -> None:
    noisy, more = torch.randn(2, 4, 24, 24), torch.randn(2, 5, 24, 24)
    states, times = torch.randn(2, 64, 128), torch.tensor([10, 700])
    wide = widened(pipe.unet)(torch.cat([noisy, more], dim=1), times, states).sample
    torch.testing.assert_close(wide, pipe.unet(noisy, times, states).sample, atol=1e-5, rtol=1e-5)


def test_the_pool_shows_no_pixel_of_a_hole(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    pool = draw_pool(pipe, SMALL, tmp_path / "holes.safetensors")
    again = draw_pool(pipe, SMALL, tmp_path / "holes.safetensors")
    assert all(torch.equal(*pair) for pair in zip(pool, again, strict=True))
    holes = pool.masks.expand_as(pool.latents)
    difference = (pool.latents.float() - pool.around.float()).abs()
    assert difference[holes].mean() > 10 * difference[~holes].mean()


@torch.inference_mode()
def test_the_loss_outside_of_the_hole_counts_by_its_weight(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    """If the hole is the whole image, the weight has no effect. Else the loss is between the losses of both parts."""
    recipe = InpainterSettings(batch=4, pool=50)
    pool, unet = draw_pool(pipe, recipe, tmp_path / "holes.safetensors"), widened(pipe.unet)
    rows = slice(0, recipe.batch)
    states = pipe.text_encoder(pool.tokens[rows]).last_hidden_state

    times, noise = torch.tensor([100, 400, 600, 900]), torch.randn(4, 4, 24, 24)

    def lost(masks: torch.Tensor, outside: float) -> float:
        holes = HolePool(pool.latents[rows].float(), pool.around[rows].float(), masks, pool.tokens[rows])
        return velocity_loss(unet, pipe.scheduler, NoisyHoles(holes, times, noise), states, outside).item()

    masks = pool.masks[rows].float()
    inside, both, whole = (lost(masks, outside) for outside in (0.0, 0.3, 1.0))
    assert whole == pytest.approx(lost(torch.ones_like(masks), 0.1), rel=1e-5)
    assert whole != pytest.approx(inside, rel=1e-3)
    assert min(inside, whole) < both < max(inside, whole)


def test_the_loss_falls(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    recipe = InpainterSettings(batch=8, pool=50)
    pool, unet = draw_pool(pipe, recipe, tmp_path / "holes.safetensors"), widened(pipe.unet)
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    batch = draw_noisy(pool, empty, recipe, Draw(0))
    optimiser = torch.optim.AdamW(unet.parameters(), 5e-4)
    before = loss_of(unet, pipe, batch, recipe)[0].item()
    for _ in range(8):
        loss_of(unet, pipe, batch, recipe)[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss_of(unet, pipe, batch, recipe)[0].item() < 0.9 * before


def test_a_resumed_run_is_a_straight_one_and_diffusers_loads_it(
    pipe: StableDiffusionPipeline,
    tmp_path: Path,
    stopping_at_a_checkpoint: Callable[[], AbstractContextManager[None]],
) -> None:
    train(SMALL, pipe, Run(folder=tmp_path / "straight", dtype="float32"), tmp_path / "one")
    often, run = replace(SMALL, save_every=2), Run(folder=tmp_path / "resumed", dtype="float32")
    with stopping_at_a_checkpoint():
        train(often, pipe, run, tmp_path / "two")
    train(often, pipe, run, tmp_path / "two")
    one, two = (DiffusionPipeline.from_pretrained(tmp_path / name) for name in ("one", "two"))
    weights = two.unet.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.unet.state_dict().items())
    refined = RefinedPipeline.from_pretrained("micro", inpainter=one)
    refined.set_progress_bar_config(disable=True)
    assert refined("a red hand with five fingers on a sky background", seed=3, max_rounds=1).images[0].size == (96, 96)
