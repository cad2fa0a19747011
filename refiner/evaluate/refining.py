"""Refine any number of prompts: a system of the harness that writes the images of each into a folder of its own.

An image depends only on the seed, the name of its prompt and the settings, and, within rounding, on the other images
of its batch. ``whole_batches`` makes these the same in each run, also in one that was stopped and goes on.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from refiner.data.samples import DataSet, Sample, digest
from refiner.errors import InputError, ModelError, RefinerError, RefinerWarning
from refiner.evaluate.harness import SPENT, Answer, Engine, System
from refiner.files import Json
from refiner.ledger import Ledger, Prices, ledgers_of
from refiner.records import analysis_to_dict, derive_seed
from refiner.reports.result import Files, save_result
from refiner.types import Attempt, RefinementResult

TASK: Final = "refine"
IMAGES: Final = "images"
"""Folder of the run with a folder for each prompt."""
_SAFE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(kw_only=True)
class Refining:
    """Refines prompts, several at a time, and saves the result of each.

    Args:
        refine: returns the result of each of some prompts, with a seed for each.
        settings: everything that the results depend on: models and settings.
        folder: of the run.
        seed: the seed of a prompt is derived from it and the name of the prompt.
        parts: detector, reviser and judges, whose costs are counted.
        batch_size: prompts that are refined together.
        files: what is saved of each result, see ``save_result``.
        prices: of the chat models, for the records.
    """

    refine: Callable[[Sequence[str], Sequence[int]], Sequence[RefinementResult]]
    settings: Json
    folder: Path
    seed: int
    parts: Sequence[object] = ()
    batch_size: int = 4
    files: Files = "kept"
    prices: Prices | None = None

    def identity(self) -> Json:
        """Settings, seed and batch size."""
        return {"refiner": self.settings, "seed": self.seed, "batch_size": self.batch_size, "files": self.files}

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of all parts, by model."""
        return ledgers_of(self.parts)

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """``folder``, ``stop``, ``verified``, ``attempts``, ``accepted``, ``calls``, ``notes``; ``start``, ``best``.

        Start and best image have ``attempt``, ``file``, ``analysis`` and ``scores`` by judge. If there is no image, or
        none that was analysed, the error comes instead.

        Raises:
            ModelError: the pipeline failed.
            InputError: a prompt cannot be used.
        """
        seeds = [derive_seed(self.seed, sample.name) for sample in samples]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RefinerWarning)  # the records say what is missing
                results = self.refine([sample.prompt for sample in samples], seeds)
        except RefinerError:
            raise
        except Exception as error:
            raise ModelError(f"The pipeline failed with {type(error).__name__}: {error!s:.300}") from error
        return [self._saved(sample, result) for sample, result in zip(samples, results, strict=True)]

    def _saved(self, sample: Sample, result: RefinementResult) -> Answer:
        start, best = result.attempts[0], result.attempts[result.best]
        if best.image is None:
            return ModelError(f"No image was generated: {result.attempts[-1].error}")
        place = f"{IMAGES}/{folder_name(sample.name)}"
        save_result(
            result, self.folder / place, {**self.settings, "seed": self.seed}, prices=self.prices, files=self.files
        )
        if best.analysis is None:
            return ModelError(f"The image in {place} was generated, but not analysed: {best.error or best.reason}")
        return {
            "folder": place,
            "stop": result.stop,
            "verified": result.verified,
            "attempts": len(result.attempts),
            "accepted": sum(attempt.accepted for attempt in result.attempts[1:]),
            "failed": sum(attempt.error is not None for attempt in result.attempts),
            "calls": vars(result.calls),
            "notes": [],
            "start": _looked(start, "start.png"),
            "best": _looked(best, "best.png"),
        }


def _looked(attempt: Attempt, file: str) -> Json:
    analysis = attempt.analysis and dataclasses.replace(attempt.analysis, heatmap=None)
    return {
        "attempt": attempt.index,
        "file": None if attempt.image is None else file,
        "analysis": None if analysis is None else analysis_to_dict(analysis, arrays=True),
        "scores": {score.name: score.value for score in attempt.scores},
    }


def folder_name(name: str) -> str:
    """The folder of a prompt: its name; if that is no plain file name, what is plain of it and a digest."""
    if _SAFE.fullmatch(name) and not name.endswith("."):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return f"{plain[:60]}-{digest([name])[:8]}"


class Prompts:
    """A data set of prompts without images, each once or several times.

    Args:
        data: the prompts.
        times: images of each prompt, at least 1; with several, their names end in ``-00``, ``-01`` and so on.

    Raises:
        InputError: there is no prompt, or two have names that differ only in their case.
    """

    def __init__(self, data: DataSet, times: int = 1) -> None:
        self.problems, self._data, self._times = data.problems, data, times
        endings = [""] if times == 1 else [f"-{number:02d}" for number in range(times)]
        self.names = tuple(name + ending for name in data.names for ending in endings)
        folders = [folder_name(name).lower() for name in self.names]
        if not self.names:
            raise InputError("Expected prompts, got none: check the file.")
        if len(set(folders)) < len(folders):
            twice = next(name for name, folder in zip(self.names, folders, strict=True) if folders.count(folder) > 1)
            raise InputError(f"Two prompts have the name {twice!r:.80}: give each its own.")

    def load(self, index: int) -> Sample:
        """One prompt.

        Raises:
            InputError: it is empty.
        """
        sample = self._data.load(index // self._times)
        if not sample.prompt.strip():
            raise InputError(f"The prompt {sample.name!r:.80} is empty: say what the image shows.")
        return dataclasses.replace(sample, name=self.names[index])


def whole_batches(engine: Engine) -> Engine:
    """The engine, which always works on whole batches of the data set, and makes the records of the wanted samples.

    So a sample has the same neighbours in every run, also where a run that was stopped goes on within a batch.
    """

    def run(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        wanted, size = set(indices), system.batch_size
        batches = dict.fromkeys(index // size for index in indices)
        every = [at for batch in batches for at in range(batch * size, min((batch + 1) * size, len(data.names)))]
        for rows in engine(data, system, every):
            by_batch = groupby(rows, lambda row: row["index"] // size)
            yield [row for _, batch in by_batch for row in _wanted(list(batch), wanted)]

    return run


def _wanted(rows: Sequence[Json], wanted: Collection[int]) -> list[Json]:
    """The wanted records of a batch; the first one has the costs of the batch."""
    kept = [row for row in rows if row["index"] in wanted]
    spent = [row[SPENT] for row in rows if SPENT in row]
    return [{**kept[0], SPENT: spent[0]}, *kept[1:]] if spent else kept


def refine_call(pipe: Any, config: Any, call: Mapping[str, Any]) -> Callable[..., list[RefinementResult]]:
    """The function that refines prompts together with a ``RefinedPipeline``; models that take one prompt get one.

    Args:
        pipe: the pipeline.
        config: settings of the loop.
        call: arguments of the call.
    """

    def refine(prompts: Sequence[str], seeds: Sequence[int]) -> list[RefinementResult]:
        given: Any = list(prompts) if len(prompts) > 1 else prompts[0]
        found: list[RefinementResult] = pipe(given, seed=list(seeds), config=config, **call).results
        return found

    return refine
