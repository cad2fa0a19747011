"""Parts by their names: the regions, the ids, and a loop that regenerates the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from support.tiny_locators import save_locator  # noqa: E402

from refiner.detectors import load_detector  # noqa: E402
from refiner.detectors.grounding.base import BoxGrounder  # noqa: E402
from refiner.detectors.grounding.text import Located  # noqa: E402
from refiner.detectors.parts.detector import REASONING, PartsDetector, load_parts  # noqa: E402
from refiner.errors import BadAnswerError, ConfigError, ModelNotFoundError, WeightsError  # noqa: E402
from refiner.pipelines import TemplateReviser  # noqa: E402
from refiner.protocols import Detector  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis  # noqa: E402

torch.set_num_threads(1)


@dataclass
class Places:
    """A locator with fixed answers."""

    found: Sequence[Located] = ()
    name: str = "places"

    def locate(self, image: Image.Image, phrases: Sequence[str]) -> list[Located]:
        return [place for place in self.found if place.phrase in phrases]


HAND = Located(phrase="hand", box=(4, 6, 20, 22), score=0.6)
TEXT = Located(phrase="text", box=(30, 2, 40, 8), score=0.25)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def look(*found: Located, parts: Sequence[str] = ("hand", "text")) -> Analysis:
    return PartsDetector(Places(found), BoxGrounder(), parts)(picture())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_locator(tmp_path_factory.mktemp("locator"))


def test_a_region_says_that_it_is_a_part_and_no_flaw() -> None:
    hand, text = look(HAND, TEXT).regions
    assert (hand.name, hand.category, hand.location) == ("the hand", Category.ANATOMY, "left")
    assert (text.name, text.category) == ("the text", Category.TEXT)
    for region in (hand, text):
        assert region.reasoning == REASONING
        assert region.explanation == ""
    assert hand.box == HAND.box
    assert hand.mask.sum() == 16 * 16


def test_doubt_is_the_severity_so_that_a_part_that_became_clearer_is_better() -> None:
    hand, text = look(HAND, TEXT).regions
    assert (hand.severity, text.severity) == (0.4, 0.75)
    assert hand.score == text.score == 1.0
    burdens = [look(Located(phrase="hand", box=HAND.box, score=score)).burden for score in (0.3, 0.5, 0.7, 0.9)]
    assert burdens == sorted(burdens, reverse=True)


def test_without_a_part_there_is_nothing_to_repaint() -> None:
    analysis = look()
    assert (analysis.regions, analysis.burden, analysis.fake_probability) == ((), 0, None)


def test_nothing_of_a_part_enters_a_negative_prompt() -> None:
    (hand,) = look(HAND).regions
    revision = TemplateReviser().for_region("a woman waving", hand)
    assert revision.prompt == "a woman waving, a complete, well-formed hand"
    assert revision.negative_prompt == ""


def test_names_are_cleaned_and_asked_for_once() -> None:
    detector = PartsDetector(Places(), BoxGrounder(), [" Hand ", "hand", "", "!", "left eye."])
    assert detector.parts == ("hand", "left eye")
    assert detector.name == "parts:hand,left eye@places, masks by box (fallback without a model)"
    for nothing in ([], ["", "?"]):
        with pytest.raises(ConfigError, match="names of parts"):
            PartsDetector(Places(), BoxGrounder(), nothing)


def test_by_id_it_is_a_detector_like_any_other(folder: Path) -> None:
    detector = load_detector(f"parts:hand,face@{folder}", device="cpu")
    assert isinstance(detector, Detector)
    assert detector.parts == ("hand", "face")
    analysis = detector(picture(), "a prompt")
    assert analysis.regions
    assert {region.name for region in analysis.regions} <= {"the hand", "the face"}
    assert all(0 <= region.severity <= 1 for region in analysis.regions)
    assert "masks by box" in analysis.detector
    for options in ({"grounder": "grabcut"}, {}):
        name = f"parts:hand@{folder}" + ("" if options else ",grounder=grabcut")
        drawn = load_detector(name, device="cpu", **options)
        assert drawn.parts == ("hand",)
        assert "masks by box" not in drawn.name
    assert detector.to("cpu") is detector


@pytest.mark.parametrize("name", ["parts:", "parts:@x", "parts:,,@x", "parts:?!"])
def test_an_id_without_parts_is_refused_before_a_model_is_loaded(name: str) -> None:
    with pytest.raises(ConfigError, match="parts:hand,face"):
        load_detector(name)


def test_an_unknown_or_other_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_parts(f"hand@{tmp_path}/nothing here")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="bert"):
        load_parts(f"hand@{tmp_path}")


def test_numbers_that_are_none_are_no_clean_picture(folder: Path) -> None:
    detector = load_parts(f"hand@{folder}", device="cpu")
    with torch.no_grad():
        for weights in detector.locator.model.parameters():
            weights.fill_(float("nan"))
    with pytest.raises(BadAnswerError, match="NaN"):
        detector(picture())


def test_a_batch_needs_a_prompt_for_each_picture() -> None:
    with pytest.raises(ConfigError, match="one prompt for each"):
        PartsDetector(Places(), BoxGrounder(), ["hand"]).batch([picture()] * 2, ["just one"])
