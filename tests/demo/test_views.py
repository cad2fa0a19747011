"""The demo's HTML views, without Gradio: text is escaped, and all attempts, regions and answers are shown."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from support.markup import HOSTILE, safe

from refiner.demo.jobs import Loading, Waiting
from refiner.demo.ranking import Flawed, Ranking
from refiner.demo.studio import AttemptProgress
from refiner.demo.views.candidates import candidate_choices, candidates, read_choice
from refiner.demo.views.detect import answers
from refiner.demo.views.outlines import MOST, svg_path
from refiner.demo.views.parts import notes, stage
from refiner.demo.views.rank import ranking, ranking_outcome
from refiner.demo.views.refine import STOPS, comparison, plots, refinement_outcome, timeline
from refiner.demo.views.status import progress_line, status_line
from refiner.masks import box_of
from refiner.patches import Candidates
from refiner.taxonomy import Category
from refiner.types import Action, Analysis, Attempt, RefinementResult, Region, Score, Size, Step, StopReason


def picture(seed=0, side=48):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def region(text="the hand", at=(8, 8, 24, 20), side=48, **more):
    mask = np.zeros((side, side), dtype=bool)
    mask[at[1] : at[3], at[0] : at[2]] = True
    words = {"name": text, "explanation": text, "reasoning": text, "location": text}
    return Region(mask=mask, box=at, category=Category.ANATOMY, severity=0.5, **{**words, **more})


def analysis(*regions, side=48, **more):
    return Analysis(size=Size(side, side), regions=regions, detector=more.pop("detector", "some"), **more)


def attempt(index=0, **more):
    usual = {"action": "generate", "prompt": "a hand", "seed": 7, "image": picture(index), "accepted": True,
             "analysis": analysis(region()), "reason": "better", "scores": (Score(name="hps", value=0.25),),
             "seconds": 1.5}  # fmt: skip
    return Attempt(index=index, **{**usual, **more})


def result(*attempts, best=0, stop="rounds", prompt="a hand"):
    return RefinementResult(prompt=prompt, attempts=attempts, best=best, stop=stop)


def test_all_text_stays_text():
    step = Step(stage=HOSTILE, subject=HOSTILE, outcome="unreadable", text=HOSTILE, reason=HOSTILE)
    bad = attempt(prompt=HOSTILE, negative_prompt=HOSTILE, reason=HOSTILE, error=HOSTILE,
                  analysis=analysis(region(HOSTILE), raw=HOSTILE, tags=(HOSTILE,), detector=HOSTILE, trace=(step,)),
                  scores=(Score(name=HOSTILE, value=1.0),))  # fmt: skip
    run = result(bad, prompt="another")
    shown = safe(timeline(run))
    for place in ("Prompt", "Negative prompt"):
        assert f"{place} {HOSTILE}" in shown.text
    assert shown.text.count(HOSTILE) >= 8
    assert HOSTILE in safe(plots(run)).text
    safe(comparison(run))
    said = {HOSTILE: bad.analysis, "other": HOSTILE}
    assert safe(answers(picture(), said)).text.count(HOSTILE) >= 12
    assert "How it was found (1 unreadable)" in safe(answers(picture(), said)).text
    assert "How it was found (1 unreadable)" in shown.text
    assert HOSTILE in safe(status_line(HOSTILE)).text
    assert HOSTILE in safe(progress_line(Ranking(name=HOSTILE, done=1, total=2))).text


def test_endless_text_is_cut():
    assert len(timeline(result(attempt(reason="x" * 10**6)))) < 100_000


def test_every_attempt_and_every_region_is_shown():
    run = result(
        attempt(0),
        attempt(
            1, action="inpaint", accepted=False, reason="worse", analysis=analysis(region("the left eye"), region())
        ),
        attempt(2, action="regenerate", image=None, analysis=None, accepted=False, error="the model gave up"),
        attempt(3, accepted=True, analysis=analysis(), reason="clean"),
        best=3,
    )
    shown = safe(timeline(run))
    verdicts = [own["class"].split()[-1].removeprefix("rf-") for own in shown.all("li", "rf-attempt")]
    assert verdicts == ["accepted", "rejected", "rejected", "kept"]
    assert len(shown.all("path", "rf-region")) == 3
    for words in (
        "Worse",
        "the left eye",
        "the model gave up",
        "no image",
        "Inpainted",
        "1.5 s",
        "fit to the prompt (HPS): 0.25",
    ):
        assert words in shown.text


def test_regions_can_be_tabbed_to_and_say_what_they_are():
    shown = safe(timeline(result(attempt(analysis=analysis(region("the left eye", explanation="it melts"))))))
    (path,) = shown.all("path", "rf-region")
    assert path["tabindex"] == "0"
    assert path["role"] == "button"
    assert path["aria-label"] == "1: the left eye, anatomy, severity 0.50. it melts"
    assert {own["data-region"] for _, own in shown.tags if "data-region" in own} == {"1"}


def test_a_region_whose_place_is_not_known_is_listed_but_has_no_outline():
    unplaced = Region(mask=None, box=None, name="the odd light", category=Category.OPTICS)
    analysis = Analysis(size=Size(20, 30), regions=(unplaced,), detector="d")
    assert "data-region" not in stage(Image.new("RGB", (30, 20)), analysis, "an image")
    assert "place not known" in notes(analysis)


def test_a_small_region_lies_above_a_large_one_around_it():
    inner, outer = region("inner", (10, 10, 14, 14)), region("outer", (4, 4, 40, 40))
    shown = safe(timeline(result(attempt(analysis=analysis(inner, outer)))))
    assert [own["data-region"] for own in shown.all("path", "rf-region")] == ["2", "1"]


def test_before_and_after_are_the_first_picture_and_the_kept_one():
    failed = attempt(0, image=None, analysis=None, accepted=False, error="no")
    run = result(failed, attempt(1), attempt(2, analysis=analysis()), best=2)
    after, before = safe(comparison(run)).all("img")
    assert before["alt"] == "Before: attempt 1, 1 flaw, 8.3 % of the image"
    assert after["alt"] == "After: attempt 2, no flaws found"
    assert comparison(result(failed)) == ""
    assert "No image was generated: no" in safe(refinement_outcome(result(failed))).text


def patch(name="the hand", at=(8, 8, 24, 20), count=3, side=48, kept=None):
    """Candidates of a region, of which an image may show one."""
    mask = np.zeros((side, side), dtype=bool)
    mask[at[1] : at[3], at[0] : at[2]] = True
    images = tuple(picture(seed, side).crop(at) for seed in range(10, 10 + count))
    return Candidates(name=name, mask=mask, box=at, images=images, seeds=tuple(range(count)), shown=kept)


def test_every_candidate_is_shown_beside_what_the_image_shows_now():
    patches = (patch(HOSTILE, kept=1), patch("the clock", (30, 30, 40, 44), 2))
    image = picture()
    patches[0].paste(image, 1)
    run = result(attempt(image=image, candidates=patches))
    shown = safe(candidates(run))
    assert shown.text.count(HOSTILE) >= 1
    assert [tag for tag, _ in shown.tags].count("img") == 2 + 3 + 2
    assert [label for label in ("1.1", "1.2, in use", "1.3", "2.1", "2.2") if label not in shown.text] == []
    assert shown.text.count("in use") == 1
    labels, values = zip(*candidate_choices(run), strict=True)
    assert labels == (*(f"1.{n} {HOSTILE}" for n in (1, 2, 3)), "2.1 the clock", "2.2 the clock")
    assert [read_choice(value) for value in values] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_without_candidates_there_is_nothing_to_show():
    assert candidates(result(attempt())) == ""
    assert candidate_choices(result(attempt())) == []


@pytest.mark.parametrize(
    "value", [None, "", "0", ":", "0:", "-1:0", "0:1:2", "a:b", "0:1.5", "9" * 99 + ":0", 3, ["0:1"]]
)
def test_what_is_no_choice_is_none(value):
    assert read_choice(value) is None


@pytest.mark.parametrize("stop", get_args(StopReason))
def test_every_end_is_told(stop):
    assert STOPS[stop] in safe(refinement_outcome(result(attempt(), stop=stop))).text


def test_a_run_without_verification_says_so():
    reason = "kept without verification; worse for the detector: burden 0.500 -> 1.000"
    kept = result(attempt(0), attempt(1, reason=reason), best=1)
    assert "Nothing was verified: the last image was kept, better or not." in safe(refinement_outcome(kept)).text
    assert "Kept without verification; worse for the detector" in safe(timeline(kept)).text
    assert "verified" not in safe(refinement_outcome(result(attempt(0), attempt(1), best=1))).text


@pytest.mark.parametrize("action", get_args(Action))
def test_every_action_has_words(action):
    safe(timeline(result(attempt(action=action))))


@pytest.mark.parametrize(
    ("event", "words", "share"),
    [
        (Waiting(ahead=1), "Waiting: 1 job ahead of yours.", 0),
        (Waiting(ahead=3), "Waiting: 3 jobs ahead of yours.", 0),
        (Loading(), "Loading the models.", 0),
        (AttemptProgress(attempt=0), "Attempt 0.", 0),
        (AttemptProgress(attempt=1, step=5, steps=10), "Attempt 1, step 5 of 10.", 37.5),
        (AttemptProgress(attempt=9, step=20, steps=10), "Attempt 9, step 20 of 10.", 100),
        (AttemptProgress(attempt=0, step=5), "Attempt 0, step 5.", 0),
        (Ranking(name="a", done=1, total=4), "a: 1 of 4 images analysed.", 25),
    ],
)
def test_progress_is_told(event, words, share):
    shown = safe(progress_line(event, rounds=3))
    assert shown.text.strip() == words
    assert shown.all("i")[0]["style"] == f"width:{share:.1f}%"
    assert shown.all("div", "rf-status")[0]["role"] == "status"


def test_a_detector_without_answer_stands_beside_the_others():
    heat = np.linspace(0, 1, 48 * 48, dtype=np.float32).reshape(48, 48)
    said = {"one": analysis(region(), fake_probability=0.875, heatmap=heat), "two": analysis(), "three": "out of words"}
    shown = safe(answers(picture(), said))
    assert len(shown.all("article")) == 3
    assert "Probability that it is generated: 88 %" in shown.text
    assert "No flaws found" in shown.text
    assert "out of words" in shown.text
    assert len(shown.all("img", "rf-heat")) == 1
    assert "Show heat map" in shown.text
    assert "Show heat map" not in safe(answers(picture(), {"two": analysis()})).text


def test_a_ranking_is_shown_with_all_its_generators():
    def estimate(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    names = [HOSTILE, "two"]
    systems = [
        {"place": place, "name": name, "source": name, "scored": 4, "errors": {"InputError": 1} if place == 1 else {},
         "coverage": {"answered": 4, "failed": place - 1, "unplaced": 2},
         "problems": {}, "figures": {"CAP": estimate(place), "AF": estimate(1.0)}, "rates": {}}
        for place, name in enumerate(names, start=1)
    ]  # fmt: skip
    wins = {
        HOSTILE: {"two": {"overall": 0.9, "per_prompt": 0.7}},
        "two": {HOSTILE: {"overall": 0.1, "per_prompt": 0.3}},
    }
    document = {"by": "CAP", "prompts": 4, "pictures": 4, "of": 5, "systems": systems, "orders": {"CAP": names},
                "wins": {"CAP": wins}, "signature": HOSTILE}  # fmt: skip
    shown = safe(ranking(document))
    assert len(shown.all("tr")) == 3
    assert len(shown.all("svg")) == 2
    assert "with a probability of 90 %" in re.sub(r"\s+", " ", shown.text)
    assert "1 InputError" in shown.text
    assert "4/4, 2 unplaced" in shown.text
    assert "4/5, 1 failed, 2 unplaced" in shown.text
    assert "Stopped" not in safe(ranking_outcome(document)).text
    found = analysis(region(HOSTILE))
    flawed = [Flawed(name=HOSTILE, prompt=HOSTILE, image=picture(), analysis=found, score=0.5)]
    shown = safe(ranking(document, flawed))
    assert len(shown.all("article")) == len(shown.all("path", "rf-region")) == 1
    assert "The worst images of each generator" in shown.text
    assert f"Stopped, without {HOSTILE}. Best by CAP" in safe(ranking_outcome(document, [HOSTILE])).text


def filled(path: str, height: int, width: int, scale: int = 8):
    """Mask of the pixels whose middle lies inside an SVG path with fill rule evenodd."""
    inside = np.zeros((height, width), dtype=bool)
    for loop in path.split("Z")[:-1]:
        points = [tuple(float(value) * scale for value in point.split()) for point in loop[1:].split("L")]
        canvas = Image.new("1", (width * scale, height * scale))
        ImageDraw.Draw(canvas).polygon(points, fill=1)
        inside ^= np.asarray(canvas)[scale // 2 :: scale, scale // 2 :: scale]
    return inside


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_an_outline_goes_around_every_flawed_pixel_and_no_other(mask):
    assert (filled(svg_path(mask), *mask.shape) == mask).all()


def test_large_masks_have_short_outlines():
    height, width = 1500, 2000
    y, x = np.mgrid[:height, :width]
    mask = (x - 900) ** 2 + (y - 700) ** 2 < 400**2
    path = svg_path(mask)
    assert len(path) < 12_000
    values = np.array(re.findall(r"[\d.]+", path), dtype=float).reshape(-1, 2)
    x0, y0, x1, y1 = box_of(mask)
    cell = width / MOST
    assert np.abs(values.min(axis=0) - (x0, y0)).max() <= cell
    assert np.abs(values.max(axis=0) - (x1, y1)).max() <= cell
    speck = np.zeros((height, width), dtype=bool)
    speck[700, 900] = True
    assert svg_path(speck)
    assert svg_path(np.zeros((4, 4), dtype=bool)) == ""


def test_views_need_no_gradio():
    code = "import sys; sys.modules['gradio'] = None; import refiner.demo.views.refine, refiner.demo.views.detect"
    subprocess.run([sys.executable, "-P", "-c", f"{code}, refiner.demo.views.rank, refiner.demo.studio"], check=True)
