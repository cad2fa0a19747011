"""Settings that all trainings of a chat model share."""

from __future__ import annotations

from dataclasses import dataclass

from refiner.errors import ConfigError
from refiner.training.settings import CheckedSettings, LoopSettings, within


@dataclass(frozen=True, kw_only=True)
class PupilSettings(CheckedSettings):
    """Which chat model is trained, and which of its weights."""

    base: str = "Qwen/Qwen2.5-VL-7B-Instruct"  # a chat model, or an adapter of one, which is then trained further
    rank: int = 8  # of the adapter (LoRA) on every linear layer. 0: all weights are trained, without an adapter.
    alpha: int = 32
    dropout: float = 0.0
    vision: bool = True  # whether the vision tower and what connects it with the language model are trained too
    tokens: tuple[str, ...] = ()  # texts that become one token each, with embeddings of their own
    merged: bool = True  # whether the model is also written with the adapter merged into its weights
    checkpointing: bool = False  # compute activations again in the backward pass, to save memory
    bf16: bool = True  # whether to compute in bfloat16
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, rank=(0, None), alpha=(1, None), dropout=(0, 1))
        if self.tokens and not self.rank:
            raise ConfigError("The setting tokens needs an adapter: set rank above 0, or leave the tokens out.")


@dataclass(frozen=True, kw_only=True)
class StageSettings(LoopSettings):
    """One stage of a training."""

    epochs: float = 3.0
    most_steps: int = 0  # steps, instead of ``epochs``. 0: as many as ``epochs`` needs.
    batch: int = 1  # images in a micro-batch of one process
    accumulate: int = 16
    learning_rate: float = 1e-4
    warmup: float = 0.0  # steps; below 1: share of all steps
    weight_decay: float = 0.0
    report_every: int = 10
    save_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, most_steps=(0, None))
        if not self.epochs > 0:
            raise ConfigError(f"The setting epochs must be above 0, got {self.epochs!r}: change it.")
