"""The command line with a tiny random pipeline and a plug-in detector, without hub and bundled weights."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from refiner.cli.main import main

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"

PLUGIN = """
import logging, sys, warnings
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import OutOfDomainError, UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    print("chatter of a library")
    print("chatter of a library", file=sys.stderr)
    warnings.warn("chatter of a library")
    logging.getLogger("library").error("chatter of a library")
    pixels = np.asarray(image)
    if (pixels == 0).all():
        return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
    if (pixels == 255).all():
        return OutOfDomainError("Expected a drawing, got a white sheet: use another detector.")
    if (pixels == 200).all():
        raise KeyboardInterrupt
    if (pixels == 100).all():
        raise RuntimeError("a bug")
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    mask[8:24, 8:24] = True
    flaw = {"mask": mask, "box": (8, 8, 24, 24), "name": "the hand", "category": Category.ANATOMY}
    if (pixels == 10).all():
        Region(**flaw | {"severity": float("nan")})
    if (pixels == 20).all():
        Region(**flaw | {"box": (24, 8, 8, 24)})
    if (pixels == 30).all():
        Analysis(size=Size(*mask.shape), detector="spots", regions=(Region(**flaw | {"mask": mask.T[:30]}),))
    region = Region(mask=mask, box=(8, 8, 24, 24), name="the [bold]hand", category=Category.ANATOMY,
                    severity=float(pixels[8:24, 8:24].mean()) / 255, explanation="six fingers")
    return Analysis(size=Size(*mask.shape), detector="spots", regions=(region,), fake_probability=0.75)

class Detector(ScriptedDetector):
    def __call__(self, image, prompt=None):
        if len(self.seen) == self.patience:
            raise KeyboardInterrupt
        return super().__call__(image, prompt)

def build(folder, device, dtype):
    detector = Detector(answer, name="spots")
    detector.patience = int((folder / "patience").read_text())
    return detector
"""


@pytest.fixture
def detector(write_plugin, tmp_path, monkeypatch):
    """Id of a detector from a plug-in package: the brighter the square (8, 8, 24, 24), the more severe the flaw."""
    home = tmp_path / "plugin"
    name = write_plugin(home, "spots_for_tests", PLUGIN)
    (home / "patience").write_text("1000")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "spots_for_tests", raising=False)
    return name


@pytest.fixture
def refine(model, detector, tmp_path, capsys):
    """Run ``refiner refine`` with further arguments: exit code, stdout, stderr."""

    def run(*arguments, prompt=PROMPT):
        out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
        code = main(["refine", prompt, "--model", model, "--detector", detector, "--rounds", "2", *out, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def save(path, value):
    """Save a grey image; its path."""
    Image.new("RGB", (48, 40), (value,) * 3).save(path)
    return str(path)


def one_sentence(err):
    """Whether an error is one line: what is wrong, a colon, what to do."""
    return re.fullmatch(r"refiner: .+: .+\.\n", err) is not None and "Traceback" not in err


def test_refine_prints_one_document_and_nothing_else(refine, tmp_path):
    code, out, err = refine("--json")
    document = json.loads(out)
    assert code == 0
    assert list(document) == ["prompt", "stop", "best", "attempts", "files"]
    assert document["prompt"] == PROMPT
    assert [attempt["index"] for attempt in document["attempts"]] == list(range(len(document["attempts"])))
    assert document["attempts"][0]["action"] == "generate"
    assert document["attempts"][0]["analysis"]["regions"][0]["name"] == "the [bold]hand"
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (
        record["attempts"][-1].items()
        >= {name: value for name, value in document["attempts"][-1].items() if name != "analysis"}.items()
    )
    assert record["config"]["rounds"] == 2
    assert {Path(path).name for path in document["files"].values()} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "chatter" not in err
    assert "verdict" in err


def test_refine_depends_on_its_seed_alone(refine, tmp_path):
    first, again, other = (
        json.loads(refine("--json", "--seed", seed, "--out", str(tmp_path / name))[1])
        for seed, name in [("3", "a"), ("3", "b"), ("4", "c")]
    )
    assert first["attempts"] == again["attempts"]
    assert first["attempts"] != other["attempts"]
    assert (tmp_path / "a" / "best.png").read_bytes() == (tmp_path / "b" / "best.png").read_bytes()


def test_refine_tells_people_what_became_of_it(refine, tmp_path):
    code, out, err = refine("--strategy", "inpaint")
    assert code == 0
    assert "start: 1 flaw" in out
    assert str(tmp_path / "out" / "report.html") in out
    assert "generate" in err
    assert "inpaint" in err
    assert "chatter" not in out + err


def test_refine_starts_from_a_picture(refine, tmp_path):
    noise = np.random.default_rng(0).integers(1, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "given.png")
    code, out, _ = refine("--image", str(tmp_path / "given.png"), "--json")
    document = json.loads(out)
    assert code == 0
    assert document["attempts"][0]["action"] == "given"
    with Image.open(document["files"]["start"]) as start:
        assert np.array_equal(np.asarray(start), noise)


def test_a_picture_that_nobody_could_judge_is_kept_but_is_a_failure(refine, tmp_path):
    code, out, err = refine("--image", save(tmp_path / "babble.png", 0), "--rounds", "0", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["stop"] == "unreadable"
    assert document["attempts"][0]["analysis"] is None
    assert Path(document["files"]["best"]).is_file()
    assert "refiner: Expected a list of flaws, got babble." in err


def test_what_was_painted_before_an_interrupt_is_kept(refine, detector, tmp_path):
    (Path(detector.removeprefix("spots:")) / "patience").write_text("1")
    code, out, _ = refine("--json", "--strategy", "regenerate")
    document = json.loads(out)
    assert code == 130
    assert document["stop"] == "interrupted"
    assert len(document["attempts"]) == 1
    assert Path(document["files"]["best"]).is_file()


def test_an_interrupt_before_the_first_picture_leaves_nothing(refine, detector, tmp_path):
    (Path(detector.removeprefix("spots:")) / "patience").write_text("0")
    code, out, err = refine("--json")
    assert (code, out) == (130, "")
    assert err.endswith("refiner: interrupted.\n")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--image", "/no/such.png"], "/no/such.png"),
        (["--out", "/proc/refiner"], "/proc/refiner"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--model", "micro:nothing"], "micro:nothing"),
        (["--detector", "unknown thing"], "unknown thing"),
    ],
)
def test_refine_refuses_in_one_sentence(refine, arguments, word):
    code, out, err = refine("--json", *arguments)
    assert (code, out) == (2, "")
    assert one_sentence(err)
    assert word in err


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(refine, prompt):
    code, _, err = refine(prompt=prompt)
    assert code == 2
    assert "got an empty one" in err


def test_a_setting_out_of_its_range_is_refused(refine):
    code, _, err = refine("--rounds", "-1")
    assert code == 2
    assert "--rounds must be" in err


def test_places_and_pictures_are_checked_before_any_model(refine):
    """Two arguments are wrong; the error names the one that can be checked without loading a model."""
    assert "/proc/refiner" in refine("--out", "/proc/refiner", "--model", "no/such")[2]
    assert "/no/such.png" in refine("--image", "/no/such.png", "--model", "no/such")[2]


def test_a_damaged_model_is_refused_and_the_earlier_result_stays(refine, model, tmp_path):
    assert refine()[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in Path(model).rglob("*"):
        if path.is_file():
            copy = damaged / path.relative_to(model)
            copy.parent.mkdir(exist_ok=True)
            data = path.read_bytes()
            copy.write_bytes(data[:-10] if path.suffix == ".safetensors" and "unet" in path.parts else data)
    code, _, err = refine("--model", str(damaged))
    assert code == 2
    assert one_sentence(err)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.fixture
def detect(detector, capsys):
    """Run ``refiner detect`` with further arguments: exit code, stdout, stderr."""

    def run(*arguments):
        code = main(["detect", "--detector", detector, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_detect_prints_one_document(detect, tmp_path):
    files = [save(tmp_path / "a.png", 50), save(tmp_path / "b.png", 150)]
    code, out, err = detect("--json", *files)
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["file"] for row in rows] == files
    fields = ["fake_probability", "artifact_ratio", "unplaced", "gaps", "tags", "regions"]
    assert [list(row["analysis"]) for row in rows] == [fields] * 2
    assert rows[1]["analysis"]["regions"][0]["severity"] > rows[0]["analysis"]["regions"][0]["severity"]


def test_one_bad_file_does_not_lose_the_others(detect, tmp_path):
    (tmp_path / "empty.png").touch()
    good, babble = save(tmp_path / "good.png", 50), save(tmp_path / "babble.png", 0)
    bad = [str(tmp_path / "empty.png"), str(tmp_path / "missing.png"), save(tmp_path / "white.png", 255), babble]
    code, out, err = detect("--json", "--out", str(tmp_path / "out"), *bad, good, good)
    assert code == 2
    assert [row["file"] for row in json.loads(out)] == [good, good]
    assert json.loads((tmp_path / "out" / "detect.json").read_text()) == json.loads(out)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "04-good.png", "05-good.png", "detect.json", "problems.jsonl", "records.jsonl", "run.json",
    ]  # fmt: skip
    assert err.count("refiner: ") == err.count("\n") == 4
    assert all(Path(path).name in err for path in bad)


def test_detect_reads_data_sets_and_passes_over_what_is_damaged(detect, tmp_path):
    images = tmp_path / "test" / "images"
    images.mkdir(parents=True)
    for name in ("0.png", "1.png", "2.png"):
        save(images / name, 50)
    (images / "1.png").write_bytes(b"no picture")
    records = [{"a": {"img_file_name": f"{at}.png", "caption": "x"}} for at in range(3)]
    (tmp_path / "test" / "annotations").mkdir()
    (tmp_path / "test" / "annotations" / "test.json").write_text(json.dumps([*records, {"b": 3}]))
    data = ("--data", f"synthscars:{tmp_path / 'test'}", "--out", str(tmp_path / "out"), "--json")
    code, out, err = detect(*data)
    assert (code, [row["file"] for row in json.loads(out)]) == (2, ["0.png", "2.png"])
    assert "1.png" in err
    assert "record 3" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00-0.png", "02-2.png", "detect.json", "problems.jsonl", "records.jsonl", "run.json",
    ]  # fmt: skip
    assert [row["file"] for row in json.loads(detect(*data, "--limit", "1")[1])] == ["0.png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "micro:3", "a.png"], "either IMAGE files or --data"),
        (["a.png", "--limit", "3"], "--limit needs --data"),
        (["--data", "micro:3", "--limit", "0"], "at least 1"),
        (["--data", "micro-prompts:1"], "got only prompts"),
        (["--data", "synthscars:/no/such"], "is not a folder"),
        (["--data", "micro:1", "--prompts", "p.json"], "no prompts for micro"),
    ],
)
def test_detect_refuses_data_that_it_cannot_use(detect, capsys, arguments, words):
    try:
        code, _, err = detect(*arguments)
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2
    assert words in err


def test_unreadable_output_is_a_failure_and_never_clean(detect, tmp_path):
    code, out, err = detect("--json", save(tmp_path / "babble.png", 0))
    assert (code, json.loads(out)) == (1, [])
    assert "babble.png: Expected a list of flaws, got babble." in err


BAD_ANSWERS = [(10, "Region.severity must lie"), (20, "Region.box must be"), (30, "Analysis.regions.mask must have")]


@pytest.mark.parametrize(("grey", "words"), BAD_ANSWERS)
def test_a_detectors_bad_answer_is_the_models_failure(detect, refine, detector, capsys, tmp_path, grey, words):
    fake = tmp_path / "data" / "1_fake"
    fake.mkdir(parents=True)
    file = save(fake / "grey.png", grey)
    code, out, err = detect("--json", file)
    assert (code, json.loads(out)) == (1, [])
    assert words in err
    code, out, err = refine("--image", file, "--rounds", "0", "--json")
    assert (code, json.loads(out)["stop"]) == (1, "unreadable")
    assert words in err
    out = ("--out", str(tmp_path / "run"), "--json")
    assert main(["evaluate", "detection", "--data", str(fake.parent), "--detector", detector, *out]) == 1
    assert words in capsys.readouterr().err


def test_detect_tells_people_what_is_wrong(detect, tmp_path):
    code, out, err = detect(save(tmp_path / "a.png", 50))
    assert (code, err) == (0, "")
    assert "1 flaw" in out
    assert "the [bold]hand" in out
    assert "six fingers" in out
    assert "chatter" not in out


def test_detect_can_be_interrupted(detect, tmp_path):
    assert detect(save(tmp_path / "a.png", 200))[0] == 130


def test_a_bug_is_not_hidden(detect, tmp_path):
    with pytest.raises(RuntimeError, match="a bug"):
        detect(save(tmp_path / "a.png", 100))


def test_micro_render_draws_a_sheet(tmp_path, capsys):
    assert main(["micro", "render", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    with Image.open(document["files"]["sheet"]) as sheet:
        assert min(sheet.size) > 500


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from refiner.cli.main import main
sys.exit(main(["micro", "render", "--out", sys.argv[1]]))
"""


def test_a_full_disk_is_said_in_one_sentence_and_keeps_what_was_there(tmp_path):
    (tmp_path / "micro.png").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-P", "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Cannot write the file" in done.stderr
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("micro.png", b"old")]


@pytest.mark.parametrize("arguments", [[], ["refine"], ["detect"], ["micro"], ["refine", "x", "--strategy", "magic"]])
def test_a_wrong_command_shows_the_right_one(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: refiner" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_goes_away_ends_the_command_quietly(options):
    """As with ``| head -1``."""
    command = [sys.executable, "-P", "-m", "refiner", "train", "--list", *options]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_command_is_a_module_too(tmp_path):
    command = [sys.executable, "-P", "-m", "refiner", "detect", str(tmp_path / "none.png"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)) == (2, [])
    assert one_sentence(done.stderr)
