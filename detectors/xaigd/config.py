"""The configuration of an X-AIGD detector, and its ``config.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from refiner.errors import ConfigError
from refiner.taxonomy import XaigdCategory

MODEL_TYPE: Final = "xaigd"
"""``model_type`` in the detector's ``config.json``."""
CATEGORIES: Final = tuple(XaigdCategory)
"""The channels of the segmentation head, in order."""
TIMM: Final = "timm"
"""``model_type`` of a backbone of the library timm."""
BACKBONES: Final = (
    "clip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "siglip_vision_model",
    "siglip2_vision_model",
    TIMM,
)
"""``model_type`` of the backbones that a detector can have. Fixed-size SigLIP 2 models are ``siglip_vision_model``."""
FITS: Final = ("whole", "crop")
POOLS: Final = ("cls", "mean")
METHODS: Final = ("rollout", "relevance", "gradcam")
REGIONS: Final = ("verdict", "all")


@dataclass(frozen=True, kw_only=True)
class XaigdConfig:
    """Settings of an X-AIGD detector; saved with its weights.

    Raises:
        ConfigError: a value is unknown or out of its range, or the detector would have no head.
    """

    backbone: Mapping[str, Any]
    """A config of transformers with its ``model_type``, or ``{"model_type": "timm", "name": NAME, "args": {...}}`` for
    a convolutional network of timm, such as ``resnet50``."""
    image_size: int
    """Height and width of the network's input, in pixels."""
    fit: str = "whole"
    """How an image is brought to ``image_size``. ``whole``: the image is stretched to it. ``crop``: its shorter side is
    scaled to ``short_side``, and the centre is cut out; nothing is found outside."""
    short_side: int = 0
    """In pixels, for ``crop``; 0: ``image_size``. X-AIGD evaluates 256 and a crop of 224, or 518 and a crop of 518."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Per RGB channel, in units of [0, 1]."""
    verdict: bool = True
    """Whether there is a head for real or generated (X-AIGD's artifact judgment, AJ)."""
    artifacts: bool = True
    """Whether there is a segmentation head (X-AIGD's perceptual artifact detection, PAD)."""
    pool: str = "cls"
    """What the verdict reads: ``cls``, the class token, or ``mean``, the mean over all patches."""
    decoder_width: int = 256
    """Channels inside the segmentation head."""
    zoom: int = 4
    """Outputs of the segmentation head per side of a patch."""
    heatmap: str = "rollout"
    """``rollout`` (gradient attention rollout) or ``relevance`` (Chefer et al.); ``gradcam`` for a network of timm."""
    layers: int = 0
    """Number of last layers whose attention makes the heat map; 0: all."""
    regions: str = "verdict"
    """``verdict``: only images that are called generated have regions, as in X-AIGD's task. ``all``: all images may."""
    threshold: float = 0.5
    """Images with a ``fake_probability`` above it are called generated."""
    artifact_threshold: float = 0.5
    """Smallest probability of a pixel in a region of the segmentation head."""
    heat_threshold: float = 0.5
    """Pixels of the heat map above it are in a region, if there is no segmentation head."""
    least_share: float = 0.001
    """Smallest region, as a share of the image."""

    def __post_init__(self) -> None:
        for name, known in (("fit", FITS), ("pool", POOLS), ("heatmap", METHODS), ("regions", REGIONS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"Expected {' or '.join(known)} for {name}, got {value!r}: change it.")
        kind = self.backbone.get("model_type")
        if kind not in BACKBONES:
            raise ConfigError(f"Expected a backbone of type {', '.join(BACKBONES)}, got {kind!r}: choose one of these.")
        if not (self.verdict or self.artifacts):
            raise ConfigError("An X-AIGD detector needs a verdict or artifacts: set one of them to true.")
        for name in ("threshold", "artifact_threshold", "heat_threshold", "least_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"Expected {name} in [0, 1], got {getattr(self, name)!r}: change it.")
        for name in ("image_size", "decoder_width", "zoom"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected {name} of at least 1, got {getattr(self, name)!r}: change it.")
        if self.layers < 0 or (self.short_side and self.short_side < self.image_size):
            raise ConfigError(
                f"Expected layers of at least 0 and short_side 0 or at least {self.image_size}, got {self.layers} and "
                f"{self.short_side}: change them."
            )
        self._check_method()

    def _check_method(self) -> None:
        fitting = METHODS[2:] if self.convolutional else METHODS[:2]
        if self.heatmap not in fitting:
            raise ConfigError(
                f"The heat map {self.heatmap!r} does not fit a backbone of type {self.backbone['model_type']}: set it "
                f"to {' or '.join(fitting)}."
            )
        if (self.convolutional or self.classless) and self.pool == "cls":
            raise ConfigError(f"A backbone of type {self.backbone['model_type']} has no class token: set pool to mean.")

    @property
    def convolutional(self) -> bool:
        """Whether the backbone is a convolutional network."""
        return self.backbone["model_type"] == TIMM

    @property
    def classless(self) -> bool:
        """Whether the backbone has neither class token nor registers."""
        return str(self.backbone["model_type"]).startswith("siglip")

    def to_dict(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {"model_type": MODEL_TYPE, **dataclasses.asdict(self), "backbone": dict(self.backbone)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> XaigdConfig:
        """Read the content of a ``config.json``.

        Raises:
            ConfigError: as for the class.
            KeyError, TypeError, ValueError: it is of another kind, or lacks values.
        """
        given = {name: value for name, value in values.items() if name != "model_type"}
        for name in ("mean", "std"):
            if name in given:
                red, green, blue = given[name]
                given[name] = (float(red), float(green), float(blue))
        return cls(**given)
