"""Train FakeXplain's detector (papers/fakexplain.md): a chat model learns its answers, then is rewarded for them.

Stage ``sft`` is supervised, stage ``grpo`` reinforces right boxes and verdicts (``rewards.py``). Without ``--data`` the
recipe trains the bundled detector: an adapter on the bundled chat model, which learns from drawn images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from refiner.data.samples import DataSet
from refiner.detectors.fakexplain.notes import NOTE
from refiner.errors import ConfigError, InputError
from refiner.files import Json, atomic_write, dumps
from refiner.hub import locate
from refiner.records import derive_seed
from refiner.training.chat import require_trl
from refiner.training.chat.settings import StageSettings
from refiner.training.fakexplain.settings import (
    FakexplainSettings,
    GrpoSettings,
    code,
    paper,
    paper_full,
    qwen3,
)
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.world.injected import InjectedData

_IMAGES = 40_000  # images that the bundled model learns from, each at most once


def micro() -> FakexplainSettings:
    """Settings of the bundled adapter. The training takes about an hour on one core."""
    from refiner.training.fakexplain.words import tokens

    return FakexplainSettings(
        base="micro:vlm",
        rank=32,
        alpha=64,
        tokens=tokens(),
        sft=StageSettings(
            most_steps=1500, batch=16, accumulate=1, learning_rate=1e-3, warmup=50, report_every=50, save_every=200
        ),
        grpo=GrpoSettings(
            most_steps=200, batch=64, accumulate=1, learning_rate=1e-4, warmup=10, most_tokens=160, beta=0.0,
            report_every=5, save_every=25,
        ),
    )  # fmt: skip


def _check(settings: FakexplainSettings) -> None:
    """Refuse what cannot be trained, before anything is downloaded or written."""
    require_trl("Training FakeXplain")
    locate(settings.base, "detector")
    if settings.stage == "both" and settings.grpo.engine == "server":
        raise ConfigError("A vLLM server serves one model: train --stage sft first, then --stage grpo with its result.")


def _train(settings: FakexplainSettings, data: DataSet | None, run: Run, out: Path) -> None:
    samples: DataSet = InjectedData(_IMAGES) if data is None else data
    if settings.folds:
        _cross_validate(settings, samples, run)
    train_on(settings, samples, list(range(len(samples.names))), run, out)


def _cross_validate(settings: FakexplainSettings, data: DataSet, run: Run) -> None:
    """Train once without each part of the samples, in ``fold-N``, and write the scores on these to ``folds.json``."""
    from refiner.training.fakexplain.eval import score

    parts = [fold_of(name, settings.folds) for name in data.names]
    if len(set(parts)) < settings.folds:
        raise InputError(f"Expected samples for {settings.folds} folds, got {len(parts)}: lower folds.")
    scores: list[Mapping[str, float]] = []
    for fold in range(settings.folds):
        kept, held = ([row for row, part in enumerate(parts) if (part == fold) == out] for out in (False, True))
        own = replace(run, folder=run.folder / f"fold-{fold + 1}")
        train_on(settings, data, kept, own, own.folder / "model")
        if run.processes.main:
            scores.append(score(own.folder / "model", data, held, run))
        run.processes.wait()
    if run.processes.main:
        names = dict.fromkeys(name for own_scores in scores for name in own_scores)
        values = {name: [own_scores[name] for own_scores in scores if name in own_scores] for name in names}
        rows = {
            name: {"mean": sum(own_values) / len(own_values), "lowest": min(own_values), "highest": max(own_values)}
            for name, own_values in values.items()
        }
        atomic_write(run.folder / "folds.json", dumps({"scores": rows, "folds": scores}) + "\n")


def fold_of(name: str, folds: int) -> int:
    """The part of a sample in a cross-validation: it depends only on the sample's name."""
    return derive_seed("fold", name) % folds


def train_on(settings: FakexplainSettings, data: DataSet, rows: list[int], run: Run, out: Path) -> None:
    """Run the stages on rows of a data set, or resume them, and write the model to ``out``.

    With an adapter, ``out`` holds the adapter alone, and ``merged`` in the run's folder holds the whole model if
    ``settings.merged``.

    Raises:
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
        OutputError: the model cannot be written.
    """
    from refiner.training.chat.running import without_foreign_warnings

    with without_foreign_warnings():
        _run_stages(settings, data, rows, run, out)


def _run_stages(settings: FakexplainSettings, data: DataSet, rows: list[int], run: Run, out: Path) -> None:
    """Each stage starts from what the one before has written, so that both are the same as one after the other."""
    from refiner.training.chat.pupils import load_pupil, save_merged, save_pupil
    from refiner.training.chat.supervised import supervise
    from refiner.training.fakexplain.grpo import reinforce
    from refiner.training.fakexplain.lessons import lessons_of, style_of, supervised

    dtype = torch.float16 if settings.tokens else torch.bfloat16 if settings.bf16 else torch.float32
    stages = ("sft", "grpo") if settings.stage == "both" else (settings.stage,)
    for stage in stages:
        written = out if stage == stages[-1] else run.folder / stage / "model"
        if not (written / NOTE).exists():
            pupil = load_pupil(settings, run)
            style = style_of(settings, pupil.kind)
            lessons = lessons_of(data, style, run.tell, rows)
            if stage == "sft":
                supervise(settings, settings.sft, supervised(lessons), pupil, run, run.folder / stage)
            else:
                reinforce(settings, lessons, style, pupil, run, run.folder / stage)
            if lessons.unusable:
                run.tell(f"{len(lessons.unusable)} of {len(rows)} samples could not be used.")
            if run.processes.main:
                notes = {NOTE: style.note}
                save_pupil(pupil, written, dtype, notes)
                if written == out and settings.rank and settings.merged:
                    save_merged(pupil, run.folder / "merged", dtype, notes)
            run.processes.wait()
        settings = replace(settings, base=str(written))


def _dry_run(settings: FakexplainSettings, data: DataSet, run: Run) -> Json:
    from refiner.training.chat.running import without_foreign_warnings
    from refiner.training.fakexplain.dry_run import dry_run

    with without_foreign_warnings():
        return dry_run(settings, data, run)


def _measure(folder: Path, run: Run, count: int) -> Mapping[str, Any]:
    from refiner.training.fakexplain.eval import measure

    return measure(folder, run, count)


RECIPE = Recipe(
    name="fakexplain",
    micro=micro,
    train=_train,
    configs={"paper": paper, "paper-full": paper_full, "code": code, "qwen3": qwen3, "micro": micro},
    check=_check,
    dry_run=_dry_run,
    folder="fakexplain",
    card=Card(
        name="fakexplain-micro 1",
        family="fakexplain",
        data=lambda recipe: (
            f"micro world: {_IMAGES} drawn images, 60 % with injected flaws, half decoder-like; "
            f"base {recipe.base}, SFT and then GRPO with the {recipe.grpo.omega} weight"
        ),
    ),
    measure=_measure,
    measured=400,
)
