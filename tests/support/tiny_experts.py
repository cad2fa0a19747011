"""Small pixel experts: in our layout, and in the layout of DDA's public checkpoint with a network of Meta's names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.detectors.aligngemini.config import ExpertConfig
from refiner.detectors.aligngemini.expert import save_expert
from refiner.detectors.aligngemini.modeling import Expert

WIDTH, RANK, POSITIONS, PATCH = 64, 4, 5, 56  # patches of 56 pixels keep the network small: 336 / 56 = 6


def save_tiny_expert(folder: Path, side: int = 96) -> Path:
    """Save an expert with random weights that calls some images of the micro world generated, and others real."""
    torch.manual_seed(3)
    backbone = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "mlp_ratio": 2,
        "use_mask_token": False, "initializer_range": 0.2,
    }  # fmt: skip
    network = Expert(ExpertConfig(backbone=backbone, side=side))
    with torch.no_grad():
        network.head.weight.mul_(10)
    save_expert(network, folder)
    return folder


class _Adapted(nn.Module):
    """A linear layer with an adapter beside it, as in the authors' code."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.original_layer = nn.Linear(wide, out)
        self.lora = nn.Module()
        self.lora.lora_A = nn.Parameter(torch.randn(RANK, wide) * 0.3)
        self.lora.lora_B = nn.Parameter(torch.randn(out, RANK) * 0.3)

    def forward(self, values: Tensor) -> Tensor:
        return self.original_layer(values) + values @ self.lora.lora_A.T @ self.lora.lora_B.T / RANK


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.mlp, self.ls1, self.ls2 = (nn.Module() for _ in range(4))
        self.attn.qkv, self.attn.proj = _Adapted(WIDTH, 3 * WIDTH), _Adapted(WIDTH, WIDTH)
        self.mlp.fc1, self.mlp.fc2 = _Adapted(WIDTH, 4 * WIDTH), _Adapted(4 * WIDTH, WIDTH)
        for part in (self.ls1, self.ls2):
            part.gamma = nn.Parameter(torch.rand(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.attn.qkv(self.norm1(tokens)).chunk(3, dim=-1)
        shares = (query @ key.transpose(1, 2) / WIDTH**0.5).softmax(-1)
        tokens = tokens + self.ls1.gamma * self.attn.proj(shares @ value)
        return tokens + self.ls2.gamma * self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(tokens))))


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + POSITIONS**2, WIDTH))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.ModuleList(_Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed.proj(pixels)
        side = patches.shape[-1]
        grid = self.pos_embed[:, 1:].reshape(1, POSITIONS, POSITIONS, WIDTH).permute(0, 3, 1, 2)
        scale = (side + 0.1) / POSITIONS  # as Meta's code has it
        grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        places = grid.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)
        tokens = patches.flatten(2).transpose(1, 2) + places
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(pixels), 1, WIDTH)
        tokens = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]


class PublishedExpert(nn.Module):
    """The network of DDA's public checkpoint, written from its names and shapes, with one head and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.base_model = nn.Module()
        self.base_model.model, self.base_model.fc = _Backbone(), nn.Linear(WIDTH, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits, float (N,), of normalised pixels (N, 3, 336, 336)."""
        return self.base_model.fc(self.base_model.model(pixels))[:, 0]


def save_published(path: Path, *, parallel: bool = False) -> PublishedExpert:
    """Save the checkpoint of a ``PublishedExpert``; ``parallel``: as torch's ``DataParallel`` names its weights."""
    network = PublishedExpert().eval()
    prefix = "module." if parallel else ""
    torch.save({"model": {f"{prefix}{name}": weight for name, weight in network.state_dict().items()}}, path)
    return network
