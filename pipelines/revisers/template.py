"""Prompt revision without a language model: fixed phrases are added to the user's prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from refiner.lettering import folded, wanted_texts
from refiner.pipelines.revisers.clauses import choose, joined
from refiner.pipelines.revisers.memory_bank import Memory, remember
from refiner.pipelines.revisers.prompt_checks import cleaned
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
    Category.MISALIGNMENT: "{name} exactly as described",
}
"""What the image should show instead, for each category of flaw; a positive prompt never names a flaw."""


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
        the negative prompt, without the parts that name words which the image should show.
        """
        memories = remember(history)
        if not self.free_text:
            named = filter(None, (clause_of(prompt, memory.name) for memory in memories))
            return Revision(prompt=self.fill(prompt, list(named)[:1], " "))
        return self._revision(prompt, memories)

    def for_region(self, prompt: str, region: Region) -> Revision:
        """Return the part of the prompt for the region (otherwise all of it), and what the region should show.

        If ``free_text`` is False and the whole prompt is used, the revision is marked as ``whole``. Then the whole
        image is shown to the model, because otherwise a crop of a hand's thumb would be inpainted as a hand.
        """
        part = self.part_for(prompt, region.name)
        if not self.free_text:
            return Revision(prompt=part, whole=part == prompt)
        return self._revision(part, [region])

    def part_for(self, prompt: str, name: str) -> str:
        """Return the part of the prompt for a region with this name, or the whole prompt if no part names it.

        The part is that of ``clause_of``. If it is longer than the limit, it has the clauses about the named thing, and
        then as many of the others as fit, in their order.
        """
        chosen = choose(prompt, name)
        if chosen is None:
            return prompt
        kept, others = chosen
        part = joined([*kept, *others], prompt)
        if self.count(part) <= self.limit:
            return part
        for piece in others:
            if self.count(joined([*kept, piece])) <= self.limit:
                kept = [*kept, piece]
        return joined(kept)

    def _revision(self, prompt: str, flaws: Sequence[Memory | Region]) -> Revision:
        wanted = []
        for flaw in flaws:
            bare = re.sub(r"^(?:an?|the)\s+", "", cleaned(flaw.name, '"'), flags=re.IGNORECASE)
            phrase = _WANTED[flaw.category].format(name=bare)
            wanted += [phrase] if bare and phrase not in prompt else []
        negative = self.fill("", [cleaned(_without_wanted(flaw.explanation, prompt)) for flaw in flaws])
        return Revision(prompt=self.fill(prompt, wanted), negative_prompt=negative)

    def fill(self, start: str, additions: Sequence[str], separator: str = ", ") -> str:
        """Append as many different additions to ``start`` as the limit allows, in order; ``start`` is never cut."""
        text = start
        for addition in dict.fromkeys(filter(None, additions)):
            longer = f"{text}{separator}{addition}" if text else addition
            if self.count(longer) <= self.limit:
                text = longer
        return text


def _without_wanted(explanation: str, prompt: str) -> str:
    """The parts of an explanation without words that the image should show; a negative prompt must not name these."""
    wanted = [folded(text) for text in wanted_texts(prompt)]
    parts = explanation.split(";")
    return ";".join(part for part in parts if not any(text in folded(part) for text in wanted))


def clause_of(prompt: str, name: str) -> str | None:
    """Return the part of a prompt that a region with this name is inpainted with.

    It has the clause that names the thing, the setting that it shares with others, and all clauses that name no other
    thing, such as style, quality and light; see ``refiner.pipelines.revisers.clauses`` for the rules. "watercolor
    painting of a red hand left of a green clock at night, film grain" and "the hand" give "watercolor painting of a
    red hand at night, film grain". None if no clause shares words with the name, or several things share equally many.
    """
    chosen = choose(prompt, name)
    return None if chosen is None else joined([*chosen[0], *chosen[1]], prompt)
