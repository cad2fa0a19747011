"""``refiner verify`` without the page: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.claims import claimed, detected, opened, picture

from refiner.cli.main import main
from refiner.data.sources import open_data
from refiner.errors import ModelError
from refiner.verify.judgements import Answer


@pytest.fixture
def verify(capsys):
    """Run ``refiner verify`` with arguments: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main(["verify", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def found(tmp_path) -> Path:
    """A folder of results, in which anna accepted four of five candidates and ben two of three."""
    folder = detected(tmp_path, [[claimed(0), claimed(1)], [claimed(2), claimed(3)], [claimed(4)], []])
    verification = opened(folder, folder / "verify")
    for name, letters in (("anna", "AAARA"), ("ben", "ARA")):
        for row, letter in zip(verification.listing.rows, letters, strict=False):
            verification.judge(row.id, name, {"A": Answer.ACCEPT, "R": Answer.REJECT}[letter])
    return folder


def test_the_summary_is_written_and_printed(verify, found):
    code, out, err = verify(found, "--summary", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert (document["candidates"], document["judged"], document["accepted"]) == (5, 5, 3)
    files = document.pop("files")
    assert json.loads(Path(files["summary.json"]).read_text()) == document
    with Image.open(files["severity.png"]) as plot:
        assert plot.size[0] > 600
    code, out, err = verify(found, "--summary")
    assert (code, err) == (0, "")
    for words in ("5 of 5 candidates judged, 3 accepted", "Cohen's kappa of anna, ben", "per image: 1.25 candidates"):
        assert words in out


def test_an_agreement_that_is_not_defined_is_told_without_a_number(verify, tmp_path):
    folder = detected(tmp_path, [[claimed(0)], [claimed(1)]])
    assert "fewer than two annotators" in verify(folder, "--summary")[1]
    verification = opened(folder, folder / "verify")
    for name in ("anna", "ben"):
        for row in verification.listing.rows:
            verification.judge(row.id, name, Answer.ACCEPT)
    assert "not defined, because all answers are the same (2 candidates)" in verify(folder, "--summary")[1]


def test_accepted_flaws_become_training_data(verify, found, tmp_path):
    code, out, err = verify(found, "--export", tmp_path / "new", "--summary", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)["export"]
    assert (document["images"], document["regions"], document["anomalies"]) == (3, 2, 3)
    assert len(open_data(f"fakexplained:{tmp_path / 'new'}").names) == 2
    code, out, _ = verify(found, "--export", tmp_path / "hers", "--by", "anna")
    assert code == 0
    assert "4 accepted flaws of 3 images" in out
    code, _, err = verify(found, "--export", tmp_path / "new")
    assert code == 2
    assert "is not an empty folder" in err


def test_problems_are_told(verify, tmp_path):
    folder = detected(tmp_path, [[claimed(0)], ModelError("babble")])
    code, out, err = verify(folder, "--summary", "--json")
    assert code == 0
    assert json.loads(out)["problems"] == {"failed": 1}
    assert "babble" in err
    with (folder / "verify" / "judgements.jsonl").open("a") as file:
        file.write("no JSON\n" * 3)
    assert "3 unreadable lines in the file of judgements count nothing" in verify(folder, "--summary")[2]


def test_a_limit_counts_images(verify, found):
    assert json.loads(verify(found, "--summary", "--limit", "1", "--json")[1])["candidates"] == 2
    assert json.loads(verify(found, "--summary", "--limit", "99", "--json")[1])["candidates"] == 5


def test_a_data_set_can_be_checked(verify, tmp_path):
    code, out, _ = verify("micro:4", "--out", tmp_path / "out", "--summary", "--json")
    assert code == 0
    assert json.loads(out)["candidates"] > 0
    (tmp_path / "images").mkdir()
    picture(0).save(tmp_path / "images/a.png")
    (tmp_path / "words.json").write_text(json.dumps({"a.png": [{"Name": "paw", "Severity Score": 25}]}))
    more = ("--references", tmp_path / "words.json", "--out", tmp_path / "words", "--summary", "--json")
    assert json.loads(verify(tmp_path / "images", *more)[1])["severity"]["before"] == {"count": 1, "mean": 0.75}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["micro:2"], "a data set needs --out"),
        (["{found}", "--by", "anna"], "--by and --json need --summary or --export"),
        (["{found}", "--json"], "--by and --json need --summary or --export"),
        (["{found}", "--summary", "--blind"], "which --summary and --export do not serve"),
        (["{found}", "--summary", "--by", "dora"], "anna, ben"),
        (["{found}", "--annotator", " "], "name of an annotator"),
        (["{found}", "--port", "99999"], "port from 1 to 65535"),
        (["{found}", "--summary", "--limit", "0"], "at least 1"),
        (["{found}", "--summary", "--out", "/proc/refiner"], "/proc/refiner"),
        (["{found}", "--summary", "--references", "x.json"], "references"),
        (["nowhere:3", "--out", "{root}/out", "--summary"], "check the name or the path"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(verify, found, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = verify(*(text.format(found=found, root=tmp_path) for text in arguments))
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert "Traceback" not in err


def test_detect_and_verify_fit_together(verify, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", "--data", "micro:6", "--out", "found", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    code, out, err = verify("found", "--summary", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["candidates"] == sum(len(row["analysis"]["regions"]) for row in rows)
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "--annotator" in capsys.readouterr().out
