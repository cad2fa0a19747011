"""A function as a reviser: it writes the next prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from refiner.errors import ConfigError
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.plain import name_of
from refiner.protocols import Reviser, Revision
from refiner.types import Attempt, Region

ReviserLike = Reviser | Callable[..., Any]
"""A reviser, or a function of the prompt and the attempts so far that returns the next prompt."""


class PlainReviser:
    """A ``refiner.protocols.Reviser`` made of a function; the prompts of regions are those of a template.

    Args:
        write: takes the user's prompt and the attempts so far; returns a prompt or a ``Revision``. If it returns
            something else, the template's revision is used, and its ``note`` says so.
        template: its fallback.

    Raises:
        ConfigError: ``write`` is not a function.
    """

    def __init__(self, write: Callable[..., Any], template: TemplateReviser) -> None:
        if isinstance(write, type) or not callable(write):
            raise ConfigError(
                f"Expected a reviser, got {write!r:.60}: pass an object with revise and for_region, or a function of "
                "the prompt and the attempts."
            )
        self.inner, self.template = write, template
        self.name = name_of(write)

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        """Return the function's prompt."""
        answer = self.inner(prompt, history)
        if isinstance(answer, Revision):
            return answer
        if isinstance(answer, str) and answer.strip():
            return Revision(prompt=answer)
        note = f"Prompt by the template, because the reviser {self.name} returned {answer!r:.60} instead of a prompt"
        return replace(self.template.revise(prompt, history), note=note)

    def for_region(self, prompt: str, region: Region) -> Revision:
        """Return the template's prompt of the region."""
        return self.template.for_region(prompt, region)
