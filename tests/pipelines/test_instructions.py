"""What edit models are told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refiner.pipelines import RefineConfig
from refiner.pipelines.editing.instructions import KEEP, as_edit, avoiding, instruction_for, shown_in
from refiner.protocols import InpaintJob
from refiner.taxonomy import Category
from refiner.types import Region


def flaw(category: Category = Category.ANATOMY, name: str = "left hand", explanation: str = "six fingers") -> Region:
    return Region(mask=None, box=(0, 0, 8, 8), name=name, explanation=explanation, category=category, severity=0.5)


@pytest.mark.parametrize("category", Category)
@pytest.mark.parametrize("name", ["left hand", "the left hand", "A clock", "", "a <b>|odd|</b> {name} %s"])
def test_an_instruction_names_the_flaw_says_what_is_wrong_and_that_the_rest_stays(
    category: Category, name: str
) -> None:
    told = instruction_for([flaw(category, name)], "a hand with five fingers on a beach")
    assert told.endswith(KEEP)
    assert "six fingers." in told
    assert "the the" not in told.lower()
    assert "the a " not in told.lower()
    assert ("left hand" in told) == ("left hand" in name)
    assert ("the marked part" in told) == (not name)
    assert shown_in(told) == "a hand with five fingers on a beach"
    assert told.isprintable()


@pytest.mark.parametrize("wanted", ["", "a hand", "Who is it?", "It shows It shows a hand."])
def test_what_is_shown_is_found_again(wanted: str) -> None:
    told = instruction_for([flaw()], wanted)
    assert shown_in(told) == (wanted.removesuffix(".") or told)
    assert avoiding(told, "") == told
    assert avoiding(told, "blur").endswith("Do not show: blur.")


def test_flaws_that_are_repaired_together_are_told_once_each_and_long_explanations_are_cut() -> None:
    twice = instruction_for([flaw(), flaw(), flaw(name="clock", explanation="no " * 500)], "")
    assert twice.count("left hand") == 1
    assert twice.count("no ") < 100


def test_a_text_of_the_user_is_the_whole_instruction_and_only_their_negative_prompt_stays() -> None:
    job = InpaintJob(
        image=Image.new("RGB", (8, 8)), mask=np.ones((8, 8), dtype=bool), prompt="paint it red", seed=1, strength=0.7,
        negative_prompt="blur, six fingers", texts={"prompt_2": "x"}, whole=True,
    )  # fmt: skip
    edit = as_edit(job, [flaw()], RefineConfig(negative_prompt="blur"), own=True)
    assert (edit.tool, edit.prompt, edit.negative_prompt) == ("edit", "paint it red", "blur")
    assert (edit.texts, edit.whole, edit.seed) == ({}, False, 1)
