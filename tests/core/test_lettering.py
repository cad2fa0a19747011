"""The words that a prompt asks for, and how words are compared."""

from __future__ import annotations

import random
import time

import pytest

from refiner.errors import InputError
from refiner.lettering import (
    MAX_WORDS,
    Found,
    folded,
    of_steps,
    share_read,
    straight,
    strange_script,
    to_steps,
    wanted_texts,
    wanted_words,
)

ASKED = {
    'a shop with a sign that says "OPEN"': ["OPEN"],
    "a mug labelled ‘Best Dad’, steam": ["Best Dad"],
    "写着“欢迎光临”的招牌": ["欢迎光临"],
    "「ラーメン」の看板と『さくら』": ["ラーメン", "さくら"],
    "a «Café» and a „Bar”": ["Café", "Bar"],
    'two signs, "STOP" and "STOP"': ["STOP", "STOP"],
    'a "  wide   text "': ["wide text"],
    "a book titled The Great Gatsby on a table": ["The Great Gatsby"],
    "a poster with the words Rock and Roll, neon": ["Rock and Roll"],
    "a neon sign reading 24/7 in the night": ["24/7"],
    'a red sign that says OPEN above a "CLOSED" door': ["OPEN", "CLOSED"],
    "a blue sign saying sun on a sky background": ["sun"],
    "a sign that says no parking in a street": ["no parking"],
    'a 12" pizza and a 6" ruler': [],
    "a man saying hello to a friend": [],
    "a woman reading a book": [],
    "she reads the newspaper": [],
    'a sign that says ""': [],
    "a sign that says": [],
    '"!?" in neon': [],
    "a dog's bowl and two cats' toys": [],
    "": [],
}


@pytest.mark.parametrize("prompt", ASKED)
def test_a_prompt_asks_for_what_it_quotes_or_names_as_said(prompt: str) -> None:
    assert wanted_texts(prompt) == ASKED[prompt]


@pytest.mark.parametrize("marks", ['""', "''", "“”", "„“", "‘’", "«»", "‹›", "「」", "『』", "＂＂"])
def test_all_quotation_marks_are_alike(marks: str) -> None:
    assert wanted_texts(f"a sign {marks[0]}Open now{marks[1]} at night") == ["Open now"]
    assert len(straight(marks)) == len(marks)


@pytest.mark.parametrize(
    ("word", "script"),
    [("ПРИВЕТ", "Cyrillic"), ("안녕", "Hangul"), ("مرحبا", "Arabic"), ("नमस्ते", "Devanagari"), ("ΤΑΒΕΡΝΑ", "Greek"),
     ("שלום", "Hebrew"), ("สวัสดี", "Thai"), ("٣٤", "Arabic-indic")],
)  # fmt: skip
def test_a_script_that_cannot_be_read_is_refused_by_its_name(word: str, script: str) -> None:
    assert strange_script(word) == script
    with pytest.raises(InputError, match=f"{script}.*Latin, Chinese, Japanese"):
        wanted_words(f'a sign that says "OPEN" and "{word}"')


@pytest.mark.parametrize(
    "word", ["Café", "Łódź", "Việt", "ß", "24/7", "欢迎", "龍", "ラーメン", "ｶﾞ", "さくら", "ＡＢＣ", "々"]
)
def test_the_listed_scripts_are_read(word: str) -> None:
    assert strange_script(word) is None
    assert wanted_words(f'"{word}"') == [[word]]


@pytest.mark.parametrize(
    ("one", "other"),
    [("OPEN", "open"), ("Café", "CAFE"), ("GO0D", "good"), ("BlLL", "bill"), ("don't", "DONT"), ("ＡＢＣ", "abc"),
     ("ラーメン", "ラ一メン"), ("ｶﾞ", "ガ"), ("Straße", "STRASSE"), ("ﬁsh", "fish"), ("カ", "力")],
)  # fmt: skip
def test_words_that_look_or_mean_the_same_are_equal(one: str, other: str) -> None:
    assert folded(one) == folded(other)
    assert folded(folded(one)) == folded(one)


@pytest.mark.parametrize(("one", "other"), [("か", "が"), ("ハ", "バ"), ("OPEN", "OPNE"), ("面", "包"), ("ö", "p")])
def test_other_words_differ(one: str, other: str) -> None:
    assert folded(one) != folded(other)


def test_words_keep_their_texts_and_are_bounded() -> None:
    assert wanted_words('"Happy  birthday" and "to ! you"') == [["Happy", "birthday"], ["to", "you"]]
    many = " ".join(f'"w{number}"' for number in range(100))
    assert sum(map(len, wanted_words(many))) == MAX_WORDS


def test_what_is_found_survives_the_trace() -> None:
    found = [Found("OPEN", "misspelt", "OPNE"), Found("NOW", "read", "NOW"), Found("HERE", "missing", "")]
    steps = to_steps(found)
    assert of_steps(steps) == found
    assert [step.outcome for step in steps] == ["rejected", "confirmed", "rejected"]
    assert (share_read(found), share_read([])) == (1 / 3, None)


@pytest.mark.parametrize("seed", range(20))
def test_any_text_is_read_in_linear_time(seed: int) -> None:
    rng = random.Random(seed)
    soup = "".join(rng.choice("\"'“”‘’«» saytitledreads,.\n12AZaz欢ラ\x00\u202e") for _ in range(200_000))
    began = time.process_time()
    assert all(folded(text) for text in wanted_texts(soup))
    assert time.process_time() - began < 1
