"""The loop repairs lettering with the detector and the judge of lettering alone, and their real weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from refiner.detectors import load_detector
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.pipelines.judges import load_judge
from refiner.protocols import InpaintJob, PaintJob
from refiner.types import Calls, RefinementResult

PROMPT = 'a wooden door with a sign that says "OPEN" and a note that says "BACK SOON"'
FONT = "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf"


def drawn(first: str, second: str) -> Image.Image:
    image = Image.new("RGB", (384, 256), (120, 90, 60))
    for row, text in enumerate((first, second)):
        canvas = ImageDraw.Draw(image)
        canvas.rectangle((30, 30 + 110 * row, 340, 100 + 110 * row), fill=(235, 230, 210))
        canvas.text((50, 38 + 110 * row), text, fill=(20, 20, 40), font=ImageFont.truetype(FONT, 46))
    return image


class Painter:
    """Generates images from a list; inpaints the words that the prompt of the job names, everywhere else nothing."""

    def __init__(self, *pictures: Image.Image) -> None:
        self.pictures, self.jobs, self.painted = list(pictures), [], []  # type: ignore[var-annotated]

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        self.painted += jobs
        return [self.pictures[min(len(self.painted), len(self.pictures)) - 1] for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        right = np.asarray(drawn("OPEN", "BACK SOON"))
        named = ['correctly spelled text "OPEN"' in job.prompt for job in jobs]
        return [
            Image.fromarray(np.where(job.mask[..., None] & told, right, np.asarray(job.image)))
            for job, told in zip(jobs, named, strict=True)
        ]

    def spent(self) -> Calls:
        return Calls(denoiser_rows=len(self.jobs) + len(self.painted))


def run(painter: Painter, strategy: str) -> RefinementResult:
    parts = Parts(
        generator=painter, inpainter=painter, detector=load_detector("text"), judge=load_judge("text"),
        reviser=TemplateReviser(),
    )  # fmt: skip
    return refine(parts, PROMPT, RefineConfig(strategy=strategy, max_rounds=2)).result  # type: ignore[arg-type]


def test_a_misspelt_word_is_inpainted_by_a_prompt_that_names_it() -> None:
    result = run(painter := Painter(drawn("OPNE", "BACK SOON")), "inpaint")
    assert result.stop == "clean"
    assert [attempt.scores[0].value for attempt in result.attempts] == pytest.approx([2 / 3, 1])
    assert painter.jobs[0].negative_prompt == "reads OPNE"
    changed = (np.asarray(result.image) != np.asarray(result.attempts[0].image)).any(axis=2)
    assert changed.any()
    assert not changed[120:].any(), "the other sign is untouched"


def test_a_missing_word_is_regenerated_by_a_prompt_that_names_it() -> None:
    painter = Painter(drawn("", "BACK SOON"), drawn("OPEN", "BACK SOON"))
    result = run(painter, "auto")
    assert (result.stop, painter.jobs) == ("clean", [])
    assert 'text "OPEN" exactly as described' in painter.painted[1].prompt
    assert "OPEN" not in painter.painted[1].negative_prompt
