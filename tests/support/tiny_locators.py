"""An OWL-ViT with a few thousand random weights, which finds something in every image."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer, OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor


def save_locator(folder: Path) -> Path:
    """Write the model as a transformers folder."""
    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz'-0123456789"]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=16)
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**shared, "vocab_size": len(words), "bos_token_id": 1, "eos_token_id": 2}
    config = OwlViTConfig(
        text_config=text, vision_config={**shared, "image_size": 32, "patch_size": 8}, projection_dim=32
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)
    OwlViTProcessor(OwlViTImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
