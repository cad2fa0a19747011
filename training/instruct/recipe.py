"""Train the bundled instruct model: a tiny Qwen2 that answers the questions of ``ChatReviser``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

from refiner.data.samples import DataSet
from refiner.detectors.chat.local import LocalChat
from refiner.hub import MICRO_WEIGHTS
from refiner.pipelines.loading.parts import fitting_reviser
from refiner.pipelines.revisers.chat import ChatReviser
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.instruct.data import MOST_ATTEMPTS, ChatBatch, build_tokenizer, collate, draw, revised
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings

_HELD_OUT = 40_000_000  # seed of the held-out histories
_ATTEMPTS = (1, 2, 1, MOST_ATTEMPTS)  # numbers of attempts in the histories of consecutive steps; they repeat


@dataclass(frozen=True, kw_only=True)
class InstructSettings(LoopSettings):
    """Settings of the instruct model's training. The defaults made the bundled weights."""

    seed: int = 0
    width: int = 128
    layers: int = 4
    heads: int = 4
    groups: int = 4
    inner: int = 384
    spread: float = 0.08
    """Standard deviation of the initial weights. With Qwen's 0.02, a model of this width hardly learns to copy."""
    steps: int = 1600
    rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.995
    batch: int = 16
    reading: float = 1.0
    """Weight of the loss on the tokens of a question. Questions repeat most words, so the model learns to copy."""
    bf16: bool = True  # Whether to autocast to bfloat16. The weights stay float32.
    report_every: int = 50
    save_every: int = 100


def build_model(tokenizer: Qwen2TokenizerFast, recipe: InstructSettings) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights, for this tokenizer."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.groups,
            max_position_embeddings=4096,
            initializer_range=recipe.spread,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    model.generation_config.update(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def token_losses(model: Qwen2ForCausalLM, batch: ChatBatch) -> dict[str, Tensor]:
    """Mean cross-entropy of the tokens of the answer (``answer``) and of those of the question (``reading``)."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    ids, labels = batch.ids[:, 1:], batch.labels[:, 1:]
    said = labels != -100
    read = ~said & (ids != model.config.pad_token_id)

    def loss(tokens: Tensor) -> Tensor:
        return functional.cross_entropy(model.lm_head(hidden[tokens]).float(), ids[tokens])

    return {"answer": loss(said), "reading": loss(read)}


def micro_template(generator: Path = MICRO_WEIGHTS / "generator") -> TemplateReviser:
    """The template reviser that fits the bundled generator."""
    return cast(TemplateReviser, fitting_reviser("template", DiffusionPipeline.from_pretrained(generator)))


def train(recipe: InstructSettings, template: TemplateReviser, run: Run, out: Path) -> None:
    """Train the model, or resume from ``instruct.pt``, and write it to ``out`` with float16 weights."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(template)
    model = build_model(tokenizer, recipe)

    def drawn(part: Draw) -> ChatBatch:
        rng = np.random.default_rng((recipe.seed, *part.key))
        attempts = _ATTEMPTS[part.step % len(_ATTEMPTS)]  # the same in the whole batch, for less padding
        return collate([draw(rng, template, attempts) for _ in range(recipe.batch)], tokenizer)

    def loss(batch: ChatBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses = token_losses(model, batch)
        return losses["answer"] + recipe.reading * losses["reading"], losses

    fit(model, drawn, loss, fit_settings(recipe, learning_rate=recipe.rate), run, "instruct")
    if run.processes.main:
        tokenizer.save_pretrained(out)
        model.cpu().to(torch.float16).save_pretrained(out)


def measure(folder: Path, template: TemplateReviser, count: int) -> dict[str, float]:
    """Scores of the model in a folder on held-out prompts and histories, asked by ``ChatReviser``.

    Returns:
        ``used``: share of answers that ``ChatReviser`` accepts, at the first or a later try. ``as_taught``: share of
        prompts that equal the right prompt exactly. Both are in [0, 1].
    """
    reviser = ChatReviser(LocalChat.from_pretrained(folder, device="cpu"), template=template)
    rng = np.random.default_rng(_HELD_OUT)
    used = taught = 0
    for number in range(count):
        exchange = draw(rng, template, 1 + number % MOST_ATTEMPTS)
        revision = reviser.revise(exchange.prompt, exchange.history)
        own = not revision.note.startswith("Prompt by the template")
        used += own
        taught += own and revision.prompt == revised(exchange.prompt, exchange.history, template)[0]
    return {"used": used / count, "as_taught": taught / count}


def _train(recipe: InstructSettings, data: DataSet | None, run: Run, out: Path) -> None:
    train(recipe, micro_template(run.weights / "generator"), run, out)


def _measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    return measure(folder, micro_template(run.weights / "generator"), count)


RECIPE = Recipe(
    name="instruct",
    micro=InstructSettings,
    train=_train,
    folder="instruct",
    card=Card(
        name="instruct-micro 1",
        data=lambda _: "captions of the micro world with histories of flaws, generated during training",
    ),
    measure=_measure,
)
