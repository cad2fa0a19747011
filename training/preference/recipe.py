"""Train the micro judge: a CLIP in HPS's architecture and format, at the micro world's size.

A judge is a model that scores an image against its prompt. A thing is one object of the micro world. The main losses:

* CLIP's contrastive loss over images and captions. Every batch holds near misses of both (``RIVALS`` in ``data.py``).
* HPS v2's preference loss (arXiv 2306.09341, section 4): for one prompt and two images, cross-entropy over the pair's
  scaled cosines. The better image has no flaw, or fewer flaws, or fits the caption. In half of the steps it is another
  image of the same caption, because a judge must choose between such images.

Half of the images have gone through the generator's autoencoder. All images get the slight blur, noise and colour shift
of a decoder, in amounts that do not depend on which image is better, and are shifted by a few pixels. From step
``natural_from`` on, each batch also holds images with the generator's own flaws. In the first ``reading`` steps only
the text tower is trained, to predict the content of captions.

Departures from HPS v2: it starts from a pretrained CLIP and learns people's preferences; here the exact truth of the
micro world replaces both. With so few images, captions and preferences say too little about where a flaw is. Therefore
auxiliary heads, dropped afterwards, predict what each patch shows, which parts should be there, which kind of flaw is
there, whether the image is flawless, and the content of the caption. The tokenizer knows only the words of the micro
world. The image tower starts as in ``model.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from refiner.data.samples import DataSet
from refiner.hub import read_card
from refiner.metrics.hps.scorer import HPSScorer
from refiner.micro.world import sample_scene
from refiner.training.fit import Draw, fit, fit_settings, summed
from refiner.training.preference.eval import measure
from refiner.training.preference.losses import Trainee, contrastive_loss, duel_scores, preference_loss
from refiner.training.preference.model import build_scorer
from refiner.training.preference.pool import Labels, Pool, build_naturals, build_pool, decoder_look, shifted
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings
from refiner.training.world.flaws import ImperfectGenerator, bundled_generator
from refiner.training.world.paintings import VIEWS, Gallery


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(LoopSettings):
    """Settings of the judge's training. The defaults made the bundled weights."""

    seed: int = 31
    shards: int = 16
    shard_size: int = 250
    steps: int = 5000
    batch: int = 3  # rendered samples in a batch, with four images each
    reading: int = 800  # first steps, which train only the text tower
    read: int = 96  # captions in such a step
    natural_shards: int = 16
    natural_shard_size: int = 250
    natural_from: int = 2000  # first step with natural samples in the batch
    naturals: int = 6  # natural samples in a batch, with four images each
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    preference: float = 1.0  # this and the following fields are weights of losses
    contrast: float = 0.5
    things: float = 0.3
    parts: float = 0.5
    flaws: float = 1.0
    verdict: float = 0.3
    said: float = 0.5
    report_every: int = 50
    save_every: int = 200


_WORLD = (("clean", "flawed", "worse", "rival"), ("again", "flawed", "worse", "rival"))
"""Images of a rendered sample that are in the batch in even steps, and in odd steps."""
_DUELS = {"cleaner": (0, 1), "much cleaner": (0, 2), "fewer": (1, 2), "fitting": (0, 3)}
_NATURAL_DUELS = {"natural": (0, 2), "natural fewer": (1, 2), "mended": (3, 2), "spoiled": (2, 3)}
"""Pairs to compare by name: positions of the better and the worse image. ``Pool.better`` says whether a pair counts."""


class JudgeBatch(NamedTuple):
    """N images of some samples, their captions, and pairs of a better and a worse image."""

    pictures: Tensor  # float (N, 3, 96, 96) in [0, 1]
    samples: list[int]  # index of each image's sample
    labels: Labels
    captions: list[str]  # one caption for each image
    wrong: list[str]  # captions that belong to none of the images
    pairs: dict[str, Tensor]
    """Indices of the better and the worse image, int (P, 2), by name. The prompt is the caption of the better image."""
    fitting: list[int]  # indices of the images without flaws, which the contrastive loss compares with the captions


def _draw_batch(
    pool: Pool, rng: np.random.Generator, count: int, names: tuple[str, ...], duels: dict[str, tuple[int, int]]
) -> JudgeBatch:
    indices = rng.choice(len(pool), count, replace=False)
    pictures, labels = pool.take(indices, names)
    samples, places = torch.arange(count), [pool.names.index(name) for name in names]
    pairs = {
        name: torch.stack([better * count + samples, worse * count + samples], dim=1)[
            pool.better[indices, places[better], places[worse]]
        ]
        for name, (better, worse) in duels.items()
    }
    rows = [pool.captions[index] for index in indices.tolist()]
    captions = [row[name == "rival"] for name in names for row in rows]
    flawless = [place for place, name in enumerate(names) if name in ("clean", "again", "returned", "rival")]
    fitting = [place * count + at for place in flawless for at in range(count)]
    return JudgeBatch(
        pictures,
        samples.repeat(len(names)).tolist(),
        labels,
        captions,
        [text for row in rows for text in row[2:]],
        pairs,
        fitting,
    )


def _join(first: JudgeBatch, second: JudgeBatch) -> JudgeBatch:
    count = len(first.pictures)
    return JudgeBatch(
        torch.cat([first.pictures, second.pictures]),
        first.samples + [number + count for number in second.samples],
        Labels(*(torch.cat(both) for both in zip(first.labels, second.labels, strict=True))),
        first.captions + second.captions,
        first.wrong + second.wrong,
        first.pairs | {name: pairs + count for name, pairs in second.pairs.items()},
        first.fitting + [number + count for number in second.fitting],
    )


def draw_step(world: Pool, natural: Pool | None, recipe: PreferenceSettings, part: Draw) -> JudgeBatch | list[str]:
    """Draw a micro-batch. In the steps that train only the text tower, it is a list of captions."""
    rng = np.random.default_rng([recipe.seed, 1, *part.key])
    if part.step < recipe.reading:
        return [sample_scene(rng).caption for _ in range(recipe.read)]
    batch = _draw_batch(world, rng, recipe.batch, _WORLD[part.step % 2], _DUELS)
    if natural and part.step >= recipe.natural_from:
        batch = _join(batch, _draw_batch(natural, rng, recipe.naturals, VIEWS, _NATURAL_DUELS))
    return batch._replace(pictures=decoder_look(shifted(batch.pictures, batch.samples)))


def losses_of(trainee: Trainee, batch: JudgeBatch | list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses by name, and the values to log: for each kind of pair the share of right decisions, and the scale."""
    if not isinstance(batch, JudgeBatch):
        return {"said": trainee.said_loss(trainee.read(batch), batch)}, {}
    captions = [batch.captions[number] for number in batch.fitting] + batch.wrong
    place = {caption: number for number, caption in enumerate(captions)}
    seen, texts, scale = trainee.see(batch.pictures), trainee.read(captions), trainee.scale
    own = texts[[place[caption] for caption in batch.captions]]
    duels = {name: duel_scores(seen.features, own, pairs) for name, pairs in batch.pairs.items()}
    better, worse = torch.cat(list(duels.values())).unbind(1)
    losses = {
        "preference": preference_loss(better, worse, scale).mean(),
        "contrast": contrastive_loss(seen.features[batch.fitting], texts, captions, scale),
        "said": trainee.said_loss(seen.features, batch.captions) + trainee.said_loss(texts, captions),
        **trainee.patch_losses(seen.tokens, batch.labels),
    }
    won = {name: (fits[:, 0] > fits[:, 1]).float().mean() for name, fits in duels.items() if len(fits)}
    return losses, won | {"scale": scale}


def train(recipe: PreferenceSettings, imperfect: ImperfectGenerator | None, run: Run) -> HPSScorer:
    """Train the judge, or resume. Checkpoint and training images are in the run's folder.

    ``imperfect`` is the generator. Half of the images go through its autoencoder, and it generates the natural samples.
    None: no image does, and there are no natural samples. The trained judge is on the CPU.
    """
    weights = dataclasses.asdict(recipe)
    retouch = imperfect.round_trip if imperfect else None
    natural = None
    with run.processes.main_first():
        world = build_pool(run.folder / "pool", recipe.shards, recipe.shard_size, recipe.seed, retouch)
        if imperfect:
            gallery = Gallery(run.paintings, imperfect, shard=recipe.natural_shard_size)
            natural = build_naturals(run.folder / "natural", recipe.natural_shards, gallery)
    scorer = build_scorer(recipe.seed)
    trainee = Trainee(scorer, torch.float32 if run.dtype == "float32" else torch.bfloat16)

    def loss(batch: JudgeBatch | list[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        losses, figures = losses_of(trainee, batch)
        total, _ = summed({name: weights[name] * loss for name, loss in losses.items()})
        return total, losses | figures

    settings = fit_settings(recipe, warmup=150, ema=0.998)
    fit(trainee, lambda part: draw_step(world, natural, recipe, part), loss, settings, run, "preferences")
    trainee.cpu()
    return scorer


def _train(recipe: PreferenceSettings, data: DataSet | None, run: Run, out: Path) -> None:
    scorer = train(recipe, bundled_generator(run.weights), run)
    if run.processes.main:
        (out / "card.json").unlink(missing_ok=True)
        scorer.save_pretrained(out)


def measure_folder(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``measure`` for the judge in a folder. The seed of its ``card.json`` determines the pairs."""
    imperfect = bundled_generator(run.weights)
    return measure(HPSScorer.from_pretrained(folder), read_card(folder).seed, count, imperfect)


RECIPE = Recipe(
    name="preference",
    micro=PreferenceSettings,
    train=_train,
    folder="hps",
    card=Card(
        name="hps-micro 6",
        data=lambda recipe: (
            f"{recipe.shards * recipe.shard_size} captions of the micro world, five images each, and near misses; "
            f"{recipe.natural_shards * recipe.natural_shard_size} scenes drawn by the generator"
        ),
    ),
    measure=measure_folder,
    measured=1400,
)
