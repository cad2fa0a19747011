"""Candidates that are kept, and one that is picked by hand, with parts that are plain functions: no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.protocols import InpaintJob, PaintJob
from refiner.taxonomy import Category
from refiner.types import Analysis, RefinementResult, Region, Size

SIZE = Size(32, 48)
PROMPT = "a red hand left of a green clock"
GREY, RED, GREEN = (128, 128, 128), (255, 0, 0), (0, 255, 0)
SPOTS = ((4, 4, 10, 10), (30, 20, 36, 26))
CONFIG = RefineConfig(
    seed=3, strategy="inpaint", max_rounds=1, candidates=3, max_candidates=3, keep_candidates=True, feather=0
)


def see(image: Image.Image) -> Analysis:
    """A spot is a flaw, the more severe the redder it is."""
    flaws = []
    for box in SPOTS:
        red, green, _ = image.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))  # type: ignore[misc]
        if red > green:
            flaws.append(Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=red / 255))
    return Analysis(size=SIZE, regions=tuple(flaws), detector="spots")


class Painter:
    """Generates two red spots; paints a patch with green, or with a red whose strength depends on the candidate."""

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        image = Image.new("RGB", (SIZE.width, SIZE.height), GREY)
        for box in SPOTS:
            image.paste(RED, box)
        return [image.copy() for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        pictures = []
        for number, job in enumerate(jobs):
            self.seeds.append(job.seed)
            colour = (GREEN, (200, 0, 0), (255, 0, 1))[number % 3]
            picture = job.image.copy()
            picture.paste(colour, mask=Image.fromarray(job.mask))
            pictures.append(picture)
        return pictures


class Judge:
    name = "judge"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [-see(image).burden for image in images]


def run(look: Callable[[Image.Image], Analysis] = see, **changes: Any) -> tuple[RefinementResult, Painter]:
    painter = Painter()
    parts = Parts(
        generator=painter, inpainter=painter, detector=ScriptedDetector(look), judge=Judge(), reviser=TemplateReviser()
    )
    return refine(parts, PROMPT, replace(CONFIG, **changes)).result, painter


def test_candidates_are_kept_on_request_and_nothing_else_changes() -> None:
    kept, painter = run()
    usual, _ = run(keep_candidates=False)
    assert [one.image.tobytes() for one in kept.attempts] == [one.image.tobytes() for one in usual.attempts]  # type: ignore[union-attr]
    assert not usual.candidates
    assert [patch.seeds for patch in kept.candidates] == [tuple(painter.seeds[:3]), tuple(painter.seeds[3:])]
    for patch in kept.candidates:
        shown = np.asarray(kept.image.crop(patch.box))
        x0, y0, x1, y1 = patch.box
        inside = patch.mask[y0:y1, x0:x1]
        assert patch.shown == 0
        assert inside.sum() == patch.mask.sum()
        assert (shown[inside] == np.asarray(patch.images[0])[inside]).all()


@pytest.mark.parametrize("choice", [{0: 1}, {1: 2}, {0: 0}, {0: 2, 1: 1}, {1: 1, 0: 1}])
def test_a_picked_candidate_is_exact_outside_its_mask_verified_and_recorded(choice: dict[int, int]) -> None:
    before, _ = run()
    after = before.with_choice(choice)
    last = after.attempts[-1]
    assert before.attempts == after.attempts[:-1]
    assert (last.by, last.choice, last.index, after.best) == ("hand", choice, 2, 2)
    assert last.accepted
    mask = np.logical_or.reduce([before.candidates[patch].mask for patch in choice])
    assert (np.asarray(after.image)[~mask] == np.asarray(before.image)[~mask]).all()
    for patch, number in choice.items():
        one = before.candidates[patch]
        x0, y0, x1, y1 = one.box
        pixels = np.asarray(after.image.crop(one.box))[one.mask[y0:y1, x0:x1]]
        assert (pixels == np.asarray(one.images[number])[one.mask[y0:y1, x0:x1]]).all()
    assert last.analysis is not None
    assert last.analysis.burden == see(after.image).burden
    assert last.scores[0].value == -see(after.image).burden
    worse = see(after.image).burden > see(before.image).burden
    assert last.reason.startswith(f"picked by hand; {'worse for the detector' if worse else 'no better'}: burden ")
    assert last.painted is not None
    assert (last.painted == (np.asarray(after.image) != np.asarray(before.image)).any(axis=2)).all()
    tried = len({choice.get(patch, 0) for patch in (0, 1)}) == 1
    assert last.calls.detector_calls == (0 if tried else 1)  # what the loop has seen is not analysed again


def test_picks_follow_one_another_and_can_be_taken_back() -> None:
    start, _ = run()
    first = start.with_choice({0: 1})
    second = first.with_choice({1: 2})
    assert second.image.tobytes() == start.with_choice({0: 1, 1: 2}).image.tobytes()
    back = second.with_choice({0: 0, 1: 0})
    assert back.image.tobytes() == start.image.tobytes()
    assert "better: burden" in back.attempts[-1].reason
    assert [one.by for one in back.attempts] == ["loop", "loop", "hand", "hand", "hand"]


@pytest.mark.parametrize(
    ("choice", "told"),
    [({}, "at least one choice"), ({2: 0}, "no region 2"), ({-1: 0}, "no region -1"), ({0: 3}, "no candidate 3"),
     ({0: -1}, "no candidate -1"), ({True: 0}, "no region True"), ({"0": 0}, "no region '0'"), ({0: None}, "None")],
)  # fmt: skip
def test_a_wrong_choice_is_refused_by_name(choice: Any, told: str) -> None:
    before, _ = run()
    with pytest.raises(ConfigError, match=told):
        before.with_choice(choice)


def test_without_candidates_nothing_can_be_picked() -> None:
    with pytest.raises(ConfigError, match="keep_candidates=True"):
        run(keep_candidates=False)[0].with_choice({0: 0})
    with pytest.raises(ConfigError, match="keep_candidates"):
        replace(CONFIG, keep="last", candidates=1)


def test_regions_of_two_rounds_that_overlap_are_refused_together() -> None:
    def never(image: Image.Image) -> Analysis:  # the inpainted patches are flawed, too
        return replace(see(image), regions=see(Painter().generate([None])[0]).regions)  # type: ignore[list-item]

    before, _ = run(never, max_rounds=2)
    assert len(before.candidates) == 4
    with pytest.raises(ConfigError, match="Region 2 overlaps"):
        before.with_choice({0: 0, 2: 0})


def test_candidates_of_a_replaced_image_are_not_offered() -> None:
    before, _ = run()
    start, inpainted = before.attempts
    again = replace(start, index=2, action="regenerate", image=Image.new("RGB", (SIZE.width, SIZE.height), GREEN))
    after = replace(before, attempts=(start, inpainted, again), best=2)
    assert not after.candidates
    with pytest.raises(ConfigError, match="no candidates"):
        after.with_choice({0: 0})


def test_what_cannot_be_analysed_is_recorded_and_not_kept() -> None:
    answers = iter([True] * 4)

    def look(image: Image.Image) -> Analysis:
        if next(answers, False):
            return see(image)
        raise UnreadableOutputError("No list of flaws in it", raw="babble")

    before, _ = run(look)
    after = before.with_choice({0: 1})
    last = after.attempts[-1]
    assert (last.accepted, last.analysis, after.best) == (False, None, before.best)
    assert last.reason == "could not be analysed"
    assert last.error


def test_report_and_record_hold_the_candidates_and_the_pick(tmp_path: Path) -> None:
    before, _ = run()
    patch = before.candidates[0]
    named = replace(before.attempts[1], candidates=(replace(patch, name="<b>hand</b>"), before.candidates[1]))
    after = before.with_choice({0: 1})
    files = replace(after, attempts=(after.attempts[0], named, after.attempts[2])).save(str(tmp_path))
    page, record = Path(files["report"]).read_text(), json.loads(Path(files["run"]).read_text())
    assert page.count('alt="candidate ') == 6
    assert "region 1 of with_choice" in page
    assert "<b>hand" not in page
    assert "Picked by hand; worse for the detector" in page
    with Image.open(files["candidate-01-00-01"]) as image:
        assert image.tobytes() == patch.images[1].tobytes()
    _, inpainted, picked = record["attempts"]
    assert (inpainted["by"], picked["by"], picked["choice"]) == ("loop", "hand", {"0": 1})
    assert [one["seeds"] for one in inpainted["candidates"]] == [list(one.seeds) for one in before.candidates]
    run(keep_candidates=False)[0].save(str(tmp_path))
    assert not list(tmp_path.glob("candidate-*"))
