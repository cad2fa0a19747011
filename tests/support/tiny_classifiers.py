"""Checkpoints of real/generated classifiers in their published layouts, with random weights."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import timm.models.convnext
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def shaken(network: Any, seed: int = 0) -> Any:
    """The network with random statistics of its normalisations too, ready for inference."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 0.6, 0.2)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.05, 0.3)
    network.eval()
    with torch.no_grad():  # verdicts near 0.5, so that they differ from image to image
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        last.bias -= network(torch.rand(1, 3, 128, 128) * 2 - 1)[0]
    return network


@cache
def cnnspot_network() -> Any:
    """A ResNet-50 as torchvision has it, with one output."""
    torch.manual_seed(1)
    return shaken(resnet50(num_classes=1))


def save_cnnspot(path: Path, network: nn.Module | None = None) -> Path:
    """As CNNDetection's trainer saves: beside the state of the optimizer."""
    state = (network or cnnspot_network()).state_dict()
    torch.save({"model": state, "optimizer": {"param_groups": [{"lr": 1e-4}]}, "total_steps": 7}, path)
    return path


class NprNetwork(nn.Module):
    """NPR from torch's own functions: nearest neighbours down and up, and half a ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        body: Any = resnet50(num_classes=1)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1, self.layer1, self.layer2 = body.bn1, body.layer1, body.layer2
        self.fc1 = nn.Linear(512, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        small = functional.interpolate(pixels, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
        large = functional.interpolate(small, scale_factor=2.0, mode="nearest", recompute_scale_factor=True)
        hidden = functional.relu(self.bn1(self.conv1((pixels - large) * 2.0 / 3.0)))
        hidden = self.layer2(self.layer1(nn.MaxPool2d(3, stride=2, padding=1)(hidden)))
        return self.fc1(functional.adaptive_avg_pool2d(hidden, 1).flatten(1))


@cache
def npr_network() -> Any:
    torch.manual_seed(2)
    return shaken(NprNetwork())


def save_npr(path: Path, network: nn.Module | None = None) -> Path:
    torch.save((network or npr_network()).state_dict(), path)
    return path


def save_backbone(folder: Path, *, whole: bool = True) -> Path:
    """A tiny CLIP, or its image encoder alone, as transformers saves them."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, image_size=224,
        patch_size=56, projection_dim=24, initializer_range=0.3,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
        projection_dim=24, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=24)
    network: Any = CLIPModel(config) if whole else CLIPVisionModelWithProjection(vision)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    network.save_pretrained(folder)
    return folder


def save_univfd(path: Path, width: int = 24) -> Path:
    torch.manual_seed(4)
    torch.save(OrderedDict(weight=torch.randn(1, width), bias=torch.tensor([0.2])), path)
    return path


class DrctConvNetwork(nn.Module):
    """The layout of DRCT on ConvNeXt, tiny."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.model = timm.models.convnext.ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 16, 24, 32), num_classes=20)
        self.fc = nn.Linear(20, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.2)
            if hasattr(module, "gamma"):
                nn.init.normal_(module.gamma)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.model(pixels))


class DrctClipNetwork(nn.Module):
    """The layout of DRCT on CLIP, tiny: the whole CLIP in the names of OpenAI's package, which open_clip shares."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.model = open_clip.CLIP(
            embed_dim=24,
            vision_cfg={"image_size": 224, "layers": 3, "width": 128, "patch_size": 56, "head_width": 64},
            text_cfg={"context_length": 7, "vocab_size": 9, "width": 16, "heads": 1, "layers": 1},
            quick_gelu=True,
        )
        self.model.fc = nn.Linear(24, 20)
        self.fc = nn.Linear(20, 2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.2)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc(self.model.fc(self.model.model.encode_image(pixels)))


def drct_network(kind: str, **options: int) -> Any:
    torch.manual_seed(5)
    return (DrctConvNetwork(**options) if kind == "convnext" else DrctClipNetwork()).eval()


def save_drct(path: Path, kind: str, network: nn.Module | None = None) -> Path:
    torch.save((network or drct_network(kind)).state_dict(), path)
    return path
