"""What the readers of data sets keep of each sample: a place in a file, and not what stands there."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from refiner.data.sources import open_data
from tests.support.tfrecords import write_records

POINTS = [[at + 0.25, at + 0.75] for at in range(40)]
LABELS = [{"label": "low-level-texture", "points": POINTS}] * 5
ANOMALIES = [
    {"Name": "hand", "Observed Phenomenon": f"{at} fingers " * 20, "Reasoning": "five " * 20} for at in range(4)
]
BOXES = [{"box": [0, 0, 9, 9], "description": f"{at} fingers " * 20} for at in range(5)]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"generator": "g", "uid": f"{at:06d}", "width": 9, "height": 9, "labels": LABELS} for at in range(count)]


def xaigd_lines(root: Path, count: int) -> dict[str, str]:
    (root / "labeled_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return {"specification": f"xaigd:{root}"}


def xaigd_list(root: Path, count: int) -> dict[str, str]:
    (root / "labeled_test.json").write_text(json.dumps(rows(count)))
    return {"specification": f"xaigd:{root}"}


def fakexplained(root: Path, count: int) -> dict[str, str]:
    records = [{"image": f"{at:06d}.png", "label": "fake", "regions": BOXES} for at in range(count)]
    (root / "annotations.json").write_text(json.dumps(records))
    return {"specification": f"fakexplained:{root}"}


def swift(root: Path, count: int) -> dict[str, str]:
    answer = f"<think>{'<ref-object><bbox>' * 5}</think><verdict>generated</verdict>"
    messages = [{"role": "user", "content": "<image>Is it real?"}, {"role": "assistant", "content": answer}]
    boxes = {"ref": [f"{at} fingers " * 20 for at in range(5)], "bbox": [[0, 0, 9, 9]] * 5}
    records = ({"messages": messages, "images": [f"{at:06d}.png"], "objects": boxes} for at in range(count))
    (root / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"specification": f"swift:{root / 'train.jsonl'}"}


def anomreason(root: Path, count: int) -> dict[str, str]:
    names = [f"{at:06d}.png" for at in range(count)]
    (root / "anomalies.json").write_text(json.dumps(dict.fromkeys(names[: count // 2], ANOMALIES)))
    (root / "descriptions.json").write_text(json.dumps(dict.fromkeys(names[count // 2 :], "The light is right. " * 40)))
    (root / "dataset_split_list.json").write_text(json.dumps({"train": names, "test": []}))
    return {"specification": f"anomreason:{root},split=train"}


def synthscars(root: Path, count: int) -> dict[str, str]:
    outline = [float(each) for point in POINTS for each in point]
    refs = [{"sentence": "hand", "segmentation": [outline], "explanation": "six fingers " * 9}] * 5
    records = [{str(at): {"img_file_name": f"{at:06d}.png", "caption": "hand", "refs": refs}} for at in range(count)]
    for part in ("images", "annotations"):
        (root / part).mkdir()
    (root / "annotations/records.json").write_text(json.dumps(records))
    return {"specification": f"synthscars:{root}"}


def loki(root: Path, count: int) -> dict[str, str]:
    regions = [{"region": [0, 0, 9, 9], "problem": f"{at} fingers " * 20} for at in range(5)]
    records = [{"image_path": f"{at:06d}.png", "problems": {"regional": regions}} for at in range(count)]
    (root / "loki.json").write_bytes(json.dumps(records).encode("utf-16"))
    return {"specification": f"loki:{root}"}


def richhf(root: Path, count: int) -> dict[str, str]:
    records = ({"filename": f"{at:06d}.png", "artifact_map": b"x" * 6000} for at in range(count))
    return {"specification": f"richhf:{write_records(root / 'x.tfrecord', records)}"}


def pictures(root: Path, count: int) -> list[str]:
    (root / "pictures").mkdir()
    names = [f"{at:06d}.png" for at in range(count)]
    for name in names:
        (root / "pictures" / name).touch()
    return names


def folder_references(root: Path, count: int) -> dict[str, str]:
    document = dict.fromkeys(pictures(root, count), ANOMALIES)
    (root / "references.json").write_text(json.dumps(document))
    return {"specification": str(root / "pictures"), "references": str(root / "references.json")}


def folder_prompts(root: Path, count: int) -> dict[str, str]:
    (root / "prompts.json").write_text(json.dumps(dict.fromkeys(pictures(root, count), "a red hand " * 9)))
    return {"specification": str(root / "pictures"), "prompts": str(root / "prompts.json")}


def touch(root: Path, real: str, fake: str, count: int) -> None:
    for folder in (real, fake):
        (root / folder).mkdir(parents=True)
    for at in range(count // 2):
        for folder in (real, fake):
            (root / folder / f"{at:06d}.png").touch()


def genimage(root: Path, count: int) -> dict[str, str]:
    touch(root, "ADM/imagenet_ai_0508_adm/train/nature", "ADM/imagenet_ai_0508_adm/train/ai", count)
    return {"specification": f"genimage:{root},split=train"}


def reconstructed(root: Path, count: int) -> dict[str, str]:
    touch(root, "0_real", "1_fake", count)
    return {"specification": f"reconstructed:{root}"}


def synthbuster(root: Path, count: int) -> dict[str, str]:
    touch(root, "real_RAISE_1k", "dalle2", count)
    return {"specification": f"synthbuster:{root}"}


def xaigd_real(root: Path, count: int) -> dict[str, str]:
    touch(root, "real_images", "images/g", count)
    (root / "labeled_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(count // 2)))
    return {"specification": f"xaigd:{root}"}


def commfor(root: Path, count: int) -> dict[str, str]:
    facts = {"model_name": "org/model", "prompt": "a red hand " * 99, "split": "train", "image_data": b"x" * 6000}
    names = [{"image_name": f"{at:08d}.png", "label": at % 2, **facts} for at in range(count)]
    parquet.write_table(pyarrow.Table.from_pylist(names), root / "train-00000-of-00001.parquet")
    return {"specification": f"commfor:{root}"}


def peak(root: Path, build: Callable[[Path, int], dict[str, str]], count: int) -> int:
    """Bytes while a data set is opened; the less of two times, as the interpreter's own tables grow now and then."""
    root.mkdir()
    given = build(root, count)
    peaks = []
    for _ in range(2):
        tracemalloc.start()
        data = open_data(**given)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(data.names) == count
    return min(peaks)


READERS = [
    xaigd_lines,
    xaigd_list,
    fakexplained,
    swift,
    anomreason,
    synthscars,
    loki,
    richhf,
    folder_references,
    folder_prompts,
    genimage,
    reconstructed,
    synthbuster,
    xaigd_real,
    commfor,
]


@pytest.mark.parametrize("build", READERS)
def test_memory_hardly_grows_with_the_samples(tmp_path: Path, build: Callable[[Path, int], dict[str, str]]) -> None:
    few, many = peak(tmp_path / "few", build, 200), peak(tmp_path / "many", build, 800)
    assert (many - few) / 600 < 700, "bytes a sample; a record of annotations has 1400 to 6000"


def test_what_was_left_in_the_files_is_what_samples_have(tmp_path: Path) -> None:
    given = folder_references(tmp_path, 3) | {"prompts": str(tmp_path / "prompts.csv")}
    (tmp_path / "prompts.csv").write_text("file,prompt\n000002,two\n000000.png,zero\n")
    for at in range(3):
        Image.new("RGB", (20, 20), (at, 0, 0)).save(tmp_path / f"pictures/{at:06d}.png")
    document = {f"{at:06d}.png": ANOMALIES[at : at + 1] for at in (2, 1, 0)}
    (tmp_path / "references.json").write_text(json.dumps(document, indent=3))
    data = open_data(**given)
    assert data.names == ("000000.png", "000002.png")
    for index, (number, prompt) in enumerate(((0, "zero"), (2, "two"))):
        sample = data.load(index)
        assert sample.prompt == prompt
        assert sample.anomalies is not None
        assert [each.explanation for each in sample.anomalies] == [(f"{number} fingers " * 20).strip()]
