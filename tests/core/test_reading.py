"""Files that others wrote: their encoding, paths that cannot be opened, and reasons in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refiner.errors import ConfigError, InputError, RefinerError
from refiner.reading import LARGEST, check_path, decode, read_text, reason_of, shown


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["", "a", "a\u00e9\U0001f600\n\ta", '{"a": 1}'])
def test_texts_are_read_in_utf_8_and_utf_16(tmp_path: Path, text: str, encoding: str) -> None:
    data = text.encode(encoding)
    assert decode(data) == text
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize("data", [b"caf\xe9", b"\xff\xfe\x00", b"\xff\xfe\x00\xd8", b"a\xff" * 5000])
def test_other_encodings_are_refused_without_their_bytes(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError) as error:
        decode(data)
    assert "is not UTF-" in reason_of(error.value)
    assert len(reason_of(error.value)) < 40


def test_a_file_that_is_too_large_is_refused_before_it_is_read_as_a_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(LARGEST * 1000)
    with pytest.raises(ValueError, match="it has more than"):
        read_text(tmp_path / "a.txt")


def _fail(data: bytes | str) -> Exception:
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory"), "no such file or directory"),
        (_fail("[" * 100_000), "it is nested too deeply"),
        (_fail(""), "Expecting value: line 1 column 1 (char 0)"),
        (KeyError("name"), "'name' is missing"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines\tof it"), "two lines of it"),
        (ValueError("\x1b[2J\ud800"), r"'\x1b[2J\ud800'"),
        (ValueError("x" * 10**6), "x" * 200),
    ],
)
def test_reasons_are_a_few_printable_words(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize("text", ["x" * 10**6, "\0" * 10**6, "\ud800\n" * 999, "\u202e" * 99])
def test_texts_in_messages_are_short_and_printable(text: str) -> None:
    assert len(shown(text)) <= 200
    assert shown(text).isprintable()


@pytest.mark.parametrize("kind", [RefinerError, ConfigError, InputError])
def test_errors_are_one_line_that_a_terminal_can_show(kind: type[RefinerError]) -> None:
    assert str(kind("a\nb\x1b[2J \udcff caf\u00e9")) == r"a\nb\x1b[2J \udcff caf" + "\u00e9"


def test_paths_that_do_not_exist_pass_and_impossible_ones_are_refused(tmp_path: Path) -> None:
    check_path(tmp_path / "none" / "none")
    (tmp_path / "file").touch()
    check_path(tmp_path / "file" / "none")
    for path in (tmp_path / ("x" * 300), f"{tmp_path}/\0"):
        with pytest.raises(InputError, match=r"^Cannot open .*: check the path\.$"):
            check_path(path)
