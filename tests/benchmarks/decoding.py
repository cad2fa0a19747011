"""What LEGION's speculative decoding saves: seconds per answer against the greedy decoding of transformers.

Our decoding guesses the next tokens and checks several in one pass. Both ways run in turn on the same images with drawn
flaws, with the same weights and a key-value cache; both include the vision tower. Seconds are processor time; in one
thread this equals the time on an idle machine. ``equal`` is the share of images with equal answers.

Run with ``make bench`` or ``python tests/benchmarks/decoding.py [--pictures N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refiner.detectors import load_detector
from refiner.detectors.legion.decoding import Lookup
from refiner.detectors.legion.detector import LegionDetector
from refiner.metrics.intervals import bootstrap_interval
from refiner.micro.flaws import inject
from refiner.micro.world import sample_scene

HELD_OUT = 900_004
"""First number of the images' seeds; no training uses it."""


def flawed_pictures(count: int) -> list[Image.Image]:
    """Held-out images of one to four things, with a flaw in each."""
    drawn = []
    for number in range(count):
        rng = np.random.default_rng([HELD_OUT, number])
        things = 1 + number % 4
        drawn.append(inject(sample_scene(rng, count=things), rng, count=things).image)
    return drawn


def by_transformers(detector: LegionDetector, image: Image.Image) -> list[int]:
    """Tokens of the answer by ``generate`` of transformers."""
    model, inputs = detector.model, detector.clip_processor([image], return_tensors="pt")
    prompt = detector.prompt_ids()[None]
    answer: Tensor = model.llava.generate(
        input_ids=prompt,
        pixel_values=inputs["pixel_values"],
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=model.config.max_new_tokens,
        suppress_tokens=[model.llava.config.image_token_index],
    )
    tokens: list[int] = answer[0, prompt.shape[1] :].tolist()
    return tokens


def by_guessing(detector: LegionDetector, known: Lookup, image: Image.Image) -> list[int]:
    """Tokens of the answer by the detector's own decoding."""
    pixels = detector.clip_processor([image], return_tensors="pt")["pixel_values"]
    answer = detector.model.answer(detector.prompt_ids(), detector.model.encode_image(pixels), known=known)
    tokens: list[int] = answer.tokens[0].tolist()
    return tokens


def compared(detector: LegionDetector, images: Sequence[Image.Image]) -> dict[str, object]:
    """Ratio of seconds and passes with a bootstrap 95 % interval, and the share of equal answers."""
    examples = detector.model.config.examples
    known = Lookup([detector.tokenizer(text, add_special_tokens=False)["input_ids"] for text in examples])
    passes = [0]
    network = detector.model.llava.model.language_model
    network.register_forward_pre_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    ways: dict[str, Callable[[Image.Image], list[int]]] = {
        "transformers": lambda image: by_transformers(detector, image),
        "guessing": lambda image: by_guessing(detector, known, image),
    }
    for way in ways.values():
        way(images[0])
    rows, equal = [], 0
    for image in images:
        costs, answers = list[float](), list[list[int]]()
        for way in ways.values():
            passes[0], began = 0, time.process_time()
            answers.append(way(image))
            costs += [time.process_time() - began, passes[0]]
        rows.append(costs)
        equal += answers[0] == answers[1]
    table = np.array(rows)
    slow, fast = table[:, 0], table[:, 2]
    found = bootstrap_interval(
        slow, fast, statistic=lambda one, other, axis: one.sum(axis=axis) / other.sum(axis=axis), resamples=5000
    )
    return {
        "pictures": len(images),
        "equal": equal / len(images),
        "seconds": dict(zip(ways, table[:, ::2].mean(axis=0).round(4).tolist(), strict=True)),
        "passes": dict(zip(ways, table[:, 1::2].mean(axis=0).round(1).tolist(), strict=True)),
        "ratio": round(float(slow.sum() / fast.sum()), 2),
        "ci95": [round(bound, 2) for bound in found],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = load_detector("micro")
    assert isinstance(detector, LegionDetector)
    with torch.inference_mode():
        figures = compared(detector, flawed_pictures(options.pictures))
    print(json.dumps(figures, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
