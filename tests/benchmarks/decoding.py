"""What LEGION's decoding saves: against greedy decoding of transformers, and against the published inference.

``decoding``: seconds per answer. Our decoding guesses the next tokens and checks several in one pass. Both ways run in
turn on the same images with drawn flaws, with the same weights and a key-value cache; both include the vision tower.
Seconds are processor time; in one thread this equals the time on an idle machine. ``equal`` is the share of images with
equal answers.

``inference``: images per second in wall time on two threads, from pixels to mask logits, of a network with the public
checkpoint's lengths (164 tokens of prompt, 576 patches, 40 tokens of answer) and random weights of a smaller width. The
published inference takes one image at a time, and runs the whole text through the network for each token. Ours takes
eight together, with a cache. To its favour, the published way here encodes the image once for an answer, not for each
token, and computes the logits of the last token only.

Run with ``make bench`` or ``python tests/benchmarks/decoding.py [--pictures N] [--rounds N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refiner.detectors import load_detector
from refiner.detectors.legion.decoding import Lookup
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
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


@dataclass(frozen=True)
class Case:
    """A network, its prompt and the images to analyse."""

    model: LegionModel
    prompt: Tensor
    """Int (L,)."""
    clip: Tensor
    """Float (B, 3, 336, 336)."""
    sam: Tensor
    """Float (B, 3, 256, 256)."""


def public_lengths(count: int, tokens: int) -> Case:
    """A small network with the lengths of the public checkpoint; ``tokens`` is the longest answer."""
    torch.manual_seed(0)
    image, text = 32007, torch.randint(10, 32000, (164,))
    text[40] = image
    prompt = text.repeat_interleave(torch.where(text == image, 576, 1))
    sides = {"image_size": 256, "patch_size": 16}
    config = LegionConfig(
        llava={
            "text_config": {
                "model_type": "llama",
                "hidden_size": 256,
                "intermediate_size": 688,
                "num_hidden_layers": 6,
                "num_attention_heads": 8,
                "num_key_value_heads": 8,
                "vocab_size": image + 1,
                "eos_token_id": 2,
                "initializer_range": 0.2,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 128,
                "intermediate_size": 512,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "image_size": 336,
                "patch_size": 14,
            },
            "image_token_index": image,
            "image_seq_length": 576,
        },
        sam={
            "vision_config": {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, **sides},
            "prompt_encoder_config": sides,
        },
        verdict_width=0,
        max_new_tokens=tokens,
        clean_threshold=None,
        published=True,
    )
    model = LegionModel(config).eval()
    return Case(model, prompt, torch.randn(count, 3, 336, 336), torch.randn(count, 3, 256, 256))


def one_by_one(case: Case) -> list[list[int]]:
    """Tokens of the answers, as the published inference decodes them."""
    model, answers = case.model, []
    for clip, sam in zip(case.clip[:, None], case.sam[:, None], strict=True):
        embeds, tokens, states = model.embed(case.prompt[None], model.encode_image(clip)), list[int](), []
        while len(tokens) < model.config.max_new_tokens and 2 not in tokens:
            hidden = model.llava.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, -1]
            logits = model.llava.lm_head(hidden)
            logits[:, model.llava.config.image_token_index] = -torch.inf
            tokens.append(int(logits.argmax()))
            states.append(hidden)
            last = torch.tensor([[tokens[-1]]])
            embeds = torch.cat([embeds, model.llava.get_input_embeddings()(last)], 1)
        model.decode_masks(model.encode_ground(sam), torch.cat(states[:1]))
        answers.append(tokens)
    return answers


def together(case: Case) -> list[list[int]]:
    """Tokens of the answers, decoded in one batch with a cache."""
    model = case.model
    answer = model.answer(case.prompt, model.encode_image(case.clip))
    model.decode_masks(model.encode_ground(case.sam), answer.states[:, 0])
    rows: list[list[int]] = answer.tokens.tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def inference(count: int, tokens: int, rounds: int) -> dict[str, object]:
    """Images per second of both ways in turn, the best of several rounds; the ratio, and the share of equal answers."""
    case, seconds, answers = public_lengths(count, tokens), dict[str, list[float]](), dict[str, list[list[int]]]()
    passes: list[int] = []
    case.model.llava.model.language_model.register_forward_pre_hook(lambda *_: passes.append(1))
    taken = {}
    for _ in range(rounds):
        for name, way in (("published", one_by_one), ("ours", together)):
            passes.clear()
            began = time.perf_counter()
            answers[name] = way(case)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            taken[name] = len(passes)
    pairs = zip(answers["published"], answers["ours"], strict=True)
    return {
        "batch": count,
        "tokens": tokens,
        "equal": sum(one == other for one, other in pairs) / count,
        "passes": taken,
        "images_per_second": {name: round(count / min(each), 3) for name, each in seconds.items()},
        "ratio": round(min(seconds["published"]) / min(seconds["ours"]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    detector = load_detector("micro")
    assert isinstance(detector, LegionDetector)
    with torch.inference_mode():
        figures = {"decoding": compared(detector, flawed_pictures(options.pictures))}
        torch.set_num_threads(2)
        figures["inference"] = inference(8, 40, options.rounds)
    print(json.dumps(figures, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
