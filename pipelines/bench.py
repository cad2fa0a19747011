"""Benchmark of the refinement loop against control systems in the micro world.

For every held-out prompt and seed, seven systems make an image:

- start: the start image.
- more_steps: the start image, generated with more denoiser steps.
- best_of_n: the best of n generated images by the judge.
- shuffled: the loop with strategy "auto", with the detector's masks moved to random places.
- regenerate, inpaint, auto: the loop with each strategy.

more_steps and best_of_n use no detector and at least as many denoiser rows (images times denoiser passes, guidance
counted) as auto. shuffled has the budget of auto. All systems share models, prompt and seed, so they share the start
image. The oracle (``refiner.micro.oracle``, which knows the truth of the micro world) counts the flaws of each result;
the systems do not use it. Where the extra ``text`` is installed, a reader of lettering counts the wrong signs, too
(``refiner.pipelines.signs``). A benchmark that was stopped can be resumed if the models and settings are the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from refiner.answers import analyses
from refiner.errors import ConfigError
from refiner.files import atomic_write, dumps
from refiner.masks import box_of, dilate
from refiner.metrics.intervals import mean_interval
from refiner.micro.oracle import inspect
from refiner.micro.world import Scene, sample_scene
from refiner.pipelines.painting.families import takes
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.pipelines.refined import RefinedPipeline
from refiner.pipelines.signs import sign_counts, total_signs
from refiner.protocols import Detector, Networked, PaintJob, Spender
from refiner.records import derive_seed
from refiner.types import Analysis, Attempt, Calls, Mask, RefinementResult, Region, Size

SYSTEMS = ("start", "more_steps", "best_of_n", "shuffled", "regenerate", "inpaint", "auto")
CONTROLS = ("start", "more_steps", "best_of_n", "shuffled")
PAIRS = (*(("auto", control) for control in CONTROLS), ("inpaint", "start"), ("regenerate", "start"))
"""Systems and those that they are compared with."""
_HELD_OUT = 900_002
"""First entry of the benchmark's seeds; no training uses it."""


class ShuffledDetector:
    """A detector whose regions are moved to random places: the number is right, the masks are wrong."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.name = f"shuffled {detector.name}"

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        shuffled = []
        for image, analysis in zip(images, analyses(self.detector, images, prompts), strict=True):
            rng = np.random.default_rng(derive_seed("shuffle", image.tobytes().hex()))
            regions = tuple(_moved(region, analysis.size, rng) for region in analysis.regions)
            shuffled.append(replace(analysis, regions=regions))
        return shuffled

    def spent(self) -> Calls:
        """Return the denoiser rows of the detector."""
        return self.detector.spent() if isinstance(self.detector, Spender) else Calls()


def _moved(region: Region, size: Size, rng: np.random.Generator) -> Region:
    shift = int(rng.integers(size.height)), int(rng.integers(size.width))
    mask = np.roll(region.pixels(size), shift, axis=(0, 1))
    box = box_of(mask)
    return replace(region, mask=mask, box=box) if box else region


class Case(NamedTuple):
    """One prompt and seed."""

    number: int
    scene: Scene
    seed: int


def cases(prompts: int, seeds: int, first: int = _HELD_OUT) -> Iterator[Case]:
    """Yield scenes, seed by seed; scenes of one, two, three and four things (objects) take turns.

    ``first`` is the first entry of their random seeds; by default, they are the held-out scenes.
    """
    for seed in range(seeds):
        for number in range(prompts):
            rng = np.random.default_rng([first, number])
            yield Case(number=number, scene=sample_scene(rng, count=1 + number % 4), seed=seed)


class Plan(NamedTuple):
    """What a benchmark runs on each case."""

    run_case: Callable[[RefinedPipeline, Case], dict[str, Any]]
    """Runs all systems, and returns the record of the case."""
    summarise: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    """Makes the summary of the records."""
    first: int = _HELD_OUT
    """First entry of the seeds of the scenes."""
    settings: Mapping[str, Any] = MappingProxyType({})
    """What the records depend on beside models and settings of the pipeline, as JSON."""


def run(
    pipe: RefinedPipeline,
    prompts: int,
    seeds: int,
    folder: Path,
    track: Callable[[Sequence[Case]], Iterable[Case]] = iter,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Run the cases that ``records.jsonl`` in ``folder`` does not hold yet, and return the summary of all cases.

    Args:
        pipe: the refined pipeline; it must have a judge.
        prompts: number of held-out prompts.
        seeds: number of seeds for each prompt.
        folder: of the records of all cases.
        track: wraps the list of the remaining cases, for a progress bar.
        plan: what is run on each case; None: the systems of this module.

    Raises:
        ConfigError: the folder holds records of other models or settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan or Plan(run_case, summarise)
    models, identity = folder / "models.json", {**_identity(pipe), **plan.settings}
    if not models.exists():
        atomic_write(models, dumps(identity) + "\n")
    elif json.loads(models.read_text(encoding="utf-8")) != identity:
        raise ConfigError(
            f"{str(folder)!r} holds records of other models or settings: choose another folder, or delete it."
        )
    file = folder / "records.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    records = {(record["prompt"], record["seed"]): record for record in map(json.loads, lines)}
    wanted = list(cases(prompts, seeds, plan.first))
    for case in track([case for case in wanted if (case.number, case.seed) not in records]):
        record = records[case.number, case.seed] = plan.run_case(pipe, case)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
    return plan.summarise([records[case.number, case.seed] for case in wanted])


def _identity(pipe: RefinedPipeline) -> dict[str, Any]:
    """Describe the models and settings that the results depend on, as plain JSON values."""
    looking = getattr(pipe.detector, "detectors", (pipe.detector,))
    own = [part.model for part in (*looking, pipe.judge) if isinstance(part, Networked)]
    parts = [*pipe.pipe.components.values(), *own]
    for other in (pipe.inpainter, pipe.editor):
        parts += getattr(other, "components", {}).values()
    digest = hashlib.sha256("".join(repr(getattr(part, "config", "")) for part in looking).encode())
    for part in (*looking, pipe.reviser):
        backend = getattr(part, "backend", None)
        if backend is not None:
            digest.update(f"{getattr(part, 'name', '')} {backend.name}".encode())
            parts += [backend.model] if isinstance(backend, Networked) else []
    for part in parts:
        if hasattr(part, "state_dict"):
            for tensor in part.state_dict().values():
                digest.update(tensor.float().cpu().numpy().tobytes())
    made = {
        "weights": digest.hexdigest(),
        "config": asdict(pipe.refine_config),
        "call": dict(pipe.call_defaults),
        "inpaint_call": dict(pipe.inpaint_call_defaults),
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def run_case(pipe: RefinedPipeline, case: Case) -> dict[str, Any]:
    """Run all systems on one prompt and seed, and return the record of the case."""
    systems, checks = {}, []
    for strategy in ("auto", "inpaint", "regenerate"):
        systems[strategy], result = refined(pipe, case, strategy=strategy)
        checks.append(check_run(result, pipe.refine_config.dilate))
    start = result.attempts[0]
    systems["start"] = start_row(start, case)
    budget = systems["auto"]["denoiser_rows"]
    shuffled = pipe.with_parts(
        detector=ShuffledDetector(pipe.detector), config=replace(pipe.refine_config, max_denoiser_rows=max(budget, 1))
    )
    systems["shuffled"], _ = refined(shuffled, case, strategy="auto")
    systems["more_steps"] = _more_steps(pipe, case, budget, start)
    systems["best_of_n"] = _best_of_n(pipe, case, budget, start.seed)
    return {
        "prompt": case.number,
        "seed": case.seed,
        "caption": case.scene.caption,
        "things": len(case.scene.things),
        "systems": systems,
        "checks": checks,
    }


def refined(pipe: RefinedPipeline, case: Case, **options: Any) -> tuple[dict[str, Any], RefinementResult]:
    """Refine a case; returns what the referee says about the result and what it cost, and the result."""
    began = time.perf_counter()
    result = pipe.stream(case.scene.caption, seed=case.seed, index=case.number, **options).result
    calls, seconds = result.calls, time.perf_counter() - began
    return _row(result.image, case.scene, calls.denoiser_rows, calls.detector_calls, seconds), result


def start_row(start: Attempt, case: Case) -> dict[str, Any]:
    """Judge a start image as ``refined`` does the refined one."""
    assert start.image is not None
    return _row(start.image, case.scene, start.calls.denoiser_rows, 0, start.seconds)


def _more_steps(pipe: RefinedPipeline, case: Case, rows: int, start: Attempt) -> dict[str, Any]:
    """Generate from the prompt and noise of the start image, with as many steps as give at least ``rows`` rows."""
    name = "num_inference_steps"
    usual = pipe.call_defaults.get(name, takes(pipe.pipe)[name].default)
    steps = math.ceil(usual * max(1.0, rows / start.calls.denoiser_rows))
    painter = DiffusersPainter(pipe.pipe, PaintSettings(options={**pipe.call_defaults, name: steps}))
    began = time.perf_counter()
    picture = painter.generate([PaintJob(prompt=case.scene.caption, seed=start.seed)])[0]
    return _row(picture, case.scene, painter.spent().denoiser_rows, 0, time.perf_counter() - began)


def _best_of_n(pipe: RefinedPipeline, case: Case, rows: int, seed: int) -> dict[str, Any]:
    painter = DiffusersPainter(pipe.pipe, PaintSettings(options=pipe.call_defaults))
    prompt = case.scene.caption
    assert pipe.judge is not None
    began = time.perf_counter()
    pictures = painter.generate([PaintJob(prompt=prompt, seed=seed)])
    while painter.spent().denoiser_rows < rows:
        another = derive_seed("best of n", case.seed, case.number, len(pictures))
        pictures += painter.generate([PaintJob(prompt=prompt, seed=another)])
    scores = pipe.judge.score(pictures, [prompt] * len(pictures))
    best = pictures[int(np.argmax(scores))]
    return _row(best, case.scene, painter.spent().denoiser_rows, 0, time.perf_counter() - began)


def _row(image: Image.Image, scene: Scene, rows: int, calls: int, seconds: float) -> dict[str, Any]:
    verdict = inspect(image, scene)
    return {
        "oracle_flaws": verdict.count,
        "oracle_area": float(verdict.mask.mean()),
        "denoiser_rows": rows,
        "detector_calls": calls,
        "seconds": round(seconds, 3),
        **sign_counts(image, scene, verdict),
    }


def check_run(result: RefinementResult, reach: float) -> dict[str, Any]:
    """Check whether the result is worse than the start image, and how much pixels outside accepted masks changed."""
    first, best = result.attempts[0], result.attempts[result.best]
    outside, before = 0, first
    for attempt in result.attempts[1:]:
        if attempt.accepted and attempt.action == "inpaint":
            outside = max(outside, _outside(before, attempt, reach))
        before = attempt if attempt.accepted else before
    worse_burden = bool(first.analysis and best.analysis and best.analysis.burden > first.analysis.burden)
    worse_score = any(b.value < a.value for a, b in zip(first.scores, best.scores, strict=True))
    return {"worse": worse_burden or worse_score, "outside_max_diff": outside}


def _outside(old: Attempt, new: Attempt, reach: float) -> int:
    """Compute the largest pixel difference (0 to 255) outside the dilated flaws of the old image."""
    assert old.analysis is not None
    size = old.analysis.size
    allowed: Mask = np.zeros(tuple(size), dtype=np.bool_)
    for region in old.analysis.regions:
        allowed |= dilate(region.pixels(size), reach * max(size))
    difference = np.abs(np.asarray(new.image, np.int16) - np.asarray(old.image, np.int16)).max(axis=2)
    return int(difference[~allowed].max(initial=0))


def summarise(
    records: Sequence[dict[str, Any]],
    systems: Sequence[str] = SYSTEMS,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> dict[str, Any]:
    """Summarise the records: means of every system, paired changes with intervals, and checks; also by things."""
    checks = [check for record in records for check in record["checks"]]
    by_things: dict[int, list[dict[str, Any]]] = {number: [] for number in sorted({one["things"] for one in records})}
    for record in records:
        by_things[record["things"]].append(record)
    return {
        "cases": len(records),
        **_figures(records, systems, pairs),
        "signs": {name: total_signs([record["systems"][name] for record in records]) for name in systems},
        "by_things": {str(number): _figures(own, systems, pairs) for number, own in by_things.items()},
        "never_worse": {
            "runs": len(checks),
            "violations": sum(check["worse"] for check in checks),
            "outside_max_diff": max((check["outside_max_diff"] for check in checks), default=0),
        },
    }


def _figures(
    records: Sequence[dict[str, Any]], systems: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    names = ("oracle_flaws", "oracle_area", "denoiser_rows", "detector_calls", "seconds")
    means = {
        system: {name: float(np.mean([record["systems"][system][name] for record in records])) for name in names}
        for system in systems
    }
    return {"systems": means, "paired": {f"{one}/{other}": _change(records, one, other) for one, other in pairs}}


def _change(records: Sequence[dict[str, Any]], system: str, control: str) -> dict[str, Any]:
    """Compute the relative change of the mean number of flaws (oracle), with its 95 % interval over prompts."""
    prompts = sorted({record["prompt"] for record in records})
    sums = np.zeros((len(prompts), 2))
    for record in records:
        row = prompts.index(record["prompt"])
        sums[row] += [record["systems"][name]["oracle_flaws"] for name in (system, control)]
    own, other = sums.sum(axis=0)
    if not other:
        return {"change": None, "ci95": [None, None]}
    low, high = mean_interval(sums[:, 0] - sums[:, 1], sums[:, 1], within=(-1.0, math.inf))
    return {"change": float(own / other - 1), "ci95": [None, None] if None in (low, high) else [low, high]}
