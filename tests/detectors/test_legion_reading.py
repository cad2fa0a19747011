"""Reading answers as the published code does: every mask is used, nothing is dropped without a word."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.data.captions import LISTING, OPENING
from refiner.detectors.legion.grammar import compose, parse
from refiner.detectors.legion.reading import SPECIAL, UNNAMED, Piece, read
from refiner.taxonomy import Category
from refiner.types import Claim


def cut(text: str) -> list[Piece]:
    """Split a text at its special tokens, as the tokens of an answer do."""
    pieces, rest = list[Piece](), text
    while rest:
        found = [(rest.find(token), token) for token in SPECIAL if token in rest]
        place, token = min(found, default=(len(rest), ""))
        if rest[:place].strip():
            pieces.append(Piece(rest[:place], False))
        if token:
            pieces.append(Piece(token, True))
        rest = rest[place + len(token) :]
    return pieces


@pytest.mark.parametrize(
    ("text", "claims", "tags"),
    [
        (
            "Found: <p> the hand. </p> [SEG]:six fingers. <p> an ear </p> [SEG]",
            [("the hand", "six fingers", (0,)), ("an ear", "", (1,))],
            (),
        ),
        ("The photo looks fine.", [], ("text without [SEG]: The photo looks fine.",)),
        ("", [], ("empty answer",)),
        ("[SEG]: odd", [(UNNAMED, "odd", (0,))], ("[SEG] without a phrase (mask 1)",)),
        ("<p> </p> [SEG]", [(UNNAMED, "", (0,))], ("[SEG] without a phrase (mask 1)",)),
        (
            "<p> a </p> [SEG] [SEG] b [SEG] c",
            [("a", "b", (0, 1)), (UNNAMED, "c", (2,))],
            ("[SEG] without a phrase (mask 3)",),
        ),
        ("<p> a </p> text", [("a", "a text", ())], ("text without [SEG]: a text", "phrase without [SEG]: a text")),
        ("<p> a </p> <p> b </p> [SEG]", [("b", "", (0,))], ("phrase without [SEG]: a",)),
        ("<p> a [SEG] b", [("a", "b", (0,))], ()),
        ("<p> a <p> b </p> [SEG]", [("b", "", (0,))], ("phrase without [SEG]: a",)),
        ("<p> a </p> between [SEG] after", [("a", "between after", (0,))], ()),
        ("</p> [SEG] x <im_start> y", [(UNNAMED, "x y", (0,))], ("[SEG] without a phrase (mask 1)",)),
    ],
)
def test_every_form_of_answer_is_read(
    text: str, claims: list[tuple[str, str, tuple[int, ...]]], tags: tuple[str, ...]
) -> None:
    found = read(cut(text), complete=True)
    assert [(claim.name, claim.explanation, claim.marks) for claim in found.claims] == claims
    assert found.tags == tags
    assert read(cut(text), complete=False).tags == (*tags, "answer cut at the maximum length")


@given(
    st.lists(st.sampled_from([*SPECIAL, "a hand", "is odd", "\x00", "[SEG", "<p", "]" * 300]), max_size=30),
    st.booleans(),
)
def test_no_answer_is_unreadable_and_each_mask_is_in_one_claim(words: list[str], complete: bool) -> None:
    answer = [Piece(word, word in SPECIAL) for word in words]
    found = read(answer, complete=complete)
    marks = list(itertools.chain.from_iterable(claim.marks for claim in found.claims))
    assert marks == list(range(words.count("[SEG]")))
    assert all(claim.name.strip() and claim.category is not None for claim in found.claims)
    assert marks or found.tags, "an answer without a mask is never just clean"
    assert all(len(tag) < 300 and "\n" not in tag for tag in found.tags)
    unnamed = sum(claim.name == UNNAMED and bool(claim.marks) for claim in found.claims)
    assert unnamed == sum(tag.startswith("[SEG] without") for tag in found.tags)


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        (f"{OPENING} six fingers and a melted ear.", True),
        (f"{OPENING} bad text.\n{LISTING} The sign:The letters are garbled.", True),
        ("There is an artifact on the hand.", True),
        ("The sky is not blue. I have found: a third arm.", True),
        (f"{OPENING} a shadow that does not match, without a source.", True),
        (f"{OPENING} no artifacts.", False),
        (f"{OPENING} The image does not show any visible artifacts.", False),
        ("I have found nothing.", False),
        ("No artifacts. The photo looks fine.", False),
        ("The image is free of artifacts!", False),
        ("The photo looks fine.", False),
        ("", False),
    ],
)
def test_an_answer_without_a_mask_that_claims_artifacts_is_one_unplaced_flaw(text: str, claimed: bool) -> None:
    found = read(cut(text), complete=True)
    told = " ".join(text.split())
    assert [(claim.name, claim.explanation, claim.marks) for claim in found.claims] == [(UNNAMED, told, ())] * claimed
    assert found.tags == ((f"text without [SEG]: {told}" if told else "empty answer"),)


def test_a_lost_phrase_names_the_unplaced_flaw() -> None:
    (claim,) = read(cut("<p> The left hand. </p> has six fingers <p> an ear </p> melted"), complete=True).claims
    assert (claim.name, claim.marks, claim.category) == ("The left hand", (), Category.ANATOMY)
    assert claim.explanation == "The left hand. has six fingers an ear melted"
    (claim,) = read(cut("<p> x </p> [SEG] <p> an ear </p> melted"), complete=True).claims
    assert claim.marks == (0,), "where there is a mask, a lost phrase is a tag alone"
    (claim,) = read([Piece(f"{OPENING} {'odd ' * 5000}", False)], complete=True).claims
    assert len(claim.explanation) <= 600


def test_text_that_spells_a_token_is_no_token() -> None:
    found = read([Piece("see [SEG] and <p>", False)], complete=True)
    assert found.claims == ()
    assert found.tags == ("text without [SEG]: see [SEG] and <p>",)


def test_an_answer_that_both_grammars_allow_is_read_alike() -> None:
    flaws = [Claim(name=name, location="left", explanation="odd", category=Category.SHAPE) for name in ("a", "b")]
    text = compose(flaws)
    strict, lenient = parse(text), read(cut(text), complete=True)
    assert [claim.marks for claim in lenient.claims] == [claim.marks for claim in strict]
    assert lenient.tags == ()
    for one, other in zip(strict, lenient.claims, strict=True):
        assert other.name == f"{one.name}, {one.location}"
        assert one.explanation in other.explanation
