"""Short runs of every recipe. Their results are stored in ``trajectories.json``.

``python -P tests/support/trajectories.py`` writes the file again. Do this only after a change that is meant to change
what recipes learn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from refiner.hub import MICRO_WEIGHTS
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.training.generator.autoencoder import AutoencoderSettings, train_autoencoder
from refiner.training.generator.recipe import GeneratorSettings, train_generator
from refiner.training.inpainter import recipe as inpainter
from refiner.training.instruct import recipe as instruct
from refiner.training.legion import recipe as legion
from refiner.training.legion.data import Pool
from refiner.training.legion.losses import LossWeights
from refiner.training.legion.model import Architecture as LegionArchitecture
from refiner.training.preference import recipe as preference
from refiner.training.probe import recipe as probe
from refiner.training.runs import Run
from refiner.training.vlm import recipe as vlm
from refiner.training.vlm.data import Album
from refiner.training.vlm.model import Architecture as VlmArchitecture

STORED = Path(__file__).parent.parent / "training" / "trajectories.json"
SIDE = 24
Trajectory = dict[str, Any]
Weights = Mapping[str, torch.Tensor]


def digest(weights: Weights) -> str:
    """A digest of the names and float32 bytes of all weights."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(weights[name].detach().float().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _generator() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator", dtype=torch.float32)


def run_autoencoder(run: Run) -> Weights:
    return train_autoencoder(AutoencoderSettings(steps=3, batch=4, report_every=1), run).state_dict()


def run_generator(run: Run) -> Weights:
    out = run.folder / "out"
    train_generator(GeneratorSettings(steps=3, batch=4, pool=64, report_every=1), _generator().vae, run, out)
    return StableDiffusionPipeline.from_pretrained(out, dtype=torch.float32).unet.state_dict()


def run_inpainter(run: Run) -> Weights:
    settings = inpainter.InpainterSettings(steps=3, batch=4, pool=50, report_every=1)
    return inpainter.train(settings, _generator(), run, run.folder / "out").unet.state_dict()


def run_preference(run: Run) -> Weights:
    settings = preference.PreferenceSettings(
        steps=4, batch=2, shards=1, shard_size=4, reading=2, read=4, natural_shards=1, natural_shard_size=4,
        natural_from=3, naturals=2, report_every=1,
    )  # fmt: skip
    return preference.train(settings, None, run).model.state_dict()


LEGION = legion.LegionSettings(
    architecture=LegionArchitecture(
        clip_patch=24, clip_width=16, clip_layers=1, text_width=16, text_layers=1, sam_patch=16, sam_width=16,
        sam_layers=2, mask_width=16, verdict_width=8,
    ),
    weights=LossWeights(flaws=1.0, parts=0.5, count=0.3, verdict=0.3), tower_steps=50, steps=50, verdict_steps=50,
    batch=3, warmup=2, first_shards=1, shards=2, shard_every=40, bf16=False,
)  # fmt: skip


def run_legion(run: Run) -> Weights:
    setting, trainee = legion.prepare(LEGION, Pool(run.folder / "pool", shard=8), run)
    for stage in range(3):
        legion.run_stage(setting, trainee, stage)
    return trainee.state_dict()


def noise_shard(count: int, seed: int) -> probe.Shard:
    """Features of ``count`` images: noise, with higher values in channel 0 at flaws."""
    rng = np.random.default_rng(seed)
    flaws = (rng.random((count, SIDE, SIDE)) < 0.1).astype(np.float32)
    features = rng.normal(size=(count, 6, SIDE, SIDE)).astype(np.float16)
    features[:, 0] += 3 * flaws.astype(np.float16)
    words = np.where(flaws > 0, 1, -100).astype(np.int64)
    return probe.Shard(features, flaws, words, words)


def run_probe(run: Run) -> Weights:
    settings = probe.ProbeSettings(steps=4, batch=4, report_every=1)
    return probe.train(settings, [noise_shard(20, 0)], run, "micro").model.state_dict()


VLM = vlm.VlmSettings(
    architecture=VlmArchitecture(
        patch=24, vision_width=16, vision_layers=2, vision_heads=2, deepstack=(0,), text_width=24, text_layers=2,
        text_inner=32, text_heads=2, text_groups=1,
    ),
    tower_steps=2, steps=4, warmup=1, batch=3, first_shards=1, shards=2, shard_every=3, bf16=False, report_every=1,
)  # fmt: skip


def run_vlm(run: Run) -> Weights:
    setting, trainee = vlm.prepare(VLM, Album(run.folder / "album", shard=8), run)
    for stage in range(2):
        vlm.run_stage(setting, trainee, stage)
    return trainee.state_dict()


INSTRUCT = instruct.InstructSettings(
    width=16, layers=1, heads=2, groups=1, inner=16, steps=4, warmup=1, batch=2, bf16=False, report_every=1
)


def run_instruct(run: Run) -> Weights:
    instruct.train(INSTRUCT, TemplateReviser(limit=64, free_text=False), run, run.folder / "out")
    return load_file(run.folder / "out" / "model.safetensors")


SHORT: dict[str, Callable[[Run], Weights]] = {
    "autoencoder": run_autoencoder,
    "generator": run_generator,
    "inpainter": run_inpainter,
    "preference": run_preference,
    "legion": run_legion,
    "probe": run_probe,
    "vlm": run_vlm,
    "instruct": run_instruct,
}
"""By name: a function that makes a short run in a folder and returns the final weights."""


def follow(name: str, folder: Path) -> Trajectory:
    """The logged values of a short run by step, and the digest of its final weights.

    It computes in float32, in which processors differ by 3e-7 in these runs; in bfloat16 they differ by 1e-3.
    """
    torch.set_num_threads(1)
    run = Run(folder=folder, dtype="float32")
    weights = SHORT[name](run)
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
    return {"log": rows, "weights": digest(weights)}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: follow(name, Path(folder) / name) for name in SHORT}
    STORED.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
