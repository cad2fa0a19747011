"""Reading the answers of AnomAgent's steps: malformed texts, and the rules that hold for all texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_agent import BROKEN

from refiner.detectors.anomreason.answers import (
    Group,
    read_final,
    read_issues,
    read_merging,
    read_things,
    read_verification,
    union,
)
from refiner.detectors.anomreason.work import Issue, Thing
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import UnreadableOutputError
from refiner.types import Size

FORM, SIZE = BoxFormat(scale="thousand"), Size(60, 80)
ISSUES = [Issue(thing="t", name=f"n{number}", phenomenon="p", reasoning="r") for number in range(3)]
READERS: dict[str, Callable[[str], Any]] = {
    "objects": read_things,
    "issues": lambda text: read_issues(text, "thing"),
    "verdicts": lambda text: read_verification(text, ISSUES),
    "kept": lambda text: read_merging(text, len(ISSUES)),
    "anomalies": lambda text: read_final(text, ISSUES, size=SIZE, form=FORM, shown=SIZE),
}
"""First field of an answer -> its reader."""
WORDS = {"name": "n", "observed_phenomenon": "p", "reasoning": "r"}
GOOD = {
    "objects": {"objects": [{"name": "a hand", "description": "left"}, {"name": "a cup", "description": ""}]},
    "issues": {"issues": [WORDS, {**WORDS, "name": "m"}]},
    "verdicts": {"verdicts": [
        {"item": number, "evidence": "e", "verdict": "present", "probability_of_flaw": 1} for number in (3, 1, 2)
    ]},
    "kept": {"kept": [{"items": [3, 1], **WORDS}], "removed": [{"item": 2, "reason": "noise"}]},
    "anomalies": {"anomalies": [{"item": 2, **WORDS, "severity_score": 5, "bbox_2d": [0, 0, 500, 500]}]},
}  # fmt: skip
WALL = [
    *BROKEN, "null", "\x00", "{}", "[[[[", '{"anomalies": [{"item": "x"}]}',
    '{"kept": [{"items": 9}], "removed": []}', '{"kept": [{"items": true}], "removed": []}', '{"issues": [[]]}',
    '{"kept": [{"items": [[1]]}], "removed": []}', '{"verdicts": [{"item": 1, "verdict": null}]}',
    '{"anomalies": [{"item": 4}, {"item": 0}, {"item": -1}]}', '{"objects": [{"name": "!!!"}, {"name": null}]}',
    "[" * 100_000, '{"issues": [' + '{"name": "n"},' * 10_000, '```json\n{"issues": []',
    '{"kept": [], "removed": [{"item": 99999999999999999999}]}', '{"verdicts": []}', '{"objects": [{}]}',
]  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", WALL, ids=range(len(WALL)))
def test_what_is_not_of_the_form_is_an_error_with_the_text(name: str, text: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        READERS[name](text)
    assert caught.value.raw == text


@pytest.mark.parametrize("name", READERS)
def test_an_answer_is_read_inside_other_text_and_never_if_it_breaks_off(name: str) -> None:
    text = json.dumps(GOOD[name])
    whole = READERS[name](text)
    for around in ("```json\n{}\n```", "<think>[1] hm {{</think>{}", "I looked. {} Done.", "\n {} \n"):
        said = around.replace("{}", text).replace("{{", "{")
        found = READERS[name](said)
        assert (found._replace(raw=text) if name == "anomalies" else found) == whole
    for end in range(len(text)):
        with pytest.raises(UnreadableOutputError):
            READERS[name](text[:end])


@pytest.mark.parametrize("text", ['{"issues": []}', '```json\n{"issues": []}\n```', 'Nothing: {"issues": []}'])
def test_no_issues_are_what_the_answer_calls_so(text: str) -> None:
    assert read_issues(text, "thing") == []
    for more in ('{"issues": [{', "[", '[{"name": "n"}'):
        with pytest.raises(UnreadableOutputError):
            read_issues(f"{text} {more}", "thing")


@given(st.text() | st.sampled_from(WALL), st.sampled_from(sorted(READERS)))
def test_no_text_raises_another_error(text: str, name: str) -> None:
    try:
        READERS[name](text)
    except UnreadableOutputError as error:
        assert error.raw == text  # noqa: PT017


@given(st.lists(st.lists(st.integers(-1, 5), max_size=4), max_size=4), st.lists(st.integers(-1, 5), max_size=4))
def test_each_item_is_kept_or_removed_once(kept: list[list[int]], removed: list[int]) -> None:
    document = {"kept": [{"items": items} for items in kept], "removed": [{"item": item} for item in removed]}
    try:
        merging = read_merging(json.dumps(document), 3)
    except UnreadableOutputError:
        return
    left = [item for group in merging.removed for item in group.items]
    items = [item for group in merging.kept for item in group.items]
    assert sorted([*items, *left]) == [0, 1, 2]
    assert {item + 1 for item in left} <= {*removed} - {item for own in kept for item in own}


def test_the_words_of_a_group_are_those_of_the_answer() -> None:
    merging = READERS["kept"](json.dumps(GOOD["kept"]))
    assert merging.kept == (Group((2, 0), "n", "p", "r"),)
    assert merging.removed == (Group((1,), reasoning="noise"),)


NAMES = st.lists(st.sampled_from(["The hand", "hand.", "a cup", "CUP", "an ear", "the", "a"]), max_size=5)


@given(st.lists(NAMES, max_size=4))
def test_the_union_has_each_object_once_in_the_order_of_its_first_mention(drafts: list[list[str]]) -> None:
    found = union([[Thing(name, "") for name in draft] for draft in drafts])
    bare = {"The hand": "hand", "hand.": "hand", "a cup": "cup", "CUP": "cup", "an ear": "ear"}
    keys = [bare.get(name, name) for draft in drafts for name in draft]
    assert [bare.get(thing.name, thing.name) for thing, _ in found] == list(dict.fromkeys(keys))
    for thing, seen in found:
        key = bare.get(thing.name, thing.name)
        assert seen == tuple(
            number for number, draft in enumerate(drafts) if key in [bare.get(name, name) for name in draft]
        )
