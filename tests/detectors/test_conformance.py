"""What every detector must keep, whatever it is made of."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny_locators import save_locator

from refiner.detectors import load_detector
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.masks import box_of
from refiner.micro.flaws import inject
from refiner.micro.world import render, sample_scene
from refiner.protocols import Detector
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size


def scripted() -> Detector:
    """Marks the darkest pixels; a function of the picture, so that order does not matter."""

    def answer(image: Image.Image) -> Analysis:
        grey = np.asarray(image.convert("L"))
        mask = grey == grey.min()
        box = box_of(mask)
        assert box is not None
        region = Region(mask=mask, box=box, name="the darkest pixels", category=Category.COLOR)
        return Analysis(size=Size(image.height, image.width), regions=(region,), detector="scripted")

    return ScriptedDetector(answer)


def parts() -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        return load_detector(f"parts:hand,face,text@{save_locator(Path(folder))}", device="cpu")


def vision_language() -> Detector:
    """A tiny network of Qwen3-VL's architecture that says one of three answers by what it sees."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.vlm.questions import box_format, finding

    flaws = [{"name": f"thing {n}", "category": "shape", "bbox_2d": [90 * n, 9, 90 * n + 200, 600]} for n in range(2)]
    answers = [json.dumps({"regions": found, "verdicts": []}) for found in (flaws[:1], flaws, [])]
    rng = np.random.default_rng(1)
    questions = [finding(render(sample_scene(rng)), "", box_format("qwen"), thorough=True) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"vlm:{folder}", device="cpu", grounder="box")


DETECTORS: dict[str, Callable[[], Detector]] = {
    "scripted": scripted,
    "vlm": vision_language,
    "parts": parts,
    "micro:legion": lambda: load_detector("micro:legion", device="cpu"),
    "micro:probe": lambda: load_detector("micro:probe", device="cpu"),
    "joint": lambda: load_detector("joint:micro:legion+micro:probe", device="cpu"),
    "micro:vlm": lambda: load_detector("micro:vlm", device="cpu"),
}


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Detector:
    return DETECTORS[request.param]()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Pictures of the micro world: every detector's domain."""
    rng = np.random.default_rng(20_000_000)
    flawed = [inject(sample_scene(rng, count), rng, count).image for count in (1, 2, 3, 4)]
    return [*flawed, *(render(sample_scene(rng)) for _ in range(2))]


@pytest.fixture(scope="module")
def answers(detector: Detector, images: list[Image.Image]) -> list[Analysis]:
    return [detector(image) for image in images]


def test_it_is_a_detector_with_a_name(detector: Detector) -> None:
    assert isinstance(detector, Detector)
    assert detector.name.strip()


def test_an_answer_fits_its_picture(answers: list[Analysis], images: list[Image.Image]) -> None:
    for analysis, image in zip(answers, images, strict=True):
        assert analysis.size == (image.height, image.width)
        assert analysis.detector.strip()
        assert 0.0 <= analysis.artifact_ratio <= 1.0
        assert analysis.burden >= 0.0


def test_a_region_is_told_in_full(answers: list[Analysis]) -> None:
    for region in (region for analysis in answers for region in analysis.regions):
        assert region.name.strip()
        if region.mask is not None:
            assert region.mask.any()
            assert box_of(region.mask) == region.box


def test_a_batch_gives_the_answers_of_single_calls(
    detector: Detector, images: list[Image.Image], answers: list[Analysis]
) -> None:
    for order in (list(range(len(images))), [4, 0, 3, 3, 1]):
        together = detector.batch([images[index] for index in order])
        assert len(together) == len(order)
        for index, analysis in zip(order, together, strict=True):
            assert_same(analysis, answers[index])


def test_an_answer_is_the_same_twice(detector: Detector, images: list[Image.Image], answers: list[Analysis]) -> None:
    assert_same(detector(images[0]), answers[0])


def test_an_empty_batch_is_an_empty_list(detector: Detector) -> None:
    assert detector.batch([]) == []


def test_pictures_are_left_as_they_were(detector: Detector, images: list[Image.Image]) -> None:
    before = np.asarray(images[0]).copy()
    detector(images[0], "a prompt")
    assert np.array_equal(before, np.asarray(images[0]))


def assert_same(first: Analysis, second: Analysis) -> None:
    assert first.raw == second.raw
    assert first.fake_probability == pytest.approx(second.fake_probability, abs=1e-4)
    assert len(first.regions) == len(second.regions)
    for one, other in zip(first.regions, second.regions, strict=True):
        assert (one.name, one.category, one.severity) == (other.name, other.category, other.severity)
        assert one.score == pytest.approx(other.score, abs=1e-3)
        if one.mask is not None and other.mask is not None:
            assert np.count_nonzero(one.mask != other.mask) <= 2, "floating point may move a pixel or two"


def test_legion_survives_saving(tmp_path: Path, images: list[Image.Image]) -> None:
    from refiner.detectors.legion import LegionDetector

    detector = load_detector("micro", device="cpu")
    assert isinstance(detector, LegionDetector)
    detector.save_pretrained(tmp_path)
    again = load_detector(tmp_path, device="cpu")
    for image in images:
        assert_same(again(image), detector(image))
    with pytest.raises(ConfigError, match="one prompt for each"):
        detector.batch(images, ["just one"])
