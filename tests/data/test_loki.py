"""LOKI: what is read of its records, in any encoding."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.sources import open_data
from refiner.errors import InputError, MissingImageError

PAW = {"region": [2.9, 3, 10.2, 5], "problem": " six toes "}


def record(image: Any = "animal/1.png", regional: Any = (PAW,), **changes: object) -> dict[str, Any]:
    return {"image_path": image, "problems": {"global": ["flat light"], "regional": list(regional)} | changes}


def write(root: Path, records: list[Any], *pictures: str, encoding: str = "utf-16") -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "loki.json").write_bytes(json.dumps(records, ensure_ascii=False).encode(encoding))
    for name in pictures:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(root / "images" / name)
    return root


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig"])
def test_boxes_texts_and_tags_come_from_any_encoding(tmp_path: Path, encoding: str) -> None:
    records = [
        record("images/animal/é𝄞.png"),
        record("2.png", regional=(), **{"global": "drifting 𝄞"}),
        record("LOKI/images/3.png", **{"global": None}),
    ]
    root = write(tmp_path, records, "animal/é𝄞.png", "2.png", "3.png", encoding=encoding)
    data = open_data(f"loki:{root}")
    assert (data.names, data.problems) == (("animal/é𝄞.png", "2.png", "3.png"), [])
    first, second, third = (pickle.loads(pickle.dumps(data)).load(index) for index in range(3))
    assert (first.fake, first.group, first.categorised, first.itemised) == (True, "animal", False, True)
    assert first.truth is not None
    assert [(region.box, region.explanation) for region in first.truth.regions] == [((2, 3, 14, 9), "six toes")]
    assert first.truth.tags == ("flat light",)
    assert second.truth is not None
    assert (second.truth.tags, second.truth.regions, second.anomalies) == (("drifting 𝄞",), (), ())
    assert third.truth is not None
    assert third.truth.tags == ()


# (x, y, width, height), and the pixels that cv2.rectangle fills of int(x), int(y) to int(x + w), int(y + h), moved to
# the image of 30 x 20 as LEGION's evaluation does it.
@pytest.mark.parametrize(
    ("box", "filled"),
    [
        ([0, 0, 30, 20], (0, 0, 30, 20)),
        ([5, 6, 0, 0], (5, 6, 6, 7)),
        ([-4, -9.5, 6.5, 12.6], (0, 0, 3, 4)),
        ([28.9, 18.2, 40, 40], (28, 18, 30, 20)),
        ([30, 0, 5, 5], None),
        ([0, -9, 5, 5], None),
    ],
)
def test_boxes_are_filled_as_legion_fills_them(tmp_path: Path, box: list[float], filled: Any) -> None:
    truth = (
        open_data(f"loki:{write(tmp_path, [record(regional=[PAW | {'region': box}])], 'animal/1.png')}").load(0).truth
    )
    assert truth is not None
    assert [(region.box, region.placed) for region in truth.regions] == [(filled, filled is not None)]
    x0, y0, x1, y1 = filled or (0, 0, 0, 0)
    assert int(np.count_nonzero(truth.mask)) == (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize("key", ["problem", "explanation", "description", "reason", "text", "content", "caption"])
def test_texts_are_read_from_any_plausible_key(tmp_path: Path, key: str) -> None:
    data = open_data(f"loki:{write(tmp_path, [record(regional=[{'region': [0, 0, 5, 5], key: 'x'}])], 'animal/1.png')}")
    assert data.problems == []
    anomalies = data.load(0).anomalies
    assert anomalies is not None
    assert [claim.explanation for claim in anomalies] == ["x"]


def test_pictures_and_records_that_do_not_fit_are_named(tmp_path: Path) -> None:
    silent = {"region": [0, 0, 5, 5]}
    data = open_data(f"loki:{write(tmp_path, [record(), record(), record('2.png', regional=[silent])], 'x/3.png')}")
    assert count_problems(data.problems) == {"duplicate_image": 1, "empty_text": 1, "missing_record": 1}
    with pytest.raises(MissingImageError):
        data.load(0)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match=r"loki\.json and other\.json"):
        open_data(f"loki:{tmp_path}")
    with pytest.raises(InputError, match="got none"):
        open_data(f"loki:{tmp_path / 'nowhere'}")
