"""``refiner rank`` from the outside: the ranking against plain sums, its laws, and every mistake in the input named."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from refiner.errors import InputError
from refiner.evaluate.entrants import parse_entrants
from refiner.evaluate.ranking import open_prompts
from refiner.evaluate.systems import picture_file

PROMPTS = {"00": "a red hand", "01": "a green clock", "02": "a blue cat"}

Cli = Callable[..., tuple[int, str, str]]


def picture(path: Path, red: int = 0, blue: int = 0, grey: int = 90) -> None:
    """A grey image, 40 x 48, with a red and a blue square of 10 x 10 pixels of these values (0: no square)."""
    pixels = np.full((40, 48, 3), grey, dtype=np.uint8)
    for channel, value, left in ((0, red, 4), (2, blue, 24)):
        if value:
            pixels[4:14, left : left + 10] = 0
            pixels[4:14, left : left + 10, channel] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folders(root: Path) -> tuple[str, ...]:
    """Three generators: one without flaws, one with some, one with many."""
    for name in PROMPTS:
        picture(root / "clean" / f"{name}.png")
        picture(root / "some" / f"{name}.bmp", red=51 if name != "02" else 0)
        picture(root / "many" / f"x/{name}.tiff", red=102, blue=204)
    return "clean=clean", "some=some", "many=many"


# The ranking


def test_figures_are_plain_sums_and_places_follow(rank: Cli, tmp_path: Path) -> None:
    code, out, err = rank(*folders(tmp_path), "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [(row["name"], row["place"]) for row in document["systems"]] == [("clean", 1), ("some", 2), ("many", 3)]
    assert (document["prompts"], document["pictures"], document["of"]) == (3, 3, 3)
    clean, some, many = (row["figures"] for row in document["systems"])
    assert {name: row["value"] for name, row in many.items()} == pytest.approx(
        {"CAP": 1.2, "MAI": 0.6, "AF": 2, "AF_share": 1, "MAI_image": 0.6, "PAR": 200 / 1920}
    )
    assert {name: row["value"] for name, row in some.items()} == pytest.approx(
        {"CAP": 0.4 / 3, "MAI": 0.2, "AF": 2 / 3, "AF_share": 2 / 3, "MAI_image": 0.2, "PAR": 200 / 3 / 1920}
    )
    assert {row["value"] for row in clean.values()} == {0}
    known = [row for figures in (some, many) for row in figures.values() if row["low"] is not None]
    assert known
    assert all(row["low"] <= row["value"] <= row["high"] for row in known)
    assert all(row["low"] < row["high"] for row in known), "an interval of width 0 would look certain"
    assert document["systems"][1]["rates"]["color"]["value"] == pytest.approx(2 / 3)
    assert document["systems"][2]["rates"]["shape"] == {
        "value": 1,
        "low": pytest.approx(1 - 0.7076, abs=1e-3),
        "high": 1,
    }
    assert document["wins"]["CAP"]["some"]["many"] == {"overall": pytest.approx(0.9375, abs=0.02), "per_prompt": 1}
    assert document["wins"]["PAR"]["some"]["clean"]["per_prompt"] == pytest.approx(1 / 6)
    assert document["orders"] == {"CAP": ["clean", "some", "many"], "PAR": ["clean", "some", "many"]}
    assert "detector=spots" in document["signature"]


def test_files_say_what_the_document_says(rank: Cli, tmp_path: Path) -> None:
    document = json.loads(rank(*folders(tmp_path), "--out", "o", "--json")[1])
    assert json.loads((tmp_path / "o/rank.json").read_text()) == document
    rows = list(csv.DictReader((tmp_path / "o/rank.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["clean", "some", "many"]
    assert float(rows[1]["CAP_high"]) == document["systems"][1]["figures"]["CAP"]["high"]
    assert float(rows[2]["rate_shape"]) == 1
    wins = list(csv.DictReader((tmp_path / "o/wins.csv").read_text().splitlines()))
    assert len(wins) == 12
    assert float(wins[0]["overall"]) == document["wins"][wins[0]["by"]][wins[0]["one"]][wins[0]["other"]]["overall"]
    for name in ("clean", "some", "many"):
        assert {"records.jsonl", "table.json", "samples.csv", "report.html"} <= {
            path.name for path in (tmp_path / "o" / name).iterdir()
        }


def test_people_get_a_table_and_a_page_that_needs_nothing_else(rank: Cli, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(PROMPTS | {"00": "<script>alert(1)</script>"}))
    code, out, _ = rank(*folders(tmp_path), "--out", "o")
    assert code == 0
    assert re.search(r"1\s+clean.*\n.*\n2\s+some", out)
    assert re.search(r"clean against some: better CAP with a probability of \d\d %", out)
    assert "Only 3 prompts: others may give quite other figures." in out
    page = (tmp_path / "o/report.html").read_text()
    assert page.count("<svg") == 4
    assert page.count("data:image/png") == 9
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(https?:|//|/)", page)


# Bad input


def test_bad_pictures_are_named_counted_and_left_out_for_all(rank: Cli, tmp_path: Path) -> None:
    systems = folders(tmp_path)
    (tmp_path / "some/00.bmp").unlink()
    (tmp_path / "clean/01.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "clean/notes.md").write_text("x")
    picture(tmp_path / "many/stray.png")
    code, out, err = rank(*systems, "--out", "o", "--json")
    assert code == 1
    document = json.loads(out)
    assert (document["pictures"], document["of"]) == (1, 3)
    rows = {row["name"]: row for row in document["systems"]}
    assert rows["clean"]["errors"] == rows["some"]["errors"] == {"InputError": 1}
    assert rows["clean"]["problems"] == {"ignored_file": 1}
    assert rows["many"]["problems"] == {"missing_prompt": 1}
    for word in (
        "some: 00: InputError",
        "clean: 01: InputError",
        "notes.md",
        "stray.png",
        "1 of 3 images are compared",
    ):
        assert word in err
    picture(tmp_path / "clean/01.png")
    picture(tmp_path / "some/00.bmp", red=51)
    code, out, _ = rank(*systems, "--out", "o", "--resume", "--json")
    assert (code, json.loads(out)["pictures"]) == (0, 3)


def test_nothing_that_all_have(rank: Cli, tmp_path: Path) -> None:
    systems = folders(tmp_path)
    for name in ("01", "02"):
        (tmp_path / f"clean/{name}.png").unlink()
    picture(tmp_path / "some/00.bmp", grey=0)
    code, out, err = rank(*systems, "--json")
    assert (code, out) == (2, "")
    assert "no analysed images in common (1 of clean, 3 of many, 2 of some)" in err
    assert "UnreadableOutputError" in err


def complains(rank: Cli, said: str, *arguments: str) -> None:
    code, out, err = rank(*arguments)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"refiner: (Expected .+|.+: .+)\.\n", err), err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("clean",), "NAME=FOLDER"),
        (("=clean",), "NAME=FOLDER"),
        (("a=",), "NAME=FOLDER"),
        (("../a=clean",), "NAME=FOLDER"),
        (("rank.csv=clean",), "NAME=FOLDER"),
        (("a=clean", "A=many"), "a different name"),
        (("a=./nowhere",), "It is not a folder of images either"),
        (("a=p.json/..",), "It is not a folder of images either"),
        (("a=empty",), "Expected images"),
        (("a=plugin",), "Expected images"),
        (("a=clean,eta=1",), "no options for a folder"),
        (("a=micro,4",), "option=value"),
        (("a=micro,num_inference_steps",), "option=value"),
        (("a=micro,eta=1,eta=0",), "each option once"),
        (("a=micro:nothing",), "bundled model"),
        (("a=clean", "--by", "HPS"), "--judge"),
        (("a=clean", "--prompts", "nowhere.json"), "nowhere.json"),
        (("a=clean", "--prompts", "empty.txt"), "empty.txt"),
        (("a=clean", "--prompts", "other.txt"), "such as '00000.png'"),
        (("a=clean", "--prompts", "micro-prompts:0"), "micro-prompts:100"),
        (("a=clean", "--seeds", "0"), "at least 1 seed"),
        (("a=clean", "--seeds", "2"), "such as '00-0.png'"),
        (("a=clean", "--limit", "0"), "limit"),
        (("a=clean", "--batch-size", "0"), "batch size"),
        (("a=clean", "--detector", "no such/detector at all"), "detector"),
        (("a=clean", "--out", "p.json"), "p.json"),
    ],
)
def test_complaints_are_one_sentence(rank: Cli, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    folders(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "other.txt").write_text("a hand\na clock\n")
    complains(rank, said, *arguments)


@pytest.mark.parametrize(
    ("text", "place", "options"),
    [
        ("a=micro", "micro", {}),
        ("a b-1.0=org/model@main,eta=0.5", "org/model@main", {"eta": 0.5}),
        ("a=m,x=1,y=true,z=null,t=two words", "m", {"x": 1, "y": True, "z": None, "t": "two words"}),
        ("a=m,x=[1]", "m", {"x": "[1]"}),
        ("a=m,x=a=b", "m", {"x": "a=b"}),
        ("a=k=v", "k=v", {}),
        ("a=odd,x=1", "odd,x=1", {}),
    ],
)
def test_entrants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str, options: dict[str, object]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd,x=1").mkdir()
    entrant = parse_entrants([text])[0]
    assert (entrant.place, entrant.options) == (place, options)
    assert parse_entrants([f"a={entrant.source}"])[0].options == options


@given(st.text(max_size=40))
@example("..=x")
@example("a =x")
@example("a=~\0")
@example("a=,b=1")
@example("a=x,b=" + "[" * 5000)
def test_any_text_is_an_entrant_or_a_complaint(text: str) -> None:
    try:
        entrant = parse_entrants([text])[0]
    except InputError:
        return
    assert Path("o", entrant.name).parent == Path("o")
    assert text.startswith(f"{entrant.name}=")


@given(st.text(min_size=1, max_size=150), st.text(min_size=1, max_size=20))
@example("..", "a/../../b")
@example("/etc/passwd", "c:\\x")
@example("a\0b", "a//b")
@example("a.", "a")
@example("A" * 300, "A" * 301)
def test_pictures_stay_in_their_folder_and_apart(one: str, other: str) -> None:
    root = Path("run").absolute()
    paths = [picture_file(root, name) for name in (one, other)]
    for path in paths:
        assert path.resolve().is_relative_to(root / "pictures")
        assert path.suffix == ".png"
        assert len(path.name) < 150
    assert (paths[0] == paths[1]) == (one == other)


def test_prompts_may_be_named_by_pictures(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("file,prompt\nx/a.jpg,a hand\nv1.5,a clock\n")
    prompts = open_prompts(str(tmp_path / "p.csv"))
    assert dict(prompts.prompts) == {"x/a": "a hand", "v1.5": "a clock"}
    (tmp_path / "p.csv").write_text("file,prompt\na.jpg,a hand\na.png,a clock\n")
    assert list(open_prompts(str(tmp_path / "p.csv")).prompts) == ["a.jpg", "a.png"]
    several = open_prompts(str(tmp_path / "p.csv"), seeds=2, limit=1)
    assert several.prompts_of == {"a.jpg-0": "a.jpg", "a.jpg-1": "a.jpg"}
