"""``refiner calibrate``: from labelled images to a file that a detector's id takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.calibration import Calibration
from refiner.cli.main import main
from refiner.data.micro import MicroData
from refiner.data.sources import open_data
from refiner.detectors import load_detector
from refiner.evaluate.calibration import draw

PLUGIN = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.types import Analysis, Size

def answer(image):
    pixels = np.asarray(image)
    if (pixels == 7).all():
        return UnreadableOutputError("Expected a verdict, got babble.", raw="babble")
    size, shade = Size(image.height, image.width), float(pixels.mean()) / 255
    return Analysis(size=size, fake_probability=None if MUTE else shade, detector="shade")

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="shade")
"""
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a sub-command: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def plugin(
    write_plugin: Callable[[Path, str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bool], str]:
    """The id of a detector whose score is the mean grey level, or which gives none."""

    def make(mute: bool) -> str:
        name = f"shade_{'mute' if mute else 'said'}"
        home = tmp_path / name
        detector = write_plugin(home, name, f"MUTE = {mute}\n{PLUGIN}")
        monkeypatch.syspath_prepend(str(home))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return detector

    return make


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty real and forty generated images, which are brighter."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for folder, middle in (("0_real", 100), ("1_fake", 150)):
        place = root / "gan" / folder
        place.mkdir(parents=True)
        for number, shade in enumerate(np.clip(rng.normal(middle, 25, size=40), 10, 250).astype(int).tolist()):
            Image.new("RGB", (20, 16), (shade, shade, shade)).save(place / f"{number:02d}.png")
    return f"universalfake:{root}"


@pytest.fixture
def calibrate(cli: Cli, images: str, plugin: Callable[[bool], str], tmp_path: Path) -> Cli:
    """Run ``refiner calibrate`` of that detector on those images into ``c.json``."""
    detector = plugin(False)

    def run(*more: object) -> tuple[int, str, str]:
        return cli("calibrate", detector, "--data", images, "--labels", 60, "--out", tmp_path / "c.json", *more)

    return run


def test_it_writes_a_file_a_report_and_a_table(calibrate: Cli, cli: Cli, images: str, tmp_path: Path) -> None:
    code, out, _ = calibrate()
    assert code == 0
    assert "30 real and 30 generated images" in out
    assert f",calibration={tmp_path / 'c.json'}" in out
    calibration = Calibration.read(tmp_path / "c.json")
    assert (calibration.detector, calibration.point.real, calibration.point.generated) == ("shade", 30, 30)
    assert calibration.point.false_positives == 0  # floor(0.05 * 31) - 1
    assert calibration.band is not None
    with Image.open(tmp_path / "c.json.run" / "reliability.png") as plot:
        assert plot.size[0] > 500
    page = (tmp_path / "c.json.run" / "report.html").read_text()
    assert "Calibration of shade" in page
    assert f"{calibration.point.threshold:.4g}" in page
    again = tmp_path / "again"
    detector = f"spots:{tmp_path / 'shade_said'},calibration={tmp_path / 'c.json'}"
    code, _, err = cli("calibrate", detector, "--data", images, "--out", again / "c.json")
    assert (code, "is calibrated already: leave its option calibration out" in err) == (2, True)
    code, out, _ = cli("evaluate", "detection", "--data", images, "--detector", detector, "--out", again, "--json")
    figures = json.loads(out)["figures"]
    assert code == 0, "an open verdict is no failure"
    assert 0 < figures["decided"] < 1
    assert figures["images"] == round(80 * figures["decided"])


def test_json_is_the_file_and_its_place(calibrate: Cli, tmp_path: Path) -> None:
    code, out, _ = calibrate("--json", "--fpr", 0.2, "--max-error", 1)
    document = json.loads(out)
    assert code == 0
    assert document.pop("files") == {
        "file": str(tmp_path / "c.json"), "report": str(tmp_path / "c.json.run" / "report.html"),
    }  # fmt: skip
    assert document == json.loads((tmp_path / "c.json").read_text())
    assert document["abstention"] == {"max_error": 1.0, "band": None}
    assert document["operating_point"]["false_positives"] <= 5


def test_a_resumed_run_gives_the_same_file(calibrate: Cli, tmp_path: Path) -> None:
    file, records = tmp_path / "c.json", tmp_path / "c.json.run" / "records.jsonl"
    assert calibrate()[0] == 0
    straight = file.read_bytes()
    code, _, err = calibrate()
    assert (code, "pass --resume" in err) == (2, True)
    lines = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(b"".join(lines[:23]) + lines[23][:40])  # killed while it wrote
    file.unlink()
    assert calibrate("--resume")[0] == 0
    assert file.read_bytes() == straight
    code, _, err = calibrate("--resume", "--seed", 1)
    assert (code, "another" in err) == (2, True)


def test_an_image_that_fails_is_left_out_and_named(calibrate: Cli, images: str, tmp_path: Path) -> None:
    place = Path(images.partition(":")[2]) / "gan" / "0_real"
    try:
        Image.new("RGB", (20, 16), (7, 7, 7)).save(place / "babble.png")
        (place / "broken.png").write_bytes(b"no image")
        code, _, err = calibrate("--labels", 82, "--json")
    finally:
        for name in ("babble.png", "broken.png"):
            (place / name).unlink()
    assert code == 1
    assert "babble.png: UnreadableOutputError" in err
    assert "broken.png" in err
    data = Calibration.read(tmp_path / "c.json").data
    assert (data["real"], data["generated"], data["failed"]) == (40, 40, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fpr", "0"), "rate between 0 and 1"),
        (("--fpr", "0.001"), "at least 999 real and 10 generated images"),
        (("--max-error", "0"), "rate of wrong verdicts"),
        (("--labels", "20"), "got 10 and 10"),
        (("--seed", "-1"), "at least 0"),
        (("--out", "/dev/null/c.json"), "Cannot write"),
        (("--out", "/tmp"), "got the folder --out /tmp"),
    ],
)
def test_what_the_user_can_mend_is_said_in_words(calibrate: Cli, arguments: tuple[str, str], words: str) -> None:
    code, _, err = calibrate(*arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


def test_detectors_without_a_verdict_are_refused_after_one_batch(
    cli: Cli, images: str, plugin: Callable[[bool], str], tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    code, _, err = cli("calibrate", plugin(True), "--data", images, "--out", out, "--batch-size", 4)
    assert (code, "'shade' gives no fake_probability" in err) == (2, True)
    assert not out.exists()
    assert not (tmp_path / "c.json.run" / "records.jsonl").read_text()


def test_data_without_labels_is_refused(cli: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    code, _, err = cli("calibrate", "micro", "--data", tmp_path, "--out", tmp_path / "c.json")
    assert code == 2
    assert "1 samples do not say whether they are generated" in err
    assert "got 0 and 0" in err


def test_half_of_the_labels_are_generated_if_there_are_as_many(images: str) -> None:
    data = open_data(images)
    for labels, wanted in ((31, (16, 15)), (80, (40, 40)), (500, (40, 40))):
        drawn = draw(data, labels, 3)
        truth = [drawn.data.load(index).fake for index in range(len(drawn.data.names))]
        assert (truth.count(False), truth.count(True)) == (drawn.real, drawn.generated) == wanted
        assert list(drawn.data.names) == sorted(set(drawn.data.names))
    assert draw(data, 30, 3).data.names == draw(data, 30, 3).data.names != draw(data, 30, 4).data.names


def test_the_micro_worlds_clean_images_keep_to_the_rate(cli: Cli, tmp_path: Path) -> None:
    """Forty labels of eighty images; the clean ones among the others were not seen."""
    file = tmp_path / "probe.json"
    settings = ("--labels", 40, "--fpr", 0.2, "--max-error", 1, "--device", "cpu")
    code, out, _ = cli("calibrate", "micro:probe", "--data", "micro:80", *settings, "--out", file, "--json")
    assert code == 0
    low, high = json.loads(out)["operating_point"]["interval"]
    data = MicroData(80, painted=True)
    used = set(draw(data, 40, 0).data.names)
    clean = [data.load(index) for index in range(0, 80, 2) if data.names[index] not in used]
    assert [sample.fake for sample in clean] == [False] * 20
    detector = load_detector(f"micro:probe,calibration={file}", device="cpu")
    pictures = [sample.image for sample in clean if sample.image is not None]
    found = detector.batch(pictures, [sample.prompt for sample in clean])
    called = [analysis.fake_probability is not None and analysis.fake_probability > 0.5 for analysis in found]
    assert low <= np.mean(called) <= high
