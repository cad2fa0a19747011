"""Ask detectors and judges, and check what they answer.

A detector should answer with an ``Analysis``. Simpler answers are read too, so that a short function can be a detector:
an iterable of flaws, empty for a clean image. A flaw is a ``Region``, a ``Claim``, or a mapping with these keys:

- ``name``: a short text, such as "the left hand"; also spelt ``label``.
- ``box``: four numbers (x0, y0, x1, y1) in pixels, or a mapping with ``xmin``, ``ymin``, ``xmax``, ``ymax``; rounded
  outwards to whole pixels and clipped to the image, in which at least half of it must lie.
- ``mask``: (H, W) of the image, bool or of the values 0 and 1, or 0 and 255. An empty mask without a box is no flaw.
- ``category``: a ``Category`` or its name; ``severity`` and ``score``: in [0, 1]; ``location``, ``explanation`` and
  ``reasoning``: texts.

Numbers, boxes and masks may be sequences, arrays, tensors or images. What is missing or None gets the values of
``refiner.claims.region_of``. So the lists that transformers' object detection pipelines return are answers, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.claims import region_of
from refiner.errors import BadAnswerError, InputError, ModelError, RefinerError
from refiner.masks import clip_box
from refiner.protocols import Detector, Judge, Opinion, Sorting, Streaming
from refiner.types import Analysis, Box, Claim, Mask, Region, Size

T = TypeVar("T")

_TEXTS = ("name", "location", "explanation", "reasoning")
_NUMBERS = ("severity", "score")
_KEYS = (*_TEXTS, *_NUMBERS, "category", "box", "mask", "label")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_KINDS = "biuf"
"""Kinds of numpy's dtypes that are numbers."""


def analyses(detector: Detector, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
    """Analyse images with a detector, and check its answers.

    Raises:
        BadAnswerError: an answer is missing, or cannot be used; the message names the detector.
    """
    return read_analyses(detector.batch(images, prompts), images, detector.name)


def outcomes(
    detector: Detector, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
) -> list[Analysis | RefinerError]:
    """Analyse images as ``analyses`` does, but with the error of each image that failed instead of its analysis.

    A detector that fails on a batch gets its images one by one, unless it is ``Sorting``.
    """
    try:
        if isinstance(detector, Sorting):
            found = detector.outcomes(images, prompts)
            return [
                answer if isinstance(answer, RefinerError) else _read(answer, image, detector.name)
                for answer, image in zip(found, images, strict=True)
            ]
        return [*analyses(detector, images, prompts)]
    except (ModelError, InputError) as error:
        if len(images) == 1:
            return [error]
    return [
        outcome
        for place, image in enumerate(images)
        for outcome in outcomes(detector, [image], None if prompts is None else [prompts[place]])
    ]


def prompted_outcomes(
    detector: Detector, images: Sequence[Image.Image], prompts: Sequence[str]
) -> list[Analysis | RefinerError]:
    """Analyse images as ``outcomes`` does, some of which have no prompt (""); the others keep theirs.

    A detector takes either a prompt for each image, or none, so the two kinds of images are asked about apart.
    """
    found: dict[int, Analysis | RefinerError] = {}
    for prompted in (True, False):
        chosen = [at for at, prompt in enumerate(prompts) if bool(prompt) is prompted]
        if chosen:
            given = [prompts[at] for at in chosen] if prompted else None
            found |= zip(chosen, outcomes(detector, [images[at] for at in chosen], given), strict=True)
    return [found[at] for at in range(len(prompts))]


def _read(answer: object, image: Image.Image, name: str) -> Analysis | RefinerError:
    try:
        return read_analysis(answer, image, name)
    except BadAnswerError as error:
        return error


def value_of(outcome: T | RefinerError) -> T:
    """Return the value of an outcome, or raise its error."""
    if isinstance(outcome, RefinerError):
        raise outcome
    return outcome


def scores(judge: Judge, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
    """Score images with a judge, and check its scores.

    Raises:
        BadAnswerError: there is not one finite score for each image; the message names the judge.
    """
    found = read_scores(judge.score(images, prompts), images, judge.name)
    if not all(map(math.isfinite, found)):
        raise _not_scores(judge.name, found, images)
    return found


def score_outcomes(judge: Judge, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | RefinerError]:
    """Score images as ``scores`` does, but with the error of each image that failed instead of its score.

    A judge that fails on a batch gets its images one by one, unless it is ``Streaming``.

    Raises:
        BadAnswerError: a ``Streaming`` judge has not one opinion for each image.
    """
    if isinstance(judge, Streaming):
        found = list(judge.stream(images, prompts))
        if len(found) != len(images):
            raise _not_scores(judge.name, found, images)
        return [_score(opinion, image, judge.name) for opinion, image in zip(found, images, strict=True)]
    try:
        return [*scores(judge, images, prompts)]
    except (ModelError, InputError) as error:
        if len(images) == 1:
            return [error]
    return [
        outcome
        for image, prompt in zip(images, prompts, strict=True)
        for outcome in score_outcomes(judge, [image], [prompt])
    ]


def _score(opinion: Opinion, image: Image.Image, name: str) -> float | RefinerError:
    if opinion.error is not None:
        return opinion.error
    score = _number(opinion.score)
    return _not_scores(name, [opinion.score], [image]) if score is None or not math.isfinite(score) else score


def read_scores(answer: object, images: Sequence[Image.Image], name: str) -> list[float]:
    """Read the scores of the judge ``name``, which may be NaN: a sequence, array or tensor (N,) for N images.

    Raises:
        BadAnswerError: there is not one number for each image; the message names the judge.
    """
    found = [_number(each) for each in answer] if isinstance(answer, Iterable) else []
    known = [score for score in found if score is not None]
    if len(known) != len(found) or len(found) != len(images):
        raise _not_scores(name, answer, images)
    return known


def _not_scores(name: str, answer: object, images: Sequence[Image.Image]) -> BadAnswerError:
    return BadAnswerError(
        f"The judge {name} returned {_short(answer)} instead of {len(images)} finite scores: check the judge."
    )


def read_analyses(answers: object, images: Sequence[Image.Image], name: str) -> list[Analysis]:
    """Read the answers of the detector ``name`` for several images; see ``read_analysis``."""
    with blaming(name):
        found = list(answers) if isinstance(answers, Iterable) else None
        if found is None or len(found) != len(images):
            got = _told(answers) if found is None else len(found)
            raise BadAnswerError(f"Expected one analysis for each of {len(images)} images, got {got}.")
    return [read_analysis(answer, image, name) for answer, image in zip(found, images, strict=True)]


def read_analysis(answer: object, image: Image.Image, name: str) -> Analysis:
    """Read the answer of the detector ``name`` for an image; the module says which answers there are.

    Raises:
        BadAnswerError: the answer cannot be used; the message names the detector.
    """
    size = Size(image.height, image.width)
    with blaming(name):
        if isinstance(answer, Analysis):
            if answer.size != size:
                raise BadAnswerError(f"It is an analysis of {answer.size} for an image of {size}.")
            return answer
        if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
            raise BadAnswerError(
                f"Expected an Analysis or a list of flaws for each image, got {_told(answer)}: return [] if there is "
                "no flaw."
            )
        found = [_region(flaw, size) for flaw in answer]
        return Analysis(size=size, regions=tuple(region for region in found if region is not None), detector=name)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Name the detector in a ``BadAnswerError``."""
    try:
        yield
    except BadAnswerError as error:
        raise BadAnswerError(f"The answer of the detector {name} cannot be used. {error}") from error


def _region(flaw: object, size: Size) -> Region | None:
    if isinstance(flaw, Region):
        return flaw
    if isinstance(flaw, Claim):
        return region_of(flaw, None, size)
    if not isinstance(flaw, Mapping):
        raise BadAnswerError(f"A flaw must be a Region or a dict, got {_told(flaw)}.")
    given = _given(flaw)
    fields: dict[str, Any] = {key: _text(key, given[key]) for key in _TEXTS if key in given}
    fields |= {key: _share(key, given[key]) for key in _NUMBERS if key in given}
    mask = _mask(given["mask"], size) if "mask" in given else None
    box = _box(given["box"], size) if "box" in given else None
    if mask is not None and not mask.any():
        if box is None:
            return None
        mask = None
    return region_of(Claim(**fields, category=given.get("category"), box=box), mask, size)


def _given(flaw: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a flaw that are not None, with a name, after checking their keys."""
    given = {key: value for key, value in flaw.items() if value is not None}
    unknown = next((key for key in given if key not in _KEYS), None)
    if unknown is not None:
        near = get_close_matches(str(unknown), _KEYS, n=1)
        hint = f"write {near[0]!r}" if near else "leave it out"
        raise BadAnswerError(f"A flaw has the keys {', '.join(_KEYS)}, not {unknown!r}: {hint}.")
    label = given.pop("label", "")
    given.setdefault("name", label)
    if isinstance(given["name"], str) and not given["name"].strip():
        raise BadAnswerError("A flaw must have a name, such as 'the left hand': add one.")
    return given


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadAnswerError(f"The {key} of a flaw must be a text, got {_told(value)}.")
    return value


def _share(key: str, value: object) -> float:
    number = _number(value)
    if number is None:
        raise BadAnswerError(f"The {key} of a flaw must be a number in [0, 1], got {_told(value)}.")
    return number


def _number(value: object) -> float | None:
    """Return a number, also from an array or tensor of one number; None if it is none."""
    array = _array(value)
    return float(array.item()) if array.size == 1 and array.dtype.kind in _KINDS else None


def _box(value: object, size: Size) -> Box:
    """Read a box in pixels."""
    array = _array([value.get(side) for side in _SIDES] if isinstance(value, Mapping) else value)
    if array.shape != (4,) or array.dtype.kind not in _KINDS or not np.isfinite(array).all():
        raise BadAnswerError(f"The box of a flaw must be four numbers (x0, y0, x1, y1), got {_told(value)}.")
    sides = x0, y0, x1, y1 = tuple(float(side) for side in array)
    if max(sides) <= 1 and any(side % 1 for side in sides):
        raise BadAnswerError(f"The box of a flaw must be in pixels, got {sides}: multiply by width and height.")
    box = clip_box(sides, size)
    if box is None or not 0 < (x1 - x0) * (y1 - y0) <= 2 * (box[2] - box[0]) * (box[3] - box[1]):
        raise BadAnswerError(
            f"The box of a flaw must be (x0, y0, x1, y1) inside the image of {size.width}x{size.height} pixels, got "
            f"{sides}."
        )
    return box


def _mask(value: object, size: Size) -> Mask:
    """Read a mask of the image's size."""
    array = _array(value)
    if array.shape != tuple(size) or array.dtype.kind not in _KINDS:
        raise BadAnswerError(
            f"The mask of a flaw must be bool with the image's shape {tuple(size)}, got {array.dtype} of shape "
            f"{array.shape}."
        )
    marked: Mask = (array == 1) | (array == 255)
    if not (marked | (array == 0)).all() or len(np.unique(array[marked])) > 1:
        raise BadAnswerError(
            "The mask of a flaw must be bool, or have the values 0 and 1, or 0 and 255, got others: compare it with a "
            "threshold."
        )
    return marked


def _array(value: Any) -> NDArray[Any]:
    """Turn numbers, an image, an array or a tensor of any device into an array; of the kind "O" if that fails."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float()
    if isinstance(value, list | tuple):
        value = [_array(each) for each in value]
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # such as lists of different lengths
        return np.asarray(None)


def _told(value: object) -> str:
    """Describe a wrong value in a few words."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return "None" if value is None else f"{type(value).__name__} {_short(value)}"


def _short(value: object) -> str:
    return " ".join(f"{value!r:.80}".split())
