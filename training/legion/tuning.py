"""Train LEGION on the samples of a data set: stage 1 of papers/legion.md, section 4.1 (equation 4).

From random weights, two steps replace the pretraining of CLIP, LLaMA and SAM that LEGION starts from: the towers first
learn which flaws are where (``tower_steps``), and the loss for this is kept in stage 1 (``weights.flaws``). It expects
square images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor, PreTrainedModel, SamImageProcessor

from refiner.data.samples import DataSet
from refiner.detectors.base import read_config
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.layouts import is_original, is_ours
from refiner.detectors.legion.loading import load_bare
from refiner.detectors.legion.modeling import LegionModel, LegionOutput
from refiner.errors import ConfigError, InputError, OutputError, WeightsError
from refiner.hub import locate, resolve
from refiner.micro.world import SIZE
from refiner.taxonomy import PERCEPTUAL
from refiner.training.fit import fit, fit_settings, summed
from refiner.training.legion.adapters import freeze, merge, trained_in_float32
from refiner.training.legion.answers import answer_of
from refiner.training.legion.data import MEAN, STD
from refiner.training.legion.model import PROMPT, build_model
from refiner.training.legion.samples import SampleBatch, Samples
from refiner.training.legion.settings import TuneSettings
from refiner.training.legion.verdict import train_verdict
from refiner.training.runs import Run
from refiner.training.world.losses import dice_loss, kind_loss
from refiner.training.world.tokenizers import answer_tokenizer

_PROBES = 4
"""Flawed pixels are predicted in cells of SAM's embedding, this many per side of a cell."""


class Tuned(nn.Module):
    """The model, and the heads for flaws without words that only training uses."""

    def __init__(self, model: LegionModel) -> None:
        super().__init__()
        self.model = model
        vision = model.llava.config.vision_config.hidden_size
        self.patch_head = nn.Linear(vision, 1 + len(PERCEPTUAL))
        width = model.sam.config.mask_decoder_config.hidden_size
        self.pixel_head = nn.Sequential(nn.Conv2d(width, _PROBES**2, 1), nn.PixelShuffle(_PROBES))

    def losses(self, batch: SampleBatch, settings: TuneSettings) -> dict[str, Tensor]:
        """The weighted losses of stage 1, by name."""
        output = self.model(batch.ids, batch.pixels, batch.sam_pixels)
        asked = batch.labels[:, 1:] != -100
        ce = functional.cross_entropy(output.logits[:, :-1][asked].float(), batch.labels[:, 1:][asked])
        losses = {"ce": settings.weights.ce * ce} | self._mask_losses(output, batch, settings)
        if settings.weights.flaws:
            losses["flaws"] = settings.weights.flaws * self._flaws(output.vision, output.sam, batch)
        return losses

    def tower_losses(self, batch: SampleBatch) -> dict[str, Tensor]:
        """The loss of the towers alone, by name."""
        vision, ground = self.model.encode_image(batch.pixels), self.model.encode_ground(batch.sam_pixels)
        return {"flaws": self._flaws(vision, ground, batch)}

    def _mask_losses(self, output: LegionOutput, batch: SampleBatch, settings: TuneSettings) -> dict[str, Tensor]:
        """BCE and Dice at the images' own sizes, as means over all masks of the batch."""
        counts = [len(masks) for masks in batch.masks]
        if not sum(counts):
            return {}
        side = batch.sam_pixels.shape[-1]
        bce, dice = [], []
        for logits, masks, scaled in zip(output.mask_logits.split(counts), batch.masks, batch.scaled, strict=True):
            if len(masks):
                sized = at_size(logits.float(), side, scaled, (masks.shape[-2], masks.shape[-1]))
                bce.append(len(masks) * functional.binary_cross_entropy_with_logits(sized, masks))
                dice.append(len(masks) * dice_loss(sized.sigmoid(), masks))
        weights = settings.weights
        return {
            "bce": weights.bce * torch.stack(bce).sum() / sum(counts),
            "dice": weights.dice * torch.stack(dice).sum() / sum(counts),
        }

    def _flaws(self, vision: Tensor, ground: Tensor, batch: SampleBatch) -> Tensor:
        """Cross-entropy of the category in each patch of CLIP, and BCE and Dice of the flawed pixels by SAM."""
        kinds, flawed = self.patch_head(vision[:, 1:]).float(), self.pixel_head(ground)[:, 0].float()
        side = flawed.shape[-1]
        squares = [functional.interpolate(masks[:, None], (side, side), mode="area")[:, 0] for masks in batch.masks]
        rows = [row for row, masks in enumerate(batch.masks) for _ in masks]
        numbers = [kind for own in batch.kinds for kind in own]
        masks, device = torch.cat(squares), flawed.device
        places = torch.tensor(rows, dtype=torch.long, device=device)
        loss = kind_loss(kinds, masks, places, torch.tensor(numbers, dtype=torch.long, device=device))
        truth = flawed.new_zeros(flawed.shape).index_add(0, places, masks).clamp(max=1)
        loss = loss + 4 * functional.binary_cross_entropy_with_logits(flawed, truth)
        return loss + dice_loss(flawed.sigmoid().flatten()[None], truth.flatten()[None])


def at_size(logits: Tensor, side: int, scaled: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize mask logits to an image's own size, as SAM does.

    Args:
        logits: over SAM's padded square, float (S, h, w).
        side: of that square, in pixels.
        scaled: height and width of the image inside the square.
        size: height and width of the image itself.
    """
    square = functional.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
    inside = square[..., : scaled[0], : scaled[1]]
    return functional.interpolate(inside, size, mode="bilinear", align_corners=False)[:, 0]


def train_on(settings: TuneSettings, data: DataSet, run: Run, out: Path) -> None:
    """Run a stage on a data set, or resume it, and write the detector to ``out``.

    Raises:
        ConfigError: the settings do not fit the base, or stage 2 has none.
        InputError: the data cannot be used.
        WeightsError: the base cannot be loaded.
    """
    check_base(settings)
    detector = start_from(settings, data, run)
    if settings.stage == 2:
        train_verdict(settings, data, detector, run)
    else:
        tune(settings, data, detector, run)
    if run.processes.main:
        export(settings, detector, out)


def check_base(settings: TuneSettings) -> None:
    """Check that there is a base where one is needed, and that it is a LEGION detector; nothing is downloaded.

    Raises:
        ConfigError: stage 2 has no base.
        ModelNotFoundError: there is no such model.
        WeightsError: it is a model of another kind.
    """
    if settings.stage == 2 and not settings.base:
        raise ConfigError("Stage 2 trains only the verdict of a detector: name the detector with --base.")
    place = locate(settings.base, "detector") if settings.base else None
    if isinstance(place, Path):
        config = read_config(place)
        if not is_ours(config) and not is_original(config):
            raise WeightsError(
                f"Expected a LEGION detector as base, got {settings.base!r}, a model of another kind: choose one with "
                "--base."
            )


def start_from(settings: TuneSettings, data: DataSet, run: Run, *, weights: bool = True) -> LegionDetector:
    """Load the base of a training on the CPU, or make a new one for the words of the data.

    Args:
        settings: name the base.
        data: gives the words.
        run: says on which device the training runs.
        weights: False: a base without its weights, for a dry run; its network is on the device "meta".

    Raises:
        WeightsError: the base is not a LEGION detector, or is damaged.
    """
    if not settings.base:
        run.tell(f"Reading the answers of {len(data.names)} samples, for their words.")
        return _fresh(settings, data)
    dtype = torch.float32 if run.processes.device.type == "cpu" or run.processes.sharded else torch.bfloat16
    folder = resolve(settings.base, "detector")
    detector = LegionDetector.from_pretrained(folder, device="cpu", dtype=dtype) if weights else _bare(folder)
    if settings.image_size:
        pad = detector.sam_processor.pad_size["height"]
        if settings.image_size > pad:
            raise ConfigError(
                f"The setting image_size is {settings.image_size}, above the {pad} pixels of SAM's input in "
                f"{settings.base!r}: lower it."
            )
        detector.sam_processor.size = {"longest_edge": settings.image_size}
    return detector


def _bare(folder: Path) -> LegionDetector:
    held = load_bare(folder)
    return LegionDetector(held.model, held.tokenizer, held.clip_processor, held.sam_processor, name="legion")


def _fresh(settings: TuneSettings, data: DataSet) -> LegionDetector:
    torch.manual_seed(settings.seed)
    texts = []
    for index in range(len(data.names)):
        try:
            texts.append(answer_of(data.load(index)).text)
        except InputError:
            continue  # told when training meets the sample
    tokenizer = answer_tokenizer([PROMPT, *texts])
    square = {"height": SIZE, "width": SIZE}
    norm = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    return LegionDetector(
        build_model(tokenizer, replace(settings.architecture, verdict_width=0)),  # stage 2 adds the head
        tokenizer,
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square, **norm),
        SamImageProcessor(size={"longest_edge": SIZE}, pad_size=square, **norm),
        name="legion",
    )


def steps_of(settings: TuneSettings, samples: int, parts: int) -> tuple[int, int]:
    """Steps of stage 1, and those until the learning rate has fallen; ``parts`` micro-batches make a step."""
    epoch = samples / (settings.batch * parts)
    steps = settings.most_steps or math.ceil(settings.epochs * epoch)
    return steps, math.ceil(settings.schedule_epochs * epoch) or steps


def tune(settings: TuneSettings, data: DataSet, detector: LegionDetector, run: Run) -> None:
    """Run stage 1 on a detector, or resume it; its adapters are merged afterwards."""
    model = detector.model
    torch.manual_seed(settings.seed)
    freeze(model, settings.lora, settings.trained)
    trained_in_float32(model)
    if settings.checkpointing:
        _checkpointing(model.llava, "enable")({"use_reentrant": False})
    tuned = Tuned(model)
    if not settings.weights.flaws:
        tuned.patch_head.requires_grad_(False)
        tuned.pixel_head.requires_grad_(False)
    if run.processes.device.type == "cpu":
        model.llava.set_attn_implementation("eager")  # three times as fast as sdpa in bfloat16 on a CPU
        model.sam.vision_encoder.set_attn_implementation("eager")
    for stage in range(0 if settings.tower_steps else 1, 2):
        _run_stage(settings, data, detector, tuned, run, stage)
    if settings.checkpointing:
        _checkpointing(model.llava, "disable")()
    merge(model)
    model.cpu().eval()


def _checkpointing(model: PreTrainedModel, switch: str) -> Callable[..., None]:
    """The method that switches checkpointing; newer versions of transformers call it by the first name."""
    names = (f"activation_checkpointing_{switch}", f"gradient_checkpointing_{switch}")
    method: Callable[..., None] = getattr(model, next(name for name in names if hasattr(model, name)))
    return method


def _run_stage(
    settings: TuneSettings, data: DataSet, detector: LegionDetector, tuned: Tuned, run: Run, stage: int
) -> None:
    count = run.processes.count
    parts = settings.accumulate * count
    samples = Samples(
        data, detector, size=settings.batch, longest=settings.max_length, parts=parts, stride=count,
        seed=2 * settings.seed + stage, tell=partial(run.tell, everywhere=True),
    )  # fmt: skip
    steps, horizon = steps_of(settings, len(data.names), parts) if stage else (settings.tower_steps,) * 2

    def loss(batch: SampleBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return summed(tuned.losses(batch, settings) if stage else tuned.tower_losses(batch))

    loop = fit_settings(
        settings, steps=steps, warmup=min(settings.warmup, steps // 4), betas=(0.9, 0.95), horizon=horizon,
        average=bool(stage and settings.ema),
    )  # fmt: skip
    weights = [weight for weight in tuned.parameters() if weight.requires_grad]
    try:
        fit(tuned, samples.batch, loss, loop, run, f"stage{stage}", weights)
    finally:
        samples.close()
    if samples.unusable:
        run.tell(f"{len(samples.unusable)} of {len(data.names)} samples could not be used.", everywhere=True)


def export(settings: TuneSettings, detector: LegionDetector, out: Path) -> None:
    """Write the detector in refiner's format: float16 for a new model; else bfloat16 with ``bf16``, or float32."""
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    detector.model.to(dtype if settings.base else torch.float16)
    try:
        detector.save_pretrained(out)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"The model cannot be written to {str(out)!r} ({error}): free some space.") from error
