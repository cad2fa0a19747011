"""Settings of FakeXplain's training, and the configs that refiner ships."""

from __future__ import annotations

from dataclasses import dataclass, field

from refiner.detectors.fakexplain.grammar import Content, find_dialect
from refiner.errors import ConfigError
from refiner.training.chat.settings import PupilSettings, StageSettings
from refiner.training.fakexplain.rewards import OMEGAS
from refiner.training.settings import within

STAGES = ("both", "sft", "grpo")
REWARDS = ("paper", "code")
"""The reward of the paper, and that of the authors' code (``rewards.py``)."""
ENGINES = ("transformers", "colocate", "server")
"""What samples answers in GRPO: the trained model itself, vLLM on the same devices, or a vLLM server."""


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(StageSettings):
    """Settings of the reinforcement stage (GRPO, DeepSeekMath). ``batch`` counts answers."""

    batch: int = 4
    learning_rate: float = 1e-5
    answers: int = 4  # answers to each question; together they are a group
    temperature: float = 1.0
    most_tokens: int = 512  # longest answer
    beta: float = 0.04  # weight of the distance (KL) from the model at the start. 0: none, and no copy of that model.
    reward: str = "paper"  # paper or code
    omega: str = "progressive"  # weight of the grounding reward: progressive, half (0.5) or full (1)
    engine: str = "transformers"  # what samples answers: transformers, colocate or server (both: vLLM)
    server: str = ""  # address of the vLLM server
    memory: float = 0.3  # share of the device's memory for vLLM on the same devices
    constrained: bool = False  # whether vLLM may write only answers of the whole form

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, answers=(2, None), beta=(0, None), memory=(0, 1))
        for name, value, known in (
            ("reward", self.reward, REWARDS), ("omega", self.omega, OMEGAS), ("engine", self.engine, ENGINES),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(
                    f"The setting grpo.{name} must be one of {', '.join(known)}, got {value!r}: change it."
                )
        if not self.temperature > 0 or self.most_tokens < 1:
            raise ConfigError("The settings grpo.temperature and grpo.most_tokens must be above 0: change them.")
        if (self.engine == "server") != bool(self.server):
            raise ConfigError("The setting grpo.server names the server if grpo.engine is server, else it is empty.")
        if self.constrained and self.engine == "transformers":
            raise ConfigError("The setting grpo.constrained needs vLLM: set grpo.engine to colocate or server.")


@dataclass(frozen=True, kw_only=True)
class FakexplainSettings(PupilSettings):
    """Settings of the training. ``paper`` returns those of FakeXplainer, ``micro`` those of the bundled model."""

    stage: str = "both"  # sft, grpo, or both one after the other
    dialect: str = "paper"  # how answers are written: paper, official or internvl
    leave_out: tuple[str, ...] = ()  # of boxes, captions and tags: what answers do not tell (the paper's ablation)
    max_side: int = 1536  # longest side of the images, in pixels
    folds: int = 0  # Parts for cross-validation. For each, there is one more training without it. 0: none.
    sft: StageSettings = field(default_factory=StageSettings)
    grpo: GrpoSettings = field(default_factory=GrpoSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_dialect(self.dialect)
        within(self, max_side=(32, None), folds=(0, None))
        if self.stage not in STAGES:
            raise ConfigError(f"The setting stage must be one of {', '.join(STAGES)}, got {self.stage!r}: change it.")
        if unknown := set(self.leave_out) - set(Content._fields):
            raise ConfigError(f"The setting leave_out names {', '.join(Content._fields)}, got {min(unknown)!r}.")
        if self.folds == 1:
            raise ConfigError("The setting folds must be 0 or at least 2, got 1: change it.")

    @property
    def content(self) -> Content:
        """What answers tell."""
        return Content(**{name: name not in self.leave_out for name in Content._fields})


def paper() -> FakexplainSettings:
    """FakeXplainer as the paper describes it: all linear layers, 3 epochs of each stage, four answers in a group.

    Unknown and taken from the authors' code or GRPO's paper: rank and alpha, learning rates, images in a step, beta.
    """
    return FakexplainSettings(checkpointing=True)


def paper_full() -> FakexplainSettings:
    """The same without an adapter: every weight is trained, with the learning rate of the authors' code."""
    return FakexplainSettings(checkpointing=True, rank=0, sft=StageSettings(learning_rate=1e-5))


def code() -> FakexplainSettings:
    """The training as the authors' code has it: its dialect and staged reward, eight answers in a group.

    The code samples at a temperature of 0.9.
    """
    return FakexplainSettings(
        checkpointing=True, dialect="official", grpo=GrpoSettings(reward="code", answers=8, batch=8, temperature=0.9)
    )


def qwen3() -> FakexplainSettings:
    """The paper's training on a newer model."""
    return FakexplainSettings(checkpointing=True, base="Qwen/Qwen3-VL-8B-Instruct")
