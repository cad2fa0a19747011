"""The summary: every judgement is counted once, and what is not defined has no number."""

from __future__ import annotations

import json

import pytest
from sklearn.metrics import cohen_kappa_score
from support.claims import claimed, detected, opened

from refiner.errors import ModelError
from refiner.metrics.agreement import fleiss_kappa
from refiner.verify.judgements import JUDGEMENTS_FILE, Answer
from refiner.verify.summary import summarise
from refiner.verify.verification import Verification

WORDS = {answer[0]: answer for answer in Answer}


@pytest.fixture
def verification(tmp_path) -> Verification:
    claims = [[claimed(at) for at in range(4)], [claimed(4), claimed(5)], [], ModelError("x")]
    return opened(detected(tmp_path, claims), tmp_path / "out")


def judge(verification: Verification, **letters: str) -> None:
    for name, said in letters.items():
        for row, letter in zip(verification.listing.rows, said, strict=True):
            if letter != " ":
                verification.judge(row.id, name, WORDS[letter])


def test_counts_and_means(verification):
    judge(verification, anna="AARU  ", ben="AR   A")
    found = summarise(verification)
    assert (found["candidates"], found["images"], found["judged"], found["accepted"]) == (6, 3, 5, 2)
    assert found["problems"] == {"failed": 1}
    assert found["answers"] == {"ACCEPT": 4, "REJECT": 2, "UNSURE": 1}
    assert found["annotators"]["ben"] == {"ACCEPT": 2, "REJECT": 1, "UNSURE": 0, "left": 3}
    assert found["per_image"] == {"before": 2.0, "after": pytest.approx(2 / 3)}
    severities = [claimed(at).severity for at in range(6)]
    assert found["severity"]["before"] == {"count": 6, "mean": pytest.approx(sum(severities) / 6)}
    assert found["severity"]["after"] == {"count": 2, "mean": pytest.approx((severities[0] + severities[5]) / 2)}
    assert {name: row["accepted"] for name, row in found["categories"].items() if row["accepted"]} == {
        str(claimed(at).category): 1 for at in (0, 5)
    }
    json.dumps(found, allow_nan=False)


def test_one_annotator_alone(verification):
    judge(verification, anna="AARU  ", ben="RRRRRR")
    assert summarise(verification, "anna")["accepted"] == 2
    assert summarise(verification)["accepted"] == 0


def test_the_agreement_is_of_what_both_judged(verification):
    judge(verification, anna="AARUA ", ben="ARRUR ")
    (pair,) = summarise(verification)["agreement"]["cohen"]
    assert pair["annotators"] == ["anna", "ben"]
    assert pair["items"] == 5
    assert pair["value"] == pytest.approx(cohen_kappa_score(list("AARUA"), list("ARRUR")))
    assert summarise(verification)["agreement"]["fleiss"] is None


def test_of_three_there_are_all_pairs_and_one_kappa_of_all(verification):
    judge(verification, anna="AARUA ", ben="ARRU  ", carl=" RAUAA")
    agreement = summarise(verification)["agreement"]
    assert [pair["items"] for pair in agreement["cohen"]] == [4, 4, 3]
    import numpy as np

    expected = fleiss_kappa(np.array([[1, 2, 0], [1, 2, 0], [0, 0, 3]]))
    assert agreement["fleiss"] == {"annotators": ["anna", "ben", "carl"], **expected._asdict()}


@pytest.mark.parametrize(
    ("letters", "pairs"),
    [({}, []), ({"anna": "AARUA "}, []), ({"anna": "AA    ", "ben": "    AA"}, ["no item was judged by both"]),
     ({"anna": "AAAAAA", "ben": "AAAAAA"}, ["all answers are the same"])],
)  # fmt: skip
def test_agreement_that_is_not_defined_has_no_number(verification, letters, pairs):
    judge(verification, **letters)
    agreement = summarise(verification)["agreement"]
    assert [pair["undefined"] for pair in agreement["cohen"]] == pairs
    assert all(pair["value"] is None and pair["low"] is None for pair in agreement["cohen"])


def test_what_is_not_about_these_candidates_is_told_and_not_counted(verification):
    judge(verification, anna="A     ")
    verification.judgements.add("0" * 32, "anna", Answer.ACCEPT)
    with (verification.folder / JUDGEMENTS_FILE).open("a") as file:
        file.write("babble\n")
    verification.judgements.refresh()
    found = summarise(verification)
    assert found["ignored"] == {"unreadable": 1, "other": 1}
    assert found["answers"]["ACCEPT"] == found["judged"] == 1


def test_undo_goes_back_step_by_step_and_survives_a_restart(tmp_path, verification):
    judge(verification, anna="ARU   ", ben="A     ")
    rows = [row.id for row in verification.listing.rows]
    assert verification.next("anna") == rows[3]
    assert verification.undo("anna") == rows[2]
    again = Verification(verification.source, verification.listing, verification.folder)
    assert again.undo("anna") == rows[1]
    assert again.next("anna") == rows[1]
    assert again.progress("anna")[:2] == (1, 6)
    assert again.undo("anna") == rows[0]
    assert again.undo("anna") is None
    assert again.progress("ben")[:2] == (1, 6)
