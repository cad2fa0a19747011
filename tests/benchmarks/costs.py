"""Cost of refinement: against LEGION's schedule, against ADetailer's loop over crops, and if there is nothing to fix.

All systems run in turn in one process, with the same weights, prompts and seeds, so that the ratios hold on any
machine. Seconds are processor time; in one thread this equals the time on an idle machine. The other systems are
written from their papers and scripts, and favoured: nothing is loaded twice, the prompt is the user's, and an
unreadable answer of the detector counts as no regions.

- LEGION (section 4.2; inpainting defaults): inpaints the whole image, one region after the other, for three rounds
  without early stop, and runs a last detection; 25 steps at guidance 8.
- LEGION, equation 6: ``RefineConfig.legion``, which changes only the pixels inside the masks, as the paper says. The
  published script, which "LEGION" is written from, keeps the whole image as it comes out of the autoencoder.
- ADetailer and asdff: find regions once; cut out, inpaint and paste back one region after the other; do not analyse
  the result; use the steps and the guidance that generated the image.

They also run with our steps and guidance, to separate the cost of the schedule from the cost of its steps.

``four_regions`` are drawn images of four things (objects of the micro world) with a flaw in each, for which the
detector finds four regions or more; generated images seldom have four. The referee (``refiner.micro.oracle``, which
knows the truth of a scene) counts flaws before and after. Denoiser rows are images times denoiser passes.

Run with ``make bench`` or ``python tests/benchmarks/costs.py [--pictures N] [--prompts N] [--pairs N] [--json]``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image, ImageFilter

from refiner import RefineConfig, RefinedPipeline
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of, clip_box, dilate
from refiner.metrics.intervals import bootstrap_interval
from refiner.micro.flaws import FlawedPicture, inject
from refiner.micro.oracle import inspect
from refiner.micro.world import sample_scene
from refiner.pipelines.bench import cases
from refiner.pipelines.painting.crops import crop_box
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.protocols import PaintJob
from refiner.types import Mask, Region, Size

LEGION_ROUNDS, LEGION_STRENGTH, LEGION_DILATION = 3, 0.84, 10  # the last in pixels of 1024
LEGION_CALL = {"num_inference_steps": 25, "guidance_scale": 8.0}
CROP_STRENGTH, CROP_DILATION, CROP_BLUR, CROP_PADDING = 0.4, 4, 4, 32  # ADetailer's; the last three in pixels of 512
HELD_OUT = 900_003
"""First number of the seeds of ``four_regions``; no training uses it."""


class Outcome(NamedTuple):
    """The image that a system returns, and its cost."""

    image: Image.Image
    denoiser_rows: int
    detector_calls: int


System = Callable[[Image.Image, str, int], Outcome]
Record = dict[str, tuple[int, int, int, float]]
"""System -> flaws afterwards, denoiser rows, detector calls, seconds; "start" holds the flaws before."""


class Rivals:
    """The schedules of other systems, with the weights of a refined pipeline.

    Args:
        pipe: provides the weights.
        alike: whether they also use its steps and guidance instead of their own.
    """

    def __init__(self, pipe: RefinedPipeline, *, alike: bool = False) -> None:
        self.pipe = pipe
        own = {**pipe.pipe.components, "requires_safety_checker": False}
        self.inpainter = pipe.inpainter or StableDiffusionInpaintPipeline(**own)
        ours = pipe.inpaint_call_defaults or pipe.call_defaults
        self.legion_call, self.crops_call = (ours, ours) if alike else (LEGION_CALL, pipe.call_defaults)
        self.inpainter.set_progress_bar_config(disable=True)

    def legion(self, image: Image.Image, prompt: str, seed: int) -> Outcome:
        """LEGION's inpainting controller."""
        with _counting(self.inpainter.unet) as rows:
            for _ in range(LEGION_ROUNDS):
                for region in _regions(self.pipe, image, prompt):
                    mask = _grown(region, image, LEGION_DILATION / 1024)
                    image = self._inpaint(image, mask, prompt, seed, LEGION_STRENGTH, self.legion_call)
            _regions(self.pipe, image, prompt)
        return Outcome(image, rows[0], LEGION_ROUNDS + 1)

    def crops(self, image: Image.Image, prompt: str, seed: int) -> Outcome:
        """ADetailer's and asdff's loop."""
        longest, native = max(image.size), self.pipe.pipe.unet.config.sample_size * self.pipe.pipe.vae_scale_factor
        with _counting(self.inpainter.unet) as rows:
            for number, region in enumerate(_regions(self.pipe, image, prompt)):
                mask = _grown(region, image, CROP_DILATION / 512)
                box = _square(mask, CROP_PADDING / 512 * longest)
                cut = mask[box[1] : box[3], box[0] : box[2]]
                crop = image.crop(box).resize((native, native), Image.Resampling.LANCZOS)
                cut = np.asarray(Image.fromarray(cut).resize((native, native), Image.Resampling.NEAREST))
                painted = self._inpaint(crop, cut, prompt, seed + number, CROP_STRENGTH, self.crops_call)
                whole = image.copy()
                whole.paste(painted.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
                soft = Image.fromarray(mask).convert("L").filter(ImageFilter.GaussianBlur(CROP_BLUR / 512 * longest))
                image = Image.composite(whole, image, soft)
        return Outcome(image, rows[0], 1)

    def _inpaint(
        self, image: Image.Image, mask: Mask, prompt: str, seed: int, strength: float, call: Mapping[str, Any]
    ) -> Image.Image:
        return self.inpainter(
            prompt=prompt,
            image=image,
            mask_image=Image.fromarray(mask),
            height=image.height,
            width=image.width,
            strength=strength,
            generator=torch.Generator().manual_seed(seed),
            **call,
        ).images[0]


def _regions(pipe: RefinedPipeline, image: Image.Image, prompt: str) -> Sequence[Region]:
    try:
        return pipe.detector(image, prompt).regions
    except UnreadableOutputError:
        return ()


def _grown(region: Region, image: Image.Image, share: float) -> Mask:
    return dilate(region.pixels(Size(image.height, image.width)), share * max(image.size))


def _square(mask: Mask, padding: float) -> tuple[int, int, int, int]:
    """A square box around a mask with ``padding`` pixels on each side, inside the image."""
    size, box = Size(*mask.shape), box_of(mask)
    assert box is not None
    padded = clip_box([box[0] - padding, box[1] - padding, box[2] + padding, box[3] + padding], size)
    assert padded is not None
    return crop_box(padded, size, padding=0.0, least=0)


class _counting:  # noqa: N801
    """Count the rows that pass through a module within the block."""

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
    """Processor seconds and result of a call."""
    began = time.process_time()
    value = call()
    return time.process_time() - began, value


# Images with four regions


def flawed_pictures(pipe: RefinedPipeline) -> Iterator[tuple[int, FlawedPicture]]:
    """Held-out scenes of four things with a flaw in each, for which the detector finds four regions or more."""
    number = -1
    while True:
        number += 1
        rng = np.random.default_rng([HELD_OUT, number])
        flawed = inject(sample_scene(rng, count=4), rng, count=4)
        if len(_regions(pipe, flawed.image, flawed.scene.caption)) >= 4:
            yield number, flawed


def four_regions(pipe: RefinedPipeline, pictures: int) -> dict[str, Any]:
    """Run all systems on the same images."""
    found = itertools.islice(flawed_pictures(pipe), pictures)
    systems = systems_of(pipe)
    return compared([one_picture(systems, flawed, number) for number, flawed in found])


def systems_of(pipe: RefinedPipeline) -> dict[str, System]:
    """The others, our defaults, the same with one round, and the settings that docs advise ADetailer users."""
    rivals, alike = Rivals(pipe), Rivals(pipe, alike=True)
    light = replace(pipe.refine_config, strategy="inpaint", max_rounds=1, strengths=(CROP_STRENGTH,), dilate=0.01)
    equation = RefineConfig.legion("inpaint", prompts="[PROMPT]")
    ours = replace(equation, inpaint_call=pipe.inpaint_call_defaults)
    unjudged = pipe.with_parts(judge=None)

    def refined(image: Image.Image, prompt: str, seed: int, pipe: RefinedPipeline = pipe, **options: Any) -> Outcome:
        result = pipe.stream(prompt, start_image=image, seed=seed, **options).result
        return Outcome(result.image, result.calls.denoiser_rows, result.calls.detector_calls)

    return {
        "legion": rivals.legion,
        "legion, our steps": alike.legion,
        "legion, equation 6": functools.partial(refined, pipe=unjudged, config=equation),
        "legion, equation 6, our steps": functools.partial(refined, pipe=unjudged, config=ours),
        "crops": rivals.crops,
        "crops, our steps": alike.crops,
        "refined": refined,
        "refined, one round": functools.partial(refined, max_rounds=1),
        "refined, lightly": functools.partial(refined, config=light),
    }


def one_picture(systems: Mapping[str, System], flawed: FlawedPicture, number: int) -> Record:
    """Run all systems on one image, in an order that changes from image to image."""
    record: Record = {"start": (inspect(flawed.image, flawed.scene).count, 0, 0, 0.0)}
    names = list(systems)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        seconds, outcome = timed(lambda: systems[name](flawed.image, flawed.scene.caption, number))  # noqa: B023
        flaws = inspect(outcome.image, flawed.scene).count
        record[name] = (flaws, outcome.denoiser_rows, outcome.detector_calls, seconds)
    return record


def compared(records: Sequence[Record]) -> dict[str, Any]:
    """Means of each system; ratios of cost and differences of flaws between pairs, with bootstrap 95 % intervals."""
    table = {name: np.array([record[name] for record in records], dtype=np.float64) for name in records[0]}
    columns = ("flaws", "denoiser_rows", "detector_calls", "seconds")
    refined = [name for name in table if name.startswith("refined")]
    pairs = [(rival, ours) for rival in table if rival not in {"start", *refined} for ours in refined]
    return {
        "pictures": len(table["start"]),
        "means": {name: dict(zip(columns, rows.mean(axis=0).round(3), strict=True)) for name, rows in table.items()},
        "flaws_mended": {name: _mean(table["start"][:, 0] - rows[:, 0]) for name, rows in table.items()},
        "pairs": {
            f"{rival} / {ours}": {
                "denoiser_rows": _ratio(table[rival][:, 1], table[ours][:, 1]),
                "seconds": _ratio(table[rival][:, 3], table[ours][:, 3]),
                "more_flaws_mended_by_ours": _mean(table[rival][:, 0] - table[ours][:, 0]),
            }
            for rival, ours in pairs
        },
    }


# The generator's own images


def against_legion(pipe: RefinedPipeline, prompts: int) -> dict[str, Any]:
    """Ratios LEGION / ours for prompts whose start image has two regions or more."""
    schedules = {"as published": Rivals(pipe), "our steps": Rivals(pipe, alike=True)}
    records: list[dict[str, tuple[int, float]]] = []
    for case in cases(20 * prompts, 1):
        if len(records) == prompts:
            break
        prompt = case.scene.caption
        seconds, result = timed(lambda: pipe.stream(prompt, seed=case.number).result)  # noqa: B023
        first = result.attempts[0]
        if first.analysis is None or len(first.analysis.regions) < 2:
            continue
        record = {"ours": (result.calls.denoiser_rows, seconds)}
        for name, rivals in schedules.items():

            def schedule() -> Outcome:
                return rivals.legion(_painted(pipe, prompt, first.seed), prompt, first.seed)  # noqa: B023

            seconds, outcome = timed(schedule)
            record[name] = (outcome.denoiser_rows + first.calls.denoiser_rows, seconds)
        records.append(record)

    def column(name: str, place: int) -> list[float]:
        return [record[name][place] for record in records]

    return {"pictures": len(records)} | {
        name: {
            figure: _ratio(column(name, place), column("ours", place))
            for place, figure in enumerate(("denoiser_rows", "seconds"))
        }
        for name in schedules
    }


def nothing_to_fix(pipe: RefinedPipeline, pairs: int) -> dict[str, Any]:
    """Ratio of RefinedPipeline's seconds to those of generator plus detector, for a prompt whose start has no flaws."""
    for case in cases(200, 1):
        prompt = case.scene.caption
        result = pipe.stream(prompt, seed=case.number).result
        if len(result.attempts) == 1 and result.stop == "clean":
            break
    else:
        return {"pairs": 0}
    seed = result.attempts[0].seed

    def bare() -> None:
        pipe.detector(_painted(pipe, prompt, seed), prompt)

    times = [(timed(lambda: pipe.stream(prompt, seed=case.number).result)[0], timed(bare)[0]) for _ in range(pairs)]
    return {"pairs": pairs, "seconds": _ratio(*np.transpose(times))}


def _painted(pipe: RefinedPipeline, prompt: str, seed: int) -> Image.Image:
    """The generator's image. The painter is new each time; a reused one would not encode the prompt again."""
    painter = DiffusersPainter(pipe.pipe, PaintSettings(options=pipe.call_defaults))
    return painter.generate([PaintJob(prompt=prompt, seed=seed)])[0]


def _ratio_of_sums(above: Any, below: Any, axis: int = 0) -> Any:
    return above.sum(axis=axis) / below.sum(axis=axis)


def _ratio(above: Any, below: Any) -> dict[str, Any]:
    """Ratio of the sums of two paired columns, with a bootstrap 95 % interval."""
    values = np.stack([above, below], axis=1).astype(np.float64)
    found = bootstrap_interval(*values.T, statistic=_ratio_of_sums, resamples=5000)
    return {
        "ratio": round(float(_ratio_of_sums(*values.T)), 3),
        "ci95": [round(bound, 3) for bound in found],
        "means": values.mean(axis=0).round(3).tolist(),
    }


def _mean(values: Any) -> dict[str, Any]:
    """Mean, with a bootstrap 95 % interval."""
    found = bootstrap_interval(values, resamples=5000)
    return {"mean": round(float(values.mean()), 3), "ci95": [round(bound, 3) for bound in found]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16, help="images with four regions (16)")
    parser.add_argument(
        "--prompts", type=int, default=12, help="prompts whose start image has two regions or more (12)"
    )
    parser.add_argument("--pairs", type=int, default=20, help="pairs of runs with nothing to fix (20)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    document = {}
    if options.pictures:
        document["four_regions"] = four_regions(pipe, options.pictures)
    if options.prompts:
        document["legion_over_ours"] = against_legion(pipe, options.prompts)
    if options.pairs:
        document["refined_over_bare"] = nothing_to_fix(pipe, options.pairs)
    if options.json:
        print(json.dumps(document))
        return
    for name, figures in document.items():
        print(name, json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
