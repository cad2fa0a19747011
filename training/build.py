"""Every bundled weight, made again: ``refiner micro build``.

Each part is one stage that can be stopped and resumed; its checkpoints lie in ``runs/PART`` and the finished folder
goes to ``refiner/micro/weights/PART``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from refiner.detectors import load_detector
from refiner.detectors.legion import LegionDetector
from refiner.detectors.vlm.detector import load_vlm
from refiner.hub import write_card
from refiner.micro.world import sample_scene
from refiner.pipelines.saving.settings import SavedSettings
from refiner.training.fit import FitSettings, fit
from refiner.training.generator.autoencoder import AutoencoderRecipe, autoencoder_loss, build_autoencoder, latent_scale
from refiner.training.generator.recipe import (
    GeneratorRecipe,
    LatentPool,
    TextToLatent,
    assemble,
    build_tokenizer,
    draw_pool,
    loss_of_pool,
)
from refiner.training.inpainter import recipe as inpainter
from refiner.training.instruct import recipe as instruct
from refiner.training.legion import recipe as legion
from refiner.training.legion.data import Pool
from refiner.training.legion.eval import measure, write_scores
from refiner.training.preference import recipe as preference
from refiner.training.probe import recipe as probe
from refiner.training.vlm import eval as vlm_eval
from refiner.training.vlm import recipe as vlm
from refiner.training.vlm.data import Album
from refiner.training.world.flaws import Imperfect
from refiner.training.world.paintings import Gallery
from refiner.training.world.scenes import draw_batch, to_tensor
from refiner.training.world.scores import score_autoencoder, score_generator

CALL = {"num_inference_steps": 15, "guidance_scale": 3.0}
"""How the bundled pipeline paints unless it is told otherwise."""
INPAINT_CALL = {"num_inference_steps": 4, "guidance_scale": 1.0}
"""How the bundled inpainter repaints unless it is told otherwise."""
PAIRS = 1400
"""Held-out pairs of each sort that the judge is measured on."""
PICTURES = 200
"""Held-out pictures of each sort that the vision-language model is measured on."""


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


def _pool(autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, recipe: GeneratorRecipe, file: Path) -> LatentPool:
    if file.exists():
        tensors = load_file(file)
        return LatentPool(tensors["latents"], tensors["tokens"])
    pool = draw_pool(autoencoder, tokenizer, recipe.pool, recipe.seed)
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
    model.unet.set_attn_processor(AttnProcessor())  # plain attention: half again as fast as sdpa in bfloat16 on a CPU
    model.text_encoder.set_attn_implementation("eager")
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
    model.unet.half()
    assemble(model, autoencoder, tokenizer).save_pretrained(out)


def write_generator_card(folder: Path, pictures: int = 200) -> None:
    """Measure the pipeline in ``folder`` on held-out scenes and write its card."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    painted = score_generator(pipeline, pictures, **CALL)
    rebuilt = score_autoencoder(pipeline.vae, pictures)
    write_card(
        folder,
        name="generator-micro 5",
        recipe="refiner micro build generator",
        seed=GeneratorRecipe().seed,
        data="clean renders of the micro world, drawn on the fly (training/micro_data.py)",
        domain="micro",
        scores={
            "oracle_flaws_a_picture": painted["flaws"],
            "right_kind_and_colour": painted["right_kind_and_colour"],
            "autoencoder_oracle_flaws_a_picture": rebuilt["flaws"],
            "autoencoder_mean_error_of_255": rebuilt["mean_error_of_255"],
            **{f"oracle_flaws_with_{n}_things": value for n, value in painted["flaws_by_things"].items()},
        },
        settings={
            "autoencoder": asdict(AutoencoderRecipe()),
            "generator": asdict(GeneratorRecipe()),
            "call": CALL,
            "pictures_measured": pictures,
            "parts_missed": painted["parts"],
        },
    )


def build_generator(runs: Path, out: Path) -> None:
    """Autoencoder, generator and card, from nothing."""
    train_generator(runs, train_autoencoder(runs), out)
    SavedSettings(
        detector="micro", judge="micro", call=CALL, inpainter="micro:inpainter", inpaint_call=INPAINT_CALL
    ).write(out)
    write_generator_card(out)


def build_inpainter(runs: Path, generator: Path, out: Path) -> Imperfect:
    """The inpainter and its card; returns it and the generator as painters of flawed pictures."""
    recipe = inpainter.InpainterRecipe()
    pipeline = StableDiffusionPipeline.from_pretrained(generator, dtype=torch.float32)
    inpainter.train(recipe, pipeline, runs / "inpainter", out)
    return inpainter.measure(recipe, generator, out)


def build(runs: Path, out: Path) -> None:
    """Every bundled part, from nothing or from where ``runs`` stopped: pipelines, judge, detectors, reviser."""
    build_generator(runs, out / "generator")
    imperfect = build_inpainter(runs, out / "generator", out / "inpainter")
    judge_recipe = preference.PreferenceRecipe()
    judge = preference.train(runs, judge_recipe, imperfect)
    scores = preference.measure(judge, judge_recipe.seed, PAIRS, imperfect)
    preference.save(judge, out / "hps", judge_recipe, scores)
    gallery = Gallery(runs / "paintings", imperfect)
    pool = Pool(runs / "legion" / "pool", gallery=gallery)
    legion.train(legion.micro_recipe(), pool, runs / "legion", out / "legion")
    detector = LegionDetector.from_pretrained(out / "legion")
    write_scores(out / "legion", measure(detector, imperfect))
    probe.build(runs / "probe", runs / "paintings", out / "generator", out / "probe")
    probe.write_scores(out / "probe", measure(load_detector(out / "probe"), imperfect))
    vlm.train(vlm.VlmRecipe(), Album(runs / "vlm" / "album", gallery), runs / "vlm", out / "legion", out / "vlm")
    reader = load_vlm(out / "vlm", grounder="box")
    vlm_eval.write_scores(out / "vlm", vlm_eval.measure(reader, vlm_eval.held_out(PICTURES, imperfect)))
    instruct.build(runs / "instruct", out / "generator", out / "instruct")
