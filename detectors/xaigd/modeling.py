"""The network of an X-AIGD detector: a backbone, a head for the verdict, and a segmentation head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from refiner.detectors.xaigd.attention import NAME, recording
from refiner.detectors.xaigd.config import CATEGORIES, XaigdConfig
from refiner.errors import ConfigError

TRANSFORMERS: Mapping[str, tuple[Any, Any]] = {
    "clip_vision_model": (CLIPVisionConfig, CLIPVisionModel),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, Dinov2WithRegistersModel),
    "dinov3_vit": (DINOv3ViTConfig, DINOv3ViTModel),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
    "siglip2_vision_model": (Siglip2VisionConfig, Siglip2VisionModel),
}
"""``model_type`` -> classes of config and model."""


class Seen(NamedTuple):
    """What a backbone makes of B images."""

    patches: Tensor  # float (B, C, h, w)
    pooled: Tensor  # float (B, C): what the verdict reads
    attention: tuple[Tensor, ...]  # of the recorded layers, float32 (B, heads, T, T)
    prefix: int  # number of tokens before those of the patches


class XaigdOutput(NamedTuple):
    """The answer to B images."""

    verdict: Tensor | None  # float (B,), logit of "generated"; None without this head
    artifacts: Tensor | None  # float (B, 7, h', w'), logits in the order of ``CATEGORIES``; None without this head
    seen: Seen


class Transformer(nn.Module):
    """A vision transformer of transformers as a backbone.

    The class token is read after the network's last normalisation, as its own pooled output. SigLIP has no class token
    and its attention head is left out.
    """

    def __init__(self, config: XaigdConfig) -> None:
        super().__init__()
        own, model = TRANSFORMERS[config.backbone["model_type"]]
        values = {name: value for name, value in config.backbone.items() if name != "model_type"}
        if config.classless:
            values["vision_use_head"] = False
        self.config, self.pool, self.classless = own(**values), config.pool, config.classless
        self.side = config.image_size // self.config.patch_size
        if config.image_size % self.config.patch_size:
            raise ConfigError(
                f"The image size {config.image_size} must be a multiple of the backbone's patch size "
                f"{self.config.patch_size}: set image_size to {self.side * self.config.patch_size}, or to another one."
            )
        self.model = model(self.config)
        self.model.set_attn_implementation(NAME)
        self.kind = config.backbone["model_type"]
        self.resized = config.image_size != self.config.to_dict().get("image_size", config.image_size)

    @property
    def channels(self) -> int:
        """Channels of a patch."""
        return int(self.config.hidden_size)

    def forward(self, pixels: Tensor, layers: int | None) -> Seen:
        """``layers``: number of last layers whose attention is recorded; 0: all. None: no layer is."""
        depth = int(self.config.num_hidden_layers)
        skipped = depth if layers is None else depth - (layers or depth)
        with recording(skipped) as record:
            output = self.model(**self._inputs(pixels))
        hidden = output.last_hidden_state
        prefix = hidden.shape[1] - self.side**2
        patches = hidden[:, prefix:].transpose(1, 2).unflatten(2, (self.side, self.side))
        pooled = output.pooler_output if self.pool == "cls" else patches.mean(dim=(2, 3))
        return Seen(patches, pooled, tuple(record.weights), prefix)

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        if self.kind == "siglip2_vision_model":
            patch = self.config.patch_size
            cells = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, 3, h, w, patch, patch)
            flat = cells.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
            shapes = torch.full((len(pixels), 2), self.side, dtype=torch.long)
            return {"pixel_values": flat, "pixel_attention_mask": None, "spatial_shapes": shapes}
        fitted = self.resized and self.kind in ("clip_vision_model", "siglip_vision_model")
        return {"pixel_values": pixels, **({"interpolate_pos_encoding": True} if fitted else {})}


class Convolutional(nn.Module):
    """A convolutional network of timm as a backbone: the features of its last stage."""

    def __init__(self, config: XaigdConfig) -> None:
        super().__init__()
        import timm

        name, args = str(config.backbone.get("name")), config.backbone.get("args") or {}
        try:
            self.model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **args)
            with torch.no_grad():
                shape = self.model.eval()(torch.zeros(1, 3, config.image_size, config.image_size)).shape
        except Exception as error:  # timm raises what its networks raise
            raise ConfigError(
                f"timm cannot make the network {name!r} for {config.image_size} pixels ({error}): check the name."
            ) from error
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ConfigError(f"Expected a convolutional network of timm, got {name!r}: choose another one.")
        self.channels, self.side = int(shape[1]), int(shape[2])

    def forward(self, pixels: Tensor, _layers: int | None) -> Seen:
        """``_layers`` has no meaning here: there is no attention."""
        patches = self.model(pixels)
        if torch.is_grad_enabled() and not patches.requires_grad:
            patches.requires_grad_()  # a frozen network; gradients start here
        return Seen(patches, patches.mean(dim=(2, 3)), (), 0)


class ArtifactHead(nn.Module):
    """Segmentation from patches (B, C, h, w) to logits (B, 7, h * zoom, w * zoom): three convolutions and a shuffle.

    The paper does not describe its decoder; this one is ours.
    """

    def __init__(self, channels: int, width: int, zoom: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, len(CATEGORIES) * zoom**2, 3, padding=1)
        self.zoom = zoom
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias, -4.0)  # artifacts are rare
        nn.init.normal_(self.leave.weight, std=0.01)

    def forward(self, patches: Tensor) -> Tensor:
        hidden = functional.gelu(self.enter(patches))
        hidden = hidden + functional.gelu(self.near(hidden))
        return functional.pixel_shuffle(self.leave(hidden), self.zoom)


class XaigdModel(nn.Module):
    """Backbone and heads.

    Args:
        config: of the detector.

    Raises:
        ConfigError: the backbone cannot be made.
    """

    def __init__(self, config: XaigdConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone: Convolutional | Transformer = (
            Convolutional(config) if config.convolutional else Transformer(config)
        )
        channels = self.backbone.channels
        self.verdict = nn.Linear(channels, 1) if config.verdict else None
        self.artifacts = ArtifactHead(channels, config.decoder_width, config.zoom) if config.artifacts else None

    @property
    def side(self) -> int:
        """Patches in a row, which is the side of heat maps."""
        return self.backbone.side

    def forward(self, pixels: Tensor, layers: int | None = None) -> XaigdOutput:
        """Look at images.

        Args:
            pixels: normalised, float (B, 3, image_size, image_size).
            layers: number of last layers whose attention is recorded, for heat maps; 0: all. None: no layer is.
        """
        seen: Seen = self.backbone(pixels, layers)
        verdict = None if self.verdict is None else self.verdict(seen.pooled)[:, 0]
        artifacts = None if self.artifacts is None else self.artifacts(seen.patches)
        return XaigdOutput(verdict, artifacts, seen)
