"""Train the bundled probe, which finds flaws from the features of the generator's denoiser.

It learns from the generator's own images, with the referee's annotations. The referee is the program that knows the
truth of the micro world (``micro/oracle.py``). The features of every image are computed once and stored. The training
of the probe itself takes minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from refiner.data.samples import DataSet
from refiner.detectors.probe.config import ProbeConfig
from refiner.detectors.probe.detector import DenoiserFeatures, Probe, ProbeDetector
from refiner.micro.things import COLOURS
from refiner.micro.world import SIZE
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.recipes import Card, Recipe
from refiner.training.runs import Run
from refiner.training.settings import LoopSettings, within
from refiner.training.world.flaws import OUTLINE, bundled_generator, category_of
from refiner.training.world.labels import PART_NAMES
from refiner.training.world.localization import measure_detector
from refiner.training.world.paintings import VIEWS, Gallery, Painting

_SHOWN = tuple(VIEWS.index(name) for name in ("returned", "poorer", "repainted"))
"""The images of a ``Painting`` that are used: without flaws, with flaws, and with one region inpainted again."""
_IGNORED = -100  # label of a cell that torch's cross-entropy ignores


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(LoopSettings):
    """Settings of the probe's training. The defaults made the bundled weights."""

    shards: int = 16  # shards of the gallery
    held: int = 1  # first shards, which are not trained on but kept for choosing settings
    steps: int = 3000
    batch: int = 32
    learning_rate: float = 2e-3
    seed: int = 0
    flaw_weight: float = 2.0  # weight of a flawed cell; a cell without a flaw has weight 1
    word_weight: float = 0.1  # weight of the loss of part and colour; the loss of the flaw has weight 1

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, shards=(self.held + 1, None))


class Shard(NamedTuple):
    """Features and labels of N images."""

    features: NDArray[np.float16]  # (N, C, h, w), on disk
    flaws: NDArray[np.float32]  # (N, h, w): flawed share of each cell, in [0, 1]
    parts: NDArray[np.int64]  # (N, h, w): in flawed cells the index of the part in ``PART_NAMES``, else -100
    colours: NDArray[np.int64]
    """(N, h, w): in flawed cells the index of the thing's colour in ``COLOURS``, else -100. A thing is one object of
    the micro world."""


def take_features(pipe: StableDiffusionPipeline, paintings: Sequence[Painting], file: Path) -> NDArray[np.float16]:
    """Features of the images to learn from, float16 (N, C, h, w). Stored in ``file``, and read from it if it exists."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        look = DenoiserFeatures(pipe, ProbeConfig.timestep, ProbeConfig.draws)
        partial, rows = file.with_suffix(".partial"), None
        for place, painting in enumerate(paintings):
            images = [Image.fromarray(painting.pictures[view]) for view in _SHOWN]
            features = look(images, painting.scenes[VIEWS.index("poorer")].caption).half().numpy()
            if rows is None:
                shape = (len(paintings) * len(_SHOWN), *features.shape[1:])
                rows = open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            rows[place * len(_SHOWN) : (place + 1) * len(_SHOWN)] = features
        del rows
        partial.rename(file)
    features16: NDArray[np.float16] = np.load(file, mmap_mode="r")
    return features16


def labels(
    paintings: Sequence[Painting], side: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Flaws, parts and colours of the images to learn from, as in ``Shard``, on a grid of ``side`` x ``side`` cells."""
    shape = (len(paintings), len(_SHOWN), side, side)
    flaws = np.zeros(shape, dtype=np.float32)
    words = np.full((2, *shape), _IGNORED, dtype=np.int64)
    colours = list(COLOURS)
    for place, painting in enumerate(paintings):
        for row, view in enumerate(_SHOWN):
            scene, whole = painting.scenes[view], np.zeros((SIZE, SIZE), dtype=np.bool_)
            for flaw in painting.flaws[view]:
                mask = ndimage.binary_dilation(flaw.mask, iterations=OUTLINE)
                whole |= mask
                thing = scene.things[flaw.thing]
                name = f"{thing.kind}: {flaw.part}"
                if name in PART_NAMES:
                    cells = _shares(mask, side) > 0
                    words[:, place, row][:, cells] = [[PART_NAMES.index(name)], [colours.index(thing.colour)]]
            flaws[place, row] = _shares(whole, side)
    flat = (-1, side, side)
    return flaws.reshape(flat), words[0].reshape(flat), words[1].reshape(flat)


def _shares(mask: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    cell = SIZE // side
    shares: NDArray[np.float32] = mask.reshape(side, cell, side, cell).mean(axis=(1, 3)).astype(np.float32)
    return shares


def loss(
    probe: Probe, features: Tensor, truth: Sequence[Tensor], recipe: ProbeSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Binary cross-entropy of the flaws, plus cross-entropy of part and colour in flawed cells; and both to log.

    ``features`` is float (B, C, h, w). ``truth`` holds flaws, parts and colours as in ``Shard``.
    """
    flaws, *words = truth
    logits = probe(features)
    flaw = functional.binary_cross_entropy_with_logits(
        logits[:, 0], flaws, pos_weight=torch.tensor(recipe.flaw_weight, device=flaws.device)
    )
    said = logits[:, 1:].split([len(PART_NAMES), len(COLOURS)], dim=1)
    pairs = [functional.cross_entropy(*pair, ignore_index=_IGNORED) for pair in zip(said, words, strict=True)]
    word = torch.stack(pairs).nan_to_num().sum()
    return flaw + recipe.word_weight * word, {"flaw": flaw, "word": word}


def train(recipe: ProbeSettings, shards: Sequence[Shard], run: Run, generator: str) -> ProbeDetector:
    """Train a probe, or resume from ``probe.pt`` in the run's folder. ``generator`` is the id of the generator."""
    channels = shards[0].features.shape[1]
    config = ProbeConfig(
        generator=generator,
        channels=channels,
        parts=PART_NAMES,
        categories=tuple(category_of(name.partition(": ")[2]).value for name in PART_NAMES),
        colours=tuple(COLOURS),
    )
    torch.manual_seed(recipe.seed)
    probe = Probe(config)
    some = torch.from_numpy(np.concatenate([shard.features[::7] for shard in shards]).astype(np.float32))
    probe.mean.copy_(some.mean(dim=(0, 2, 3))[:, None, None])
    probe.spread.copy_(some.std(dim=(0, 2, 3))[:, None, None] + 1e-4)
    places = [(shard, row) for shard in shards for row in range(len(shard.flaws))]

    def draw(part: Draw) -> tuple[Tensor, ...]:
        drawn = np.random.default_rng([recipe.seed, *part.key]).choice(len(places), recipe.batch, replace=False)
        rows = [tuple(each[row] for each in shard) for shard, row in (places[place] for place in drawn)]
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))

    def loss_of(batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        features, *truth = batch
        return loss(probe, features.float(), truth, recipe)

    settings = fit_settings(recipe, weight_decay=0.02, ema=0.99)
    fit(probe, draw, loss_of, settings, run, "probe")
    return ProbeDetector(probe.cpu(), config, name="probe")


def _train(recipe: ProbeSettings, data: DataSet | None, run: Run, out: Path) -> None:
    generator = run.weights / "generator"
    pipe = StableDiffusionPipeline.from_pretrained(generator, dtype=torch.float32)
    gallery = Gallery(run.paintings, bundled_generator(run.weights))
    with run.processes.main_first():
        shards = []
        for index in range(recipe.held, recipe.shards):
            name = f"{gallery.seed}-{gallery.shard}-{index:03d}.npy"
            features = take_features(pipe, paintings := gallery[index], run.folder / "features" / name)
            shards.append(Shard(features, *labels(paintings, features.shape[-1])))
    probe = train(recipe, shards, run, "micro")
    if run.processes.main:
        probe.save_pretrained(out)


RECIPE = Recipe(
    name="probe",
    micro=ProbeSettings,
    train=_train,
    folder="probe",
    card=Card(
        name="probe-micro 3",
        family="probe",
        data=lambda _: "the generator's own images of scenes of the micro world, annotated by the referee",
    ),
    measure=measure_detector,
    measured=500,
)
