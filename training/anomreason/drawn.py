"""What the bundled model learns: AnomReasonor's answers and the exchanges of AnomAgent about the same drawn images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from refiner.data.samples import Sample
from refiner.detectors.anomreason.notes import Note
from refiner.training.anomreason.exchanges import TURNS, Study, exchange, study_of
from refiner.training.anomreason.lessons import Lesson, lesson_of, row_of, turns
from refiner.training.anomreason.words import REALISM
from refiner.training.chat.lessons import Lessons
from refiner.training.world.injected import InjectedData
from refiner.types import Region

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERS = 8
"""Rows of AnomReasonor's answers about each image, beside ``len(TURNS)`` rows of the agent's exchanges."""


class Drawn(NamedTuple):
    """A drawn image in both forms."""

    lesson: Lesson
    study: Study


def drawn_rows(count: int, note: Note, variants: int, tell: Callable[[str], None]) -> Dataset:
    """Rows for trl's SFTTrainer about ``count`` drawn images."""
    return Lessons(InjectedData(count), partial(drawn_of, note=note), tell).dataset(
        partial(_row, note=note, variants=variants), times=ANSWERS + len(TURNS)
    )


def drawn_of(sample: Sample, note: Note) -> Drawn:
    """A drawn image with its flaws from the top to the bottom.

    Raises:
        InputError: it has no image or no truth.
    """
    if sample.truth is not None:
        truth = replace(sample.truth, regions=tuple(sorted(sample.truth.regions, key=_place)))
        sample = replace(sample, truth=truth, caption=REALISM)
    return Drawn(lesson_of(sample, note), study_of(sample))


def _place(region: Region) -> tuple[int, int]:
    return (0, 0) if region.box is None else (region.box[1], region.box[0])


def _row(drawn: Drawn, turn: int, note: Note, variants: int) -> dict[str, Any]:
    if turn < ANSWERS:
        return row_of(drawn.lesson, note, turn % turns(note, variants))
    question, answer = exchange(drawn.study, turn - ANSWERS)
    prompt = [{"role": "system", "content": question.system}, {"role": "user", "content": question.text}]
    completion = [{"role": "assistant", "content": answer}]
    return {"images": list(question.images), "prompt": prompt, "completion": completion}
