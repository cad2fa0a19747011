"""LEGION's caption grammar: written captions can be read, and an unreadable text never counts as clean."""

import re

import numpy as np
import pytest

from refiner.claims import DEFAULT_CATEGORY, DEFAULT_SEVERITY
from refiner.detectors.legion.grammar import (
    CLEAN,
    SEVERITIES,
    compose,
    keyword_category,
    parse,
    severity_word,
)
from refiner.errors import UnreadableOutputError
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import sample_scene
from refiner.taxonomy import Category
from refiner.types import Claim


def fields(finding: Claim) -> tuple[object, ...]:
    return (
        finding.name,
        finding.location,
        finding.explanation,
        finding.reasoning,
        finding.category,
        round(finding.severity, 6),
    )


@pytest.mark.parametrize("kind", sorted(FLAWS))
def test_what_the_world_says_of_a_flaw_comes_back(kind: str) -> None:
    rng = np.random.default_rng(7)
    regions = []
    while not regions:
        regions = list(inject(sample_scene(rng), rng, kinds=[kind]).regions)
    written = [
        Claim(
            name=region.name,
            location=region.location,
            explanation=region.explanation,
            reasoning=region.reasoning,
            category=region.category,
            severity=region.severity,
        )
        for region in regions * 3
    ]
    read = parse(compose(written))
    assert [fields(finding) for finding in read] == [fields(finding) for finding in written]
    assert [finding.marks for finding in read] == [(0,), (1,), (2,)]


def test_a_clean_picture_has_its_own_sentence() -> None:
    assert compose([]) == CLEAN
    assert parse(CLEAN) == ()
    assert parse(f"<s> {CLEAN.lower()}\n </s>") == ()


@pytest.mark.parametrize(
    "raw",
    [
        "",
        " ",
        "</s>",
        "no",
        "Upon examining the image.",
        "Upon examining the image. I have found: ",
        "Upon examining the image. I have found: one artifact.",
        "Upon examining the image. I have found: no artifacts. no artifacts.",
        "The image is clean.",
        "I cannot help with that.",
        "<p> the hand </p>",
        "<p> the hand",
        "[SEG]",
        "[SEG]: a sixth finger",
        "the hand [SEG]: a sixth finger",
        "<p> </p> [SEG]: a sixth finger",
        "<p></p>[SEG]",
        "<p> a <p> b </p> [SEG]: c",
        "<p> a </p> [SEG]: b <p> c </p>",
        "<p> a </p> [SEG]: b <p>",
        "<p> a </p> [SEG]: b [SEG]: c",
        "<p> a </p> [SEG]: b </p> c",
        "[seg] <p> a </p>",
        "<p> a </p> [SEG",
        '{"regions": []}',
        "\x00\ufffd<p>",
        "anatomy " * 300,
    ],
)
def test_what_cannot_be_read_raises_with_the_text_untouched(raw: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        parse(raw)
    assert caught.value.raw == raw
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_truncated_answer_is_never_clean() -> None:
    whole = compose([_finding("the left hand"), _finding("the right hand")])
    for end in range(len(whole)):
        try:
            assert parse(whole[:end])
        except UnreadableOutputError:
            continue


@pytest.mark.parametrize(
    ("raw", "phrases", "explanations", "marks"),
    [
        (
            "Upon examining the image. I have found: bad text.\nTo elaborate, I have found the following artifacts. "
            "<p> Text on the right side of the column </p> [SEG] :The text is unrecognizable. "
            "<p> The left side of the column. </p> [SEG]:The left side is blurry.</s>",
            ["Text on the right side of the column", "The left side of the column"],
            ["The text is unrecognizable", "The left side is blurry"],
            [(0,), (1,)],
        ),
        (
            "<p>the ear[SEG]it melted<p> the eye </p>[SEG]",
            ["the ear", "the eye"],
            ["it melted", ""],
            [(0,), (1,)],
        ),
        (
            "<p> two windows </p> [SEG] [SEG][SEG]: skewed <p> a door </p> [SEG]: skewed",
            ["two windows", "a door"],
            ["skewed", "skewed"],
            [(0, 1, 2), (3,)],
        ),
        ("<p> the same </p> [SEG]: a<p> the same </p> [SEG]: b", ["the same", "the same"], ["a", "b"], [(0,), (1,)]),
        ("<p> a(b|c)* </p> [SEG]: \\d+ {0} %s", ["a(b|c)*"], ["\\d+ {0} %s"], [(0,)]),
    ],
)
def test_original_captions_are_read(
    raw: str, phrases: list[str], explanations: list[str], marks: list[tuple[int, ...]]
) -> None:
    findings = parse(raw)
    assert [finding.name for finding in findings] == phrases
    assert [finding.explanation for finding in findings] == explanations
    assert [finding.marks for finding in findings] == marks
    assert {finding.severity for finding in findings} == {DEFAULT_SEVERITY}


@pytest.mark.parametrize("tail", ["(e.g., the hand)", "(structure, anatomy, awful)", "(a, b, mild)", "(mild)", "()"])
def test_a_parenthesis_that_is_no_tag_stays_in_the_explanation(tail: str) -> None:
    (finding,) = parse(f"<p> the hand, left </p> [SEG]: a sixth finger {tail}")
    assert finding.explanation == f"a sixth finger {tail}"
    assert finding.name == "the hand, left"


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("The letters on the sign are garbled", Category.TEXT),
        ("the shadow points the wrong way", Category.OPTICS),
        ("the man has six fingers", Category.ANATOMY),
        ("A cup floats above the table", Category.PHYSICAL_LAW),
        ("the background is blurry", Category.NOISE_BLUR),
        ("the roof is warped", Category.SHAPE),
        ("something", DEFAULT_CATEGORY),
        ("", DEFAULT_CATEGORY),
    ],
)
def test_untagged_captions_get_a_category_by_keyword(text: str, category: Category) -> None:
    assert keyword_category(text) == category


def test_every_category_and_severity_survives() -> None:
    for category in Category:
        for word, severity in SEVERITIES.items():
            (finding,) = parse(compose([_finding("x", category=category, severity=severity)]))
            assert (finding.category, finding.severity) == (category, severity)
            assert severity_word(severity) == word


def test_the_grammar_is_that_of_the_paper() -> None:
    text = compose([_finding("the hand")])
    assert re.fullmatch(
        r"Upon examining the image\. I have found: [^\n]+\nTo elaborate, I have found the following artifacts\. "
        r"<p> .+ </p> \[SEG\]:.+",
        text,
    )


def _finding(name: str, category: Category = Category.ANATOMY, severity: float = 0.9) -> Claim:
    return Claim(
        name=name,
        location="lower left",
        explanation="a sixth finger grows",
        reasoning="a hand has five fingers",
        category=category,
        severity=severity,
    )
