"""Train AlignGemini (papers/aligngemini.md): its semantic and its pixel branch, each from supervision of its own kind.

Without ``--data`` the recipe trains the bundled detector on drawn images. The folder of a model has a sub-folder for
each branch; ``branch`` in the settings chooses one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refiner.data.samples import DataSet
from refiner.detectors.aligngemini.config import BRANCHES, PairConfig
from refiner.detectors.aligngemini.fusion import Fusion
from refiner.detectors.aligngemini.notes import NOTE
from refiner.detectors.vlm.questions import box_format
from refiner.errors import InputError
from refiner.files import Json, atomic_write, dumps
from refiner.hub import locate
from refiner.training.aligngemini.lessons import Style, lessons_of, preferred, supervised
from refiner.training.aligngemini.pairs import DataPairs, Pairs
from refiner.training.aligngemini.settings import (
    AlignGeminiSettings,
    PixelSettings,
    SemanticSettings,
    paper,
    pixel,
    semantic,
    sft,
)
from refiner.training.chat import require_trl
from refiner.training.chat.settings import StageSettings
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run

_IMAGES, _PAIRS = 40_000, 3_000  # drawn images of the bundled semantic branch; pairs of the pixel branch


def micro() -> AlignGeminiSettings:
    """Settings of the bundled detector: an adapter on the bundled chat model, and a small network of DINOv2's kind.

    The training takes about an hour and a half on one core.
    """
    from refiner.training.aligngemini.words import tokens

    return AlignGeminiSettings(
        semantic=SemanticSettings(
            base="micro:vlm", rank=24, alpha=48, vision=False, tokens=tokens(), bf16=False, method="sft", blur=0.4,
            sft=StageSettings(
                most_steps=1500, batch=16, accumulate=1, learning_rate=1e-3, warmup=50, report_every=50, save_every=200
            ),
        ),
        pixel=PixelSettings(
            base="", width=96, layers=4, heads=2, patch=8, side=96, rank=0, most_steps=2000, batch=16, accumulate=1,
            learning_rate=4e-4, warmup=100, weight_decay=0.02, resized=False, bf16=False, report_every=50,
            save_every=200,
        ),
    )  # fmt: skip


def _check(settings: AlignGeminiSettings) -> None:
    """Refuse what cannot be trained, before anything is downloaded or written."""
    if "semantic" in settings.trains:
        require_trl("Training AlignGemini's semantic branch")
        locate(settings.semantic.base, "detector")
    if "pixel" in settings.trains and settings.pixel.base:
        locate(settings.pixel.base, "detector")


def train_on(settings: AlignGeminiSettings, data: DataSet | None, run: Run, out: Path) -> None:
    """Train the branches on a data set, or resume, and write them to ``out``. None: drawn images.

    Raises:
        InputError: the data cannot be used.
        WeightsError: a base cannot be loaded.
        OutputError: the model cannot be written.
    """
    from refiner.training.aligngemini.drawn import DrawnPairs, semantic_data
    from refiner.training.aligngemini.expert import train_pixel

    held = [] if data is None else _held(settings, data)
    if "semantic" in settings.trains and not (out / "semantic" / NOTE).exists():
        samples: DataSet = semantic_data(_IMAGES) if data is None else data
        rows = [row for row in range(len(samples.names)) if row not in set(held)]
        train_semantic(settings.semantic, samples, rows, run, out / "semantic")
    if "pixel" in settings.trains and not (out / "pixel" / "config.json").exists():
        pairs: Pairs
        if data is None:
            pairs = drawn = DrawnPairs(_PAIRS, run)
            with run.processes.main_first():
                drawn.make()
        else:
            pairs = DataPairs(data, run.tell, held)
        train_pixel(settings.pixel, pairs, run, out / "pixel", torch.float16 if data is None else torch.float32)
    if run.processes.main:
        fusion = Fusion() if settings.fusion == "thresholds" else Fusion(settings.fusion)
        config = PairConfig(branches={branch: branch for branch in settings.trains}, fusion=fusion)
        atomic_write(out / "config.json", dumps(config.document) + "\n")
        if settings.fusion == "thresholds" and (learned := _thresholds(out, data, held, settings.held, run)):
            config = PairConfig(branches=config.branches, fusion=Fusion("thresholds", learned))
            atomic_write(out / "config.json", dumps(config.document) + "\n")
    run.processes.wait()


def train_semantic(settings: SemanticSettings, data: DataSet, rows: list[int], run: Run, out: Path) -> None:
    """Train the semantic branch on rows of a data set, or resume, and write it to ``out``.

    With an adapter, ``out`` holds the adapter alone, and ``merged`` in the run's folder the whole model if
    ``settings.merged``.

    Raises:
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
        OutputError: the model cannot be written.
    """
    from refiner.training.chat.preferring import prefer
    from refiner.training.chat.pupils import load_pupil, save_merged, save_pupil
    from refiner.training.chat.running import without_foreign_warnings
    from refiner.training.chat.supervised import supervise

    with without_foreign_warnings():
        pupil = load_pupil(settings, run)
        style = Style(box_format(pupil.kind), settings.max_side, settings.blur)
        lessons = lessons_of(data, style, run.tell, rows)
        if settings.method != "dpo":
            supervise(settings, settings.sft, supervised(lessons), pupil, run, run.folder / "sft")
        if settings.method != "sft":
            prefer(settings, settings.dpo, settings.beta, preferred(lessons, style), pupil, run, run.folder / "dpo")
        if lessons.unusable:
            run.tell(f"{len(lessons.unusable)} of {len(rows)} samples could not be used.")
        if run.processes.main:
            dtype = torch.float16 if settings.tokens else torch.bfloat16 if settings.bf16 else torch.float32
            boxes = {"scale": style.form.scale, "order": style.form.order}
            notes = {NOTE: {"boxes": boxes, "max_side": style.max_side}}
            save_pupil(pupil, out, dtype, notes)
            if settings.rank and settings.merged:
                save_merged(pupil, run.folder / "merged", dtype, notes)
        run.processes.wait()


def _thresholds(
    folder: Path, data: DataSet | None, held: list[int], count: int, run: Run
) -> tuple[float, float] | None:
    """Thresholds learned from the held-out rows, or from drawn images; None, and said, if they cannot be learned.

    Images for which a branch has no probability are left out.
    """
    from refiner.training.aligngemini.drawn import Case, held_out
    from refiner.training.aligngemini.eval import bounded, chances
    from refiner.training.aligngemini.fusing import learn_thresholds

    cases: list[Case] = []
    if data is None:
        cases = held_out(count // 2, run.weights / "generator", seed=1)["mixture"]
    for row in held:
        try:
            sample = data.load(row) if data is not None else None
        except InputError:
            continue  # told by the training
        if sample is not None and sample.image is not None and sample.fake is not None:
            cases.append(Case(sample.image, sample.fake))
    images = [case.image for case in cases]
    columns = [chances(bounded(folder / branch, run.processes.device), images) for branch in BRANCHES]
    found = np.stack(columns, axis=1)
    known = np.flatnonzero(np.isfinite(found).all(axis=1))
    try:
        return learn_thresholds(found[known], [cases[row].fake for row in known])
    except InputError as error:
        run.tell(f"The branches are joined by OR: of {len(cases)} held-out images {len(known)} had answers. {error}")
        return None


def _held(settings: AlignGeminiSettings, data: DataSet) -> list[int]:
    """The rows that are held out for the thresholds of the fusion."""
    from refiner.training.aligngemini.fusing import held_rows

    return held_rows(data, settings.held) if settings.fusion == "thresholds" else []


def _dry_run(settings: AlignGeminiSettings, data: DataSet, run: Run) -> Json:
    from refiner.training.aligngemini.dry_run import dry_run
    from refiner.training.chat.running import without_foreign_warnings

    with without_foreign_warnings():
        return dry_run(settings, data, _held(settings, data), run)


def _measure(folder: Path, run: Run, count: int) -> Mapping[str, Any]:
    from refiner.training.aligngemini.eval import measure

    return measure(folder, run, count)


RECIPE = Recipe(
    name="aligngemini",
    folder="aligngemini",
    micro=micro,
    train=train_on,
    configs={"paper": paper, "sft": sft, "semantic": semantic, "pixel": pixel, "micro": micro},
    check=_check,
    dry_run=_dry_run,
    card=Card(
        name="aligngemini-micro 1",
        family="aligngemini",
        data=lambda recipe: (
            f"micro world: {_IMAGES} drawn images, 60 % with semantic flaws, for the semantic branch (base "
            f"{recipe.semantic.base}); {_PAIRS} clean ones and their reconstructions for the pixel branch"
        ),
    ),
    measure=_measure,
    measured=100,
)
