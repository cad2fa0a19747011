"""What a training on samples would do: its weights, an estimate of its memory, and its first batch as images."""

from __future__ import annotations

from torch import nn

from refiner.data.samples import DataSet
from refiner.detectors.legion.detector import LegionDetector
from refiner.files import Json
from refiner.training.first_batch import Shown, write_first_batch
from refiner.training.legion.adapters import freeze
from refiner.training.legion.samples import Samples, collate
from refiner.training.legion.settings import TuneSettings
from refiner.training.legion.tuning import start_from, steps_of
from refiner.training.runs import Run


def dry_run(settings: TuneSettings, data: DataSet, run: Run) -> Json:
    """Describe a training and write its first batch to ``dry-run/`` in the run's folder; no weight is trained.

    Returns:
        ``samples``, ``steps``, ``images_per_step``, ``parameters`` (all, trained), ``memory_gib`` by what needs it (an
        estimate for one device), ``tokens`` of the longest text in the first batch, and the written ``files``.
    """
    detector = start_from(settings, data, run, weights=False)
    count = run.processes.count
    parts = settings.accumulate * count
    samples = Samples(
        data, detector, size=settings.batch, longest=settings.max_length, parts=parts, stride=count,
        seed=2 * settings.seed + 1, tell=run.tell,
    )  # fmt: skip
    lessons = [samples.lesson(place) for place in range(settings.batch)]
    batch = collate(lessons, detector, settings.max_length)
    freeze(detector.model, settings.lora, settings.trained)
    tokens = batch.ids.shape[1]
    shown = [Shown(lesson.name, lesson.image, lesson.answer.text, lesson.answer.regions) for lesson in lessons]
    return {
        "samples": len(data.names),
        "steps": steps_of(settings, len(data.names), parts)[0],
        "images_per_step": settings.batch * parts,
        "parameters": parameters(detector.model),
        "memory_gib": {name: round(size / 2**30, 2) for name, size in memory(settings, detector, tokens).items()},
        "tokens": tokens,
        "files": write_first_batch(shown, run.folder / "dry-run"),
    }


def parameters(model: nn.Module) -> dict[str, int]:
    """The numbers of all weights and of the trained ones."""
    weights = list(model.parameters())
    return {
        "all": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def memory(settings: TuneSettings, detector: LegionDetector, tokens: int) -> dict[str, int]:
    """Estimate the bytes that one device needs, without sharding.

    Trained weights have 4 bytes each, and as many for the gradient and for each of AdamW's two moments, and for the
    moving average if there is one. Activations are those of the language model: 34 values of its width and two rows of
    attention for each token and layer (Korthikanti et al., 2022, section 4.1), or only the inputs of the layers and the
    values of one layer with ``checkpointing``; and logits with their gradient in float32.
    """
    count, text = parameters(detector.model), detector.model.llava.config.text_config
    half = 2 if settings.bf16 else 4
    layer = settings.batch * tokens * (17 * half * text.hidden_size + 2.5 * half * text.num_attention_heads * tokens)
    inputs = settings.batch * tokens * text.hidden_size * half
    layers = text.num_hidden_layers
    activations = layer + layers * inputs if settings.checkpointing else layers * layer
    found = {
        "frozen weights": (count["all"] - count["trained"]) * half,
        "trained weights": 4 * count["trained"],
        "gradients": 4 * count["trained"],
        "optimiser": 8 * count["trained"],
        "moving average": 4 * count["trained"],
        "activations": round(activations),
        "logits": 8 * settings.batch * tokens * text.vocab_size,
    }
    return found | {"in all": sum(found.values())}
