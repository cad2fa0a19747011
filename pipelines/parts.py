"""What the refinement loop is given: its models, and a start image that was generated outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from refiner import protocols
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.instructions import as_edit
from refiner.types import Region

DROPPED = "Interrupted; the unfinished image was dropped."


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The models that the loop uses."""

    generator: protocols.Generator
    """Its ``spent()`` counts the denoiser rows of the inpainter too."""
    inpainter: protocols.Inpainter
    edits: bool = False
    """Whether the inpainter is an edit model, so that it is told what to change, not what the region shows."""
    negatives: bool = True
    """Whether the reviser's negative prompts are used; for some models, they would double the cost of a step."""
    detector: protocols.Detector
    """If it runs the denoiser itself (it has ``spent()``), its denoiser rows are counted too."""
    judge: protocols.Judge | None = None
    """Scores images against the prompt. With a ``JointJudge``, an image must not be worse for any of its judges."""
    reviser: protocols.Reviser

    def told(
        self, jobs: list[protocols.InpaintJob], regions: Sequence[Region], config: RefineConfig, *, own: bool
    ) -> list[protocols.InpaintJob]:
        """Return jobs that repair ``regions`` as the inpainter takes them; ``own``: the prompt is the user's text."""
        return [as_edit(job, regions, config, own=own) for job in jobs] if self.edits else jobs


class Start(NamedTuple):
    """A start image that was generated outside the loop, or why there is none."""

    image: Image.Image | None = None
    pixels: Any = None
    """What the pipeline returned for it: float (H, W, 3), (3, H, W), or latents."""
    error: Exception | None = None
    rows: int = 0
    """Denoiser rows that it cost."""
    seconds: float = 0.0
