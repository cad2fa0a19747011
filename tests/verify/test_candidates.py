"""Candidates of every source: which there are, that they stay the same, and what is told about the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.claims import analysed, claimed, detected, evaluated, opened, picture

from refiner.data.problems import Problem, count_problems
from refiner.errors import ConfigError, InputError, ModelError
from refiner.records import analysis_to_dict
from refiner.taxonomy import Category
from refiner.verify.judgements import Answer
from refiner.verify.listing import LIST_FILE
from refiner.verify.sources import open_looks
from refiner.verify.verification import Verification


def texts(verification: Verification) -> list[tuple[str, str]]:
    return [(row.image, verification.load(row.id)[1].flaw.claim.name) for row in verification.listing.rows]


def test_records_of_detect_give_a_candidate_for_each_claim(tmp_path):
    claims = [[claimed(0), claimed(1)], [], [claimed(2)]]
    verification = opened(detected(tmp_path, claims), tmp_path / "out")
    assert [name for _, name in texts(verification)] == ["the part 0", "the part 1", "the part 2"]
    assert verification.listing.images == 3
    first, _, last = verification.listing.rows
    look, candidate = verification.load(first.id)
    assert (np.asarray(look.image) == np.asarray(picture(0))).all()
    claim, mask = candidate.flaw
    region = claimed(0)
    assert (mask == region.mask).all()
    for name in ("name", "explanation", "reasoning", "category", "severity", "score", "box"):
        assert getattr(claim, name) == getattr(region, name)
    assert (first.placed, last.placed) == (True, False)
    assert verification.load(last.id)[1].flaw.claim.box is None


def test_records_of_evaluate_find_their_images_again(tmp_path):
    verification = opened(evaluated("micro:3", tmp_path / "run"), tmp_path / "out")
    assert [row.image for row in verification.listing.rows] == ["00000", "00000", "00001", "00001", "00002", "00002"]
    assert verification.load(verification.listing.rows[0].id)[0].image.size == (96, 96)


def test_a_generated_image_of_a_run_lies_in_its_folder(tmp_path):
    run = evaluated("micro:1", tmp_path / "run")
    (run / "pictures").mkdir()
    Image.new("RGB", (96, 96), "red").save(run / "pictures" / "00000.png")
    verification = opened(run, tmp_path / "out")
    assert verification.load(verification.listing.rows[0].id)[0].image.getpixel((0, 0)) == (255, 0, 0)


def test_images_are_found_by_names_without_suffix_as_a_ranking_has_them(tmp_path):
    (tmp_path / "images").mkdir()
    for at, name in enumerate(("a.png", "b.png", "b.jpg")):
        picture(at).save(tmp_path / "images" / name)
    run = evaluated(str(tmp_path / "images"), tmp_path / "run")
    text = (run / "records.jsonl").read_text()
    (run / "records.jsonl").write_text(text.replace('"a.png"', '"a"').replace('"b.png"', '"b"'))
    problems: list[Problem] = []
    verification = opened(run, tmp_path / "out", problems)
    assert {row.image for row in verification.listing.rows} == {"a", "b.jpg"}
    assert count_problems(problems) == {"unreadable_image": 1}, "two images fit"


def test_a_run_whose_data_are_elsewhere_says_where_to_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    picture(0).save("images/a.png")
    run = evaluated("images", tmp_path / "run")
    monkeypatch.chdir(run)
    problems: list[Problem] = []
    with pytest.raises(InputError, match="1 that cannot be used"):
        opened(run, tmp_path / "out", problems)
    assert "in the folder that the run was started in" in str(problems[0])


def test_both_images_of_a_refinement_are_looked_at_and_equal_ones_once(tmp_path):
    run = evaluated("micro:2", tmp_path / "run")
    looks = []
    for at in range(3):
        picture(at).save(run / f"{at}.png")
        looks.append({"picture": f"{at}.png", "analysis": analysis_to_dict(analysed(claimed(at)), arrays=True)})
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    rows[0]["answer"] = {"before": looks[0], "last": looks[1], "best": looks[1]}
    rows[1]["answer"] = {"before": looks[2], "last": looks[2], "best": looks[2]}
    (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verification = opened(run, tmp_path / "out")
    assert [row.image for row in verification.listing.rows] == ["00000/before", "00000/best", "00001/before"]
    for at, row in enumerate(verification.listing.rows):
        assert (np.asarray(verification.load(row.id)[0].image) == np.asarray(picture(at))).all()


def test_annotations_of_a_data_set_can_be_checked(tmp_path):
    verification = opened("micro:8", tmp_path / "out")
    data = {row.image for row in verification.listing.rows}
    assert data <= {f"{number:05d}" for number in range(1, 8, 2)}
    assert verification.listing.images == 8
    assert all(row.severity is not None and row.category is not None for row in verification.listing.rows)


def test_a_joined_mask_has_a_candidate_for_each_part_and_says_no_more_than_is_known(tmp_path):
    root = tmp_path / "data"
    for folder in ("1_fake", "masks/1_fake"):
        (root / folder).mkdir(parents=True)
    picture(0).save(root / "1_fake/a.png")
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[2:9, 3:9] = mask[20:30, 30:50] = 255
    Image.fromarray(mask).save(root / "masks/1_fake/a.png")
    verification = opened(root, tmp_path / "out")
    found = [verification.load(row.id)[1].flaw for row in verification.listing.rows]
    assert [flaw.claim.box for flaw in found] == [(30, 20, 50, 30), (3, 2, 9, 9)]
    assert {(flaw.claim.category, flaw.claim.severity, flaw.claim.name) for flaw in found} == {(None, None, "")}


def test_anomalies_in_words_are_unplaced_candidates(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    picture(0).save(root / "a.png")
    anomalies = [
        {"Name": "paw", "Observed Phenomenon": "six toes", "Reasoning": "It has five.", "Severity Score": "25/100"},
        {"name": "ear", "phenomenon": "it melts", "reasoning": "Ears are firm."},
    ]
    (tmp_path / "words.json").write_text(json.dumps({"a.png": anomalies}))
    verification = opened(root, tmp_path / "out", references=str(tmp_path / "words.json"))
    assert [(row.placed, row.severity) for row in verification.listing.rows] == [(False, 0.75), (False, None)]


def test_ids_are_of_what_is_claimed_and_not_of_who_says_how_loudly(tmp_path):
    def ids(name, *claims, detector="critic 1"):
        return [
            row.id for row in opened(detected(tmp_path / name, claims, detector), tmp_path / name / "out").rows.values()
        ]

    quiet = claimed(0)
    loud = type(quiet)(**{**vars(quiet), "severity": 0.9, "score": 1.0})
    usual = ids("usual", [claimed(0), claimed(1)], [claimed(0)])
    assert len(set(usual)) == 3, "the same words about another image are another candidate"
    assert ids("turned", [claimed(1), claimed(0)], [claimed(0)]) == [usual[1], usual[0], usual[2]]
    assert ids("loud", [loud], detector="critic 2") == usual[:1]
    for name, value in (("name", "x"), ("explanation", "x"), ("reasoning", "x"), ("category", Category.OPTICS),
                        ("box", (2, 3, 50, 20))):  # fmt: skip
        assert ids(f"other-{name}", [type(quiet)(**{**vars(quiet), name: value})]) != usual[:1]


def test_equal_claims_are_one_candidate(tmp_path):
    verification = opened(detected(tmp_path, [[claimed(0), claimed(0), claimed(1)]]), tmp_path / "out")
    assert len(verification.rows) == 2


def test_judgements_outlive_another_order_and_another_folder(tmp_path):
    first = opened(detected(tmp_path / "a", [[claimed(0), claimed(1)], [claimed(2)]]), tmp_path / "out")
    first.judge(first.listing.rows[1].id, "anna", Answer.REJECT)
    again = opened(detected(tmp_path / "b", [[claimed(1), claimed(3), claimed(0)]]), tmp_path / "out")
    assert [row.id in again.judgements.of("anna") for row in again.listing.rows] == [True, False, False]
    assert again.progress("anna")[:2] == (1, 3)


def test_folders_may_be_moved_together(tmp_path):
    detected(tmp_path / "a", [[claimed(0)]])
    shutil.move(tmp_path / "a", tmp_path / "b")
    verification = opened(tmp_path / "b" / "found", tmp_path / "out")
    assert texts(verification)[0][1] == "the part 0"


def test_what_failed_is_told_and_never_clean(tmp_path):
    problems: list[Problem] = []
    found = detected(tmp_path, [[claimed(0)], ModelError("babble"), [], InputError("damaged")])
    verification = opened(found, tmp_path / "out", problems)
    assert count_problems(problems) == {"failed": 2}
    assert verification.listing.images == 2
    assert verification.listing.problems == {"failed": 2}


def damage(found: Path, change) -> None:
    rows = [json.loads(line) for line in (found / "records.jsonl").read_text().splitlines()]
    change(rows[0])
    (found / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


HOSTILE = [
    lambda row: row.update(answer=None),
    lambda row: row.update(answer={"analysis": None}),
    lambda row: row.update(name=3),
    lambda row: row["answer"]["analysis"].update(size=[10**6, 10**6]),
    lambda row: row["answer"]["analysis"]["regions"][0]["mask"].update(size=[10**6, 10**6]),
    lambda row: row["answer"]["analysis"]["regions"][0]["mask"].update(counts=[10**12]),
    lambda row: row["answer"]["analysis"]["regions"][0]["mask"].update(counts=[10**30]),
    lambda row: row["answer"]["analysis"]["regions"][0].update(box=[0, 0, 10**30, 9]),
    lambda row: row["answer"]["analysis"].update(size=[float("inf"), 9]),
    lambda row: row["answer"]["analysis"].update(regions=[3]),
    lambda row: row["answer"]["analysis"]["regions"][0].update(severity="high"),
    lambda row: row["answer"]["analysis"]["regions"][0].update(category="nonsense"),
    lambda row: row["answer"].update(before={"picture": 3}),
]


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_record_costs_only_itself(tmp_path, change):
    found = detected(tmp_path, [[claimed(0)], [claimed(1)]])
    damage(found, change)
    problems: list[Problem] = []
    verification = opened(found, tmp_path / "out", problems)
    assert [name for _, name in texts(verification)] == ["the part 1"]
    assert count_problems(problems) == {"unreadable_record": 1}


def test_an_image_that_changed_is_not_shown(tmp_path):
    found = detected(tmp_path, [[claimed(0)], [claimed(1)]])
    verification = opened(found, tmp_path / "out")
    picture(99).save(tmp_path / "images/000.png")
    (tmp_path / "images/001.png").unlink()
    assert verification.next("anna") is None
    assert verification.progress("anna") == (0, 2, 2)
    told = " ".join(verification.broken.values())
    assert "has changed since it was analysed" in told
    assert "does not exist" in told


def test_claims_that_changed_are_not_judged_as_others(tmp_path):
    found = detected(tmp_path, [[claimed(0)]])
    verification = opened(found, tmp_path / "out")
    damage(found, lambda row: row["answer"]["analysis"]["regions"][0].update(name="another"))
    with pytest.raises(InputError, match="have changed"):
        verification.load(verification.listing.rows[0].id)
    assert texts(opened(found, tmp_path / "out"))[0][1] == "another", "the list is made again"


def test_the_list_is_read_again_without_the_images(tmp_path):
    found = detected(tmp_path, [[claimed(0), claimed(2)], [claimed(1)]])
    first = opened(found, tmp_path / "out")
    shutil.rmtree(tmp_path / "images")
    assert opened(found, tmp_path / "out").listing == first.listing


@pytest.mark.parametrize("text", ["", "no JSON\n", "{}\n", '{"schema": 1}\n[1]\n', "[" * 10_000])
def test_a_damaged_list_is_made_again(tmp_path, text):
    found = detected(tmp_path, [[claimed(0)]])
    first = opened(found, tmp_path / "out")
    head, *rows = (tmp_path / "out" / LIST_FILE).read_text().splitlines(keepends=True)
    for damaged in (text, head, head + rows[0].replace("true", '"x", 3'), head + rows[0][:-9]):
        (tmp_path / "out" / LIST_FILE).write_text(damaged)
        assert opened(found, tmp_path / "out").listing == first.listing


def test_a_list_with_problems_is_made_again_when_they_are_mended(tmp_path):
    found = detected(tmp_path, [[claimed(0)], [claimed(1)]])
    run = evaluated(str(tmp_path / "images"), tmp_path / "run")
    data = (tmp_path / "images/000.png").read_bytes()
    (tmp_path / "images/000.png").write_bytes(b"no image")
    assert len(opened(run, tmp_path / "out").rows) == 2
    (tmp_path / "images/000.png").write_bytes(data)
    assert len(opened(run, tmp_path / "out").rows) == 4
    assert found.is_dir()


def test_where_there_is_nothing_to_judge_it_says_so(tmp_path):
    with pytest.raises(InputError, match="got none \\(2 images without one, 1 that cannot be used\\)"):
        opened(detected(tmp_path, [[], [], ModelError("x")]), tmp_path / "out")
    (tmp_path / "plain").mkdir()
    picture(0).save(tmp_path / "plain/a.png")
    problems: list[Problem] = []
    with pytest.raises(InputError, match="got none"):
        opened(tmp_path / "plain", tmp_path / "out", problems)
    assert "run refiner detect" in str(problems[0])


def test_sources_that_cannot_be_used_are_refused(tmp_path):
    found = detected(tmp_path, [[claimed(0)]])
    with pytest.raises(ConfigError, match="no references"):
        open_looks(str(found), references="x.json")
    with pytest.raises(InputError, match="check the path"):
        open_looks(str(tmp_path / "nowhere"))
    (found / "records.jsonl").rename(found / "detect.json")
    with pytest.raises(InputError, match="run refiner detect again"):
        open_looks(str(found))
