"""Stage 2 of FakeXplain: reinforcement with rewards for form, verdict and boxes, through trl's GRPOTrainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.detectors.fakexplain.grammar import Answer, pattern, read
from refiner.errors import UnreadableOutputError
from refiner.training.chat.lessons import Lessons
from refiner.training.chat.pupils import Pupil
from refiner.training.chat.running import Report, arguments, run_trainer
from refiner.training.fakexplain import rewards
from refiner.training.fakexplain.lessons import Lesson, Style, reinforced
from refiner.training.fakexplain.rewards import Truth
from refiner.training.fakexplain.settings import FakexplainSettings, GrpoSettings
from refiner.training.runs import Run
from refiner.types import Size

if TYPE_CHECKING:
    from trl import GRPOConfig

Reward = Callable[..., list[float]]

_FIGURES = {
    "reward": "reward", "reward_std": "reward_std", "rewards/grounding/mean": "grounding",
    "rewards/verdict/mean": "verdict", "rewards/form/mean": "form", "rewards/staged/mean": "staged", "iou": "iou",
    "boxes": "boxes", "omega": "omega", "completions/mean_length": "tokens", "kl": "kl", "entropy": "entropy",
    "grad_norm": "grad_norm",
}  # fmt: skip
_PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<IMG_CONTEXT>")
"""Tokens that stand for images. An answer with one of them would break the next pass of the model."""


def reinforce(
    settings: FakexplainSettings, lessons: Lessons[Lesson], style: Style, pupil: Pupil, run: Run, folder: Path
) -> None:
    """Train on sampled answers, or resume."""
    from trl import GRPOTrainer

    trainer = GRPOTrainer(
        pupil.model,
        reward_funcs=reward_functions(settings.grpo, style, pupil.processor.tokenizer),
        args=config_of(settings, style, pupil.processor.tokenizer, run, folder),
        train_dataset=reinforced(lessons),
        processing_class=pupil.processor,
    )
    run_trainer(trainer, Report(run, folder.name, _FIGURES), folder)


def config_of(settings: FakexplainSettings, style: Style, tokenizer: Any, run: Run, folder: Path) -> GRPOConfig:
    """The settings as trl takes them."""
    from trl import GRPOConfig

    own = settings.grpo
    return GRPOConfig(
        **arguments(settings, own, run, folder),
        num_generations=own.answers,
        temperature=own.temperature,
        max_completion_length=own.most_tokens,
        beta=own.beta,
        loss_type="grpo",
        scale_rewards="group",
        **_engine(own, style, tokenizer),
    )


def _engine(own: GrpoSettings, style: Style, tokenizer: Any) -> dict[str, Any]:
    """What samples answers, as GRPOConfig takes it."""
    if own.engine == "transformers":
        known = tokenizer.get_vocab()
        hidden = [known[token] for token in _PLACEHOLDERS if token in known]
        return {"generation_kwargs": {"suppress_tokens": hidden}} if hidden else {}
    found: dict[str, Any] = {"use_vllm": True, "vllm_mode": own.engine}
    if own.engine == "server":
        found["vllm_server_base_url"] = own.server
    else:
        found["vllm_gpu_memory_utilization"] = own.memory
    if own.constrained:
        shown = Size(style.max_side, style.max_side)
        found["vllm_structured_outputs_regex"] = pattern(style.dialect, form=style.form, shown=shown)
    return found


def reward_functions(own: GrpoSettings, style: Style, tokenizer: Any) -> list[Reward]:
    """The rewards as trl calls them, once for all answers of a step. Their columns are those of ``reinforced``.

    They read the tokens, not the text, because trl leaves the marks of boxes out of it.
    """
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def answers(completion_ids: Sequence[Sequence[int]], shown: Sequence[tuple[int, int]]) -> list[Answer | None]:
        return [
            _read(_spoken(ids, ends, tokenizer), style, size) for ids, size in zip(completion_ids, shown, strict=True)
        ]

    def truths(boxes: Sequence[Any], fake: Sequence[bool]) -> list[Truth]:
        return [Truth([tuple(box) for box in own_boxes], said) for own_boxes, said in zip(boxes, fake, strict=True)]

    def grounding(
        completion_ids: Any, shown: Any, boxes: Any, fake: Any, trainer_state: Any, log_metric: Any, **_: Any
    ) -> list[float]:
        found, true = answers(completion_ids, shown), truths(boxes, fake)
        weight = rewards.omega(own.omega, _progress(trainer_state))
        flawed = [rewards.overlap(one, truth) for one, truth in zip(found, true, strict=True) if truth.boxes]
        if flawed:
            log_metric("iou", sum(flawed) / len(flawed))
        log_metric("boxes", sum(len(one.boxes) for one in found if one) / len(found))
        log_metric("omega", weight)
        return [weight * rewards.grounding(one, truth) for one, truth in zip(found, true, strict=True)]

    def verdict(completion_ids: Any, shown: Any, boxes: Any, fake: Any, **_: Any) -> list[float]:
        pairs = zip(answers(completion_ids, shown), truths(boxes, fake), strict=True)
        return [rewards.verdict(one, truth) for one, truth in pairs]

    def form(completion_ids: Any, shown: Any, **_: Any) -> list[float]:
        return [rewards.form(one, style.content) for one in answers(completion_ids, shown)]

    def staged(completion_ids: Any, shown: Any, boxes: Any, fake: Any, trainer_state: Any, **_: Any) -> list[float]:
        pairs = zip(answers(completion_ids, shown), truths(boxes, fake), strict=True)
        return [rewards.staged(one, truth, style.content, _progress(trainer_state)) for one, truth in pairs]

    if own.reward == "code":
        return [staged]
    return [grounding, verdict, form] if style.content.boxes else [verdict, form]


def _progress(state: Any) -> float:
    return float(min(1.0, state.global_step / max(1, state.max_steps)))


def _spoken(ids: Sequence[int], ends: set[int], tokenizer: Any) -> str:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:stop], skip_special_tokens=False)).strip()


def _read(text: str, style: Style, shown: Sequence[int]) -> Answer | None:
    try:
        return read(text, style.dialect, form=style.form, shown=Size(*shown))
    except UnreadableOutputError:
        return None
