"""``refiner data pairs``: preference pairs from records of refinements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.cli import main
from refiner.data.pairs import FILES, Pair, read_pairs
from refiner.data.samples import Sample
from refiner.errors import InputError
from refiner.evaluate.harness import collect, describe
from refiner.evaluate.systems import Looker, Refining
from refiner.provenance import read
from refiner.taxonomy import Category
from refiner.types import UNVERIFIED, Analysis, Attempt, RefinementResult, Region, Score, Size

PROMPT = "a hand <image> with five fingers"
SIZE = Size(48, 64)
SETTINGS = {"config": {"min_burden_drop": 0.1, "min_score_gain": 1e-4}}
LAYOUTS = pytest.mark.parametrize("layout", sorted(FILES))


def picture(seed: int, patch: int | None = None) -> Image.Image:
    """An image of noise, of which one patch may be drawn again."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    if patch is not None:
        pixels[10:22, 8:20] = np.random.default_rng(patch).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def flaw(severity: float, x: int = 10, name: str = "the hand") -> Region:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[12:20, x : x + 8] = True
    return Region(
        mask=mask, box=(x, 12, x + 8, 20), name=name, explanation="six fingers", category=Category.ANATOMY,
        severity=severity,
    )  # fmt: skip


def attempt(index: int, severity: float, score: float = 0.5, **changes: Any) -> Attempt:
    """An attempt with a flaw in the patch that the repairs change, and one elsewhere, which stays."""
    flaws = (flaw(severity),) if severity else ()
    fields: dict[str, Any] = {
        "index": index,
        "action": "inpaint" if index else "generate",
        "prompt": "a revised prompt",
        "seed": index,
        "image": picture(0, index or None),
        "analysis": Analysis(size=SIZE, detector="the detector", regions=(*flaws, flaw(0.2, 40, "the sign"))),
        "scores": (Score(name="the judge", value=score),),
        "accepted": index == 0,
        "reason": "said so",
    }
    return Attempt(**fields | changes)


def result(*attempts: Attempt) -> RefinementResult:
    best = max(attempt.index for attempt in attempts if attempt.accepted)
    return RefinementResult(prompt=PROMPT, attempts=attempts, best=best, stop="rounds", settings=SETTINGS)


def history() -> RefinementResult:
    """The first repair is worse, the second is better, the third is worse than the second, the fourth is broken."""
    broken = attempt(4, 0, analysis=None, error="The answer cannot be read.")
    return result(
        attempt(0, 0.8), attempt(1, 0.9, 0.4), attempt(2, 0.3, 0.6, accepted=True), attempt(3, 0.7, 0.6), broken
    )


@cache
def _files() -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        history().save(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def save_history(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, data in _files().items():
        (folder / name).write_bytes(data)


def pairs_of(tmp_path: Path, *arguments: object, layout: str = "trl") -> list[Pair]:
    assert main(["data", "pairs", *map(str, arguments), "--to", layout, "--out", str(tmp_path / "pairs")]) == 0
    return list(read_pairs(tmp_path / "pairs"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@LAYOUTS
def test_pairs_hold_the_images_bit_for_bit_the_mask_the_flaws_and_the_judgements(tmp_path: Path, layout: str) -> None:
    made = history()
    save_history(tmp_path / "run")
    pairs = pairs_of(tmp_path, tmp_path / "run", layout=layout)
    assert [pair.attempts for pair in pairs] == [(0, 1), (2, 0), (2, 1), (2, 3)]
    for pair in pairs:
        chosen, rejected = (np.asarray(made.attempts[index].image) for index in pair.attempts)
        assert (pixels(pair.chosen) == chosen).all()
        assert (pixels(pair.rejected) == rejected).all()
        assert (pixels(pair.mask) == 255 * (chosen != rejected).any(axis=2)).all()
        assert (pair.prompt, pair.action, pair.run) == (PROMPT, "inpaint", "run")
        assert [(each.name, each.explanation, each.category) for each in pair.flaws] == [
            ("the hand", "six fingers", Category.ANATOMY)
        ]
        detector, judge = pair.judgements
        better, worse = (made.attempts[index] for index in pair.attempts)
        assert (detector.by, detector.measure) == ("the detector", "burden")
        assert detector.gain == pytest.approx(worse.analysis.burden - better.analysis.burden)  # type: ignore[union-attr]
        assert (judge.by, judge.gain) == ("the judge", better.scores[0].value - worse.scores[0].value)
    assert len(list((tmp_path / "pairs" / "images").iterdir())) == 4  # each image once
    assert read(pairs[0].chosen).source_type == "trainedAlgorithmicMedia"


def test_ms_swift_gets_one_placeholder_for_each_image(tmp_path: Path) -> None:
    save_history(tmp_path / "run")
    pairs_of(tmp_path, tmp_path / "run", layout="ms-swift")
    for line in (tmp_path / "pairs" / "pairs.jsonl").read_text().splitlines():
        record = json.loads(line)
        for messages, images in (("messages", "images"), ("rejected_messages", "rejected_images")):
            assert [message["role"] for message in record[messages]] == ["user", "assistant"]
            assert sum(message["content"].count("<image>") for message in record[messages]) == len(record[images]) == 1
            assert (tmp_path / "pairs" / record[images][0]).is_file()


@pytest.mark.filterwarnings("ignore")
def test_datasets_reads_the_images_of_all_three_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    save_history(tmp_path / "run")
    pairs = pairs_of(tmp_path, tmp_path / "run")
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "pairs"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(read) == len(pairs)
    for row, pair in zip(read, pairs, strict=True):
        assert row["prompt"] == PROMPT
        for name in ("chosen", "rejected", "mask"):
            assert (np.asarray(row[name]) == pixels(getattr(pair, name))).all()
        assert row["flaws"][0]["explanation"] == "six fingers"


UNKNOWN: dict[str, Callable[[Attempt], Attempt]] = {
    "not generated": lambda one: replace(one, image=None, analysis=None, scores=(), error="black"),
    "not analysed": lambda one: replace(one, analysis=None, error="babble"),
    "not judged": lambda one: replace(one, scores=(), error="no score"),
    "judged by no one": lambda one: replace(one, scores=()),
    "a score that is no number": lambda one: replace(one, scores=(Score(name="the judge", value=float("nan")),)),
    "an error after it": lambda one: replace(one, error="the callback failed"),
    "the judge disagrees": lambda one: replace(one, scores=(Score(name="the judge", value=0.9),)),
    "no better": lambda one: replace(one, analysis=attempt(1, 0.75).analysis),
    "another detector": lambda one: replace(one, analysis=replace(one.analysis, detector="another")),  # type: ignore[type-var]
    "not analysed to the end": lambda one: replace(one, analysis=replace(one.analysis, gaps=("cut_short",))),  # type: ignore[type-var]
    "another start": lambda one: replace(one, action="given"),
    "the same pixels": lambda one: replace(one, image=picture(0)),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_known_to_be_better_or_worse_is_in_no_pair(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change = UNKNOWN[kind]
    result(attempt(0, 0.8), change(attempt(1, 0.9))).save(str(tmp_path / "rejected"))
    arguments = ["data", "pairs", str(tmp_path / "rejected"), "--to", "trl", "--out", str(tmp_path / "none")]
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    save_history(tmp_path / "rejected" / "good")
    assert len(pairs_of(tmp_path, tmp_path / "rejected")) == 4


def test_a_run_that_verifies_nothing_gives_no_pair(tmp_path: Path) -> None:
    kept = attempt(1, 0.9, accepted=True, reason=f"{UNVERIFIED}; worse for the detector")
    result(attempt(0, 0.8), kept).save(str(tmp_path / "run"))
    assert main(["data", "pairs", str(tmp_path), "--to", "trl", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_regenerated_image_is_compared_with_the_one_that_it_replaced(tmp_path: Path) -> None:
    again = attempt(1, 0, 0.6, action="regenerate", image=picture(7), accepted=True)
    made = result(attempt(0, 0.8), again, attempt(2, 0.9, 0.5, image=picture(7, 2)))
    made.save(str(tmp_path / "run"))
    pairs = pairs_of(tmp_path, tmp_path / "run")
    assert [(pair.action, pair.attempts) for pair in pairs] == [("regenerate", (1, 0)), ("inpaint", (1, 2))]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@LAYOUTS
def test_a_stopped_run_is_continued_and_foreign_folders_are_left_alone(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_history(tmp_path / "runs" / "a")
    save_history(tmp_path / "runs" / "b")
    arguments = ["data", "pairs", str(tmp_path / "runs"), "--to", layout, "--out", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    whole = content(tmp_path / "out")
    (tmp_path / "out" / FILES[layout]).unlink()
    for path in sorted((tmp_path / "out" / "images").iterdir())[:2]:
        path.unlink()
    capsys.readouterr()
    assert main(arguments) == 0
    assert content(tmp_path / "out") == whole
    document = json.loads(capsys.readouterr().out)
    assert (document["pairs"], document["images"]["written"]) == (8, 2)
    other = next(each for each in FILES if each != layout)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    for changes in (["--to", other], ["--out", str(foreign)]):
        assert main([*arguments, *changes]) == 2
        assert "choose" in capsys.readouterr().err
    assert content(tmp_path / "out") == whole
    assert content(foreign) == {"mine.txt": b"mine"}


def damaged(document: Any, keys: Sequence[Any], value: Any) -> str:
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return json.dumps(document)


DAMAGE: list[tuple[Sequence[Any], Any]] = [
    (["attempts"], 3),
    (["attempts", 1, "index"], "../../etc"),
    (["attempts", 1, "accepted"], "yes"),
    (["attempts", 1, "scores"], []),
    (["attempts", 1, "analysis", "size"], [10**9, 10**9]),
    (["attempts", 1, "analysis", "regions"], [3]),
    (["attempts", 1, "action"], None),
    (["prompt"], None),
    (["settings"], []),
    (["settings", "config"], {"min_burden_drop": "1"}),
    (["verified"], "true"),
]


def test_a_damaged_record_is_named_and_the_other_runs_still_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_history(tmp_path / "runs" / "good")
    text = (tmp_path / "runs" / "good" / "run.json").read_text()
    bad = [damaged(json.loads(text), *each) for each in DAMAGE]
    for number, document in enumerate([*bad, text[:-20], "[]", "[" * 100_000]):
        folder = tmp_path / "runs" / f"bad-{number}"
        shutil.copytree(tmp_path / "runs" / "good", folder)
        (folder / "run.json").write_text(document)
    arguments = ["data", "pairs", str(tmp_path / "runs"), "--to", "trl", "--out", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["pairs"] == 4
    assert sum(document["problems"].values()) == len(DAMAGE) + 3
    assert "Traceback" not in told.err


def test_an_image_that_is_gone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_history(tmp_path / "run")
    (tmp_path / "run" / "attempt-01.png").unlink()
    assert [pair.attempts for pair in pairs_of(tmp_path, tmp_path / "run")] == [(2, 0), (2, 3)]
    assert "attempt-01.png" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"prompt": 3}', "null", '{"refiner": {}}'])
@LAYOUTS
def test_a_line_that_is_no_pair_is_an_error(tmp_path: Path, layout: str, line: str) -> None:
    (tmp_path / FILES[layout]).write_text(line + "\n")
    with pytest.raises(InputError, match="Line 1 of"):
        list(read_pairs(tmp_path))


@LAYOUTS
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, layout: str) -> None:
    save_history(tmp_path / "run")
    pairs_of(tmp_path, tmp_path / "run", layout=layout)
    file = tmp_path / "pairs" / FILES[layout]
    file.write_text(file.read_text().replace('"images/', '"../images/'))
    with pytest.raises(InputError, match="path inside the folder"):
        list(read_pairs(tmp_path / "pairs"))


class _Prompts:
    """Prompts as a data set."""

    problems = ()
    names = ("0", "1", "2")

    def load(self, index: int) -> Sample:
        return Sample(name=self.names[index], prompt=PROMPT)


class _Judge:
    name = "red"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [0.5 for _ in images]


def test_the_records_of_an_evaluation_give_pairs_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = attempt(1, 0.1, accepted=True, reason=UNVERIFIED)
    results = iter([history(), result(attempt(0, 0.8), last), result(attempt(0, 0.8), attempt(1, 0.2, accepted=True))])
    data: Any = _Prompts()
    system = Refining(
        refine=lambda _: next(results), settings={}, looker=Looker(judge=_Judge()), pictures=tmp_path / "runs"
    )
    scoring = {"scoring": 1}
    collect(data, system, describe("refinement", data, {"specification": "given"}, system, scoring), tmp_path / "runs")
    pairs = pairs_of(tmp_path, tmp_path / "runs")
    assert [(pair.attempts, pair.run) for pair in pairs] == [
        ((2, 0), "runs: 0"), ((2, 3), "runs: 0"), ((1, 0), "runs: 2"),
    ]  # fmt: skip
    assert [judgement.by for judgement in pairs[0].judgements] == ["the detector", "red"]
    assert "not verified" in capsys.readouterr().err
