"""Image files as people name them: files, folders, patterns and lists."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from refiner.data.pictures import Pictures, Prompted, find_pictures
from refiner.errors import InputError, MissingImageError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of equal names in several folders, beside files that are none; also the current folder."""
    for name in ("a/one.png", "a/deep/er/one.png", "b/one.png", "b/two.JPG", "b/odd [1].png", "b/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


A = ("a/deep/er/one.png", "a/one.png")
B = ("b/odd [1].png", "b/one.png", "b/two.JPG")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a"], A),
        (["a/", "b"], (*A, *B)),
        (["b/two.JPG", "none.png"], ("b/two.JPG", "none.png")),
        (["b/*"], B),
        (["**/one.png"], ("a/deep/er/one.png", "a/one.png", "b/one.png")),
        (["*"], (*A, *B)),
        (["b/odd [1].png"], ("b/odd [1].png",)),
        (["a/one.png", "a", "**/one.png"], ("a/one.png", "a/deep/er/one.png", "b/one.png")),
        (["a/one.png", "a/one.png"], ("a/one.png", "a/one.png")),
    ],
)
def test_files_folders_and_patterns(tree: Path, words: list[str], found: tuple[str, ...]) -> None:
    """What folders and patterns find counts once; a file that is named twice counts twice."""
    assert find_pictures(words) == found


TEXT = "a/one.png\n\n  b/two.JPG  \nb\n"
LISTED = ("a/one.png", "b/two.JPG", "b/odd [1].png", "b/one.png")


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.encode("utf-16"),
        b"a/one.png\0b/two.JPG\0b\0",
    ],
    ids=["plain", "with BOM", "CRLF", "UTF-16", "NUL bytes"],
)
def test_lists(tree: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "list.txt").write_bytes(content)
    assert find_pictures(["@list.txt"]) == LISTED
    assert find_pictures([], ["list.txt"]) == LISTED
    assert find_pictures(["a"], ["list.txt"]) == (*A, *LISTED[1:])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert find_pictures([], ["-"]) == LISTED


def test_names_that_are_no_utf8(tree: Path) -> None:
    name = os.fsdecode(b"a/caf\xe9.png")
    os.rename("a/one.png", name)
    (tree / "list.txt").write_bytes(b"a/caf\xe9.png\n")
    assert find_pictures([], ["list.txt"]) == (name,)
    assert Pictures((name,), (None,)).load(0).image is not None


def test_a_name_that_exists_is_no_list_and_no_pattern(tree: Path) -> None:
    for name in ("@odd.png", "b/*.png"):
        Image.new("RGB", (32, 32)).save(name)
        assert find_pictures([name]) == (name,)


@pytest.mark.parametrize(
    ("words", "lists", "said"),
    [
        (["empty"], [], "got none: add some"),
        (["none*.png"], [], "put it in quotes"),
        (["@none.txt"], [], "'none.txt' (No such file"),
        ([], ["blank.txt"], "got none: write one path"),
        ([], ["odd.txt"], "it is not text"),
        ([], ["a"], "give one path in each line"),
    ],
)
def test_what_names_no_image_is_refused(tree: Path, words: list[str], lists: list[str], said: str) -> None:
    (tree / "blank.txt").write_text("\n \n")
    (tree / "odd.txt").write_bytes(b"\xff\xfeabc")
    with pytest.raises(InputError) as caught:
        find_pictures(words, lists)
    assert said in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_the_data_set(tree: Path) -> None:
    data = Pictures(("a/one.png", "none.png"), (None, "a boat"))
    assert data.load(0).prompt == ""
    with pytest.raises(MissingImageError):
        data.load(1)
    (tree / "none.png").write_bytes((tree / "a/one.png").read_bytes())
    assert [Prompted(data, "a cat").load(index).prompt for index in range(2)] == ["a cat", "a boat"]
