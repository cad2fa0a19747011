"""X-AIGD's splits and real images: which images belong together, and what is known about each."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from support.hub import Hub, Repo, loopback_hub

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample, pairs_of
from refiner.data.sources import open_data
from refiner.errors import InputError

LABEL = {"label": "low-level-texture", "points": [[2, 3], [10, 3], [10, 8]]}


def record(uid: str, generator: str = "sdxl", labels: Any = (LABEL,)) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (len(uid), 7, 9)).save(buffer, format="PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    labels = None if labels is None else list(labels)
    return {"image": image, "generator": generator, "uid": uid, "width": 30, "height": 20, "labels": labels}


def write(root: Path, split: str, *records: dict[str, Any]) -> None:
    (root / "data").mkdir(parents=True, exist_ok=True)
    file = root / f"data/{split}-00000-of-00001.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), file)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The data set as it is published, with two splits and three real images."""
    root = tmp_path / "X-AIGD"
    write(root, "labeled_test", record("a"), record("a", "flux"), record("b", labels=()))
    write(root, "labeled_train", record("c"))
    write(root, "unlabeled_train", record("c", "flux", None), record("d", labels=None))
    paint(root / "real_images", "coco/a.jpg", "b.png", "laion/c.webp")
    return root


def paint(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 24)).save(folder / name)


def loaded(data: DataSet) -> list[Sample]:
    again: DataSet = pickle.loads(pickle.dumps(data))
    samples = [again.load(index) for index in range(len(data.names))]
    assert tuple(sample.name for sample in samples) == data.names
    assert [sample.pair for sample in samples] == pairs_of(data)
    return samples


def test_a_real_image_and_those_made_from_it_are_a_pair(published: Path) -> None:
    data = open_data(f"xaigd:{published}")
    assert data.problems == []
    assert [(each.name, each.pair, each.group, each.fake, each.truth is None) for each in loaded(data)] == [
        ("sdxl/a", "a", "sdxl", True, False), ("flux/a", "a", "flux", True, False),
        ("sdxl/b", "b", "sdxl", True, False), ("0_real/b", "b", "", False, True), ("0_real/a", "a", "", False, True),
    ]  # fmt: skip


def test_images_that_nobody_annotated_have_no_truth(published: Path) -> None:
    samples = loaded(open_data(f"xaigd:{published},split=labeled_train+unlabeled_train,real=none"))
    found = [(each.name, each.pair, each.split, each.truth is None) for each in samples]
    assert found == [
        ("sdxl/c", "c", "labeled_train", False), ("flux/c", "c", "unlabeled_train", True),
        ("sdxl/d", "d", "unlabeled_train", True),
    ]  # fmt: skip
    clean = loaded(open_data(f"xaigd:{published}"))[2]
    assert clean.truth is not None
    assert clean.truth.regions == (), "an annotated image without labels has no artifacts"


def test_real_images_may_lie_elsewhere_or_be_left_out(published: Path, tmp_path: Path) -> None:
    paint(tmp_path / "elsewhere", "a.png")
    assert open_data(f"xaigd:{published},real={tmp_path / 'elsewhere'}").names[3:] == ("0_real/a",)
    assert len(open_data(f"xaigd:{published},real=none").names) == 3
    (published / "real_images").rename(published / "others")
    assert len(open_data(f"xaigd:{published},split=labeled_test").names) == 3
    with pytest.raises(InputError, match="folder of real images"):
        open_data(f"xaigd:{published},real={published / 'nowhere'}")
    with pytest.raises(InputError, match=r"got labeled_test, labeled_train, unlabeled_train"):
        open_data(f"xaigd:{published},split=labeled_train+test")


def test_real_images_that_belong_to_nothing_or_twice_are_named(published: Path) -> None:
    paint(published / "real_images", "x.png", "sa1b/a.png", "sa1b/d.png")
    data = open_data(f"xaigd:{published}")
    assert len(data.names) == 5
    assert {(each.kind, each.where) for each in data.problems} == {
        ("missing_record", "x.png"), ("duplicate_basename", "sa1b/a.png"),
    }  # fmt: skip


def test_a_damaged_real_image_costs_its_sample(published: Path) -> None:
    (published / "real_images/b.png").write_bytes(b"no picture")
    data = open_data(f"xaigd:{published}")
    with pytest.raises(InputError, match=r"b\.png"):
        data.load(3)
    assert data.load(4).name == "0_real/a"


def test_real_images_in_the_folder_of_the_generated_ones_are_no_generator(tmp_path: Path) -> None:
    lines = [json.dumps(record(uid) | {"image": None}) for uid in ("a", "b")]
    (tmp_path / "labeled_test.jsonl").write_text("\n".join(lines))
    paint(tmp_path, "real_images/a.png", "real_images/more/b.png", "real_images/z.png")
    for uid in ("a", "b"):
        (tmp_path / "sdxl").mkdir(exist_ok=True)
        Image.new("RGB", (30, 20)).save(tmp_path / f"sdxl/{uid}.png")
    data = open_data(f"xaigd:{tmp_path}")
    assert [sample.fake for sample in loaded(data)] == [True, True, False, False]
    assert [(each.kind, each.file, each.where) for each in data.problems] == [
        ("missing_record", str(tmp_path / "real_images"), "z.png")
    ]
    assert open_data(f"xaigd:{tmp_path},real=none").problems == []
    (tmp_path / "real_images").rename(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    again = open_data(f"xaigd:{tmp_path},real={tmp_path / 'link/photos'}")
    assert (again.names, [each.where for each in again.problems]) == (data.names, ["z.png"])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with loopback_hub(tmp_path / "cache") as each:
        yield each


def test_of_a_data_set_on_the_hub_only_the_split_is_downloaded(published: Path, hub: Hub) -> None:
    hub.repos["Coxy7/X-AIGD"] = Repo({"main": published, "demo": published})
    for specification in ("xaigd:Coxy7/X-AIGD", "xaigd:Coxy7/X-AIGD@demo,split=labeled_test"):
        data = open_data(specification)
        assert [sample.pair for sample in loaded(data)] == ["a", "a", "b"]
        assert count_problems(data.problems) == {}
    assert {name.rpartition("/")[2] for name in hub.sent} == {"labeled_test-00000-of-00001.parquet"}
    real = published / "real_images"
    assert len(open_data(f"xaigd:Coxy7/X-AIGD,split=labeled_train,real={real}").names) == 2


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("org/nothing", "no such data set, or it is private"),
        ("org/gated", "licence must be accepted"),
        ("org/public@nowhere", "no revision 'nowhere'"),
        ("org/public", r"Expected files data/labeled_test-\* .* got none"),
    ],
)
def test_what_the_hub_refuses_is_said_in_words(published: Path, hub: Hub, place: str, words: str) -> None:
    hub.repos["org/gated"] = Repo({"main": published}, gated=True)
    hub.repos["org/public"] = Repo({"main": published / "real_images"})
    with pytest.raises(InputError, match=words) as error:
        open_data(f"xaigd:{place}")
    assert "\n" not in str(error.value)
