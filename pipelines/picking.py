"""Candidates that are kept for a choice by hand, and what is recorded about an image that was picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from PIL import Image

from refiner.masks import box_of
from refiner.patches import Candidates
from refiner.pipelines.selection import Choice, Look, Verdict
from refiner.pipelines.strategies import Patch
from refiner.protocols import InpaintJob
from refiner.types import Attempt

BY_HAND: Final = "picked by hand"
"""Begins the reason of an attempt that was kept because its candidates were picked."""


def kept_candidates(
    groups: Sequence[Sequence[Patch]],
    jobs: Sequence[Sequence[InpaintJob]],
    images: Sequence[Sequence[Image.Image]],
    shown: Choice,
) -> tuple[Candidates, ...]:
    """Cut the candidates of each patch out of the whole images.

    Args:
        groups: patches that were inpainted together.
        jobs: those of each group.
        images: what they returned, of the size of the image.
        shown: the candidate of each patch that the attempt shows.
    """
    numbers = iter(shown)
    return tuple(
        _cut(patch, own, painted, next(numbers))
        for group, own, painted in zip(groups, jobs, images, strict=True)
        for patch in group
    )


def _cut(patch: Patch, jobs: Sequence[InpaintJob], images: Sequence[Image.Image], shown: int | None) -> Candidates:
    box = box_of(patch.mask)
    assert box is not None
    return Candidates(
        name=patch.region.name,
        mask=patch.mask,
        box=box,
        images=tuple(image.crop(box) for image in images),
        seeds=tuple(job.seed for job in jobs),
        shown=shown,
    )


def as_seen(attempt: Attempt) -> Look:
    """What the detector and the judges said about an attempt."""
    scores = tuple(score.value for score in attempt.scores)
    return Look(image=attempt.image, analysis=attempt.analysis, scores=scores, error=attempt.error)


def picked(draft: Attempt, look: Look, verdict: Verdict) -> Attempt:
    """The record of a picked image: it is kept if it was analysed and judged, whatever the verdict."""
    known = look.analysis is not None and look.error is None
    return replace(
        draft,
        analysis=look.analysis,
        error=look.error,
        accepted=known,
        reason=f"{BY_HAND}; {verdict.reason}" if known else verdict.reason,
    )
