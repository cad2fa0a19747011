"""HPS: our scoring against the bare network and against one image at a time, and its memory over many images.

All ways run in turn in one process, with the same random weights, files and prompts, so that the ratios hold on any
machine. Each ratio is the median over the rounds with a bootstrap interval of 95 %. ``bare`` is only the network on
prepared tensors, with all 77 tokens of every prompt. ``bare, prompts cut`` omits the padding after the prompts, as our
scoring does; the difference to it is what we add: reading, resizing, tokenizing and bookkeeping. ``one by one`` does
what ``hpsv2.score`` does for each image: read the checkpoint, load it, encode the prompt and the image.

The memory test uses a small network, because 21,000 images through ViT-H-14 take one day on a processor. What could
grow with the number of images does not depend on the network: images that are read ahead (at most two batches),
features of prompts (at most 4,096 of 4 KiB each with ViT-H-14, which is 16 MiB), and results, which ``stream`` yields
and does not keep. The network itself always holds its weights and one batch.

Run with ``make bench`` or ``python tests/benchmarks/hps.py [--network ViT-H-14] [--pictures N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import torch
from PIL import Image
from torch import Tensor

from refiner.metrics.hps.scorer import HPSScorer, preprocess
from refiner.metrics.hps.texts import text_features
from refiner.metrics.hps.weights import CONFIG_FILE, PUBLISHED_FILES
from refiner.metrics.intervals import bootstrap_interval

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def write_checkpoint(config: dict[str, Any], folder: Path) -> None:
    """Random weights in the published layout."""
    with torch.device("meta"):
        shapes = open_clip.CLIP(**config).state_dict()
    torch.manual_seed(0)
    state = {name: torch.empty(value.shape).normal_(0, 0.02).half() for name, value in shapes.items()}
    torch.save({"state_dict": state}, folder / PUBLISHED_FILES["v2.1"])
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))


def write_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Smooth random images as JPEG files."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


def prompts(count: int) -> list[str]:
    """``count`` different prompts of a usual length."""
    return [f"a photograph of the red hand number {number}, studio light, highly detailed" for number in range(count)]


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def speed(config: dict[str, Any], pictures: int, singles: int, batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Images per second of each way (medians over the rounds), and the ratios."""
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        write_checkpoint(config, folder)
        paths = write_pictures(folder, pictures, side)
        scorer = HPSScorer.from_pretrained(folder, batch_size=batch)
        device, size = scorer.model.logit_scale.device, config["vision_cfg"].get("image_size", 224)
        pixels = torch.stack([preprocess(Image.open(path), size) for path in paths]).to(device)
        tokens = scorer.tokenizer(prompts(pictures)).to(device)

        def bare(encode_text: Callable[[Tensor], Tensor]) -> None:
            for at in range(0, pictures, batch):
                images = scorer.model.encode_image(pixels[at : at + batch], normalize=True)
                (images * encode_text(tokens[at : at + batch])).sum(1).tolist()

        def one_by_one() -> None:
            for number in range(singles):
                state = torch.load(folder / PUBLISHED_FILES["v2.1"], map_location=device, weights_only=True)
                scorer.model.load_state_dict(state["state_dict"])
                image = preprocess(Image.open(paths[number]), size)[None].to(device)
                picture = scorer.model.encode_image(image, normalize=True)
                (picture @ scorer.model.encode_text(tokens[number, None], normalize=True).T).tolist()

        ways: dict[str, Callable[[], object]] = {
            "bare": lambda: bare(lambda rows: scorer.model.encode_text(rows, normalize=True)),
            "bare, prompts cut": lambda: bare(lambda rows: text_features(scorer.model, rows)),
            "ours": lambda: scorer.score(paths, prompts(pictures)),
            "one by one": one_by_one,
        }
        ways["bare"]()
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in sorted(ways, reverse=number % 2 == 1):
                times[way].append(seconds(ways[way], device) / (singles if way == "one by one" else pictures))
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "pictures a second": {way: round(1 / statistics.median(found), 3) for way, found in times.items()},
    } | {f"ours / {way}": ratio(found, times["ours"]) for way, found in times.items() if way != "ours"}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Ratio ``slow / fast``: the median over the rounds and its bootstrap interval."""
    each = np.divide(slow, fast)
    low, high = bootstrap_interval(each, statistic=np.median, resamples=10_000)
    return {"median": round(float(np.median(each)), 3), "low": round(low, 3), "high": round(high, 3)}


def memory(first: int, last: int) -> dict[str, Any]:
    """Peak memory of the process in MiB after ``first`` and after ``last`` images, each with its own prompt."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(SMALL, folder)
        paths = write_pictures(folder, 50, 64)
        scorer = HPSScorer.from_pretrained(folder, device="cpu")
        process, peak, peaks = psutil.Process(), 0.0, {}

        def endless() -> Iterator[Path]:
            while True:
                yield from paths

        stream = scorer.stream((path for path, _ in zip(endless(), range(last), strict=False)), iter(prompts(last)))
        for number, outcome in enumerate(stream, 1):
            if outcome.error:
                raise outcome.error
            if number % 50 == 0 or number in (first, last):
                peak = max(peak, process.memory_info().rss / 2**20)
            if number in (first, last):
                peaks[number] = peak
        return {f"MiB after {number}": round(peak, 1) for number, peak in peaks.items()} | {
            "growth": round(peaks[last] / peaks[first] - 1, 4)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--network", default="ViT-H-14", help="open_clip's name of the timed network, or small (ViT-H-14)"
    )
    parser.add_argument("--pictures", type=int, default=8, help="images per round (8)")
    parser.add_argument("--singles", type=int, default=2, help="images per round that are scored one by one (2)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=512, help="side of the images in pixels (512)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=20_000, help="images of the memory test; 0: no test (20000)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = SMALL if given.network == "small" else open_clip.get_model_config(given.network)
    found = {"network": given.network, "batch": given.batch, "side": given.side} | speed(
        config, given.pictures, given.singles, given.batch, given.side, given.rounds
    )
    if given.memory:
        found["memory"] = memory(min(1000, given.memory // 2), given.memory)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
