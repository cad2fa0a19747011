"""The answers that LEGION learns from captions and regions: what is taught can be read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from refiner.data.samples import UNNAMED, Sample
from refiner.data.sources import open_data
from refiner.detectors.legion.grammar import CLEAN, parse
from refiner.errors import InputError
from refiner.taxonomy import Category
from refiner.training.legion.answers import answer_of
from refiner.types import Analysis, Region, Size

SIZE = Size(20, 30)
OPENING = "Upon examining the image. I have found: two artifacts.\nTo elaborate, I have found the following artifacts. "


def region(name: str, row: int = 0, **changes: object) -> Region:
    mask = np.zeros(tuple(SIZE), dtype=np.bool_)
    mask[row] = True
    fields = {"mask": mask, "box": (0, row, 30, row + 1), "name": name, "category": Category.ANATOMY, **changes}
    return Region(**fields)


def sample(caption: str, *regions: Region, truth: bool = True) -> Sample:
    analysis = Analysis(size=SIZE, regions=regions, detector="truth")
    return Sample(name="a.png", image=Image.new("RGB", (30, 20)), truth=analysis if truth else None, caption=caption)


def test_the_phrases_of_a_caption_are_marked_in_the_order_of_the_text() -> None:
    foot, hand = region("The foot", 1), region("The left hand", 2)
    taught = answer_of(sample(f"{OPENING}The left hand:six fingers. The foot:no toes.", foot, hand))
    assert taught.text == f"{OPENING}<p> The left hand </p> [SEG]:six fingers. <p> The foot </p> [SEG]:no toes."
    assert taught.regions == (hand, foot)
    assert [(claim.name, claim.explanation) for claim in parse(taught.text)] == [
        ("The left hand", "six fingers"),
        ("The foot", "no toes"),
    ]


def test_a_repeated_phrase_gives_each_region_an_occurrence_of_its_own() -> None:
    first, second = region("hand", 1), region("hand", 2)
    taught = answer_of(sample("hand:one. hand:two.", first, second))
    assert taught.text == "<p> hand </p> [SEG]:one. <p> hand </p> [SEG]:two."
    assert taught.regions == (first, second)


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("The foot:no toes.", region("The ear")),  # not in the caption
        ("The foot:no toes.", region("foot")),  # overlaps another phrase
        ("The foot:no toes.", region("")),
        ("The foot:no toes. The light:odd.", region("The light", mask=None, box=None)),  # no place
    ],
)
def test_a_region_that_cannot_be_marked_is_left_out_of_masks_and_marks(caption: str, left: Region) -> None:
    foot = region("The foot")
    taught = answer_of(sample(caption, foot, left))
    assert taught.text == caption.replace("The foot", "<p> The foot </p> [SEG]")
    assert (taught.regions, taught.left_out) == ((foot,), (left,))


def test_a_phrase_inside_another_word_is_taken_only_if_there_is_no_other() -> None:
    ear = region("ear")
    assert answer_of(sample("near the ear:cut", ear)).text == "near the <p> ear </p> [SEG]:cut"
    assert answer_of(sample("near it", ear)).text == "n<p> ear </p> [SEG] it"


def test_without_a_caption_the_answer_is_composed_of_the_regions() -> None:
    hand = region("the hand", location="left", explanation="six fingers", reasoning="a hand has five", severity=0.9)
    (claim,) = parse(answer_of(sample("", hand)).text)
    for name in ("name", "location", "explanation", "reasoning", "category", "severity"):
        assert getattr(claim, name) == getattr(hand, name)
    assert answer_of(sample("")).text == CLEAN


def test_a_region_without_a_name_is_called_by_its_place() -> None:
    (claim,) = parse(answer_of(sample("", region(UNNAMED, 19, explanation="six fingers"))).text)
    assert (claim.name, claim.location, claim.explanation) == ("an area", "lower centre", "six fingers")


def test_flaws_whose_places_are_not_known_are_never_taught_as_clean() -> None:
    with pytest.raises(InputError, match=r"places are not known"):
        answer_of(sample("", region("the hand", mask=None, box=None, explanation="six fingers")))
    tagged = sample("")
    assert tagged.truth is not None
    with pytest.raises(InputError, match=r"places are not known"):
        answer_of(replace(tagged, truth=replace(tagged.truth, tags=("texture quality",))))


def test_masks_without_explanations_teach_nothing() -> None:
    with pytest.raises(InputError, match=r"regions without explanations"):
        answer_of(sample("", region(UNNAMED)))


def test_a_sample_that_does_not_say_which_flaws_there_are_teaches_nothing() -> None:
    with pytest.raises(InputError, match=r"no regions to learn from"):
        answer_of(sample("The foot:no toes.", truth=False))


def test_every_taught_answer_has_as_many_marks_as_masks() -> None:
    data = open_data("micro:30")
    for index in range(30):
        taught = answer_of(data.load(index))
        claims = parse(taught.text)
        assert sum(len(claim.marks) for claim in claims) == len(taught.regions)
        assert [claim.name for claim in claims] == [each.name for each in taught.regions]
