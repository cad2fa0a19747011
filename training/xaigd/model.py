"""The network that a training starts from: a detector, a pretrained backbone, or random weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from refiner.detectors.base import check_complete, first_line, no_progress_bars, read_config
from refiner.detectors.xaigd.config import MODEL_TYPE, TIMM, XaigdConfig
from refiner.detectors.xaigd.detector import load_network
from refiner.detectors.xaigd.modeling import TRANSFORMERS, XaigdModel
from refiner.errors import ConfigError, WeightsError
from refiner.hub import locate, resolve
from refiner.training.world.losses import sines
from refiner.training.xaigd.open_clip import CONFIG as OPEN_CLIP_CONFIG
from refiner.training.xaigd.open_clip import OPEN_CLIP, read_tower
from refiner.training.xaigd.settings import Architecture, XaigdSettings

_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
"""``model_type`` of models of images and texts -> that of their image part."""


def check_base(settings: XaigdSettings) -> None:
    """Check that there is a base where one is needed, and that a training can start from it; nothing is downloaded.

    Raises:
        ConfigError: a frozen backbone without a base.
        ModelNotFoundError: there is no such model.
        WeightsError: it is a model of another kind.
    """
    if settings.frozen and not settings.base:
        raise ConfigError("A frozen backbone needs a detector or a backbone to start from: name one with --base.")
    place = locate(settings.base, "detector") if settings.base else None
    if isinstance(place, Path):
        _kind_of(_config(place), settings.base)


def start_from(settings: XaigdSettings) -> XaigdModel:
    """Make the network of a training in float32, on the CPU. Heads that the base does not have are random.

    Raises:
        ConfigError: sizes do not fit the base.
        WeightsError: the base is of another kind, incomplete or damaged.
    """
    torch.manual_seed(settings.seed)
    if not settings.base:
        return _fresh(settings)
    folder = resolve(settings.base, "detector")
    values = _config(folder)
    if _kind_of(values, settings.base) == MODEL_TYPE:
        return _continued(settings, folder)
    return _with_backbone(settings, folder, values)


def _config(folder: Path) -> dict[str, Any]:
    """The config of a model in the layout of transformers, timm or, if it has no other one, open_clip."""
    open_clip = (folder / OPEN_CLIP_CONFIG).exists() and not (folder / "config.json").exists()
    return {"model_type": OPEN_CLIP} if open_clip else read_config(folder)


def _kind_of(values: Mapping[str, Any], base: str) -> str:
    """``xaigd``, or the type of the backbone in a folder."""
    if "architecture" in values and "model_type" not in values:
        return TIMM
    kind = str(values.get("model_type"))
    kind = _TOWERS.get(kind, kind)
    if kind not in (MODEL_TYPE, OPEN_CLIP) and kind not in TRANSFORMERS:
        raise WeightsError(
            f"Expected an X-AIGD detector or an image backbone ({', '.join(TRANSFORMERS)}, open_clip or timm) as base, "
            f"got {base!r} of type {kind!r}: choose one with --base."
        )
    return kind


def _fresh(settings: XaigdSettings) -> XaigdModel:
    shape = settings.architecture
    backbone = {
        "model_type": "dinov2",
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "mlp_ratio": 4,
        "image_size": shape.image_size,
        "patch_size": shape.patch,
    }
    model = XaigdModel(
        XaigdConfig(
            backbone=backbone,
            image_size=shape.image_size,
            verdict=settings.judges,
            artifacts=settings.marks,
            decoder_width=settings.decoder_width,
            zoom=settings.zoom,
            layers=settings.alignment.layers,
        )
    )
    _initialise(model, shape)
    return model


@torch.no_grad()
def _initialise(model: XaigdModel, shape: Architecture) -> None:
    """Initialise for training from scratch: positions as sines, residual branches close to zero."""
    vit: Any = model.backbone.model
    vit.embeddings.position_embeddings[:, 1:] = 0.2 * sines(shape.image_size // shape.patch, shape.width)
    projection = vit.embeddings.patch_embeddings.projection
    nn.init.normal_(projection.weight, std=projection.weight[0].numel() ** -0.5)
    for name, weight in vit.named_parameters():
        if weight.ndim == 2 and "embeddings" not in name:
            ends = name.endswith(("o_proj.weight", "fc2.weight"))
            nn.init.normal_(weight, std=1e-3 if ends else weight.shape[1] ** -0.5)


def _continued(settings: XaigdSettings, folder: Path) -> XaigdModel:
    """A detector with the heads that the training needs, and with all it has if its backbone stays as it is."""
    old = load_network(folder)
    kept = settings.frozen
    config = dataclasses.replace(
        old.config,
        verdict=settings.judges or (kept and old.config.verdict),
        artifacts=settings.marks or (kept and old.config.artifacts),
        layers=settings.alignment.layers or old.config.layers,
    )
    if settings.image_size not in (0, config.image_size):
        raise ConfigError(
            f"The base {settings.base!r} is for images of {config.image_size} pixels: set image_size to that or to 0."
        )
    model = XaigdModel(config)
    own = model.state_dict()
    model.load_state_dict({**own, **{name: value for name, value in old.state_dict().items() if name in own}})
    return model


def _with_backbone(settings: XaigdSettings, folder: Path, values: Mapping[str, Any]) -> XaigdModel:
    kind = _kind_of(values, settings.base)
    if kind == TIMM:
        pretrained, backbone, size = _timm(folder, values)
    else:
        pretrained, backbone, size = read_tower(folder) if kind == OPEN_CLIP else _transformer(folder, kind)
    plain = kind == TIMM or kind.startswith("siglip")
    mean, std = _normalisation(folder, values)
    side = settings.image_size or size
    model = XaigdModel(
        XaigdConfig(
            backbone=backbone,
            image_size=side,
            fit=settings.fit,
            short_side=max(settings.short_side, side) if settings.fit == "crop" else 0,
            mean=mean,
            std=std,
            verdict=settings.judges,
            artifacts=settings.marks,
            pool="mean" if plain else "cls",
            heatmap="gradcam" if kind == TIMM else "rollout",
            layers=settings.alignment.layers,
            decoder_width=settings.decoder_width,
            zoom=settings.zoom,
        )
    )
    wanted = model.backbone.model.state_dict()
    missing = sorted(wanted.keys() - pretrained.keys())
    if missing or any(wanted[name].shape != pretrained[name].shape for name in wanted):
        raise WeightsError(
            f"The weights in {str(folder)!r} do not fit the backbone (missing {missing[:3]}): choose another base."
        )
    model.backbone.model.load_state_dict({name: pretrained[name] for name in wanted})
    return model


def _transformer(folder: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], int]:
    """Weights, config and image size of a backbone of transformers."""
    with no_progress_bars():
        try:
            found, info = TRANSFORMERS[kind][1].from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(
                f"The backbone {str(folder)!r} cannot be loaded ({first_line(error)}): download it again."
            ) from error
    check_complete(folder, {**info, "unexpected_keys": ()})  # a text model beside it, or a head that is not used
    own = found.config.to_diff_dict()
    backbone = {name: value for name, value in own.items() if name not in _ABOUT and not name.startswith("_")}
    size = getattr(found.config, "image_size", None) or round(found.config.num_patches**0.5) * found.config.patch_size
    return found.state_dict(), {**backbone, "model_type": kind}, int(size)


_ABOUT = ("architectures", "dtype", "transformers_version", "torch_dtype")
"""Fields of a config of transformers that say nothing about the network."""


def _timm(folder: Path, values: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any], int]:
    """Weights, config and image size of a network in timm's layout on the hub."""
    backbone = {"model_type": TIMM, "name": values["architecture"], "args": values.get("model_args") or {}}
    try:
        weights = load_file(folder / "model.safetensors")
        size = int((values.get("pretrained_cfg") or {})["input_size"][-1])
    except Exception as error:  # damaged files may raise anything
        raise WeightsError(
            f"The backbone {str(folder)!r} cannot be loaded ({first_line(error)}): download it again."
        ) from error
    return weights, backbone, size


def _normalisation(
    folder: Path, values: Mapping[str, Any]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of the input, from the folder's files.

    Raises:
        WeightsError: they are not there.
    """
    try:
        if values.get("model_type") == OPEN_CLIP:
            found = json.loads((folder / OPEN_CLIP_CONFIG).read_text(encoding="utf-8"))["preprocess_cfg"]
            mean, std = found["mean"], found["std"]
        elif "pretrained_cfg" in values:
            found = values["pretrained_cfg"]
            mean, std = found["mean"], found["std"]
        else:
            found = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            mean, std = found["image_mean"], found["image_std"]
        (red, green, blue), (first, second, third) = mean, std
        return (float(red), float(green), float(blue)), (float(first), float(second), float(third))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"The backbone {str(folder)!r} does not say how images are normalised ({first_line(error)}): add its "
            "preprocessor_config.json."
        ) from error
