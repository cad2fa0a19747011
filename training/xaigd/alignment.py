"""Attention alignment (papers/x-aigd.md, key design 4): the heat map of the verdict is pulled to the artifacts.

The map A_cls is the gradient attention rollout of the logit "generated", scaled by its largest value
(``refiner.detectors.xaigd.heatmaps``). The target A_art is the share of artifact pixels in each patch; zero for real
images. The loss is beta times the mean over patches of w (A_cls - A_art)^2. Where a patch has artifacts, w is 1; else
it is the paper's lambda (``benign``). Whether the paper's w is hard or soft, and how it scales A_cls, is not known.

Controls replace the artifacts of generated images; real images keep a target of zero:

* ``saliency``: the spectral residual of the image (Hou and Zhang, CVPR 2007), scaled to [0, 1];
* ``random``: the artifacts, moved by a random distance (over the border to the other side): same area, same form;
* ``benign``: all that is not an artifact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Floats = NDArray[np.float32]

_SIDE: Final = 64  # the spectral residual is computed at this size, as in its paper
_BLUR: Final = 3.0  # of the residual, in pixels of that size


def target_of(kind: str, artifacts: Floats, image: Floats, side: int, rng: np.random.Generator) -> Floats:
    """The target of a generated image's heat map.

    Args:
        kind: artifact, saliency, random or benign.
        artifacts: share of artifact in each pixel of the network's input, float (S, S) in [0, 1].
        image: the network's input, float (3, S, S).
        side: patches in a row.
        rng: for ``random``.

    Returns:
        float32 (side, side) in [0, 1].
    """
    if kind == "saliency":
        return patches(spectral_residual(image.mean(axis=0)), side)
    share = patches(artifacts, side)
    if kind == "random":
        down, right = rng.integers(1, max(2, side), size=2)
        return np.roll(share, (int(down), int(right)), axis=(0, 1))
    return 1 - share if kind == "benign" else share


def patches(values: Floats, side: int) -> Floats:
    """Means over the patches of a float (S, S) array, float32 (side, side); patches may share border pixels."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values)[None, None].float(), side)
    means: Floats = pooled[0, 0].numpy()
    return means


def spectral_residual(grey: Floats) -> Floats:
    """Saliency after Hou and Zhang (equations 5 to 8), float32 of the same shape, scaled to [0, 1].

    The spectrum's logarithm minus its local mean over 3 x 3, with the same phase, shows what is unusual in the image.
    Nothing is in an image of one value.
    """
    if grey.min() == grey.max():
        return np.zeros_like(grey, dtype=np.float32)
    small = ndimage.zoom(grey.astype(np.float64), (_SIDE / grey.shape[0], _SIDE / grey.shape[1]), order=1)
    spectrum = np.fft.fft2(small)
    logarithm = np.log(np.abs(spectrum) + 1e-9)
    residual = logarithm - ndimage.uniform_filter(logarithm, 3, mode="wrap")
    energy = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    smooth = ndimage.gaussian_filter(energy, _BLUR)
    low, high = float(smooth.min()), float(smooth.max())
    large = ndimage.zoom((smooth - low) / (high - low), (grey.shape[0] / _SIDE, grey.shape[1] / _SIDE), order=1)
    return large.clip(0, 1).astype(np.float32)


def alignment_loss(maps: Tensor, targets: Tensor, known: Tensor, *, benign: float, weights: str) -> Tensor:
    """The weighted mean squared error of heat maps, without beta; scalar, 0 if no target is known.

    Args:
        maps: float (B, h, w) in [0, 1].
        targets: the same.
        known: whether the target of an image is known, bool (B,).
        benign: the paper's lambda, in [0, 1].
        weights: ``hard`` or ``soft``; see ``AlignmentSettings``.
    """
    flawed = (targets > 0).to(maps.dtype) if weights == "hard" else targets
    squares = (flawed + benign * (1 - flawed)) * (maps - targets) ** 2
    return (squares.mean(dim=(1, 2)) * known).sum() / known.sum().clamp(min=1)
