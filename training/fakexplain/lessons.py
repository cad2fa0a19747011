"""Questions and right answers about the samples of a data set, as trl's trainers take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from refiner.data.problems import UnusableError
from refiner.data.samples import DataSet, Sample
from refiner.data.writing.entries import entry_of
from refiner.detectors.chat.images import shown_picture
from refiner.detectors.fakexplain.grammar import (
    MAX_REGIONS,
    Answer,
    Content,
    Dialect,
    Flaw,
    find_dialect,
    write,
)
from refiner.detectors.fakexplain.question import asking
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.shares import shares_of
from refiner.detectors.vlm.questions import box_format
from refiner.errors import InputError
from refiner.files import Json
from refiner.training.chat.lessons import Lessons
from refiner.training.fakexplain.settings import FakexplainSettings
from refiner.types import Size

if TYPE_CHECKING:
    from datasets import Dataset


class Style(NamedTuple):
    """How a model is asked, and how it answers."""

    dialect: Dialect
    form: BoxFormat
    content: Content
    max_side: int
    """Longest side of the images, in pixels."""

    @property
    def note(self) -> Json:
        """What a model's folder says about how it answers."""
        boxes = {"scale": self.form.scale, "order": self.form.order}
        return {"dialect": self.dialect.name, "boxes": boxes, "max_side": self.max_side}


def style_of(settings: FakexplainSettings, kind: str) -> Style:
    """How a chat model of a type is asked, and answers."""
    dialect = find_dialect(settings.dialect)
    form = BoxFormat() if dialect.name == "internvl" else box_format(kind)
    return Style(dialect, form, settings.content, settings.max_side)


class Lesson(NamedTuple):
    """One image with the right answer."""

    name: str
    image: Image.Image
    """As the model sees it."""
    question: str
    truth: Answer
    answer: str
    """The truth, written as the model should write it."""


def supervised(lessons: Lessons[Lesson]) -> Dataset:
    """Rows for trl's SFTTrainer: ``images``, ``prompt`` and ``completion``."""
    return lessons.dataset(
        lambda lesson, _: {
            "images": [lesson.image],
            "prompt": [{"role": "user", "content": lesson.question}],
            "completion": [{"role": "assistant", "content": lesson.answer}],
        }
    )


def reinforced(lessons: Lessons[Lesson]) -> Dataset:
    """Rows for trl's GRPOTrainer: ``image`` and ``prompt``, and what the rewards need.

    ``boxes``: float (N, 4) in shares of the sides. ``fake``: bool. ``shown``: height and width in pixels.
    """
    return lessons.dataset(
        lambda lesson, _: {
            "image": lesson.image,
            "prompt": [{"role": "user", "content": lesson.question}],
            "boxes": lesson.truth.boxes,
            "fake": lesson.truth.fake,
            "shown": (lesson.image.height, lesson.image.width),
        }
    )


def lessons_of(
    data: DataSet, style: Style, tell: Callable[[str], None], rows: Sequence[int] | None = None
) -> Lessons[Lesson]:
    """The lessons of a data set in a style."""
    return Lessons(data, partial(lesson_of, style=style), tell, rows)


def lesson_of(sample: Sample, style: Style) -> Lesson:
    """The lesson of a sample.

    Raises:
        InputError: the sample has no image, or its truth is not known.
    """
    if sample.image is None:
        raise InputError(f"The sample {sample.name!r} has no image: leave it out.")
    picture = shown_picture(sample.image, style.max_side, style.form)
    truth = style.content.of(truth_of(sample))
    shown = Size(picture.height, picture.width)
    return Lesson(
        name=sample.name,
        image=picture,
        question=asking(picture, style.dialect, style.form).user,
        truth=truth,
        answer=write(truth, style.dialect, form=style.form, shown=shown),
    )


def truth_of(sample: Sample) -> Answer:
    """The right answer about a sample.

    The tags are those of the truth. Without them, they are the categories of its flaws, if the data set gives them. A
    flaw whose place is not known is left out; of a joined mask, each connected part is a flaw. Misalignments are left
    out, because the model does not see the prompt.

    Raises:
        InputError: it is not known whether the image is generated, or which flaws a generated image has, or a real
            image has flaws.
    """
    sample, size = sample.perceptual, _size_of(sample)
    try:
        entry = entry_of(sample, "", size, lambda _kind, _detail: None)
    except UnusableError as error:
        raise InputError(f"The truth of the sample {sample.name!r} cannot be used ({error}): correct it.") from error
    if entry.fake and sample.truth is None:
        raise InputError(f"The flaws of the sample {sample.name!r} are not known: leave it out.")
    categories = {str(flaw.category) for flaw in entry.flaws if flaw.category is not None}
    flaws = [Flaw(_described(flaw.name, flaw.description), shares_of(flaw.box, size)) for flaw in entry.flaws]
    return Answer(flaws=tuple(flaws[:MAX_REGIONS]), tags=entry.tags or tuple(sorted(categories)), fake=entry.fake)


def _size_of(sample: Sample) -> Size:
    if sample.truth is not None:
        return sample.truth.size
    return Size(1, 1) if sample.image is None else Size(sample.image.height, sample.image.width)


def _described(name: str, words: str) -> str:
    """What is wrong, in words, with the name of the region before it if there is one."""
    return f"{name}: {words}" if name and name != words else words
