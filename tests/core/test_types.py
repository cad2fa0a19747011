import dataclasses

import numpy as np
import pytest
from PIL import Image

from refiner.errors import BadAnswerError, ConfigError, ModelError, UserError
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Calls, Claim, RefinementResult, Region, Size

SIZE = Size(20, 30)


def region(**changes):
    fields = {"mask": None, "box": (2, 3, 12, 8), "name": "the hand", "category": Category.ANATOMY}
    return Region(**fields | changes)


def attempt(index=0, **changes):
    fields = {
        "index": index,
        "action": "generate",
        "prompt": "a hand",
        "seed": 1,
        "image": Image.new("RGB", (30, 20)),
        "analysis": None,
        "accepted": True,
        "reason": "",
    }
    return Attempt(**fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"severity": 1.1},
        {"severity": float("nan")},
        {"score": -0.1},
        {"box": (5, 5, 5, 9)},
        {"box": (-1, 0, 3, 3)},
        {"box": (9, 9, 3, 3)},
        {"mask": np.zeros((20, 30))},
        {"mask": np.zeros((20, 30, 1), dtype=bool)},
        {"mask": np.zeros((5, 5), dtype=bool)},
    ],
)
def test_regions_check_themselves(changes):
    with pytest.raises(BadAnswerError, match=r"must .*got"):
        region(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"severity": 1.1}, {"severity": float("nan")}, {"score": -0.1}, {"box": (5, 5, 5, 9)}, {"marks": (0, -1)}],
)
def test_claims_check_themselves(changes):
    with pytest.raises(BadAnswerError, match=r"Claim\..* must .*got"):
        Claim(name="the hand", **changes)


def test_what_a_claim_does_not_tell_is_unknown():
    claim = Claim()
    assert (claim.category, claim.severity, claim.score, claim.box) == (None, None, None, None)
    assert {claim.name, claim.location, claim.explanation, claim.reasoning} == {""}


@pytest.mark.parametrize(
    "changes",
    [
        {"fake_probability": 2.0},
        {"regions": (region(box=(0, 0, 31, 5)),)},
        {"regions": (region(mask=np.zeros((20, 31), dtype=bool)),)},
        {"heatmap": np.zeros((30, 20), dtype=np.float32)},
        {"trace": ("found",)},
    ],
)
def test_analyses_check_themselves(changes):
    with pytest.raises(BadAnswerError, match=r"must .*got"):
        Analysis(size=SIZE, detector="d", **changes)


def test_what_a_detector_answers_is_never_the_users_error():
    assert issubclass(BadAnswerError, ModelError)
    assert not issubclass(BadAnswerError, UserError | ValueError)


def test_a_region_without_a_mask_counts_as_its_box():
    analysis = Analysis(size=SIZE, detector="d", regions=(region(), region(box=(0, 0, 30, 4))))
    assert analysis.mask[3:8, 2:12].all()
    assert analysis.artifact_ratio == pytest.approx((120 + 40) / 600)


def test_an_unplaced_region_counts_in_the_burden_and_in_no_area():
    unplaced = region(box=None, severity=0.5)
    assert not unplaced.placed
    analysis = Analysis(size=SIZE, regions=(unplaced, region()), detector="x")
    assert analysis.burden == 1.5
    assert np.array_equal(analysis.mask, region().pixels(SIZE))
    with pytest.raises(BadAnswerError, match=r"Region\.box must be given with its mask"):
        region(box=None, mask=np.ones(tuple(SIZE), dtype=bool))


def test_burden_weighs_severity_by_confidence():
    analysis = Analysis(size=SIZE, detector="d", regions=(region(severity=0.5, score=0.5), region(severity=1.0)))
    assert analysis.burden == pytest.approx(1.25)
    assert Analysis(size=SIZE, detector="d").burden == 0


def test_types_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        region().name = "another"


def test_result_adds_up_its_attempts():
    attempts = (attempt(calls=Calls(denoiser_rows=4, detector_calls=1)), attempt(1, image=None))
    result = RefinementResult(prompt="a hand", attempts=attempts, best=0, stop="rounds")
    assert result.calls == Calls(denoiser_rows=4, detector_calls=1)
    assert result.image is attempts[0].image
    assert len(result.history) == 1


@pytest.mark.parametrize("best", [-1, 1])
def test_best_must_be_an_attempt(best):
    with pytest.raises(ConfigError, match="best must index"):
        RefinementResult(prompt="a hand", attempts=(attempt(),), best=best, stop="rounds")


def test_a_best_without_picture_says_so():
    with pytest.raises(ConfigError, match="has an image"):
        _ = RefinementResult(prompt="a hand", attempts=(attempt(image=None),), best=0, stop="unreadable").image
