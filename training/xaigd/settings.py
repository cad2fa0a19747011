"""Settings of X-AIGD's trainings, and the configs that refiner ships."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from refiner.errors import ConfigError
from refiner.training.settings import CheckedSettings, LoopSettings, within

TASKS = ("aj", "pad", "multi")
"""Artifact judgment (the verdict), perceptual artifact detection (the masks), or both together."""
ALIGNMENTS = ("none", "artifact", "saliency", "random", "benign")
"""What the heat map of the verdict is pulled to: nothing, the artifacts, or one of three controls."""
WEIGHTS = ("hard", "soft")
DINOV2 = "facebook/dinov2-base"


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings(CheckedSettings):
    """The alignment loss: beta times the weighted squared distance of the heat map from the artifacts."""

    kind: str = "none"  # none, artifact, saliency, random or benign
    beta: float = 1.0  # weight of the loss
    benign: float = 0.5  # the paper's lambda: weight of patches without artifacts, against 1 of those with
    weights: str = "hard"  # hard: a patch with any artifact has weight 1. soft: its share a gives a + benign (1 - a).
    layers: int = 0  # number of last layers whose attention makes the map. 0: all.

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, beta=(0, None), benign=(0, 1), layers=(0, None))
        _known("alignment.kind", self.kind, ALIGNMENTS)
        _known("alignment.weights", self.weights, WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class LossWeights(CheckedSettings):
    """Weights of the losses of the two tasks."""

    verdict: float = 1.0  # binary cross-entropy of real or generated
    bce: float = 4.0  # binary cross-entropy of the masks
    dice: float = 1.0  # 1 - Dice of the masks

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, verdict=(0, None), bce=(0, None), dice=(0, None))


@dataclass(frozen=True, kw_only=True)
class Architecture(CheckedSettings):
    """Sizes of a network with random weights, of DINOv2's architecture."""

    image_size: int = 96
    patch: int = 8  # side of a patch, in pixels
    width: int = 176
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, **dict.fromkeys(("patch", "width", "layers", "heads"), (1, None)))
        if self.image_size < self.patch or self.image_size % self.patch:
            raise ConfigError(f"The setting image_size must be a multiple of patch, got {self.image_size}: change it.")
        if self.width % (4 * self.heads):
            raise ConfigError(f"The setting width must be a multiple of 4 times heads, got {self.width}: change it.")


@dataclass(frozen=True, kw_only=True)
class XaigdSettings(LoopSettings):
    """Settings of a training. The functions below return those that refiner ships."""

    task: str = "multi"  # aj, pad or multi
    base: str = (
        ""  # a detector or a backbone to start from, a folder or hub id. "": random weights of ``architecture``.
    )
    frozen: bool = False  # whether the backbone stays as it is, so that only the heads learn
    architecture: Architecture = field(default_factory=Architecture)  # of random weights
    decoder_width: int = 256  # channels of a segmentation head that starts from random weights
    zoom: int = 4  # outputs of such a head per side of a patch
    image_size: int = 0  # side of the network's input, in pixels. 0: as the base has it.
    fit: str = "whole"  # how images are brought to it: whole (stretched) or crop (shorter side scaled, centre cut out)
    short_side: int = 0  # for crop, in pixels. 0: image_size.
    losses: LossWeights = field(default_factory=LossWeights)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    quality: tuple[int, ...] = (60, 100)
    """Lowest and highest JPEG quality. Both images of a pair are encoded again with the same. []: none is."""
    epochs: float = 10.0  # how often the training goes through the generated images
    most_steps: int = 0  # steps instead of ``epochs``. 0: as many as ``epochs`` needs.
    batch: int = 16  # images in a micro-batch of one process; half of them real, if there are real ones
    learning_rate: float = 1e-5
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.0  # decay of the moving average that is exported. 0: the last weights are exported.
    bf16: bool = False  # Whether to autocast to bfloat16. Trained weights stay float32.
    seed: int = 0
    report_every: int = 20
    save_every: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        _known("task", self.task, TASKS)
        _known("fit", self.fit, ("whole", "crop"))
        within(self, image_size=(0, None), short_side=(0, None), most_steps=(0, None), batch=(2, None))
        within(self, decoder_width=(1, None), zoom=(1, None))
        if not self.epochs > 0:
            raise ConfigError(f"The setting epochs must be above 0, got {self.epochs!r}: change it.")
        if self.quality and not (len(self.quality) == 2 and 1 <= self.quality[0] <= self.quality[1] <= 100):
            raise ConfigError(
                f"The setting quality must be [] or two values from 1 to 100, got {list(self.quality)}: change it."
            )
        if self.batch % 2:
            raise ConfigError(f"The setting batch must be even, got {self.batch}: change it.")
        if self.task == "pad" and self.alignment.kind != "none":
            raise ConfigError(
                "The task pad has no verdict to align: set task to aj or multi, or alignment.kind to none."
            )

    @property
    def judges(self) -> bool:
        """Whether the verdict is trained."""
        return self.task != "pad"

    @property
    def marks(self) -> bool:
        """Whether the masks are trained."""
        return self.task != "aj"


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"The setting {name} must be one of {', '.join(known)}, got {value!r}: change it.")


def aj() -> XaigdSettings:
    """The verdict alone, from DINOv2 at 518 pixels (the size of the official evaluation's DINOv2 transform).

    Unknown in the paper and chosen here: backbone size, optimiser, learning rate, epochs, batch, JPEG qualities.
    """
    return XaigdSettings(task="aj", base=DINOV2, image_size=518, fit="crop", short_side=518)


def pad() -> XaigdSettings:
    """The masks alone. Unknown and chosen here, besides those of ``aj``: decoder and losses of the masks."""
    return replace(aj(), task="pad")


def multi() -> XaigdSettings:
    """Both tasks at once (the paper's multi-task learning). Unknown and chosen here: the weights of the losses."""
    return replace(aj(), task="multi")


def probe() -> XaigdSettings:
    """The verdict alone, on the frozen backbone of a detector that was trained for masks; name it with ``--base``."""
    return replace(aj(), base="", frozen=True, learning_rate=1e-3, image_size=0)


def transfer() -> XaigdSettings:
    """The verdict alone, from all weights of a detector that was trained for masks; name it with ``--base``."""
    return replace(aj(), base="", image_size=0)


def align() -> XaigdSettings:
    """The verdict with its heat map aligned to the artifacts. The paper finds lambda 0.4 and 0.6 best; beta is unknown.

    Only the last four layers make the map, so that a step needs written-out attention only there; the paper's number of
    layers is unknown.
    """
    return replace(aj(), alignment=AlignmentSettings(kind="artifact", benign=0.4, layers=4))


def micro() -> XaigdSettings:
    """For images of 96 x 96 pixels, from the bundled judge's CLIP. The training takes about 90 minutes on one core."""
    return XaigdSettings(
        base="micro:hps",
        decoder_width=64,
        alignment=AlignmentSettings(kind="artifact", benign=0.4, beta=1.0, layers=1),
        most_steps=2500,
        batch=32,
        learning_rate=5e-4,
        warmup=200,
        weight_decay=0.02,
        ema=0.998,
        report_every=50,
    )


CONFIGS = {"multi": multi, "aj": aj, "pad": pad, "probe": probe, "transfer": transfer, "align": align, "micro": micro}
"""Name for ``--config`` -> settings."""
