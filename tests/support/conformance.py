"""The rules that every detector must follow. A test class subclasses ``Conformance`` to check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.masks import box_of
from refiner.micro.flaws import inject
from refiner.micro.world import render, sample_scene
from refiner.protocols import Detector, Movable
from refiner.types import Analysis


def pictures() -> list[Image.Image]:
    """Images of the micro world, which every detector accepts."""
    rng = np.random.default_rng(20_000_000)
    flawed = [inject(sample_scene(rng, count), rng, count).image for count in (1, 2, 3, 4)]
    return [*flawed, *(render(sample_scene(rng)) for _ in range(2))]


def assert_same(first: Analysis, second: Analysis) -> None:
    assert first.raw == second.raw
    assert first.fake_probability == pytest.approx(second.fake_probability, abs=1e-4)
    assert len(first.regions) == len(second.regions)
    for one, other in zip(first.regions, second.regions, strict=True):
        assert (one.name, one.category, one.severity) == (other.name, other.category, other.severity)
        assert one.score == pytest.approx(other.score, abs=1e-3)
        if one.mask is not None and other.mask is not None:
            assert np.count_nonzero(one.mask != other.mask) <= 2, "floating point may move a pixel or two"


def networks(part: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Find the networks (torch modules) that a part holds, at any depth of its attributes."""
    import torch

    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, torch.nn.Module):
        yield part
    elif isinstance(part, list | tuple):
        yield from (found for each in part for found in networks(each, seen))
    elif type(part).__module__.startswith("refiner."):
        yield from (found for each in vars(part).values() for found in networks(each, seen))


class Conformance:
    """Tests of a detector; the module or class must define a fixture ``detector``."""

    @pytest.fixture(scope="class")
    @classmethod
    def prompt(cls) -> str | None:
        """The prompt of all images; None for a detector that needs none."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> list[Image.Image]:
        return pictures()

    @pytest.fixture(scope="class")
    @classmethod
    def answers(cls, detector: Detector, images: list[Image.Image], prompt: str | None) -> list[Analysis]:
        return [detector(image, prompt) for image in images]

    def test_it_is_a_detector_with_a_name(self, detector: Detector) -> None:
        assert isinstance(detector, Detector)
        assert detector.name.strip()

    def test_an_answer_fits_its_picture(self, answers: list[Analysis], images: list[Image.Image]) -> None:
        for analysis, image in zip(answers, images, strict=True):
            assert analysis.size == (image.height, image.width)
            assert analysis.detector.strip()
            assert 0.0 <= analysis.artifact_ratio <= 1.0
            assert analysis.burden >= 0.0

    def test_a_region_is_told_in_full(self, answers: list[Analysis]) -> None:
        for region in (region for analysis in answers for region in analysis.regions):
            assert region.name.strip()
            if region.mask is not None:
                assert region.mask.any()
                assert box_of(region.mask) == region.box

    def test_a_batch_gives_the_answers_of_single_calls(
        self, detector: Detector, images: list[Image.Image], answers: list[Analysis], prompt: str | None
    ) -> None:
        for order in (list(range(len(images))), [4, 0, 3, 3, 1]):
            prompts = None if prompt is None else [prompt] * len(order)
            together = detector.batch([images[index] for index in order], prompts)
            assert len(together) == len(order)
            for index, analysis in zip(order, together, strict=True):
                assert_same(analysis, answers[index])

    def test_an_answer_is_the_same_twice(
        self, detector: Detector, images: list[Image.Image], answers: list[Analysis], prompt: str | None
    ) -> None:
        assert_same(detector(images[0], prompt), answers[0])

    def test_an_empty_batch_is_an_empty_list(self, detector: Detector) -> None:
        assert detector.batch([]) == []

    def test_it_moves_all_its_networks_and_keeps_their_dtypes(
        self, detector: Detector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch = pytest.importorskip("torch")
        held = list(networks(detector))
        if not held:
            return
        assert isinstance(detector, Movable)
        dtypes = [[weight.dtype for weight in network.parameters()] for network in held]
        moved: set[int] = set()
        move = torch.nn.Module.to

        def noted(network: Any, *places: Any, **options: Any) -> Any:
            moved.add(id(network))
            return move(network, *places, **options)

        monkeypatch.setattr(torch.nn.Module, "to", noted)
        for device in ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]:
            moved.clear()
            assert detector.to(device) is detector
            assert {id(network) for network in held} <= moved
            assert {weight.device.type for network in held for weight in network.parameters()} == {device}
        assert [[weight.dtype for weight in network.parameters()] for network in held] == dtypes

    def test_pictures_are_left_as_they_were(
        self, detector: Detector, images: list[Image.Image], prompt: str | None
    ) -> None:
        before = np.asarray(images[0]).copy()
        detector(images[0], prompt or "a prompt")
        assert np.array_equal(before, np.asarray(images[0]))
