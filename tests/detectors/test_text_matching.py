"""Matching of what is read with what is wanted, without a reader: kinds of flaws, their places, and hostile lines."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors.text.detector import TextDetector
from refiner.detectors.text.reader import Line
from refiner.lettering import of_steps
from refiner.taxonomy import Category
from refiner.types import Analysis

PICTURE = Image.new("RGB", (400, 300))


class Lines:
    """A reader that knows what it reads: lines of 20 pixels for each letter, one below the other."""

    name = "lines"

    def __init__(self, *lines: tuple[str, float]) -> None:
        self.lines = lines

    def read(self, image: Image.Image) -> list[Line]:
        return [Line(text, score, _corners(row, 20 * len(text))) for row, (text, score) in enumerate(self.lines)]


def _corners(row: int, width: int) -> NDArray[np.float64]:
    top, bottom = 50 * row, 50 * row + 30
    return np.array([(0, top), (width, top), (width, bottom), (0, bottom)], dtype=np.float64)


def looked(prompt: str, *lines: str | tuple[str, float]) -> Analysis:
    told = [line if isinstance(line, tuple) else (line, 0.99) for line in lines]
    return TextDetector(Lines(*told))(PICTURE, prompt)


def kinds(analysis: Analysis) -> list[tuple[str, str]]:
    return [(each.word, each.kind) for each in of_steps(analysis.trace)]


@pytest.mark.parametrize(
    ("prompt", "lines"),
    [
        ('"OPEN"', ["open"]), ('"Happy Birthday"', ["HAPPY", "BIRTHDAY"]), ('"Happy Birthday"', ["HAPPYBIRTHDAY"]),
        ('"OPEN"', ["O P E N"]), ('"欢迎光临"', ["欢迎", "光临"]), ('"ラーメン" "さくら"', ["さくらラーメン"]),
        ('"A B"', ["B", "A"]),
        ('"STOP" and "STOP"', ["STOP STOP"]), ('"OPEN"', ["WE ARE OPEN NOW"]), ("a cat", ["ANYTHING", "AT ALL"]),
        ('"OPEN"', [("OPEN", 0.6)]), ("a cat", [("仓", 0.3)]), ("a cat", []),
        ("a palace", [("AAA", 0.6)]),
    ],
)  # fmt: skip
def test_what_is_there_as_wanted_is_no_flaw(prompt: str, lines: list[str]) -> None:
    analysis = looked(prompt, *lines)
    assert analysis.regions == ()
    assert all(kind == "read" for _, kind in kinds(analysis))


def test_a_misspelt_word_has_its_place_its_words_and_the_edit_distance_as_severity() -> None:
    analysis = looked('a sign that says "WE ARE OPEN"', "WE ARE OPNE")
    (region,) = analysis.regions
    assert region.explanation == "reads OPNE; the prompt asks for OPEN"
    assert (region.name, region.category, region.severity) == ('the text "OPEN"', Category.TEXT, 0.5)
    assert region.box == (140, 0, 221, 31)
    assert kinds(analysis) == [("WE", "read"), ("ARE", "read"), ("OPEN", "misspelt")]
    nearer = looked('"WELCOME"', "WELCOMO").regions[0]
    assert (nearer.severity, nearer.score) == (pytest.approx(1 / 7, abs=1e-6), 0.99)


def test_a_missing_word_is_an_unplaced_misalignment_of_full_severity() -> None:
    analysis = looked('"OPEN" and "24 hours"', "CLOSED", "24")
    assert [(region.name, region.placed, region.category, region.severity) for region in analysis.regions] == [
        ('the text "OPEN"', False, Category.MISALIGNMENT, 1.0), ('the text "hours"', False, Category.MISALIGNMENT, 1.0),
    ]  # fmt: skip
    assert kinds(analysis) == [("OPEN", "missing"), ("24", "read"), ("hours", "missing")]


def test_a_doubled_word_is_a_flaw_where_it_is_repeated() -> None:
    analysis = looked('"Happy Birthday"', "HAPPY BIRTHDAY HAPPY")
    (region,) = analysis.regions
    assert region.explanation == "HAPPY is there once too often"
    assert region.box == (300, 0, 400, 31)
    assert [kind for _, kind in kinds(analysis)] == ["read", "read"]


def test_lettering_in_doubt_is_unreadable_with_or_without_a_wanted_word() -> None:
    wanted = looked('"OPEN"', ("QX#W", 0.4))
    assert kinds(wanted) == [("OPEN", "unreadable")]
    assert wanted.regions[0].explanation == "cannot be read, at best as QX#W; the prompt asks for OPEN"
    assert wanted.regions[0].box == (0, 0, 81, 31)
    assert looked('"OPEN"', ("OPFN", 0.6)).regions[0].severity >= 0.5
    unasked = looked("a cat", ("QXW", 0.25))
    assert [(region.name, region.severity) for region in unasked.regions] == [("the lettering", 0.75)]
    assert TextDetector(Lines(("QXW", 0.25)))(PICTURE).regions[0].name == "the lettering"


def test_severity_grows_with_the_damage() -> None:
    burdens = [looked('"STATION"', *([text] if text else [])).burden for text in ("STATION", "STATIOM", "STAMIOM", "")]
    assert burdens == sorted(burdens)
    assert len(set(burdens)) == 4


def test_what_is_left_out_is_a_gap() -> None:
    many = [" ".join(f"word{number}" for number in range(100))] * 3
    assert looked('"OPEN"', *many).gaps == ("unverified",)
    assert looked('"OPEN"', *many[:2]).gaps == looked("a cat", *many).gaps == ()
    assert looked(" ".join(f'"w{number}"' for number in range(61)), "OPEN").gaps == ("unverified",)
    assert looked('"OPEN"' + " and a cat" * 300, "OPEN").gaps == ("unverified",)


@pytest.mark.parametrize("seed", range(4))
def test_any_lines_are_matched_without_overlap_in_bounded_time(seed: int) -> None:
    rng = random.Random(seed)
    alphabet = rng.choice(["ab ", "欢迎 a", "ラー一力", "\u202eAé0O \n"])
    lines = [("".join(rng.choices(alphabet, k=rng.randint(1, 90))), rng.random()) for _ in range(60)]
    prompt = " ".join(f'"{"".join(rng.choices(alphabet, k=rng.randint(1, 30)))}"' for _ in range(40))
    began = time.process_time()
    analysis = looked(prompt, *lines)
    assert time.process_time() - began < 10
    assert analysis.trace == looked(prompt, *lines).trace
    for region in analysis.regions:
        assert region.mask is None or region.mask.any()
