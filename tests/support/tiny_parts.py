"""Tokenizers, text encoders and autoencoders of tiny random pipelines."""

from __future__ import annotations

import atexit
import functools
import importlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from support.tiny_chat_models import TEXT_TEMPLATE, tokenizer_of

SIDE = 64
"""Side of the images of the Stable Diffusion pipelines, in pixels."""
LETTERS = [chr(code) for code in range(33, 127)]


# Tokenizers


def clip_tokenizer() -> CLIPTokenizer:
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def gemma_tokenizer() -> GemmaTokenizer:
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    return GemmaTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=512)


def bert_tokenizer() -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(vocab={word: n for n, word in enumerate(words)}, model_max_length=77)


def qwen_tokenizer() -> Qwen2TokenizerFast:
    return tokenizer_of(TEXT_TEMPLATE)


def glm_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<unk>", "[gMASK]", "<sop>", *LETTERS]
    core = Tokenizer(models.WordLevel(vocab={word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", 2), ("<sop>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", padding_side="left", model_max_length=256
    )  # fmt: skip


@functools.cache
def chatglm_words() -> str:
    """Path of a sentencepiece model of letters; it is deleted when the process ends."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    sentencepiece = importlib.import_module("sentencepiece")
    path = Path(folder) / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LETTERS), model_writer=file, vocab_size=98, model_type="char", minloglevel=2
        )
    return str(path)


# Text encoders


def clip_config(words: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def t5_encoder(cls: type = T5EncoderModel, config: type = T5Config, width: int = 32) -> T5EncoderModel:
    return cls(config(vocab_size=128, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)).eval()


def qwen3(cls: type) -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    return cls(config).eval()


def gemma2() -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=128, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=2,
    )  # fmt: skip
    return Gemma2Model(config).eval()


# Autoencoders


def autoencoder(blocks: int = 3, latent: int = 4, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[16] * blocks, down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks, latent_channels=latent, norm_num_groups=8, sample_size=SIDE,
        **options,
    ).eval()  # fmt: skip


def flux_autoencoder(blocks: int = 2, latent: int = 4) -> AutoencoderKL:
    flux = {"shift_factor": 0.1159, "scaling_factor": 0.3611, "use_quant_conv": False, "use_post_quant_conv": False}
    return autoencoder(blocks, latent, **flux)


def flux_2_autoencoder() -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(
        block_out_channels=(16, 16), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=8, layers_per_block=1,
    ).eval()  # fmt: skip


def qwen_autoencoder() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1] * 4, latents_std=[0.9] * 4,
    ).eval()  # fmt: skip


def flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()
