"""The micro world's inpainter: the generator's UNet, trained further to fill holes (regions to inpaint).

Its UNet has five more input channels: the mask of the hole, and the latents of the image around it (Rombach et al.
2022, section 4.5, in the layout of diffusers' ``StableDiffusionInpaintPipeline``). Autoencoder, text encoder and
tokenizer are those of the generator. The holes are like those that the refinement loop inpaints: grown parts of things
(objects of the micro world) and discs, in whole images and in crops.
"""

from __future__ import annotations

import dataclasses
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

from refiner.data.samples import DataSet
from refiner.masks import box_of, dilate
from refiner.micro.drawing import visible
from refiner.micro.world import SIZE, Scene, render
from refiner.pipelines.painting.crops import crop_box, whole_cells
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.losses import detail_weight
from refiner.training.world.scenes import disc_on, draw_scene, to_tensor
from refiner.training.world.scores import score_inpainter
from refiner.types import Mask, Size

_CELL = 4  # side of a latent cell in pixels
_GROWTH = (2.0, 9.0)  # pixels by which a hole is larger than the parts that it covers; drawn uniformly
_SPOT = (4.0, 14.0)  # radius in pixels of a hole that is a disc; drawn uniformly
_SPOTS = 0.25  # share of holes that are discs
_PARTS = (0.6, 0.3, 0.1)  # probabilities that a hole covers one, two or three parts of a thing
_CROPS = 0.85  # share of crops, if the scene has several things
_AT_ONCE = 50  # images that are encoded in one batch
_TRAIN_STEPS = 1000  # steps of the generator's noise schedule


@dataclass(frozen=True, kw_only=True)
class InpainterSettings(LoopSettings):
    """Settings of the inpainter's training. The defaults made the bundled weights."""

    steps: int = 1600
    batch: int = 32
    learning_rate: float = 4e-4
    warmup: int = 100
    ema: float = 0.998
    caption_dropout: float = 0.1  # share of captions replaced by the empty caption
    outside: float = 0.1  # weight of the loss outside of the hole
    practice: float = 0.3  # probability that a scene must show one of the hardest things
    pool: int = 8_000  # images rendered and encoded before the training starts
    seed: int = 31


class Hole(NamedTuple):
    """An image with a hole that is to be inpainted."""

    image: Image.Image  # RGB, 96 x 96
    mask: Mask  # bool (96, 96), whole latent cells
    caption: str  # caption of the image, or of the one thing that a crop is about


class HolePool(NamedTuple):
    """Encoded training data of the inpainter. Latents are scaled."""

    latents: Tensor  # float16 (N, 4, 24, 24): latents of the whole images
    around: Tensor  # float16 (N, 4, 24, 24): latents of the images with grey holes
    masks: Tensor  # bool (N, 1, 24, 24)
    tokens: Tensor  # int64 (N, 64)


def draw_hole(rng: np.random.Generator, practice: float = 0.0) -> Hole:
    """A random image without flaws, or a crop of one as in the refinement loop, with a hole in it.

    ``practice`` is the probability that the scene must show one of the hardest things.
    """
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
    """A random hole: the index of the thing that it is about, and its mask."""
    shapes = scene.shapes()
    seen = [(shape, mask) for shape, mask in zip(shapes, visible(shapes, SIZE), strict=True) if mask.any()]
    index = int(rng.integers(len(scene.things)))
    own = [mask for shape, mask in seen if shape.thing == index]
    if own and rng.random() >= _SPOTS:
        chosen = rng.choice(len(own), min(len(own), 1 + int(rng.choice(len(_PARTS), p=_PARTS))), replace=False)
        return index, dilate(np.logical_or.reduce([own[number] for number in chosen]), float(rng.uniform(*_GROWTH)))
    return index, disc_on(scene.things[index], rng, _SPOT)


@torch.no_grad()
def draw_pool(pipe: StableDiffusionPipeline, recipe: InpainterSettings, file: Path) -> HolePool:
    """Make and encode ``recipe.pool`` holes. They are stored in ``file`` and read from it if it exists."""
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
    both = pipe.vae.encode(torch.cat([pixels, pixels * ~masks])).latent_dist.mean
    latents, around = (both.float() * pipe.vae.config.scaling_factor).half().chunk(2)
    tokens = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return HolePool(latents.contiguous(), around.contiguous(), masks[:, :, ::_CELL, ::_CELL].contiguous(), tokens)


def widened(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Copy a UNet with four input channels into one with nine. The weights of the five new channels are 0."""
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    weights = {name: tensor.float() for name, tensor in unet.state_dict().items()}
    narrow = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([narrow, narrow.new_zeros(len(narrow), 5, *narrow.shape[2:])], dim=1)
    wide.load_state_dict(weights)
    return wide


class NoisyHoles(NamedTuple):
    """A batch of B holes with noise and time steps."""

    holes: HolePool  # float tensors; ``tokens`` are int
    times: Tensor  # stratified time steps, int (B,)
    noise: Tensor  # float (B, 4, 24, 24)


def draw_noisy(pool: HolePool, empty: Tensor, recipe: InpainterSettings, part: Draw) -> NoisyHoles:
    """Draw a batch from the pool. It depends only on ``part`` and the seed.

    ``empty`` holds the tokens of the empty caption, int (64,).
    """
    generator = torch.Generator().manual_seed(part.seed(recipe.seed))
    rows = torch.randint(len(pool.latents), (recipe.batch,), generator=generator)
    dropped = torch.rand(recipe.batch, generator=generator) < recipe.caption_dropout
    tokens = torch.where(dropped[:, None], empty, pool.tokens[rows])
    holes = HolePool(pool.latents[rows].float(), pool.around[rows].float(), pool.masks[rows].float(), tokens)
    strata = (torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)) / recipe.batch
    times = (strata * _TRAIN_STEPS).long()
    return NoisyHoles(holes, times, torch.randn(holes.latents.shape, generator=generator))


def velocity_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, batch: NoisyHoles, states: Tensor, outside: float
) -> Tensor:
    """The generator's velocity loss. Cells outside of the hole have ``outside`` times the weight."""
    holes = batch.holes
    noisy = scheduler.add_noise(holes.latents, batch.noise, batch.times)
    target = scheduler.get_velocity(holes.latents, batch.noise, batch.times)
    said = unet(torch.cat([noisy, holes.masks, holes.around], dim=1), batch.times, states).sample.float()
    weight = detail_weight(holes.latents) * (holes.masks + outside * (1 - holes.masks))
    return (weight * (said - target) ** 2).mean() / weight.mean()


def loss_of(
    unet: UNet2DConditionModel, pipe: StableDiffusionPipeline, batch: NoisyHoles, recipe: InpainterSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch. The pipeline's text encoder encodes the captions."""
    with torch.no_grad():
        states = pipe.text_encoder(batch.holes.tokens).last_hidden_state
    return velocity_loss(unet, pipe.scheduler, batch, states, recipe.outside), {}


def train(
    recipe: InpainterSettings, pipe: StableDiffusionPipeline, run: Run, out: Path
) -> StableDiffusionInpaintPipeline:
    """Train the UNet, or resume from ``inpainter.pt``, and write the pipeline to ``out``."""
    unet = widened(pipe.unet)
    unet.set_attn_processor(AttnProcessor())
    with run.processes.main_first():
        pool = draw_pool(pipe, recipe, run.folder / "holes.safetensors")
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    pipe.text_encoder.to(run.processes.device)
    fit(
        unet,
        lambda part: draw_noisy(pool, empty, recipe, part),
        lambda batch: loss_of(unet, pipe, batch, recipe),
        fit_settings(recipe, dtype="bfloat16"),
        run,
        "inpainter",
    )
    pipe.text_encoder.cpu()
    parts = {**pipe.components, "unet": unet.cpu().half()}
    for part in (unet, pipe.vae):
        part.register_to_config(_name_or_path="")  # else it is the folder that they were loaded from
    inpainter = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    if run.processes.main:
        inpainter.save_pretrained(out)
    return inpainter


def _train(recipe: InpainterSettings, data: DataSet | None, run: Run, out: Path) -> None:
    train(recipe, StableDiffusionPipeline.from_pretrained(run.weights / "generator", dtype=torch.float32), run, out)


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """Scores of the inpainter in a folder, on images of the generator. The folder must hold a ``card.json``."""
    return score_inpainter(ImperfectGenerator(run.weights / "generator", folder), count)


RECIPE = Recipe(
    name="inpainter",
    micro=InpainterSettings,
    train=_train,
    folder="inpainter",
    card=Card(
        name="inpainter-micro 1",
        data=lambda recipe: f"{recipe.pool} clean renders of the micro world and crops of them, with holes",
    ),
    measure=measure,
)
