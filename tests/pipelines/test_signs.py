"""The signs of the micro world by its referee and by a reader that was not trained on it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.text.reader import Line, RapidReader
from refiner.micro.flaws import inject
from refiner.micro.oracle import inspect
from refiner.micro.world import Scene, parse_caption, render, sample_scene
from refiner.pipelines import signs
from refiner.pipelines.signs import SignsRead, read_signs, sign_counts, total_signs


def scene_of(seed: int) -> Scene:
    """A single sign saying tea, placed by the seed."""
    placed = (sample_scene(np.random.default_rng([seed, number]), 1) for number in range(1000))
    return next(scene for scene in placed if scene.things[0].attribute == "tea")


@pytest.mark.parametrize("seed", range(2))
def test_both_tell_a_lost_letter_from_a_whole_word(seed: int) -> None:
    scene, reader = scene_of(seed), RapidReader()
    clean = render(scene)
    assert read_signs(clean, scene, inspect(clean, scene), reader) == SignsRead((False,), (False,))
    flawed = inject(scene, np.random.default_rng(seed), 1, ["missing_letter"]).image
    assert read_signs(flawed, scene, inspect(flawed, scene), reader) == SignsRead((True,), (True,))


def test_a_word_that_is_there_once_is_not_read_twice() -> None:
    class Once:
        name = "once"

        def read(self, image: Image.Image) -> list[Line]:
            assert image.size == (384, 384)
            return [Line("TEA", 0.9, np.zeros((4, 2)))]

    scene = parse_caption("a red sign saying tea left of a blue sign saying tea on a sky background")
    image = Image.new("RGB", (96, 96))
    assert read_signs(image, scene, inspect(image, scene), Once()).by_reader == (False, True)


def test_no_reader_and_no_sign_give_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = parse_caption("a red cat with four legs facing left on a sky background")
    image = Image.new("RGB", (96, 96))
    verdict = inspect(image, scene)
    assert sign_counts(image, scene, verdict) == {"signs": 0, "oracle_signs": 0, "text_signs": 0}
    monkeypatch.setattr(signs, "installed_reader", lambda: None)
    assert sign_counts(image, scene, verdict) == {}
    row = {"signs": 2, "oracle_signs": 1, "text_signs": 2}
    assert total_signs([row, row]) == {"signs": 4, "oracle_signs": 2, "text_signs": 4}
    assert total_signs([row, {}]) is None
