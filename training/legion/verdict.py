"""Stage 2 of LEGION's training: the verdict, real or generated, from the CLS feature of CLIP (equation 1).

The tower does not change, so each image goes through it once. The features are stored in the run's folder.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from refiner.data.samples import DataSet
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.modeling import LegionModel, verdict_head
from refiner.errors import InputError
from refiner.files import atomic_write, check_writable
from refiner.training.fit import Draw, fit, fit_settings
from refiner.training.legion.settings import TuneSettings
from refiner.training.runs import Run

_CHUNK = 512  # images of one file of features
_AT_ONCE = 16  # images in one pass through the tower
_UNUSABLE = -1


class Features(NamedTuple):
    """The CLS features of N images."""

    values: Tensor  # float (N, width of the tower)
    real: Tensor  # int (N,): 1 for a real image, 0 for a generated one, as in LEGION's code


def train_verdict(settings: TuneSettings, data: DataSet, detector: LegionDetector, run: Run) -> None:
    """Train a new head on the images of ``data``, or resume; the rest of the detector does not change.

    Raises:
        InputError: the data have no usable images, or only real or only generated ones.
    """
    own, model = settings.verdict, detector.model
    features = stored_features(data, detector, run)
    torch.manual_seed(settings.seed)
    head = verdict_head(model.llava.config.vision_config.hidden_size, own.width)
    parts, count = own.accumulate * run.processes.count, len(features.real)
    steps = math.ceil(own.epochs * count / (own.batch * parts))

    def draw(part: Draw) -> Features:
        first = (part.step * parts + part.part) * own.batch
        rows = torch.tensor([_row(first + place, count, settings.seed) for place in range(own.batch)])
        return Features(features.values[rows], features.real[rows])

    def loss(batch: Features) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits = head(batch.values).float()
        right = (logits.argmax(-1) == batch.real).float().mean()
        return functional.cross_entropy(logits, batch.real), {"accuracy": right}

    loop = fit_settings(own, steps=steps, seed=settings.seed, betas=(0.9, 0.999), ema=0.0, average=False)
    fit(head, draw, loss, loop, run, "verdict")
    _set_head(model, head.cpu(), own.width)


def _row(place: int, count: int, seed: int) -> int:
    epoch, row = divmod(place, count)
    return int(_order(count, seed, epoch)[row])


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


def _set_head(model: LegionModel, head: nn.Sequential, width: int) -> None:
    model.prediction_head = head
    model.config.verdict_width = width


def stored_features(data: DataSet, detector: LegionDetector, run: Run) -> Features:
    """Compute the features that are not stored yet, a file for each 512 images, and read them all.

    Raises:
        InputError: as for ``train_verdict``.
    """
    folder = run.folder / "features"
    starts = range(0, len(data.names), _CHUNK)
    check_writable(folder)
    model = detector.model.to(run.processes.device).eval()
    for number, start in enumerate(starts):
        path = folder / f"{start:09d}.npz"
        if number % run.processes.count == run.processes.index and not path.exists():
            values, real = _chunk(data, range(start, min(start + _CHUNK, len(data.names))), detector, run)
            packed = io.BytesIO()
            np.savez(packed, values=values, real=real)
            atomic_write(path, packed.getvalue())
            run.tell(f"features: {min(start + _CHUNK, len(data.names))} of {len(data.names)} images")
    run.processes.wait()
    model.cpu()
    read = [_read(folder / f"{start:09d}.npz") for start in starts]
    values, real = np.concatenate([values for values, _ in read]), np.concatenate([real for _, real in read])
    usable = real != _UNUSABLE
    missing = [name for name, kind in (("real", 1), ("generated", 0)) if not (real == kind).any()]
    if missing:
        raise InputError(
            f"The data have no usable {' and no '.join(missing)} images, so that no verdict can be learnt: choose data "
            "with both."
        )
    return Features(torch.from_numpy(values[usable]), torch.from_numpy(real[usable]))


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["values"], stored["real"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"The features {str(path)!r} cannot be read ({error}): delete the file.") from error


@torch.inference_mode()
def _chunk(data: DataSet, rows: range, detector: LegionDetector, run: Run) -> tuple[np.ndarray, np.ndarray]:
    model = detector.model
    width = model.llava.config.vision_config.hidden_size
    values, real = np.zeros((len(rows), width), np.float32), np.full(len(rows), _UNUSABLE, np.int64)
    images = dict[int, Image.Image]()
    for place, row in enumerate(rows):
        try:
            sample = data.load(row)
            if sample.image is None or sample.fake is None:
                raise InputError(f"The sample {sample.name!r} does not say whether its image is real: leave it out.")
        except InputError as error:
            run.tell(str(error), everywhere=True)
            continue
        images[place], real[place] = sample.image, int(not sample.fake)
        if len(images) == _AT_ONCE:
            _fill(values, images, detector)
            images = {}
    if images:
        _fill(values, images, detector)
    return values, real


def _fill(values: np.ndarray, images: dict[int, Image.Image], detector: LegionDetector) -> None:
    model = detector.model
    pixels = detector.clip_processor(list(images.values()), return_tensors="pt")["pixel_values"]
    values[list(images)] = model.encode_image(pixels.to(model.device, model.dtype))[:, 0].float().cpu().numpy()
