"""The tables of papers: the numbers of table.json and robustness.json, in rows and columns that nothing can break."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.cli.main import main
from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.data.sources import SOURCES, Source
from refiner.evaluate.harness import collect, describe
from refiner.evaluate.robustness import compare
from refiner.evaluate.systems import Looker
from refiner.evaluate.table import score
from refiner.evaluate.tasks.detection import KINDS
from refiner.metrics.perturbations import PERTURBATIONS, Perturbation
from refiner.reports.papers import PAPERS, Paper, PaperTable, write_paper, write_robustness_paper
from refiner.reports.terms import legend
from refiner.types import Analysis, Region, Size

Rows = dict[str, list[str]]
Cli = Callable[..., tuple[int, str, str]]


def read_markdown(text: str) -> tuple[list[str], Rows]:
    """Header, and the cells of each row by its label."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set(map(len, cells)) == {len(cells[0])}
    return cells[0], {row[0]: row[1:] for row in cells[2:]}


def shown(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def spots(image: Image.Image) -> Analysis:
    """Marks the dark pixels; an image is generated in so far as it is dark."""
    mask = np.asarray(image.convert("L")) < 100
    size = Size(*mask.shape)
    found = (Region(mask=mask, box=(0, 0, size.width, size.height), name="dark", category="color"),)  # type: ignore[arg-type]
    dark = float(mask.mean())
    heat = mask.astype(np.float32)
    return Analysis(
        size=size, regions=found if mask.any() else (), fake_probability=dark, heatmap=heat, detector="spots"
    )


class Grouped:
    """Images of the micro world in groups of given names; the last ones have none."""

    def __init__(self, names: list[str], polygons: str = "") -> None:
        self.problems: list = []
        self.images, self.groups = MicroData(2 * len(names), painted=True), names
        self.names = self.images.names
        if polygons:
            self.polygons = polygons

    def load(self, index: int) -> Sample:
        sample = self.images.load(index)
        group = self.groups[index % len(self.groups)]
        return Sample(name=sample.name, group=group, image=sample.image, fake=index % 3 != 0, truth=sample.truth)


def measured(folder: Path, task: str, names: list[str], polygons: str = "") -> dict[str, Any]:
    data, system = Grouped(names, polygons), Looker(detector=spots)
    scoring = {"threshold": 0.1, "view": "full"}
    run = collect(data, system, describe(task, data, {"specification": "grouped"}, system, scoring), folder)
    return score(run).table


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_every_heading_of_a_paper_has_a_meaning(paper: Paper) -> None:
    for _, figure in paper.columns:
        assert legend([figure])


@pytest.mark.parametrize("task", ["localization", "detection"])
def test_the_paper_table_has_the_numbers_of_the_table(tmp_path: Path, task: str) -> None:
    table = measured(tmp_path, task, ["animal", "human", "scene"])
    paper = write_paper(table, tmp_path)
    assert paper is not None
    header, rows = read_markdown((tmp_path / "table.md").read_text())
    columns = [column for column in PAPERS[task].columns if column[1] in table["figures"]]
    figures = [name for _, name in columns]
    assert header == ["group", "n", *(heading for heading, _ in columns), "coverage"]
    assert ("IoU" in header) == (task == "detection")
    for name, row in table["groups"].items():
        covered = f"{row['coverage']['answered']}/{row['coverage']['answered']}"
        assert rows.pop(name) == [str(row["scored"]), *(shown(row[figure]) for figure in figures), covered]
        assert row["coverage"]["answered"] == row["scored"]
    text = (tmp_path / "table.md").read_text()
    assert all(re.search(rf"^- {re.escape(name)}: .+\.$", text, re.MULTILINE) for name in header[1:])
    whole = "overall" if task == "localization" else "all images"
    cells = [shown(table["figures"][figure]) for figure in figures]
    assert rows.pop(whole) == [str(table["scored"]), *cells, f"{table['scored']}/{table['samples']}"]
    if task == "detection":
        accuracies = [row["accuracy"] for row in table["groups"].values()]
        assert table["figures"]["accuracy_group_mean"] == pytest.approx(np.mean(accuracies))
        assert rows.pop("mean of the groups")[:2] == ["–", shown(table["figures"]["accuracy_group_mean"])]
    assert rows == {}
    assert f"    {table['signature']}\n" in (tmp_path / "table.md").read_text()


def test_means_over_images_are_the_weighted_means_of_the_groups(tmp_path: Path) -> None:
    table = measured(tmp_path, "localization", ["a", "b", "b", "c", "c", "c"])
    counts = [row["scored"] for row in table["groups"].values()]
    assert counts == [2, 4, 6]
    for name in ("miou", "f1"):
        parts = [row[name] for row in table["groups"].values()]
        assert table["figures"][name] == pytest.approx(np.average(parts, weights=counts))


# PAL4VST in Tables 2 and 10 of the paper; images of the test split by content type.
@pytest.mark.parametrize(
    ("parts", "whole"), [((50.46, 52.55, 59.18, 52.55), 56.10), ((19.25, 21.61, 35.70, 19.14), 29.21)]
)
def test_the_published_figures_are_such_means(parts: tuple[float, ...], whole: float) -> None:
    assert np.average(parts, weights=(162, 134, 587, 117)) == pytest.approx(whole, abs=0.006)


def test_kinds_of_generators_count_each_generator_alike(tmp_path: Path) -> None:
    table = measured(tmp_path, "detection", [*KINDS["gans"], "progan", *KINDS["diffusion"][1:], "deepfake"])
    accuracies = [table["groups"][name]["accuracy"] for name in KINDS["gans"]]
    assert table["figures"]["accuracy_gans"] == pytest.approx(np.mean(accuracies))
    assert "accuracy_diffusion" not in table["figures"], "one of its generators is missing"
    write_paper(table, tmp_path)
    rows = read_markdown((tmp_path / "table.md").read_text())[1]
    assert rows["GANs"] == ["–", shown(table["figures"]["accuracy_gans"]), *["–"] * 7]
    assert "Diffusion" not in rows


def test_a_table_without_groups_has_one_row(tmp_path: Path) -> None:
    table = measured(tmp_path, "detection", [""])
    write_paper(table, tmp_path)
    assert list(read_markdown((tmp_path / "table.md").read_text())[1]) == ["all images"]
    assert "accuracy_group_mean" not in table["figures"]


@pytest.mark.parametrize(
    "name", ["a|b", "`a", "a\nb", "# a", "<script>", r"a\|b", "[a](b)", "*a*", "\udcff", "$a$", "–"]
)
def test_names_do_not_break_the_table(tmp_path: Path, name: str) -> None:
    table = {"task": "localization", "data": {"specification": name}, "signature": name, "samples": 2, "scored": 2}
    table |= {"errors": {}, "misses": {}, "missing": 0, "figures": {"miou": 0.5, "f1": None}}
    group = {"scored": 1, "coverage": {"answered": 1}, "miou": 0.5, "f1": 0.25}
    table |= {"coverage": {"answered": 2, "unplaced": 1}, "groups": dict.fromkeys((name, "other"), group)}
    write_paper(table, tmp_path)
    text = (tmp_path / "table.md").read_text()
    rows = read_markdown(text)[1]
    of_group = ["1", "50.00", "25.00", "1/1"]
    assert list(rows.values()) == [of_group, of_group, ["2", "50.00", "–", "2/2, 1 unplaced"]]
    assert not re.search(r"(?<!\\)[`<*\[$]", text.replace(f"\n    {name}\n", ""))
    assert text.count("\n#") == 0


def test_intervals_stand_behind_the_figures_that_have_them(tmp_path: Path) -> None:
    table = {"task": "explanation", "data": {"specification": "x"}, "signature": "s", "samples": 9, "scored": 9}
    figures = {"rouge_l": 0.395, "rouge_l_low": 0.38, "rouge_l_high": 0.40125, "css": None}
    table |= {"errors": {}, "misses": {}, "missing": 0, "groups": {}, "figures": figures, "coverage": {"answered": 9}}
    paper = write_paper(table, tmp_path)
    assert isinstance(paper, PaperTable)
    assert paper.rows == (("overall", "9", "39.50 (38.00 to 40.12)", "–", "9/9"),)


@pytest.mark.parametrize("task", ["realism", "refinement"])
def test_other_tasks_have_no_such_table(tmp_path: Path, task: str) -> None:
    assert write_paper({"task": task}, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_changes_are_those_of_the_paper(tmp_path: Path) -> None:
    figures = {"clean": (0.5941, 0.3696), "jpeg-20": (0.5791, 0.3428), "noise-0.3": (0.5649, 0.3212), "blur-15": (0, 1)}
    tables = {
        name: {
            "task": "localization", "data": {"specification": "x", "perturbation_seed": 0}, "signature": f"s|{name}",
            "samples": 2, "scored": 2, "errors": {}, "misses": {}, "missing": 0, "coverage": {"answered": 2},
            "figures": {"miou": miou, "f1": f1, "f1_low": 0.1, "f1_high": 0.2},
        }
        for name, (miou, f1) in figures.items()
    }  # fmt: skip
    write_robustness_paper(compare(tables), tmp_path)
    header, rows = read_markdown((tmp_path / "robustness.md").read_text())
    assert header == ["distortion", "n", "mIoU", "F1", "coverage"]
    assert rows == {
        "No Distortion": ["2", "59.41", "36.96", "2/2"],
        "JPEG Comp. (QF = 20)": ["2", "57.91 (-2.5%)", "34.28 (-7.3%)", "2/2"],
        "Gaussian Noise (σ = 0.3)": ["2", "56.49 (-4.9%)", "32.12 (-13.1%)", "2/2"],
        "Gaussian Blur (Ksize = 15)": ["2", "0.00 (-100.0%)", "100.00 (+170.6%)", "2/2"],
    }


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``refiner evaluate`` on ``grouped:``, whose truth is drawn from polygons: exit code, stdout, stderr."""
    grouped = Source(name="grouped", read=lambda _: Grouped(["b", "a"], "unclipped"), place="N", help="", default="")
    monkeypatch.setattr("refiner.data.sources.SOURCES", {**SOURCES, "grouped": grouped})
    monkeypatch.setattr("refiner.detectors.load_detector", lambda *_: spots)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_one_command_makes_table_10_and_again_without_models(evaluate: Cli, tmp_path: Path) -> None:
    arguments = ("localization", "--data", "grouped:", "--limit", "3", "--perturb", "legion", "--out")
    code, out, err = evaluate(*arguments, tmp_path / "whole")
    assert code == 0, err
    document = json.loads((tmp_path / "whole/robustness.json").read_text())
    assert list(document["runs"]) == ["clean", *PERTURBATIONS]
    text = (tmp_path / "whole/robustness.md").read_text()
    _, rows = read_markdown(text)
    for name, run in document["runs"].items():
        label = "No Distortion" if name == "clean" else PERTURBATIONS[name].label
        cells = [shown(run["figures"][figure]) for figure in ("miou", "f1")]
        if name != "clean":
            cells = [
                f"{cell} ({run['change'][figure]:+.1f}%)" for cell, figure in zip(cells, ("miou", "f1"), strict=True)
            ]
            assert f"    {PERTURBATIONS[name].signature}|seed=0\n" in text
        assert [*(cell.replace("-0.0%", "+0.0%") for cell in cells), "3/3"] == rows[label][1:]
        assert label in out
        clean = json.loads((tmp_path / f"whole/{name}/table.json").read_text())
        assert clean["figures"]["miou"] == run["figures"]["miou"]
        assert (tmp_path / f"whole/{name}/table.md").is_file()
    for number in (1, 2):
        assert evaluate(*arguments, tmp_path / "parts", "--shard", f"{number}/2")[0] == 0
    assert evaluate("merge", tmp_path / "parts", "--out", tmp_path / "parts")[0] == 0
    assert (tmp_path / "parts/robustness.md").read_text() == text
    (tmp_path / "parts/robustness.md").unlink()
    evaluate("localization", "--rescore", "--out", tmp_path / "parts")
    assert (tmp_path / "parts/robustness.md").read_text() == text


def test_the_rule_of_the_polygons_is_in_the_signature_and_the_run(evaluate: Cli, tmp_path: Path) -> None:
    arguments = ("localization", "--data", "grouped:", "--limit", "2", "--perturb", "blur:5", "--out", tmp_path)
    document = json.loads(evaluate(*arguments, "--json")[1])
    for run in document["runs"].values():
        assert "|polygons=unclipped" in run["signature"]
    assert json.loads((tmp_path / "clean/run.json").read_text())["data"]["polygons"] == "unclipped"
    assert "polygons" not in measured(tmp_path / "none", "localization", ["a"])["signature"]


def test_the_table_is_shown_with_a_row_for_each_group(evaluate: Cli, tmp_path: Path) -> None:
    code, out, err = evaluate("detection", "--data", "grouped:", "--out", tmp_path)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()[:5]]
    assert lines[0] == ["group", "n", "Acc", "Balanced", "F1", "P", "R", "IoU", "PixF1", "coverage"]
    assert [line[0] for line in lines[1:]] == ["a", "b", "mean", "all"]
    text = (tmp_path / "table.md").read_text()
    (tmp_path / "table.md").unlink()
    assert evaluate("detection", "--rescore", "--out", tmp_path)[1] == out
    assert (tmp_path / "table.md").read_text() == text


def test_every_perturbation_keeps_its_label_by_its_name() -> None:
    for each in (Perturbation(kind="noise", level=1e-5), *PERTURBATIONS.values()):
        assert Perturbation.parse(each.name.replace("-", ":", 1)).label == each.label
