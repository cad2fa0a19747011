"""AnomReasonor and AnomAgent at the micro world's size: tuned against untuned, and the agent against one prompt.

Each way of asking looks at the same held-out images, of which every second one has flaws. Figures of verdicts are over
all images; an answer that cannot be read is wrong. Figures of explanations are over the flawed images, for the views
Phe, Rea and Full: SemAP and SemF1 against the true flaws, and CSemAP and CSemF1, which count only explanations of
images that were called generated. Texts are compared by the bundled MiniLM, so that the figures are not comparable
with those of the paper. Control: the true flaws of the next flawed image. Intervals are 95 % over images.

Run with ``make bench`` or ``python tests/benchmarks/anomreason.py [--count N] [--agent N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from refiner.data.anomreason import AnomalySet, from_regions
from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.errors import UnreadableOutputError
from refiner.masks import iou
from refiner.metrics.bertscore import BertScore
from refiner.metrics.intervals import bootstrap_interval
from refiner.metrics.semap import evaluate
from refiner.metrics.semap_scoring import SemapConfig, View
from refiner.protocols import Detector
from refiner.types import Analysis

WAYS = {
    "untuned, asked as AnomReasonor": "anomreason:micro:vlm",
    "untuned, AnomAgent": "anomagent:micro:vlm",
    "untuned, its own questions": "micro:vlm",
    "tuned (micro:anomreason)": "micro:anomreason",
    "tuned, AnomAgent": "anomagent:micro:anomreason",
}
CONTROL = "control: tuned, flaws of another image"
VIEWS: tuple[View, ...] = ("phe", "rea", "full")
LONGEST = 256  # tokens of an answer; right ones have fewer than 200
SILENT = 10  # images for the untuned agent, none of whose answers can be read


def looked(detector: Detector, samples: Sequence[Sample]) -> list[Analysis | None]:
    """The analysis of each sample; None if it cannot be read."""
    found: list[Analysis | None] = []
    for sample in samples:
        assert sample.image is not None
        try:
            found.append(detector(sample.image))
        except UnreadableOutputError:
            found.append(None)
    return found


def called_fake(answer: Analysis | None) -> bool:
    """Whether an answer calls the image generated; without a verdict, regions do."""
    if answer is None:
        return False
    return bool(answer.regions) if answer.fake_probability is None else answer.fake_probability > 0.5


def verdicts(samples: Sequence[Sample], answers: Sequence[Analysis | None]) -> dict[str, Any]:
    """Balanced accuracy, the share of unreadable answers, and the mean IoU of masks of flawed images."""
    right = [
        answer is not None and called_fake(answer) == sample.fake
        for sample, answer in zip(samples, answers, strict=True)
    ]
    sides = [[one for one, sample in zip(right, samples, strict=True) if sample.fake is fake] for fake in (True, False)]
    masks = [
        0.0 if answer is None else iou(answer.mask, sample.truth.mask)
        for sample, answer in zip(samples, answers, strict=True)
        if sample.fake and sample.truth is not None
    ]
    return {
        "balanced_accuracy": float(np.mean([np.mean(side) for side in sides])),
        "unreadable": float(np.mean([answer is None for answer in answers])),
        "mask_iou": _with_interval(masks),
    }


def explanations(
    samples: Sequence[Sample], answers: Sequence[Analysis | None], encoder: BertScore, shift: int = 0
) -> dict[str, Any]:
    """SemAP, SemF1, CSemAP and CSemF1 of the flawed images by view; ``shift`` compares with the truth of other ones."""
    flawed = [(sample, answer) for sample, answer in zip(samples, answers, strict=True) if sample.fake]
    names = [sample.name for sample, _ in flawed]
    truths = [sample.anomalies or () for sample, _ in flawed]
    truths = truths[shift:] + truths[:shift]
    said = [from_regions(() if answer is None else answer.regions) for _, answer in flawed]
    counted = [claims if called_fake(answer) else () for claims, (_, answer) in zip(said, flawed, strict=True)]
    references = AnomalySet(file="truth", images=dict(zip(names, truths, strict=True)))
    rows: dict[str, Any] = {}
    for prefix, claims in (("", said), ("c", counted)):
        predictions = AnomalySet(file="answers", images=dict(zip(names, claims, strict=True)))
        for view in VIEWS:
            result = evaluate(predictions, references, encoder, replace(SemapConfig(), view=view))
            rows[f"{prefix}semap_{view}"] = _with_interval([image.semap for image in result.images])
            rows[f"{prefix}semf1_{view}"] = _with_interval([image.semf1 for image in result.images])
    return rows


def _with_interval(values: Sequence[float]) -> dict[str, float]:
    low, high = bootstrap_interval(np.array(values, dtype=np.float64))
    return {"value": float(np.mean(values)), "low": low, "high": high}


def measure(count: int, agent: int) -> dict[str, Any]:
    """The figures of each way, on ``count`` images, or on the first ``agent`` of them for AnomAgent."""
    data, encoder = MicroData(count, painted=True), BertScore.from_pretrained()
    samples = [data.load(index) for index in range(count)]
    rows: dict[str, Any] = {}
    for name, model in WAYS.items():
        own = samples[: (SILENT if name.startswith("untuned") else agent) if "anomagent" in model else count]
        detector: Any = load_detector(model, device="cpu")
        detector.backend.max_tokens = LONGEST
        began = time.perf_counter()
        answers = looked(detector, own)
        spent = detector.backend.ledger
        rows[name] = {
            "images": len(own),
            "seconds": (time.perf_counter() - began) / len(own),
            "calls": spent.calls / len(own),
            "tokens": (spent.prompt_tokens + spent.completion_tokens) / len(own),
            **verdicts(own, answers),
            **explanations(own, answers, encoder),
        }
        if model == "micro:anomreason":
            rows[f"{name}, on the agent's images"] = {
                "images": agent,
                **verdicts(own[:agent], answers[:agent]),
                **explanations(own[:agent], answers[:agent], encoder),
            }
            rows[CONTROL] = {"images": len(own), **explanations(own, answers, encoder, shift=1)}
    return {"encoder": encoder.signature, "rows": rows}


def show(report: dict[str, Any]) -> None:
    """Print the figures of each way."""
    print(f"texts compared by {report['encoder']}")
    for name, row in report["rows"].items():
        print(f"\n{name}")
        for key, value in row.items():
            told = (
                f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
                if isinstance(value, dict)
                else f"{value:.3g}"
            )
            print(f"  {key:18s} {told}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="images, half of them flawed (200)")
    parser.add_argument("--agent", type=int, default=100, help="images of them for AnomAgent (100)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = measure(args.count, args.agent)
    if args.json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
