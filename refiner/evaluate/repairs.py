"""Repairs in the records of ``refiner refine`` and ``refiner evaluate refinement``, compared with one another.

A repair is compared with the image that it was made from, and an accepted one also with the rejected repairs of the
same image. Only what was verified counts: an image that could not be generated, analysed or judged is in no pair, and a
run that verifies nothing (``keep="last"``) gives none. In a pair, neither the burden nor a judge's score of the chosen
image is worse, and one of them is better by more than the margin of the run, as in the loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from refiner.data.fields import is_finite, is_inside
from refiner.data.problems import Problem
from refiner.data.writing.pairs import Comparison, Tried
from refiner.errors import InputError
from refiner.evaluate.harness import RUN_FILE, open_run
from refiner.files import Json
from refiner.records import analysis_from_dict

_MOST_BYTES: Final = 256_000_000
"""Of one run record."""
_STARTS: Final = ("generate", "given")
"""Actions that make a start image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """One attempt: whether it was accepted, and its image if that was verified."""

    accepted: bool
    tried: Tried | None = None
    missing: str = ""
    """Name of its file, if that is not there any more."""


@dataclass(frozen=True, kw_only=True)
class _Margins:
    """Burden and score count as better if they improve by more than this."""

    burden: float = 0.0
    score: float = 0.0


def find_runs(places: Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Name and folder of each run in folders, at any depth, or of run records given as files; sorted, each once.

    Raises:
        InputError: there is no such file or folder, or no run in it.
    """
    found: dict[Path, str] = {}
    for place in map(Path, places):
        folder = place.parent if place.is_file() and place.name == RUN_FILE else place
        if not folder.is_dir():
            raise InputError(f"{str(place)!r} is no folder and no {RUN_FILE}: check the path.")
        files = [folder / RUN_FILE] if place.is_file() else sorted(folder.rglob(RUN_FILE))
        if not files:
            raise InputError(
                f"{str(place)!r} holds no {RUN_FILE}: name the folder that refiner refine or refiner evaluate "
                "refinement wrote."
            )
        for file in files:
            inner = file.parent.relative_to(folder).as_posix()
            name = folder.resolve().name if inner == "." else f"{folder.resolve().name}/{inner}"
            found.setdefault(file.parent.resolve(), name)
    return [(name, folder) for folder, name in found.items()]


def comparisons(runs: Iterable[tuple[str, Path]], problems: list[Problem]) -> Iterator[Comparison]:
    """The pairs of runs, run by run; one run record, or one record of an evaluation, is in memory at a time.

    Args:
        runs: name and folder of each.
        problems: gets what is left out: ``unreadable_record``, ``failed`` (an evaluation has no answer),
            ``missing_image``, ``other_run`` (of another task) and ``not_verified`` (a run that verifies nothing, or a
            record of an earlier version that does not say).
    """
    for name, folder in runs:
        try:
            document = _document(folder / RUN_FILE)
            if "attempts" in document:
                yield from _of_result(document, name, folder, problems)
            elif document.get("task") == "refinement":
                yield from _of_evaluation(name, folder, problems)
            else:
                problems.append(Problem("other_run", name, "", "no run of a refinement; left out"))
        except InputError as error:
            problems.append(Problem("unreadable_record", name, "", str(error)))


def _document(path: Path) -> Json:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The record cannot be read ({error!r:.120}): run it again.") from error
    return document


def _of_result(document: Json, name: str, folder: Path, problems: list[Problem]) -> Iterator[Comparison]:
    """The pairs of a run of ``refiner refine``."""
    if document.get("verified") is not True:
        problems.append(Problem("not_verified", name, "", "this run does not say that it was verified; left out"))
        return
    try:
        steps = [_attempt(row, folder) for row in document["attempts"]]
        for missing in (step.missing for step in steps if step.missing):
            problems.append(Problem("missing_image", name, missing, "its attempt is in no pair"))
        config = document["settings"].get("config", {})
        margins = _Margins(burden=config.get("min_burden_drop", 0.0), score=config.get("min_score_gain", 0.0))
        if not all(map(is_finite, vars(margins).values())):
            raise ValueError(f"the margins {margins}")
        prompt = _text(document["prompt"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"The record is not that of a refinement ({error!r:.120}): run it again.") from error
    yield from _compared(steps, prompt, name, margins)


def _attempt(row: Mapping[str, Any], folder: Path) -> _Step:
    index, accepted = row["index"], row["accepted"]
    if type(index) is not int or index < 0 or type(accepted) is not bool:
        raise ValueError(f"attempt {index!r:.20}, accepted {accepted!r:.20}")
    scores, picture = row["scores"], folder / f"attempt-{index:02d}.png"
    if row["error"] is not None or row["analysis"] is None or not all(map(is_finite, scores.values())):
        return _Step(accepted=accepted)
    if not picture.is_file():
        return _Step(accepted=accepted, missing=picture.name)
    analysis = analysis_from_dict(row["analysis"])
    return _Step(
        accepted=accepted,
        tried=Tried(index=index, action=_text(row["action"]), picture=picture, analysis=analysis, scores=dict(scores)),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r:.40}")
    return value


def _of_evaluation(name: str, folder: Path, problems: list[Problem]) -> Iterator[Comparison]:
    """The pairs of a run of ``refiner evaluate refinement``, whose records have the start, best and last image."""
    run = open_run(folder)
    judge = run.description["system"].get("judge")
    for record in run.records:
        where = f"record {record['index']}"
        if record["error"] is not None:
            problems.append(Problem("failed", name, where, "it has no answer; left out"))
            continue
        try:
            answer, prompt = record["answer"], _text(record["prompt"])
            if answer.get("verified") is not True:
                problems.append(Problem("not_verified", name, where, "it does not say that it was verified; left out"))
                continue
            steps = list(_looks(answer, folder, judge))
        except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
            problems.append(Problem("unreadable_record", name, where, f"{error!r:.200}"))
            continue
        yield from _compared(steps, prompt, f"{name}: {record['name']}", _Margins())


def _looks(answer: Mapping[str, Any], folder: Path, judge: Any) -> Iterator[_Step]:
    best = answer["best"]["attempt"]
    rows = {look["attempt"]: look for look in (answer[key] for key in ("before", "best", "last"))}
    for index, look in sorted(rows.items()):
        picture = _text(look["picture"])
        if not is_inside(picture):
            raise ValueError(f"the path {picture!r:.60}")
        score = look["score"]
        scores = {str(judge): score} if is_finite(score) else {}
        tried = Tried(
            index=index,
            action=_text(look["action"]),
            picture=folder / picture,
            analysis=analysis_from_dict(look["analysis"]),
            scores=scores,
        )
        yield _Step(accepted=index in (min(rows), best), tried=tried if look["error"] is None else None)


def _compared(steps: Sequence[_Step], prompt: str, run: str, margins: _Margins) -> Iterator[Comparison]:
    """The pairs of one refinement. The image that a repair was made from is the last one accepted before it."""
    if not prompt.strip():
        return

    def pair(later: Tried, chosen: Tried, rejected: Tried) -> Iterator[Comparison]:
        if _prefers(chosen, rejected, margins):
            yield Comparison(prompt=prompt, run=run, action=later.action, chosen=chosen, rejected=rejected)

    source = steps[0].tried if steps else None
    rejected: list[Tried] = []
    for step in steps[1:]:
        tried = step.tried
        if tried is not None and tried.action not in _STARTS and source is not None:
            if step.accepted:
                yield from pair(tried, tried, source)
                for other in rejected:
                    yield from pair(tried, tried, other)
            else:
                yield from pair(tried, source, tried)
                rejected.append(tried)
        if step.accepted:
            source, rejected = tried, []


def _prefers(first: Tried, second: Tried, margins: _Margins) -> bool:
    """Whether the detector and all judges prefer the first image; False if one of them judged only a part."""
    if first.scores.keys() != second.scores.keys() or first.analysis.detector != second.analysis.detector:
        return False
    if first.analysis.gaps or second.analysis.gaps:
        return False
    drop = second.analysis.burden - first.analysis.burden
    gains = [score - second.scores[name] for name, score in first.scores.items()]
    if drop < 0 or any(gain < 0 for gain in gains):
        return False
    return drop > margins.burden or any(gain > margins.score for gain in gains)
