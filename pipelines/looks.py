"""Checks of what models return: an unusable answer becomes an error of its attempt and affects no other image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from PIL import Image

from refiner.answers import outcomes, score_outcomes
from refiner.errors import BadImageError, RefinerError
from refiner.pipelines.painting.out_of_memory import NoMemoryError, with_memory
from refiner.pipelines.selection import Look
from refiner.protocols import Detector, InpaintJob, Judge
from refiner.types import Analysis, Score

T = TypeVar("T")


def each_answer(
    ask: Callable[[Sequence[Image.Image], Sequence[str]], list[T]],
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    recorded: tuple[type[Exception], ...],
) -> list[T | Exception]:
    """Get an answer or an exception for each of N images. If the call for all images fails, they are tried one by one.

    ``recorded`` exceptions are returned instead of raised; a lack of memory is always returned.
    """
    returned: tuple[type[Exception], ...] = (NoMemoryError, *recorded)
    try:
        return [*with_memory(ask, images, prompts)]
    except returned as error:
        if len(images) == 1:
            return [error]
    return [
        answer
        for image, prompt in zip(images, prompts, strict=True)
        for answer in each_answer(ask, [image], [prompt], recorded)
    ]


def each_analysis(
    detector: Detector,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    recorded: tuple[type[Exception], ...],
) -> list[Analysis | Exception]:
    """As ``each_answer``, for a detector; one that fails on single images is not asked again about the others."""
    return _each_outcome(partial(outcomes, detector), images, prompts, recorded)


def each_score(
    judge: Judge, images: Sequence[Image.Image], prompts: Sequence[str], recorded: tuple[type[Exception], ...]
) -> list[float | Exception]:
    """As ``each_analysis``, for a judge."""
    return _each_outcome(partial(score_outcomes, judge), images, prompts, recorded)


def _each_outcome(
    ask: Callable[[Sequence[Image.Image], Sequence[str]], Sequence[T | Exception]],
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    recorded: tuple[type[Exception], ...],
) -> list[T | Exception]:
    def outcomes_of(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[T | Exception]:
        found = [*ask(images, prompts)]
        for outcome in found:
            if isinstance(outcome, Exception) and not isinstance(outcome, recorded):
                raise outcome
        return found

    return each_answer(outcomes_of, images, prompts, recorded)


def as_look(image: Image.Image, answer: Analysis | Exception, scores: Sequence[float | Exception]) -> Look:
    """Combine the analysis and the scores of an image, or the errors that came instead."""
    errors = [each for each in (answer, *scores) if isinstance(each, Exception)]
    known = tuple(score for score in scores if not isinstance(score, Exception))
    return Look(
        image=image,
        analysis=None if isinstance(answer, Exception) else answer,
        scores=known if len(known) == len(scores) else (),
        error=" ".join(map(told, errors)) or None,
    )


def named_scores(look: Look, judges: Sequence[Judge]) -> tuple[Score, ...]:
    """The scores of an image with the names of the judges; empty if it was not judged."""
    names = [judge.name for judge in judges] if look.scores else []
    return tuple(Score(name=name, value=value) for name, value in zip(names, look.scores, strict=True))


def told(error: Exception) -> str:
    """Describe an exception for the record; one that is not refiner's gets the name of its type."""
    if isinstance(error, RefinerError | NoMemoryError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def one_picture(pictures: Sequence[Image.Image]) -> Image.Image:
    """Check that a generator returned exactly one RGB image, and return it."""
    if len(pictures) != 1:
        raise BadImageError(f"The generator returned {len(pictures)} images instead of 1: check the generator.")
    picture = pictures[0]
    if not isinstance(picture, Image.Image) or picture.mode != "RGB":
        raise BadImageError(f"The generator returned {picture!r:.80} instead of an RGB image: check the generator.")
    return picture


def checked(pictures: Sequence[Image.Image], jobs: Sequence[InpaintJob]) -> Sequence[Image.Image]:
    """Check that an inpainter returned one RGB image for each job, of the size of the job's image."""
    if len(pictures) != len(jobs):
        raise BadImageError(f"The inpainter returned {len(pictures)} images for {len(jobs)} jobs: check the inpainter.")
    for picture, job in zip(pictures, jobs, strict=True):
        if picture.size != job.image.size or picture.mode != "RGB":
            raise BadImageError(
                f"The inpainter returned an image of mode {picture.mode} and size {picture.size} instead of RGB and "
                f"{job.image.size}: check the inpainter."
            )
    return pictures
