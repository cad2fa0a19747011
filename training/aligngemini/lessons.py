"""Questions about the samples of a data set, with the right answer and a wrong one, as trl's trainers take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from refiner.data.samples import DataSet, Sample
from refiner.detectors.aligngemini.grammar import write
from refiner.detectors.aligngemini.question import asking
from refiner.detectors.chat.images import shown_picture
from refiner.detectors.fakexplain.grammar import Answer
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import InputError
from refiner.records import derive_seed
from refiner.training.aligngemini.cues import destroyed
from refiner.training.chat.lessons import Lessons
from refiner.training.chat.truths import truth_of
from refiner.types import Size

if TYPE_CHECKING:
    from datasets import Dataset

_TRIES = 64
"""Samples that are searched for the reasons of a wrong answer."""


class Style(NamedTuple):
    """How a model is asked, and how it answers."""

    form: BoxFormat
    max_side: int
    """Longest side of the images, in pixels."""
    blur: float
    """How strongly pixel cues are destroyed."""


class Lesson(NamedTuple):
    """One image with the right answer."""

    name: str
    image: Image.Image
    """As the model sees it, with its pixel cues destroyed."""
    question: str
    truth: Answer
    answer: str
    """The truth, written as the model should write it."""


def lessons_of(
    data: DataSet, style: Style, tell: Callable[[str], None], rows: Sequence[int] | None = None
) -> Lessons[Lesson]:
    """The lessons of a data set in a style."""
    return Lessons(data, partial(lesson_of, style=style), tell, rows)


def lesson_of(sample: Sample, style: Style) -> Lesson:
    """The lesson of a sample. A generated image whose flaws are not known teaches its verdict alone.

    Raises:
        InputError: the sample has no image, or it is not known whether it is generated.
    """
    if sample.image is None:
        raise InputError(f"The sample {sample.name!r} has no image: leave it out.")
    truth = Answer((), (), True) if sample.fake and sample.truth is None else truth_of(sample)
    picture = destroyed(shown_picture(sample.image, style.max_side, style.form), sample.name, style.blur)
    shown = Size(picture.height, picture.width)
    answer = write(truth, form=style.form, shown=shown)
    return Lesson(sample.name, picture, asking(picture, style.form).user, truth, answer)


def supervised(lessons: Lessons[Lesson]) -> Dataset:
    """Rows for trl's SFTTrainer: ``images``, ``prompt`` and ``completion``."""
    return lessons.dataset(
        lambda lesson, _: {
            "images": [lesson.image],
            "prompt": [{"role": "user", "content": lesson.question}],
            "completion": [{"role": "assistant", "content": lesson.answer}],
        }
    )


def preferred(lessons: Lessons[Lesson], style: Style) -> Dataset:
    """Rows for trl's DPOTrainer: ``images``, ``prompt``, ``chosen`` (the right answer) and ``rejected``."""
    return lessons.dataset(
        lambda lesson, _: {
            "images": [lesson.image],
            "prompt": [{"role": "user", "content": lesson.question}],
            "chosen": [{"role": "assistant", "content": lesson.answer}],
            "rejected": [{"role": "assistant", "content": wrong_answer(lesson, lessons, style)}],
        }
    )


def wrong_answer(lesson: Lesson, lessons: Lessons[Lesson], style: Style) -> str:
    """An answer with the wrong verdict; about a real image, with the reasons of another, generated one.

    Re-implementations of the paper let a large model argue for a wrong verdict. Here the reasons are true elsewhere, so
    that no other model is needed.
    """
    if lesson.truth.fake:
        return write(Answer((), (), False), form=style.form, shown=Size(1, 1))
    start, count = derive_seed("wrong", lesson.name), len(lessons)
    others = (lessons[(start + step) % count].truth for step in range(min(_TRIES, count)))
    flaws = next((other.flaws for other in others if other.flaws), ())
    shown = Size(lesson.image.height, lesson.image.width)
    return write(Answer(flaws, (), True), form=style.form, shown=shown)
