"""``refiner detect`` on many images: nothing is lost, nothing is paid twice, and a run can be stopped and resumed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chat_servers import settle_environment
from support.faulty_server import FaultyServer, save_pictures

from refiner.cli.main import main
from refiner.evaluate.records import Appending, Records

COUNT = 60
Cli = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[FaultyServer]:
    settle_environment(monkeypatch)
    server = FaultyServer(**{"latency": 0.01, "late": 0.05, "share": 0.3} | settings)
    yield server
    server.stop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with serving(monkeypatch) as started:
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    save_pictures(folder, COUNT)
    return folder


def command(images: Path, server: FaultyServer, *options: object) -> list[str]:
    return ["detect", str(images), "--detector", f"vlm:Qwen3-VL@{server.url},grounder=box", *map(str, options)]


def table_of(folder: Path) -> Any:
    assert main(["report", str(folder), "--format", "table"]) == 0
    return json.loads((folder / "detections.json").read_text())


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that nobody stops: its server, exit code, folder and table."""
    out = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch, serving(patch) as server:
        code = main(command(images, server, "--out", out))
    return {"server": server, "code": code, "out": out, "table": table_of(out)}


def test_each_image_is_accounted_for_and_each_answer_paid_once(straight: dict[str, Any]) -> None:
    server, table = straight["server"], straight["table"]
    assert straight["code"] == 1, "some answers could not be read"
    assert len(server.spoiled) >= 8
    assert set(server.paid.values()) == {1}
    assert 4 < server.most <= 8
    assert (table["images"], table["missing"], table["coverage"]["failed"]) == (COUNT, 0, 0)
    assert table["coverage"]["answered"] + table["coverage"]["unreadable"] == COUNT
    assert table["errors"] == {"UnreadableOutputError": table["coverage"]["unreadable"]}
    assert 0 < table["figures"]["flawed"] < table["coverage"]["answered"] < COUNT
    rows = json.loads((straight["out"] / "detect.json").read_text())
    assert len(rows) == table["coverage"]["answered"]
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_is_done_and_goes_on(
    sent: signal.Signals, code: int, images: Path, server: FaultyServer, straight: dict[str, Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def send() -> None:
        while server.paid.total() < 20:
            time.sleep(0.01)
        os.kill(os.getpid(), sent)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=send)
    thread.start()
    assert main(command(images, server, "--out", tmp_path, "--json")) == code
    thread.join()
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capsys.readouterr()
    done = Records([tmp_path / "records.jsonl"])
    assert 10 < len(done) < COUNT
    assert len(json.loads(said.out)) == sum(record["error"] is None for record in done)
    assert "finishing the images under way" in said.err

    assert main(command(images, server, "--out", tmp_path, "--resume")) == 1
    assert table_of(tmp_path) == straight["table"]
    assert set(server.paid.values()) == {1}, "what was under way was finished, and not asked for again"
    asked = server.seen.total()
    assert main(command(images, server, "--out", tmp_path, "--resume")) == 1
    assert server.seen.total() - asked == straight["table"]["coverage"]["unreadable"], "only failures are tried again"


def test_a_killed_run_gives_the_same_table(
    images: Path, server: FaultyServer, straight: dict[str, Any], tmp_path: Path
) -> None:
    records = tmp_path / "records.jsonl"
    arguments = command(images, server, "--out", tmp_path)
    killed = subprocess.Popen([sys.executable, "-P", "-m", "refiner", *arguments], stderr=subprocess.DEVNULL)
    while killed.poll() is None and (not records.exists() or records.read_bytes().count(b"\n") < COUNT // 3):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert len(Records([records])) < COUNT
    records.write_bytes(records.read_bytes()[:-7])  # as if it had been killed while it wrote
    assert main(command(images, server, "--out", tmp_path, "--resume")) == 1
    assert table_of(tmp_path) == straight["table"]
    assert sum(times - 1 for times in server.paid.values()) <= 2 * 16 + 2, "only what was under way"


def test_a_server_that_only_fails_is_left(
    images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(monkeypatch, share=1, faults=["prose"]) as server:
        assert main(command(images, server, "--out", tmp_path, "--max-failures", 5)) == 1
    said = capsys.readouterr()
    assert 5 <= len(Records([tmp_path / "records.jsonl"])) <= 5 + 16
    assert "stopped: the model failed on 5 images in a row, at last: The model's answer" in said.err
    assert "0 of" in said.out
    assert "not run" in said.out


def test_a_key_that_is_not_accepted_ends_the_run(
    images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(monkeypatch, share=1, faults=["401"]) as server:
        assert main(command(images, server, "--out", tmp_path)) == 2
        assert server.seen.total() <= 16
    assert "does not accept the key" in capsys.readouterr().err


@pytest.fixture
def detect(write_plugin: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Cli:
    """Run the command with a detector that finds one flaw, described in letters of many alphabets."""
    name = write_plugin(tmp_path / "plugin", "letters_for_tests", LETTERS)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.delitem(sys.modules, "letters_for_tests", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["detect", *map(str, arguments), "--detector", name])
        return code, *capsys.readouterr()

    return run


SAID = "six fingers \u2192 five; \u624b; \U0001f590; \u00e9; \udcff"
LETTERS = f"""
from refiner.detectors.scripted import ScriptedDetector
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    region = Region(mask=None, box=(1, 1, 9, 9), name="a hand", explanation={SAID!r}, category=Category.ANATOMY)
    return Analysis(size=Size(image.height, image.width), detector="letters", regions=(region,))

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="letters")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "shift_jis", "koi8-r", "utf-16"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["for people", "as JSON"])
def test_any_terminal_shows_any_letters(
    detect: Cli, images: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, options: list[str]
) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    file = images / "000" / "000.png"
    assert detect(file, "n\u00f6ne \u624b.png", *options)[0] == 2
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    assert "ne " in err
    if options:
        ((row),) = json.loads(out)
        assert row["analysis"]["regions"][0]["explanation"] == SAID
    else:
        assert "six fingers" in " ".join(out.split())


def test_an_earlier_run_is_kept_aside(detect: Cli, images: Path, tmp_path: Path) -> None:
    """Without --resume, a run begins anew; the records of the one before are renamed."""
    files = sorted(images.glob("000/00[0-2].png"))
    assert detect(files[0], "--out", "out")[0] == 0
    first = (tmp_path / "out/records.jsonl").read_bytes()
    code, _, err = detect(*files, "--out", "out")
    assert (code, "are kept as records.jsonl.1" in err) == (0, True)
    assert (tmp_path / "out/records.jsonl.1").read_bytes() == first
    assert len(Records([tmp_path / "out/records.jsonl"])) == 3
    code, _, err = detect(files[0], "--out", "out", "--resume")
    assert (code, "another" in err) == (2, True), "these are records of other images"
    assert len(Records([tmp_path / "out/records.jsonl"])) == 3


def test_two_processes_do_not_share_a_folder(detect: Cli, images: Path, tmp_path: Path) -> None:
    assert detect(images / "000/000.png", "--out", "out")[0] == 0
    with Appending(tmp_path / "out/records.jsonl"):
        for options in ([], ["--resume"]):
            code, _, err = detect(images / "000/000.png", "--out", "out", *options)
            assert (code, "Another process writes" in err) == (2, True)
    assert detect(images / "000/000.png", "--out", "out", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.png", "--resume"], "--resume needs --out"),
        (["--list", "l", "--data", "micro"], "either IMAGE files or --data"),
    ],
)
def test_options_that_do_not_fit(detect: Cli, capsys: Any, arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        detect(*arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
