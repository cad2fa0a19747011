"""What the user wants for single regions: their own prompts (``RefineConfig.prompts``), and regions to leave alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from refiner.masks import iou
from refiner.pipelines.config import EXPLANATION_MARK, PROMPT_MARK, SEPARATOR_MARK, SKIP_MARK, RefineConfig
from refiner.pipelines.revisers.prompt_checks import words
from refiner.pipelines.revisers.template import clause_of
from refiner.pipelines.strategies import ordered
from refiner.protocols import InpaintJob, PaintJob, Reviser, Revision
from refiner.types import Analysis, Attempt, Region, Size

_MARKS = re.compile("|".join(map(re.escape, (SKIP_MARK, PROMPT_MARK, EXPLANATION_MARK))))


def fits(name: str, region: Region) -> bool:
    """Whether all words of ``name`` are in the region's name, or ``name`` is its category.

    Upper case and plural endings make no difference: "Hands" fits "the left hand".
    """
    wanted = words(name.replace("_", " "))
    return set(wanted) <= set(words(region.name)) or wanted == words(region.category.replace("_", " "))


def not_excluded(regions: Sequence[Region], config: RefineConfig) -> list[Region]:
    """Leave out the regions that ``RefineConfig.exclude`` names."""
    return [region for region in regions if not any(fits(name, region) for name in config.exclude)]


def inpainted_first(attempts: Sequence[Attempt]) -> Analysis | None:
    """Return the analysis of the image that all inpainting so far began with: the last one accepted as a whole."""
    whole = [attempt for attempt in attempts if attempt.accepted and attempt.action != "inpaint"]
    return whole[-1].analysis if whole else None


def text_for(region: Region, first: Sequence[Region], size: Size, config: RefineConfig) -> str:
    """Return the user's text for a region; "" if there is none, ``SKIP_MARK`` if the region is to be left alone.

    Args:
        region: a region of the best image.
        first: the regions of the image that inpainting began with; their order numbers the texts. A region that
            overlaps none of them has the last text.
        size: of the image.
        config: settings of the run.
    """
    if isinstance(config.prompts, Mapping):
        named = [name for name in config.prompts if fits(name, region)]
        return config.prompts[max(named, key=lambda name: len(words(name)))].strip() if named else ""
    texts = texts_of(config)
    if len(texts) <= 1:
        return "".join(texts)
    overlaps = [iou(region.pixels(size), other.pixels(size)) for other in ordered(first, size, config)]
    number = overlaps.index(max(overlaps)) if any(overlaps) else len(texts) - 1
    return texts[min(number, len(texts) - 1)]


def texts_of(config: RefineConfig) -> list[str]:
    """List all texts of ``RefineConfig.prompts``, in their order."""
    if isinstance(config.prompts, Mapping):
        return [text.strip() for text in config.prompts.values()]
    texts = config.prompts.split(SEPARATOR_MARK) if isinstance(config.prompts, str) else config.prompts
    return [text.strip() for text in texts]


def own_words(config: RefineConfig) -> list[str]:
    """List the texts of ``RefineConfig.prompts`` without their marks."""
    return [_MARKS.sub("", text) for text in texts_of(config)]


def revision_for(region: Region, text: str, prompt: str, config: RefineConfig, reviser: Reviser) -> Revision:
    """Return the prompt of a region.

    Args:
        region: the region.
        text: from ``text_for``; used as it is, with the user's prompt in place of ``PROMPT_MARK``, and the region's
            explanation (its name, if there is none) in place of ``EXPLANATION_MARK``.
        prompt: the user's prompt for the whole image.
        config: settings of the run.
        reviser: writes the prompt if neither ``text`` nor ``RefineConfig.region_prompt`` does.
    """
    if text:
        meant = {PROMPT_MARK: prompt, EXPLANATION_MARK: region.explanation or region.name}
        return Revision(prompt=_MARKS.sub(lambda mark: meant.get(mark[0], mark[0]), text))
    if config.region_prompt == "auto":
        return reviser.for_region(prompt, region)
    part = clause_of(prompt, region.name) if config.region_prompt == "clause" else None
    return Revision(prompt=part or prompt)


def joined(jobs: Sequence[InpaintJob]) -> PaintJob:
    """Join the different prompts of several jobs into one, for the record."""
    return PaintJob(
        prompt="; ".join(dict.fromkeys(job.prompt for job in jobs)),
        negative_prompt="; ".join(filter(None, dict.fromkeys(job.negative_prompt for job in jobs))),
        seed=jobs[0].seed,
    )
