"""Single-file checkpoints in the layouts in which Stable Diffusion 1.x and XL were published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from support.tiny_parts import autoencoder, clip_config, clip_tokenizer
from support.tiny_pipelines import ddim, quiet, stable_diffusion, unet

State = dict[str, Tensor]
LAYERS = 10
"""Layers of SDXL's second text encoder, at least: by the last of them its checkpoints are recognised."""


def renamed(name: str, table: dict[str, str]) -> str:
    for new, old in table.items():
        name = name.replace(new, old)
    return name


def unet_state(network: Any) -> State:
    tops = {**DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"], **DIFFUSERS_TO_LDM_MAPPING["unet"]["addition_embed_type"]}
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    resnet |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    per_block = network.config.layers_per_block + 1
    state: State = {}
    for name, value in network.state_dict().items():
        words = name.split(".")
        if name in tops:
            place = tops[name]
        elif words[0] == "mid_block":
            number = 1 if words[1] == "attentions" else 2 * int(words[2])
            rest = ".".join(words[3:])
            place = f"middle_block.{number}.{rest if number == 1 else renamed(rest, resnet)}"
        else:
            block, kind, layer, rest = int(words[1]), words[2], int(words[3]), ".".join(words[4:])
            down = words[0] == "down_blocks"
            attends = hasattr(getattr(network, words[0])[block], "attentions")
            last = per_block - 1
            number = block * per_block + (layer if kind in ("resnets", "attentions") else last) + down
            inside = "input_blocks" if down else "output_blocks"
            place = {
                "resnets": f"{inside}.{number}.0.{renamed(rest, resnet)}",
                "attentions": f"{inside}.{number}.1.{rest}",
                "downsamplers": f"{inside}.{number}.0.{rest.replace('conv', 'op')}",
                "upsamplers": f"{inside}.{number}.{2 if attends else 1}.{rest}",
            }[kind]
        state[f"model.diffusion_model.{place}"] = value
    return state


def vae_state(network: Any) -> State:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    blocks = len(network.config.block_out_channels)
    state: State = {}
    for name, value in network.state_dict().items():
        words = name.split(".")
        if name in DIFFUSERS_TO_LDM_MAPPING["vae"]:
            place = DIFFUSERS_TO_LDM_MAPPING["vae"][name]
        elif words[1] == "mid_block" and words[2] == "attentions":
            place = f"{words[0]}.mid.attn_1.{renamed('.'.join(words[4:]), attention)}"
            value = value[:, :, None, None] if value.ndim == 2 else value
        elif words[1] == "mid_block":
            place = f"{words[0]}.mid.block_{int(words[3]) + 1}.{'.'.join(words[4:])}"
        else:
            down, kind = words[1] == "down_blocks", words[3]
            number = int(words[2]) if down else blocks - 1 - int(words[2])
            rest = ".".join(words[5:]).replace("conv_shortcut", "nin_shortcut")
            inside = f"{words[0]}.{'down' if down else 'up'}.{number}"
            sampler = "downsample" if down else "upsample"
            place = f"{inside}.block.{words[4]}.{rest}" if kind == "resnets" else f"{inside}.{sampler}.{rest}"
        state[f"first_stage_model.{place}"] = value
    return state


def clip_state(network: Any, prefix: str) -> State:
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": v for name, v in network.state_dict().items()}


def open_clip_state(network: Any, prefix: str) -> State:
    tops, table = DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"], DIFFUSERS_TO_LDM_MAPPING["openclip"]["transformer"]
    weights, state = network.state_dict(), State()
    for name, value in weights.items():
        if name in tops:
            place, value = tops[name], value.T if name.startswith("text_projection") else value
        else:
            place = f"transformer.{renamed(name, table).replace('fc1', 'c_fc').replace('fc2', 'c_proj')}"
            if "k_proj" in place or "v_proj" in place:
                continue
            if "q_proj" in place:
                value = torch.cat([weights[name.replace("q_proj", f"{each}_proj")] for each in "qkv"])
                place = place.replace("q_proj.", "in_proj_")
        state[prefix + place] = value
    return state


def save_checkpoint(state: State, file: Path) -> Path:
    save_file({name: value.contiguous().clone() for name, value in state.items()}, file)
    return file


def sd_checkpoint(pipe: DiffusionPipeline) -> State:
    """The weights of a Stable Diffusion 1.x in the layout of ``v1-5-pruned.safetensors``."""
    text = clip_state(pipe.text_encoder, "cond_stage_model.transformer.")
    return {**unet_state(pipe.unet), **vae_state(pipe.vae), **text}


def sdxl_checkpoint(pipe: DiffusionPipeline) -> State:
    """The weights of an SDXL in the layout of ``sd_xl_base_1.0.safetensors``."""
    first = clip_state(pipe.text_encoder, "conditioner.embedders.0.transformer.")
    second = open_clip_state(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    return {**unet_state(pipe.unet), **vae_state(pipe.vae), **first, **second}


def stable_diffusion_1() -> DiffusionPipeline:
    return stable_diffusion()


def stable_diffusion_xl_base() -> DiffusionPipeline:
    """A tiny SDXL whose text encoders differ in width, as those of the published one."""
    torch.manual_seed(0)
    words = clip_tokenizer()
    config, wide = clip_config(len(words)), clip_config(len(words))
    wide.hidden_size, wide.num_hidden_layers = 64, LAYERS
    inner = {
        "cross_attention_dim": 96, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    }  # fmt: skip
    return quiet(
        diffusers.StableDiffusionXLPipeline(
            vae=autoencoder(), text_encoder=CLIPTextModel(config).eval(), tokenizer=words, tokenizer_2=words,
            text_encoder_2=CLIPTextModelWithProjection(wide).eval(), unet=unet(**inner), scheduler=ddim(),
            add_watermarker=False,
        )
    )  # fmt: skip
