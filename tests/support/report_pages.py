"""All kinds of report pages, with long names, unbroken words, many generators, many columns and long prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refiner.data.anomreason import from_regions
from refiner.data.samples import Sample
from refiner.errors import ModelError, UnreadableOutputError
from refiner.evaluate.audit import audit_runs
from refiner.evaluate.calibration import Scoring, calibrate
from refiner.evaluate.harness import Run, collect, describe
from refiner.evaluate.ranking import rank_runs
from refiner.evaluate.refining import folder_name
from refiner.evaluate.systems import Looker, Refining
from refiner.evaluate.table import score
from refiner.metrics.bertscore import Tokens
from refiner.patches import Candidates
from refiner.records import analysis_to_dict
from refiner.reports.audit import write_audit_report
from refiner.reports.calibration import write_calibration_report
from refiner.reports.evaluation import write_report
from refiner.reports.gallery import write_gallery
from refiner.reports.ranking import write_rank_report
from refiner.reports.refinements import write_sheet
from refiner.reports.result import save_result
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Score, Size, Step

SIZE = Size(48, 64)
WORD = "Donaudampfschifffahrtsgesellschaftskapitaensmuetze" * 3
"""Has no place to break."""
PROMPT = f"a watercolour of {WORD} beside " + "a red hand with five fingers left of a green clock " * 9
CATEGORIES = tuple(Category)
COUNT = 12
"""Samples of a run."""
SCORING = {"threshold": 0.5, "view": "full"}


def image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(90, 160, (*SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def region(number: int) -> Region:
    mask = np.zeros(tuple(SIZE), dtype=bool)
    x, y = 4 + 7 * (number % 6), 4 + 5 * (number % 5)
    mask[y : y + 12, x : x + 14] = True
    return Region(
        mask=mask, box=(x, y, x + 14, y + 12), name=f"the part {number} {WORD[:60]}", explanation=f"odd {WORD}",
        reasoning="it should be even, as everybody knows " * 5, location="upper left",
        category=CATEGORIES[number % len(CATEGORIES)], severity=0.1 + 0.08 * (number % 10), score=0.5,
    )  # fmt: skip


def analysis(seed: int, flaws: int) -> Analysis:
    steps = (
        Step(stage="checklist object", subject=f"there is {WORD}", outcome="confirmed", reason=WORD),
        Step(stage="checklist attribute", subject="it is red", outcome="rejected", reason="it is blue " * 20),
        Step(stage="text", subject=WORD[:40], outcome="rejected", text=WORD, reason="misspelt"),
    )
    heat = np.random.default_rng(seed).random(tuple(SIZE), dtype=np.float32)
    return Analysis(
        size=SIZE, detector="critic", regions=tuple(region(seed + number) for number in range(flaws)), trace=steps,
        fake_probability=(seed % 10) / 10, heatmap=heat, tags=(WORD,),
    )  # fmt: skip


class Given:
    """Samples as they are given."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.problems: list = []
        self.samples = samples
        self.names = tuple(sample.name for sample in samples)

    def load(self, index: int) -> Sample:
        return self.samples[index]


def samples(**more: Any) -> Given:
    """Every third sample is real and has no flaw."""
    found = []
    for seed in range(COUNT):
        truth = analysis(seed, 2 if seed % 3 else 0)
        found.append(
            Sample(
                name=f"{seed:02d} {WORD}.png", group=f"group {seed % 4} {WORD[:40]}", prompt=f"{seed} {PROMPT}",
                image=image(seed), fake=bool(seed % 3), truth=truth, anomalies=from_regions(truth.regions), **more,
            )
        )  # fmt: skip
    return Given(found)


class Echo:
    """Compares texts by whether they are equal; also of whole texts."""

    signature = "echo"
    max_length = 9

    def encode(self, texts: list[str]) -> list:
        known = {text: at for at, text in enumerate(sorted(set(texts)))}
        vectors = np.eye(max(1, len(known)), 64, dtype=np.float32)
        return [Tokens(vectors[known[text]][None], np.ones(1, dtype=np.float32), False) for text in texts]


class Whole:
    signature = encoding = "whole"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, len(text) % 7] for text in texts], dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        return False


class Red:
    name = "red"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [float(np.asarray(each)[..., 0].mean()) / 255 for each in images]


def seeing(data: Given, flaws: Callable[[int], int], failing: int = 4) -> Callable[[Image.Image], Analysis]:
    """A detector that knows the images; it gives no answer for one of them, and babble for the one after it."""
    numbers = {sample.image.tobytes(): seed for seed, sample in enumerate(data.samples) if sample.image}

    def look(picture: Image.Image) -> Analysis:
        seed = numbers[picture.tobytes()]
        if seed == failing:
            raise ModelError(f"The server does not answer: {WORD}.")
        if seed == failing + 1:
            raise UnreadableOutputError(f"Expected a list of flaws, got {WORD}.", raw=WORD)
        return analysis(seed, flaws(seed))

    return look


def evaluated(task: str, folder: Path) -> Path:
    """The page of a task."""
    data = samples(categorised=True) if task != "refinement" else Given([replace(each, image=None) for each in
        samples().samples])  # fmt: skip
    if task == "refinement":
        looker = Looker(judge=Red(), encoder=Echo())  # type: ignore[arg-type]
        runs = iter(result(seed) for seed in range(COUNT))
        system: Any = Refining(refine=lambda _: next(runs), settings={"seed": 0}, looker=looker, pictures=folder)
    else:
        options = {"encoder": Echo(), "sentences": Whole(), "descriptions": Whole()} if task != "checklist" else {}
        judge = Red() if task == "realism" else None
        look = seeing(data, lambda seed: seed % 4)
        system = Looker(detector=look, judge=judge, batch_size=1, **options)  # type: ignore[arg-type]
    source = {"specification": f"synthscars:/data/{WORD}"}
    run = collect(data, system, describe(task, data, source, system, SCORING), folder)  # type: ignore[arg-type]
    return write_report(run, score(run), data)  # type: ignore[arg-type]


def generators(folder: Path, detector: int = 0) -> tuple[dict[str, Run], dict[str, Given], dict[str, str]]:
    """Runs and images of seven generators, and the prompt of each image."""
    runs, shown, data = {}, {}, samples()
    for number in range(7):
        name = f"generator {number} {WORD[:40]}" if number % 2 else f"g{number}"
        flaws = seeing(data, lambda seed, number=number: (seed * (number + 1 + detector)) % 5)
        system = Looker(detector=flaws, judge=Red(), batch_size=1)
        description = describe("realism", data, {"specification": f"/data/{WORD}"}, system, SCORING)
        runs[name], shown[name] = collect(data, system, description, folder / f"g{number}"), data
    return runs, shown, {name: name for name in data.names}


def ranked(folder: Path) -> Path:
    runs, shown, prompts = generators(folder)
    return write_rank_report(rank_runs(runs, prompts), runs, shown, folder)


def audited(folder: Path) -> Path:
    runs: dict[str, Mapping[str, Run]] = {}
    for number in range(6):
        own, _, prompts = generators(folder / str(number), number)
        runs[f"vlm:{WORD[:60]}{number}" if number % 2 else f"micro:{number}"] = own
    return write_audit_report(audit_runs(runs, prompts), runs, folder)


def calibrated(folder: Path) -> Path:
    made = [Sample(name=f"{seed:03d} {WORD}", image=image(seed), fake=bool(seed % 2), prompt="") for seed in range(120)]
    data = Given(made)
    scores = np.random.default_rng(0).random(120)
    numbers = {sample.image.tobytes(): seed for seed, sample in enumerate(made) if sample.image}

    def look(picture: Image.Image) -> Analysis:
        seed = numbers[picture.tobytes()]
        if seed < 3:
            raise ModelError(f"The server does not answer: {WORD}.")
        return Analysis(size=SIZE, detector="critic", fake_probability=float(scores[seed] / 2 + seed % 2 / 2))

    system = Scoring(looker=Looker(detector=look, batch_size=1))
    source = {"specification": f"synthscars:/data/{WORD}", "labels": 120, "seed": 0, "digest": ""}
    run = collect(data, system, describe("detection", data, source, system, SCORING), folder)  # type: ignore[arg-type]
    return write_calibration_report(calibrate(run, fpr=0.1, max_error=0.2, seed=0), folder)


def detected(folder: Path) -> Path:
    data = samples()
    system = Looker(detector=seeing(data, lambda seed: 12 if seed == 1 else seed % 4), batch_size=1)
    run = collect(data, system, describe("realism", data, {"specification": WORD}, system, SCORING), folder)  # type: ignore[arg-type]
    return write_gallery(
        run.records, range(COUNT), lambda record: image(record["index"]), folder, title=WORD, lead=WORD, total=COUNT
    )[0]


def attempt(index: int, flaws: int, **more: Any) -> Attempt:
    usual: dict[str, Any] = {
        "action": "inpaint" if index else "generate", "prompt": f"{PROMPT} {index}", "negative_prompt": WORD,
        "seed": 7123456789012345678, "image": image(index), "analysis": analysis(index, flaws), "accepted": True,
        "reason": f"better for the detector: burden 1.2 -> 0.3; {WORD}", "seconds": 1.25, "note": WORD,
        "scores": (Score(name="hps:micro", value=0.2765432 + index / 100), Score(name=f"clip:{WORD}", value=0.25)),
    }  # fmt: skip
    return Attempt(index=index, **usual | more)


def result(seed: int = 0) -> RefinementResult:
    mask = np.ones((12, 14), dtype=bool)
    whole = np.zeros(tuple(SIZE), dtype=bool)
    whole[4:16, 4:18] = mask
    patch = Candidates(
        name=f"the part {WORD}", mask=whole, box=(4, 4, 18, 16),
        images=tuple(image(number).crop((4, 4, 18, 16)) for number in range(8)), seeds=tuple(range(8)), shown=1,
    )  # fmt: skip
    failed = attempt(2, 0, image=None, analysis=None, scores=(), accepted=False, error=f"The model failed: {WORD}")
    attempts = (attempt(0, 3), attempt(1, 1 + seed % 2, candidates=(patch,)), failed)
    return RefinementResult(prompt=PROMPT, attempts=attempts, best=1, stop="rounds")


def refined(folder: Path) -> Path:
    return Path(save_result(result(), folder, {"model": WORD})["report"])


def contacted(folder: Path) -> Path:
    """The contact sheet of ``refiner refine --prompts``."""
    records, names = [], [f"{seed} {WORD}" for seed in range(3)]
    for index, name in enumerate(names):
        made = result(index)
        place = f"images/{folder_name(name)}"
        save_result(made, folder / place)
        looks = {
            when: {
                "attempt": each.index, "file": file, "scores": {},
                "analysis": analysis_to_dict(replace(each.analysis, heatmap=None), arrays=True),
            }
            for when, each, file in (
                ("start", made.attempts[0], "start.png"), ("best", made.attempts[1], "best.png"),
            )
            if each.analysis is not None
        }  # fmt: skip
        error = {"kind": "ModelError", "detail": f"The model failed: {WORD}"} if index == 2 else None
        answer = {"folder": place, **looks}
        records.append({"index": index, "name": name, "prompt": PROMPT, "error": error, "answer": answer})
    return write_sheet(records, range(3), folder, lead=WORD, total=3)  # type: ignore[arg-type]


PAGES: Mapping[str, Callable[[Path], Path]] = {
    "result": refined, "ranking": ranked, "audit": audited, "calibration": calibrated, "gallery": detected,
    "refinements": contacted,
}  # fmt: skip
"""Name of a template -> writes its page into an empty folder, with a sub-command's own functions."""
