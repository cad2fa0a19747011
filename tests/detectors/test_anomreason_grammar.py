"""The answers of AnomReasonor: laws of the writer and the strict reader, and a wall of texts that are none."""

from __future__ import annotations

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.claims import DEFAULT_SEVERITY
from refiner.detectors.anomreason.grammar import (
    NAMELESS,
    NOTHING,
    Anomaly,
    anomaly_of,
    plain,
    read,
    read_reasons,
    read_verdict,
    write,
)
from refiner.detectors.anomreason.question import asking, questions
from refiner.detectors.anomreason.severity import read_severity, score_of
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import MAX_NAME, MAX_REGIONS, MAX_WORDS
from refiner.errors import UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Claim, Size

SHOWN = Size(400, 600)
THOUSAND, PIXELS, UNIT = (BoxFormat(scale=scale) for scale in ("thousand", "pixels", "unit"))
FORMS = [THOUSAND, PIXELS, UNIT, BoxFormat(order="yxyx")]
HAND = Anomaly(
    "The hand has six fingers.", "A sixth finger grows there.", "Hands have five.", 0.9, (0.1, 0.2, 0.4, 0.5)
)
LAMP = Anomaly("The lamp floats", "It touches nothing", "Lamps are heavy: they fall", 0.75)
TEXT = write([HAND, LAMP], form=THOUSAND, shown=SHOWN)


def back(text: str, form: BoxFormat = THOUSAND) -> tuple[Anomaly, ...]:
    return read(text, form=form, shown=SHOWN)


def test_an_answer_looks_like_this() -> None:
    assert TEXT == (
        "@1. Name: The hand has six fingers.\nObserved Phenomenon: A sixth finger grows there.\n"
        "Reasoning: Hands have five.\nSeverity Score: 10\nBox: [100, 200, 400, 500]\n\n"
        "@2. Name: The lamp floats\nObserved Phenomenon: It touches nothing\n"
        "Reasoning: Lamps are heavy: they fall\nSeverity Score: 25"
    )
    assert back(TEXT) == (HAND, LAMP)
    assert write([], form=THOUSAND, shown=SHOWN) == NOTHING == "No anomalies."
    assert back(NOTHING) == back(f"<think>Box: [1]</think>\n{NOTHING} ") == ()


sides = st.tuples(st.integers(0, 99), st.integers(1, 100)).map(lambda pair: (min(pair) / 100, (max(pair) + 1) / 101))
boxes = st.tuples(sides, sides).map(lambda pair: (pair[0][0], pair[1][0], pair[0][1], pair[1][1]))
WORDS = [
    "@2. ",
    "Name: ",
    "Severity Score: 7",
    "**",
    "\n",
    "\u2028",
    "\x00",
    "Box: [0, 0, 1, 1]",
    "six",
    "@1",
    " ",
    "影",
]
texts = st.lists(st.sampled_from(WORDS), max_size=6).map("".join) | st.text(max_size=30)
anomalies = st.builds(
    Anomaly, texts, texts, texts, st.integers(0, 100).map(lambda score: score / 100), st.none() | boxes
)


@given(st.lists(anomalies, max_size=5), st.sampled_from(FORMS))
def test_what_is_written_is_read_back(wanted: list[Anomaly], form: BoxFormat) -> None:
    text = write(wanted, form=form, shown=SHOWN)
    found = back(text, form)
    shown = [
        (plain(each.name, MAX_NAME), plain(each.phenomenon), plain(each.reasoning), round(each.severity, 6))
        for each in wanted
    ]
    assert [(each.name, each.phenomenon, each.reasoning, round(each.severity, 6)) for each in found] == list(
        dict.fromkeys(shown)
    ) or len({each.box for each in wanted}) > 1
    if len(set(shown)) == len(wanted):
        for one, other in zip(wanted, found, strict=True):
            assert (one.box is None) == (other.box is None)
            if one.box is not None and other.box is not None:
                assert all(abs(a - b) <= 1 / 400 for a, b in zip(one.box, other.box, strict=True))
    assert write(found, form=form, shown=SHOWN) == text or len(found) < len(wanted)
    assert back(write(wanted, form=None, shown=SHOWN), form) == tuple(
        dict.fromkeys(each._replace(box=None) for each in found)
    )


@given(texts)
def test_plain_texts_stay_as_they_are(text: str) -> None:
    once = plain(text)
    assert plain(once) == once
    assert once
    assert "\n" not in once
    assert len(plain(text * 100)) <= MAX_WORDS


FREEDOMS = {
    "bold labels": re.sub(r"(Name|Observed Phenomenon|Reasoning|Severity Score|Box):", r"**\1**:", TEXT),
    "bold labels with colons": re.sub(r"(Name|Observed Phenomenon|Reasoning|Severity Score|Box):", r"**\1:**", TEXT),
    "bold numbers": re.sub(r"(@\d\. Name):", r"**\1:**", TEXT),
    "no numbers": re.sub(r"@\d\. ", "", TEXT),
    "windows": TEXT.replace("\n", "\r\n"),
    "no blank lines": TEXT.replace("\n\n", "\n"),
    "more blank lines": f"\n\n{TEXT}\n\n".replace("\n", "\n\n"),
    "indented": TEXT.replace("\n", "\n   "),
    "several lines": TEXT.replace("Lamps are heavy: ", "Lamps\nare heavy:\n"),
    "scores in words": TEXT.replace("Score: 10", "Score: 10/100 (very odd).").replace("Score: 25", "Score: 25%"),
    "thoughts": f"<think>@7. Severity Score</think>{TEXT}",
}  # fmt: skip


@pytest.mark.parametrize("text", FREEDOMS.values(), ids=FREEDOMS)
def test_what_models_vary_is_read_alike(text: str) -> None:
    assert back(text) == (HAND, LAMP)


@pytest.mark.parametrize(
    "box",
    ["[5000, 0, 6000, 1]", "[400, 0, 100, 9]", "[1, 2, 3]", "somewhere", "", "[a, b, c, d]", "[1,2,3,4],[5,6,7,8]"],
)
def test_an_anomaly_with_an_unusable_box_is_kept_without_it(box: str) -> None:
    hand, lamp = back(TEXT.replace("[100, 200, 400, 500]", box))
    assert (hand, lamp) == (HAND._replace(box=None), LAMP)


NO_LISTS = [
    "", " ", "The image looks fine.", "No anomalies", "no anomalies.", "No anomalies. Really.", f"{NOTHING}\n{TEXT}",
    f"Here they are:\n{TEXT}", f"{TEXT}\n\nThat is all.", TEXT.replace("@2", "@3"), TEXT.replace("@1", "@2"),
    TEXT.replace("Reasoning: Hands have five.\n", ""), TEXT.replace("Severity Score: 25", ""), TEXT[:-2],
    TEXT.replace("Reasoning: Hands have five.", "Reasoning:"), TEXT.replace("The lamp floats", "** **"),
    TEXT.replace("Score: 10", "Score: 101"), TEXT.replace("Score: 10", "Score: -1"), TEXT.replace("25", "high"),
    TEXT.replace("Observed Phenomenon", "Phenomenon"), TEXT.replace("Box:", "Box: [1, 1, 2, 2]\nBox:"),
    TEXT.replace("Severity Score: 10", "Severity Score: 10\nvery odd"), TEXT.replace("Name: The lamp", "The lamp"),
    TEXT.replace("Hands have five.", "Hands have five.\nReasoning: again"), TEXT.replace("Name", "name"),
    TEXT.replace("Hands have five.", "Hands have five.\n@2. odd"), "@1. Name:", "@1. Name: a", "[]",
    "<think>No anomalies.", "\x00", "@" * 50_000, "*" * 50_000, "Name: " * 20_000, "Box: [" + "1," * 50_000,
    "a" * 100_001, '{"anomalies": []}',
    "Severity Score: " + "9" * 5000, TEXT.replace("25", "9" * 5000), f"@{'9' * 5000}. {TEXT[4:]}",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_LISTS, ids=range(len(NO_LISTS)))
def test_what_is_no_list_is_an_error_with_the_text(text: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        back(text)
    assert caught.value.raw == text
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [TEXT, *FREEDOMS.values()])
def test_an_answer_that_is_cut_off_keeps_what_stands_before_its_last_item(text: str) -> None:
    read_cut = partial(read, form=THOUSAND, shown=SHOWN, cut=True)
    for end in range(len(text)):
        try:
            found = read_cut(text[:end])
        except UnreadableOutputError as error:
            assert end < text.index("The lamp")
            assert error.raw == text[:end]  # noqa: PT017
        else:
            assert found == (HAND,)
    assert read_cut(f"{text}\n@3. Na") == (HAND, LAMP)
    for nothing in (NOTHING, "@1. Name: none\nObserved Phenomenon: none\nReasoning: so.\nSeverity Score: 100\n@2."):
        with pytest.raises(UnreadableOutputError, match="raise the limit"):
            read_cut(nothing)


def test_an_answer_that_breaks_off_is_never_clean() -> None:
    for end in range(len(TEXT)):
        for fake in (True, False):
            try:
                found = read_reasons(TEXT[:end], fake=fake, form=THOUSAND, shown=SHOWN)
            except UnreadableOutputError:
                continue
            assert found or (not fake and "Observed Phenomenon" not in TEXT[:end] and not TEXT[:end].startswith("@1"))


@given(st.text() | st.lists(st.sampled_from(TEXT.split("\n")), max_size=9).map("\n".join), st.booleans())
def test_no_text_raises_another_error_or_is_clean_by_accident(text: str, fake: bool) -> None:
    for reader in (back, read_verdict, lambda said: read_reasons(said, fake=fake, form=THOUSAND, shown=SHOWN)):
        try:
            reader(text)
        except UnreadableOutputError as error:
            assert error.raw == text  # noqa: PT017
    if text.strip() != NOTHING:
        try:
            assert back(text)
        except UnreadableOutputError:
            return


def test_equal_anomalies_count_once_and_long_lists_are_cut() -> None:
    assert back(write([HAND, LAMP, HAND], form=THOUSAND, shown=SHOWN)) == (HAND, LAMP)
    many = [LAMP._replace(name=f"lamp {number}") for number in range(MAX_REGIONS + 5)]
    assert back(write(many, form=None, shown=SHOWN)) == tuple(many[:MAX_REGIONS])


@pytest.mark.parametrize(
    ("text", "fake"),
    [
        ("Yes", True),
        ("No", False),
        (" yes.\n", True),
        ("**No**", False),
        ("NO.", False),
        ("<think>No</think>Yes", True),
    ],
)
def test_verdicts(text: str, fake: bool) -> None:
    assert read_verdict(text) is fake


@pytest.mark.parametrize(
    "text", ["", "Yes and no", "Maybe", "Y", "1", "It is generated.", "Yes\nNo", "<think>Yes", "No" * 60_000]
)
def test_other_verdicts_are_errors(text: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        read_verdict(text)
    assert caught.value.raw == text


def test_only_a_real_image_may_be_described_in_other_words() -> None:
    words = "The light falls as it should, and reasoning about it finds no fault."
    assert read_reasons(words, fake=False, form=THOUSAND, shown=SHOWN) == ()
    assert read_reasons(TEXT, fake=False, form=THOUSAND, shown=SHOWN) == (HAND, LAMP)
    for text, fake in ((words, True), ("", False), (f"{words}\n@1. Name", False), (f"Severity Score: {words}", False)):
        with pytest.raises(UnreadableOutputError):
            read_reasons(text, fake=fake, form=THOUSAND, shown=SHOWN)


def test_claims_and_anomalies() -> None:
    claim = HAND.claim(SHOWN)
    assert (claim.name, claim.explanation, claim.reasoning) == HAND[:3]
    assert (claim.severity, claim.category, claim.box) == (0.9, Category.ANATOMY, (60, 80, 240, 200))
    assert anomaly_of(claim, SHOWN) == HAND
    assert LAMP.claim(SHOWN).category == Category.COMMONSENSE
    assert anomaly_of(Claim(explanation="odd"), SHOWN) == Anomaly("odd", "odd", "odd", DEFAULT_SEVERITY)
    assert anomaly_of(Claim(), SHOWN)[:3] == (NAMELESS,) * 3


@pytest.mark.parametrize(
    ("told", "severity"),
    [
        (0, 1.0), (100, 0.0), (25.0, 0.75), ("25", 0.75), ("25/100", 0.75), ("25 / 100 (odd).", 0.75), ("25%", 0.75),
        ("25.5", 0.745), ("", None), ("high", None), (101, None), (-1, None), (True, None), ("25/10", None),
        (float("nan"), None), (10**400, None), ("9" * 5000, None), ([25], None), ("25/1000", None), (None, None),
    ],
)  # fmt: skip
def test_severities_run_the_other_way(told: object, severity: float | None) -> None:
    assert read_severity(told) == (None if severity is None else pytest.approx(severity))


def test_each_score_is_read_back() -> None:
    assert [score_of(read_severity(score) or 0.0) for score in range(101)] == list(range(101))


@pytest.mark.parametrize("form", [None, *FORMS], ids=str)
@pytest.mark.parametrize("kind", ["anomaly_only", "authenticity_reasoning"])
def test_the_form_in_the_question_is_an_answer_that_is_read(form: BoxFormat | None, kind: str) -> None:
    from PIL import Image

    picture = Image.new("RGB", (SHOWN.width, SHOWN.height))
    assert len(set(questions())) == 10
    for variant, question in enumerate(questions()):
        text = asking(picture, kind, form, variant)
        assert text.startswith(f"{question}\n")
        example = text.partition("between anomalies:\n")[2].partition("\nThe severity score")[0]
        (anomaly,) = back(example, form or THOUSAND)
        assert (anomaly.box is None) == (form is None)
        assert ("A box is" in text) == (form is not None)
        assert (NOTHING in text) == (kind == "anomaly_only")
