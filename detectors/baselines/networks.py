"""The two kinds of classifiers: convolutional networks with Grad-CAM, and CLIP's transformer with relevance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from refiner.detectors.baselines.views import Statistics
from refiner.detectors.heatmaps import gradcam, relevance


class Explained(NamedTuple):
    """Verdicts and where they come from."""

    logits: Tensor
    """(N,), of the class "generated"."""
    maps: Tensor
    """(N, h, w), at least 0, of any size."""


class Classifier(nn.Module, ABC):
    """A network that tells generated images from real ones."""

    views: ClassVar[tuple[str, ...]]
    """Names in ``VIEWS`` that it can take; the first one is the default."""
    statistics: ClassVar[Statistics]
    round_down: ClassVar[bool] = False
    """As for ``look``."""

    @abstractmethod
    def explained(self, pixels: Tensor) -> Explained:
        """Judge normalised images, float (N, 3, H, W). Gradients must be enabled."""


class ConvolutionalClassifier(Classifier):
    """Its logits follow from the features of the last layer, from which alone Grad-CAM needs gradients."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the features of the last convolutional layer, (N, C, h, w)."""

    @abstractmethod
    def judge(self, features: Tensor) -> Tensor:
        """Compute the logits (N,) from the features."""

    def explained(self, pixels: Tensor) -> Explained:
        """Verdicts and Grad-CAM."""
        with torch.no_grad():
            features = self.features(pixels)
        features.requires_grad_()
        logits = self.judge(features)
        (gradients,) = torch.autograd.grad(logits.sum(), features)
        return Explained(logits.detach(), gradcam(features.detach(), gradients))


class ClipClassifier(Classifier):
    """A head on the projected class token of CLIP's image encoder.

    Args:
        tower: ``CLIPVisionModelWithProjection`` with eager attention.
        head: (N, projection) -> (N, 1), the logit of "generated", or (N, classes), of which the first is "real".
    """

    def __init__(self, tower: Any, head: nn.Module) -> None:
        super().__init__()
        self.tower, self.head = tower, head

    def explained(self, pixels: Tensor) -> Explained:
        """Verdicts and relevance."""
        seen = self.tower(pixels.requires_grad_(), output_attentions=True)
        logits = generated(self.head(seen.image_embeds))
        gradients = torch.autograd.grad(logits.sum(), seen.attentions)
        maps = relevance([each.detach() for each in seen.attentions], gradients)
        side = round(maps.shape[1] ** 0.5)
        return Explained(logits.detach(), maps.unflatten(1, (side, side)))


def generated(scores: Tensor) -> Tensor:
    """The logit (N,) of "generated": the only score (N, 1), or the others of (N, classes) against the first one."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    return scores[:, 1:].logsumexp(dim=1) - scores[:, 0]
