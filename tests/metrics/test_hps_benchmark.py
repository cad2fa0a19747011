"""The HPS v2 benchmark: reading prompts and pictures, and its table's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from refiner.errors import InputError
from refiner.metrics.hps.benchmark import CHUNK, STYLES, Item, Result, find_images, read_prompts, score_items, table
from refiner.metrics.hps.scorer import HPSScorer


def results(scores: dict[str, list[float | None]]) -> list[Result]:
    return [
        Result(item=Item(style=style, index=index, prompt="a cat", path=None), score=score)
        for style, values in scores.items()
        for index, score in enumerate(values)
    ]


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
    anime, photo, average = table(results(scores))
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
    row = table(results({"photo": values}))[0]
    assert row.mean == pytest.approx(30.45)
    assert row.deviation == pytest.approx(0.1 * np.std(range(10)))


def test_missing_scores_are_counted_and_close_up() -> None:
    values: list[float | None] = [0.3] * 79 + [None] + [0.5]
    row, average = table(results({"photo": values}))
    assert (row.images, row.missing, average.missing) == (80, 1, 1)
    assert row.mean == pytest.approx(100 * (79 * 0.3 + 0.5) / 80)
    nothing, average = table(results({"photo": [None, None]}))
    assert (nothing.mean, nothing.deviation, nothing.missing, average.mean) == (None, None, 2, None)
    assert table([])[0].images == 0


def test_compat_multiplies_in_float16() -> None:
    scores = [float(np.float16(value)) for value in np.random.default_rng(0).uniform(0.2, 0.36, 51)]
    row = table(results({"photo": list(scores)}), compat=True)[0]
    halves = (torch.tensor(scores, dtype=torch.float16) * 100).double()
    assert row.mean == pytest.approx(float(halves.mean()), abs=1e-9)
    assert row.mean != table(results({"photo": list(scores)}))[0].mean


def test_prompts_and_pictures_meet(tmp_path: Path) -> None:
    prompts = read_prompts(write_prompts(tmp_path / "benchmark"))
    assert list(prompts) == list(STYLES)
    root = write_pictures(tmp_path / "pictures")
    (root / "photo" / "00001.jpg").unlink()
    (root / "anime" / "00002.jpg").rename(root / "anime" / "00002.PNG")
    (root / "anime" / "notes.txt").write_text("made on Monday")
    (root / "stray folder").mkdir()
    items = find_images(root, prompts)
    assert len(items) == 12
    assert [item for item in items if item.path is None] == [
        Item(style="photo", index=1, prompt="photo 1 é", path=None)
    ]
    assert items[2].path is not None
    assert items[2].path.name == "00002.PNG"
    assert [row["style"] for row in map(vars, table([Result(item=item, score=0.3) for item in items]))][:4] == [*STYLES]


def test_one_style_alone(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    (tmp_path / "drawbench.json").write_text('["a cat"]')
    assert read_prompts(tmp_path, ["drawbench"]) == {"drawbench": ["a cat"]}
    assert list(read_prompts(tmp_path, ["photo"])) == ["photo"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "null", '["a", 3]', '["a", ""]', '["a", null]', '"a"', "[" * 100_000, "\ufeff[", "NaN"],
)
def test_damaged_prompts(tmp_path: Path, text: str) -> None:
    write_prompts(tmp_path)
    (tmp_path / "photo.json").write_text(text)
    with pytest.raises(InputError, match=r"photo\.json"):
        read_prompts(tmp_path)


def test_prompts_that_are_no_text(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    (tmp_path / "photo.json").write_bytes(b'["\xff\xfe"]')
    with pytest.raises(InputError, match=r"photo\.json"):
        read_prompts(tmp_path)
    (tmp_path / "photo.json").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("00003.jpg", "00003.jpg and 0 more"), ("cat.png", "cat.png"), ("1.jpg", "1.jpg"), ("00001.png", "remove one")],
)
def test_pictures_that_belong_to_no_prompt(tmp_path: Path, name: str, reason: str) -> None:
    prompts = read_prompts(write_prompts(tmp_path / "benchmark"))
    root = write_pictures(tmp_path / "pictures")
    (root / "photo" / name).write_bytes((root / "photo" / "00001.jpg").read_bytes())
    with pytest.raises(InputError, match=reason):
        find_images(root, prompts)


def test_a_style_without_folder(tmp_path: Path) -> None:
    prompts = read_prompts(write_prompts(tmp_path / "benchmark"))
    with pytest.raises(InputError, match="'anime'"):
        find_images(tmp_path, prompts)


def test_scores_from_pictures_to_table(tmp_path: Path) -> None:
    prompts = read_prompts(write_prompts(tmp_path / "benchmark"))
    root = write_pictures(tmp_path / "pictures")
    (root / "photo" / "00000.jpg").unlink()
    (root / "photo" / "00002.jpg").write_bytes(b"broken")
    found = list(score_items(small_scorer(), find_images(root, prompts)))
    assert [result.item.style for result in found] == [style for style in STYLES for _ in range(3)]
    errors = {(result.item.style, result.item.index): result.error for result in found if result.error}
    assert errors.keys() == {("photo", 0), ("photo", 2)}
    assert "00002.jpg" in errors["photo", 2]
    rows = table(found)
    assert [(row.images, row.missing) for row in rows] == [(3, 0), (3, 0), (3, 0), (1, 2), (10, 2)]
    (alone,) = [result.score for result in found if result.item.style == "photo" and result.score is not None]
    assert rows[3].mean == pytest.approx(100 * alone)


def small_scorer() -> HPSScorer:
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=12)
    return HPSScorer(model=open_clip.CLIP(**config), tokenizer=tokenizer, config=config, name="small", batch_size=4)
