"""Networks of PAL4VST's signature in TorchScript, with a single convolution."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Dark(nn.Module):
    """Marks dark pixels: logits, probabilities, or a mask of whole numbers."""

    def __init__(self, output: str = "mask") -> None:
        super().__init__()
        self.output = output
        self.grey = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.grey.weight, -1.5)
        nn.init.constant_(self.grey.bias, -2.0)

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.grey(pixels)
        if self.output == "logits":
            return logits
        if self.output == "probabilities":
            return logits.sigmoid()
        return (logits > 0).long()


def save_torchscript(network: nn.Module, path: Path) -> Path:
    """Compile a network and save it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but PAL4VST is published in it
        torch.jit.script(network).save(str(path))
    return path


def save_pal4vst(path: Path, output: str = "mask") -> Path:
    """Save ``Dark``."""
    return save_torchscript(Dark(output), path)
