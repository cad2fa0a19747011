"""Protocols of the parts that the refinement loop uses: any object with these methods fits. Needs no torch.

Detectors and judges that lack a name, ``batch`` or the prompt are completed by ``refiner.plain``.

Each optional ability of a part is a separate protocol: ``Movable``, ``Borrower``, ``Spender``, ``Remarking``,
``Batching``, ``Grouping``, ``Streaming``, ``Sorting``, ``Deciding``, ``Concurrent``, ``Signed``, ``Saveable``,
``Networked``. Code that uses such an ability tests, for example, ``isinstance(part, Movable)``. ``refiner.ledger`` has
``Paying``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from refiner.errors import BadImageError, RefinerError
from refiner.repairs import LocalTool
from refiner.types import Analysis, Attempt, Calls, Mask, Region


@dataclass(frozen=True, kw_only=True)
class PaintJob:
    """One image to generate from text."""

    prompt: str
    negative_prompt: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The prompts of further text encoders, by argument, such as ``prompt_2``; empty: they read ``prompt``."""
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class InpaintJob:
    """One region of an image to inpaint.

    ``image`` is the whole image, RGB; ``mask`` is bool (H, W), True = may change.
    """

    image: Image.Image
    mask: Mask
    prompt: str
    negative_prompt: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The prompts of further text encoders, by argument, such as ``prompt_2``; empty: they read ``prompt``."""
    seed: int
    strength: float
    """Share of the noise schedule that is run, in (0, 1]; 1 keeps nothing of the old content."""
    whole: bool = False
    """Whether the prompt describes the whole image, so that the model needs all of it, not a crop."""
    tool: LocalTool = "inpaint"
    """What repairs the region; with "edit", the prompt is an instruction."""


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A prompt made from the user's prompt and the attempts so far."""

    prompt: str
    negative_prompt: str = ""
    whole: bool = False
    """Whether the prompt of a region describes the whole image."""
    note: str = ""
    """Information for the user, for example why another reviser was used instead."""


@runtime_checkable
class Spender(Protocol):
    """A part that runs the generator's denoiser, and counts the rows (images times denoiser passes)."""

    def spent(self) -> Calls:
        """Cost since construction: the work of the networks."""
        ...


@runtime_checkable
class Generator(Spender, Protocol):
    """Generates images from text. The image of a job depends only on this job, not on the other jobs of the batch."""

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]: ...


@runtime_checkable
class Batching(Protocol):
    """A generator that generates several images in one call; each differs from that of its own call by rounding."""

    def generate_together(self, jobs: Sequence[PaintJob]) -> list[Image.Image | BadImageError]:
        """Like ``Generator.generate``, but an image that is unusable is replaced by its error."""
        ...


@runtime_checkable
class Inpainter(Protocol):
    """Inpaints masked regions; returns whole images whose pixels outside the mask are bit-identical."""

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]: ...


@runtime_checkable
class Detector(Protocol):
    """Finds the flaws in an image.

    Raises ``UnreadableOutputError`` if the model's answer cannot be read; never returns such an image as clean.
    """

    @property
    def name(self) -> str:
        """Id and revision."""
        ...

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis: ...

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse several images; the results are the same as with one call for each image."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Scores images against prompts; higher is better."""

    @property
    def name(self) -> str: ...

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]: ...


@runtime_checkable
class Reviser(Protocol):
    """Makes the next prompt from the user's prompt and the attempts so far, and the inpainting prompt of a region."""

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision: ...

    def for_region(self, prompt: str, region: Region) -> Revision: ...


@runtime_checkable
class Movable(Protocol):
    """A part with networks that can be moved to another device."""

    def to(self, device: Any) -> object:
        """Move the networks to a device, given as torch names it."""
        ...


@runtime_checkable
class Borrower(Protocol):
    """A part that uses the generating pipeline, such as a detector that reads features of its denoiser."""

    def bind(self, pipe: Any) -> None:
        """Use this diffusers pipeline from now on.

        Raises:
            ConfigError: the part cannot use this pipeline.
        """
        ...


@runtime_checkable
class Remarking(Protocol):
    """An inpainter that reports remarks for the user beside its images."""

    def remarks(self) -> list[str]:
        """Return the remarks about the calls since the last request for remarks."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpainted:
    """The regions of one image, inpainted in batches with those of others."""

    images: Sequence[Image.Image] = ()
    """As ``Inpainter.inpaint`` returns them; empty if there is an error."""
    error: Exception | None = None
    remarks: Sequence[str] = ()
    rows: int = 0
    """Denoiser rows that they cost."""


@runtime_checkable
class Grouping(Protocol):
    """An inpainter that inpaints the regions of several images in the same batches."""

    def inpaint_each(self, groups: Sequence[Sequence[InpaintJob]]) -> list[Inpainted]:
        """Like ``Inpainter.inpaint`` for the jobs of each of several images; nothing is raised for a single image."""
        ...


class Opinion(Protocol):
    """The result of a judge for one image. A judge scores images against prompts (``Judge``)."""

    @property
    def score(self) -> float | None:
        """None if there is an error."""
        ...

    @property
    def error(self) -> RefinerError | None: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Descriptions of what was changed to make the image or prompt usable."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A judge that continues if it cannot score an image."""

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Iterable[Opinion]:
        """One opinion for each image, in order."""
        ...


@runtime_checkable
class Sorting(Protocol):
    """A detector that fails on single images of a batch, not on the batch, so that the others are not asked again."""

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """Like ``Detector.batch``, but with the error of each image that failed instead of its analysis."""
        ...


@runtime_checkable
class Deciding(Protocol):
    """A detector that knows whether it says how likely an image is to be generated."""

    @property
    def decides(self) -> bool:
        """Whether each analysis has a ``fake_probability``, or a tag that says that the verdict is open."""
        ...


@runtime_checkable
class Concurrent(Protocol):
    """A part that waits for a server most of the time, and may be called by several threads at the same time."""

    @property
    def concurrency(self) -> int:
        """Number of requests that may be under way at the same time; 1: call it from one thread."""
        ...


@runtime_checkable
class Signed(Protocol):
    """A judge with a signature of everything that its scores depend on.

    Scores with different signatures are not comparable.
    """

    @property
    def signature(self) -> str: ...


@runtime_checkable
class Saveable(Protocol):
    """A part that can be saved to a folder and loaded again."""

    def save_pretrained(self, folder: Path, **options: Any) -> object: ...


@runtime_checkable
class Networked(Protocol):
    """A part with one network."""

    @property
    def model(self) -> Any: ...
