"""Data sets in other formats: what is written is what was read, and what cannot be written is named."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.data.fields import is_inside
from refiner.data.problems import Problem, count_problems
from refiner.data.samples import DataSet, Sample, joined_truth
from refiner.data.sources import open_data
from refiner.data.writing import FORMATS, Converted, convert_data
from refiner.data.writing.entries import Entry
from refiner.data.writing.names import FileNames
from refiner.data.writing.swift import write_swift
from refiner.errors import InputError, OutputError
from refiner.masks import box_of, components
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Size
from tests.support.synthscars_files import write_synthscars

SIZE = Size(40, 50)
PLACED = [name for name in FORMATS if name != "anomreason"]
"""The formats that have a place for each flaw."""
each_format = pytest.mark.parametrize("to", list(FORMATS))


class Listed:
    """Samples that are at hand; an exception in place of one is raised."""

    def __init__(self, *samples: Sample | BaseException) -> None:
        self.samples, self.problems = samples, list[Problem]()
        self.names = tuple(getattr(sample, "name", f"broken {at}") for at, sample in enumerate(samples))

    def load(self, index: int) -> Sample:
        found = self.samples[index]
        if isinstance(found, BaseException):
            raise found
        return found


def picture(shade: int = 7) -> Image.Image:
    return Image.new("RGB", (SIZE.width, SIZE.height), (shade, 8, 9))


def sample(name: str = "1.png", *regions: Region, tags: Sequence[str] = (), **facts: Any) -> Sample:
    truth = Analysis(size=SIZE, regions=regions, tags=tuple(tags), detector="truth")
    return Sample(**{"name": name, "image": picture(), "fake": True, "truth": truth} | facts)


def region(box: tuple[int, int, int, int] | None = (2, 3, 9, 12), **facts: Any) -> Region:
    return Region(**{"mask": None, "box": box, "name": "truth", "category": Category.TEXTURE} | facts)


def converted(data: DataSet, target: Path, to: str = "refiner") -> tuple[Converted, dict[str, int]]:
    problems: list[Problem] = []
    done = convert_data(data, target, to, problems)
    return done, count_problems(problems)


def loaded(data: DataSet) -> list[Sample]:
    return [data.load(index) for index in range(len(data.names))]


def reopened(data: DataSet, target: Path, to: str = "refiner") -> DataSet:
    converted(data, target, to)
    return open_data(f"fakexplained:{target}")


def truth_of(found: Sample) -> Analysis:
    assert found.truth is not None
    return found.truth


def told(found: Sample) -> tuple[Any, ...]:
    """Label, tags, and boxes with descriptions of a sample."""
    truth = truth_of(found)
    return found.fake, truth.tags, [(each.box, each.explanation) for each in truth.regions]


def documents(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


# Every source


def folder(root: Path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    for at in range(4):
        (root / "1_fake").mkdir(parents=True, exist_ok=True)
        (root / "masks/1_fake").mkdir(parents=True, exist_ok=True)
        picture(at).save(root / f"1_fake/{at}.jpg")
        mask = np.zeros(SIZE, dtype=np.uint8)
        for _ in range(at):
            x, y = rng.integers(0, 30, 2)
            mask[y : y + 6, x : x + 9] = 255
        Image.fromarray(mask).save(root / f"masks/1_fake/{at}.png")
    words = {"Name": "paw", "Observed Phenomenon": "six toes", "Reasoning": "It has five.", "Severity Score": "25/100"}
    (root.parent / "references.json").write_text(json.dumps({f"{at}.jpg": [words] * at for at in range(4)}))
    return {"specification": str(root), "references": str(root.parent / "references.json")}


def xaigd(root: Path) -> dict[str, str]:
    labels = [
        {"label": "low-level-edge_shape", "points": [[2, 2], [30, 2], [30, 20]]},
        {"label": "cognitive-level-physics", "points": [[5, 30], [9, 30], [9, 34]]},
    ]
    rows = [{"generator": "sdxl", "uid": f"u{at}", "labels": labels[:at]} for at in range(3)]
    for row in rows:
        (root / "images/sdxl").mkdir(parents=True, exist_ok=True)
        picture().save(root / f"images/sdxl/{row['uid']}.png")
        row |= {"width": SIZE.width, "height": SIZE.height}
    (root / "labeled_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"specification": f"xaigd:{root}"}


def loki(root: Path) -> dict[str, str]:
    regional = [{"region": [2, 3, 10, 5], "problem": "six toes"}, {"region": [90, 90, 5, 5], "problem": "far off"}]
    records = [{"image_path": f"cat/{at}.png", "problems": {"global": ["flat light"], "regional": regional[:at]}}
               for at in range(3)]  # fmt: skip
    (root / "images/cat").mkdir(parents=True)
    for at in range(3):
        picture(at).save(root / f"images/cat/{at}.png")
    (root / "loki.json").write_text(json.dumps(records))
    return {"specification": f"loki:{root}"}


def verdicts(root: Path) -> dict[str, str]:
    for label in ("0_real", "1_fake"):
        (root / "progan" / label).mkdir(parents=True)
        picture().save(root / "progan" / label / "1.png")
    return {"specification": f"universalfake:{root}"}


def anomreason(root: Path) -> dict[str, str]:
    for at, label in enumerate(("0_real", "1_fake")):
        (root / label).mkdir(parents=True)
        picture(at).save(root / label / "1.png")
    words = {"Name": "paw", "Observed Phenomenon": "six toes", "Reasoning": "It has five.", "Severity Score": "25/100"}
    (root / "anomalies.json").write_text(json.dumps({"1.png": [words] * 2}))
    (root / "descriptions.json").write_text(json.dumps({"1.png": "The light is right."}))
    return {"specification": f"anomreason:{root}"}


def genimage(root: Path) -> dict[str, str]:
    for generator in ("ADM", "glide"):
        for at, label in enumerate(("nature", "ai")):
            (root / generator / "val" / label).mkdir(parents=True)
            picture(at).save(root / generator / "val" / label / "1.png")
    return {"specification": f"genimage:{root},split=val"}


SOURCES: dict[str, Callable[[Path], dict[str, str]]] = {
    "micro": lambda _root: {"specification": "micro:12"},
    "synthscars": lambda root: {"specification": f"synthscars:{write_synthscars(root / 'test', 4)}"},
    "xaigd": xaigd,
    "loki": loki,
    "folder": folder,
    "universalfake": verdicts,
    "anomreason": anomreason,
    "genimage": genimage,
}


@pytest.fixture(params=list(SOURCES))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DataSet:
    return open_data(**SOURCES[request.param](tmp_path / "source"))


def test_images_labels_and_groups_are_those_of_the_source(tmp_path: Path, source: DataSet) -> None:
    again = reopened(source, tmp_path / "out")
    assert again.problems == [] or set(count_problems(again.problems)) == {"empty_text"}
    for old, new in zip(loaded(source), loaded(again), strict=True):
        assert np.array_equal(np.asarray(old.image), np.asarray(new.image))
        assert (new.fake, new.group) == (old.fake, old.group)


def test_flaws_with_a_place_keep_box_words_and_kind(tmp_path: Path, source: DataSet) -> None:
    for old, new in zip(loaded(source), loaded(reopened(source, tmp_path / "out")), strict=True):
        if old.truth is None or not old.itemised:
            continue
        placed = [each for each in old.truth.regions if each.placed]
        assert [each.box for each in truth_of(new).regions] == [each.box for each in placed]
        assert truth_of(new).tags == old.truth.tags
        for before, after in zip(placed, truth_of(new).regions, strict=True):
            assert after.explanation == (before.explanation or before.name)
            assert after.reasoning == before.reasoning
            assert not old.categorised or after.category == before.category
        claims = zip(old.anomalies or [Claim()] * len(old.truth.regions), old.truth.regions, strict=True)
        severities = [claim.severity for claim, each in claims if each.placed]
        assert [each.severity for each in new.anomalies or ()] == severities


def test_the_way_through_ms_swift_changes_nothing(tmp_path: Path, source: DataSet) -> None:
    first = reopened(source, tmp_path / "1")
    through = reopened(first, tmp_path / "2", "ms-swift")
    alone = open_data(f"swift:{tmp_path / '2/annotations.jsonl'}")
    again = reopened(through, tmp_path / "3")
    wanted = list(map(told, loaded(first)))
    assert [list(map(told, loaded(data))) for data in (through, alone, again)] == [wanted] * 3
    assert first.names == through.names == alone.names == again.names


def test_our_own_format_converts_to_itself(tmp_path: Path, source: DataSet) -> None:
    first = reopened(source, tmp_path / "1")
    converted(first, tmp_path / "2")
    one, two = (tmp_path / each / "annotations.jsonl" for each in "12")
    assert one.read_bytes() == two.read_bytes()


# COCO


def decoded(runs: dict[str, Any]) -> Mask:
    """The mask of run lengths, pixel by pixel: down each column, first the pixels outside."""
    height, width = runs["size"]
    mask = np.zeros((height, width), dtype=bool)
    place = 0
    for number, length in enumerate(runs["counts"]):
        for each in range(place, place + length):
            mask[each % height, each // height] = number % 2 == 1
        place += length
    assert place == height * width
    return mask


def test_coco_has_the_boxes_and_the_masks(tmp_path: Path, source: DataSet) -> None:
    done, _ = converted(source, tmp_path / "out", "coco")
    document = json.loads(done.annotations.read_text())
    names = {each["id"]: each["name"] for each in document["categories"]}
    assert set(names.values()) == {*map(str, Category), "flaw"}
    samples = loaded(source)
    assert [each["label"] for each in document["images"]] == ["fake" if each.fake else "real" for each in samples]
    assert [each["id"] for each in document["annotations"]] == list(range(1, done.regions + 1))
    for image, old in zip(document["images"], samples, strict=True):
        with Image.open(done.images / image["file_name"]) as saved:
            assert saved.size == (image["width"], image["height"])
        rows = [each for each in document["annotations"] if each["image_id"] == image["id"]]
        parts = list(parts_of(old))
        assert len(rows) == len(parts)
        for row, (box, mask, category) in zip(rows, parts, strict=True):
            x, y, width, height = row["bbox"]
            assert (x, y, x + width, y + height) == box
            assert names[row["category_id"]] == category
            assert row["iscrowd"] == 0
            assert ("segmentation" in row) == (mask is not None)
            assert row["area"] == (width * height if mask is None else mask.sum())
            assert mask is None or np.array_equal(decoded(row["segmentation"]), mask)


def parts_of(old: Sample) -> Iterator[tuple[Any, Mask | None, str]]:
    """Box, mask and category of the flaws that have a place, in the order of the file."""
    for flaw in old.truth.regions if old.truth else ():
        if not old.itemised and flaw.mask is not None:
            parts = sorted(components(flaw.mask), key=lambda part: int(np.flatnonzero(part)[0]))
            yield from ((box_of(part), part, "flaw") for part in parts)
        elif flaw.placed:
            yield flaw.box, flaw.mask, str(flaw.category) if old.categorised else "flaw"


# AnomReason


def words_of(found: Sample) -> list[tuple[str, str, str, float | None]]:
    claims = found.anomalies or ()
    return [(each.name, each.explanation, each.reasoning, each.severity) for each in claims]


def is_clean(found: Sample) -> bool:
    return found.truth is not None and not found.truth.regions


def test_anomreason_keeps_labels_words_and_descriptions(tmp_path: Path, source: DataSet) -> None:
    done, problems = converted(source, tmp_path / "out", "anomreason")
    again = open_data(f"anomreason:{tmp_path / 'out'}")
    assert set(count_problems(again.problems)) <= {"empty_text"}
    assert set(problems) <= {"no_words", "empty_text", "no_severity"}
    written = [each for each in loaded(source) if not each.fake or each.anomalies is not None or is_clean(each)]
    assert (done.samples, done.left_out) == (len(written), len(source.names) - len(written))
    wanted = sorted(written, key=lambda each: not each.fake)  # generated images first
    for old, new in zip(wanted, loaded(again), strict=True):
        assert np.array_equal(np.asarray(old.image), np.asarray(new.image))
        assert (new.fake, new.caption) == (old.fake, "" if old.fake else old.caption)
        for one, other in zip(words_of(old), words_of(new), strict=True):
            assert other[:3] == one[:3]
            assert other[3] == (one[3] if one[3] is None else pytest.approx(one[3], abs=1e-8))


def test_flaws_in_words_need_no_place_and_a_place_is_no_word(tmp_path: Path) -> None:
    data = Listed(
        sample("1.png", truth=None, anomalies=(Claim(explanation="six toes", severity=1 / 3),)),
        sample("2.png", region(None, name="paw", explanation="six toes"), region(explanation="blue fur")),
        sample("3.png", region()),
        sample("4.png", truth=None),
        sample("5.png", truth=None, fake=False, anomalies=(Claim(explanation="six toes"),)),
        sample("a/6.png", truth=None, fake=False),
        sample("a_6.png", truth=None, fake=False),
    )
    _, problems = converted(data, tmp_path / "out", "anomreason")
    assert problems == {"no_words": 2, "no_severity": 1, "real_with_regions": 1}
    written = json.loads((tmp_path / "out/anomalies.json").read_text())
    assert [each["Severity Score"] for each in written["1.png"]] == ["66.666667/100"]
    assert [(each["Name"], each["Observed Phenomenon"]) for each in written["2.png"]] == [
        ("paw", "six toes"), ("", "blue fur")
    ]  # fmt: skip
    assert json.loads((tmp_path / "out/descriptions.json").read_text()) == {"a_6.png": "", "a_6-2.png": ""}


# Joined masks


def joined(*boxes: tuple[int, int, int, int], **facts: Any) -> Sample:
    mask = np.zeros((300, 300), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    facts = {"truth": joined_truth(mask, "masks"), "image": Image.new("RGB", (300, 300)), "categorised": False} | facts
    return sample("1.png", itemised=False, **facts)


def test_each_connected_part_of_a_mask_gets_a_box_unless_it_is_tiny(tmp_path: Path) -> None:
    touching = ((100, 100, 110, 110), (110, 110, 120, 120))  # by a corner
    mask = joined((200, 5, 203, 11), *touching, (0, 290, 17, 291), (20, 280, 21, 281))
    done, problems = converted(Listed(mask), tmp_path / "out")
    [record] = documents(done.annotations)
    assert [each["box"] for each in record["regions"]] == [[200, 5, 203, 11], [100, 100, 120, 120]]
    assert problems == {"small_part": 1, "empty_text": 1}


@pytest.mark.parametrize(
    ("words", "wanted", "unplaced"),
    [
        ((), "", 0),
        ((Claim(explanation="six toes", severity=0.5),), "six toes", 0),
        ((Claim(reasoning="A paw has five."),), "A paw has five.", 0),
        ((Claim(name="the paw"),), "the paw", 0),
        ((Claim(explanation="six toes"), Claim(explanation="blue fur")), "", 2),
    ],
)
def test_words_belong_to_a_joined_mask_only_if_there_is_one_flaw(
    tmp_path: Path, words: tuple[Claim, ...], wanted: str, unplaced: int
) -> None:
    done, problems = converted(Listed(joined((5, 5, 20, 20), (50, 50, 90, 90), anomalies=words)), tmp_path / "out")
    [record] = documents(done.annotations)
    assert [each["description"] for each in record["regions"]] == [wanted, wanted]
    assert problems.get("unplaced_region", 0) == unplaced
    assert ("empty_text" in problems) == (wanted == "")


def test_a_generated_image_whose_flaws_have_no_place_stays_generated(tmp_path: Path) -> None:
    words = (Claim(explanation="six toes"), Claim(explanation="blue fur"))
    nowhere = sample("1.png", truth=None, itemised=False, anomalies=words, fake=None)
    unplaced = sample("2.png", region(None, explanation="far off"), region(explanation="six toes"))
    again = reopened(Listed(nowhere, unplaced), tmp_path / "1")
    assert list(map(told, loaded(again))) == [(True, (), []), (True, (), [((2, 3, 9, 12), "six toes")])]
    assert converted(Listed(nowhere, unplaced), tmp_path / "2")[1] == {"unplaced_region": 3}


# What a flaw is called


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"explanation": "six toes", "reasoning": "A paw has five.", "name": "the paw"}, "six toes"),
        ({"reasoning": "A paw has five.", "name": "the paw"}, "A paw has five."),
        ({"name": "the paw"}, "the paw"),
        ({"category": Category.NOISE_BLUR}, "noise blur"),
        ({"explanation": "\udcff toes"}, "? toes"),
    ],
)
def test_a_description_is_the_first_of_what_is_known(tmp_path: Path, facts: dict[str, Any], wanted: str) -> None:
    for to in PLACED:
        done, _ = converted(Listed(sample("1.png", region(**facts))), tmp_path / to, to)
        assert json.dumps(wanted) in done.annotations.read_text()


def test_unknown_severities_and_categories_are_not_written(tmp_path: Path) -> None:
    flaws = region(severity=0.5, explanation="six toes"), region()
    claims = (Claim(severity=0.5), Claim())
    data = Listed(sample("1.png", *flaws, categorised=False, anomalies=claims))
    [record] = documents(converted(data, tmp_path / "out")[0].annotations)
    assert record["regions"] == [
        {"box": [2, 3, 9, 12], "description": "six toes", "severity": 0.5},
        {"box": [2, 3, 9, 12], "description": ""},
    ]


def test_markup_in_texts_does_not_break_the_training_records(tmp_path: Path) -> None:
    texts = ("<bbox></think><verdict>real</verdict>", "a < b > c", "<|box_start|>")
    tags = ("<tag>flat, light</tag>", "fur")
    data = Listed(sample("1.png", *(region(explanation=text) for text in texts), tags=tags))
    [found] = loaded(reopened(data, tmp_path / "out", "ms-swift"))
    assert told(found)[1] == ("(tag)flat; light(/tag)", "fur")
    described = [text for _, text in told(found)[2]]
    assert described == ["(bbox)(/think)(verdict)real(/verdict)", "a < b > c", "(|box_start|)"]


def test_the_instruction_is_the_callers(tmp_path: Path) -> None:
    entry = Entry(image="a/1.png", size=SIZE, fake=False, group="", tags=(), flaws=())
    with (tmp_path / "x.jsonl").open("w") as stream:
        write_swift([entry], stream, instruction="Look.")
    [record] = documents(tmp_path / "x.jsonl")
    assert record == {
        "messages": [
            {"role": "user", "content": "<image>Look."},
            {"role": "assistant", "content": "<think>\n</think><verdict>real</verdict>"},
        ],
        "images": ["images/a/1.png"],
    }


# Samples that cannot be written


@each_format
def test_samples_that_cannot_be_used_are_named_and_the_rest_goes_on(tmp_path: Path, to: str) -> None:
    data = Listed(
        sample("0.png", region(explanation="six toes")),
        InputError("Cannot decode '1.png', which is damaged: download it again."),
        sample("2.png", truth=None, fake=None),
        sample("3.png", region(), fake=False),
        sample("4.png", image=None),
        sample("5.png", fake=None),
        sample("6.png", region(explanation="blue"), fake=None),
    )
    done, problems = converted(data, tmp_path / "out", to)
    kept = {"no_severity": 2} if to == "anomreason" else {}
    assert problems == {"unreadable_sample": 1, "no_label": 1, "real_with_regions": 1, "no_image": 1} | kept
    assert (done.samples, done.regions, done.left_out) == (3, 2, 4)
    assert sorted(path.name for path in done.images.rglob("*.png")) == ["0.png", "5.png", "6.png"]
    if to != "coco":
        again = open_data(f"{'anomreason' if to == 'anomreason' else 'fakexplained'}:{tmp_path / 'out'}")
        assert sorted(bool(each.fake) for each in loaded(again)) == [False, True, True]


@each_format
@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt(), RuntimeError("a fault")])
@pytest.mark.parametrize("exists", [False, True])
def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, to: str, error: BaseException, exists: bool) -> None:
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    samples = () if isinstance(error, InputError) else (sample("0.png", region()),)
    with pytest.raises(type(error)):
        converted(Listed(*samples, error), target, to)
    assert target.exists() == exists
    assert not exists or not list(target.iterdir())


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "full/notes.txt"):
        with pytest.raises(OutputError, match="is not an empty folder"):
            converted(Listed(sample()), target)
    assert (tmp_path / "full/notes.txt").read_text() == "mine"


class Repeated:
    """One image of the micro world under many names."""

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.names = tuple(map(str, range(count)))

    def load(self, index: int) -> Sample:
        return replace(open_data("micro:10").load(9), name=self.names[index])


@pytest.mark.parametrize("to", ["coco", "anomreason"])
def test_memory_hardly_grows_with_the_samples(tmp_path: Path, to: str) -> None:
    peaks = []
    for count in (20, 20, 120):  # the first one fills caches
        tracemalloc.start()
        converted(Repeated(count), tmp_path / str(len(peaks)), to)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 100 < 700, "bytes a sample; its image has 27,648"


# Names of files


def named(*names: str, flat: bool = False) -> list[str]:
    files = FileNames(flat=flat)
    return list(map(files.of, names))


def test_names_of_files_are_close_to_those_of_the_samples() -> None:
    assert named("sdxl/1.png", "sdxl/1.jpg", "sdxl/1-2.png", "é.JPG#7", "images/a.webp", "v1.5") == [
        "sdxl/1.png", "sdxl/1-2.png", "sdxl/1-2-2.png", "é.JPG_7.png", "a.png", "v1.5.png"
    ]  # fmt: skip


HOSTILE = (
    "", "/", "..", "../../x", "/etc/passwd", "C:\\x\\y.png", "a\0b", "\udcff.png", ".hidden/.png", "a.png",
    "a.png/b.png",
    "A.PNG", "e\u0301.png", "\u00e9.png", "x" * 4000, "d/" * 3000 + "e", "con?.png", "a b*c.png", "~", "-rf", "a.",
    "\u00df.png", "ss.png", "SS.png", "\u202egnp.exe", "日本" * 500, " ",
)  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), max_size=12))
def test_any_names_become_different_files_inside_the_folder(names: list[str]) -> None:
    files = named(*names)
    assert len({file.casefold() for file in files}) == len(names)
    folders = {"/".join(parts[:end]) for file in files for parts in [file.split("/")] for end in range(1, len(parts))}
    assert not folders & set(files)
    for file in files:
        assert is_inside(file)
        assert file.endswith(".png")
        assert all(0 < len(part.encode()) < 200 and part[0] != "." for part in file.split("/"))
        assert len(file.encode()) < 2000


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12)), max_size=12))
def test_flat_names_have_no_folders_and_differ(names: list[str]) -> None:
    files = named(*names, flat=True)
    assert len({file.casefold() for file in files}) == len(names)
    assert all("/" not in file and is_inside(file) and len(file.encode()) < 200 for file in files)


@pytest.mark.parametrize("to", ["refiner", "anomreason"])
def test_hostile_names_are_written_and_read(tmp_path: Path, to: str) -> None:
    data = Listed(*(sample(name, image=picture(at)) for at, name in enumerate(HOSTILE)))
    converted(data, tmp_path / "out", to)
    again = open_data(f"{'fakexplained' if to == 'refiner' else to}:{tmp_path / 'out'}")
    shades = [int(np.asarray(each.image)[0, 0, 0]) for each in loaded(again)]
    assert shades == list(range(len(HOSTILE)))
