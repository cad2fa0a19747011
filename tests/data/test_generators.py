"""Folders of real and generated images by generator: who made what, which images belong together, and what is lost."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from refiner.data.problems import count_problems
from refiner.data.samples import DataSet, Sample, pairs_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError, UserError


def paint(root: Path, *names: str, red: int = 0) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (red, 7, 9)).save(root / name)
    return root


def loaded(data: DataSet) -> dict[str, Sample]:
    again: DataSet = pickle.loads(pickle.dumps(data))
    samples = {name: again.load(index) for index, name in enumerate(data.names)}
    assert [sample.pair for sample in samples.values()] == pairs_of(data)
    return samples


def facts(specification: str) -> dict[str, tuple[str, bool | None]]:
    """Group and verdict of each sample, of a data set without problems."""
    data = open_data(specification)
    assert data.problems == []
    return {name: (sample.group, sample.fake) for name, sample in loaded(data).items()}


@pytest.mark.parametrize(
    ("source", "name", "group", "fake"),
    [
        ("genimage", "Midjourney/val/ai/1.png", "Midjourney", True),
        ("genimage", "Midjourney/train/nature/1.png", "Midjourney", False),
        ("genimage", "Stable Diffusion V1.4/val/ai/1.png", "Stable Diffusion V1.4", True),
        ("genimage", "ADM/imagenet_ai_0508_adm/val/nature/n01440764_1.png", "ADM", False),
        ("genimage", "imagenet_glide/val/ai/1.png", "imagenet_glide", True),
        ("genimage", "val/ai/1.png", "root", True),
        ("genimage", "VQDM/ai/1.png", "VQDM", True),
        ("chameleon", "test/0_real/1.png", "", False),
        ("chameleon", "1_fake/1.png", "", True),
        ("aiginow", "gpt4o/pixel/1_fake/1.png", "gpt4o/pixel", True),
        ("aiginow", "semantic/gpt4o/0_real/1.png", "gpt4o/semantic", False),
        ("aiginow", "test/flux-dev/semantic/1_fake/a/1.png", "flux-dev/semantic", True),
        ("aiginow", "gpt4o/1_fake/1.png", "gpt4o", True),
        ("aiginow", "1_fake/1.png", "root", True),
        ("synthbuster", "dalle2/r000da54ft.png", "dalle2", True),
        ("synthbuster", "synthbuster/glide/r000da54ft.png", "glide", True),
        ("synthbuster", "real_RAISE_1k/r000da54ft.png", "", False),
        ("synthbuster", "RAISE/test/r000da54ft.png", "", False),
        ("synthbuster", "dalle3/0_real/1.png", "dalle3", False),
        ("synthbuster", "dalle3/1_fake/1.png", "dalle3", True),
        ("commfor", "glide/fake/1.png", "glide", True),
        ("commfor", "coco/real/1.png", "", False),
        ("reconstructed", "sd21/1_fake/1.png", "sd21", True),
    ],
)
def test_verdict_and_generator_are_in_the_path(tmp_path: Path, source: str, name: str, group: str, fake: bool) -> None:
    data = open_data(f"{source}:{paint(tmp_path / 'root', name)}")
    sample = loaded(data)[name]
    assert (sample.group, sample.fake, sample.truth, sample.image is None) == (group, fake, None, False)


@pytest.mark.parametrize("source", ["universalfake", "genimage", "chameleon", "reconstructed", "commfor"])
def test_a_split_may_be_chosen(tmp_path: Path, source: str) -> None:
    real, fake = {"genimage": ("nature", "ai"), "commfor": ("real", "fake")}.get(source, ("0_real", "1_fake"))
    paint(tmp_path, f"a/train/{real}/1.png", f"a/train/{fake}/2.png", f"a/val/{fake}/3.png", f"a/{real}/4.png")
    assert {name: sample.split for name, sample in loaded(open_data(f"{source}:{tmp_path}")).items()} == {
        f"a/{real}/4.png": "", f"a/train/{real}/1.png": "train", f"a/train/{fake}/2.png": "train",
        f"a/val/{fake}/3.png": "val",
    }  # fmt: skip
    assert open_data(f"{source}:{tmp_path},split=val").names == (f"a/val/{fake}/3.png",)
    with pytest.raises(InputError, match="got none"):
        open_data(f"{source}:{tmp_path},split=test")
    with pytest.raises(ConfigError, match="test, train, val as split"):
        open_data(f"{source}:{tmp_path},split=training")


def test_a_kind_of_flaw_may_be_chosen(tmp_path: Path) -> None:
    paint(tmp_path, "gpt4o/pixel/1_fake/1.png", "gpt4o/semantic/1_fake/1.png", "jimeng/semantic/0_real/1.png")
    assert set(facts(f"aiginow:{tmp_path},kind=semantic").values()) == {
        ("gpt4o/semantic", True), ("jimeng/semantic", False),
    }  # fmt: skip
    assert len(open_data(f"aiginow:{tmp_path}").names) == 3
    with pytest.raises(ConfigError, match="semantic or pixel as kind"):
        open_data(f"aiginow:{tmp_path},kind=both")
    (tmp_path / "gpt4o/pixel").rename(tmp_path / "gpt4o/pixels")
    with pytest.raises(InputError, match="got none"):
        open_data(f"aiginow:{tmp_path},kind=pixel")


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/gpt4o.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"unpack the files \*\.tar"):
        open_data(f"aiginow:{tmp_path}")


def test_photographs_may_lie_elsewhere(tmp_path: Path) -> None:
    paint(tmp_path / "set", "dalle2/a.png", "dalle2/b.png", "photos/c.png")
    paint(tmp_path / "elsewhere", "a.png", "more/b.png", red=200)
    data = loaded(open_data(f"synthbuster:{tmp_path / 'set'},real={tmp_path / 'elsewhere'}"))
    assert {name: (sample.group, sample.fake, sample.pair) for name, sample in data.items()} == {
        "dalle2/a.png": ("dalle2", True, "a"), "dalle2/b.png": ("dalle2", True, "b"),
        "photos/c.png": ("photos", True, "c"), "0_real/a.png": ("", False, "a"),
        "0_real/more/b.png": ("", False, "b"),
    }  # fmt: skip
    image = data["0_real/more/b.png"].image
    assert image is not None
    assert image.getpixel((3, 3)) == (200, 7, 9)
    inside = facts(f"synthbuster:{tmp_path / 'set'},real={tmp_path / 'set/photos'}")
    assert inside == {"dalle2/a.png": ("dalle2", True), "dalle2/b.png": ("dalle2", True), "0_real/c.png": ("", False)}
    with pytest.raises(InputError, match="folder of photographs"):
        open_data(f"synthbuster:{tmp_path / 'set'},real={tmp_path / 'nowhere'}")


def test_an_image_and_its_reconstruction_are_a_pair(tmp_path: Path) -> None:
    paint(tmp_path, "vae/0_real/a.jpg", "vae/1_fake/a.png", "train/0_real/cats/b.png", "train/1_fake/cats/b.png")
    paint(tmp_path, "vae/0_real/c.jpg", "vae/0_real/d.jpg", "vae/0_real/d.png", "vae/1_fake/d.png", "vae/1_fake/e.png")
    data = open_data(f"reconstructed:{tmp_path}")
    pairs: dict[str, list[bool | None]] = {}
    for sample in loaded(data).values():
        pairs.setdefault(sample.pair, []).append(sample.fake)
    assert sorted(pairs.pop("")) == [False, False, False, True, True]
    assert pairs == {"train/cats/b": [False, True], "vae/a": [False, True]}
    assert count_problems(data.problems) == {"duplicate_basename": 2, "missing_pair": 3}
    assert open_data(f"universalfake:{tmp_path}").load(0).pair == "", "names of other data sets mean nothing"


EXAMPLES: dict[str, tuple[str, ...]] = {
    "universalfake": ("g/0_real/1.png", "g/1_fake/2.png", "h/1_fake/3.png"),
    "genimage": ("g/val/nature/1.png", "g/val/ai/2.png", "h/val/ai/3.png"),
    "chameleon": ("test/0_real/1.png", "test/1_fake/2.png", "test/1_fake/3.png"),
    "aiginow": ("g/pixel/0_real/1.png", "g/pixel/1_fake/2.png", "h/semantic/1_fake/3.png"),
    "synthbuster": ("RAISE/1.png", "g/2.png", "h/3.png"),
    "commfor": ("coco/real/1.png", "g/fake/2.png", "h/fake/3.png"),
    "reconstructed": ("0_real/1.png", "1_fake/1.png", "0_real/3.png"),
}
each_source = pytest.mark.parametrize("source", list(EXAMPLES))

DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no picture"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "tiny": lambda path: Image.new("RGB", (3, 3)).save(path),
    "script": lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "gone": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "broken link": lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "archive": lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 99),
}


@each_source
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_images_that_cannot_be_read_cost_their_sample(tmp_path: Path, source: str, damage: str) -> None:
    data = open_data(f"{source}:{paint(tmp_path, *EXAMPLES[source])}")
    assert sorted(data.names) == sorted(EXAMPLES[source])
    DAMAGES[damage](tmp_path / EXAMPLES[source][1])
    for index, name in enumerate(data.names):
        if name == EXAMPLES[source][1]:
            with pytest.raises(InputError) as error:
                data.load(index)
            assert Path(name).name in str(error.value)
            assert "\n" not in str(error.value)
        else:
            assert data.load(index).name == name


@each_source
def test_folders_that_are_missing_or_hold_nothing_are_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty/a").mkdir(parents=True)
    for place in ("nowhere", "file", "empty", "no\0where", "n" * 300):
        with pytest.raises(UserError) as error:
            open_data(f"{source}:{tmp_path}/{place}")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 900


@each_source
def test_names_that_are_no_text_are_read(tmp_path: Path, source: str) -> None:
    paint(tmp_path, *EXAMPLES[source])
    first = tmp_path / EXAMPLES[source][0]
    odd = os.fsencode(first.with_name("odd")) + b"\xff \n'.png"
    os.link(first, odd)
    os.link(first, first.with_name("EMOJI ☃.PNG"))
    data = open_data(f"{source}:{tmp_path}")
    names = {Path(name).name for name in loaded(data)}
    assert {os.fsdecode(os.path.basename(odd)), "EMOJI ☃.PNG"} < names
    assert all("\n" not in f"{problem.where!r}" for problem in data.problems)


@each_source
def test_other_files_hidden_ones_and_links_to_folders_are_left_out(tmp_path: Path, source: str) -> None:
    paint(tmp_path, *EXAMPLES[source], ".hidden/0_real/1.png", "g/.hidden.png")
    (tmp_path / "README.md").write_text("words")
    (tmp_path / EXAMPLES[source][0]).with_suffix(".txt").write_text("words")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    data = open_data(f"{source}:{tmp_path}")
    assert sorted(data.names) == sorted(EXAMPLES[source])
    assert count_problems(data.problems)["ignored_link"] == 1
    (tmp_path / "outer").symlink_to(tmp_path, target_is_directory=True)
    assert open_data(f"{source}:{tmp_path / 'outer'}").names == data.names, "the place itself may be a link"


@each_source
def test_images_without_a_verdict_are_named(tmp_path: Path, source: str) -> None:
    paint(tmp_path, *EXAMPLES[source], "loose.png")
    data = open_data(f"{source}:{tmp_path}")
    assert sorted(data.names) == sorted(EXAMPLES[source])
    assert ("unlabelled", "loose.png") in {(problem.kind, problem.where) for problem in data.problems}


def test_data_of_another_layout_are_refused_with_an_example(tmp_path: Path) -> None:
    paint(tmp_path, *EXAMPLES["universalfake"])
    with pytest.raises(InputError, match=r"3 problems, such as .*0_real/1\.png: expected one folder nature or ai"):
        open_data(f"genimage:{tmp_path}")


@each_source
def test_options_that_a_source_does_not_have_are_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match=rf"as option of {source}:"):
        open_data(f"{source}:{paint(tmp_path, *EXAMPLES[source])},colour=red")


def test_pairs_are_known_without_the_images_and_else_from_them(tmp_path: Path) -> None:
    paint(tmp_path / "r", "0_real/a.png", "1_fake/a.png", "0_real/b.png", "1_fake/b.png")
    (tmp_path / "r/0_real/a.png").write_bytes(b"no picture")
    assert pairs_of(open_data(f"reconstructed:{tmp_path / 'r'}")) == ["a", "b", "a", "b"]
    assert pairs_of(open_data(f"reconstructed:{tmp_path / 'r'}", limit=3)) == ["a", "b", "a"]
    assert pairs_of(open_data(str(tmp_path / "r"))) == ["", "", "", ""], "a folder of images pairs none"
