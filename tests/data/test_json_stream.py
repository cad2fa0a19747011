"""JSON that is read item by item: the same values as the parser of the standard library, each found again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from refiner.data.json_stream import Places, stream_lines, stream_list, stream_object

DECODER = json.JSONDecoder()
TEXTS = ("", "plain", 'a "quoted" one', "back\\slash", "new\nline", "é", "日本語", "😀", "\ud83d", "}],:{[")


def thing(rng: random.Random, depth: int = 0) -> object:
    """Any JSON value."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 6:
        plain = (None, rng.random() < 0.5, rng.randrange(10**9), rng.uniform(-1e9, 1e9), rng.choice(TEXTS), -1)
        return plain[kind]
    if kind == 6:
        return [thing(rng, depth + 1) for _ in range(rng.randrange(6))]
    return {f"{rng.choice(TEXTS)}{at}": thing(rng, depth + 1) for at in range(rng.randrange(6))}


def things(seed: int) -> list[object]:
    """Enough to be read in several goes, with one that is longer than a go."""
    rng = random.Random(seed)
    found = [thing(rng) for _ in range(8000)]
    found[4000] = ["é" * 150_000, *range(20_000)]
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", ["", "\n \t", "\ufeff", "\ufeff "])
def test_a_list_has_the_same_items(tmp_path: Path, seed: int, start: str) -> None:
    wanted, file = things(seed), tmp_path / "list.json"
    text = json.dumps(wanted, ensure_ascii=seed % 2 == 0, indent=seed // 2 or None)
    file.write_bytes((start + text + "\n").encode("utf-8", "replace"))
    wanted = json.loads(file.read_text(encoding="utf-8-sig"))
    items = list(stream_list(file))
    assert [item.value for item in items] == wanted
    for at in range(0, len(items), 97):
        assert items[at].place.read() == wanted[at]


@pytest.mark.parametrize("seed", range(2))
def test_an_object_has_the_same_members(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "object.json"
    file.write_text(json.dumps({f"é {at}": value for at, value in enumerate(things(seed))}, indent=seed or None))
    wanted = json.loads(file.read_text())
    members = list(stream_object(file, DECODER))
    assert {name: item.value for name, item in members} == wanted
    for name, item in members[::97]:
        assert item.place.read() == wanted[name]


def test_a_name_that_stands_twice_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('{"a": 1, "b": 2, "a": 3}')
    assert [(name, item.value) for name, item in stream_object(tmp_path / "o.json", DECODER)] == [
        ("a", 1), ("b", 2), ("a", 3)
    ]  # fmt: skip


def test_numbers_are_never_cut(tmp_path: Path) -> None:
    wanted = [10**at for at in range(400)] * 20
    (tmp_path / "list.json").write_text(json.dumps(wanted))
    assert [item.value for item in stream_list(tmp_path / "list.json")] == wanted


@pytest.mark.parametrize("text", ["[]", " [ ] ", "[[]]", "[{}]", "[null]", "[NaN, -Infinity]"])
def test_short_lists(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.json").write_text(text)
    assert repr([item.value for item in stream_list(tmp_path / "l.json")]) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text", ["", " ", "{}", "3", '"["', "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1] 2", "[1]]", "[}", "[1}", '["a]']
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.json").write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        list(stream_list(tmp_path / "l.json"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a"', '{"a":', '{"a": 1', '{"a": 1,', '{"a": 1,}', "{1: 2}", "{,}", '{"a" 1}', "{} 1"]
)
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.json").write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        list(stream_object(tmp_path / "o.json", DECODER))


def test_lines_are_found_again(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes('{"é": 1}\r\n\n  \n[2]\n{broken\n"last"'.encode())
    lines = list(stream_lines(file))
    assert [(number, item.value) for number, item in lines] == [(1, {"é": 1}), (4, [2]), (5, "{broken\n"), (6, "last")]
    places = Places([tmp_path / "other", file])
    for _, item in lines:
        places.append(item.place)
    assert len(places) == 4
    assert [places[at].read() for at in (3, 0, 1)] == ["last", {"é": 1}, [2]]
    with pytest.raises(ValueError, match="Expecting"):
        places[2].read()


def test_lines_that_are_not_utf_8_are_texts_and_the_others_stay_records(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": "\xff"}\n{"a": "\\\xff"}\n[2]')
    lines = [item for _, item in stream_lines(file)]
    assert [item.value for item in lines] == [{"a": 1}, '{"a": "\\xff"}\n', '{"a": "\\\\xff"}\n', [2]]
    assert [lines[at].place.read() for at in (0, 3)] == [{"a": 1}, [2]]
