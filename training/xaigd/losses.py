"""The losses of X-AIGD's trainings: verdict, masks, and alignment of the heat map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from refiner.detectors.xaigd.heatmaps import class_map
from refiner.detectors.xaigd.modeling import XaigdModel
from refiner.training.xaigd.alignment import alignment_loss
from refiner.training.xaigd.data import XaigdBatch
from refiner.training.xaigd.settings import XaigdSettings


class Trainee(nn.Module):
    """The network in training. A frozen backbone also keeps its running means."""

    def __init__(self, model: XaigdModel, *, frozen: bool) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen
        if frozen:
            model.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Trainee:
        """Switch to training, or back."""
        super().train(mode)
        if self.frozen:
            self.model.backbone.eval()
        return self

    def losses(self, batch: XaigdBatch, settings: XaigdSettings) -> dict[str, Tensor]:
        """The weighted losses, by name; each is a mean over the batch."""
        alignment, weights = settings.alignment, settings.losses
        aligned = alignment.kind != "none" and alignment.beta > 0
        output = self.model(batch.pixels, alignment.layers if aligned else None)
        losses = {}
        if settings.judges and output.verdict is not None:
            bce = functional.binary_cross_entropy_with_logits(output.verdict.float(), batch.fake)
            losses["verdict"] = weights.verdict * bce
        if settings.marks and output.artifacts is not None:
            bce, dice = artifact_losses(output.artifacts.float(), batch.masks, batch.known)
            losses |= {"bce": weights.bce * bce, "dice": weights.dice * dice}
        if aligned:
            maps = class_map(self.model.config, output, "rollout", differentiable=True)
            loss = alignment_loss(maps, batch.targets, batch.known, benign=alignment.benign, weights=alignment.weights)
            losses["alignment"] = alignment.beta * loss
        return losses


def artifact_losses(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the segmentation head over the images whose artifacts are known; the paper's loss is not known.

    Args:
        logits: float (B, 7, h, w).
        masks: share of each category in each pixel, float (B, 7, S, S) in [0, 1].
        known: bool (B,).

    Returns:
        Binary cross-entropy as a sum over categories and a mean over pixels and images. 1 - Dice over the pixels of the
        whole batch, as a mean over the categories that occur in it. Both are 0 if nothing is known.
    """
    truth = functional.adaptive_avg_pool2d(masks, (logits.shape[-2], logits.shape[-1]))
    use = known.to(logits.dtype)[:, None, None, None]
    bce = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    bce = (bce * use).mean(dim=(2, 3)).sum() / use.sum().clamp(min=1)
    found, true = logits.sigmoid() * use, truth * use
    both, either = (found * true).sum(dim=(0, 2, 3)), (found + true).sum(dim=(0, 2, 3))
    present = (true.sum(dim=(0, 2, 3)) > 0).to(logits.dtype)
    dice = (present * (1 - 2 * both / either.clamp(min=1e-6))).sum() / present.sum().clamp(min=1)
    return bce, dice
