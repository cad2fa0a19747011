"""What models return, checked: what cannot be used becomes an error on the attempt, and spoils nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from PIL import Image

from refiner.errors import BadAnswerError, BadImageError
from refiner.pipelines.painting.out_of_memory import first_line, is_out_of_memory, make_room
from refiner.pipelines.selection import Look
from refiner.protocols import InpaintJob, Judge
from refiner.types import Analysis

T = TypeVar("T")


def each_answer(
    ask: Callable[[Sequence[Image.Image], Sequence[str]], list[T]],
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    recorded: tuple[type[Exception], ...],
) -> list[T | Exception]:
    """An answer about each picture, or what went wrong with it; they are asked about one by one where all fail."""
    try:
        return [*ask(images, prompts)]
    except Exception as error:
        if not isinstance(error, recorded) and not is_out_of_memory(error):
            raise
        if len(images) == 1:
            return [error]
        ran_out = is_out_of_memory(error)
    if ran_out:
        make_room()
    return [
        answer
        for image, prompt in zip(images, prompts, strict=True)
        for answer in each_answer(ask, [image], [prompt], recorded)
    ]


def scored(judge: Judge) -> Callable[[Sequence[Image.Image], Sequence[str]], list[float]]:
    """A judge that raises ``BadAnswerError`` unless it gives each picture a finite score."""

    def ask(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        scores = judge.score(images, prompts)
        if len(scores) != len(images) or not all(map(math.isfinite, scores)):
            raise BadAnswerError(f"Expected {len(images)} finite scores of {judge.name}, got {scores!r:.80}.")
        return scores

    return ask


def as_look(image: Image.Image, answer: Analysis | Exception, scores: Sequence[float | Exception]) -> Look:
    """What detector and judges said of a picture, or why not."""
    errors = [each for each in (answer, *scores) if isinstance(each, Exception)]
    known = tuple(score for score in scores if not isinstance(score, Exception))
    return Look(
        image=image,
        analysis=None if isinstance(answer, Exception) else answer,
        scores=known if len(known) == len(scores) else (),
        error=" ".join(first_line(each) if is_out_of_memory(each) else str(each) for each in errors) or None,
    )


def one_picture(pictures: Sequence[Image.Image]) -> Image.Image:
    """The one picture of a generator."""
    if len(pictures) != 1:
        raise BadImageError(f"Expected 1 picture from the generator, got {len(pictures)}.")
    picture = pictures[0]
    if not isinstance(picture, Image.Image) or picture.mode != "RGB":
        raise BadImageError(f"Expected an RGB picture from the generator, got {picture!r:.80}.")
    return picture


def checked(pictures: Sequence[Image.Image], jobs: Sequence[InpaintJob]) -> Sequence[Image.Image]:
    """Pictures of an inpainter, one for each job, of its size and mode."""
    if len(pictures) != len(jobs):
        raise BadImageError(f"Expected {len(jobs)} pictures from the inpainter, got {len(pictures)}.")
    for picture, job in zip(pictures, jobs, strict=True):
        if picture.size != job.image.size or picture.mode != "RGB":
            raise BadImageError(
                f"Expected an RGB picture of {job.image.size} from the inpainter, got {picture.mode} of {picture.size}."
            )
    return pictures
