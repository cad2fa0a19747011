"""An inpainter of the micro world: the generator's UNet, taught to fill holes.

Five more channels tell it where the hole is and what the picture shows around it (Rombach et al. 2022, section 4.5;
the layout is that of diffusers' ``StableDiffusionInpaintPipeline``). Autoencoder, text encoder and tokenizer stay the
generator's. Holes are what the loop repaints: grown parts of things and discs, in whole pictures and in crops.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from refiner.hub import MICRO_WEIGHTS, write_card
from refiner.masks import box_of, dilate
from refiner.micro.drawing import visible
from refiner.micro.world import SIZE, Scene, render
from refiner.pipelines.painting.crops import crop_box, whole_cells
from refiner.training.fit import FitSettings, fit
from refiner.training.generator.recipe import detail_weight
from refiner.training.world.flaws import Imperfect
from refiner.training.world.scenes import draw_scene, to_tensor
from refiner.training.world.scores import score_inpainter
from refiner.types import Mask, Size

_CELL = 4
"""Pixels along a latent cell."""
_GROWTH = (2.0, 9.0)
"""Pixels by which a hole goes beyond what it is about."""
_SPOT = (4.0, 14.0)
"""Radius in pixels of a hole that is about no part."""
_SPOTS = 0.25
"""Share of such holes."""
_PARTS = (0.6, 0.3, 0.1)
"""How often a hole is about one part of a thing, two and three."""
_CROPS = 0.85
"""Share of crops where the scene has several things."""
_AT_ONCE = 50


@dataclass(frozen=True, kw_only=True)
class InpainterRecipe:
    """Settings of a run; the defaults are those of the bundled weights."""

    steps: int = 1600
    batch: int = 32
    learning_rate: float = 4e-4
    warmup: int = 100
    ema: float = 0.998
    caption_dropout: float = 0.1  # share of captions replaced by the empty one
    outside: float = 0.1  # weight of the loss outside of the hole
    practice: float = 0.3  # chance that a scene must show what is learnt last
    pool: int = 8_000  # pictures drawn and encoded ahead
    seed: int = 31


class Hole(NamedTuple):
    """A picture of which a part is to be painted."""

    image: Image.Image
    """RGB, 96 x 96."""
    mask: Mask
    """Bool (96, 96), whole latent cells."""
    caption: str
    """Of the picture, or of the one thing that its crop is about."""


class HolePool(NamedTuple):
    """Holes drawn ahead; latents are scaled."""

    latents: Tensor
    """float16 (N, 4, 24, 24): of the whole pictures."""
    around: Tensor
    """float16 (N, 4, 24, 24): of the pictures with grey holes."""
    masks: Tensor
    """bool (N, 1, 24, 24)."""
    tokens: Tensor
    """int64 (N, 64)."""


def draw_hole(rng: np.random.Generator, practice: float = 0.0) -> Hole:
    """A random clean picture, or a crop of one as the loop cuts it out, with a hole in it."""
    scene = draw_scene(rng, practice)
    thing, mask = _hole(scene, rng)
    image = render(scene)
    if len(scene.things) > 1 and rng.random() < _CROPS:
        flawed = box_of(mask)
        assert flawed is not None
        x0, y0, x1, y1 = crop_box(flawed, Size(SIZE, SIZE), padding=0.5, least=SIZE // 2)
        image = image.crop((x0, y0, x1, y1)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        cut = Image.fromarray(mask[y0:y1, x0:x1]).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        about = dataclasses.replace(scene, things=(scene.things[thing],), rows=(1,))
        return Hole(image, whole_cells(np.asarray(cut), _CELL), about.caption)
    return Hole(image, whole_cells(mask, _CELL), scene.caption)


def _hole(scene: Scene, rng: np.random.Generator) -> tuple[int, Mask]:
    """The thing that a hole is about, and its pixels."""
    shapes = scene.shapes()
    seen = [(shape, mask) for shape, mask in zip(shapes, visible(shapes, SIZE), strict=True) if mask.any()]
    index = int(rng.integers(len(scene.things)))
    own = [mask for shape, mask in seen if shape.thing == index]
    if own and rng.random() >= _SPOTS:
        chosen = rng.choice(len(own), min(len(own), 1 + int(rng.choice(len(_PARTS), p=_PARTS))), replace=False)
        return index, dilate(np.logical_or.reduce([own[number] for number in chosen]), float(rng.uniform(*_GROWTH)))
    thing = scene.things[index]
    x, y = np.clip(np.array([thing.x, thing.y]) + rng.uniform(-1, 1, 2) * thing.radius, 0, SIZE - 1)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    spot: Mask = np.hypot(rows - y, columns - x) < rng.uniform(*_SPOT)
    return index, spot


@torch.no_grad()
def draw_pool(pipe: StableDiffusionPipeline, recipe: InpainterRecipe, file: Path) -> HolePool:
    """Draw and encode ``recipe.pool`` holes, kept in ``file`` and read from there."""
    if not file.exists():
        rows: list[HolePool] = []
        for start in range(0, recipe.pool, _AT_ONCE):
            rng = np.random.default_rng([recipe.seed, start])
            rows.append(_encoded(pipe, [draw_hole(rng, recipe.practice) for _ in range(_AT_ONCE)]))
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: torch.cat([getattr(row, name) for row in rows]) for name in HolePool._fields}
        save_file(tensors, file)
    return HolePool(**load_file(file))


def _encoded(pipe: StableDiffusionPipeline, holes: list[Hole]) -> HolePool:
    pixels = to_tensor(np.stack([np.asarray(hole.image) for hole in holes]))
    masks = torch.from_numpy(np.stack([hole.mask for hole in holes]))[:, None]
    captions = [hole.caption for hole in holes]
    with torch.autocast("cpu", torch.bfloat16):
        both = pipe.vae.encode(torch.cat([pixels, pixels * ~masks])).latent_dist.mean
    latents, around = (both.float() * pipe.vae.config.scaling_factor).half().chunk(2)
    tokens = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return HolePool(latents.contiguous(), around.contiguous(), masks[:, :, ::_CELL, ::_CELL].contiguous(), tokens)


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A UNet of nine input channels that ignores the five new ones as yet, with the weights of one of four."""
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    weights = {name: tensor.float() for name, tensor in unet.state_dict().items()}
    narrow = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([narrow, narrow.new_zeros(len(narrow), 5, *narrow.shape[2:])], dim=1)
    wide.load_state_dict(weights)
    return wide


def loss_of_pool(
    unet: UNet2DConditionModel, pipe: StableDiffusionPipeline, pool: HolePool, recipe: InpainterRecipe
) -> Callable[[int], tuple[Tensor, dict[str, Tensor]]]:
    """The loss of step n: a batch drawn from the pool by n alone."""
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(pool.latents), (recipe.batch,), generator=generator)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.caption_dropout
        tokens = torch.where(dropped[:, None], empty, pool.tokens[rows])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                states = pipe.text_encoder(tokens).last_hidden_state
            batch = HolePool(pool.latents[rows].float(), pool.around[rows].float(), pool.masks[rows].float(), tokens)
            return velocity_loss(unet, pipe.scheduler, batch, states, recipe.outside, generator), {}

    return loss_of_step


def velocity_loss(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    batch: HolePool,
    states: Tensor,
    outside: float,
    generator: torch.Generator,
) -> Tensor:
    """The generator's loss of the velocity, each cell outside of the hole weighing ``outside`` times as much."""
    count = len(batch.latents)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    times = (strata * scheduler.config.num_train_timesteps).long()
    noise = torch.randn(batch.latents.shape, generator=generator)
    noisy = scheduler.add_noise(batch.latents, noise, times)
    target = scheduler.get_velocity(batch.latents, noise, times)
    said = unet(torch.cat([noisy, batch.masks, batch.around], dim=1), times, states).sample.float()
    weight = detail_weight(batch.latents) * (batch.masks + outside * (1 - batch.masks))
    return (weight * (said - target) ** 2).mean() / weight.mean()


def train(
    recipe: InpainterRecipe, pipe: StableDiffusionPipeline, run: Path, out: Path
) -> StableDiffusionInpaintPipeline:
    """Train the UNet, or go on where ``run/inpainter.pt`` stopped, and write the pipeline to ``out``."""
    unet = widened(pipe.unet)
    unet.set_attn_processor(AttnProcessor())
    pool = draw_pool(pipe, recipe, run / "holes.safetensors")
    settings = FitSettings(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, ema=recipe.ema, seed=recipe.seed
    )
    fit(unet, loss_of_pool(unet, pipe, pool, recipe), settings, run, "inpainter")
    parts = {**pipe.components, "unet": unet.half()}
    for part in (unet, pipe.vae):
        part.register_to_config(_name_or_path="")  # else the folder that they were loaded from
    inpainter = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    inpainter.save_pretrained(out)
    return inpainter


def measure(recipe: InpainterRecipe, generator: Path, out: Path) -> Imperfect:
    """Measure the inpainter in ``out`` on pictures of the generator, write its card, and return both as painters."""
    _write_card(out, recipe, {})  # bundled weights do not load without one
    imperfect = Imperfect(generator, out)
    _write_card(out, recipe, score_inpainter(imperfect))
    return imperfect


def _write_card(folder: Path, recipe: InpainterRecipe, scores: Mapping[str, float]) -> None:
    write_card(
        folder,
        name="inpainter-micro 1",
        recipe="python -P -m refiner.training.inpainter.recipe --out DIR",
        seed=recipe.seed,
        data=f"{recipe.pool} clean renders of the micro world and crops of such, with holes",
        domain="micro",
        scores=scores,
        settings=dataclasses.asdict(recipe),
    )


def main() -> None:
    """``python -P -m refiner.training.inpainter.recipe --out DIR``."""
    parser = argparse.ArgumentParser(description="Train an inpainter; goes on from the checkpoints of --run.")
    parser.add_argument("--run", type=Path, default=Path("runs/inpainter"), help="checkpoints, log and drawn pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--generator", type=Path, default=MICRO_WEIGHTS / "generator", help="pipeline to start from")
    recipe = InpainterRecipe()
    for field in dataclasses.fields(recipe):
        default = getattr(recipe, field.name)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--measure-only", action="store_true", help="measure the pipeline in --out on 100 pictures")
    arguments = vars(parser.parse_args())
    torch.set_num_threads(1)
    run, out, generator = (arguments.pop(name) for name in ("run", "out", "generator"))
    if arguments.pop("measure_only"):
        print(json.dumps(score_inpainter(Imperfect(generator, out), 100)))
        return
    recipe = InpainterRecipe(**arguments)
    pipe = StableDiffusionPipeline.from_pretrained(generator, dtype=torch.float32)
    train(recipe, pipe, run, out)
    measure(recipe, generator, out)


if __name__ == "__main__":
    main()
