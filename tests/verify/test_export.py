"""Accepted candidates as training data: what is written is what was accepted, and nothing else is called clean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.claims import claimed, detected, evaluated, opened, picture

from refiner.data.anomreason import read_anomalies
from refiner.data.folders import FolderData
from refiner.data.problems import Problem, count_problems
from refiner.data.samples import Sample
from refiner.data.sources import open_data
from refiner.errors import InputError, OutputError
from refiner.files import Json
from refiner.training.legion.answers import answer_of
from refiner.verify.export import export_accepted
from refiner.verify.judgements import Answer
from refiner.verify.verification import Verification

HOSTILE = " <img src=x onerror=alert(1)> \ud83d {{x}}"


def judged(verification: Verification, letters: str, annotator: str = "anna") -> Verification:
    """Judge the candidates in order, each by a letter: A, R, U, or a blank for none."""
    for row, letter in zip(verification.listing.rows, letters, strict=True):
        if letter != " ":
            answer = next(answer for answer in Answer if answer.startswith(letter))
            verification.judge(row.id, annotator, answer)
    return verification


def exported(verification: Verification, target: Path, **options) -> tuple[Json, dict[str, Sample], dict[str, int]]:
    """What is returned, the samples of the records by name, and the problems."""
    problems: list[Problem] = []
    document = export_accepted(verification, target, problems, **options)
    if not (target / "annotations.jsonl").exists():
        return document, {}, count_problems(problems)
    data = open_data(f"fakexplained:{target}")
    samples = [data.load(number) for number in range(len(data.names))]
    return document, {sample.name: sample for sample in samples}, count_problems(problems)


def test_what_was_accepted_is_read_back(tmp_path):
    claims = [[claimed(0), claimed(1), claimed(2)], [claimed(3), claimed(4)], [], [claimed(6)]]
    verification = judged(opened(detected(tmp_path, claims), tmp_path / "out"), "ARARAR")
    document, samples, problems = exported(verification, tmp_path / "new")
    assert problems == {}
    assert (document["images"], document["regions"], document["anomalies"]) == (2, 2, 3)
    assert [Path(name).name for name in document["without_accepted"]] == ["003.png"]
    first, second = samples.values()
    assert (np.asarray(first.image) == np.asarray(picture(0))).all()
    for sample, number in ((first, 0), (second, 4)):
        assert sample.fake is True
        (region,), expected = sample.truth.regions, claimed(number)
        for name in ("name", "explanation", "reasoning", "category", "severity", "box"):
            assert getattr(region, name) == getattr(expected, name)
        assert sample.categorised


def test_anomreasons_file_has_the_unplaced_ones_too_and_fits_the_images(tmp_path):
    claims = [[claimed(0), claimed(2)], [claimed(5)], [claimed(3)]]
    verification = judged(opened(detected(tmp_path, claims), tmp_path / "out"), "AAAA")
    document, samples, _ = exported(verification, tmp_path / "new")
    words = read_anomalies(tmp_path / "new" / "anomalies.json")
    assert words.problems == ()
    said = [[claim.explanation[-1] for claim in claims] for claims in words.images.values()]
    assert said == [["0", "2"], ["5"], ["3"]]
    assert words.images.keys() - samples.keys() == set(document["only_in_words"])
    assert len(document["only_in_words"]) == 1, "an image whose flaws have no place would be read as clean"
    data = FolderData(str(tmp_path / "new/images"), references=str(tmp_path / "new/anomalies.json"))
    assert (data.problems, len(data.names)) == ([], 3)
    severities = [claim.severity for claims in words.images.values() for claim in claims]
    assert severities == pytest.approx([claimed(at).severity for at in (0, 2, 5, 3)])


def test_an_export_of_words_alone(tmp_path):
    verification = judged(opened(detected(tmp_path, [[claimed(2)], [claimed(5)]]), tmp_path / "out"), "AR")
    document, samples, _ = exported(verification, tmp_path / "new")
    assert (document["images"], document["regions"], samples) == (1, 0, {})
    assert sorted(document["files"]) == ["anomalies.json", "images"]


def test_it_is_training_data(tmp_path):
    """The answers that LEGION and FakeXplain learn from it have the accepted flaws, and no sample is clean."""
    from refiner.training.fakexplain.lessons import truth_of

    claims = [[claimed(0), claimed(1)], [claimed(3)], [claimed(4)]]
    verification = judged(opened(detected(tmp_path, claims), tmp_path / "out"), "RAAU")
    _, samples, _ = exported(verification, tmp_path / "new")
    assert len(samples) == 2
    for sample, number in zip(samples.values(), (1, 3), strict=True):
        assert claimed(number).explanation in answer_of(sample).text
        truth = truth_of(sample)
        assert truth.fake
        assert [claimed(number).explanation in flaw.description for flaw in truth.flaws] == [True]


@pytest.mark.parametrize(
    ("letters", "kept"),
    [({"anna": "A", "ben": "R"}, False), ({"anna": "A", "ben": "A", "carl": "R"}, True), ({"anna": "U"}, False),
     ({"anna": "A", "ben": "U"}, False), ({"anna": " "}, False)],
)  # fmt: skip
def test_the_majority_decides(tmp_path, letters, kept):
    verification = opened(detected(tmp_path, [[claimed(0)], [claimed(1)]]), tmp_path / "out")
    for name, letter in letters.items():
        judged(verification, f"{letter}A", name)
    document, _, _ = exported(verification, tmp_path / "new")
    assert document["images"] == 1 + kept
    assert len(document["without_accepted"]) == 1 - kept


def test_one_annotator_can_decide_alone(tmp_path):
    verification = opened(detected(tmp_path, [[claimed(0)], [claimed(1)]]), tmp_path / "out")
    judged(judged(verification, "AR", "anna"), "RA", "ben")
    assert exported(verification, tmp_path / "a", by="anna")[0]["without_accepted"][0].endswith("001.png")
    assert exported(verification, tmp_path / "b", by="ben")[0]["without_accepted"][0].endswith("000.png")
    with pytest.raises(InputError, match="anna, ben"):
        exported(verification, tmp_path / "c", by="dora")
    with pytest.raises(InputError, match="got none of 2"):
        exported(verification, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("told", [True, False])
def test_an_image_labelled_real_is_not_exported_with_flaws(tmp_path, told):
    root = tmp_path / "data"
    for name in ("0_real/a.png", "1_fake/b.png"):
        (root / name).parent.mkdir(parents=True)
        picture(ord(name[0])).save(root / name)
    run = evaluated(str(root), tmp_path / "run")
    if not told:  # only the name of the image tells, as in the records of refiner detect
        rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
        (run / "records.jsonl").write_text("".join(json.dumps(row | {"truth": None}) + "\n" for row in rows))
    verification = judged(opened(run, tmp_path / "out"), "AAAA")
    document, samples, problems = exported(verification, tmp_path / "new")
    assert list(samples) == ["1_fake/b.png"]
    assert problems == {"real_with_regions": 1}
    assert list(json.loads((tmp_path / "new/anomalies.json").read_text())) == list(samples)
    assert document["images"] == 1


def test_hostile_texts_are_written_as_text(tmp_path):
    verification = judged(
        opened(detected(tmp_path, [[claimed(1, HOSTILE), claimed(2, HOSTILE)]]), tmp_path / "out"), "AA"
    )
    _, samples, _ = exported(verification, tmp_path / "new")
    (sample,) = samples.values()
    assert sample.truth.regions[0].name == claimed(1, HOSTILE).name.replace("\ud83d", "?")
    assert read_anomalies(tmp_path / "new/anomalies.json").images[sample.name][0].name == claimed(1, HOSTILE).name


def test_a_failed_export_leaves_nothing_and_takes_nothing(tmp_path):
    verification = judged(opened(detected(tmp_path, [[claimed(0)], [claimed(2)]]), tmp_path / "out"), "AA")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not an empty folder"):
        exported(verification, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    for name in ("000.png", "001.png"):
        (tmp_path / "images" / name).unlink()
    (tmp_path / "empty").mkdir()
    for target in ("new", "empty"):
        with pytest.raises(InputError):
            exported(verification, tmp_path / target)
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_image_that_is_gone_costs_only_itself(tmp_path):
    verification = judged(
        opened(detected(tmp_path, [[claimed(0)], [claimed(1)], [claimed(2)]]), tmp_path / "out"), "AAA"
    )
    for name in ("000.png", "002.png"):
        (tmp_path / "images" / name).unlink()
    document, samples, problems = exported(verification, tmp_path / "new")
    assert (document["images"], len(samples), problems) == (1, 1, {"unreadable_sample": 2})
