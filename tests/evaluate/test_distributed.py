"""The harness over Ray Data: whichever process dies, the table equals that of the local engine."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from refiner.cli.main import main
from refiner.data.folders import FolderData
from refiner.data.micro import MicroData
from refiner.data.samples import DataSet
from refiner.data.sources import open_data
from refiner.detectors import load_detector
from refiner.errors import ConfigError, MissingExtraError, ModelError, WeightsError
from refiner.evaluate.distributed import Deferred, RayEngine, block_size, ray_engine
from refiner.evaluate.harness import System, collect, describe
from refiner.evaluate.records import Records
from refiner.evaluate.robustness import spoilt
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.files import Json

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

COUNT, BATCH = 32, 2
SCORING = {"threshold": 0.5, "view": "full"}

PLUGIN = """
import os, time
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def note(word):
    with open(os.environ["SPOTS_JOURNAL"], "a") as file:
        file.write(f"{os.getpid()} {word}\\n")

def answer(image):
    note("start")
    time.sleep(0.1)
    pixels = np.asarray(image).astype(int)
    note("end")
    if pixels.sum() % 5 == 0:
        return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
    mask = pixels[..., 0] > pixels[..., 1] + 60
    box = box_of(mask)
    region = () if box is None else (Region(mask=mask, box=box, name="red", category=Category.COLOR, severity=0.4),)
    share = float("nan") if pixels.sum() % 5 == 1 else float(mask.mean())
    return Analysis(size=Size(*mask.shape), detector="spots", regions=region, fake_probability=share)

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="spots")
"""


class Spots(NamedTuple):
    """A detector from a separate package: slow, sometimes unreadable or NaN; it writes a journal."""

    name: str
    journal: Path

    def words(self) -> list[tuple[int, str]]:
        """Process and what it did, one by one."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text().splitlines()
        return [(int(line.split()[0]), line.split()[1]) for line in lines]

    def kill_one_at_work(self) -> int:
        """Kill a process that is analysing an image, and return its id."""
        for _ in range(10_000):
            for pid, word in dict(self.words()).items():
                if word == "start" and pid != os.getpid():
                    os.kill(pid, signal.SIGSTOP)
                    still = dict(self.words())[pid] == "start"
                    os.kill(pid, signal.SIGKILL if still else signal.SIGCONT)
                    if still:
                        return pid
            time.sleep(0.005)
        raise AssertionError("no worker at work")


@pytest.fixture(scope="module")
def spots(write_plugin: Callable[[Path, str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spots]:
    home = tmp_path_factory.mktemp("plugin")
    name = write_plugin(home, "spots_for_workers", PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")])))
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine what is nicer starves
        patch.setenv("SPOTS_JOURNAL", str(home / "journal"))
        yield Spots(name, home / "journal")


@pytest.fixture(scope="module")
def engine(spots: Spots) -> Iterator[RayEngine]:
    """Two workers on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_engine(workers=2) as made:
            yield made
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]


def looker(detector: str) -> System:
    return Looker(detector=load_detector(detector), batch_size=BATCH)


def run(folder: Path, system: System, data: DataSet | None = None, **options: object) -> bytes:
    """The table of a run."""
    data = data or MicroData(COUNT, painted=True)
    description = describe("localization", data, {"specification": "micro"}, system, SCORING)
    score(collect(data, system, description, folder, **options))  # type: ignore[arg-type]
    return table(folder)


def table(folder: Path) -> bytes:
    return (folder / "table.json").read_bytes() + (folder / "samples.csv").read_bytes()


@pytest.mark.slow
def test_a_worker_that_is_killed_midway_changes_nothing(engine: RayEngine, spots: Spots, tmp_path: Path) -> None:
    local = run(tmp_path / "local", looker(spots.name))
    spots.journal.unlink()
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        assert done <= total == COUNT
        if not killed:
            killed.append(spots.kill_one_at_work())

    system = engine.deferred(partial(looker, spots.name))
    assert run(tmp_path / "ray", system, engine=engine, progress=kill_one) == local
    seen = [word for pid, word in spots.words() if pid == killed[0]]
    assert seen.count("start") == seen.count("end") + 1
    assert os.getpid() not in dict(spots.words()), "the driver looked at pictures itself"
    document = json.loads((tmp_path / "ray/table.json").read_bytes())
    assert set(document["errors"]) == {"BadAnswerError", "UnreadableOutputError"}
    assert sum(document["errors"].values()) - sum(document["misses"].values()) + document["scored"] == COUNT
    assert document["missing"] == 0


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(engine: RayEngine, spots: Spots, tmp_path: Path) -> None:
    import ray

    variables = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    common = ["evaluate", "localization", "--data", f"micro:{COUNT}", "--detector", spots.name, "--batch-size", "2"]
    spread = [*common, "--out", str(tmp_path / "ray"), "--engine", "ray", "--workers", "2", "--json"]
    records = tmp_path / "ray/records.jsonl"
    driver = subprocess.Popen([sys.executable, "-P", "-m", "refiner", *spread], env=variables)
    while driver.poll() is None and (not records.exists() or records.read_bytes().count(b"\n") < 12):
        time.sleep(0.005)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    before = dict(spots.words())
    assert 12 <= len(Records([records])) < COUNT
    assert main([*spread, "--resume"]) == 1, "some samples have errors"
    again = [pid for pid, word in spots.words() if pid not in before and word == "start"]
    main([*common, "--out", str(tmp_path / "local"), "--json"])
    whole = [pid for pid, word in spots.words() if pid == os.getpid() and word == "start"]
    assert 0 < len(again) < len(whole), "what is on the disk is not done again"
    assert table(tmp_path / "ray") == table(tmp_path / "local")


@pytest.mark.slow
def test_detect_in_workers_finds_what_it_finds_here(
    engine: RayEngine, spots: Spots, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for options in (["--engine", "ray", "--workers", "2"], []):
        out = ["--out", str(tmp_path / str(len(found)))]
        arguments = ["detect", "--data", "micro:12", "--detector", spots.name, "--batch-size", "2", "--json"]
        before = len(spots.words())
        code = main([*arguments, *out, *options])
        here = any(pid == os.getpid() for pid, _ in spots.words()[before:])
        assert (code, here) == (1, not options), "some answers cannot be read"
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert 0 < len(found[0]) < 12


def deadly() -> System:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


@pytest.mark.slow
def test_models_that_take_their_workers_down(engine: RayEngine) -> None:
    with pytest.raises(ModelError, match=r"workers died repeatedly \(WorkerCrashedError\)"):
        engine.deferred(deadly)


def broken() -> System:
    raise WeightsError("Expected whole weights, got none: fetch them again.")


@pytest.mark.slow
def test_what_the_user_can_mend_comes_back_as_it_is(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"^Expected whole weights, got none: fetch them again\.$"):
        engine.deferred(broken)
    data = MicroData(1, painted=True)
    with pytest.raises(WeightsError, match=r"^Expected whole weights"):
        run(tmp_path, Deferred(broken, identity={}, batch_size=1), data, engine=engine)
    assert (tmp_path / "records.jsonl").read_bytes() == b""


class Plain:
    """A system without models, which counts how often it is made."""

    made = 0
    batch_size = 2

    def __init__(self) -> None:
        type(self).made += 1

    def identity(self) -> Json:
        return {"detector": "plain", "sizes": (1, 2)}

    def __call__(self, samples: object) -> list[Json]:
        return []


def test_a_deferred_system_is_loaded_once_and_only_when_it_answers() -> None:
    Plain.made = 0
    system = Deferred(Plain, identity=json.loads(json.dumps(Plain().identity())), batch_size=2)
    assert system.identity() == {"detector": "plain", "sizes": [1, 2]}
    assert Plain.made == 1
    assert [system([]), system([])] == [[], []]
    assert Plain.made == 2


def test_a_worker_with_other_models_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"same models in every worker.*'plain'.*'other'"):
        Deferred(Plain, identity={"detector": "other"}, batch_size=2).load()


@pytest.mark.parametrize("samples", [1, 7, 100, 12_345, 3_000_000])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
@pytest.mark.parametrize("workers", [1, 3, 64])
def test_blocks_are_whole_batches_not_too_many_and_enough_for_all(samples: int, batch_size: int, workers: int) -> None:
    size = block_size(samples, batch_size, workers)
    blocks = -(-samples // size)
    assert size % batch_size == 0
    assert blocks <= 10_000
    assert blocks >= min(8 * workers, -(-samples // batch_size))


@pytest.mark.parametrize("kind", ["folder", "micro:3", "micro-prompts:3", "spoilt"])
def test_data_sets_travel(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (24, 24), "red").save(tmp_path / "a.png")
    (tmp_path / "prompts.json").write_text('{"a.png": "a square"}')
    prompts = str(tmp_path / "prompts.json")
    data: DataSet = FolderData(str(tmp_path), prompts=prompts)
    if kind == "spoilt":
        data = spoilt(data, {"perturbation": "noise:0.1", "perturbation_seed": 3})
    elif kind != "folder":
        data = open_data(kind, limit=2)
    there = pickle.loads(pickle.dumps(data))
    assert there.names == data.names
    sample, other = data.load(0), there.load(0)
    assert (sample.name, sample.prompt, sample.truth_record()) == (other.name, other.prompt, other.truth_record())
    assert np.array_equal(np.asarray(sample.image), np.asarray(other.image))


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["evaluate", "detection", "--data", "micro:3", "--out", str(tmp_path / "o"), "--engine", "ray"]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "pip install '.[ray]'" in said.err
    assert not (tmp_path / "o").exists()
    with pytest.raises(MissingExtraError), ray_engine():
        pass


@pytest.mark.parametrize(
    ("options", "words"), [(["--workers", "2"], "--engine ray"), (["--engine", "ray", "--workers", "0"], "at least 1")]
)
def test_workers_out_of_range(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "detection", "--data", "micro:3", "--out", str(tmp_path / "o"), *options]) == 2
    assert words in capsys.readouterr().err
