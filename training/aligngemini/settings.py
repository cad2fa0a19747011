"""Settings of AlignGemini's training, and the configs that refiner ships."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from refiner.detectors.aligngemini.fusion import Fusion
from refiner.errors import ConfigError
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.settings import CheckedSettings, LoopSettings, within

BRANCHES = ("both", "semantic", "pixel")
METHODS = ("sft", "dpo", "both")


@dataclass(frozen=True, kw_only=True)
class SemanticSettings(PupilSettings):
    """Settings of the semantic branch."""

    method: str = "dpo"  # sft: learn right answers; dpo: prefer them to wrong ones; both: one after the other
    beta: float = 0.05  # DPO: weight of the distance from the model at the start
    max_side: int = 1024  # longest side of the images, in pixels
    blur: float = 2.0  # how strongly pixel cues are destroyed in the training images (``cues.py``). 0: not at all.
    sft: StageSettings = field(default_factory=StageSettings)
    dpo: StageSettings = field(default_factory=StageSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, max_side=(32, None), blur=(0, 10))
        if self.method not in METHODS:
            raise ConfigError(
                f"The setting method must be one of {', '.join(METHODS)}, got {self.method!r}: change it."
            )
        if not self.beta > 0:
            raise ConfigError(f"The setting beta must be above 0, got {self.beta!r}: change it.")
        if self.method != "sft" and not self.rank:
            raise ConfigError("The settings method and rank do not fit: DPO needs an adapter, so set rank above 0.")


@dataclass(frozen=True, kw_only=True)
class PixelSettings(LoopSettings):
    """Settings of the pixel branch. The defaults are those of DDA's public code."""

    base: str = "facebook/dinov2-large"  # a DINOv2; "": random weights of the architecture below
    width: int = 1024  # the architecture, if base is ""
    layers: int = 24
    heads: int = 16
    patch: int = 14
    side: int = 336  # height and width of the crops, in pixels
    rank: int = 8  # of the adapter (LoRA) on every linear layer. 0: all weights are trained, without an adapter.
    alpha: int = 1
    epochs: float = 1.0
    most_steps: int = 0  # steps, instead of ``epochs``. 0: as many as ``epochs`` needs.
    batch: int = 16  # pairs in a micro-batch of one process
    accumulate: int = 4
    learning_rate: float = 1e-4
    warmup: int = 0
    weight_decay: float = 0.0
    contrast: float = 0.5  # share of the contrastive loss; the rest is binary cross-entropy
    jpeg: float = 0.5  # probability that a reconstruction is compressed with the quality of its original's JPEG file
    mix: float = 0.2  # probability that a reconstruction is mixed with its original, for each of two ways
    most_mixed: float = 0.8  # largest share in a mixture
    resized: bool = True  # whether each pair is also seen shrunk and enlarged, from 0.2 to 3.5 of its size
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, rank=(0, None), alpha=(1, None), contrast=(0, 1), jpeg=(0, 1), mix=(0, 1), most_mixed=(0, 1))
        within(self, most_steps=(0, None), width=(1, None), layers=(1, None), heads=(1, None), patch=(1, None))
        if self.side < self.patch or self.side % self.patch:
            raise ConfigError(
                f"The setting side must be a multiple of patch, got {self.side} and {self.patch}: change one."
            )
        if not self.epochs > 0:
            raise ConfigError(f"The setting epochs must be above 0, got {self.epochs!r}: change it.")


@dataclass(frozen=True, kw_only=True)
class AlignGeminiSettings(CheckedSettings):
    """Settings of the training. ``paper`` returns those of the paper, ``micro`` those of the bundled model."""

    branch: str = "both"  # semantic, pixel or both
    fusion: str = "or"  # or, mean, max or thresholds; the last are learned from samples that are held out
    held: int = 200  # samples that are held out for the fusion thresholds
    semantic: SemanticSettings = field(default_factory=SemanticSettings)
    pixel: PixelSettings = field(default_factory=PixelSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branch not in BRANCHES:
            raise ConfigError(
                f"The setting branch must be one of {', '.join(BRANCHES)}, got {self.branch!r}: change it."
            )
        if self.fusion == "thresholds":
            within(self, held=(2, None))
            if self.branch != "both":
                raise ConfigError("The fusion thresholds is learned from both branches: set branch to both.")
        else:
            Fusion(self.fusion)

    @property
    def seed(self) -> int:
        """Of the semantic branch."""
        return self.semantic.seed

    @property
    def trains(self) -> tuple[str, ...]:
        """The branches that are trained, in their order."""
        return ("semantic", "pixel") if self.branch == "both" else (self.branch,)


def paper() -> AlignGeminiSettings:
    """AlignGemini as far as it is known: DPO on Qwen2.5-VL-7B, and DDA's expert on reconstructions.

    The paper's abstract says what each branch learns, but no numbers. Those of the semantic branch (DPO, rank 16 and
    alpha 32, a learning rate of 1e-6, a beta of 0.05, one epoch) are from re-implementations that cite it; those of the
    pixel branch are from DDA's public code. The number of images in a step of the semantic branch is ours.
    """
    stage = StageSettings(epochs=1.0, learning_rate=1e-6)
    return AlignGeminiSettings(semantic=SemanticSettings(rank=16, alpha=32, checkpointing=True, dpo=stage))


def sft() -> AlignGeminiSettings:
    """The same with supervised training of the semantic branch; its learning rate (1e-4) is ours."""
    own = paper()
    return replace(own, semantic=replace(own.semantic, method="sft", sft=StageSettings(epochs=1.0)))


def semantic() -> AlignGeminiSettings:
    """The semantic branch of ``paper`` alone."""
    return replace(paper(), branch="semantic")


def pixel() -> AlignGeminiSettings:
    """The pixel branch of ``paper`` alone."""
    return replace(paper(), branch="pixel")
