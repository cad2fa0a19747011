"""What the refinement loop is given: its models, and a start image that was generated outside of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from refiner import protocols
from refiner.repairs import LocalTool

DROPPED = "Interrupted; the unfinished image was dropped."


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The models that the loop uses."""

    generator: protocols.Generator
    """Its ``spent()`` counts the denoiser rows of the inpainter too."""
    inpainter: protocols.Inpainter
    tools: tuple[LocalTool, ...] = ("inpaint",)
    """What the inpainter can do, in the order in which it is tried. For "edit", its jobs have instructions."""
    negatives: bool = True
    """Whether the reviser's negative prompts are used; for some models, they would double the cost of a step."""
    detector: protocols.Detector
    """If it runs the denoiser itself (it has ``spent()``), its denoiser rows are counted too."""
    judge: protocols.Judge | None = None
    """Scores images against the prompt. With a ``JointJudge``, an image must not be worse for any of its judges."""
    reviser: protocols.Reviser
    clock: Callable[[], float] = time.monotonic
    """Seconds; where several images share the models, only those that count for this image."""


class Start(NamedTuple):
    """A start image that was generated outside the loop, or why there is none."""

    image: Image.Image | None = None
    pixels: Any = None
    """What the pipeline returned for it: float (H, W, 3), (3, H, W), or latents."""
    error: Exception | None = None
    rows: int = 0
    """Denoiser rows that it cost."""
    seconds: float = 0.0
