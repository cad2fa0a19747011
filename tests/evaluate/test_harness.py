"""The harness: whatever happens to a run, its table equals that of an uninterrupted run."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from refiner.cli.evaluate import speed
from refiner.cli.view import Terminal
from refiner.data.micro import MicroData
from refiner.data.samples import DataSet, Sample
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, InputError, OutputError, UnreadableOutputError
from refiner.evaluate.columns import BLOCK
from refiner.evaluate.harness import Run, Shard, System, answer, collect, describe, merge, open_run, work
from refiner.evaluate.records import Records
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.files import Json
from refiner.masks import box_of
from refiner.records import analysis_to_dict
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

SCORING = {"threshold": 0.5, "view": "full"}
COUNT = 14


def spots(image: Image.Image) -> Analysis:
    """Reports red regions as flaws; it is wrong for some images, always for the same ones."""
    pixels = np.asarray(image).astype(int)
    mask = pixels[..., 0] > pixels[..., 1] + 60
    box = box_of(mask)
    region = () if box is None else (Region(mask=mask, box=box, name="red", category=Category.COLOR, severity=0.4),)
    share = float(mask.mean())
    return Analysis(size=Size(*mask.shape), regions=region, fake_probability=share, detector="spots")


def looker(batch_size: int = 3, **options: object) -> Looker:
    return Looker(detector=ScriptedDetector(spots, name="spots"), batch_size=batch_size, **options)  # type: ignore[arg-type]


def run(folder: Path, *, system: Looker | None = None, data: DataSet | None = None, **options: object) -> Run:
    data, system = data or MicroData(COUNT, painted=True), system or looker()
    description = describe("localization", data, {"specification": "micro"}, system, SCORING)
    return collect(data, system, description, folder, **options)  # type: ignore[arg-type]


def table(done: Run) -> bytes:
    score(done)
    return (done.folder / "table.json").read_bytes() + (done.folder / "samples.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run."""
    done = run(tmp_path_factory.mktemp("whole"))
    table(done)
    return done


def expected(whole: Run) -> bytes:
    return (whole.folder / "table.json").read_bytes() + (whole.folder / "samples.csv").read_bytes()


def test_every_sample_has_a_record_and_the_table_counts_them(whole: Run) -> None:
    records = list(whole.records)
    assert [record["index"] for record in records] == list(range(COUNT))
    document = json.loads((whole.folder / "table.json").read_bytes())
    assert (document["samples"], document["scored"], document["missing"], document["errors"]) == (COUNT, COUNT, 0, {})
    assert set(document["groups"]) == {"1 thing", "2 things", "3 things", "4 things"}
    assert sum(group["scored"] for group in document["groups"].values()) == COUNT
    assert 0 < document["figures"]["PixF1"] < 1


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_the_batch_size_changes_nothing(whole: Run, tmp_path: Path, batch_size: int) -> None:
    assert table(run(tmp_path, system=looker(batch_size))) == expected(whole)


def test_another_engine_in_another_order_changes_nothing(whole: Run, tmp_path: Path) -> None:
    def backwards(data: DataSet, system: System, indices: Sequence[int]) -> Iterator[list[Json]]:
        yield from reversed([list(reversed(records)) for records in work(data, system, indices)])

    assert table(run(tmp_path, engine=backwards)) == expected(whole)


@pytest.mark.parametrize("seed", range(8))
def test_a_run_cut_off_at_any_byte_goes_on(whole: Run, tmp_path: Path, seed: int) -> None:
    data = (whole.folder / "records.jsonl").read_bytes()
    cut = random.Random(seed).randrange(len(data))
    (tmp_path / "records.jsonl").write_bytes(data[:cut])
    (tmp_path / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
    system = looker()
    assert table(run(tmp_path, system=system, resume=True)) == expected(whole)
    assert len(system.detector.seen) == COUNT - data[:cut].count(b"\n")  # type: ignore[union-attr]


def test_a_damaged_line_is_run_again(whole: Run, tmp_path: Path) -> None:
    lines = (whole.folder / "records.jsonl").read_bytes().splitlines(keepends=True)
    lines[4], lines[7], lines[9] = b"\0\0\0\n", b'{"index": "x"}\n', b"[1]\n"
    lines[10:10] = [b'{"index": %d, "error": null}\n' % number for number in (-1, 2**63, 10**40)] + [
        b"[" * 99_999 + b"\n"
    ]
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
    system = looker()
    assert table(run(tmp_path, system=system, resume=True)) == expected(whole)
    assert len(system.detector.seen) == 3  # type: ignore[union-attr]


NURSERY = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import test_harness as own
from refiner.detectors.scripted import ScriptedDetector
from refiner.evaluate.systems import Looker

def slowly(image):
    time.sleep(0.03)
    return own.spots(image)

def work(folder, kind):
    system = Looker(detector=ScriptedDetector(slowly, name="spots"), batch_size=3)
    own.run(own.Path(folder), system=system, resume=True, records=kind)

while job := sys.stdin.readline():
    child = os.fork()
    if not child:
        work(*job.rstrip().split("|"))
        os._exit(0)
    print(child, flush=True)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    print("over", flush=True)
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Forks a process for each run, so that nothing is imported again."""

Nursery = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    command = [sys.executable, "-P", "-c", NURSERY, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        yield process


def killed(nursery: Nursery, folder: Path, kind: str, due: Callable[[], bool]) -> bool:
    """Start or resume a run, and kill it by SIGKILL when that is due; False if it was done before."""
    tell, hear = nursery.stdin, nursery.stdout
    assert tell is not None
    assert hear is not None
    tell.write(f"{folder}|{kind}\n".encode())
    child = int(hear.readline())
    while not due() and not select.select([hear], [], [], 0.0005)[0]:
        pass
    os.kill(child, signal.SIGKILL)
    assert hear.readline() == b"over\n"
    tell.write(b"\n")
    status = int(hear.readline())
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def held(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_run_killed_at_a_random_point_gives_the_same_table(
    whole: Run, nursery: Nursery, tmp_path: Path, number: int
) -> None:
    """Ten runs, each killed twice at different points; half of them become Parquet."""
    kind, records = ("jsonl", "parquet")[number % 2], tmp_path / "records.jsonl"
    target = random.Random(time.time_ns()).randrange(held(whole.folder / "records.jsonl"))
    assert killed(nursery, tmp_path, kind, lambda: held(records) > target // 2)
    killed(nursery, tmp_path, kind, lambda: held(records) > target)
    assert table(run(tmp_path, resume=True, records=kind)) == expected(whole), target
    assert [file.name for file in tmp_path.glob("records*")] == [f"records.{kind}"]


@pytest.mark.slow
def test_a_run_killed_while_it_writes_parquet_gives_the_same_table(
    whole: Run, nursery: Nursery, tmp_path: Path
) -> None:
    part = tmp_path / ".records.parquet.part"
    killed(nursery, tmp_path, "parquet", part.exists)
    assert table(run(tmp_path, resume=True, records="parquet")) == expected(whole)
    assert not part.exists()


@pytest.mark.parametrize("count", [2, 3, 20])
def test_shards_merge_to_the_whole(whole: Run, tmp_path: Path, count: int) -> None:
    for number in range(1, count + 1):
        run(tmp_path / "shards", shard=Shard(number, count))
    merged = merge([tmp_path / "shards"], tmp_path / "joined")
    assert table(merged) == expected(whole)
    assert [record["index"] for record in merged.records] == list(range(COUNT))
    again = merge([tmp_path / "shards"], tmp_path / "shards")
    assert table(again) == expected(whole)
    assert [file.name for file in again.folder.glob("records*")] == ["records.jsonl"]


def test_shards_in_several_folders_merge_in_any_order(whole: Run, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in (3, 1, 2)]
    for folder in folders:
        run(folder, shard=Shard(int(folder.name), 3))
    assert table(merge(folders, tmp_path / "joined")) == expected(whole)


def test_a_missing_shard_is_counted(tmp_path: Path) -> None:
    run(tmp_path, shard=Shard(1, 2))
    document = score(open_run(tmp_path)).table
    assert (document["scored"], document["missing"]) == (COUNT // 2, COUNT // 2)


def test_scoring_again_needs_neither_data_nor_models(whole: Run, tmp_path: Path) -> None:
    for name in ("records.jsonl", "run.json", "problems.jsonl"):
        (tmp_path / name).write_bytes((whole.folder / name).read_bytes())
    assert table(open_run(tmp_path)) == expected(whole)


class Nasty:
    """Some of the samples cannot be read, and some cannot be answered."""

    def __init__(self, count: int = 9) -> None:
        self.problems: list = []
        self.names = tuple(f"picture {number}" for number in range(count))

    def load(self, index: int) -> Sample:
        if index % 4 == 1:
            raise InputError(f"Expected a whole image, got picture {index}, which is damaged.")
        shade = 255 if index % 4 == 2 else 100
        truth = Analysis(size=Size(32, 32), detector="truth")
        return Sample(name=self.names[index], image=Image.new("RGB", (32, 32), (shade, 90, 90)), truth=truth)


def babble(image: Image.Image) -> Analysis | Exception:
    white = np.asarray(image)[0, 0, 0] == 255
    return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble") if white else spots(image)


def test_failures_are_recorded_counted_and_do_not_spoil_their_batch(tmp_path: Path) -> None:
    system = Looker(detector=ScriptedDetector(babble, name="spots"), batch_size=4)
    done = run(tmp_path, system=system, data=Nasty())
    scored = score(done)
    assert scored.table["errors"] == {"InputError": 2, "UnreadableOutputError": 2}
    assert scored.table["scored"] == 5
    assert [failure.name for failure in scored.failures] == [f"picture {number}" for number in (1, 2, 5, 6)]
    assert "babble" in scored.failures[1].detail
    kept = {record["name"]: record["error"] for record in done.records}
    assert kept["picture 2"] == {"kind": "UnreadableOutputError", "detail": "Expected a list of flaws, got babble."}


def outside(image: Image.Image, wrong: Callable[[Analysis], Analysis]) -> Analysis:
    """An answer out of range if the image is white."""
    found = spots(image)
    return wrong(found) if np.asarray(image)[0, 0, 0] == 255 else found


def all_over(**facts: object) -> Callable[[Analysis], Analysis]:
    given = {"mask": None, "box": (0, 0, 9, 9), "name": "flaw", "category": Category.COLOR} | facts
    return lambda found: replace(found, regions=(Region(**given),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        all_over(severity=np.nan),
        all_over(score=np.float32("nan")),
        all_over(mask=np.full((32, 32), np.nan)),
        all_over(box=(0, 0, np.nan, 9)),
        all_over(box=(0, 0, 9, np.inf)),
        lambda found: replace(found, fake_probability=np.nan),
        lambda found: replace(found, fake_probability=1.5),
    ],
)
def test_an_answer_out_of_its_range_is_an_error_of_its_sample(
    tmp_path: Path, wrong: Callable[[Analysis], Analysis]
) -> None:
    system = Looker(detector=ScriptedDetector(lambda image: outside(image, wrong), name="spots"), batch_size=4)
    done = run(tmp_path, system=system, data=Nasty())
    scored = score(done)
    assert scored.table["errors"] == {"BadAnswerError": 2, "InputError": 2}
    assert scored.table["scored"] == 5
    assert [each.name for each in scored.failures if each.kind == "BadAnswerError"] == ["picture 2", "picture 6"]
    assert all("got" in failure.detail for failure in scored.failures)


def test_failed_samples_are_tried_again(tmp_path: Path) -> None:
    run(tmp_path, system=Looker(detector=ScriptedDetector(babble, name="spots")), data=Nasty())
    better = looker()
    done = run(tmp_path, system=better, data=Nasty(), resume=True)
    assert len(better.detector.seen) == 2  # type: ignore[union-attr]
    assert score(done).table["errors"] == {"InputError": 2}
    assert len(done.records) == 9


def test_bugs_end_the_run_and_it_goes_on_from_there(whole: Run, tmp_path: Path) -> None:
    detector = ScriptedDetector([spots(MicroData(COUNT, painted=True).load(at).image) for at in range(6)], name="spots")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no answer left"):
        run(tmp_path, system=Looker(detector=detector, batch_size=3))
    assert len(Records([tmp_path / "records.jsonl"])) == 6
    assert table(run(tmp_path, resume=True)) == expected(whole)


def test_an_answer_alone_is_the_answer_in_a_batch() -> None:
    data = Nasty()
    system = Looker(detector=ScriptedDetector(babble, name="spots"))
    samples = [data.load(index) for index in (0, 2, 3, 4)]
    together = answer(system, samples)
    alone = [answer(system, [sample])[0] for sample in samples]
    assert [str(each) for each in together] == [str(each) for each in alone]
    assert isinstance(together[1], UnreadableOutputError)
    assert answer(system, []) == []


def test_a_folder_with_records_is_refused_without_resume(whole: Run, tmp_path: Path) -> None:
    run(tmp_path, data=Nasty(3))
    with pytest.raises(ConfigError, match="--resume"):
        run(tmp_path, data=Nasty(3))


def test_records_of_another_run_are_refused(tmp_path: Path) -> None:
    run(tmp_path, data=Nasty(3))
    with pytest.raises(ConfigError, match=r"of this data, .*samples: 3 there, 5 here"):
        run(tmp_path, data=Nasty(5), resume=True)
    other = Looker(detector=ScriptedDetector(spots, name="other spots"))
    with pytest.raises(ConfigError, match="'spots' there, 'other spots' here"):
        run(tmp_path, system=other, data=Nasty(3), resume=True)
    run(tmp_path / "five", data=Nasty(5))
    with pytest.raises(ConfigError, match="of this data"):
        merge([tmp_path, tmp_path / "five"], tmp_path / "joined")


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2", "½/2"])
def test_shards_are_named_from_one_on(text: str) -> None:
    with pytest.raises(ConfigError, match="1/n to n/n"):
        Shard.parse(text)


def test_shards_part_the_samples() -> None:
    parts = [list(Shard.parse(f"{number}/4").indices(10)) for number in (1, 2, 3, 4)]
    assert sorted(index for part in parts for index in part) == list(range(10))


@pytest.mark.parametrize("text", [None, "", "[]", '{"schema": 99}', '{"schema": 1}', "\0"])
def test_a_folder_that_is_no_run(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json"):
        open_run(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        run(tmp_path / "file")


def test_progress_is_told_batch_by_batch(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run(tmp_path, data=Nasty(7), progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


def test_people_are_told_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line from time to time if there is no terminal."""
    shown, clock = io.StringIO(), iter([0.0, 40.0, 60.0, 80.0])
    monkeypatch.setattr("refiner.cli.evaluate.time.monotonic", lambda: next(clock))
    with speed(Terminal(err=Console(file=shown, width=200)), "detection") as report:
        for done in (80, 120, 160):
            report(done, 240)
    assert shown.getvalue().splitlines() == [
        "detection: 80 of 240, 2 images/s, 0:01:20 left",
        "detection: 160 of 240, 2 images/s, 0:00:40 left",
    ]


class Endless:
    """Small samples, made on access; their truth has a flaw of every kind."""

    def __init__(self, count: int) -> None:
        self.problems: list = []
        self.names = tuple(map(str, range(count)))
        self.regions = tuple(flaw(at, category) for at, category in enumerate(Category))

    def load(self, index: int) -> Sample:
        truth = Analysis(size=Size(32, 32), regions=self.regions[index % 3 :], detector="truth")
        return Sample(name=self.names[index], image=Image.new("RGB", (32, 32)), prompt="a square " * 40, truth=truth)


def flaw(at: int, category: Category) -> Region:
    return Region(mask=None, box=(at, 0, at + 9, 20 + at % 9), name="flaw", category=category)


class Mute:
    """Answers at once; each answer is large."""

    batch_size = 16

    def identity(self) -> Json:
        return {"encoder": None, "sentences": None}

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        analysis = analysis_to_dict(Analysis(size=Size(32, 32), regions=(flaw(3, Category.TEXT),), detector="mute"))
        return [{"score": 0.5, "analysis": analysis, "notes": [], "text": "x" * 5000} for _ in samples]


def peak(folder: Path, count: int) -> int:
    data, system = Endless(count), Mute()
    description = describe("localization", data, {"specification": "endless"}, system, SCORING)
    gc.collect()
    tracemalloc.start()
    score(collect(data, system, description, folder))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_hardly_grows_with_the_samples(tmp_path: Path) -> None:
    peak(tmp_path / "first", 20)  # what is loaded once does not count
    few, many = peak(tmp_path / "few", 4 * BLOCK), peak(tmp_path / "many", 8 * BLOCK)
    assert (many - few) / (4 * BLOCK) < 250, "bytes a sample, of its figures; a record alone has 8000"


def test_no_half_written_file_stays(whole: Run) -> None:
    assert not [name for name in os.listdir(whole.folder) if name.endswith(".part")]
