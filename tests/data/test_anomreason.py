"""AnomReason's files: both spellings, the turned severity scale, and a wall of hostile input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.data.anomreason import (
    anomalies_at,
    basename,
    from_regions,
    index_anomalies,
    label_of,
    read_anomalies,
    read_answers,
    to_document,
)
from refiner.data.problems import Problem, count_problems
from refiner.errors import InputError
from refiner.taxonomy import Category
from refiner.types import Claim, Region

OFFICIAL = {
    "Name": "@1. Name: Bread",
    "Observed Phenomenon": " The bread is too smooth. ",
    "Reasoning": "Bread has pores.",
    "Severity Score": "25/100 (moderately unrealistic).",
}
PLAIN = {"name": "Bread", "phenomenon": "The bread is too smooth.", "reasoning": "Bread has pores.", "severity": 25}


@pytest.fixture
def write(tmp_path: Path):
    def write(content: Any, name: str = "p.json") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def test_both_spellings_say_the_same(write):
    found = read_anomalies(write({"a.png": [OFFICIAL, PLAIN]}))
    official, plain = found.images["a.png"]
    assert official.explanation == plain.explanation == "The bread is too smooth."
    assert official.reasoning == plain.reasoning == "Bread has pores."
    assert official.severity == plain.severity == 0.75
    assert not found.problems


def test_null_and_an_empty_list_are_no_anomalies(write):
    found = read_anomalies(write({"a.png": None, "b.png": []}))
    assert found.images == {"a.png": (), "b.png": ()}
    assert not found.unreadable
    assert not found.problems


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (0, 1.0),
        (100, 0.0),
        (25.0, 0.75),
        ("40", 0.6),
        ("20/100", 0.8),
        ("20 / 100 (slightly unrealistic).", 0.8),
        ("35%", 0.65),
        ("12.5", 0.875),
        ("30. Noticeable", 0.7),
        (None, None),
        ("", None),
    ],
)
def test_severity_is_turned(write, given, wanted):
    found = read_anomalies(write({"a.png": [PLAIN | {"severity": given}]}))
    assert found.images["a.png"][0].severity == wanted
    assert not found.problems


@pytest.mark.parametrize(
    "given",
    [
        "high",
        "-5",
        -1,
        101,
        1e400,
        "101",
        "25/1000",
        "3/10",
        "20-30",
        True,
        [20],
        {"v": 2},
        float("nan"),
        "nan",
        10**400,
    ],
)
def test_severity_that_is_none_is_named(write, given):
    found = read_anomalies(write({"a.png": [PLAIN | {"severity": given}]}))
    assert found.images["a.png"][0].severity is None
    assert count_problems(found.problems) == {"bad_severity": 1}
    assert "a.png, anomaly 0" in str(found.problems[0])
    assert "p.json" in str(found.problems[0])


@pytest.mark.parametrize("value", ["text", 3, True, {"phenomenon": "x"}, 1.5])
def test_image_without_a_list_is_named_and_the_rest_goes_on(write, value):
    found = read_anomalies(write({"bad.png": value, "good.png": [PLAIN]}))
    assert found.unreadable == {"bad.png"}
    assert found.images["bad.png"] == ()
    assert len(found.images["good.png"]) == 1
    assert count_problems(found.problems) == {"unreadable_image": 1}


@pytest.mark.parametrize("entry", [None, "text", 3, [], ["x"], True])
def test_anomaly_that_is_no_object_is_left_out(write, entry):
    found = read_anomalies(write({"a.png": [entry, PLAIN]}))
    assert [anomaly.name for anomaly in found.images["a.png"]] == ["Bread"]
    assert count_problems(found.problems) == {"unreadable_anomaly": 1}


@pytest.mark.parametrize("value", ["", "  \n", None])
def test_empty_texts_are_counted(write, value):
    found = read_anomalies(write({"a.png": [PLAIN | {"phenomenon": value, "reasoning": value}]}))
    assert found.images["a.png"][0].explanation == ""
    assert count_problems(found.problems) == {"empty_text": 2}


def test_texts_of_other_kinds(write):
    found = read_anomalies(write({"a.png": [PLAIN | {"phenomenon": 12, "reasoning": ["a"]}]}))
    assert found.images["a.png"][0].explanation == "12"
    assert count_problems(found.problems) == {"empty_text": 1, "unreadable_text": 1}


def test_keys_given_twice_are_named_and_the_last_one_counts(write):
    found = read_anomalies(write(b'{"a.png": [], "b.png": [], "a.png": [{"phenomenon": "x", "reasoning": "y"}]}'))
    assert len(found.images["a.png"]) == 1
    assert count_problems(found.problems) == {"duplicate_key": 1}
    assert "2 times" in found.problems[0].detail


def test_keys_given_twice_are_counted_once_however_the_file_is_read(write):
    """An object is decoded again where the end of what was read so far falls into its image."""
    twice = b'{"phenomenon": "x", "phenomenon": "y", "reasoning": "' + b"z" * 700 + b'"}'
    images = b", ".join(b'"%d.png": [%s, %s]' % (at, twice, twice) for at in range(400))
    path = write(b'{"a.png": 7, "a.png": [], "a.png": 7, ' + images + b"}")
    streamed: list[Problem] = []
    found = index_anomalies(path, streamed)
    whole = read_anomalies(path)
    assert len(found) == 400
    assert anomalies_at(found["3.png"]) == whole.images["3.png"]
    for problems in (streamed, whole.problems):
        named = [each.where for each in problems if each.kind == "duplicate_key"]
        inner = [f"{at}.png, anomaly {number}, phenomenon" for at in range(400) for number in (0, 1)]
        assert sorted(named) == sorted(["a.png", *inner])
    said = [each.detail for each in streamed if (each.kind, each.where) == ("duplicate_key", "a.png")]
    assert said == ["given 3 times; the last one counts"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"text"',
        b'{"a.png": [',
        b"\xff\xfe\x00garbage",
        b"{'a.png': []}",
        b"[" * 200_000,
        b'{"a": ' * 100_000,
        b'{"a.png": [{"severity": ' + b"9" * 5000 + b"}]}",
    ],
    ids=range(12),
)
def test_files_that_are_no_such_json_are_refused_by_name(write, content):
    with pytest.raises(InputError, match=r"p\.json"):
        read_anomalies(write(content))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_anomalies(path)


def test_byte_order_mark_and_any_script(write):
    document = {"ä/漢.png": [PLAIN | {"phenomenon": "手が六本 👋"}]}
    found = read_anomalies(write(b"\xef\xbb\xbf" + json.dumps(document, ensure_ascii=False).encode()))
    assert found.images["ä/漢.png"][0].explanation == "手が六本 👋"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*OFFICIAL, *PLAIN, "other"]) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=3))
def test_any_json_object_is_read(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("any") / "p.json"
    path.write_text(json.dumps(document))
    found = read_anomalies(path)
    assert found.images.keys() == document.keys()
    for anomalies in found.images.values():
        assert all(one.severity is None or 0 <= one.severity <= 1 for one in anomalies)


ANOMALIES = st.builds(
    Claim,
    name=st.text(max_size=9).map(str.strip),
    explanation=st.text(max_size=9).map(str.strip),
    reasoning=st.text(max_size=9).map(str.strip),
    severity=st.none() | st.integers(0, 100).map(lambda value: value / 100),
)


@given(st.dictionaries(st.text(max_size=4), st.lists(ANOMALIES, max_size=3), max_size=3))
def test_written_anomalies_are_read_back(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("round") / "p.json"
    path.write_text(json.dumps(to_document(images)))
    found = read_anomalies(path)
    for key, anomalies in images.items():
        for one, again in zip(anomalies, found.images[key], strict=True):
            assert (one.name, one.explanation, one.reasoning) == (again.name, again.explanation, again.reasoning)
            assert again.severity == (None if one.severity is None else pytest.approx(one.severity, abs=1e-12))


def test_regions_become_anomalies():
    region = Region(
        mask=None,
        box=(0, 0, 2, 2),
        name="hand",
        explanation="six",
        reasoning="five",
        category=Category.ANATOMY,
        severity=0.5,
    )
    assert from_regions([region]) == (Claim(name="hand", explanation="six", reasoning="five", severity=0.5),)


@pytest.mark.parametrize(
    ("key", "name"),
    [("a.png", "a.png"), ("x/y/a.png", "a.png"), (r"C:\x\a.png", "a.png"), ("", ""), ("/a.png", "a.png")],
)
def test_basename(key, name):
    assert basename(key) == name


def test_labels_are_whole_folder_names():
    assert label_of("set/1_fake/a.png") is True
    assert label_of(r"set\0_real\a.png") is False
    assert label_of("1_fake_a.png") is None


def test_answers(write):
    said = {"a": "Yes.", "b": "**No**, it is", "c": "maybe yes", "d": None, "e": "", "f": 3, "g": "YES!", "h": ["no"]}
    answers = read_answers(write(said))
    wanted = {"a": True, "b": False, "c": None, "d": None, "e": None, "f": None, "g": True, "h": False}
    assert answers.fake == wanted
    assert count_problems(answers.problems) == {"unreadable_answer": 4}
