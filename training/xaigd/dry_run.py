"""What a training on samples would do: its weights, an estimate of its memory, and its first batch as images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from refiner.claims import region_of
from refiner.data.samples import DataSet
from refiner.detectors.xaigd.config import CATEGORIES
from refiner.files import Json
from refiner.taxonomy import FROM_XAIGD
from refiner.training.first_batch import Shown, write_first_batch
from refiner.training.fit import Draw, summed
from refiner.training.runs import Run
from refiner.training.xaigd.data import Lesson, Samples, collate, contents_of, steps_of
from refiner.training.xaigd.losses import Trainee
from refiner.training.xaigd.model import start_from
from refiner.training.xaigd.settings import XaigdSettings
from refiner.types import Claim, Size

_MEASURED = 2
"""Images of the step whose activations are measured; those of a batch are as many times larger."""


def dry_run(settings: XaigdSettings, data: DataSet, run: Run) -> Json:
    """Describe a training and write its first batch to ``dry-run/`` in the run's folder; no weight is trained.

    Returns:
        ``samples``, ``steps``, ``images_per_step``, ``parameters`` (all, trained), ``memory_gib`` by what needs it (an
        estimate for one device), and the written ``files``. The images are shown as they are learned from, compressed.

    Raises:
        ConfigError, InputError, WeightsError: those of the training that are known before its first step.
    """
    model = start_from(settings)
    contents = contents_of(data, run, keep=False)
    parts = settings.accumulate * run.processes.count
    samples = Samples(
        data, contents, settings, model.config, side=model.side, parts=parts, stride=run.processes.count, tell=run.tell
    )
    try:
        lessons = samples.lessons(Draw(0))
    finally:
        samples.close()
    trainee = Trainee(model, frozen=settings.frozen).train()
    needed = memory(trainee, settings, lessons)
    return {
        "samples": len(data.names),
        "steps": steps_of(settings, contents, parts),
        "images_per_step": settings.batch * parts,
        "parameters": parameters(trainee),
        "memory_gib": {name: round(size / 2**30, 2) for name, size in needed.items()},
        "files": write_first_batch(list(map(_shown, lessons)), run.folder / "dry-run"),
    }


def parameters(trainee: Trainee) -> dict[str, int]:
    """The numbers of all weights and of the trained ones."""
    weights = list(trainee.parameters())
    return {
        "all": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def memory(trainee: Trainee, settings: XaigdSettings, lessons: Sequence[Lesson]) -> dict[str, int]:
    """Estimate the bytes that one device needs for a micro-batch, without sharding; all weights are float32."""
    count = parameters(trainee)
    some = lessons[:_MEASURED]
    found = {
        "frozen weights": 4 * (count["all"] - count["trained"]),
        "trained weights": 4 * count["trained"],
        "gradients": 4 * count["trained"],
        "optimiser": 8 * count["trained"],
        "moving average": 4 * count["trained"] if settings.ema else 0,
        "activations": activations(trainee, settings, some) * len(lessons) // len(some),
    }
    return found | {"in all": sum(found.values())}


def activations(trainee: Trainee, settings: XaigdSettings, lessons: Sequence[Lesson]) -> int:
    """Bytes that the losses of some images keep for their gradients, besides the weights; measured on the CPU."""
    model = trainee.model
    batch = collate(lessons, model.config, model.side, settings.alignment.kind, np.random.default_rng(0))
    own = {StorageWeakRef(weight.untyped_storage()) for weight in trainee.parameters()}
    kept: dict[StorageWeakRef, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(StorageWeakRef(storage), storage)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16),
    ):
        summed(trainee.losses(batch, settings))
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


def _shown(lesson: Lesson) -> Shown:
    size = Size(lesson.image.height, lesson.image.width)
    pairs = [] if lesson.masks is None else list(zip(CATEGORIES, lesson.masks, strict=True))
    found = [(category, mask) for category, mask in pairs if mask.any()]
    said = [f"{category} on {mask.mean():.1%} of the image" for category, mask in found]
    if lesson.masks is None:
        said = ["artifacts not known"]
    regions = tuple(
        region_of(Claim(name=str(category), category=FROM_XAIGD[category]), mask, size) for category, mask in found
    )
    kind = "generated" if lesson.fake else "real"
    return Shown(lesson.name, lesson.image, "; ".join([kind, *said]), regions)
