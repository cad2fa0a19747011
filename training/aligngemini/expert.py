"""Train the pixel branch: DINOv2 with adapters learns to tell real images from their reconstructions (DDA)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from refiner.detectors.aligngemini.config import EXPERT_TYPE, ExpertConfig, read_expert_config
from refiner.detectors.aligngemini.conversion import resized_positions
from refiner.detectors.aligngemini.expert import ExpertDetector, built, normalised, save_expert
from refiner.detectors.aligngemini.modeling import Expert
from refiner.detectors.base import first_line, no_progress_bars, read_config
from refiner.errors import WeightsError
from refiner.hub import resolve
from refiner.training.aligngemini.pairs import Pairs, Pixels, place_of, views
from refiner.training.aligngemini.settings import PixelSettings
from refiner.training.chat.running import without_foreign_warnings
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.runs import Run

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
"""Layers that get an adapter. DDA's public code has one for queries, keys and values together; here each has one."""
_GAIN = 30.0  # of the first filters: an autoencoder changes a pixel by about 1 % of its range
_POSITIONS = "embeddings.position_embeddings"
_INFERRED = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "layer_norm_eps", "qkv_bias",
    "layerscale_value", "use_swiglu_ffn", "use_mask_token", "hidden_act",
)  # fmt: skip
"""Settings of a DINOv2 that an expert keeps."""


def load_trainee(settings: PixelSettings, *, weights: bool = True) -> Expert:
    """The network at the start, float32 on the CPU, with adapters that change nothing yet.

    Args:
        settings: name the base.
        weights: False: a network without weights on the device "meta", for a dry run.

    Raises:
        ModelNotFoundError: there is no such base.
        WeightsError: the base is no DINOv2, or damaged.
    """
    torch.manual_seed(settings.seed)
    network = _start(settings) if weights else _empty(settings)
    if settings.rank:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(TARGETS))
        with without_foreign_warnings():
            network.backbone = get_peft_model(network.backbone, adapter)
    return network


def _start(settings: PixelSettings) -> Expert:
    if not settings.base:
        network = _with_head(Expert(_config(settings)))
        _start_from_cosines(network)
        return network
    folder = resolve(settings.base, "detector")
    if read_config(folder).get("model_type") == EXPERT_TYPE:
        return ExpertDetector.from_pretrained(folder, dtype=torch.float32).model.requires_grad_()
    return _with_head(_from_dinov2(folder, settings.side))


def _empty(settings: PixelSettings) -> Expert:
    """The network of ``_start`` without weights."""
    if not settings.base:
        config = _config(settings)
    else:
        folder = resolve(settings.base, "detector")
        is_expert = read_config(folder).get("model_type") == EXPERT_TYPE
        config = read_expert_config(folder) if is_expert else _of_dinov2(folder, settings.side)
    with torch.device("meta"):
        return Expert(config)


def _config(settings: PixelSettings) -> ExpertConfig:
    """The architecture of the settings."""
    own = {
        "hidden_size": settings.width, "num_hidden_layers": settings.layers, "use_mask_token": False,
        "num_attention_heads": settings.heads, "patch_size": settings.patch, "mlp_ratio": 4,
    }  # fmt: skip
    return ExpertConfig(backbone=own, side=settings.side)


def _of_dinov2(folder: Path, side: int) -> ExpertConfig:
    """The architecture of a DINOv2.

    Raises:
        WeightsError: the folder holds none.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(folder)
        if found.model_type != "dinov2":
            raise ValueError(f"it is of type {found.model_type}")
    except Exception as error:  # damaged files may raise anything
        raise _no_dinov2(folder, error) from error
    return ExpertConfig(backbone={name: getattr(found, name) for name in _INFERRED}, side=side)


def _no_dinov2(folder: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"The base {str(folder)!r} cannot be loaded as a DINOv2 ({first_line(error):.200}): choose another one."
    )


def _from_dinov2(folder: Path, side: int) -> Expert:
    from transformers import Dinov2Model

    config = _of_dinov2(folder, side)
    try:
        with no_progress_bars():
            backbone: Any = Dinov2Model.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # damaged files may raise anything
        raise _no_dinov2(folder, error) from error
    state = backbone.state_dict()
    state[_POSITIONS] = resized_positions(state[_POSITIONS], side // config.backbone["patch_size"])
    head = nn.Linear(config.backbone["hidden_size"], 1)
    whole = {f"backbone.{name}": weight for name, weight in state.items()}
    return built(config, {**whole, "head.weight": head.weight.detach(), "head.bias": head.bias.detach()})


def _with_head(network: Expert) -> Expert:
    """Draw the weights of the last layer as DDA does."""
    nn.init.normal_(network.head.weight, 0.0, 0.02)
    nn.init.zeros_(network.head.bias)
    return network


@torch.no_grad()
def _start_from_cosines(network: Expert) -> None:
    """Let the first layer of a network with random weights see what changes within a patch, not its mean colour.

    Its filters are random mixtures of the patch's cosine transform without the constant part. Without this, a small
    network does not find the weak traces of an autoencoder beside the strong colours.
    """
    filters = network.backbone.embeddings.patch_embeddings.projection.weight
    side = filters.shape[-1]
    steps = torch.arange(side)
    waves = torch.cos(math.pi / side * (steps[None] + 0.5) * steps[:, None]) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    planes = torch.einsum("ux,vy->uvxy", waves, waves).flatten(0, 1)[1:]  # orthonormal
    shares = torch.randn(len(filters), filters.shape[1], len(planes)) / math.sqrt(filters.shape[1] * len(planes))
    filters.copy_(_GAIN * torch.einsum("ocp,pxy->ocxy", shares, planes))


def train_pixel(settings: PixelSettings, pairs: Pairs, run: Run, out: Path, dtype: torch.dtype) -> None:
    """Train on pairs, or resume from ``pixel.pt`` in the run's folder, and write the expert to ``out`` in ``dtype``.

    Raises:
        InputError: the pairs cannot be used.
        ModelNotFoundError, WeightsError: as for ``load_trainee``.
        OutputError: the expert cannot be written.
    """
    network = load_trainee(settings)
    parts = settings.accumulate * run.processes.count
    steps = settings.most_steps or math.ceil(settings.epochs * len(pairs) / (settings.batch * parts))

    def draw(part: Draw) -> tuple[Tensor, Tensor]:
        first = (part.step * parts + part.part) * settings.batch
        return batch_of(settings, pairs, [first + place for place in range(settings.batch)], network.config)

    def loss(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        pixels, fake = batch
        features, logits = network(pixels)
        return losses(features.float(), logits.float(), fake, settings.contrast)

    loop = fit_settings(settings, steps=steps, betas=(0.9, 0.999), ema=0.99 if not settings.rank else 0.0)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    fit(network, draw, loss, loop, run, "pixel", trained)
    network.cpu()
    if run.processes.main:
        if settings.rank:
            network.backbone = network.backbone.merge_and_unload()
        save_expert(network, out, dtype)
    run.processes.wait()


def batch_of(settings: PixelSettings, pairs: Pairs, numbers: list[int], config: ExpertConfig) -> tuple[Tensor, Tensor]:
    """Views of pairs by their numbers in the whole training: normalised pixels, and 1 for reconstructions, else 0."""
    real: list[Pixels] = []
    fake: list[Pixels] = []
    for number in numbers:
        place = place_of(number, len(pairs), settings.seed)
        for views_of_side, side in zip(
            views(pairs[place], settings, [settings.seed, number]), (real, fake), strict=True
        ):
            side += views_of_side
    labels = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))])
    return normalised([*real, *fake], config), labels


def losses(features: Tensor, logits: Tensor, fake: Tensor, contrast: float) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss of DDA: (1 - contrast) * binary cross-entropy + contrast * contrastive loss; and both to log.

    Args:
        features: float (N, width).
        logits: float (N,).
        fake: float (N,), 1 for reconstructions.
        contrast: share of the contrastive loss.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, fake)
    apart = contrastive(features, fake)
    right = ((logits > 0) == (fake > 0.5)).float().mean()
    return (1 - contrast) * entropy + contrast * apart, {"entropy": entropy, "contrast": apart, "accuracy": right}


def contrastive(features: Tensor, labels: Tensor) -> Tensor:
    """Contrastive loss (Hadsell et al. 2006) as DDA uses it: Euclidean distances of features of unit length.

    The mean distance of pairs with equal labels, plus the mean of 1 - distance of pairs with different ones that are
    nearer than 1. Both means are over the pairs that are above 0; a mean over none is 0.
    """
    unit = functional.normalize(features, dim=1)
    squares = (2 - 2 * unit @ unit.T).clamp(min=0)
    distances = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)  # the root has no slope at 0
    alike = labels[:, None] == labels[None]
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    near = (1 - distances).clamp(min=0)
    return _mean_above(distances[alike & others]) + _mean_above(near[~alike])


def _mean_above(values: Tensor) -> Tensor:
    above = values > 0
    return (values * above).sum() / above.sum().clamp(min=1)
