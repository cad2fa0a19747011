"""What an edit model is told: the flaws of a region as an instruction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from refiner.pipelines.config import RefineConfig
from refiner.pipelines.revisers.prompt_checks import cleaned
from refiner.protocols import InpaintJob
from refiner.taxonomy import Category
from refiner.types import Region

_ORDERS = {
    Category.ANATOMY: "Give {name} its natural anatomy",
    Category.SHAPE: "Give {name} a clean and correct shape",
    Category.TEXT: "Write the letters of {name} correctly",
    Category.COLOR: "Give {name} its right colour",
    Category.TEXTURE: "Give {name} a natural surface",
    Category.NOISE_BLUR: "Make {name} clear and sharp",
    Category.OPTICS: "Correct light, shadow and reflection of {name}",
    Category.PHYSICAL_LAW: "Place {name} as physics allows",
    Category.PERSPECTIVE: "Correct the perspective of {name}",
    Category.COMMONSENSE: "Make {name} as it is in reality",
    Category.MISALIGNMENT: "Make {name} as described",
}
"""What is to be done about a flaw, for each category."""
KEEP = "Keep everything else exactly as it is."
_SHOWS = "It shows "
_WORDS = 60
"""Longest explanation of a flaw that an instruction repeats, in words."""


def instruction_for(regions: Sequence[Region], wanted: str, *, own: bool = False) -> str:
    """Write the instruction that repairs regions: what to do, what is wrong, what to show, and that the rest stays.

    Args:
        regions: the flawed regions, in order.
        wanted: what the regions show in the repaired image, as a prompt; may be empty.
        own: whether ``wanted`` is the user's own text, which is the whole instruction.
    """
    if own:
        return wanted
    orders = [_order(region) for region in regions]
    shown = [f"{_SHOWS}{_sentence(wanted)}"] if wanted.strip() else []
    return " ".join([*dict.fromkeys(orders), *shown, KEEP])


def as_edit(job: InpaintJob, regions: Sequence[Region], config: RefineConfig, *, own: bool = False) -> InpaintJob:
    """Make an inpainting job one for an edit model: its prompt becomes an instruction.

    The instruction is about the region, so that a crop around it is enough, unless the user wants the whole image. Of
    the negative prompts, only the user's is kept.

    Args:
        job: its prompt is what the region shows.
        regions: the flaws that it repairs.
        config: settings of the run.
        own: whether its prompt is the user's own text, which is the whole instruction.
    """
    instruction = instruction_for(regions, job.prompt, own=own)
    return replace(
        job, tool="edit", prompt=instruction, negative_prompt=config.negative_prompt, texts={}, whole=config.whole_image
    )  # fmt: skip


def shown_in(instruction: str) -> str:
    """Return what the repaired region shows, by an instruction of ``instruction_for``; without it, the instruction."""
    told = instruction.removesuffix(KEEP).partition(_SHOWS)[2].strip()
    return told.removesuffix(".") or instruction


def avoiding(instruction: str, negative_prompt: str) -> str:
    """Say a negative prompt in an instruction, for a model that takes none."""
    return f"{instruction} Do not show: {negative_prompt}." if negative_prompt else instruction


def _order(region: Region) -> str:
    name = cleaned(region.name) or "the marked part"
    order = _ORDERS[region.category].format(name=name if re.match("(an?|the) ", name, re.I) else f"the {name}")
    explanation = " ".join(cleaned(region.explanation).split()[:_WORDS])
    return f"{order}: {_sentence(explanation)}" if explanation else f"{order}."


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
