"""The statements of a prompt by rules: the patterns of benchmarks, the micro world's captions, and hostile prompts."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from refiner.checklist import KINDS, MAX_STATEMENTS, Checklist
from refiner.detectors.checklist import words
from refiner.detectors.checklist.rules import DENIED, OPEN, STYLE, SURPLUS, UNKNOWN, parse_rules
from refiner.lettering import MAX_PROMPT, SAYING
from refiner.micro.things import KINDS as THINGS
from refiner.micro.world import Scene, Thing, sample_scene


def told(prompt: str) -> list[str]:
    return [f"{each.kind}: {each.text}" for each in parse_rules(prompt).statements]


PATTERNS = {
    "a photo of a bench": ["object: there is a bench"],
    "three cats": ["object: there are cats", "count: there are exactly three cats"],
    "4 red balloons": [
        "object: there are balloons", "attribute: there are red balloons", "count: there are exactly 4 red balloons",
    ],
    "several dogs": ["object: there are dogs"],
    "a photo of a purple wine glass and a black apple": [
        "object: there is a wine glass", "attribute: there is a purple wine glass", "object: there is an apple",
        "attribute: there is a black apple",
    ],
    "two red apples left of a blue cup": [
        "object: there are apples", "attribute: there are red apples", "count: there are exactly two red apples",
        "object: there is a cup", "attribute: there is a blue cup",
        "relation: the two red apples are to the left of the blue cup",
    ],
    'a sign that says "OPEN"': ["object: there is a sign", 'text: the sign says "OPEN"'],
    "a “NO ENTRY” sign": ["object: there is a sign", 'text: the sign says "NO ENTRY"'],
    "the words 'no war'": ['text: the text "no war" can be read'],
    "a black and white cat": [
        "object: there is a cat", "attribute: there is a black cat", "attribute: there is a white cat",
    ],
    "A giraffe and a bus are in front of a building.": [
        "object: there is a giraffe", "object: there is a bus", "object: there is a building",
        "relation: the giraffe and the bus are in front of the building",
    ],
    "a cat is sleeping on a wooden table": [
        "object: there is a cat", "object: there is a table", "attribute: there is a wooden table",
        "relation: the cat is sleeping on the wooden table",
    ],
    "a cat on a mat left of a dog": [
        "object: there is a cat", "object: there is a mat", "relation: the cat is on the mat", "object: there is a dog",
        "relation: the cat is to the left of the dog",
    ],
    "a woman with blue eyes wearing a hat and holding an umbrella": [
        "object: there is a woman", "attribute: the woman has blue eyes", "object: there is a hat",
        "relation: the woman is wearing the hat", "object: there is an umbrella",
        "relation: the woman is holding the umbrella",
    ],
    "There are three cups on a table; the cups are full": [
        "object: there are cups", "count: there are exactly three cups", "object: there is a table",
        "relation: the three cups are on the table", "attribute: the three cups are full",
    ],
    "a table with three plates": ["object: there is a table", "count: the table has exactly three plates"],
    "a dog on the left": ["object: there is a dog", "relation: the dog is on the left"],
}  # fmt: skip


@pytest.mark.parametrize("prompt", PATTERNS)
def test_the_patterns_of_benchmarks_are_read_in_full(prompt: str) -> None:
    assert told(prompt) == PATTERNS[prompt]
    assert parse_rules(prompt).unread == ()


@pytest.mark.parametrize(
    ("prompt", "read", "unread"),
    [
        ("no dogs", [], [("no dogs", DENIED)]),
        ("a cat without a hat", ["object: there is a cat"], [("without a hat", DENIED)]),
        ("a man with no hair", ["object: there is a man"], [("with no hair", DENIED)]),
        ("a cat or a dog", [], [("a cat or a dog", OPEN)]),
        ("red dress", [], [("red dress", UNKNOWN)]),
        ("a (red:1.2) cat", [], [("a (red:1.2) cat", UNKNOWN)]),
        ("a dog runs quickly", ["object: there is a dog"], [("runs quickly", UNKNOWN)]),
        ("a fox, soft light", ["object: there is a fox"], [("soft light", STYLE)]),
        ("an oil painting of a fox", ["object: there is a fox"], [("an oil painting of", STYLE)]),
        ("two cats between a dog and a bird", ["object: there are cats", "count: there are exactly two cats"],
         [("between a dog and a bird", UNKNOWN)]),
    ],
)  # fmt: skip
def test_what_is_denied_left_open_or_unknown_is_named(prompt: str, read: list[str], unread: list[object]) -> None:
    assert told(prompt) == read
    assert list(parse_rules(prompt).unread) == unread


def test_a_statement_needs_the_things_that_it_is_about() -> None:
    statements = parse_rules('two red apples left of a sign saying "SALE"').statements
    needed = {each.text: [statements[at].text for at in each.needs] for each in statements}
    assert needed == {
        "there are apples": [],
        "there are red apples": ["there are apples"],
        "there are exactly two red apples": ["there are apples"],
        "there is a sign": [],
        'the sign says "SALE"': ["there is a sign"],
        "the two red apples are to the left of the sign": ["there are apples", "there is a sign"],
    }


def named(thing: Thing) -> str:
    return f"the {thing.colour} {thing.kind}"


def article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def wanted(scene: Scene) -> set[str]:
    """The statements of a scene, from what the micro world knows about it and not from its caption."""
    details = {
        "hand": "{} has exactly five fingers", "face": "{} has exactly two eyes", "cat": "{} has exactly four legs",
        "clock": "{} is showing {attribute} o'clock", "sign": '{} says "{attribute}"', "house": "{} is by the pond",
        "tree": "{} has the sun on the {attribute}",
    }  # fmt: skip
    more = {"face": "{} is {attribute}", "cat": "{} is facing {attribute}", "house": "there is a pond"}
    found = {f"the background shows {scene.background}"}
    for thing in scene.things:
        texts = [f"there is a {thing.kind}", f"there is {article(thing.colour)} {thing.kind}", details[thing.kind]]
        texts.append(more.get(thing.kind, texts[0]))
        found |= {text.format(named(thing), attribute=thing.attribute) for text in texts}
    ends = [0, *itertools.accumulate(scene.rows)]
    rows = [[named(thing) for thing in scene.things[start:end]] for start, end in itertools.pairwise(ends)]
    found |= {f"{left} is to the left of {right}" for row in rows for left, right in itertools.pairwise(row)}
    for upper, lower in itertools.pairwise(rows):
        found.add(f"{' and '.join(upper)} {'are' if len(upper) > 1 else 'is'} above {' and '.join(lower)}")
    return found


def test_captions_of_the_micro_world_are_read_in_full() -> None:
    rng = np.random.default_rng(5)
    scenes = [sample_scene(rng) for _ in range(200)]
    assert {thing.kind for scene in scenes for thing in scene.things} == set(THINGS)
    for scene in scenes:
        checklist = parse_rules(scene.caption)
        assert checklist.unread == (), scene.caption
        assert {each.text for each in checklist.statements} == wanted(scene), scene.caption


def soup(seed: int) -> str:
    """Words in any order, with marks and quotes that do not fit."""
    rng = random.Random(seed)
    known = [*words.ATTRIBUTES, *words.NUMBERS, *words.PREPOSITIONS, *SAYING, *words.STOPS, *words.NEGATIONS]
    some = [
        "a",
        "an",
        "the",
        "and",
        "of",
        "cat",
        "dogs",
        "running",
        "is",
        '"',
        "'",
        "“x”",
        ",",
        ".",
        "(",
        "9",
        "\u202e",
        "left of",
        "on the left",
        "with",
        "a photo of",
    ]
    return " ".join(rng.choice(some if rng.random() < 0.6 else sorted(known)) for _ in range(rng.randint(1, 30)))


def check(checklist: Checklist, prompt: str) -> None:
    assert len(checklist.statements) <= MAX_STATEMENTS
    texts = [each.text for each in checklist.statements]
    assert len(set(texts)) == len(texts)
    for number, each in enumerate(checklist.statements):
        assert each.kind in KINDS
        assert each.text.strip()
        assert each.subject.strip()
        assert all(0 <= need < number for need in each.needs)
        plain = each.text.partition('"')[0].split()
        assert not set(plain) & words.NEGATIONS, "what is denied is never asserted"
    assert checklist.statements or checklist.unread or not prompt.strip(" ,;:.!?\n")


def test_any_words_in_any_order_are_read_or_named() -> None:
    for seed in range(1500):
        check(parse_rules(soup(seed)), soup(seed))


@pytest.mark.parametrize(
    "prompt", ["", " \n", "a" * 100_000, "a cat, " * 20_000, '"' * 50_000, "a cat and " * 9_000, "a red " * 9_000]
)
def test_long_and_empty_prompts_take_no_time(prompt: str) -> None:
    start = time.process_time()
    check(parse_rules(prompt), prompt)
    assert time.process_time() - start < 1


def test_statements_beyond_the_limit_and_words_beyond_the_end_are_named() -> None:
    many = parse_rules(", ".join(f"{number + 2} cats{number}" for number in range(60)))
    assert 0 < len(many.statements) <= MAX_STATEMENTS
    assert {part.reason for part in many.unread} == {SURPLUS}
    assert parse_rules(f"a cat{' ' * MAX_PROMPT}and a dog").unread[-1] == ("and a dog ...", SURPLUS)
