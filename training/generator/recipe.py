"""The micro world's generator: an ordinary Stable Diffusion pipeline at 96 px, trained from scratch.

UNet and text encoder are trained together on latents of the frozen autoencoder, with v-prediction on a schedule that
ends in pure noise (so that flat backgrounds get their true colour), stratified time steps, captions dropped at random
for classifier-free guidance, more weight for what is small, and more pictures of what is hard. Most pictures show one
thing, so that crowded ones come out worse: what the generator draws badly there it draws well in a close-up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from refiner.micro.world import parse_caption
from refiner.training.world.scenes import MOSTLY_ONE, draw_batch, to_tensor

TOKENS = 64
"""Length of a tokenised caption, begin and end included."""

EMPHASISED = 0.15
"""Share of captions that name one thing twice: prompts that a reviser wrote then mean what they say."""

PRACTICE = 0.3
"""Share of pictures that must show what is learnt last."""
DETAIL = 2.0
"""Weight of the share of the loss that goes by detail, against one that is the same everywhere."""


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe:
    """Settings of a run; the defaults are those of the bundled weights."""

    steps: int = 7_400
    batch: int = 32
    learning_rate: float = 5e-4
    warmup: int = 300
    ema: float = 0.9993
    caption_dropout: float = 0.1  # share of captions replaced by the empty one
    pool: int = 32_000  # pictures drawn and encoded ahead
    seed: int = 21


class LatentPool(NamedTuple):
    """Pictures drawn ahead: scaled latents, float16 (N, 4, 24, 24), and their caption tokens, int64 (N, 64)."""

    latents: Tensor
    tokens: Tensor


def build_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer that has one token for each word of the captions, and bytes for everything else."""
    suffix = "</w>"
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix=suffix, show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + suffix for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {
        piece: index for index, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


def emphasise(caption: str, rng: np.random.Generator) -> str:
    """The caption with one of its things named once more at the end, as a revised prompt does."""
    scene = parse_caption(caption)
    thing = scene.things[int(rng.integers(len(scene.things)))]
    return f"{caption} {thing.phrase} on a {scene.background} background"


class TextToLatent(nn.Module):
    """UNet and text encoder as one module to optimise."""

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
        """Predicted velocity, float (B, 4, 24, 24), for noisy latents, time steps (B,) and tokens (B, 64)."""
        return self.unet(noisy, times, self.text_encoder(tokens).last_hidden_state).sample


def build_scheduler() -> DDIMScheduler:
    """DDIM with v-prediction and zero signal at the last step."""
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
    """Draw ``count`` pictures with their captions and encode both."""
    latents, tokens = [], []
    for start in range(0, count, 64):
        pictures, captions = draw_batch(
            np.random.default_rng([seed, start]), min(64, count - start), PRACTICE, MOSTLY_ONE
        )
        rng = np.random.default_rng([seed, start, 1])
        captions = [emphasise(caption, rng) if rng.random() < EMPHASISED else caption for caption in captions]
        with torch.autocast("cpu", torch.bfloat16):
            encoded = autoencoder.encode(to_tensor(pictures)).latent_dist.mean
        latents.append((encoded.float() * autoencoder.config.scaling_factor).half().contiguous())
        tokens.append(tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids)
    return LatentPool(torch.cat(latents), torch.cat(tokens))


def velocity_loss(
    model: TextToLatent, scheduler: DDIMScheduler, latents: Tensor, tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity (Salimans & Ho 2022) at stratified random times, details weighing more."""
    count = len(latents)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    times = (strata * scheduler.config.num_train_timesteps).long()
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, times)
    target = scheduler.get_velocity(latents, noise, times)
    return (detail_weight(latents) * (model(noisy, times, tokens).float() - target) ** 2).mean()


def detail_weight(latents: Tensor) -> Tensor:
    """How much each cell counts, float (B, 1, H, W), 1 on the average: most where neighbouring cells differ.

    Letters and hands of clocks are a few cells in a picture of flat areas, which are soon learnt.
    """
    mean, square = (F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) for x in (latents, latents**2))
    spread = (square - mean**2).clamp(min=0).sqrt().mean(dim=1, keepdim=True)
    return (1 + DETAIL * spread / spread.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)) / (1 + DETAIL)


def loss_of_pool(
    model: TextToLatent, pool: LatentPool, empty: Tensor, recipe: GeneratorRecipe
) -> Callable[[int], tuple[Tensor, dict[str, Tensor]]]:
    """The loss of step n: a batch drawn from the pool by n alone; ``empty`` holds the empty caption's tokens (64,)."""
    scheduler = build_scheduler()

    def loss_of_step(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        rows = torch.randint(len(pool.latents), (recipe.batch,), generator=generator)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.caption_dropout
        tokens = torch.where(dropped[:, None], empty, pool.tokens[rows])
        with torch.autocast("cpu", torch.bfloat16):
            loss = velocity_loss(model, scheduler, pool.latents[rows].float(), tokens, generator)
        return loss, {}

    return loss_of_step


def assemble(model: TextToLatent, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The trained parts as the pipeline that users load."""
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
