"""Folders of pictures, files of prompts, and the data sets made of them: any layout, and every mistake named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.data.folders import ImageFolder, read_mask
from refiner.data.micro import MicroData
from refiner.data.problems import Problem, count_problems
from refiner.data.prompts import match_prompts, read_prompts
from refiner.data.samples import digest, group_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError
from refiner.images import load_image
from refiner.types import Size


def picture(path: Path, size: tuple[int, int] = (24, 20), shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade,) * 3).save(path)
    return path


def mask(path: Path, box: tuple[int, int, int, int] | None, size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = Image.new("L", size)
    if box is not None:
        canvas.paste(255, box)
    canvas.save(path)


def kinds(problems: list[Problem]) -> dict[str, int]:
    return count_problems(problems)


# Prompts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", '{"a.png": "a hand", "b.png": " a clock "}'),
        ("p.JSON", '\ufeff{"a.png": "a hand", "b.png": "a clock"}'),
        ("p.csv", "file,prompt\na.png,a hand\nb.png,a clock\n"),
        ("p.csv", '\ufeffprompt,more,file\n"a hand",1,a.png\r\na clock,,b.png\r\n'),
    ],
)
def test_prompts_are_read_from_every_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    problems: list[Problem] = []
    assert read_prompts(tmp_path / name, problems) == {"a.png": "a hand", "b.png": "a clock"}
    assert problems == []


@pytest.mark.parametrize(("name", "text"), [("p.json", '["a hand", "a clock"]'), ("p.txt", "a hand\n\na clock\n")])
def test_prompts_without_names_are_numbered(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(tmp_path / name, []) == {"00000": "a hand", "00001": "a clock"}


def test_what_is_wrong_with_prompts_is_named_and_counted(tmp_path: Path) -> None:
    text = '{"a": "a hand", "a": "two hands", "b": "", "c": "  \\n", "d": 3, "e": null, "f": ["x"], "g": "\\ud800"}'
    (tmp_path / "p.json").write_text(text)
    problems: list[Problem] = []
    assert read_prompts(tmp_path / "p.json", problems) == {"a": "a hand"}
    assert kinds(problems) == {"duplicate_prompt": 1, "empty_prompt": 2, "unreadable_prompt": 4}
    assert all(problem.file == str(tmp_path / "p.json") and str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("p.json", b""),
        ("p.json", b"{"),
        ("p.json", b"3"),
        ("p.json", b'"text"'),
        ("p.json", b"null"),
        ("p.json", b"{}"),
        ("p.json", b"[]"),
        ("p.json", b'{"a": ""}'),
        ("p.json", b"\xff\xfe\x00"),
        ("p.json", b"[" * 5000),
        ("p.csv", b""),
        ("p.csv", b"name,caption\na,b\n"),
        ("p.csv", b"file,prompt\n"),
        ("p.csv", b"\xff\xfe"),
        ("p.txt", b"\n\n"),
        ("p.txt", b"\xc3\x28"),
    ],
)
def test_files_that_are_no_prompts(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"^(Expected|Cannot read) .*p\."):
        read_prompts(tmp_path / name, [])


def test_a_missing_file_or_a_folder_of_prompts(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path / "none.csv", tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=r"^Cannot read prompts from"):
            read_prompts(path, [])


def test_pictures_find_their_prompts_by_path_by_name_and_by_number() -> None:
    names = ["x/a.png", "y/b.jpg", "y/00002.webp", "z/a.png", "x/c.png", "z/c.png"]
    prompts = ["x/a.png", "b.jpg", "00002", "z/a.png", "x/c", "z/c"]
    problems: list[Problem] = []
    found = match_prompts(names, prompts, "p.json", problems)
    assert found == dict(zip(names, prompts, strict=True))
    assert problems == []


def test_mixed_up_prompts_are_named_and_counted() -> None:
    problems: list[Problem] = []
    found = match_prompts(
        ["x/a.png", "y/a.png", "x/b.png", "x/c.png", "x/d.png"],
        ["a.png", "gone.png", "x/c.png", "c.png", "b.png"],
        "p.json",
        problems,
    )
    assert found == {"x/c.png": "x/c.png", "x/b.png": "b.png"}
    assert kinds(problems) == {"duplicate_basename": 1, "duplicate_prompt": 1, "missing_image": 1, "missing_prompt": 3}
    assert next(problem.where for problem in problems if problem.kind == "missing_image") == "gone.png"


# Folders


def test_pictures_of_any_depth_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "sub/c.png", "sub/deep/d.jpeg", ".hidden/e.png", ".f.png", "masks/b.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    problems: list[Problem] = []
    folder = ImageFolder.open(tmp_path, problems)
    assert folder.names == ("a.JPG", "b.png", "sub/c.png", "sub/deep/d.jpeg")
    assert [(problem.kind, problem.where) for problem in problems] == [("ignored_file", "notes.txt")]


def test_folders_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, said in [(tmp_path / "none", "is not a folder"), (tmp_path / "empty", "got none")]:
        with pytest.raises(InputError, match=said):
            ImageFolder.open(path, [])


@pytest.mark.parametrize(
    ("name", "group", "fake"),
    [
        ("a.png", "", None),
        ("sdxl/a.png", "sdxl", None),
        ("sdxl/car/1_fake/a.png", "sdxl", True),
        ("0_real/a.png", "", False),
        ("0_real/coco/a.png", "coco", False),
    ],
)
def test_groups_and_labels_come_from_the_path(tmp_path: Path, name: str, group: str, fake: bool | None) -> None:
    picture(tmp_path / name)
    assert group_of(name) == group
    sample = open_data(str(tmp_path)).load(0)
    assert (sample.name, sample.group, sample.fake) == (name, group, fake)


# Data sets


def test_a_folder_with_masks_prompts_and_references(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "set" / name)
    mask(tmp_path / "set/masks/a.png", (2, 3, 10, 9))
    mask(tmp_path / "set/masks/b.png", None)
    (tmp_path / "p.json").write_text('{"a.png": "a hand", "b.png": "a clock"}')
    anomalies = [{"Name": "hand", "Observed Phenomenon": "six fingers", "Reasoning": "five", "Severity Score": 20}]
    (tmp_path / "r.json").write_text(json.dumps({"other/a.png": anomalies, "b.png": []}))
    data = open_data(str(tmp_path / "set"), prompts=str(tmp_path / "p.json"), references=str(tmp_path / "r.json"))
    first, second = data.load(0), data.load(1)
    assert data.problems == []
    assert (first.prompt, second.prompt) == ("a hand", "a clock")
    assert first.truth is not None
    assert second.truth is not None
    assert first.truth.mask.sum() == 8 * 6
    assert not second.truth.mask.any()
    assert first.anomalies is not None
    assert (first.anomalies[0].explanation, first.anomalies[0].severity) == ("six fingers", 0.8)
    assert second.anomalies == ()
    record = first.truth_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["categorised"] is False


def test_pictures_without_prompts_or_references_are_left_out_and_named(tmp_path: Path) -> None:
    for name in ("x/a.png", "y/a.png", "b.png", "c.png"):
        picture(tmp_path / "set" / name)
    (tmp_path / "r.json").write_text('{"a.png": [], "b.png": [], "gone.png": [], "c.png": 3}')
    data = open_data(str(tmp_path / "set"), references=str(tmp_path / "r.json"))
    assert data.names == ("b.png",)
    wanted = {"duplicate_basename": 1, "missing_image": 1, "missing_reference": 3, "unreadable_image": 1}
    assert kinds(data.problems) == wanted


@pytest.mark.parametrize("damage", ["size", "missing", "garbage"])
def test_a_picture_without_a_usable_mask_cannot_be_loaded(tmp_path: Path, damage: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    if damage == "size":
        mask(tmp_path / "masks/a.png", (0, 0, 2, 2), (20, 24))
    elif damage == "garbage":
        (tmp_path / "masks/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"masks.a\.png"):
        open_data(str(tmp_path)).load(0)


def test_masks_of_no_picture_or_of_two_are_named_and_counted(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "x/a.png", "b.png"):
        picture(tmp_path / name)
    for name in ("a.png", "x/a.png", "b.png", "gone.png", "x/b.png"):
        mask(tmp_path / "masks" / name, (2, 3, 10, 9))
    (tmp_path / "masks/b.txt").write_text("x")
    data = open_data(str(tmp_path))
    assert kinds(data.problems) == {"unknown_image": 2, "duplicate_basename": 1, "ignored_file": 1}
    assert {problem.where for problem in data.problems} == {"gone.png", "x/b.png", "a.png", "b.txt"}
    for index, name in enumerate(data.names):
        if name in ("a.png", "a.bmp"):
            with pytest.raises(InputError, match="another image too"):
                data.load(index)
        else:
            assert data.load(index).truth is not None


def test_a_damaged_picture_cannot_be_loaded_and_the_others_can(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    whole = picture(tmp_path / "b.png", (300, 300)).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    data = open_data(str(tmp_path))
    with pytest.raises(InputError, match=r"b\.png"):
        data.load(1)
    assert data.load(0).image is not None


def test_masks_count_from_128_on(tmp_path: Path) -> None:
    values = np.array([[0, 1, 127], [128, 254, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", Size(2, 3)).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize(
    ("values", "flawed"), [([0, 1, 0, 1], [False, True, False, True]), ([0, 255, 0, 0], [False, True, False, False])]
)
def test_masks_of_zeros_and_ones_count_too(tmp_path: Path, values: list[int], flawed: list[bool]) -> None:
    Image.fromarray(np.array([values], dtype=np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", Size(1, 4)).tolist() == [flawed]


def test_a_mask_that_may_mean_anything_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 3, 100]], dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=r"0 and 1, or 0 and 255, got values up to 100"):
        read_mask(tmp_path / "m.png", Size(1, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [24, 32])
@pytest.mark.parametrize("raw", [True, False])
def test_masks_of_turned_pictures(tmp_path: Path, orientation: int, side: int, *, raw: bool) -> None:
    """The mask shows where the picture is red; if its sides do not tell how it is turned, it is refused."""
    stored = np.zeros((32 if side == 32 else 20, side, 3), dtype=np.uint8)
    stored[2:5, 3:17] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "masks").mkdir()
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    shown = load_image(tmp_path / "a.png")
    red = stored if raw else np.asarray(shown)
    Image.fromarray(red[..., 0]).save(tmp_path / "masks/a.png")
    data = open_data(str(tmp_path))
    if orientation == 1 or (orientation > 4 and side != 32):
        truth = data.load(0).truth
        assert truth is not None
        assert np.array_equal(truth.mask, np.asarray(shown)[..., 0] > 127)
        return
    with pytest.raises(InputError, match=f"EXIF orientation {orientation}, and nothing says"):
        data.load(0)
    Image.fromarray(stored[..., 0]).save(tmp_path / "masks/a.png", exif=exif)
    truth = data.load(0).truth
    assert truth is not None, "a mask that says how it is turned"
    assert np.array_equal(truth.mask, np.asarray(shown)[..., 0] > 127)


def test_an_empty_mask_of_a_turned_picture_is_empty_either_way(tmp_path: Path) -> None:
    exif = Image.Exif()
    (tmp_path / "masks").mkdir()
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        Image.new("RGB", (24, 20)).save(tmp_path / "a.png", exif=exif)
        for size in (load_image(tmp_path / "a.png").size, (24, 20)):
            mask(tmp_path / "masks/a.png", None, size)
            truth = open_data(str(tmp_path)).load(0).truth
            assert truth is not None
            assert not truth.mask.any()


def xaigd(folder: Path, size: tuple[int, int] = (24, 20)) -> None:
    labels = [{"label": "low-level-symbol", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]}]
    rows = [{"generator": "sdxl", "uid": uid, "width": 24, "height": 20, "labels": labels} for uid in ("1", "2")]
    rows[1]["labels"] = []
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labeled_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture(folder / "images/sdxl/1.png", size)
    picture(folder / "images/sdxl/2.jpg", size)


def test_annotated_pictures_of_xaigd(tmp_path: Path) -> None:
    xaigd(tmp_path)
    data = open_data(f"xaigd:{tmp_path}")
    first, second = data.load(0), data.load(1)
    assert (first.name, first.group, first.fake) == ("sdxl/1", "sdxl", True)
    assert first.truth is not None
    assert second.truth is not None
    assert first.truth.mask.sum() == 64
    assert [region.category.xaigd for region in first.truth.regions] == ["low-level-symbol"]
    assert second.truth.regions == ()


def test_a_picture_of_another_size_than_its_annotation(tmp_path: Path) -> None:
    xaigd(tmp_path, (20, 24))
    with pytest.raises(InputError, match="24x20 pixels"):
        open_data(f"xaigd:{tmp_path}").load(0)
    (tmp_path / "images/sdxl/2.jpg").unlink()
    with pytest.raises(InputError, match="does not exist"):
        open_data(f"xaigd:{tmp_path}").load(1)


def test_the_micro_world_is_the_same_every_time_and_has_its_truth() -> None:
    data = open_data("micro:6")
    for index in range(6):
        one, other = data.load(index), MicroData(50, painted=True).load(index)
        assert one.image is not None
        assert one.image == other.image
        assert one.truth is not None
        assert one.anomalies is not None
        assert one.fake is bool(one.truth.regions) is (index % 2 == 1)
        assert len(one.anomalies) == len(one.truth.regions)
        painted = open_data("micro-prompts:6").load(index)
        assert painted.image is None
        assert painted.group == one.group


def test_prompts_alone_are_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a hand\na clock\n")
    data = open_data(f"prompts:{tmp_path / 'p.txt'}", limit=1)
    assert data.names == ("00000",)
    assert (data.load(0).prompt, data.load(0).image) == ("a hand", None)


@pytest.mark.parametrize("text", ["micro:x", "micro:0", "micro:-3", "micro:1.5", "micro-prompts:x"])
def test_numbers_of_micro_samples(text: str) -> None:
    with pytest.raises(ConfigError, match="micro"):
        open_data(text)


def test_options_that_do_not_fit_the_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no prompts for micro"):
        open_data("micro:3", prompts="p.json")
    with pytest.raises(ConfigError, match="limit"):
        open_data("micro:3", limit=0)
    with pytest.raises(InputError, match="folder of images"):
        open_data("nonsense:3")
    with pytest.raises(InputError, match="X-AIGD"):
        open_data(f"xaigd:{tmp_path}")


def test_a_fingerprint_tells_order_and_borders_of_names() -> None:
    assert len({digest(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5
