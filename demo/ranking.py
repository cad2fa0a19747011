"""Rank generators in the demo: models that generate now, and uploaded images."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from PIL import Image

from refiner.demo.jobs import Job, Tell
from refiner.demo.line import StoppedError
from refiner.demo.settings import Choices
from refiner.demo.studio import Studio
from refiner.demo.uploads import read_upload
from refiner.errors import ConfigError, InputError
from refiner.evaluate.harness import Answer
from refiner.evaluate.ranking import Pictures, PromptSet
from refiner.evaluate.systems import Generating
from refiner.files import Json, atomic_write
from refiner.images import save_png
from refiner.ledger import Ledger, ledgers_of

if TYPE_CHECKING:
    from refiner.data.samples import Sample
    from refiner.evaluate.harness import Run, System
    from refiner.evaluate.systems import Looker
    from refiner.pipelines import RefinedPipeline
    from refiner.protocols import PaintJob
    from refiner.types import Analysis

Order = Literal["CAP", "HPS", "PAR"]

_NAME: Final = re.compile(r"\w[\w +@-]{0,39}")
_BATCH: Final = 2
"""Images per batch. After each batch, the job checks whether it was stopped."""
_SCORING: Final[Mapping[str, float | str]] = {"threshold": 0.5, "unreadable": "miss"}
_STEPS: Final = (4, 10)
"""Denoiser steps of the fast variants of each model, beside its own number of steps."""
_WORST: Final = 3
"""Images of each generator that are shown."""
_UPLOADS: Final = ".uploads"
"""Folder of the uploads. No generator can have this name, and the ZIP file leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A generator to rank: a model that generates now, or existing images.

    Raises:
        InputError: the name holds characters that a folder name should not have.
    """

    name: str
    model: str = ""
    """A label of ``DemoSettings.models``; empty: uploaded images."""
    steps: int | None = None
    """Denoiser steps; None: the model's own number."""
    files: tuple[str, ...] = ()
    """Paths of uploaded images, one for each prompt, in the order of their names."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name != self.name.strip(" ."):
            raise InputError(f"Choose a name of at most 40 letters, digits and spaces instead of {self.name[:60]!r}.")


def model_entries(models: Choices) -> dict[str, Entry]:
    """The entries of each model: with its own number of steps, and with few steps. Name -> entry."""
    found = {}
    for label in models:
        plain = re.sub(r"[^\w +@-]", "-", label)[:28].strip(" +@-") or "model"
        for steps in (None, *_STEPS):
            name = f"{plain} {steps} steps" if steps else plain
            found[name] = Entry(name=name, model=label, steps=steps)
    return found


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """A user's request to rank generators."""

    entries: tuple[Entry, ...]
    prompts: tuple[str, ...]
    detector: str
    """A label of ``DemoSettings.detectors``."""
    by: Order = "CAP"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The progress of one generator, in images."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Flawed:
    """An image of a generator with what was found in it."""

    name: str
    """Of the generator."""
    prompt: str
    image: Image.Image
    analysis: Analysis
    score: float | None
    """By the judge; None without one."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A finished ranking."""

    document: Json
    """From ``refiner.evaluate.ranking.rank_runs``."""
    files: dict[str, str] = field(default_factory=dict)
    """``csv`` and ``zip`` -> path of the file."""
    worst: tuple[Flawed, ...] = ()
    """The worst images of each generator by the figure that ranks, in the order of the ranking, the worst first."""
    left: tuple[str, ...] = ()
    """Names of the generators that are missing because the job was stopped before all their images were analysed."""


def rank(studio: Studio, session: str, request: RankRequest, folder: Path) -> Iterator[Any]:
    """Rank generators; yields ``Ranking`` events and then ``Ranked``.

    A stopped job ranks the generators that are done. If these are fewer than two, there is no ``Ranked``.

    Args:
        studio: provides the models.
        session: id of the user's browser tab or client.
        request: prompts, generators and settings.
        folder: an empty folder for all output.

    Raises:
        InputError: no prompts or too many, a name that is used twice, or images that do not match the prompts.
        ConfigError: fewer than two generators.
        BusyError: too many jobs are running or waiting.
    """
    _check(request, studio)
    return studio.desk.run(session, lambda job, tell: tell(_rank(studio, request, folder, job, tell)))


def _check(request: RankRequest, studio: Studio) -> None:
    count = len(request.prompts)
    if not 1 <= count <= studio.settings.max_prompts:
        raise InputError(f"Write 1 to {studio.settings.max_prompts} prompts, one per line; there are {count}.")
    longest = max(map(len, request.prompts))
    if longest > studio.settings.max_prompt:
        raise InputError(
            f"Choose shorter prompts: at most {studio.settings.max_prompt} characters, the longest has {longest}."
        )
    if len(request.entries) < 2:
        raise ConfigError(
            f"Choose at least two generators to rank, not {len(request.entries)}: select another, or upload images."
        )
    names = [entry.name.casefold() for entry in request.entries]
    if len(set(names)) < len(names):
        raise InputError("Give each generator a name of its own: two have the same.")
    for entry in request.entries:
        if not entry.model and len(entry.files) != count:
            raise InputError(
                f"Upload {count} images of {entry.name!r}, one for each prompt, in the order of their names; there are "
                f"{len(entry.files)}."
            )


def _rank(studio: Studio, request: RankRequest, folder: Path, job: Job, tell: Tell) -> Ranked:
    from refiner.evaluate.ranking import RANK_CSV, rank_runs, write_tables
    from refiner.evaluate.table import score
    from refiner.reports.evaluation import write_report
    from refiner.reports.ranking import write_rank_report

    prompts = _prompt_set(request.prompts)
    runs: dict[str, Run] = {}
    shown: dict[str, Pictures] = {}
    try:
        for name, run, pictures in _runs(studio, request, prompts, folder, job, tell):
            runs[name], shown[name] = run, pictures
    except StoppedError:
        if len(runs) < 2:
            raise
    left = tuple(entry.name for entry in request.entries if entry.name not in runs)
    for name in left:
        shutil.rmtree(folder / name, ignore_errors=True)
    document = rank_runs(runs, prompts.prompts_of, by=request.by)
    for name, run in runs.items():
        write_report(run, score(run), shown[name])
    write_tables(document, folder)
    write_rank_report(document, runs, shown, folder)
    files = {"csv": str(folder / RANK_CSV), "zip": str(_zipped(folder))}
    order = document["orders"][request.by]
    worst = tuple(each for name in order for each in _worst(name, runs[name], shown[name], request.by))
    return Ranked(document=document, files=files, worst=worst, left=left)


def _worst(name: str, run: Run, pictures: Pictures, by: Order) -> Iterator[Flawed]:
    """The worst images of a generator, with what was found in them."""
    from refiner.evaluate.ranking import HIGHER_IS_BETTER
    from refiner.records import analysis_from_dict
    from refiner.reports.ranking import values_by

    values = np.array(values_by(run, by), dtype=float)
    order = np.argsort(values if by in HIGHER_IS_BETTER else -values, kind="stable")
    for index in [index for index in order.tolist() if not np.isnan(values[index])][:_WORST]:
        answer, sample = run.records[index]["answer"], pictures.load(index)
        assert sample.image is not None
        analysis = analysis_from_dict(answer["analysis"])
        yield Flawed(name=name, prompt=sample.prompt, image=sample.image, analysis=analysis, score=answer["score"])


def _runs(
    studio: Studio, request: RankRequest, prompts: PromptSet, folder: Path, job: Job, tell: Tell
) -> Iterator[tuple[str, Run, Pictures]]:
    """Yield name, run and images of each generator once all its images are analysed."""
    from refiner.evaluate.systems import Looker
    from refiner.pipelines.painting.vocabulary import check_words

    # The judge is that of the first model that generates, or else of the first model of the demo.
    model = next((entry.model for entry in request.entries if entry.model), next(iter(studio.settings.models)))
    first = studio.refiner(model, request.detector, job, tell)
    painters = [studio.refiner(entry.model, request.detector, job, tell) for entry in request.entries if entry.model]
    check_words([refiner.pipe for refiner in painters], request.prompts)
    looker = Looker(detector=first.detector, judge=first.judge, batch_size=_BATCH)
    for entry in request.entries:
        if entry.model:
            refiner = studio.refiner(entry.model, request.detector, job, tell)
            data = Pictures(prompts)
            system: System = _painting(entry, refiner, looker, folder / entry.name, request.seed)
        else:
            data = _uploaded(entry, prompts, folder / _UPLOADS / entry.name, studio, job)
            system = looker
        run = _collect(entry, data, _Turns(studio, job, system, system.batch_size), folder, tell)
        yield entry.name, run, data.painted(folder / entry.name)


def _prompt_set(texts: Sequence[str]) -> PromptSet:
    prompts = {f"{number:05d}": text for number, text in enumerate(texts)}
    return PromptSet(
        specification="prompts of the demo",
        prompts=prompts,
        prompts_of={name: name for name in prompts},
        settings={"prompts": list(texts), "references": None, "limit": None, "seeds": 1},
        problems=(),
    )


def _uploaded(entry: Entry, prompts: PromptSet, folder: Path, studio: Studio, job: Job) -> Pictures:
    """Copy the uploaded images to files that have the prompts' names."""
    folder.mkdir(parents=True)
    files = {}
    for name, file in zip(prompts.prompts, sorted(entry.files, key=lambda path: Path(path).name), strict=True):
        job.check()
        files[name] = save_png(read_upload(file, studio.settings), folder / f"{name}.png")
    return Pictures(prompts, files, entry.name)


def _painting(entry: Entry, refiner: RefinedPipeline, looker: Looker, folder: Path, seed: int) -> Generating:
    from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings

    options = {**refiner.call_defaults, **({} if entry.steps is None else {"num_inference_steps": entry.steps})}

    def paint(jobs: Sequence[PaintJob]) -> list[Image.Image]:
        return DiffusersPainter(refiner.pipe, PaintSettings(options=options)).generate(jobs)

    return Generating(
        paint=paint,
        settings={"model": entry.model, "call": options},
        looker=looker,
        folder=folder,
        seed=seed,
        batch_size=_BATCH,
    )


@dataclass
class _Turns:
    """A system that uses the models in turn with other jobs, and raises ``StoppedError`` when its job is stopped."""

    studio: Studio
    job: Job
    system: System
    batch_size: int

    def identity(self) -> Json:
        return self.system.identity()

    def ledgers(self) -> Mapping[str, Ledger]:
        return ledgers_of([self.system])

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        self.job.check()
        with self.studio.desk.turn(self.job):
            return self.system(samples)


def _collect(entry: Entry, data: Pictures, system: System, folder: Path, tell: Tell) -> Run:
    from refiner.evaluate.harness import collect, describe

    tell(Ranking(name=entry.name, done=0, total=len(data.names)))
    steps = "" if entry.steps is None else f",num_inference_steps={entry.steps}"
    settings = {"specification": f"{entry.model or 'uploaded pictures'}{steps}", **data.prompts.settings}
    return collect(
        data,
        system,
        describe("realism", data, settings, system, dict(_SCORING)),
        folder / entry.name,
        progress=lambda done, total: tell(Ranking(name=entry.name, done=done, total=total)),
    )


def _zipped(folder: Path) -> Path:
    """All reports, tables and generated images in one file, without the uploads."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if path.is_file() and place.parts[0] != _UPLOADS:
                archive.write(path, place.as_posix())
    return atomic_write(folder / "ranking.zip", buffer.getvalue())
