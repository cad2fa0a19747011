"""SDG-Eval as a task, and misalignments with the prompt, which the other tasks leave out."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.data.anomreason import from_regions
from refiner.data.samples import Sample
from refiner.data.sources import open_data
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.evaluate.harness import Run, collect, describe, open_run
from refiner.evaluate.systems import Looker, Refining
from refiner.evaluate.table import Scored, score
from refiner.metrics.css import SentenceEncoder
from refiner.reports.evaluation import write_report
from refiner.reports.papers import write_paper
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Box, RefinementResult, Region, Size

SCORING = {"threshold": 0.5, "view": "full"}
SIZE = Size(100, 100)
BABBLE = UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")


def flaw(box: Box | None, words: str = "six toes", severity: float = 0.5, kind: Category = Category.ANATOMY) -> Region:
    return Region(mask=None, box=box, name="it", explanation=words, severity=severity, category=kind)


def other(box: Box | None, words: str = "no red cat", severity: float = 0.5) -> Region:
    return flaw(box, words, severity, Category.MISALIGNMENT)


def analysis(*regions: Region) -> Analysis:
    return Analysis(size=SIZE, regions=regions, detector="script")


def sample(name: str, *regions: Region, **facts: Any) -> Sample:
    known = {"fake": True, "misalignments": True, "weighed": True, "truth": analysis(*regions)}
    return Sample(name=name, image=Image.new("RGB", (100, 100)), **{**known, **facts})


class Given:
    def __init__(self, samples: list[Sample]) -> None:
        self.problems: list = []
        self.samples = samples
        self.names = tuple(each.name for each in samples)

    def load(self, index: int) -> Sample:
        return self.samples[index]


def measure(folder: Path, task: str, samples: list[Sample], answers: list, **options: Any) -> tuple[Run, Scored]:
    data = Given(samples)
    system = Looker(detector=ScriptedDetector(answers), **{"batch_size": 1, **options})
    run = collect(data, system, describe(task, data, {"specification": "given"}, system, SCORING), folder)
    scored = score(run)
    write_report(run, scored, data)
    return run, scored


def rescored(run: Run, **scoring: object) -> dict[str, Any]:
    return score(run._replace(description={**run.description, "scoring": {**SCORING, **scoring}})).table


class FirstLetters:
    """Texts are alike if they begin with the same letter."""

    encoding = "encoder=letters|pooling=first|max_tokens=9"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text[0] == letter for letter in "sn"] for text in texts], dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        return len(text) > 20


def test_the_figures_of_both_types(tmp_path: Path) -> None:
    samples = [
        sample("both", flaw((0, 0, 40, 40)), other((50, 50, 90, 90))),
        sample("missed", flaw((0, 0, 40, 40))),
        sample("clean"),
        sample("wrong type", other((0, 0, 40, 40))),
    ]
    answers = [
        analysis(flaw((0, 0, 40, 20), "seven toes", 0.9), other((50, 50, 90, 90), "six", 0.5), flaw(None)),
        analysis(flaw((80, 80, 90, 90))),
        analysis(),
        analysis(flaw((0, 0, 40, 40))),
    ]
    run, scored = measure(tmp_path, "defects", samples, answers, descriptions=FirstLetters())
    figures = scored.table["figures"]
    assert [name for name in figures if not name.endswith(("_low", "_high"))] == [
        f"{name}_{kind}"
        for kind in ("artifact", "misalignment")
        for name in ("DetTypeF1", "ClnAcc", "BoxF1@0.1", "BoxF1@0.5", "DescCos@0.1", "ImpAcc@0.1", "ImpBucket@0.1")
    ]
    wanted = {
        # two images have artifacts, three are said to: 2 of 2 found; of two images without one is called so
        "DetTypeF1_artifact": 4 / 5, "ClnAcc_artifact": 1 / 2,
        # two true boxes, three placed predictions, one pair with an IoU of exactly 0.5; the unplaced one is no box
        "BoxF1@0.1_artifact": 2 / 5, "BoxF1@0.5_artifact": 2 / 5, "DescCos@0.1_artifact": 1.0,
        "ImpAcc@0.1_artifact": 0.6, "ImpBucket@0.1_artifact": 0.0,
        "DetTypeF1_misalignment": 2 / 3, "ClnAcc_misalignment": 1.0, "BoxF1@0.1_misalignment": 2 / 3,
        "BoxF1@0.5_misalignment": 2 / 3, "DescCos@0.1_misalignment": 0.0, "ImpAcc@0.1_misalignment": 1.0,
        "ImpBucket@0.1_misalignment": 1.0,
    }  # fmt: skip
    assert {name: figures[name] for name in wanted} == pytest.approx(wanted)
    assert scored.columns["box_f1"][[0, 1, 3]].tolist() == [1, 0, 0]
    assert np.isnan(scored.columns["box_f1"][2])
    assert figures["BoxF1@0.5_artifact_low"] <= 0.4 <= figures["BoxF1@0.5_artifact_high"]
    assert "desccos|encoder=letters" in scored.table["signature"]
    rows = list(csv.DictReader((tmp_path / "samples.csv").read_text().splitlines()))
    assert [row["BoxF1@0.5_artifact count"] for row in rows] == ["2", "2", "0", "1"]
    assert open_run(tmp_path).records[0]["answer"]["descriptions"] == {"artifact": [[1], [1]], "misalignment": [[0]]}
    greedy = rescored(run, matching="greedy")
    assert "matching=greedy" in greedy["signature"]
    with pytest.raises(ConfigError, match="matching"):
        rescored(run, matching="best")


def test_misalignments_count_only_where_somebody_looked_for_them(tmp_path: Path) -> None:
    samples = [sample("a", flaw((0, 0, 9, 9)), misalignments=False, weighed=False), sample("b", misalignments=False)]
    answers = [analysis(flaw((0, 0, 9, 9)), other((0, 0, 9, 9))), analysis(other((5, 5, 9, 9)))]
    figures = measure(tmp_path, "defects", samples, answers)[1].table["figures"]
    assert figures["DetTypeF1_artifact"] == figures["ClnAcc_artifact"] == figures["BoxF1@0.5_artifact"] == 1
    assert not [name for name in figures if "misalignment" in name or "Imp" in name or "Desc" in name]


def test_joined_masks_have_no_boxes_and_images_without_truth_no_figures(tmp_path: Path) -> None:
    samples = [sample("lump", flaw((0, 0, 9, 9)), itemised=False), sample("unknown", truth=None)]
    table = measure(tmp_path, "defects", samples, [analysis(flaw((0, 0, 9, 9)))] * 2)[1].table
    assert (table["scored"], table["errors"]) == (1, {"missing_truth": 1})
    assert figures_named(table) == {"DetTypeF1_artifact", "ClnAcc_misalignment"}


def figures_named(table: dict[str, Any]) -> set[str]:
    return {name for name in table["figures"] if not name.endswith(("_low", "_high"))}


def test_answers_that_cannot_be_read_find_nothing_and_call_nothing_clean(tmp_path: Path) -> None:
    samples = [sample("right", flaw((0, 0, 9, 9))), sample("babble", flaw((0, 0, 9, 9))), sample("clean"), sample("ok")]
    answers = [analysis(flaw((0, 0, 9, 9))), BABBLE, BABBLE, analysis()]
    run, scored = measure(tmp_path, "defects", samples, answers)
    table, figures = scored.table, scored.table["figures"]
    assert (table["scored"], table["misses"], table["errors"]) == (
        4, {"UnreadableOutputError": 2}, {"UnreadableOutputError": 2}
    )  # fmt: skip
    assert (figures["ClnAcc_artifact"], figures["ClnAcc_misalignment"]) == (0.5, 0.5)
    assert figures["DetTypeF1_artifact"] == figures["BoxF1@0.5_artifact"] == pytest.approx(2 / 3)
    omitted = rescored(run, unreadable="omit")
    assert (omitted["scored"], omitted["figures"]["ClnAcc_artifact"]) == (2, 1)
    assert ("unreadable=miss" in table["signature"], "unreadable=omit" in omitted["signature"]) == (True, True)


def test_the_table_of_the_paper_has_a_row_for_each_type_and_generator(tmp_path: Path) -> None:
    samples = [sample(f"{group}{at}", flaw((0, 0, 9, 9)), group=group) for group in "xy" for at in range(2)]
    answers = [analysis(flaw((0, 0, 9, 9))), analysis(), analysis(flaw((0, 0, 9, 9))), analysis(other((0, 0, 9, 9)))]
    _, scored = measure(tmp_path, "defects", samples, answers)
    paper = write_paper(scored.table, tmp_path)
    assert paper is not None
    found = {row[0]: row[1:5] for row in paper.rows}
    assert list(found) == [f"{name}, {kind}" for name in ("x", "y", "overall") for kind in ("artifact", "misalignment")]
    assert found["overall, artifact"] == ("4", "66.67", "–", "66.67")
    assert found["x, misalignment"] == ("2", "–", "100.00", "–")


def test_long_descriptions_are_counted(tmp_path: Path) -> None:
    samples = [sample("a", flaw((0, 0, 9, 9), "six toes " * 9))]
    table = measure(tmp_path, "defects", samples, [analysis()], descriptions=FirstLetters())[1].table
    assert table["problems"] == {"long_text": 1}


def test_a_real_sentence_encoder_knows_paraphrases(tmp_path: Path) -> None:
    box = (0, 0, 9, 9)
    samples = [sample("near", flaw(box, "the left hand has six fingers")), sample("far", flaw(box, "a melted clock"))]
    answers = [analysis(flaw(box, "one hand has too many fingers")), analysis(flaw(box, "the shadow is missing"))]
    encoder = SentenceEncoder.from_pretrained(None, device="cpu")
    _, scored = measure(tmp_path, "defects", samples, answers, descriptions=encoder)
    near, far = scored.columns["DescCos@0.1_artifact sum"]
    assert 1 > near > 0.6 > far > -1


def test_sdg_30k_is_scored_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = []
    for at in range(4):
        Image.new("RGB", (100, 100)).save(tmp_path / f"images/{at}.png")
        boxes = [{"box_2d": [0, 500, 200, 900], "description": "six toes", "importance": 40}] if at % 2 else []
        kinds = {"artifact_bboxes": [] if at == 3 else boxes, "misalignment_bboxes": boxes if at == 3 else []}
        rows.append({"filepath": f"images/{at}.png", "caption": "a cat", "generator": "flux", **kinds})
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_data(f"sdg:{tmp_path}")
    right = [analysis(), analysis(flaw((50, 0, 90, 20), severity=0.4)), analysis(), analysis(other((50, 0, 90, 20)))]
    system = Looker(detector=ScriptedDetector(right), batch_size=1)
    run = collect(data, system, describe("defects", data, {"specification": "sdg"}, system, SCORING), tmp_path / "o")
    figures = score(run).table["figures"]
    assert {figures[f"{name}_{kind}"] for name in ("DetTypeF1", "ClnAcc", "BoxF1@0.5") for kind in KINDS} == {1.0}
    assert (figures["ImpAcc@0.1_artifact"], figures["ImpAcc@0.1_misalignment"]) == pytest.approx((1, 0.9))


KINDS = ("artifact", "misalignment")
BIG, SMALL = other((0, 0, 100, 60)), flaw((0, 0, 10, 10), kind=Category.TEXT)


class Echo:
    """Compares texts by whether they are equal."""

    signature = "echo"
    max_length = 9

    def encode(self, texts: list[str]) -> list:
        from refiner.metrics.bertscore import Tokens

        known = {text: at for at, text in enumerate(sorted(set(texts)))}
        vectors = np.eye(max(1, len(known)), 64, dtype=np.float32)
        return [Tokens(vectors[known[text]][None], np.ones(1, dtype=np.float32), False) for text in texts]


@pytest.mark.parametrize("task", ["localization", "explanation", "realism"])
@pytest.mark.parametrize("side", ["found", "true"])
def test_other_tasks_leave_misalignments_out(tmp_path: Path, task: str, side: str) -> None:
    """X-AIGD's PAD by category, LEGION's mIoU, F1, ROUGE-L and CSS, SemAP, region IoU, MAI, AF, CAP and PAR."""
    plain, more = analysis(SMALL), analysis(BIG, SMALL, replace(BIG, box=(0, 50, 100, 100)))
    truth, answer = (plain, more) if side == "found" else (more, plain)
    options = {"encoder": Echo(), "sentences": SentenceEncoder.from_pretrained(None, device="cpu")}
    options = options if task == "explanation" else {}
    tables = [
        measure(
            tmp_path / name, task, [sample("a", *true.regions, anomalies=from_regions([SMALL]))], [found], **options
        )[1].table
        for name, true, found in (("without", plain, plain), ("with", truth, answer))
    ]
    assert tables[0]["figures"] == tables[1]["figures"]
    assert tables[0]["categories"] == tables[1]["categories"]
    assert tables[0]["figures"]
    assert "misalignment" not in tables[0]["categories"]


def test_refinement_counts_misalignments_in_the_burden_but_not_in_areas(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 100))

    def attempt(at: int, *regions: Region) -> Attempt:
        return Attempt(
            index=at, action="generate", prompt="a", seed=at, image=image, analysis=analysis(*regions), accepted=True,
            reason="better",
        )  # fmt: skip

    attempts = (attempt(0, BIG, SMALL), attempt(1, SMALL))
    result = RefinementResult(prompt="a", attempts=attempts, best=1, stop="max_rounds")
    system = Refining(
        refine=lambda _: result,
        settings={"model": "m"},
        looker=Looker(detector=ScriptedDetector([])),
        pictures=tmp_path,
    )
    data = Given([sample("a", prompt="a cat")])
    run = collect(data, system, describe("refinement", data, {"specification": "given"}, system, SCORING), tmp_path)
    table = score(run).table
    assert (table["figures"]["par_before"], table["figures"]["par_best"]) == (0.01, 0.01)
    assert (table["figures"]["flaws_change"], table["figures"]["burden_change"]) == (-1, -0.5)
    assert "misalignment" not in table["categories"]
