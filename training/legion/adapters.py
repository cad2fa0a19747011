"""Which weights of LEGION are trained: LoRA adapters and whole parts; all others stay frozen.

LoRA is that of peft. After training, the adapters are merged into the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from refiner.detectors.legion.modeling import LegionModel
from refiner.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA on linear layers of the language model."""

    rank: int = 0  # 0: no LoRA
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")  # last parts of the layers' names


def freeze(model: LegionModel, lora: LoraSettings, trained: Sequence[str]) -> None:
    """Add LoRA and freeze all weights but LoRA's and those whose names begin with one of ``trained``.

    Raises:
        ConfigError: no weight has such a name, or no layer is a target of LoRA.
    """
    for prefix in trained:
        if not any(name.startswith(prefix) for name, _ in model.named_parameters()):
            raise ConfigError(
                f"No weight of LEGION has a name that begins with {prefix!r}: correct the setting trained."
            )
    model.requires_grad_(False)
    if lora.rank:
        settings = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
        )
        try:
            inject_adapter_in_model(settings, model.llava.model.language_model)
        except ValueError as error:
            raise ConfigError(
                f"LoRA finds none of its targets {', '.join(lora.targets)} in the language model: correct the setting "
                "lora.targets."
            ) from error
    for name, weight in model.named_parameters():
        if "lora_" in name or any(name.startswith(prefix) for prefix in trained):
            weight.requires_grad_(True)


def trained_in_float32(model: nn.Module) -> None:
    """Convert the trained weights to float32; the frozen ones keep their dtype."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


@torch.no_grad()
def merge(model: LegionModel) -> None:
    """Add the LoRA adapters to the weights below them, and remove them."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
