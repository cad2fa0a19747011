"""Prompt revision without a language model: fixed phrases are added to the user's prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from refiner.pipelines.revisers.memory_bank import Memory, remember
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
"""What the image should show instead, for each category of flaw; a positive prompt never names a flaw."""

_JOINTS = re.compile(
    r"\s*[,;]\s*|\s+(?:to the )?(?:left of|right of|above|below|under|beside|next to|near|behind|in front of)\s+"
    r"|\s+and\s+(?=(?:an?|the|one|two|three|four|some|his|her|its|their)\s)",
    re.IGNORECASE,
)
"""Separators between the things (objects) that a prompt names."""
_SETTING = re.compile(
    r"^(.*?\S)(\s+(?:on|in|at|against)\s+(?:an?|the)\s+(?:(?!\s(?:on|in|at|against)\s)[^,;])+)$", re.IGNORECASE
)
"""A prompt's things, and the setting at its end that they share."""


class TemplateReviser:
    """Revises prompts by fixed rules; the same history always gives the same prompt.

    Args:
        limit: longest prompt, in the unit of ``count``. CLIP reads 77 tokens, which are about 50 words.
        count: computes the length of a text, such as its number of tokens; None: the number of words.
        free_text: False for a text encoder that was trained on few words. Then only words of the user's prompt are
            used, and the part with the largest burden (severity times confidence) is emphasised by naming it again.
    """

    def __init__(self, *, limit: int = 50, count: Callable[[str], int] | None = None, free_text: bool = True) -> None:
        self.limit, self.free_text = limit, free_text
        self.count = count or (lambda text: len(text.split()))

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        """Return the user's prompt with additions: what the image should show instead of each flaw found so far.

        Additions that would exceed ``limit`` are left out. The detector's explanations name flaws, so they are used in
        the negative prompt.
        """
        memories = remember(history)
        if not self.free_text:
            named = filter(None, (clause_of(prompt, memory.name) for memory in memories))
            return Revision(prompt=self.fill(prompt, list(named)[:1], " "))
        return self._revision(prompt, memories)

    def for_region(self, prompt: str, region: Region) -> Revision:
        """Return the part of the prompt that names the region (otherwise all of it), and what the region should show.

        If ``free_text`` is False and the whole prompt is used, the revision is marked as ``whole``. Then the whole
        image is shown to the model, because otherwise a crop of a hand's thumb would be inpainted as a hand.
        """
        part = clause_of(prompt, region.name) or prompt
        if not self.free_text:
            return Revision(prompt=part, whole=part == prompt)
        return self._revision(part, [region])

    def _revision(self, prompt: str, flaws: Sequence[Memory | Region]) -> Revision:
        wanted = []
        for flaw in flaws:
            bare = re.sub(r"^(?:an?|the)\s+", "", cleaned(flaw.name), flags=re.IGNORECASE)
            wanted += [_WANTED[flaw.category].format(name=bare)] if bare else []
        negative = self.fill("", [cleaned(flaw.explanation) for flaw in flaws])
        return Revision(prompt=self.fill(prompt, wanted), negative_prompt=negative)

    def fill(self, start: str, additions: Sequence[str], separator: str = ", ") -> str:
        """Append as many different additions to ``start`` as the limit allows, in order; ``start`` is never cut."""
        text = start
        for addition in dict.fromkeys(filter(None, additions)):
            longer = f"{text}{separator}{addition}" if text else addition
            if self.count(longer) <= self.limit:
                text = longer
        return text


def clause_of(prompt: str, name: str) -> str | None:
    """Return the part of a prompt that names ``name``, with the setting that the whole prompt shares.

    "a red hand left of a green clock on a sky background" and "the hand" give "a red hand on a sky background". None
    if no part shares words with the name, or several parts share equally many.
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
