"""Train the bundled instruct model: a tiny Qwen2, asked what ``ChatReviser`` asks.

Run ``python -P -m refiner.training.instruct.recipe --help``; it takes twenty minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
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

from refiner.detectors.chat.local import LocalChat
from refiner.hub import MICRO_WEIGHTS, write_card
from refiner.pipelines.loading import fitting_reviser
from refiner.pipelines.revisers.chat import ChatReviser
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.training.common import seed_everything
from refiner.training.fit import FitSettings, fit
from refiner.training.instruct.data import MOST_ATTEMPTS, Batch, build_tokenizer, collate, draw, revised

_HELD_OUT = 40_000_000
_HISTORIES = 200
_ATTEMPTS = (1, 2, 1, MOST_ATTEMPTS)
"""Of the histories of one step after the other."""


@dataclass(frozen=True, kw_only=True)
class InstructRecipe:
    """All that a run depends on."""

    seed: int = 0
    width: int = 128
    layers: int = 4
    heads: int = 4
    groups: int = 4
    inner: int = 384
    spread: float = 0.08
    """Standard deviation of the first weights: with Qwen's 0.02, so narrow a model hardly learns to copy."""
    steps: int = 1600
    rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.995
    batch: int = 16
    reading: float = 1.0
    """Weight of the loss of a question's own tokens: they say most things twice, from which copying is learnt."""
    bf16: bool = True
    """Autocast to bfloat16; the weights themselves stay float32."""
    save_every: int = 100


def build_model(tokenizer: Qwen2TokenizerFast, recipe: InstructRecipe) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights for this tokenizer."""
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


def token_losses(model: Qwen2ForCausalLM, batch: Batch) -> dict[str, Tensor]:
    """Mean cross-entropy of the ``answer``'s tokens, and of those that the model was ``reading`` before."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    ids, labels = batch.ids[:, 1:], batch.labels[:, 1:]
    said = labels != -100
    read = ~said & (ids != model.config.pad_token_id)

    def loss(tokens: Tensor) -> Tensor:
        return functional.cross_entropy(model.lm_head(hidden[tokens]).float(), ids[tokens])

    return {"answer": loss(said), "reading": loss(read)}


def micro_template(generator: Path = MICRO_WEIGHTS / "generator") -> TemplateReviser:
    """The template that fits the bundled generator."""
    return cast(TemplateReviser, fitting_reviser("template", DiffusionPipeline.from_pretrained(generator)))


def train(recipe: InstructRecipe, template: TemplateReviser, folder: Path, out: Path) -> None:
    """Train, resumed from ``folder`` where it holds a checkpoint; the model goes to ``out``, weights in float16."""
    seed_everything(recipe.seed)
    tokenizer = build_tokenizer(template)
    model = build_model(tokenizer, recipe)

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        rng = np.random.default_rng((recipe.seed, step))
        attempts = _ATTEMPTS[step % len(_ATTEMPTS)]  # the same for all: less padding
        batch = collate([draw(rng, template, attempts) for _ in range(recipe.batch)], tokenizer)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            losses = token_losses(model, batch)
        return losses["answer"] + recipe.reading * losses["reading"], {k: v.detach() for k, v in losses.items()}

    settings = FitSettings(
        steps=recipe.steps,
        learning_rate=recipe.rate,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
        ema=recipe.ema,
        seed=recipe.seed,
        report_every=50,
        save_every=recipe.save_every,
    )
    fit(model, loss_of_step, settings, folder, "instruct")
    tokenizer.save_pretrained(out)
    model.to(torch.float16).save_pretrained(out)


def measure(folder: Path, template: TemplateReviser, count: int) -> dict[str, float]:
    """Scores on held-out prompts and histories, asked through ``ChatReviser``.

    Returns:
        ``used`` (share of the answers that may be painted, at the first try or after an objection) and ``as_taught``
        (share of the prompts that are exactly those that should be answered), in [0, 1].
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


def write_scores(folder: Path, scores: Mapping[str, float], recipe: InstructRecipe) -> None:
    """Write a model's ``card.json`` with its scores."""
    write_card(
        folder,
        name="instruct-micro 1",
        recipe="python -P -m refiner.training.instruct.recipe --run runs/instruct --out DIR",
        seed=recipe.seed,
        data="captions of the micro world with histories of flaws, drawn on the fly (training/instruct_data.py)",
        domain="micro",
        scores={name: round(value, 4) for name, value in scores.items()},
        settings=dataclasses.asdict(recipe),
    )


def build(run: Path, generator: Path, out: Path, recipe: InstructRecipe | None = None) -> dict[str, float]:
    """Train, measure on ``_HISTORIES`` held-out histories, and write the model with its card to ``out``."""
    recipe, template = recipe or InstructRecipe(), micro_template(generator)
    train(recipe, template, run, out)
    scores = measure(out, template, _HISTORIES)
    write_scores(out, scores, recipe)
    return scores


def main() -> None:
    """``python -P -m refiner.training.instruct.recipe --run runs/instruct --out DIR``."""
    parser = argparse.ArgumentParser(description="Train an instruct model; goes on from a checkpoint in --run.")
    parser.add_argument("--run", type=Path, default=Path("runs/instruct"), help="checkpoint and log")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained model, with its card")
    parser.add_argument("--measure-only", action="store_true", help="measure the model that is in --out, then stop")
    parser.add_argument("--generator", type=Path, default=MICRO_WEIGHTS / "generator", help="that reads the prompts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure_only:
        scores = measure(arguments.out, micro_template(arguments.generator), _HISTORIES)
    else:
        scores = build(arguments.run, arguments.generator, arguments.out)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
