"""What refinement costs: against LEGION's published schedule, and over generator plus detector where nothing is wrong.

Both sides run in one process, in turn, with the same weights, steps, prompts and seeds, so that the ratios hold on any
machine. LEGION's schedule is written from its paper and scripts (section 4.2; inpainting defaults): the whole picture
is inpainted, one region after the other, three rounds, no early stop, and a last detection.

Run with ``make bench`` or ``python tests/benchmarks/costs.py [--prompts N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from refiner import RefinedPipeline
from refiner.masks import dilate
from refiner.pipelines.adapters import DiffusersPainter, PaintSettings
from refiner.pipelines.loop import finish
from refiner.pipelines.micro_bench import cases
from refiner.protocols import PaintJob
from refiner.types import Calls

LEGION_ROUNDS, LEGION_STRENGTH, LEGION_DILATION = 3, 0.84, 10


def legion_schedule(pipe: RefinedPipeline, prompt: str, seed: int) -> Calls:
    """LEGION's inpainting controller on one prompt; returns what it cost."""
    import torch

    painter = DiffusersPainter(pipe.pipe, PaintSettings(options=pipe.call_defaults))
    inpainter = StableDiffusionInpaintPipeline(**{**pipe.pipe.components, "requires_safety_checker": False})
    inpainter.set_progress_bar_config(disable=True)
    image = painter.generate([PaintJob(prompt=prompt, seed=seed)])[0]
    rows, detections = painter.spent().denoiser_rows, 0
    for _ in range(LEGION_ROUNDS):
        detections += 1
        for region in pipe.detector(image, prompt).regions:
            mask = dilate(region.pixels((image.height, image.width)), LEGION_DILATION * image.width / 1024)
            with _counting(pipe.pipe.unet) as count:
                image = inpainter(
                    prompt=f"{prompt}",
                    image=image,
                    mask_image=Image.fromarray(mask),
                    height=image.height,
                    width=image.width,
                    strength=LEGION_STRENGTH,
                    generator=torch.Generator().manual_seed(seed),
                    **pipe.call_defaults,
                ).images[0]
            rows += count[0]
    pipe.detector(image, prompt)
    return Calls(denoiser_rows=rows, detector_calls=detections + 1)


class _counting:  # noqa: N801
    """Counts the rows that pass through a module within the block."""

    def __init__(self, module: Any) -> None:
        self.module, self.count = module, [0]

    def __enter__(self) -> list[int]:
        self.handle = self.module.register_forward_pre_hook(
            lambda _module, args: self.count.__setitem__(0, self.count[0] + len(args[0]))
        )
        return self.count

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and value of a call."""
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def against_legion(pipe: RefinedPipeline, prompts: int) -> dict[str, Any]:
    """Ratios LEGION / ours for pictures whose start has two flaws or more, with bootstrap 95 % intervals."""
    rows, seconds = [], []
    for case in cases(20 * prompts, 1):
        if len(rows) == prompts:
            break
        prompt = case.scene.caption
        ours, result = timed(lambda: finish(pipe.stream(prompt, seed=case.number)))  # noqa: B023
        first = result.attempts[0]
        if first.analysis is None or len(first.analysis.regions) < 2:
            continue
        theirs, calls = timed(lambda: legion_schedule(pipe, prompt, first.seed))  # noqa: B023
        rows.append((calls.denoiser_rows, result.calls.denoiser_rows))
        seconds.append((theirs, ours))
    return {"pictures": len(rows), "denoiser_rows": _ratio(rows), "seconds": _ratio(seconds)}


def nothing_to_fix(pipe: RefinedPipeline, pairs: int) -> dict[str, Any]:
    """Ratio of RefinedPipeline's seconds to generator plus detector, on a prompt whose start is clean."""
    painter = DiffusersPainter(pipe.pipe, PaintSettings(options=pipe.call_defaults))
    for case in cases(200, 1):
        prompt = case.scene.caption
        result = finish(pipe.stream(prompt, seed=case.number))
        if len(result.attempts) == 1 and result.stop == "clean":
            break
    else:
        return {"pairs": 0}
    seed = result.attempts[0].seed

    def bare() -> None:
        pipe.detector(painter.generate([PaintJob(prompt=prompt, seed=seed)])[0], prompt)

    times = [(timed(lambda: finish(pipe.stream(prompt, seed=case.number)))[0], timed(bare)[0]) for _ in range(pairs)]
    return {"pairs": pairs, "seconds": _ratio(times)}


def _ratio(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    values = np.array(pairs, dtype=np.float64)
    drawn = values[np.random.default_rng(0).integers(len(values), size=(5000, len(values)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    total = values.sum(axis=0)
    return {"ratio": float(total[0] / total[1]), "ci95": [float(low), float(high)], "means": values.mean(0).tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    document = {
        "legion_over_ours": against_legion(pipe, options.prompts),
        "refined_over_bare": nothing_to_fix(pipe, options.pairs),
    }
    if options.json:
        print(json.dumps(document))
        return
    for name, figures in document.items():
        print(name, json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
