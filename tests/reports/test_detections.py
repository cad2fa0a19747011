"""``refiner report``: table, CSV, JSON Lines, COCO and contact sheet tell the same, from the same records."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.claims import SIZE, claimed, detected, evaluated, picture

from refiner.cli.main import main
from refiner.coverage import COLUMNS
from refiner.errors import InputError, ModelError, UnreadableOutputError
from refiner.evaluate.records import Appending, Records
from refiner.masks import rle_decode
from refiner.reports import gallery

HOSTILE = "</p><script>window.harmed = 1</script> =1+1"
CLAIMS = [
    [claimed(0), claimed(1, HOSTILE), claimed(2)],
    [],
    UnreadableOutputError(f"Expected a list of flaws, got {HOSTILE}.", raw="babble"),
    [claimed(2)],
    ModelError("no answer"),
    InputError("damaged"),
    [claimed(3)],
]
"""With a mask, a box, or no place: the number modulo 3."""


@pytest.fixture
def found(tmp_path: Path) -> Path:
    return detected(tmp_path, CLAIMS)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_all_formats_tell_the_same(found: Path, report: Any) -> None:
    code, out, err = report(found)
    assert (code, err) == (0, "")
    assert all(str(found / name) in out for name in ("detections.csv", "flaws.csv", "coco.json", "contact/index.html"))
    table = json.loads((found / "detections.json").read_text())
    assert table["coverage"] == {
        "answered": 4, "unreadable": 1, "failed": 2, "cut_short": 0, "unverified": 0, "unplaced": 2,
    }  # fmt: skip
    assert (table["images"], table["missing"]) == (7, 0)
    figures = table["figures"]
    assert (figures["flawed"], figures["flaws"], figures["flaws_per_image"]) == (3, 5, 5 / 4)
    assert figures["severity"] == pytest.approx(np.mean([claimed(number).severity for number in (0, 1, 2, 2, 3)]))
    marked = [[claimed(0), claimed(1)], [], [], [claimed(3)]]
    masks = [[region.pixels(SIZE) for region in regions] or [np.zeros(SIZE)] for regions in marked]
    areas = [np.any(each, axis=0).mean() for each in masks]
    assert figures["area"] == pytest.approx(np.mean(areas)), "unplaced flaws and unanswered images are in no area"

    images, flaws = rows_of(found / "images.csv"), rows_of(found / "flaws.csv")
    assert [row["status"] for row in images] == [
        "answered", "answered", "unreadable", "answered", "failed", "failed", "answered",
    ]  # fmt: skip
    assert [row["flaws"] for row in images] == ["3", "0", "", "1", "", "", "1"]
    assert [row["unplaced"] for row in images] == ["1", "0", "", "1", "", "", "0"]
    assert [row["placed"] for row in flaws] == ["1", "1", "0", "0", "1"]
    assert [row["x0"] for row in flaws] == ["4", "2", "", "", "4"]
    assert flaws[1]["explanation"] == claimed(1, HOSTILE).explanation
    lines = [json.loads(line) for line in (found / "images.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == [row["status"] for row in images]
    assert sum(len(line.get("regions", ())) for line in lines) == len(flaws)
    for row in rows_of(found / "detections.csv"):
        assert {name: int(row[name]) for name in COLUMNS} == table["coverage"]


def test_coco_holds_answered_images_and_placed_flaws(found: Path, report: Any) -> None:
    assert report(found, "--format", "coco", "--out", found / "coco")[0] == 0
    assert [path.name for path in (found / "coco").iterdir()] == ["coco.json"]
    document = json.loads((found / "coco/coco.json").read_text())
    names = [image["file_name"] for image in document["images"]]
    assert [Path(name).name for name in names] == ["000.png", "001.png", "003.png", "006.png"]
    assert all("label" not in image for image in document["images"])
    assert [len(image.get("unplaced", ())) for image in document["images"]] == [1, 0, 1, 0]
    assert document["info"]["coverage"]["unreadable"] == 1
    masked, boxed, last = document["annotations"]
    assert (rle_decode(masked["segmentation"]) == claimed(0).mask).all()
    assert ("segmentation" not in boxed, boxed["bbox"]) == (True, [2, 3, 28, 17])
    assert last["image_id"] == document["images"][3]["id"]


def test_equal_base_names_are_kept_apart(tmp_path: Path, report: Any) -> None:
    from refiner.data.pictures import Pictures
    from refiner.evaluate.detecting import TASK, Detecting, located
    from refiner.evaluate.harness import collect, describe, work

    files = tuple(str(tmp_path / folder / "same.png") for folder in "ab")
    for number, file in enumerate(files):
        Path(file).parent.mkdir()
        picture(number).save(file)
    data, system = Pictures(files, (None, None)), Detecting(lambda image: [])
    out = tmp_path / "out"
    collect(data, system, describe(TASK, data, {}, system, {}), out, engine=located(work, out, None))
    assert report(out)[0] == 0
    assert [row["name"] for row in rows_of(out / "images.csv")] == [*files]
    assert len({image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]}) == 2
    page = (out / "contact/index.html").read_text()
    assert page.count("data:image/jpeg") == 2


def test_the_contact_sheet_has_pages_and_escapes_all_text(
    found: Path, report: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PAGE", 2)
    (found / "../images/006.png").unlink()
    assert report(found, "--format", "html")[0] == 0
    pages = [(found / "contact" / name).read_text() for name in ("index.html", *(f"page-{n}.html" for n in (2, 3, 4)))]
    whole = "".join(pages)
    assert "<script" not in whole
    assert whole.count("&lt;/script&gt;") >= 3
    assert whole.count("<figure>") == len(CLAIMS)
    assert whole.count("data:image/jpeg") == len(CLAIMS) - 1
    assert "cannot be read any more" in whole
    assert "unreadable: Expected a list of flaws" in whole
    assert "Images 3 to 4 of 7" in pages[1]
    assert "000.png" in pages[0], "the worst image comes first"
    assert ('href="page-2.html"' in pages[0], 'href="index.html"' in pages[3]) == (True, True)
    assert report(found, "--format", "html", "--show", "unanswered", "--sort", "name")[0] == 0
    names = sorted(path.name for path in (found / "contact").iterdir())
    assert names == ["index.html", "page-2.html"], "pages of the larger sheet are gone"
    assert "002.png" in (found / "contact/index.html").read_text()


def test_folders_can_be_moved_together_and_records_named_themselves(found: Path, report: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("found", "images"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    records = tmp_path / "elsewhere/found/records.jsonl"
    assert report(records, "--format", "html")[0] == 0
    assert "cannot be read any more" not in (records.parent / "contact/index.html").read_text()


def test_records_of_an_evaluation_and_of_earlier_versions(found: Path, report: Any, tmp_path: Path) -> None:
    (found / "run.json").unlink()
    code, out, _ = report(found, "--format", "table", "--json")
    assert (code, json.loads(out)["coverage"]["answered"]) == (0, 4)
    assert report(evaluated("micro:3", tmp_path / "run"), "--format", "table,html")[0] == 0
    assert json.loads((tmp_path / "run/detections.json").read_text())["figures"]["flaws"] == 6


def test_images_that_were_not_run_are_counted(found: Path, report: Any) -> None:
    rows = list(Records([found / "records.jsonl"]))[:3]
    with Appending(found / "records.jsonl", truncate=True) as out:
        out.write(rows)
    table = json.loads(report(found, "--format", "table", "--json")[1])
    assert (table["missing"], table["coverage"]["answered"]) == (4, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"answer": None},
        {"answer": {"analysis": 3}},
        {"answer": {"analysis": {"size": [10**9, 10**9], "regions": []}}},
        {"error": "odd"},
        {"error": {"kind": 3, "detail": None}},
        {"name": None},
        {"answer": {"before": {}}},
    ],
)
def test_records_that_cannot_be_read_are_refused_in_words(found: Path, report: Any, change: dict[str, Any]) -> None:
    first, *rest = Records([found / "records.jsonl"])
    with Appending(found / "records.jsonl", truncate=True) as out:
        out.write([first | change, *rest])
    code, out, err = report(found)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "holds no records"),
        ([".", "--format", "csv,xml"], "got 'xml'"),
        (["."], "holds no records"),
    ],
)
def test_what_holds_no_records_is_refused(
    report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = report(*arguments)
    assert (code, words in err) == (2, True)
