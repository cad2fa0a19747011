"""What the refinement loop sees of its parts. No torch, no diffusers: anything with these methods will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from refiner.types import Analysis, Attempt, Calls, Mask, Region


@dataclass(frozen=True, kw_only=True)
class PaintJob:
    """One picture to paint from text."""

    prompt: str
    negative_prompt: str = ""
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class InpaintJob:
    """One region of a picture to paint anew.

    ``image`` is the whole picture, RGB; ``mask`` bool (H, W), True = may change.
    """

    image: Image.Image
    mask: Mask
    prompt: str
    negative_prompt: str = ""
    seed: int
    strength: float
    """Share of the noise schedule that is run, in (0, 1]; 1 forgets what was there."""
    whole: bool = False
    """Whether the prompt speaks of the whole picture, so that the model should see all of it, not a crop."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A prompt made from the user's prompt and what was seen so far."""

    prompt: str
    negative_prompt: str = ""
    whole: bool = False
    """Whether a region's prompt speaks of the whole picture."""
    note: str = ""
    """What a reader of the run should know of it, such as why another reviser had to step in."""


@runtime_checkable
class Generator(Protocol):
    """Paints pictures from text. A job's picture depends on that job alone, not on its neighbours."""

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]: ...

    def spent(self) -> Calls:
        """Network work since construction."""
        ...


@runtime_checkable
class Inpainter(Protocol):
    """Repaints masked regions; returns whole pictures whose pixels outside the mask are bit-identical."""

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]: ...


@runtime_checkable
class Detector(Protocol):
    """Says what is wrong with a picture.

    Raises ``UnreadableOutputError`` where the model's answer cannot be read; never returns it as clean.
    """

    @property
    def name(self) -> str:
        """Id and revision."""
        ...

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis: ...

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """The same answers as one call each."""
        ...


@runtime_checkable
class Spender(Protocol):
    """A detector that runs the generator's denoiser."""

    def spent(self) -> Calls:
        """Network work since construction."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Scores pictures against prompts; higher is better."""

    @property
    def name(self) -> str: ...

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]: ...


@runtime_checkable
class Reviser(Protocol):
    """Turns the user's prompt and the history into the next prompt, and a region into its own."""

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision: ...

    def for_region(self, prompt: str, region: Region) -> Revision: ...
