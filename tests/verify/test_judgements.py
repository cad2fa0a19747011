"""The store of judgements: what is kept whatever happens to the process, the file and the other annotators."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.errors import InputError, OutputError
from refiner.verify.judgements import JUDGEMENTS_FILE, LONGEST_NAME, Answer, Judgements, annotator_name, is_accepted

ANSWERS = list(Answer)
steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["anna", "ben"]), st.sampled_from([*ANSWERS, None])), max_size=12
)


def said(judgements: Judgements) -> dict[str, dict[str, Answer]]:
    return {name: dict(judgements.of(name)) for name in judgements.annotators()}


def line(**changes: object) -> str:
    return json.dumps({"candidate": "a", "annotator": "anna", "answer": "ACCEPT", "time": "now"} | changes)


@given(steps)
def test_the_last_word_counts_and_another_reader_reads_the_same(tmp_path_factory, todo):
    folder = tmp_path_factory.mktemp("judgements")
    judgements, expected = Judgements(folder), dict[str, dict[str, Answer]]()
    for candidate, annotator, answer in todo:
        judgements.add(candidate, annotator, answer)
        own = expected.setdefault(annotator, {})
        own.pop(candidate, None)
        if answer is not None:
            own[candidate] = answer
    expected = {name: own for name, own in expected.items() if own}
    assert said(judgements) == said(Judgements(folder)) == expected
    for name, own in expected.items():
        assert judgements.last(name) == next(reversed(own))
        assert list(judgements.of(name)) == list(own)
    assert judgements.unreadable == 0


def test_a_judgement_is_on_the_disk_at_once(tmp_path):
    Judgements(tmp_path).add("a", "anna", Answer.REJECT)
    (text,) = (tmp_path / JUDGEMENTS_FILE).read_text().splitlines()
    assert json.loads(text) | {"time": ""} == {"candidate": "a", "annotator": "anna", "answer": "REJECT", "time": ""}


@pytest.mark.parametrize("cut", range(1, len(line())))
def test_a_line_that_was_cut_off_costs_no_other(tmp_path, cut):
    path = tmp_path / JUDGEMENTS_FILE
    path.write_text(line(candidate="first") + "\n" + line()[:cut])
    judgements = Judgements(tmp_path)
    assert said(judgements) == {"anna": {"first": Answer.ACCEPT}}
    judgements.add("next", "ben", Answer.UNSURE)
    expected = {"anna": {"first": Answer.ACCEPT}, "ben": {"next": Answer.UNSURE}}
    assert said(judgements) == said(Judgements(tmp_path)) == expected


def test_a_whole_line_whose_break_was_cut_off_counts_before_and_after(tmp_path):
    (tmp_path / JUDGEMENTS_FILE).write_text(line())
    judgements = Judgements(tmp_path)
    assert said(judgements) == {"anna": {"a": Answer.ACCEPT}}
    judgements.add("b", "anna", Answer.REJECT)
    expected = {"anna": {"a": Answer.ACCEPT, "b": Answer.REJECT}}
    assert said(judgements) == said(Judgements(tmp_path)) == expected
    assert judgements.unreadable == 0


HOSTILE = [
    "", "no JSON", "[1, 2]", "3", "null", "{}", '{"candidate": "a"}', line(candidate=3), line(candidate=None),
    line(annotator=["anna"]), line(annotator=""), line(annotator="a" * (LONGEST_NAME + 1)), line(annotator="a\nb"),
    line(annotator="\ud83d"), line(annotator=" anna"), line(answer="accept"), line(answer=["ACCEPT"]), line(answer=1),
    "[" * 100_000, line(candidate="x" * 10_000), '{"answer": ' + "9" * 5000 + "}", "x" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("bad", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_lines_count_nothing_and_cost_nothing(tmp_path, bad):
    text = f"{line(candidate='before')}\n{bad}\n{line(candidate='after')}\n"
    (tmp_path / JUDGEMENTS_FILE).write_text(text)
    judgements = Judgements(tmp_path)
    assert set(judgements.of("anna")) == {"before", "after"}
    assert judgements.annotators() == ("anna",)
    assert judgements.unreadable == (1 if bad else 0)
    judgements.refresh()
    assert judgements.unreadable == (1 if bad else 0)


def test_bytes_that_are_no_text_count_nothing(tmp_path):
    (tmp_path / JUDGEMENTS_FILE).write_bytes(b"\xff\xfe\x00\n" + line().encode() + b"\n" + bytes(9000))
    judgements = Judgements(tmp_path)
    assert said(judgements) == {"anna": {"a": Answer.ACCEPT}}
    judgements.add("b", "anna", Answer.REJECT)
    assert set(judgements.of("anna")) == {"a", "b"}


WRITER = """
import sys
from pathlib import Path
from refiner.verify.judgements import Answer, Judgements
judgements = Judgements(Path(sys.argv[1]))
for number in range(150):
    judgements.add(f"{number}", sys.argv[2], list(Answer)[number % 3])
"""


def test_two_processes_and_two_threads_write_at_the_same_time(tmp_path):
    command = [sys.executable, "-P", "-c", WRITER, str(tmp_path)]
    others = [subprocess.Popen([*command, name]) for name in ("anna", "ben")]
    here = Judgements(tmp_path)

    def judge(name: str) -> None:
        for number in range(150):
            here.add(f"{number}", name, ANSWERS[number % 3])

    threads = [threading.Thread(target=judge, args=(name,)) for name in ("carl", "dora")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    here.refresh()
    expected = {f"{number}": ANSWERS[number % 3] for number in range(150)}
    assert said(here) == dict.fromkeys(("anna", "ben", "carl", "dora"), expected)
    assert here.unreadable == 0
    assert len((tmp_path / JUDGEMENTS_FILE).read_text().splitlines()) == 600


def test_others_are_seen_after_a_refresh(tmp_path):
    mine, theirs = Judgements(tmp_path), Judgements(tmp_path)
    theirs.add("a", "ben", Answer.ACCEPT)
    mine.refresh()
    assert mine.about("a") == {"ben": Answer.ACCEPT}
    theirs.add("a", "ben", None)
    mine.refresh()
    assert mine.about("a") == {}


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    judgements = Judgements(tmp_path)
    for candidate in "abc":
        judgements.add(candidate, "anna", Answer.ACCEPT)
    (tmp_path / JUDGEMENTS_FILE).write_text(line(candidate="z") + "\n")
    judgements.refresh()
    assert said(judgements) == {"anna": {"z": Answer.ACCEPT}}


def test_what_cannot_be_written_is_told_and_not_counted(tmp_path):
    judgements = Judgements(tmp_path)
    (tmp_path / JUDGEMENTS_FILE).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="Cannot write the file"):
        judgements.add("a", "anna", Answer.ACCEPT)
    Path(tmp_path / JUDGEMENTS_FILE).unlink()
    assert said(judgements) == {}


@pytest.mark.parametrize("name", ["", "  ", "a" * 61, "a\x00b", "\ud83d", "‮anna"])
def test_names_that_cannot_be_shown_are_refused(name):
    with pytest.raises(InputError, match="name of an annotator"):
        annotator_name(name)


def test_blanks_in_a_name_do_not_make_another_annotator():
    assert annotator_name("  Anna \t Łęska ") == "Anna Łęska"


@pytest.mark.parametrize(
    ("answers", "accepted"),
    [("", False), ("A", True), ("R", False), ("U", False), ("AR", False), ("AU", False), ("AAR", True), ("AAU", True),
     ("AARU", False), ("AAARU", True), ("ARR", False)],
)  # fmt: skip
def test_the_majority_of_all_judgements_accepts(answers, accepted):
    full = {answer[0]: answer for answer in Answer}
    assert is_accepted({str(at): full[letter] for at, letter in enumerate(answers)}) is accepted
