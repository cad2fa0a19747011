"""Train X-AIGD's detectors (papers/x-aigd.md): verdict, masks of seven categories, and the alignment of both.

With ``--data``: pairs of real and generated images, brought to the same JPEG quality. Without, the recipe trains the
bundled detector on drawn pairs of the micro world. It departs from the paper in this:

* It starts from the CLIP of the bundled judge, which has seen the micro world alone, and learns all losses at once.
* An image with flaws is "generated", the same scene without flaws is "real".
* Pairs are shifted, and look as if an autoencoder had decoded them, in place of JPEG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refiner.data.samples import DataSet
from refiner.detectors.xaigd.detector import save_xaigd
from refiner.detectors.xaigd.modeling import XaigdModel
from refiner.training.fit import Draw, fit, fit_settings, summed
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.xaigd.data import Samples, XaigdBatch, collate, contents_of, steps_of
from refiner.training.xaigd.drawn import DrawnPairs
from refiner.training.xaigd.dry_run import dry_run
from refiner.training.xaigd.losses import Trainee
from refiner.training.xaigd.model import check_base, start_from
from refiner.training.xaigd.settings import CONFIGS, XaigdSettings, micro

_SHARDS, _FIRST, _EVERY = 24, 4, 100
"""Shards of drawn pairs at the end and at the start, and the steps after which another one is added."""


def _train(settings: XaigdSettings, data: DataSet | None, run: Run, out: Path) -> None:
    if data is None:
        train_drawn(settings, DrawnPairs(run.folder / "pairs", seed=settings.seed), run, out)
    else:
        train_on(settings, data, run, out)


def train_on(settings: XaigdSettings, data: DataSet, run: Run, out: Path) -> None:
    """Train on the samples of a data set, or resume, and write the detector to ``out``.

    Raises:
        ConfigError: the settings do not fit the base.
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
    """
    check_base(settings)
    model = start_from(settings)
    contents = contents_of(data, run)
    parts = settings.accumulate * run.processes.count
    samples = Samples(
        data, contents, settings, model.config, side=model.side, parts=parts, stride=run.processes.count,
        tell=partial(run.tell, everywhere=True),
    )  # fmt: skip
    try:
        train(settings, model, samples.batch, steps_of(settings, contents, parts), run, out)
    finally:
        samples.close()
    if samples.unusable:
        run.tell(f"{len(samples.unusable)} of {len(data.names)} samples could not be used.", everywhere=True)


def train_drawn(
    settings: XaigdSettings, pairs: DrawnPairs, run: Run, out: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Train on drawn pairs, or resume, and write the detector to ``out`` with weights in ``dtype``."""
    model = start_from(settings)

    def draw(part: Draw) -> XaigdBatch:
        pairs.grow(min(_SHARDS, _FIRST + part.step // _EVERY))
        rng = np.random.default_rng([settings.seed, 4, *part.key])
        lessons = pairs.lessons(part, settings.batch // 2)
        return collate(lessons, model.config, model.side, settings.alignment.kind, rng)

    train(settings, model, draw, settings.most_steps, run, out, dtype)


def train(
    settings: XaigdSettings,
    model: XaigdModel,
    draw: Callable[[Draw], XaigdBatch],
    steps: int,
    run: Run,
    out: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Train a network on the batches of ``draw``, or resume, and write it to ``out``."""
    trainee = Trainee(model, frozen=settings.frozen)

    def loss(batch: XaigdBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return summed(trainee.losses(batch, settings))

    loop = fit_settings(
        settings, steps=steps, warmup=min(settings.warmup, steps // 4), betas=(0.9, 0.99), average=settings.ema > 0
    )
    fit(trainee, draw, loss, loop, run, settings.task, [each for each in trainee.parameters() if each.requires_grad])
    if run.processes.main:
        save_xaigd(model.cpu().to(dtype), out)
    run.processes.wait()


def _measure(folder: Path, run: Run, count: int) -> Mapping[str, Any]:
    from refiner.training.xaigd.eval import measure

    return measure(folder, run, count)


RECIPE = Recipe(
    name="xaigd",
    folder="xaigd",
    micro=micro,
    train=_train,
    configs=CONFIGS,
    check=check_base,
    dry_run=dry_run,
    card=Card(
        name="xaigd-micro 1",
        family="xaigd",
        data=lambda _settings: (
            f"micro world: {500 * _SHARDS} drawn pairs, each a scene with and without flaws, half of them decoder-like"
        ),
    ),
    measure=_measure,
    measured=400,
)
