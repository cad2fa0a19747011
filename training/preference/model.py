"""The micro judge before training: a CLIP in open_clip's format, with initial weights for training from scratch."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import open_clip
import torch
from torch import nn

from refiner.metrics.hps.scorer import HPSScorer
from refiner.micro.world import SIZE
from refiner.training.preference.data import CELLS
from refiner.training.world.losses import sines
from refiner.training.world.tokenizers import CONTEXT_LENGTH, judge_tokenizer

_FIRST_SCALE = 30.0
"""Initial factor on the cosines. It is so large that a small change of a feature can mark a flawed image."""


def model_config(vocabulary: int) -> dict[str, Any]:
    """open_clip's ``model_cfg`` of the micro judge."""
    return {
        "embed_dim": 256,
        "vision_cfg": {
            "image_size": SIZE,
            "patch_size": SIZE // CELLS,
            "layers": 6,
            "width": 192,
            "head_width": 96,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "refiner/hps-micro",
            "width": 128,
            "heads": 2,
            "layers": 3,
        },
    }


def build_scorer(seed: int) -> HPSScorer:
    """The micro judge with random weights. It is saved to a folder and loaded again, like any other scorer."""
    torch.manual_seed(seed)
    tokenizer = judge_tokenizer()
    config = model_config(len(tokenizer))
    clip = open_clip.CLIP(**config)
    _initialise(clip)
    with tempfile.TemporaryDirectory() as folder:
        HPSScorer(model=clip, tokenizer=tokenizer, config=config, name="").save_pretrained(folder)
        return HPSScorer.from_pretrained(folder, device="cpu")


@torch.no_grad()
def _initialise(clip: open_clip.CLIP) -> None:
    """Initialise the image tower for training from scratch. open_clip's initial values assume a checkpoint."""
    tower = clip.visual
    tower.positional_embedding[1:] = 0.2 * sines(CELLS, tower.positional_embedding.shape[1])
    nn.init.normal_(tower.conv1.weight, std=tower.conv1.weight[0].numel() ** -0.5)
    for block in tower.transformer.resblocks:
        for weight in (block.attn.out_proj.weight, block.mlp.c_proj.weight):
            nn.init.normal_(weight, std=1e-3)
    clip.logit_scale.fill_(math.log(_FIRST_SCALE))
