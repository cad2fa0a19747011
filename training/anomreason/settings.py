"""Settings of AnomReasonor's training, and the configs that refiner ships."""

from __future__ import annotations

from dataclasses import dataclass, field

from refiner.detectors.anomreason.grammar import check_format
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.settings import within


@dataclass(frozen=True, kw_only=True)
class AnomreasonSettings(PupilSettings):
    """Settings of the training. ``paper`` returns those of AnomReasonor-7B, ``released`` those of its public script."""

    format: str = "authenticity_reasoning"  # of answers: anomaly_only or authenticity_reasoning
    boxes: bool = False  # whether answers give a box for each anomaly, which is ours; the data must have regions
    variants: int = 10  # ways to ask, of ten; each image is asked about in each of them
    max_side: int = 728  # longest side of the images, in pixels
    sft: StageSettings = field(default_factory=StageSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_format(self.format)
        within(self, variants=(1, 10), max_side=(32, None))


def paper() -> AnomreasonSettings:
    """AnomReasonor-7B (papers/anomreason.md): LoRA of rank 8, the vision tower stays as it is.

    What the paper leaves open is as in the authors' script: alpha and dropout, learning rate, weight decay, warm-up,
    128 images in a step (one process), images of at most 512 x 28 x 28 pixels (here by their longest side).
    """
    stage = StageSettings(
        epochs=1.0, batch=1, accumulate=128, learning_rate=2e-5, weight_decay=0.1, warmup=0.03, save_every=50
    )
    return AnomreasonSettings(alpha=16, dropout=0.5, vision=False, checkpointing=True, sft=stage)


def released() -> AnomreasonSettings:
    """The authors' script as it is published: the same on Qwen3-VL-8B."""
    own = paper()
    return AnomreasonSettings(**{**vars(own), "base": "Qwen/Qwen3-VL-8B-Instruct"})
