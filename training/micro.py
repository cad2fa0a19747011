"""Every bundled weight, made again: ``refiner micro build``.

Each part is one stage that can be stopped and resumed; its checkpoints lie in ``runs/PART`` and the finished folder
goes to ``refiner/micro/weights/PART``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from refiner.micro.world import sample_scene
from refiner.training.autoencoder import AutoencoderRecipe, autoencoder_loss, build_autoencoder, latent_scale
from refiner.training.fit import FitSettings, fit
from refiner.training.generator import (
    GeneratorRecipe,
    LatentPool,
    TextToLatent,
    assemble,
    build_tokenizer,
    draw_pool,
    loss_of_pool,
)
from refiner.training.micro_data import draw_batch, to_tensor


def train_autoencoder(runs: Path, recipe: AutoencoderRecipe | None = None) -> AutoencoderKL:
    """Train the autoencoder, or go on where ``runs/autoencoder`` stopped."""
    recipe = recipe or AutoencoderRecipe()
    torch.manual_seed(recipe.seed)
    model = build_autoencoder()

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = to_tensor(draw_batch(np.random.default_rng([recipe.seed, step]), recipe.batch)[0])
        with torch.autocast("cpu", torch.bfloat16):
            return autoencoder_loss(model, pixels, recipe)

    settings = FitSettings(
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        ema=recipe.ema,
        seed=recipe.seed,
    )
    fit(model, loss_of_step, settings, runs / "autoencoder", "autoencoder")
    sample = to_tensor(draw_batch(np.random.default_rng([recipe.seed, -1 % 2**31]), 256)[0])
    model.register_to_config(scaling_factor=latent_scale(model, sample))
    return model


def _pool(autoencoder: AutoencoderKL, tokenizer: object, recipe: GeneratorRecipe, file: Path) -> LatentPool:
    if file.exists():
        tensors = load_file(file)
        return LatentPool(tensors["latents"], tensors["tokens"])
    pool = draw_pool(autoencoder, tokenizer, recipe.pool, recipe.seed)  # type: ignore[arg-type]
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(pool._asdict(), file)
    return pool


def train_generator(runs: Path, autoencoder: AutoencoderKL, out: Path, recipe: GeneratorRecipe | None = None) -> None:
    """Train UNet and text encoder, or go on where ``runs/generator`` stopped, and write the pipeline to ``out``."""
    recipe = recipe or GeneratorRecipe()
    rng = np.random.default_rng(recipe.seed)
    tokenizer = build_tokenizer([sample_scene(rng).caption for _ in range(3000)])
    torch.manual_seed(recipe.seed)
    model = TextToLatent(tokenizer)
    pool = _pool(autoencoder, tokenizer, recipe, runs / "generator" / "pool.safetensors")
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    settings = FitSettings(
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        ema=recipe.ema,
        seed=recipe.seed,
    )
    fit(model, loss_of_pool(model, pool, empty, recipe), settings, runs / "generator", "generator")
    assemble(model, autoencoder, tokenizer).save_pretrained(out, safe_serialization=True)
