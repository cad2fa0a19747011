"""FakeXplain's answers: what is written can be read in every dialect, and a broken answer never counts as clean."""

from __future__ import annotations

import contextlib
import re
import time
from string import ascii_letters

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refiner.detectors.fakexplain.grammar import (
    A_FLAW,
    DIALECTS,
    MAX_TAGS,
    MAX_TEXT,
    NO_TAG,
    NOTHING,
    WHOLE,
    Answer,
    Dialect,
    Flaw,
    find_dialect,
    is_well_formed,
    pattern,
    plain,
    read,
    thoughts,
    write,
)
from refiner.detectors.reading.boxes import BoxFormat, full_sides
from refiner.detectors.reading.regions import MAX_NAME, MAX_REGIONS, MAX_WORDS
from refiner.detectors.reading.shares import shares_of, told_box
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Size

SHOWN = Size(448, 616)
FORMS = [BoxFormat(scale=scale, order=order) for scale in ("unit", "thousand", "pixels") for order in ("xyxy", "yxyx")]
THOUSAND = BoxFormat(scale="thousand")
SIGNS = [
    "<",
    ">",
    "[",
    "]",
    "|",
    "- ",
    "1. ",
    ": ",
    ",",
    "\n",
    "</think>",
    "<box>",
    "[1, 2, 3, 4]",
    "none",
    "é你",
    "\x00",
]

pieces = st.one_of(st.text(max_size=12), st.sampled_from(SIGNS))
texts = st.lists(pieces, max_size=6).map("".join)
sides = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
boxes = st.tuples(sides, sides).map(lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1]))
flaws = st.builds(Flaw, texts, st.one_of(boxes, boxes, st.none()))
answers = st.builds(
    Answer, st.lists(flaws, max_size=5).map(tuple), st.lists(texts, max_size=4).map(tuple), st.booleans()
)
dialects = st.sampled_from(list(DIALECTS.values()))
forms = st.sampled_from(FORMS)


def near(found: tuple[float, ...] | None, wanted: tuple[float, ...] | None, form: BoxFormat) -> bool:
    """Whether two boxes differ by at most a step and a half of a form: half by rounding, one by widening."""
    if found is None or wanted is None:
        return found == wanted
    width, height = full_sides(form.scale, SHOWN)
    steps = [1 / (side if side > 1 else 1000) for side in (width, height)] * 2
    return all(abs(a - b) <= 1.5 * step + 1e-9 for a, b, step in zip(found, wanted, steps, strict=True))


@given(answers, dialects, forms)
def test_what_is_written_is_read(answer: Answer, dialect: Dialect, form: BoxFormat) -> None:
    assume(answer.fake or len(answer.boxes) == len(answer.flaws))
    found = read(write(answer, dialect, form=form, shown=SHOWN), dialect, form=form, shown=SHOWN)
    assert found.fake == answer.fake
    wanted = [(plain(flaw.description) or A_FLAW, flaw.box) for flaw in answer.flaws]
    assert len(found.flaws) <= len(wanted)
    for words, box in wanted:
        assert any(flaw.description == words and near(flaw.box, box, form) for flaw in found.flaws)
    again = read(write(found, dialect, form=form, shown=SHOWN), dialect, form=form, shown=SHOWN)
    assert again == found, "what was read once is written and read without a change"


@given(st.lists(st.from_regex(r"[a-z]+( [a-z]+)?", fullmatch=True).map(lambda tag: tag[:80]), max_size=9), dialects)
def test_tags_are_read_as_written(tags: list[str], dialect: Dialect) -> None:
    text = write(Answer((), (*tags, "", "None", "\x00"), True), dialect, form=THOUSAND, shown=SHOWN)
    wanted = [tag.strip() for tag in tags if tag != "none"]
    assert read(text, dialect, form=THOUSAND, shown=SHOWN).tags == tuple(dict.fromkeys(wanted))


@given(answers, st.sampled_from(["official", "internvl"]), forms)
def test_an_answer_is_read_alike_without_the_marks_that_a_server_removed(
    answer: Answer, name: str, form: BoxFormat
) -> None:
    dialect = DIALECTS[name]
    assume(len(answer.boxes) == len(answer.flaws))
    whole = write(answer, dialect, form=form, shown=SHOWN)
    bare = re.sub(r"<\|[^|]*\|>|</?(?:ref|box)>", "", whole)
    assert read(bare, dialect, form=form, shown=SHOWN) == read(whole, dialect, form=form, shown=SHOWN)


def test_a_box_belongs_to_a_description_only_behind_the_mark_that_ends_it() -> None:
    dialect = DIALECTS["official"]
    whole = write(Answer((Flaw("a hand", (0.1, 0.2, 0.3, 0.4)),), ("t",), True), dialect, form=THOUSAND, shown=SHOWN)
    for mark, placed in (("<|object_ref_end|>", False), ("<|box_start|>", True), ("<|box_end|>", True)):
        (flaw,) = read(whole.replace(mark, ""), dialect, form=THOUSAND, shown=SHOWN).flaws
        assert (flaw.box is not None) == placed
        assert "a hand" in flaw.description


@given(answers, dialects, forms)
def test_a_well_formed_answer_matches_the_pattern(answer: Answer, dialect: Dialect, form: BoxFormat) -> None:
    assume(answer.fake or len(answer.boxes) == len(answer.flaws))
    text = write(answer, dialect, form=form, shown=SHOWN)
    if is_well_formed(read(text, dialect, form=form, shown=SHOWN)):
        assert re.fullmatch(pattern(dialect, form=form, shown=SHOWN), text)


visible = st.text(st.characters(codec="latin-1", exclude_categories=["C"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(visible, boxes), min_size=1, max_size=4), st.lists(visible, min_size=1, max_size=3), dialects)
def test_a_text_of_the_pattern_is_well_formed(
    told: list[tuple[str, tuple[float, ...]]], tags: list[str], dialect: Dialect
) -> None:
    """Texts that ``write`` does not write, but the pattern allows."""
    form = BoxFormat(scale="pixels")
    marks = (dialect.opening or "- ", dialect.middle or " ", dialect.closing)
    lines = "\n".join(f"{marks[0]}{words}{marks[1]}{told_box(box, form, SHOWN)}{marks[2]}" for words, box in told)
    listed = "\n".join(f"<tag>{tag}</tag>" for tag in tags) if dialect.tags_inside else ", ".join(tags)
    text = f"<think>{lines}\n{listed}</think><verdict>{dialect.fake}</verdict>"
    if not dialect.tags_inside:
        text = f"<think>\n{lines}\n</think>\n<tag>{listed}</tag>\n<verdict>{dialect.fake}</verdict>"
    assume(re.fullmatch(pattern(dialect, form=form, shown=SHOWN), text))
    assume(any(tag.strip().lower() != NO_TAG for tag in tags))
    found = read(text, dialect, form=form, shown=SHOWN)
    assume(len(set(found.boxes)) == len(told))
    assert is_well_formed(found)


COMPLETE = write(
    Answer((Flaw("a hand", (0.1, 0.2, 0.3, 0.4)), Flaw("an ear", (0.5, 0.5, 0.9, 0.9))), ("anatomy",), True),
    DIALECTS["paper"], form=THOUSAND, shown=SHOWN,
)  # fmt: skip
BROKEN = [
    "", " ", "fake", "The image is real.", "<think>", "<think></think>", "<think>a</think>", "</think><think>",
    "<verdict>real</verdict>", "<think>a</think><verdict>real", "<think>a</think><verdict></verdict>",
    "<think>a</think><verdict>maybe</verdict>", "<think>a</think><verdict>real or fake</verdict>",
    "<think>a</think><verdict>real</verdict> fake", "Well: <think>a</think><verdict>real</verdict>",
    "<think> </think><verdict>real</verdict>", "<think>a</think><tag></tag><verdict>fake</verdict>",
    "<think>a</think><tag>x</tag><tag>y</tag><verdict>fake</verdict>", "<think><think>a</think><verdict>real</verdict>",
    "<think>a</think><verdict>real</verdict><verdict>fake</verdict>", "<THINK>a</THINK><VERDICT>real</VERDICT>",
    "<verdict>real</verdict><think>a</think>", "<think>a<verdict>real</verdict></think>", '{"regions": []}', "null",
    "<think>a</think>\x00<verdict>real</verdict>", "\ud800", "<think>a</think><verdict>real</verdict>" * 2,
]  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_raises_with_the_text(text: str, dialect: Dialect) -> None:
    with pytest.raises(UnreadableOutputError, match=r"^Expected an answer of think, tag and verdict, got ") as caught:
        read(text, dialect, form=THOUSAND, shown=SHOWN)
    assert caught.value.raw == text
    assert len(str(caught.value)) < 300


RUBBLE = [
    *SIGNS, "<think>", "</think>", "<tag>", "</tag>", "<verdict>", "</verdict>", "real", "fake", "generated", "<ref>",
    "</ref>", "</box>", "[[9,9,99,99]]", "[1e9, 2, 3]", "[-5, 0, 2000000, 3]", "[0.1, 0.2, 0.3, 0.4]",
    "\n- a [5, 5, 9, 9]", "<|object_ref_start|>", "<|box_start|>[7, 7, 8, 8]",
]  # fmt: skip
rubble = st.lists(st.sampled_from(RUBBLE), max_size=16).map("".join)
verdicts = st.sampled_from(["real", "fake", "generated", " real\n", "REAL.", "unreal", ""])
framed = st.builds("<think>{}</think><verdict>{}</verdict>".format, rubble, verdicts)


@given(st.one_of(rubble, framed), dialects, forms)
def test_any_text_is_read_or_unreadable_and_only_its_verdict_calls_it_clean(
    text: str, dialect: Dialect, form: BoxFormat
) -> None:
    try:
        found = read(text, dialect, form=form, shown=SHOWN)
    except UnreadableOutputError:
        return
    assert found.fake == (f"<verdict>{dialect.fake}</verdict>" in re.sub(r"\s", "", text))
    assert all(0 <= side <= 1 for box in found.boxes for side in box)
    assert all(claim.name for claim in found.claims(SHOWN))


def test_an_answer_that_breaks_off_is_never_read() -> None:
    for end in range(len(COMPLETE)):
        with pytest.raises(UnreadableOutputError):
            read(COMPLETE[:end], DIALECTS["paper"], form=THOUSAND, shown=SHOWN)


PATHOLOGICAL = [
    "{}", " ", "[", "[ ", "[1, 2, 3, ", "- ", "\n- a", "[1,2,3,4]", "<tag>", "<|object_ref_start|>", "<ref>", "1. ",
    "<", "[[1, 2, 3, 4]] ", "\ud800", ",", ", a", "<|box_end|>", "</box>[", "[0.1" + " " * 50, "é",
]  # fmt: skip


@pytest.mark.parametrize("piece", PATHOLOGICAL)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_time_is_linear_in_the_length_of_an_answer(piece: str, dialect: Dialect) -> None:
    """10,000 characters, and 90,000, in a fraction of a second each."""
    for length in (10_000, 90_000):
        filler = (piece * length)[:length]
        for text in (
            filler,
            f"<think>{filler}</think><verdict>{dialect.fake}</verdict>",
            f"<think>a{filler}b</think><verdict>real</verdict>",
        ):
            began = time.process_time()
            with contextlib.suppress(UnreadableOutputError):
                assert len(read(text, dialect, form=THOUSAND, shown=SHOWN).flaws) <= MAX_REGIONS
            assert len(thoughts(text)) <= MAX_WORDS
            assert time.process_time() - began < 2


def test_what_is_too_long_is_unreadable() -> None:
    text = f"<think>{'a' * MAX_TEXT}</think><verdict>real</verdict>"
    with pytest.raises(UnreadableOutputError, match="100,000 characters"):
        read(text, DIALECTS["paper"], form=THOUSAND, shown=SHOWN)


def test_texts_and_numbers_of_flaws_are_bounded() -> None:
    many = tuple(Flaw(f"{number} {'x' * 900}", (number / 300, 0, 1, 1)) for number in range(130))
    answer = Answer(many, tuple(f"{number} {'t' * 200}" for number in range(50)), True)
    for dialect in DIALECTS.values():
        found = read(write(answer, dialect, form=THOUSAND, shown=SHOWN), dialect, form=THOUSAND, shown=SHOWN)
        assert (len(found.flaws), len(found.tags)) == (MAX_REGIONS, MAX_TAGS)
        assert max(len(flaw.description) for flaw in found.flaws) == MAX_WORDS
        assert max(map(len, found.tags)) == MAX_NAME


@pytest.mark.parametrize(
    ("line", "flaws"),
    [
        ("- the hand [100, 200, 300, 400]", [("the hand", (0.1, 0.2, 0.3, 0.4))]),
        ("  * the hand: [100,200,300,400]", [("the hand", (0.1, 0.2, 0.3, 0.4))]),
        ("3. the hand [100.0, 200, 300, 400].", [("the hand", (0.1, 0.2, 0.3, 0.4))]),
        ("- [100, 200, 300, 400] the hand", [("the hand", (0.1, 0.2, 0.3, 0.4))]),
        ("- two [0, 0, 100, 100] [200, 0, 300, 100]", [("two", (0, 0, 0.1, 0.1)), ("two", (0.2, 0, 0.3, 0.1))]),
        ("- 3 - 2 fingers [0, 0, 500, 500]", [("3 - 2 fingers", (0, 0, 0.5, 0.5))]),
        ("- the sky", [("the sky", None)]),
        ("1) the sky", [("the sky", None)]),
        ("- the edge [990, 0, 1015, 1000]", [("the edge", (0.99, 0, 1, 1))]),
        ("- outside [990, 0, 1400, 1000]", [("outside", None)]),
        ("- reversed [300, 200, 100, 400]", [("reversed", None)]),
        ("- empty [300, 200, 300, 400]", [("empty", None)]),
        ("- the same [0, 0, 9, 9]\n- the same [0, 0, 9, 9]", [("the same", (0, 0, 0.009, 0.009))]),
        ("only words about it", []),
        ("- no flaws", []),
    ],
)  # fmt: skip
def test_lines_are_read_as_models_write_them(line: str, flaws: list[tuple[str, tuple[float, ...] | None]]) -> None:
    text = f"<think>\nSome thoughts first.\n{line}\n</think>\n<tag>t</tag>\n<verdict>Fake.</verdict>"
    assert list(read(text, DIALECTS["paper"], form=THOUSAND, shown=SHOWN).flaws) == flaws


def test_the_three_dialects_as_published() -> None:
    box = shares_of((120, 40, 310, 220), Size(400, 400))
    answer, shown = Answer((Flaw("six fingers", box),), ("anatomy", "texture"), True), Size(400, 400)
    told = {
        name: write(answer, dialect, form=BoxFormat(scale="pixels"), shown=shown) for name, dialect in DIALECTS.items()
    }
    start, end = "<|object_ref_start|>six fingers<|object_ref_end|><|box_start|>", "<|box_end|>"
    tags = "<tag>anatomy</tag>\n<tag>texture</tag></think><verdict>generated</verdict>"
    assert told["official"] == f"<think>{start}[120, 40, 310, 220]{end}\n{tags}"
    assert told["internvl"] == f"<think><ref>six fingers</ref><box>[120, 40, 310, 220]</box>\n{tags}"
    assert told["paper"] == (
        "<think>\n- six fingers [120, 40, 310, 220]\n</think>\n<tag>anatomy, texture</tag>\n<verdict>fake</verdict>"
    )
    with pytest.raises(ConfigError, match="official, internvl, paper"):
        find_dialect("klingon")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_smallest_box_stays_a_box(form: BoxFormat) -> None:
    for box in ((0.5, 0.5, 0.5, 0.5), (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 0.0)):
        text = write(Answer((Flaw("a speck", box),), ("t",), True), DIALECTS["paper"], form=form, shown=SHOWN)
        found = read(text, DIALECTS["paper"], form=form, shown=SHOWN)
        assert is_well_formed(found)
        (claim,) = found.claims(Size(50, 70))
        x0, y0, x1, y1 = claim.box
        assert 0 <= x0 < x1 <= 70
        assert 0 <= y0 < y1 <= 50


@pytest.mark.parametrize(
    ("flaws", "tags", "fake", "whole"),
    [
        ([("a", (0, 0, 1, 1))], ["t"], True, True),
        ([], [], False, True),
        ([("a", (0, 0, 1, 1))], [], True, False),
        ([], ["t"], True, False),
        ([("a", None)], ["t"], True, False),
        ([("", (0, 0, 1, 1))], ["t"], True, False),
        ([("a", (0, 0, 1, 1)), ("b", (0, 0, 1, 1))], ["t"], True, False),
        ([("a", (0, 0, 1, 1))], [], False, False),
        ([], ["t"], False, False),
    ],
)
def test_a_well_formed_answer_has_flaws_and_tags_exactly_for_a_generated_image(
    flaws: list[tuple[str, tuple[float, ...] | None]], tags: list[str], fake: bool, whole: bool
) -> None:
    assert is_well_formed(Answer(tuple(Flaw(*flaw) for flaw in flaws), tuple(tags), fake)) == whole


def test_a_claim_is_named_by_what_stands_before_its_colon() -> None:
    box = (0.25, 0.5, 0.75, 1.0)
    answer = Answer((Flaw("the left hand: six fingers", box), Flaw("melted", None), Flaw("", box)), (), True)
    first, second, third = answer.claims(Size(100, 200))
    assert (first.name, first.explanation, first.box) == (
        "the left hand",
        "the left hand: six fingers",
        (50, 50, 150, 100),
    )
    assert (first.category, second.category) == (Category.ANATOMY, Category.SHAPE)
    assert (second.name, second.box) == ("melted", None)
    assert (third.name, third.category) == (A_FLAW, None)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_thoughts_are_the_words_of_think_alone(dialect: Dialect) -> None:
    answer = Answer((Flaw("a hand", (0, 0, 1, 1)),), ("skin", "light"), True)
    told = thoughts(write(answer, dialect, form=THOUSAND, shown=SHOWN))
    assert told.startswith("a hand")
    assert "skin" not in told
    assert not set(told) & set("<>")
    for fake, said in ((False, NOTHING), (True, WHOLE)):
        text = write(Answer((), (), fake), dialect, form=THOUSAND, shown=SHOWN)
        assert said in text
        assert thoughts(text) == ""
    assert set(thoughts(f"<think>{ascii_letters}</think>")) == set(ascii_letters)
