"""Tiny folders in the layouts in which LEGION's weights exist, with a sentencepiece tokenizer trained here."""

from __future__ import annotations

import functools
import io
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from refiner.detectors.legion.conversion import PROMPT
from refiner.detectors.legion.reading import SPECIAL

Layout = Literal["legion", "glamm", "stage-2", "one file"]
LAYOUTS: tuple[Layout, ...] = ("legion", "glamm", "stage-2", "one file")
"""Shards without the CLIP tower; more of them, with the region encoder; of the Trainer, with tower and verdict head;
one file."""
PIECES, ADDED = 380, 7
WORDS = PIECES + ADDED
"""Tokens of the text model, and with those that LEGION adds."""
TEXT, INNER, TOWER, SAM, OUT, SIDE = 64, 128, 64, 16, 32, 112
_TOWER = "model.vision_tower.vision_tower.vision_model"


@functools.cache
def sentencepiece_model() -> bytes:
    """A tokenizer with the settings of LLaMA's: byte-pair encoding, bytes for unknown characters, a space in front."""
    model = io.BytesIO()
    letters = " ".join(string.ascii_letters + string.digits + string.punctuation)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*PROMPT.split(". "), letters] * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def attention(prefix: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes |= {f"{prefix}.{name}.weight": (inner, width), f"{prefix}.{name}.bias": (inner,)}
    return shapes | {f"{prefix}.out_proj.weight": (width, inner), f"{prefix}.out_proj.bias": (width,)}


def affine(prefix: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": shape, f"{prefix}.bias": (shape[0],)}


def llama_layout() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, TEXT),
        "model.norm.weight": (TEXT,),
        "lm_head.weight": (WORDS, TEXT),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
        "model.layers.0.input_layernorm.weight": (TEXT,),
        "model.layers.0.post_attention_layernorm.weight": (TEXT,),
        "model.layers.0.mlp.gate_proj.weight": (INNER, TEXT),
        "model.layers.0.mlp.up_proj.weight": (INNER, TEXT),
        "model.layers.0.mlp.down_proj.weight": (TEXT, INNER),
        "model.region_encoder.mlvl_fuse.input_conv.0.weight": (2, 2),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"model.layers.0.self_attn.{name}.weight"] = (TEXT, TEXT)
    shapes |= affine("model.mm_projector.0", TEXT, TOWER) | affine("model.mm_projector.2", TEXT, TEXT)
    return shapes | affine("model.text_hidden_fcs.0.0", TEXT, TEXT) | affine("model.text_hidden_fcs.0.2", OUT, TEXT)


def sam_encoder_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes = {f"{root}.pos_embed": (1, 4, 4, SAM)} | affine(f"{root}.patch_embed.proj", SAM, 3, 8, 8)
    for index, reach in enumerate((2, 4)):
        block = f"{root}.blocks.{index}"
        shapes |= affine(f"{block}.norm1", SAM) | affine(f"{block}.norm2", SAM)
        shapes |= affine(f"{block}.attn.qkv", 3 * SAM, SAM) | affine(f"{block}.attn.proj", SAM, SAM)
        shapes |= {f"{block}.attn.rel_pos_h": (2 * reach - 1, 8), f"{block}.attn.rel_pos_w": (2 * reach - 1, 8)}
        shapes |= affine(f"{block}.mlp.lin1", 20, SAM) | affine(f"{block}.mlp.lin2", SAM, 20)
    shapes |= {f"{root}.neck.0.weight": (OUT, SAM, 1, 1), f"{root}.neck.2.weight": (OUT, OUT, 3, 3)}
    return shapes | affine(f"{root}.neck.1", OUT) | affine(f"{root}.neck.3", OUT)


def sam_prompt_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{root}.pe_layer.positional_encoding_gaussian_matrix": (2, OUT // 2)}
    shapes |= {f"{root}.point_embeddings.{index}.weight": (1, OUT) for index in range(4)}
    shapes |= {f"{root}.{name}.weight": (1, OUT) for name in ("not_a_point_embed", "no_mask_embed")}
    down = f"{root}.mask_downscaling"
    shapes |= affine(f"{down}.0", 4, 1, 2, 2) | affine(f"{down}.1", 4) | affine(f"{down}.3", 16, 4, 2, 2)
    return shapes | affine(f"{down}.4", 16) | affine(f"{down}.6", OUT, 16, 1, 1)


def sam_decoder_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{root}.iou_token.weight": (1, OUT), f"{root}.mask_tokens.weight": (4, OUT)}
    for index in range(2):
        layer = f"{root}.transformer.layers.{index}"
        shapes |= attention(f"{layer}.self_attn", OUT, OUT)
        shapes |= attention(f"{layer}.cross_attn_token_to_image", OUT, OUT // 2)
        shapes |= attention(f"{layer}.cross_attn_image_to_token", OUT, OUT // 2)
        shapes |= affine(f"{layer}.mlp.lin1", 20, OUT) | affine(f"{layer}.mlp.lin2", OUT, 20)
        for norm in range(1, 5):
            shapes |= affine(f"{layer}.norm{norm}", OUT)
    shapes |= attention(f"{root}.transformer.final_attn_token_to_image", OUT, OUT // 2)
    shapes |= affine(f"{root}.transformer.norm_final_attn", OUT)
    up = f"{root}.output_upscaling"
    shapes |= {f"{up}.0.weight": (OUT, OUT // 4, 2, 2), f"{up}.0.bias": (OUT // 4,)} | affine(f"{up}.1", OUT // 4)
    shapes |= {f"{up}.3.weight": (OUT // 4, OUT // 8, 2, 2), f"{up}.3.bias": (OUT // 8,)}
    for head in range(4):
        mlp = f"{root}.output_hypernetworks_mlps.{head}.layers"
        shapes |= affine(f"{mlp}.0", OUT, OUT) | affine(f"{mlp}.1", OUT, OUT) | affine(f"{mlp}.2", OUT // 8, OUT)
    iou = f"{root}.iou_prediction_head.layers"
    return shapes | affine(f"{iou}.0", 12, OUT) | affine(f"{iou}.1", 12, 12) | affine(f"{iou}.2", 4, 12)


def original_layout() -> dict[str, Tensor]:
    """A tiny checkpoint with the names of weights of the public LEGION folder."""
    root = "model.grounding_encoder"
    shapes = llama_layout() | sam_encoder_layout(f"{root}.image_encoder")
    shapes |= sam_prompt_layout(f"{root}.prompt_encoder") | sam_decoder_layout(f"{root}.mask_decoder")
    generator = torch.Generator().manual_seed(0)
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@functools.cache
def tower() -> CLIPVisionModel:
    """A CLIP tower whose heads have 64 channels, as in the public one."""
    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=TOWER,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=SIDE,
        patch_size=14,
        projection_dim=8,
        initializer_range=0.2,
    )
    return CLIPVisionModel(config).eval()


def _teach(state: dict[str, Tensor], generator: torch.Generator) -> None:
    """Let answers go round ``<p> word </p> [SEG] word``, with words that depend on the image."""
    embedding, head = state["model.embed_tokens.weight"], state["lm_head.weight"]
    mark = {token: PIECES + place for place, token in enumerate(SPECIAL)}
    names, flaws = slice(PIECES - 40, PIECES - 20), slice(PIECES - 20, PIECES)
    state["model.norm.weight"].fill_(1.0)
    state["model.layers.0.self_attn.v_proj.weight"] *= 6
    state["model.mm_projector.2.weight"] *= 20
    state["model.text_hidden_fcs.0.2.weight"] *= 20
    decoder = "model.grounding_encoder.mask_decoder"
    state[f"{decoder}.output_upscaling.3.bias"].zero_()
    state[f"{decoder}.output_upscaling.1.weight"].fill_(1.0)
    state[f"{decoder}.transformer.norm_final_attn.weight"].fill_(3.0)
    embedding *= 8
    embedding[names] = embedding[names][:1] + 0.1 * embedding[names]
    embedding[flaws] = embedding[flaws][:1] + 0.1 * embedding[flaws]
    head *= 0.1
    for before, after in (("<p>", names), ("[SEG]", flaws)):
        head[after] = embedding[mark[before]] / 2 + 0.3 * torch.randn(20, TEXT, generator=generator)
    head[mark["</p>"]] = embedding[names].mean(0)
    head[mark["[SEG]"]] = embedding[mark["</p>"]]
    head[mark["<p>"]] = embedding[flaws].mean(0)


def original_state(layout: Layout = "legion") -> dict[str, Tensor]:
    """The weights that a layout has in its files; those that several layouts have are equal."""
    state = original_layout()
    generator = torch.Generator().manual_seed(7)
    _teach(state, generator)
    if layout == "stage-2":
        state |= {f"{_TOWER}.{name}": weight for name, weight in tower().state_dict().items()}
        shapes = affine("prediction_head.0", 24, TOWER) | affine("prediction_head.2", 2, 24)
        state |= {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return state


def flat_config(**changes: Any) -> dict[str, Any]:
    """The config that all these layouts have: that of the text model, with the names of the other parts."""
    return {
        "model_type": "llava",
        "hidden_size": TEXT,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": WORDS,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mm_vision_tower": "somewhere/else",
        "mm_vision_select_layer": -2,
        "out_dim": OUT,
        **changes,
    }


def save_original(
    folder: Path, layout: Layout = "legion", state: Mapping[str, Tensor] | None = None, **config: Any
) -> Path:
    """Write a folder; ``state`` replaces its weights, ``config`` changes settings."""
    folder.mkdir(parents=True)
    held = original_state(layout) if state is None else dict(state)
    (folder / "config.json").write_text(json.dumps(flat_config(**config)))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "pad_token": "<unk>", "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_weights(folder, held, {"legion": 2, "glamm": 4, "stage-2": 3, "one file": 1}[layout], layout)
    if layout != "stage-2":
        tower().save_pretrained(folder / "vision_tower")
        sides = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        CLIPImageProcessorPil(**sides).save_pretrained(folder / "vision_tower")
    return folder


def save_weights(folder: Path, state: Mapping[str, Tensor], count: int, layout: Layout) -> None:
    """Write the weights to ``count`` files, with an index if there are several."""
    names, ours = sorted(state), layout == "stage-2"
    stem, suffix = ("model", ".safetensors") if ours else ("pytorch_model", ".bin")
    places = {}
    for number in range(count):
        file = f"{stem}{suffix}" if count == 1 else f"{stem}-{number + 1:05d}-of-{count:05d}{suffix}"
        part = {name: state[name].contiguous() for name in names[number::count]}
        places |= dict.fromkeys(part, file)
        if ours:
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    if count > 1:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
