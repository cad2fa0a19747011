"""Settings for training LEGION on the samples of a data set, and the two configs that refiner ships."""

from __future__ import annotations

from dataclasses import dataclass, field

from refiner.errors import ConfigError
from refiner.training.legion.adapters import LoraSettings
from refiner.training.legion.losses import LossWeights
from refiner.training.legion.model import Architecture
from refiner.training.settings import LoopSettings, check_schedule, within

GLAMM = "MBZUAI/GLaMM-GranD-Pretrained"
"""The pretrained weights that LEGION starts from (section 5.1)."""


@dataclass(frozen=True, kw_only=True)
class VerdictSettings(LoopSettings):
    """Settings of stage 2, which trains only the head for real or generated, on stored features of the images."""

    width: int = 2048  # hidden width of the head
    epochs: float = 3.0
    batch: int = 512
    learning_rate: float = 1e-3
    warmup: int = 0
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TuneSettings(LoopSettings):
    """Settings of training on samples. ``paper`` returns those of LEGION, ``micro`` those of a small model."""

    stage: int = 1  # 1: explain and localise. 2: only the verdict, real or generated.
    base: str = ""  # detector to start from, a folder or hub id. "": random weights of ``architecture``.
    architecture: Architecture = field(default_factory=Architecture)  # of random weights
    weights: LossWeights = field(default_factory=LossWeights)  # ``parts``, ``count`` and ``verdict`` are not used
    lora: LoraSettings = field(default_factory=LoraSettings)
    trained: tuple[str, ...] = ("",)  # beginnings of the names of the weights that are trained in full; "": all
    image_size: int = 0  # longer side of the image inside SAM's input, in pixels. 0: as the base has it.
    max_length: int = 1536  # tokens of prompt and answer; longer answers are cut off
    tower_steps: int = 0  # steps before stage 1 that train only the towers, to find flaws without words
    epochs: float = 1.0  # how often stage 1 goes through the data
    most_steps: int = 0  # steps of stage 1, instead of ``epochs``. 0: as many as ``epochs`` needs.
    schedule: str = "cosine"  # fall of the learning rate: cosine or linear
    schedule_epochs: float = 0.0  # epochs until the rate has fallen. 0: until the end of the training.
    batch: int = 16  # images in a micro-batch of one process
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.02
    ema: float = 0.998  # decay of the moving average that is exported. 0: the last weights are exported.
    bf16: bool = True  # Whether to autocast to bfloat16. Trained weights stay float32.
    checkpointing: bool = False  # compute the language model's activations again in the backward pass, to save memory
    verdict: VerdictSettings = field(default_factory=VerdictSettings)
    seed: int = 0
    report_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule(self.schedule)
        within(self, stage=(1, 2), image_size=(0, None), max_length=(1, None))
        within(self, schedule_epochs=(0, None), most_steps=(0, None))
        if not self.epochs > 0 or not self.verdict.epochs > 0:
            raise ConfigError(f"The setting epochs must be above 0, got {self.epochs!r}: change it.")


def paper() -> TuneSettings:
    """LEGION's own settings (section 5.1, and its code where the paper is silent).

    Images per step: 2 on each of 8 GPUs; on fewer, raise ``accumulate``. Departures: the samples of an epoch are
    shuffled and each is used once, not drawn at random with repetition; GLaMM's region encoder, which LEGION does not
    use, is left out.
    """
    return TuneSettings(
        base=GLAMM,
        lora=LoraSettings(rank=8, alpha=16, dropout=0.05),
        trained=("llava.lm_head", "llava.model.language_model.embed_tokens", "sam.mask_decoder", "text_hidden_fcs"),
        image_size=512,
        schedule="linear",
        schedule_epochs=3.0,
        batch=2,
        learning_rate=1e-4,
        warmup=100,
        weight_decay=0.0,
        ema=0.0,
        checkpointing=True,
        report_every=10,
        save_every=100,
    )


def micro() -> TuneSettings:
    """A small model for images of 96 x 96 pixels, from random weights. It takes less than an hour on one core."""
    return TuneSettings(
        weights=LossWeights(ce=1.0, bce=4.0, dice=1.0, flaws=1.0), tower_steps=1200, most_steps=2200, max_length=512
    )


CONFIGS = {"legion-paper": paper, "micro": micro}
"""Name for ``--config`` -> settings."""
