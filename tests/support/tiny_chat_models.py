"""Tiny random chat models with real architectures, which write only letters."""

from __future__ import annotations

from string import ascii_letters
from typing import NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from refiner.detectors.chat.local import LocalChat

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEXT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
IMAGE_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_of(template):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return Qwen2TokenizerFast(
        tokenizer_object=core, unk_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL, chat_template=template,
    )  # fmt: skip


def settle(model, tokenizer, folder):
    """Save a model that writes only letters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # keeps the scores of tokens clearly apart
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    letters = set(tokenizer.convert_tokens_to_ids(list(ascii_letters)))
    silent = [token for token in range(len(tokenizer)) if token not in letters | {tokenizer.eos_token_id}]
    model.generation_config.suppress_tokens = silent
    model.save_pretrained(folder)
    return folder


def save_writer(folder, *, tied=False):
    """Folder of a text model; if ``tied``, it has one matrix for the embeddings and the head."""
    torch.manual_seed(1)
    tokenizer = tokenizer_of(TEXT_TEMPLATE)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=tied,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return settle(Qwen2ForCausalLM(config), tokenizer, folder)


class Kind(NamedTuple):
    """A type of vision-language models."""

    model: type
    processor: type
    video: type
    patch: int
    pixels: tuple[int, int]
    """Limits of the number of pixels of an image."""


KINDS = {
    "qwen2_5_vl": Kind(
        Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, 14, (3136, 313600)
    ),
    "qwen3_vl": Kind(Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor, 16, (1024, 16384)),
}


def _viewing_processor(words=(), kind="qwen3_vl", marks=()):
    tokenizer = tokenizer_of(IMAGE_TEMPLATE)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
    least, most = KINDS[kind].pixels
    size = {"shortest_edge": least, "longest_edge": most}
    return KINDS[kind].processor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=KINDS[kind].patch, merge_size=2, temporal_patch_size=2, size=size
        ),
        tokenizer=tokenizer, video_processor=KINDS[kind].video(), chat_template=IMAGE_TEMPLATE,
    )  # fmt: skip


def _viewing_config(tokenizer, context, kind="qwen3_vl"):
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": context,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    tokens = {
        "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }  # fmt: skip
    if kind == "qwen2_5_vl":
        return Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={**vision, "patch_size": 14, "window_size": 28, "fullatt_block_indexes": [1]},
            **tokens,
        )
    return Qwen3VLConfig(
        text_config={**text, "head_dim": 8, "rope_parameters": {**rope, "mrope_interleaved": True}},
        vision_config={**vision, "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        **tokens,
    )


def save_viewer(folder, context=1024):
    """Folder of a model that takes images."""
    processor = _viewing_processor()
    processor.save_pretrained(folder)
    torch.manual_seed(1)
    model = Qwen3VLForConditionalGeneration(_viewing_config(processor.tokenizer, context))
    return settle(model, processor.tokenizer, folder)


def save_speaker(folder, pieces, *, kind="qwen3_vl", marks=(), rivals=()):
    """Folder of a model that takes images and always writes the same text.

    Args:
        folder: where it is saved.
        pieces: the text in pieces, each of them one token; no piece may be repeated.
        kind: type of the model.
        marks: those of the pieces that are special tokens.
        rivals: triples of a piece, another text, and by how much its score is below that of the next piece.
    """
    words = [piece for piece in pieces if piece not in marks] + [rival for _, rival, _ in rivals]
    processor = _viewing_processor(words, kind, marks)
    tokenizer = processor.tokenizer
    torch.manual_seed(1)
    model = KINDS[kind].model(_viewing_config(tokenizer, 8192, kind))
    start = tokenizer.encode("\n", add_special_tokens=False)[-1]
    chain = [start, *tokenizer.convert_tokens_to_ids(list(pieces)), tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "visual" not in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()  # the state of a token depends on this token alone
        embeddings, head = model.get_input_embeddings().weight, model.lm_head.weight
        states = embeddings / embeddings.square().mean(1, keepdim=True).sqrt()
        head.zero_()
        # Solves head[next] @ state = 30 for each token of the chain, and 0 for the next tokens of all others.
        scores = torch.linalg.pinv(states[chain[:-1]])
        for place, token in enumerate(chain[1:]):
            head[token] += 30 * scores[:, place]
        for piece, rival, less in rivals:
            head[tokenizer.convert_tokens_to_ids(rival)] += (30 - less) * scores[:, 1 + list(pieces).index(piece)]
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def save_teller(folder, answers, requests):
    """Folder of a model that takes images and returns one of ``answers``, depending on the image.

    Each answer is one token. In the hidden state, element 0 means "answered" and element 1 "not answered yet". Only the
    embeddings set them, and only they decide on the end token. ``requests`` are examples of later requests, at least as
    many as answers. The model returns the answer whose example has the hidden state nearest to that of the request.
    """
    asked = {word for request in requests for word in f"{request.system} {request.text}".split() if len(word) > 2}
    asked -= {word for word in asked if word in IMAGE_TEMPLATE}  # such a token would be a control token
    processor = _viewing_processor([*answers, *sorted(asked)])  # whole words, for speed
    tokenizer = processor.tokenizer
    torch.manual_seed(1)
    model = Qwen3VLForConditionalGeneration(_viewing_config(tokenizer, 8192))
    settle(model, tokenizer, folder)
    said, end = tokenizer.convert_tokens_to_ids(list(answers)), tokenizer.eos_token_id
    silent = [token for token in range(len(tokenizer)) if token not in {*said, end}]
    model.generation_config.suppress_tokens = silent
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if len(weight) == 32 and name.endswith(("o_proj.weight", "down_proj.weight", "linear_fc2.weight")):
                weight[:2] = 0
        embeddings, head = model.get_input_embeddings().weight, model.lm_head.weight
        embeddings[:, 0], embeddings[:, 1] = 0, 0.1
        embeddings[said] = 0
        embeddings[said, 0] = 1e4
        seen = _last_states(model, processor, requests)
        _, sizes, axes = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        whitened = axes[:4].T / sizes[:4].clamp(min=1e-3)
        seeds = ((seen - seen.mean(0)) @ whitened)[: len(said)]
        head[said] = seeds @ whitened.T
        head[said, 0], head[said, 1] = 0, -(head[said] @ seen.mean(0) + seeds.square().sum(1) / 2) / seen.mean(0)[1]
        head[end] = 0
        head[end, 0], head[end, 1] = 1e9, -1e9
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _last_states(model, processor, requests):
    """Hidden states before the first token of each answer, (N, 32)."""
    states = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][:, -1].clone()))
    for request in requests:
        LocalChat(model, processor, name="teller", max_tokens=1).complete([request])
    hook.remove()
    return torch.cat(states)
