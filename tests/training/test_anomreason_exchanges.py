"""What the bundled AnomReasonor learns about drawn images: the agent reads each answer, and finds the truth in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from refiner.data.samples import Sample
from refiner.detectors.anomreason import answers
from refiner.detectors.anomreason.notes import Note
from refiner.detectors.anomreason.work import ATTRIBUTES, RELATIONS, Issue
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import InputError
from refiner.taxonomy import PERCEPTUAL
from refiner.training.anomreason.drawn import ANSWERS, drawn_of, drawn_rows
from refiner.training.anomreason.exchanges import TURNS, Exchange, Study, exchange, possible_flaws, study_of
from refiner.training.anomreason.recipe import micro
from refiner.training.chat.pupils import Pupil, load_pupil
from refiner.training.chat.running import without_foreign_warnings
from refiner.training.runs import Run
from refiner.training.world.injected import InjectedData
from refiner.types import Size

DATA = InjectedData(24)
FRAME = Size(96, 96)
NOTE = Note("authenticity_reasoning", BoxFormat(), 728)


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [drawn_of(DATA.load(index), NOTE).study for index in range(24)]


@pytest.fixture(scope="module")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Pupil:
    with without_foreign_warnings():
        return load_pupil(micro(), Run(folder=tmp_path_factory.mktemp("run"), device="cpu"))


def asked(studies: list[Study], key: str) -> Iterator[tuple[Study, Exchange]]:
    """All exchanges whose answer is a list under ``key``."""
    for study in studies:
        for turn in range(len(TURNS)):
            found = exchange(study, turn)
            assert found.question.schema is not None
            if key in found.question.schema["properties"]:
                yield study, found


def claimed(found: Exchange) -> list[Issue]:
    """The issues in a question."""
    listed = re.search(r"^\[\{.*\}\]$", found.question.user, re.MULTILINE)
    assert listed is not None
    return [
        Issue(
            thing=item["object"], name=item["name"], phenomenon=item["observed_phenomenon"], reasoning=item["reasoning"]
        )
        for item in json.loads(listed[0])
    ]


def true(study: Study, issue: Issue) -> bool:
    return any(flaw.issue.phenomenon == issue.phenomenon and flaw.issue.thing == issue.thing for flaw in study.flaws)


def test_the_perceiver_names_every_thing(studies: list[Study]) -> None:
    for study, found in asked(studies, "objects"):
        assert tuple(answers.read_things(found.answer)) == study.things


@pytest.mark.parametrize(("stage", "words"), [(ATTRIBUTES, "Check its shape"), (RELATIONS, "how it stands to each")])
def test_each_agent_finds_its_flaws_of_the_thing_and_no_others(studies: list[Study], stage: str, words: str) -> None:
    count = 0
    for study, found in asked(studies, "issues"):
        if words in found.question.user:
            told = re.search(r"Look at one object in the image: (.*)", found.question.user)
            assert told is not None
            thing = json.loads(told[1])["name"]
            own = [flaw.issue for flaw in study.flaws if flaw.issue.thing == thing and flaw.stage == stage]
            issues = answers.read_issues(found.answer, thing)
            assert [(issue.name, issue.phenomenon) for issue in issues] == [(i.name, i.phenomenon) for i in own]
            count += len(own)
    assert count > 1


def test_the_verification_confirms_what_is_true_and_nothing_else(studies: list[Study]) -> None:
    said: set[bool] = set()
    for study, found in asked(studies, "verdicts"):
        issues = claimed(found)
        for issue, verdict in zip(issues, answers.read_verification(found.answer, issues), strict=True):
            assert (verdict.score is not None) == true(study, issue)
            said.add(verdict.score is not None)
    assert said == {True, False}


def test_the_integrator_keeps_each_true_issue_once(studies: list[Study]) -> None:
    for study, found in asked(studies, "kept"):
        issues = claimed(found)
        merging = answers.read_merging(found.answer, len(issues))
        kept = [{issues[item].phenomenon for item in group.items} for group in merging.kept]
        assert sorted(map(sorted, kept)) == sorted([flaw.issue.phenomenon] for flaw in study.flaws)
        assert not any(true(study, issues[item]) for group in merging.removed for item in group.items)
        items = [item for group in (*merging.kept, *merging.removed) for item in group.items]
        assert sorted(items) == list(range(len(issues)))


def test_the_formatter_gives_place_and_severity(studies: list[Study]) -> None:
    for study, found in asked(studies, "anomalies"):
        issues = claimed(found)
        final = answers.read_final(found.answer, issues, size=FRAME, form=BoxFormat(), shown=FRAME)
        boxes = {flaw.issue.phenomenon: (flaw.box, flaw.severity) for flaw in study.flaws}
        assert len(final.claims) == len(study.flaws)
        for claim in final.claims.values():
            box, severity = boxes[claim.explanation]
            assert claim.severity == pytest.approx(severity)
            assert claim.box is not None
            assert max(abs(a - b) for a, b in zip(claim.box, box, strict=True)) <= 1


def test_false_claims_are_flaws_that_another_thing_of_the_kind_may_have() -> None:
    for kind, regions in possible_flaws().items():
        assert len(regions) == len({region.explanation for region in regions}) >= 4, kind
        assert all(region.name.endswith(kind) for region in regions)
    assert {region.category for regions in possible_flaws().values() for region in regions} == set(PERCEPTUAL)


def test_questions_and_answers_are_short_in_the_bundled_vocabulary(studies: list[Study], pupil: Pupil) -> None:
    """Each fixed text is one token: if the agent's texts change, train the model again."""
    encode: Callable[..., list[int]] = pupil.processor.tokenizer.encode
    for study in studies:
        for turn in range(len(TURNS)):
            question, answer = exchange(study, turn)
            ids = encode(answer, add_special_tokens=False)
            assert pupil.processor.tokenizer.decode(ids) == answer
            assert len(ids) <= 10 + 16 * max(len(study.things), len(study.flaws))
            assert len(encode(question.system, add_special_tokens=False)) == 1
            assert len(encode(question.text, add_special_tokens=False)) <= 120


def test_rows_do_not_depend_on_their_order() -> None:
    turns = ANSWERS + len(TURNS)
    one, other = (drawn_rows(3, NOTE, 10, print) for _ in range(2))
    places = list(range(3 * turns))
    forwards = [one[place] for place in places]
    backwards = [other[place] for place in reversed(places)][::-1]
    for left, right in zip(forwards, backwards, strict=True):
        assert left["prompt"] == right["prompt"]
        assert left["completion"] == right["completion"]
        assert left["images"][0].tobytes() == right["images"][0].tobytes()


def test_a_sample_without_a_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no truth"):
        study_of(Sample(name="a", image=DATA.load(0).image))
