"""One policy of all readers: encodings of text, forms of names, suffixes of images, and paths that are too long."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from refiner.data.folders import SUFFIXES
from refiner.data.names import basename, find_file, same
from refiner.data.problems import Problem, count_problems
from refiner.data.prompts import match_prompts, read_prompts
from refiner.data.samples import DataSet, pairs_of
from refiner.data.sources import SOURCES, contents, open_data
from refiner.errors import InputError, RefinerError
from refiner.files import dumps
from refiner.images import FORMATS, load_image
from tests.support.hostile_files import CSV, DATA, JSON, picture

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9/n\u0101.png") for form in ("NFC", "NFD"))
SLASHED = "caf\u00e9\\n\u0101.png"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
READERS = [name for name in DATA if name != "metadata of a folder"]
FOLDERS = {"anomreason": ("1_fake",), "anomreason, real images": ("0_real",), "anomreason, splits": ("1_fake",)}
"""Where the images of a reader lie, if not in ``images/``."""


def encoded(path: Path, text: str, encoding: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def build(root: Path, reader: str, written: str, stored: str, encoding: str = "utf-8") -> DataSet:
    """Open a data set of one image, which is called ``written`` in the records and ``stored`` on the disk."""
    specification, file, record = DATA[reader]
    if reader == "xaigd":
        written, stored = (name.replace("/", "").replace("\\", "") for name in (written, stored))
    for folder in ("g",) if reader == "xaigd" else FOLDERS.get(reader, ("images",)):
        (root / folder / stored).parent.mkdir(parents=True, exist_ok=True)
        (root / folder / stored).write_bytes(picture())
    for name in dict.fromkeys((reader.partition(",")[0], reader)):
        found = DATA[name][2](written)
        if reader == "anomreason, real images" and name != reader:
            continue
        listed: Any = dict([found]) if isinstance(found, tuple) else [found]
        text = dumps(found, indent=None) if DATA[name][1].endswith(".jsonl") else dumps(listed)
        encoded(root / DATA[name][1], text, encoding)
    assert record(written)
    return open_data(specification.format(root), references=str(root / file) if reader == "references" else None)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("reader", READERS)
def test_records_are_read_in_utf_8_and_utf_16(tmp_path: Path, reader: str, encoding: str) -> None:
    data = build(tmp_path, reader, NFC, NFC, encoding)
    assert data.load(0).image is not None
    assert data.problems == []


@pytest.mark.parametrize(("written", "stored"), [(NFC, NFD), (NFD, NFC), (SLASHED, NFC), (SLASHED, NFD)])
@pytest.mark.parametrize("reader", READERS)
def test_a_name_in_records_is_that_of_its_file_in_any_form(
    tmp_path: Path, reader: str, written: str, stored: str
) -> None:
    data = build(tmp_path, reader, written, stored)
    assert (len(data.names), data.problems) == (1, [])
    assert data.load(0).image is not None
    assert "\\" not in data.names[0]


@pytest.mark.parametrize("reader", ["synthscars", "loki", "fakexplained", "swift", "sdg", "xaigd"])
def test_two_forms_of_a_name_are_one_image(tmp_path: Path, reader: str) -> None:
    build(tmp_path, reader, NFC, NFC)
    specification, file, record = DATA[reader]
    forms = [name.replace("/", "") if reader == "xaigd" else name for name in (NFC, NFD, SLASHED)]
    forms = forms[:2] if reader == "xaigd" else forms
    records = [record(name) for name in forms]
    lines = "\n".join(dumps(each, indent=None) for each in records)
    encoded(tmp_path / file, lines if file.endswith(".jsonl") else dumps(records), "utf-8")
    data = open_data(specification.format(tmp_path))
    assert len(data.names) == 1
    assert count_problems(data.problems) == {"duplicate_image": len(forms) - 1}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", list(CSV))
def test_tables_are_read_in_utf_8_and_utf_16(tmp_path: Path, name: str, encoding: str) -> None:
    file, text, read = CSV[name]
    encoded(tmp_path / "a" / file, text, "utf-8")
    encoded(tmp_path / "b" / file, text, encoding)
    wanted, found = (read(tmp_path / folder / file) for folder in "ab")
    assert found == wanted
    assert found


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", list(JSON))
def test_documents_are_read_in_utf_8_and_utf_16(tmp_path: Path, name: str, encoding: str) -> None:
    file, value, read = JSON[name]
    rows = value if file.endswith("l") else [value]
    encoded(tmp_path / file, "\n".join(dumps(row, indent=None) for row in rows), encoding)
    assert read(tmp_path / file)


PROMPTS = [
    ("p.csv", "file_name,text\na.png,a hand\nb.png,a clock\n"),
    ("p.csv", "file_name;caption;more\na.png;a hand;1\nb.png;a clock;2\n"),
    ("p.tsv", "prompt\tfile\na hand\ta.png\na clock\tb.png\n"),
    ("metadata.jsonl", '{"file_name": "a.png", "text": "a hand"}\n\n{"file_name": "b.png", "text": "a clock"}\n'),
    ("p.json", '[{"file": "a.png", "prompt": "a hand"}, {"file_name": "b.png", "caption": "a clock"}]'),
]


@pytest.mark.parametrize(("name", "text"), PROMPTS)
def test_prompts_of_the_hubs_image_folders(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    problems: list[Problem] = []
    assert read_prompts(tmp_path / name, problems) == {"a.png": "a hand", "b.png": "a clock"}
    assert problems == []


def test_lines_of_jsonl_without_names_are_numbered_and_broken_ones_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('"a hand"\n{"text": "a clock"}\n{"file_name": 3, "text": "x"}\nno JSON {\n7\n')
    problems: list[Problem] = []
    assert read_prompts(tmp_path / "p.jsonl", problems) == {"00000": "a hand", "00003": "no JSON {"}
    assert [(each.kind, each.where) for each in problems] == [
        ("unreadable_prompt", "line 2"),
        ("unreadable_prompt", "line 3"),
        ("unreadable_prompt", "line 5"),
    ]


@pytest.mark.parametrize(("written", "stored"), [(NFC, NFD), (NFD, NFC), (SLASHED, NFC)])
def test_prompts_match_images_in_any_form(written: str, stored: str) -> None:
    problems: list[Problem] = []
    for key in (written, written.removesuffix(".png"), basename(written)):
        assert match_prompts([stored, "other.png"], [key, "other"], "p.json", problems) == {
            stored: key,
            "other.png": "other",
        }
    assert problems == []


@pytest.mark.parametrize("file", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_has_the_prompts_of_its_metadata(tmp_path: Path, file: str) -> None:
    for name in ("a.png", "b/c.jfif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture("JPEG" if name.endswith("f") else "PNG"))
    before = contents(str(tmp_path))
    rows = {
        "metadata.csv": "file_name,text\na.png,a hand\n",
        "metadata.jsonl": '{"file_name": "a.png", "text": "a hand"}',
    }
    (tmp_path / file).write_text(rows[file])
    data = open_data(str(tmp_path))
    assert [(data.names[index], data.load(index).prompt) for index in range(2)] == [
        ("a.png", "a hand"),
        ("b/c.jfif", ""),
    ]
    assert [(each.kind, each.where) for each in data.problems] == [("missing_prompt", "b/c.jfif")]
    assert contents(str(tmp_path)) != before == {}
    (tmp_path / "p.json").write_text('{"c": "a clock"}')
    assert open_data(str(tmp_path), prompts=str(tmp_path / "p.json")).names == ("b/c.jfif",)


def test_metadata_without_prompts_is_named_and_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,3\n")
    data = open_data(str(tmp_path))
    assert (data.load(0).prompt, count_problems(data.problems)) == ("", {"ignored_file": 1})


@pytest.mark.parametrize("stored", [NFC, NFD])
def test_a_mask_belongs_to_its_image_in_any_form(tmp_path: Path, stored: str) -> None:
    for name in (NFC, f"masks/{stored}"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (30, 20), 255).save(tmp_path / name)
    data = open_data(str(tmp_path))
    truth = data.load(0).truth
    assert truth is not None
    assert (truth.artifact_ratio, data.problems) == (1.0, [])


@pytest.mark.parametrize("source", ["reconstructed", "synthbuster", "pal4vst"])
def test_partners_are_found_in_any_form(tmp_path: Path, source: str) -> None:
    folders = {"pal4vst": ("images", "masks"), "reconstructed": ("0_real", "1_fake"), "synthbuster": ("RAISE", "flux")}
    for folder, name in zip(folders[source], (NFC, NFD), strict=True):
        (tmp_path / folder / basename(name)).parent.mkdir(parents=True, exist_ok=True)
        path = tmp_path / folder / name.rpartition("/")[2]
        Image.new("L" if folder == "masks" else "RGB", (30, 20)).save(path)
    data = open_data(f"{source}:{tmp_path}")
    assert data.problems == []
    assert len(data.names) == (1 if source == "pal4vst" else 2)
    assert len(set(pairs_of(data))) == 1


def test_equal_file_names_in_different_folders_are_different_images(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "p.csv").write_text("file_name;text\na\\1.png;a hand\nb/1;a clock\n1.png;a foot\n")
    data = open_data(str(tmp_path), prompts=str(tmp_path / "p.csv"))
    assert [data.load(index).prompt for index in range(2)] == ["a hand", "a clock"]
    assert "duplicate_basename" in count_problems(data.problems)


def test_file_names_that_are_no_utf_8_are_kept(tmp_path: Path) -> None:
    name = b"\xff\xe9.png".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_bytes(picture())
    data = open_data(str(tmp_path))
    assert data.names == (name,)
    assert data.load(0).image is not None
    assert same(name) == name
    assert find_file(tmp_path, name).read_bytes() == picture()


def test_every_suffix_of_the_formats_counts_as_an_image(tmp_path: Path) -> None:
    Image.init()
    known = {suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    assert known.keys() == SUFFIXES
    for suffix, kind in known.items():
        (tmp_path / f"a{suffix.upper()}").write_bytes(picture(kind))
    data = open_data(str(tmp_path))
    assert (len(data.names), data.problems) == (len(SUFFIXES), [])
    assert load_image(tmp_path / "a.JFIF").size == (30, 20)


PLACES: dict[str, Callable[[Path], str]] = {
    "a path that is too long": lambda root: str(root.joinpath(*["x" * 200] * 30)),
    "a name that is too long": lambda root: str(root / ("x" * 300)),
    "a zero byte": lambda root: f"{root}/a\0b",
    "no UTF-8": lambda root: f"{root}/\udcff",
    "a file as a folder": lambda root: f"{root}/file/x",
}


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("source", list(SOURCES))
def test_paths_that_cannot_be_opened_are_refused_in_a_sentence(tmp_path: Path, source: str, place: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "a.png").write_bytes(picture())
    path = PLACES[place](tmp_path)
    specifications = [f"{source}:{path}", *(f"{source}:{tmp_path},{name}={path}" for name in SOURCES[source].options)]
    for specification in specifications:
        with pytest.raises(RefinerError) as error:
            open_data(specification)
        assert len(str(error.value)) < 1200
        assert str(error.value).isprintable()
    if SOURCES[source].matched:
        for option in ("prompts", "references"):
            with pytest.raises(InputError, match="Cannot"):
                open_data(str(tmp_path), **{option: path})
