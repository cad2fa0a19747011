"""The probe's recipe: labels at the places of the flaws, and runs that resume."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import inject
from refiner.micro.things import COLOURS
from refiner.micro.world import render, sample_scene
from refiner.training.probe.recipe import ProbeSettings, Shard, labels, take_features, train
from refiner.training.runs import Run
from refiner.training.world.flaws import Flaw
from refiner.training.world.labels import PART_NAMES
from refiner.training.world.paintings import Painting

SIDE = 24


def shard(count: int, seed: int) -> Shard:
    """Features of ``count`` images: noise, with higher values in channel 0 at flaws."""
    rng = np.random.default_rng(seed)
    flaws = (rng.random((count, SIDE, SIDE)) < 0.1).astype(np.float32)
    features = rng.normal(size=(count, 6, SIDE, SIDE)).astype(np.float16)
    features[:, 0] += 3 * flaws.astype(np.float16)
    words = np.where(flaws > 0, 1, -100).astype(np.int64)
    return Shard(features, flaws, words, words)


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    data = shard(40, 0)
    probe = train(ProbeSettings(steps=60, batch=8), [data], Run(folder=tmp_path), "micro").model
    held = shard(10, 1)
    with torch.inference_mode():
        logits = probe(torch.from_numpy(held.features.astype(np.float32)))
    flawed = torch.from_numpy(held.flaws) > 0
    assert logits[:, 0][flawed].mean() > logits[:, 0][~flawed].mean() + 2
    assert (logits[:, 1 : 1 + len(PART_NAMES)].argmax(1)[flawed] == 1).float().mean() > 0.9
    assert (logits[:, 1 + len(PART_NAMES) :].argmax(1)[flawed] == 1).float().mean() > 0.9


def test_a_resumed_run_is_a_straight_one(
    tmp_path: Path,
    stopping_at_a_checkpoint: Callable[[], AbstractContextManager[None]],
) -> None:
    data, recipe = [shard(20, 0)], ProbeSettings(steps=8, batch=4)
    straight = train(recipe, data, Run(folder=tmp_path / "straight"), "micro").model.state_dict()
    recipe, run = replace(recipe, save_every=3), Run(folder=tmp_path / "resumed")
    with stopping_at_a_checkpoint():
        train(recipe, data, run, "micro")
    resumed = train(recipe, data, run, "micro").model.state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def painting(seed: int) -> Painting:
    """An image without flaws, one with a flaw, and the first one again."""
    rng = np.random.default_rng(seed)
    while not (flawed := inject(sample_scene(rng), rng, 1, ["missing_finger", "third_eye"])).regions:
        pass
    clean, mask = np.asarray(render(flawed.scene)), flawed.regions[0].mask
    kind = flawed.scene.things[0].kind
    part = next(name for name in PART_NAMES if name.startswith(f"{kind}: ")).partition(": ")[2]
    pictures = np.stack([clean, clean, np.asarray(flawed.image), clean])
    return Painting((flawed.scene,) * 4, pictures, ((), (), (Flaw(0, part, mask),), ()))


def test_labels_lie_where_the_flaws_lie(tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator")
    paintings = [painting(seed) for seed in range(3)]
    features = take_features(pipe, paintings, tmp_path / "features.npy")
    flaws, parts, colours = labels(paintings, features.shape[-1])
    assert features.shape[0] == len(flaws) == 9
    for number in range(9):
        truth = paintings[number // 3].flaws[(0, 2, 3)[number % 3]]
        assert (flaws[number].max() > 0) == bool(truth)
        assert np.array_equal(parts[number] >= 0, flaws[number] > 0)
        assert np.array_equal(colours[number] >= 0, flaws[number] > 0)
    assert parts.max() < len(PART_NAMES)
    assert colours.max() < len(COLOURS)
    assert not np.array_equal(features[0], features[1])
    assert np.array_equal(take_features(pipe, [], tmp_path / "features.npy"), features)
