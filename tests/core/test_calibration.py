"""A calibration: its verdicts, its file, and files that are none."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.calibration import Calibration, Curve, Isotonic, OperatingPoint, Platt
from refiner.errors import ConfigError, InputError

POINT = OperatingPoint(
    threshold=0.4, wanted=0.05, false_positives=3, real=100, interval=(0.006, 0.085), found=70, generated=90,
    recall_interval=(0.67, 0.86),
)  # fmt: skip
STEPS = Isotonic(scores=(0.1, 0.3, 0.5, 0.9), probabilities=(0.02, 0.2, 0.6, 0.97))
CALIBRATION = Calibration(
    detector="a detector 1", point=POINT, max_error=0.2, band=(0.25, 0.6), curve=STEPS, data={"specification": "x"},
    figures={"wrong": 0.1},
)  # fmt: skip

units = st.floats(0, 1)
risen = st.lists(units, min_size=1, max_size=8, unique=True).map(lambda values: tuple(sorted(values)))


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    if draw(st.booleans()):
        return Platt(slope=draw(st.floats(0, 50)), intercept=draw(st.floats(-50, 50)))
    scores = draw(risen)
    levels = draw(st.lists(units, min_size=len(scores), max_size=len(scores)))
    return Isotonic(scores=scores, probabilities=tuple(sorted(levels)))


@given(curves(), st.floats(0, 0.999), st.lists(units, min_size=2, max_size=20))
def test_verdicts_never_fall_and_their_middle_is_the_operating_point(
    curve: Curve, threshold: float, scores: list[float]
) -> None:
    calibration = replace(CALIBRATION, point=replace(POINT, threshold=threshold), band=None, curve=curve)
    scores = sorted([*scores, threshold, math.nextafter(threshold, 1)])
    verdicts = [calibration.verdict(score) for score in scores]
    assert None not in verdicts
    for score, verdict in zip(scores, verdicts, strict=True):
        assert 0 < verdict < 1  # type: ignore[operator]
        assert (verdict > 0.5, verdict < 0.5) == (score > threshold, score <= threshold)  # type: ignore[operator]
    assert (np.diff(np.array(verdicts, dtype=float)) >= -1e-12).all()
    chances = [calibration.probability(score) for score in scores]
    assert (np.diff(chances) >= -1e-12).all()


@pytest.mark.parametrize(("score", "known"), [(0.2, True), (0.25, False), (0.4, False), (0.6, False), (0.61, True)])
def test_in_the_band_the_verdict_is_open(score: float, known: bool) -> None:
    assert (CALIBRATION.verdict(score) is not None) == known


def test_odds_are_divided_by_those_of_the_operating_point() -> None:
    here, there = CALIBRATION.probability(0.9), CALIBRATION.probability(POINT.threshold)
    assert there == pytest.approx(0.4)
    odds = here / (1 - here) / (there / (1 - there))
    assert CALIBRATION.verdict(0.9) == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize("curve", [STEPS, Platt(slope=1.5, intercept=-0.3)])
@pytest.mark.parametrize("band", [(0.25, 0.6), None])
def test_a_file_holds_all_of_it(curve: Curve, band: tuple[float, float] | None, tmp_path: Path) -> None:
    calibration = replace(CALIBRATION, curve=curve, band=band)
    again = Calibration.read(calibration.save(tmp_path / "c.json"))
    assert (again, again.digest) == (calibration, calibration.digest)


def test_what_changes_verdicts_changes_the_digest() -> None:
    others = (
        replace(CALIBRATION, detector="another"),
        replace(CALIBRATION, point=replace(POINT, threshold=0.41)),
        replace(CALIBRATION, band=None),
        replace(CALIBRATION, curve=Platt(slope=1, intercept=0)),
    )
    assert len({each.digest for each in (CALIBRATION, *others)}) == 5
    assert replace(CALIBRATION, figures={}).digest == CALIBRATION.digest


@pytest.mark.parametrize("band", [(0.5, 0.6), (0.1, 0.3), (-0.1, 0.6), (0.3, 1.1), (0.6, 0.3), (math.nan, 0.6)])
def test_a_band_that_is_not_around_the_operating_point_is_refused(band: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="abstention band"):
        replace(CALIBRATION, band=band)


def changed(*keys: str, value: Any) -> str:
    document = CALIBRATION.document()
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(document)


HOSTILE = {
    "empty": ("", "Expecting value"),
    "a list": ("[]", "cannot be read"),
    "a number": ("7", "cannot be read"),
    "deep": ("[" * 100_000, "cannot be read"),
    "no schema": ("{}", "'schema' is missing"),
    "another schema": (changed("schema", value=2), "its schema is 2, not 1"),
    "a yes as schema": (changed("schema", value=True), "its schema is True"),
    "no text": (changed("detector", value=4), "its detector is no text"),
    "a threshold in words": (changed("operating_point", "threshold", value="0.5"), "'0.5' is no finite number"),
    "NaN": (changed("operating_point", "threshold", value=math.nan), "nan is no finite number"),
    "a huge number": (changed("operating_point", "threshold", value=10**400), "cannot be read"),
    "a threshold of 1": (changed("operating_point", "threshold", value=1), "threshold in \\[0, 1\\)"),
    "a count below 0": (changed("operating_point", "real", value=-1), "its counts are"),
    "a band of three": (changed("abstention", "band", value=[0, 1, 1]), "too many values"),
    "a band elsewhere": (changed("abstention", "band", value=[0.8, 0.9]), "abstention band"),
    "an unknown map": (changed("map", "method", value="spline"), "its map is of the kind 'spline'"),
    "a falling map": (changed("map", "probabilities", value=[0.9, 0.5, 0.4, 0.1]), "do not fall"),
    "a map without points": (changed("map", value={"method": "isotonic", "scores": [], "probabilities": []}), "points"),
    "a falling curve": (changed("map", value={"method": "platt", "slope": -1, "intercept": 0}), "does not fall"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_calibration_is_refused_in_words(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Calibration.read(tmp_path / "c.json")
    assert str(error.value).startswith("The calibration ")
    assert str(error.value).endswith("name a file that refiner calibrate wrote.")


def test_places_without_a_file_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text(" " * 5_000_000)
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{}")
    for place in (tmp_path, tmp_path / "none.json", tmp_path / "large.json", tmp_path / "latin.json", "a\0b"):
        with pytest.raises(InputError, match="cannot be read"):
            Calibration.read(place)


@pytest.mark.parametrize("seed", range(300))
def test_spoilt_files_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    values = [None, True, -1, 2, 1e308, 10**400, "", "x", [], [1], {}, {"a": 1}, math.inf]

    def spoil(node: Any) -> Any:
        if rng.random() < 0.06:
            return values[rng.integers(len(values))]
        if isinstance(node, dict):
            return {key: spoil(value) for key, value in node.items() if rng.random() > 0.01}
        return [spoil(each) for each in node] if isinstance(node, list | tuple) else node

    text = json.dumps(spoil(CALIBRATION.document()))
    text = text[: int(rng.integers(len(text) + 1))] if rng.random() < 0.2 else text
    (tmp_path / "c.json").write_text(text)
    with suppress(InputError):
        found = Calibration.read(tmp_path / "c.json")
        assert all((found.verdict(score) or 0.5) <= 1 for score in (0.0, 0.4, 1.0))
