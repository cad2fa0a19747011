"""Prompt revision without a language model: fixed wording, anchored on the user's prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from refiner.pipelines.revisers.memory_bank import remember
from refiner.pipelines.revisers.prompt_checks import FILLER, cleaned, words
from refiner.protocols import Revision
from refiner.taxonomy import Category
from refiner.types import Attempt, Region

_WANTED = {
    Category.ANATOMY: "a complete, well-formed {name}",
    Category.SHAPE: "{name} with clean, sharp outlines",
    Category.TEXT: "legible, correctly spelled {name}",
    Category.COLOR: "{name} in its natural colour",
    Category.TEXTURE: "{name} with a natural surface",
    Category.NOISE_BLUR: "{name} in sharp focus",
    Category.OPTICS: "{name} with consistent light, shadow and reflection",
    Category.PHYSICAL_LAW: "{name} resting naturally in place",
    Category.PERSPECTIVE: "{name} in correct perspective",
    Category.COMMONSENSE: "{name} as it is in reality",
}
"""What should be there, for each kind of flaw; defect words never enter a positive prompt."""

_JOINTS = re.compile(
    r"\s*[,;]\s*|\s+(?:to the )?(?:left of|right of|above|below|under|beside|next to|near|behind|in front of)\s+"
    r"|\s+and\s+(?=(?:an?|the|one|two|three|four|some|his|her|its|their)\s)",
    re.IGNORECASE,
)
"""Where one thing of a prompt ends and the next begins."""
_SETTING = re.compile(
    r"^(.*?\S)(\s+(?:on|in|at|against)\s+(?:an?|the)\s+(?:(?!\s(?:on|in|at|against)\s)[^,;])+)$", re.IGNORECASE
)
"""A prompt's things, and the place that they all share, at its end."""


def _count_words(text: str) -> int:
    return len(text.split())


class TemplateReviser:
    """Revises prompts by fixed rules; the same history always gives the same prompt.

    Args:
        limit: longest prompt, in the unit of ``count``. CLIP reads 77 tokens, which about 50 words fill.
        count: length of a text, such as its number of tokens; None counts words.
        free_text: False for a text encoder that was trained on few words: then only words of the user's prompt are
            used, and what was most flawed is emphasised by naming it once more.
    """

    def __init__(self, *, limit: int = 50, count: Callable[[str], int] = _count_words, free_text: bool = True) -> None:
        self.limit = limit
        self.count = count
        self.free_text = free_text

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        """The user's prompt, then what should be there instead of every flaw seen so far, as far as it fits.

        The detector's explanations, which name defects, go to the negative prompt.
        """
        memories = remember(history)
        if not self.free_text:
            named = filter(None, (clause_of(prompt, memory.name) for memory in memories))
            return Revision(prompt=self.fill(prompt, list(named)[:1], " "))
        return Revision(
            prompt=self.fill(prompt, [_wanted(memory.name, memory.category) for memory in memories]),
            negative_prompt=self.fill("", [cleaned(memory.explanation) for memory in memories]),
        )

    def for_region(self, prompt: str, region: Region) -> Revision:
        """The part of the prompt that the region's name belongs to (else all of it), and what should be there.

        Where only words of the prompt are used and all of them are, the revision says that it is ``whole``: a crop of
        a hand's thumb should not be painted as a hand.
        """
        part = clause_of(prompt, region.name) or prompt
        if not self.free_text:
            return Revision(prompt=part, whole=part == prompt)
        return Revision(
            prompt=self.fill(part, [_wanted(region.name, region.category)]),
            negative_prompt=self.fill("", [cleaned(region.explanation)]),
        )

    def fill(self, start: str, additions: Sequence[str], separator: str = ", ") -> str:
        """Join as many different additions as the limit allows, in order; ``start`` always stays whole."""
        text = start
        for addition in dict.fromkeys(filter(None, additions)):
            longer = f"{text}{separator}{addition}" if text else addition
            if self.count(longer) <= self.limit:
                text = longer
        return text


def clause_of(prompt: str, name: str) -> str | None:
    """The part of a prompt that speaks of ``name``, with the setting that the whole prompt shares.

    "a red hand left of a green clock on a sky background" and "the hand" give "a red hand on a sky background". None
    where no part, or more than one, shares the most words with the name.
    """
    setting = _SETTING.match(prompt)
    body = setting[1] if setting else prompt
    clauses = [clause for clause in _JOINTS.split(body) if clause.strip()]
    wanted = set(words(name)) - FILLER
    shared = [len(wanted & set(words(clause))) for clause in clauses]
    most = max(shared, default=0)
    if most == 0 or shared.count(most) > 1:
        return None
    return clauses[shared.index(most)].strip() + (setting[2] if setting else "")


def _wanted(name: str, category: Category) -> str:
    bare = re.sub(r"^(?:an?|the)\s+", "", cleaned(name), flags=re.IGNORECASE)
    return _WANTED[category].format(name=bare) if bare else ""
