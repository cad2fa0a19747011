"""Conversations about the samples of a data set, with the answers that AnomReasonor learns (papers/anomreason.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from refiner.data.samples import DataSet, Sample
from refiner.detectors.anomreason.grammar import Anomaly, anomaly_of, write
from refiner.detectors.anomreason.notes import Note
from refiner.detectors.anomreason.question import IS_IT_GENERATED, asking, questions
from refiner.detectors.chat.images import shown_picture
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_format
from refiner.errors import InputError
from refiner.records import derive_seed
from refiner.training.anomreason.settings import AnomreasonSettings
from refiner.training.chat.lessons import Lessons
from refiner.types import Claim, Size

if TYPE_CHECKING:
    from datasets import Dataset


class Lesson(NamedTuple):
    """One image with the right answers."""

    name: str
    image: Image.Image
    """As the model sees it."""
    fake: bool
    anomalies: tuple[Anomaly, ...]
    realism: str
    """What makes a real image look real; "" if the data set does not say it."""


def note_of(settings: AnomreasonSettings, kind: str) -> Note:
    """How a chat model of a type is asked, and answers."""
    return Note(settings.format, box_format(kind) if settings.boxes else None, settings.max_side)


def lessons_of(
    data: DataSet, note: Note, tell: Callable[[str], None], rows: Sequence[int] | None = None
) -> Lessons[Lesson]:
    """The lessons of a data set for a model that answers as ``note`` says."""
    return Lessons(data, partial(lesson_of, note=note), tell, rows)


def lesson_of(sample: Sample, note: Note) -> Lesson:
    """The lesson of a sample.

    Raises:
        InputError: the sample has no image, or it is not known whether it is generated or what is wrong in it.
    """
    if sample.image is None:
        raise InputError(f"The sample {sample.name!r} has no image: leave it out.")
    claims = claims_of(sample)
    fake = bool(claims) if sample.fake is None else sample.fake
    if claims is None and (fake or sample.fake is None):
        raise InputError(f"The anomalies of the sample {sample.name!r} are not known: leave it out.")
    if claims and not fake:
        raise InputError(f"The sample {sample.name!r} is real and has anomalies: correct its verdict or them.")
    size = Size(sample.image.height, sample.image.width)
    picture = shown_picture(sample.image, note.max_side or max(size), note.boxes or BoxFormat())
    anomalies = tuple(anomaly_of(claim, size) for claim in claims or ())
    return Lesson(sample.name, picture, fake, anomalies, "" if fake else sample.caption)


def claims_of(sample: Sample) -> tuple[Claim, ...] | None:
    """The flaws of a sample in words, with boxes where its truth gives one for each; None if they are not known.

    Misalignments are left out, because the model does not see the prompt.
    """
    sample = sample.perceptual
    regions = () if sample.truth is None or not sample.itemised else sample.truth.regions
    words = sample.anomalies
    if words is None:
        if sample.truth is None or (sample.truth.regions and not sample.itemised):
            return None
        texts = ("name", "location", "explanation", "reasoning")
        return tuple(
            Claim(**{name: getattr(region, name) for name in texts}, severity=region.severity, box=region.box)
            for region in regions
        )
    if len(words) != len(regions):
        return words
    return tuple(
        Claim(**{**vars(claim), "box": claim.box or region.box}) for claim, region in zip(words, regions, strict=True)
    )


def supervised(lessons: Lessons[Lesson], note: Note, variants: int) -> Dataset:
    """Rows for trl's SFTTrainer: ``images``, ``prompt`` and ``completion``; each lesson in all of its turns."""
    return lessons.dataset(lambda lesson, turn: row_of(lesson, note, turn), times=turns(note, variants))


def turns(note: Note, variants: int) -> int:
    """Rows of a lesson: one for each variant of the question, and twice as many in ``authenticity_reasoning``."""
    return variants if note.form == "anomaly_only" else 2 * variants


def row_of(lesson: Lesson, note: Note, turn: int) -> dict[str, Any]:
    """The row of a turn.

    In ``authenticity_reasoning``, even turns teach the first answer, odd ones the second, after the right first answer.
    """
    if note.form == "anomaly_only":
        return _listing(lesson, note, _variant(lesson, turn))
    return _second(lesson, note, _variant(lesson, turn // 2)) if turn % 2 else _first(lesson)


def _variant(lesson: Lesson, turn: int) -> int:
    """Index of the question. Images begin with different ones."""
    return (derive_seed("variant", lesson.name) + turn) % len(questions())


def _row(lesson: Lesson, asked: Sequence[str], answer: str) -> dict[str, Any]:
    """``asked``: question, answer, question, ..."""
    roles = ("user", "assistant")
    prompt = [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(asked)]
    return {"images": [lesson.image], "prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


def _first(lesson: Lesson) -> dict[str, Any]:
    return _row(lesson, [IS_IT_GENERATED], _verdict(lesson))


def _second(lesson: Lesson, note: Note, variant: int) -> dict[str, Any]:
    question = asking(lesson.image, note.form, note.boxes, variant)
    asked = [IS_IT_GENERATED, _verdict(lesson), question]
    return _row(lesson, asked, lesson.realism or _list(lesson, note))


def _listing(lesson: Lesson, note: Note, variant: int) -> dict[str, Any]:
    return _row(lesson, [asking(lesson.image, note.form, note.boxes, variant)], _list(lesson, note))


def _verdict(lesson: Lesson) -> str:
    return "Yes" if lesson.fake else "No"


def _list(lesson: Lesson, note: Note) -> str:
    return write(lesson.anomalies, form=note.boxes, shown=Size(lesson.image.height, lesson.image.width))
