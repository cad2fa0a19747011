"""The HPS v2 benchmark: reading prompts and pictures, and its table's arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refiner.cli.main import main
from refiner.metrics.hps.benchmark import CHUNK, STYLES, table


def flat(scores: dict[str, list[float | None]]) -> list[tuple[str, float | None]]:
    return [(style, score) for style, values in scores.items() for score in values]


def write_prompts(folder: Path, count: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for style in STYLES:
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {index} é" for index in range(count)]))
    return folder


def write_pictures(root: Path, count: int = 3) -> Path:
    for style in STYLES:
        (root / style).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 20), (index * 40, 90, 10)).save(root / style / f"{index:05d}.jpg")
    return root


def test_the_published_arithmetic() -> None:
    """Means of chunks of 80, their deviation without Bessel's correction, the average over pictures; times 100."""
    rng = np.random.default_rng(0)
    scores = {"anime": rng.uniform(0.2, 0.4, 200).tolist(), "photo": rng.uniform(0.1, 0.3, 90).tolist()}
    anime, photo, average = table(flat(scores))
    chunks = [100 * np.mean(scores["anime"][at:end]) for at, end in ((0, 80), (80, 160), (160, 200))]
    assert anime.mean == pytest.approx(sum(chunks) / 3)
    assert anime.mean != pytest.approx(100 * np.mean(scores["anime"]), abs=1e-6)
    assert anime.deviation == pytest.approx((sum((chunk - sum(chunks) / 3) ** 2 for chunk in chunks) / 3) ** 0.5)
    assert (anime.style, anime.images, anime.missing) == ("anime", 200, 0)
    assert photo.images == 90
    assert average.mean == pytest.approx(100 * np.mean(scores["anime"] + scores["photo"]))
    assert (average.style, average.deviation, average.images) == ("average", None, 290)


def test_one_full_style_is_ten_chunks() -> None:
    values = [0.3 + 0.001 * (index // CHUNK) for index in range(10 * CHUNK)]
    row = table(flat({"photo": values}))[0]
    assert row.mean == pytest.approx(30.45)
    assert row.deviation == pytest.approx(0.1 * np.std(range(10)))


def test_missing_scores_are_counted_and_close_up() -> None:
    values: list[float | None] = [0.3] * 79 + [None] + [0.5]
    row, average = table(flat({"photo": values}))
    assert (row.images, row.missing, average.missing) == (80, 1, 1)
    assert row.mean == pytest.approx(100 * (79 * 0.3 + 0.5) / 80)
    nothing, average = table(flat({"photo": [None, None]}))
    assert (nothing.mean, nothing.deviation, nothing.missing, average.mean) == (None, None, 2, None)
    assert table([])[0].images == 0


def test_compat_multiplies_in_float16() -> None:
    scores = [float(np.float16(value)) for value in np.random.default_rng(0).uniform(0.2, 0.36, 51)]
    row = table(flat({"photo": list(scores)}), compat=True)[0]
    halves = (torch.tensor(scores, dtype=torch.float16) * 100).double()
    assert row.mean == pytest.approx(float(halves.mean()), abs=1e-9)
    assert row.mean != table(flat({"photo": list(scores)}))[0].mean


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Prompts and pictures in one folder."""
    return write_pictures(write_prompts(tmp_path / "benchmark"))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``refiner evaluate hps --benchmark``: exit code, stdout, stderr."""

    def evaluate(*arguments: object) -> tuple[int, str, str]:
        code = main(["evaluate", "hps", "--benchmark", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return evaluate


def test_the_table_of_a_folder(run: Run, root: Path) -> None:
    (root / "photo" / "00000.jpg").unlink()
    (root / "anime" / "00002.jpg").rename(root / "anime" / "00002.PNG")
    (root / "anime" / "notes.txt").write_text("made on Monday")
    (root / "stray folder").mkdir()
    code, out, err = run(root, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert list(document) == ["styles", "average", "scores", "read_differently", "signature"]
    assert [row["style"] for row in document["styles"]] == list(STYLES)
    counts = [(row["images"], row["missing"]) for row in [*document["styles"], document["average"]]]
    assert counts == [(3, 0), (3, 0), (3, 0), (2, 1), (11, 1)]
    scores = document["scores"]
    assert len(scores) == 11
    assert document["average"]["mean"] == pytest.approx(100 * sum(scores.values()) / 11)
    anime = [100 * scores[f"anime/{index:05d}"] for index in range(3)]
    assert document["styles"][0]["mean"] == pytest.approx(sum(anime) / 3)
    assert document["styles"][0]["deviation"] == 0
    assert "hps-micro" in document["signature"]
    assert "chunks_of_80" in document["signature"]
    assert "photo/00000" in err
    assert "1 missing image" in err


def test_pictures_of_a_generator_lie_elsewhere(run: Run, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "benchmark", 1)
    pictures = write_pictures(tmp_path / "pictures", 1)
    (pictures / "photo" / "00000.jpg").write_bytes(b"broken")
    code, out, err = run(prompts, "--images", pictures)
    assert code == 1
    assert "00000.jpg" in err
    assert "1 InputError" in err
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["style", *STYLES.values(), "Average", "signature:"]
    assert lines[4].split() == ["Photo", "-", "-", "0", "1"]
    assert lines[5].split()[2:] == ["-", "3", "1"]


def test_the_published_rounding_is_an_option(run: Run, root: Path) -> None:
    document = json.loads(run(root, "--mode", "compat", "--json")[1])
    values = [np.float16(score) * np.float16(100) for score in document["scores"].values()]
    assert document["average"]["mean"] == pytest.approx(np.mean(values, dtype=np.float64))


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "null", '["a", 3]', '["a", ""]', '["a", null]', '"a"', "[" * 100_000, "\ufeff[", "NaN"],
)
def test_damaged_prompts(run: Run, root: Path, text: str) -> None:
    (root / "photo.json").write_text(text)
    code, _, err = run(root)
    assert code == 2
    assert "photo.json" in err


def test_prompts_that_are_no_text(run: Run, root: Path) -> None:
    (root / "photo.json").write_bytes(b'["\xff\xfe"]')
    assert "photo.json" in run(root)[2]
    (root / "photo.json").unlink()
    code, _, err = run(root)
    assert code == 2
    assert "do not exist" in err


@pytest.mark.parametrize(
    ("name", "reason"),
    [("00003.jpg", "00003.jpg and 0 more"), ("cat.png", "cat.png"), ("1.jpg", "1.jpg"), ("00001.png", "remove one")],
)
def test_pictures_that_belong_to_no_prompt(run: Run, root: Path, name: str, reason: str) -> None:
    (root / "photo" / name).write_bytes((root / "photo" / "00001.jpg").read_bytes())
    code, _, err = run(root)
    assert code == 2
    assert reason in err


def test_a_style_without_folder(run: Run, tmp_path: Path) -> None:
    code, _, err = run(write_prompts(tmp_path / "benchmark"))
    assert code == 2
    assert "'anime'" in err


@pytest.mark.parametrize("arguments", [(), ("--prompts", "p.json"), ("--prompts", "p.json", "--benchmark", "b")])
def test_what_is_scored_is_named(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "hps", *arguments])
