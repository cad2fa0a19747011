"""The benchmark: its results on records with known answers, its controls, and a real run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.cli.main import main
from refiner.detectors.chat.backend import ChatRequest, Ledger, Outcome
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, ModelError
from refiner.pipelines import RefineConfig, RefinedPipeline
from refiner.pipelines.bench import SYSTEMS, ShuffledDetector, cases, run, summarise
from refiner.pipelines.bench_tools import compare_tools, count_tools, with_editor
from refiner.pipelines.revisers.chat import ChatReviser
from refiner.repairs import tool_table
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size


def record(prompt: int, seed: int, flaws: dict[str, int], *, worse: bool = False, outside: int = 0) -> dict[str, Any]:
    row = {"oracle_area": 0.1, "denoiser_rows": 30, "detector_calls": 2, "seconds": 1.0}
    systems = {system: {**row, "oracle_flaws": flaws.get(system, 2)} for system in SYSTEMS}
    checks = [{"worse": worse, "outside_max_diff": outside}]
    return {"prompt": prompt, "seed": seed, "things": 1 + prompt % 4, "systems": systems, "checks": checks}


def test_relative_changes_and_intervals() -> None:
    report = summarise([record(prompt, 0, {"start": 4, "auto": 1}) for prompt in range(20)])
    assert report["paired"]["auto/start"] == {"change": -0.75, "ci95": [None, None]}, "no width without a difference"
    assert report["paired"]["auto/best_of_n"]["change"] == -0.5
    assert report["systems"]["auto"]["oracle_flaws"] == 1
    assert set(report["by_things"]) == {"1", "2", "3", "4"}


def test_an_interval_tells_chance_from_gain() -> None:
    rng = np.random.default_rng(0)
    noise = [record(n, 0, {"start": int(a), "auto": int(b)}) for n, (a, b) in enumerate(rng.poisson(2, (100, 2)))]
    low, high = summarise(noise)["paired"]["auto/start"]["ci95"]
    assert low < 0 < high


def test_violations_are_counted() -> None:
    records = [record(0, 0, {}), record(1, 0, {}, worse=True), record(2, 0, {}, outside=7)]
    assert summarise(records)["never_worse"] == {"runs": 3, "violations": 1, "outside_max_diff": 7}


def test_every_tool_is_compared_with_the_policies_and_what_they_repaired_is_counted(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"config": RefineConfig(max_rounds=1), "call": {"num_inference_steps": 3}}
    pipe = with_editor(RefinedPipeline.from_pretrained("micro", **settings))
    pipe.set_progress_bar_config(disable=True)
    tools: list[Any] = ["inpaint", "edit"]
    report = compare_tools(pipe, tools, 1, 1, tmp_path / "bench", lambda each: each)
    assert set(report["systems"]) == {"start", *tools, "fixed", "measured"}
    assert report["never_worse"]["violations"] == report["never_worse"]["outside_max_diff"] == 0
    assert {"measured/inpaint", "measured/edit", "fixed/edit", "measured/fixed"} <= set(report["paired"])
    assert compare_tools(pipe, tools, 1, 1, tmp_path / "bench", lambda each: [])["systems"] == report["systems"]
    table = count_tools(pipe, tools, 1, 1, tmp_path / "count", lambda each: each)
    assert {tool for row in table.values() for tool in row} == set(tools)
    with pytest.raises(ConfigError, match="other models or settings"):
        compare_tools(pipe, ["edit", "inpaint"], 1, 1, tmp_path / "bench", lambda each: each)
    assert {"anatomy", "shape"} <= tool_table("micro").keys()


def test_no_flaw_to_compare_with_is_said() -> None:
    pair = summarise([record(0, 0, {"start": 0, "auto": 0})])["paired"]["auto/start"]
    assert pair == {"change": None, "ci95": [None, None]}


def test_cases_are_the_same_prompts_for_every_seed() -> None:
    drawn = list(cases(8, 2))
    assert [case.scene for case in drawn[:8]] == [case.scene for case in drawn[8:]]
    assert [len(case.scene.things) for case in drawn[:8]] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert {case.seed for case in drawn[8:]} == {1}


def test_shuffled_masks_keep_their_number_size_and_words() -> None:
    mask = np.zeros((96, 96), dtype=bool)
    mask[10:20, 30:50] = True
    region = Region(mask=mask, box=(30, 10, 50, 20), name="the hand", category=Category.ANATOMY, severity=0.5)
    analysis = Analysis(size=Size(96, 96), detector="spots", regions=(region, replace(region, name="the clock")))
    shuffled = ShuffledDetector(ScriptedDetector(lambda _: analysis, name="spots"))
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)) for _ in range(8)]
    answers = shuffled.batch(pictures)
    assert all([each.name for each in answer.regions] == ["the hand", "the clock"] for answer in answers)
    assert all(each.pixels(answer.size).sum() == mask.sum() for answer in answers for each in answer.regions)
    assert any((answer.regions[0].pixels(answer.size) != mask).any() for answer in answers)
    assert (shuffled(pictures[0]).regions[0].pixels(Size(96, 96)) == answers[0].regions[0].pixels(Size(96, 96))).all()


@pytest.fixture(scope="module")
def pipe() -> RefinedPipeline:
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_run_is_resumed_and_refuses_records_of_other_settings(pipe: RefinedPipeline, tmp_path: Path) -> None:
    report = run(pipe, 2, 1, tmp_path)
    assert report["never_worse"] == {"runs": 6, "violations": 0, "outside_max_diff": 0}
    assert set(report["systems"]) == set(report["signs"]) == set(SYSTEMS)
    rows = {system: row["denoiser_rows"] for system, row in report["systems"].items()}
    assert min(rows["best_of_n"], rows["more_steps"]) >= rows["auto"] >= rows["start"] > 0
    records = (tmp_path / "records.jsonl").read_bytes()
    json.dumps(report, allow_nan=False)

    asked: list[object] = []
    assert run(pipe, 2, 1, tmp_path, lambda left: asked.extend(left) or left) == report
    assert asked == []
    assert (tmp_path / "records.jsonl").read_bytes() == records

    other = RefinedPipeline.from_pipe(
        pipe.pipe, detector=pipe.detector, judge=pipe.judge, config=replace(pipe.refine_config, max_rounds=1)
    )
    with pytest.raises(ConfigError, match="another folder"):
        run(other, 2, 1, tmp_path)

    class Writer:
        name, max_side, ledger = "writer", 1, Ledger()

        def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
            return [ModelError("silence") for _ in requests]

    other = RefinedPipeline.from_pipe(
        pipe.pipe, detector=pipe.detector, judge=pipe.judge, config=pipe.refine_config, reviser=ChatReviser(Writer())
    )
    with pytest.raises(ConfigError, match="another folder"):
        run(other, 2, 1, tmp_path)


def test_records_of_a_detector_with_other_settings_are_refused(pipe: RefinedPipeline, tmp_path: Path) -> None:
    probing = RefinedPipeline.from_pipe(pipe.pipe, detector="micro:probe", call=pipe.call_defaults)
    run(probing, 1, 1, tmp_path)
    probing.detector.config = replace(probing.detector.config, threshold=0.2)
    with pytest.raises(ConfigError, match="another folder"):
        run(probing, 1, 1, tmp_path)


def test_the_command_line_tells_wrong_signs_by_both_referees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(prompt, 0, {}) for prompt in range(2)]
    for each in records:
        each["systems"]["start"] |= {"signs": 2, "oracle_signs": 1, "text_signs": 2}
        each["systems"]["inpaint"] |= {"signs": 0, "oracle_signs": 0, "text_signs": 0}
    monkeypatch.setattr("refiner.pipelines.bench.run", lambda *_: summarise(records))
    assert main(["micro", "bench", "--out", str(tmp_path)]) == 0
    told = " ".join("".join(capsys.readouterr()).split())
    assert "wrong signs of start, of 4: 2 by the referee, 4 by the reader of lettering" in told
    assert told.count("wrong signs of") == 1


@pytest.mark.parametrize("option", ["--detector", "--reviser"])
def test_the_command_line_names_who_looks_and_who_revises(option: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["micro", "bench", option, "chatter:x", "--out", str(tmp_path)]) == 2
    assert "chatter" in capsys.readouterr().err
