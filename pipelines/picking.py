"""Candidates that are kept for a choice by hand, and what is recorded about an image that was picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from PIL import Image

from refiner.masks import box_of
from refiner.patches import Candidates
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.selection import Choice, Look, compare
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


def picked(draft: Attempt, look: Look, kept: Attempt, config: RefineConfig) -> Attempt:
    """The record of a picked image: it is kept if it was analysed and judged, even if that says that it is worse.

    Args:
        draft: the attempt without what was found.
        look: what was found.
        kept: the attempt that was kept so far.
        config: settings of the run.
    """
    scores = tuple(score.value for score in kept.scores)
    before = Look(image=kept.image, analysis=kept.analysis, scores=scores, error=kept.error)
    known, verdict = look.analysis is not None and look.error is None, compare(look, before, config)
    return replace(
        draft,
        analysis=look.analysis,
        error=look.error,
        accepted=known,
        reason=f"{BY_HAND}; {verdict.reason}" if known else verdict.reason,
    )
