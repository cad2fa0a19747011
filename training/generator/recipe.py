"""The micro world's generator: an ordinary Stable Diffusion pipeline for 96 x 96 images, trained from scratch.

The UNet and the text encoder are trained together on latents of the frozen autoencoder:

* v-prediction on a noise schedule that ends in pure noise, so that flat backgrounds get their true colour;
* stratified time steps;
* captions dropped at random, for classifier-free guidance;
* more weight for small details, and more images of what is hard to learn.

Most training images show one thing (one object of the micro world), so that images with several things have more
flaws. What the generator draws badly in such an image, it draws well in a close-up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from refiner.data.samples import DataSet
from refiner.micro.world import parse_caption, sample_scene
from refiner.pipelines.saving.settings import SavedSettings
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.generator.autoencoder import AutoencoderSettings, train_autoencoder
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.world.losses import detail_weight
from refiner.training.world.scenes import MOSTLY_ONE, draw_batch, to_tensor
from refiner.training.world.scores import score_autoencoder, score_generator
from refiner.training.world.tokenizers import TOKENS, caption_tokenizer

CALL = {"num_inference_steps": 15, "guidance_scale": 3.0}  # default arguments of the bundled pipeline
INPAINT_CALL = {"num_inference_steps": 4, "guidance_scale": 1.0}  # default arguments of the bundled inpainter
EMPHASISED = 0.15
"""Share of captions that name one thing twice. The generator needs them to understand revised prompts."""

PRACTICE = 0.3  # share of images that must show one of the hardest things (``HARDEST`` in ``world/scenes.py``)


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(LoopSettings):
    """Settings of the generator's training. The defaults made the bundled weights."""

    steps: int = 7_400
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 300
    ema: float = 0.9993
    caption_dropout: float = 0.1  # share of captions replaced by the empty caption
    pool: int = 32_000  # images rendered and encoded before the training starts
    seed: int = 21
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)


class LatentPool(NamedTuple):
    """Encoded training images: scaled latents, float16 (N, 4, 24, 24), and caption tokens, int64 (N, 64)."""

    latents: Tensor
    tokens: Tensor


def emphasise(caption: str, rng: np.random.Generator) -> str:
    """The caption with one of its things repeated at the end, as in a revised prompt."""
    scene = parse_caption(caption)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    return f"{caption} {thing.phrase} on a {scene.background} background"


class TextToLatent(nn.Module):
    """UNet and text encoder as one module, so that both are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=128,
                intermediate_size=384,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                projection_dim=128,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=24,
            in_channels=4,
            out_channels=4,
            block_out_channels=(64, 128, 128),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Predict the velocity, float (B, 4, 24, 24), of noisy latents of this shape.

        ``times`` holds time steps, int (B,); ``tokens`` those of captions, int (B, 64).
        """
        return self.unet(noisy, times, self.text_encoder(tokens).last_hidden_state).sample


def build_scheduler() -> DDIMScheduler:
    """A DDIM scheduler with v-prediction and zero terminal SNR."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


@torch.no_grad()
def draw_pool(autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, count: int, seed: int) -> LatentPool:
    """Render ``count`` images and encode them and their captions."""
    latents, tokens = [], []
    for start in range(0, count, 64):
        pictures, captions = draw_batch(
            np.random.default_rng([seed, start]), min(64, count - start), PRACTICE, MOSTLY_ONE
        )
        rng = np.random.default_rng([seed, start, 1])
        captions = [emphasise(caption, rng) if rng.random() < EMPHASISED else caption for caption in captions]
        encoded = autoencoder.encode(to_tensor(pictures)).latent_dist.mean
        latents.append((encoded.float() * autoencoder.config.scaling_factor).half().contiguous())
        tokens.append(tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids)
    return LatentPool(torch.cat(latents), torch.cat(tokens))


class NoisyLatents(NamedTuple):
    """A batch of scaled latents, float (B, 4, 24, 24), with noise and time steps."""

    latents: Tensor
    tokens: Tensor  # int (B, 64)
    times: Tensor  # stratified time steps, int (B,)
    noise: Tensor


def draw_noisy(pool: LatentPool, empty: Tensor, recipe: GeneratorSettings, part: Draw) -> NoisyLatents:
    """Draw a batch from the pool. It depends only on ``part`` and the seed.

    ``empty`` holds the tokens of the empty caption, int (64,).
    """
    generator = torch.Generator().manual_seed(part.seed(recipe.seed))
    rows = torch.randint(len(pool.latents), (recipe.batch,), generator=generator)
    dropped = torch.rand(recipe.batch, generator=generator) < recipe.caption_dropout
    tokens = torch.where(dropped[:, None], empty, pool.tokens[rows])
    latents = pool.latents[rows].float()
    strata = (torch.arange(recipe.batch) + torch.rand(recipe.batch, generator=generator)) / recipe.batch
    times = (strata * build_scheduler().config.num_train_timesteps).long()
    return NoisyLatents(latents, tokens, times, torch.randn(latents.shape, generator=generator))


def velocity_loss(model: TextToLatent, batch: NoisyLatents) -> Tensor:
    """Mean squared error of the velocity (Salimans & Ho 2022), with more weight for details; scalar."""
    scheduler = build_scheduler()
    noisy = scheduler.add_noise(batch.latents, batch.noise, batch.times)
    target = scheduler.get_velocity(batch.latents, batch.noise, batch.times)
    said = model(noisy, batch.times, batch.tokens).float()
    return (detail_weight(batch.latents) * (said - target) ** 2).mean()


def assemble(model: TextToLatent, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """Put the trained parts together into the pipeline that users load."""
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def train_generator(recipe: GeneratorSettings, autoencoder: AutoencoderKL, run: Run, out: Path) -> None:
    """Train UNet and text encoder, or resume from ``generator.pt``, and write the pipeline to ``out``."""
    rng = np.random.default_rng(recipe.seed)
    tokenizer = caption_tokenizer([sample_scene(rng).caption for _ in range(3000)])
    torch.manual_seed(recipe.seed)
    model = TextToLatent(tokenizer)
    model.unet.set_attn_processor(AttnProcessor())  # plain attention: 1.5 times as fast as sdpa in bfloat16 on a CPU
    model.text_encoder.set_attn_implementation("eager")
    with run.processes.main_first():
        file = run.folder / "pool.safetensors"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(draw_pool(autoencoder, tokenizer, recipe.pool, recipe.seed)._asdict(), file)
        pool = LatentPool(**load_file(file))
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    fit(
        model,
        lambda part: draw_noisy(pool, empty, recipe, part),
        lambda batch: (velocity_loss(model, batch), {}),
        fit_settings(recipe, dtype="bfloat16"),
        run,
        "generator",
    )
    model.cpu()
    model.unet.half()
    if run.processes.main:
        assemble(model, autoencoder, tokenizer).save_pretrained(out)
        SavedSettings(
            detector="micro", judge="micro", call=CALL, inpainter="micro:inpainter", inpaint_call=INPAINT_CALL
        ).write(out)


def _train(recipe: GeneratorSettings, data: DataSet | None, run: Run, out: Path) -> None:
    train_generator(recipe, train_autoencoder(recipe.autoencoder, run), run, out)


def measure(folder: Path, run: Run, count: int) -> dict[str, Any]:
    """Scores of the pipeline in a folder and of its autoencoder, on held-out scenes."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    painted = score_generator(pipeline, count, **CALL)
    rebuilt = score_autoencoder(pipeline.vae, count)
    return {
        "oracle_flaws_a_picture": painted["flaws"],
        "right_kind_and_colour": painted["right_kind_and_colour"],
        "autoencoder_oracle_flaws_a_picture": rebuilt["flaws"],
        "autoencoder_mean_error_of_255": rebuilt["mean_error_of_255"],
        **{f"oracle_flaws_with_{n}_things": value for n, value in painted["flaws_by_things"].items()},
        **{f"missed/{part}": value / count for part, value in painted["parts"].items()},
    }


RECIPE = Recipe(
    name="generator",
    micro=GeneratorSettings,
    train=_train,
    folder="generator",
    card=Card(
        name="generator-micro 5",
        data=lambda _: "clean renders of the micro world, generated during training",
        settings=lambda recipe: {**asdict(recipe), "call": CALL},
    ),
    measure=measure,
)
