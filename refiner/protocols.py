"""What the refinement loop sees of its parts. No torch, no diffusers: anything with these methods will do.

What a part may be able to do besides is a protocol of its own: ``Movable``, ``Borrower``, ``Spender``, ``Remarking``,
``Streaming``, ``Signed``, ``Saveable``, ``Networked``. Whoever uses such an ability asks ``isinstance(part, Movable)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from refiner.errors import RefinerError
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


@runtime_checkable
class Movable(Protocol):
    """A part with networks that can be moved."""

    def to(self, device: Any) -> object:
        """Move them to a device, as torch names it."""
        ...


@runtime_checkable
class Borrower(Protocol):
    """A part that works with the pipeline that paints, such as a detector that looks through its denoiser."""

    def bind(self, pipe: Any) -> None:
        """Use this diffusers pipeline from now on.

        Raises:
            ConfigError: it cannot be used.
        """
        ...


@runtime_checkable
class Spender(Protocol):
    """A detector that runs the generator's denoiser, and counts its rows."""

    def spent(self) -> Calls:
        """Network work since construction."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """An inpainter that has something to say beside its pictures."""

    def remarks(self) -> list[str]:
        """What the user should know of the calls since this was last asked."""
        ...


class Opinion(Protocol):
    """What a judge says of one image."""

    @property
    def score(self) -> float | None:
        """None where there is an error."""
        ...

    @property
    def error(self) -> RefinerError | None: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed to make image or prompt usable, in words."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A judge that goes on where it cannot score an image."""

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Iterable[Opinion]:
        """One opinion for each image, in order."""
        ...


@runtime_checkable
class Signed(Protocol):
    """A judge that tells all that its scores depend on; scores of different signatures do not compare."""

    @property
    def signature(self) -> str: ...


@runtime_checkable
class Saveable(Protocol):
    """A part that can be written to a folder and read back."""

    def save_pretrained(self, folder: Path, **options: Any) -> object: ...


@runtime_checkable
class Networked(Protocol):
    """A part with one network of its own."""

    @property
    def model(self) -> Any: ...
