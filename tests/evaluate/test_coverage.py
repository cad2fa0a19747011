"""Coverage beside every figure of evaluations and rankings; what has no known place is in no area."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from refiner.cli.evaluate_tables import _show
from refiner.cli.rank_tables import _show_figures
from refiner.cli.view import Terminal
from refiner.coverage import COLUMNS
from refiner.data.samples import Sample
from refiner.errors import InputError, ModelError, UnreadableOutputError
from refiner.evaluate.audit import audit_runs, write_audit
from refiner.evaluate.harness import Run
from refiner.evaluate.peers import compare as compare_peers
from refiner.evaluate.ranking import rank_runs, write_tables
from refiner.evaluate.robustness import compare, write_robustness
from refiner.reports.ranking import write_rank_report
from refiner.taxonomy import Category
from refiner.types import Analysis, Region
from tests.evaluate.test_tasks import Echo, Given, analysis, area, measure, region, sample

UNPLACED = Region(mask=None, box=None, name="the light", category=Category.OPTICS, severity=0.5)
FLAW = region(area(0, 0, 8, 8))
ANSWERS = {
    "whole": analysis(FLAW, fake=0.9),
    "cut": replace(analysis(FLAW, fake=0.9), gaps=("cut_short",)),
    "both": replace(analysis(FLAW, UNPLACED, fake=0.9), gaps=("cut_short", "unverified")),
    "nowhere": analysis(UNPLACED, fake=0.9),
    "clean": analysis(fake=0.1),
    "babble": UnreadableOutputError("no list", raw="?"),
    "down": ModelError("The server is down."),
}
WANTED = {"answered": 5, "unreadable": 1, "failed": 2, "cut_short": 2, "unverified": 1, "unplaced": 2}
BRIEF = "5/8, 1 unreadable, 2 failed, 2 cut short, 1 unverified, 2 unplaced"
FIRST = {"answered": 3, "unreadable": 0, "failed": 0, "cut_short": 2, "unverified": 1, "unplaced": 1}
SECOND = {"answered": 2, "unreadable": 1, "failed": 1, "cut_short": 0, "unverified": 0, "unplaced": 1}


class Damaged(Given):
    """The same samples, and one whose image cannot be read."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__(samples)
        self.names = (*self.names, "damaged")

    def load(self, index: int) -> Sample:
        if index == len(self.samples):
            raise InputError("The image is damaged.")
        return super().load(index)


@pytest.fixture(params=["localization", "detection", "realism", "explanation", "defects"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, object]:
    monkeypatch.setattr("tests.evaluate.test_tasks.Given", Damaged)
    truth = analysis(FLAW)
    groups = ["first"] * 3 + ["second"] * 4
    samples = [
        sample(name, fake=name != "clean", truth=truth if name != "clean" else analysis(), group=group, anomalies=())
        for name, group in zip(ANSWERS, groups, strict=True)
    ]
    options = {"encoder": Echo()} if request.param == "explanation" else {}
    return measure(tmp_path, request.param, samples, list(ANSWERS.values()), batch_size=1, **options)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def covered(row: dict[str, str]) -> dict[str, int]:
    return {name: int(row[name]) for name in COLUMNS}


def test_every_table_csv_and_report_of_an_evaluation_has_the_coverage(
    run: tuple[Run, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = run[1].table  # type: ignore[attr-defined]
    assert table["coverage"] == WANTED
    assert {name: row["coverage"] for name, row in table["groups"].items()} == {"first": FIRST, "second": SECOND}
    for row in rows_of(tmp_path / "table.csv"):
        wanted = {"first": FIRST, "second": SECOND}.get(row["name"], WANTED) if row["scope"] == "group" else WANTED
        assert covered(row) == wanted
    samples = {row["name"]: covered(row) for row in rows_of(tmp_path / "samples.csv")}
    assert [samples[name] for name in ("whole", "both")] == [
        dict.fromkeys(COLUMNS, 0) | {"answered": 1},
        {"answered": 1, "unreadable": 0, "failed": 0, "cut_short": 1, "unverified": 1, "unplaced": 1},
    ]
    assert "babble" not in samples or samples["babble"] == dict.fromkeys(COLUMNS, 0) | {"unreadable": 1}
    page = (tmp_path / "report.html").read_text()
    means = [name for name in table["figures"] if not name.endswith(("_low", "_high"))]
    assert page.count(BRIEF) == len(means) + len(table["categories"])
    assert "5 of 8 images answered (1 unreadable, 2 failed), 2 cut short, 1 unverified, 2 with unplaced flaws" in page
    _show(table, Terminal())
    shown = capsys.readouterr().out
    assert shown.count("5/8") == len(means)
    assert "5 of 8 images answered" in " ".join(shown.split())


def test_tables_of_several_runs_have_the_coverage_of_each(tmp_path: Path) -> None:
    first = measure(tmp_path / "1", "localization", [sample("a", truth=analysis(FLAW))], [analysis(UNPLACED)])[1]
    second = measure(tmp_path / "2", "localization", [sample("a", truth=analysis(FLAW))], [ANSWERS["babble"]])[1]
    blurred = json.loads(json.dumps(second.table))
    blurred["data"]["perturbation_seed"] = 0
    document = compare({"clean": first.table, "blur-5": blurred})
    write_robustness(document, tmp_path)
    assert [run["coverage"] for run in document["runs"].values()] == [first.table["coverage"], second.table["coverage"]]
    rows = rows_of(tmp_path / "robustness.csv")
    assert [(row["answered"], row["unreadable"], row["unplaced"]) for row in rows] == [("1", "0", "1"), ("0", "1", "0")]


def looked(folder: Path, *answers: Analysis | Exception) -> Run:
    samples = [sample(f"{number}", prompt="0.5") for number in range(len(answers))]
    return measure(folder, "realism", samples, list(answers), batch_size=1)[0]


PROMPTS_OF = {f"{number}": f"{number}" for number in range(9)}


def test_every_table_csv_and_report_of_a_ranking_has_the_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = list(ANSWERS.values())
    runs = {"a": looked(tmp_path / "a", *answers), "b": looked(tmp_path / "b", *[analysis()] * len(answers))}
    document = rank_runs(runs, PROMPTS_OF)
    write_tables(document, tmp_path)
    wanted = {"a": WANTED | {"failed": 1}, "b": dict.fromkeys(COLUMNS, 0) | {"answered": 7}}
    assert {system["name"]: system["coverage"] for system in document["systems"]} == wanted
    assert {row["name"]: covered(row) for row in rows_of(tmp_path / "rank.csv")} == wanted
    for row in rows_of(tmp_path / "wins.csv"):
        for side in ("one", "other"):
            assert {name: int(row[f"{side}_{name}"]) for name in COLUMNS} == wanted[row[side]]
    data = {name: Given([sample(str(number)) for number in range(len(answers))]) for name in runs}
    page = write_rank_report(document, runs, data, tmp_path).read_text()
    brief = "5/7, 1 unreadable, 1 failed, 2 cut short, 1 unverified, 2 unplaced"
    assert f'<td class="text" data-label="coverage">{brief}</td>' in page
    assert '<td class="text" data-label="coverage">7/7</td>' in page
    _show_figures(document, Terminal())
    assert {"5/7,", "7/7"} <= set(capsys.readouterr().out.split())


def test_the_agreement_of_detectors_has_the_coverage_of_both(tmp_path: Path) -> None:
    answers, sure = list(ANSWERS.values()), [analysis()] * len(ANSWERS)
    runs = {"one": {"a": looked(tmp_path / "1", *answers)}, "two": {"a": looked(tmp_path / "2", *sure)}}
    document = audit_runs(runs, PROMPTS_OF)
    write_audit(document, tmp_path)
    for row in rows_of(tmp_path / "agreement.csv"):
        assert (row["one_answered"], row["one_unplaced"], row["other_answered"]) == ("5", "2", "7")
    assert [row["detector"] for row in rows_of(tmp_path / "rank.csv")] == ["one", "two"]
    assert "answered" in rows_of(tmp_path / "rank.csv")[0]


def test_areas_are_means_over_images_with_a_known_place(tmp_path: Path) -> None:
    samples = [sample(name) for name in ("placed", "nowhere", "clean")]
    answers = [analysis(FLAW), analysis(UNPLACED), analysis()]
    figures = measure(tmp_path / "1", "realism", samples, answers)[1].table["figures"]
    assert figures["PAR"] == pytest.approx((64 / 1024 + 0) / 2)
    assert figures["AF"] == pytest.approx(2 / 3)
    nowhere = measure(tmp_path / "2", "realism", samples[:2], [analysis(UNPLACED)] * 2)[1].table["figures"]
    assert "PAR" not in nowhere
    assert nowhere["AF"] == 1


def test_generators_are_ranked_by_area_only_where_it_is_known(tmp_path: Path) -> None:
    some = looked(tmp_path / "some", analysis(FLAW), analysis(UNPLACED), analysis())
    none = looked(tmp_path / "none", analysis(UNPLACED), analysis(UNPLACED), analysis(UNPLACED))
    both = looked(tmp_path / "both", analysis(FLAW, UNPLACED), analysis(FLAW), analysis(FLAW))
    document = rank_runs({"some": some, "both": both}, PROMPTS_OF, by="PAR")
    values = {system["name"]: system["figures"]["PAR"]["value"] for system in document["systems"]}
    assert values == {"some": pytest.approx(64 / 1024 / 2), "both": pytest.approx(64 / 1024)}
    document = rank_runs({"some": some, "none": none}, PROMPTS_OF)
    assert list(document["orders"]) == ["CAP"]
    assert "PAR" not in document["systems"][0]["figures"]


def test_a_true_flaw_without_a_place_is_no_empty_mask(tmp_path: Path) -> None:
    heat = replace(analysis(FLAW, fake=0.9), heatmap=area(0, 0, 8, 8).astype("float32"))
    samples = [
        sample("nowhere", fake=True, truth=analysis(UNPLACED)),
        sample("placed", fake=True, truth=analysis(FLAW, UNPLACED)),
    ]
    table = measure(tmp_path / "1", "localization", samples, [heat, heat])[1].table
    assert (table["scored"], table["errors"]) == (1, {"unplaced_truth": 1})
    assert table["figures"]["miou"] == table["figures"]["region_iou"] == 1
    assert measure(tmp_path / "2", "detection", samples, [heat, heat])[1].table["figures"]["heatmap_images"] == 1
    unread = measure(tmp_path / "3", "localization", samples, [ANSWERS["babble"]] * 2, batch_size=1)[1].table
    assert (unread["scored"], unread["misses"]) == (1, {"UnreadableOutputError": 1})


def test_the_table_of_peers_has_the_coverage(tmp_path: Path) -> None:
    scored = measure(tmp_path, "localization", [sample("a", truth=analysis())], [ANSWERS["babble"]])[1]
    document = compare_peers({"none": scored})
    assert document["runs"]["none"]["coverage"]["unreadable"] == 1
