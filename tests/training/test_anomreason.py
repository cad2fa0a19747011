"""AnomReasonor trained on samples: conversations, refused samples, and a small real model that is tuned and loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.killed_trainings import assert_same_figures, figures, kill_and_resume
from support.tiny_chat_models import save_viewer

from refiner.cli import main
from refiner.data.anomreason import from_regions
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.detectors.anomreason.grammar import FORMATS, NOTHING, read, read_reasons, read_verdict
from refiner.detectors.anomreason.notes import Note
from refiner.detectors.anomreason.question import IS_IT_GENERATED, questions
from refiner.detectors.anomreason.reasonor import AnomReasonorDetector
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError, InputError
from refiner.taxonomy import Category
from refiner.training.anomreason.lessons import lesson_of, lessons_of, supervised
from refiner.training.anomreason.recipe import RECIPE, train_on
from refiner.training.anomreason.settings import AnomreasonSettings
from refiner.training.chat.settings import StageSettings
from refiner.training.runs import Run
from refiner.training.settings import changed
from refiner.types import Analysis, Region, Size

NOTES = [Note(form, boxes, 512) for form in FORMATS for boxes in (None, BoxFormat(), BoxFormat(scale="pixels"))]


class Drawn:
    """Images with one anomaly each; every second one is real, with a description."""

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.names = tuple(f"{index}.png" for index in range(count))

    def load(self, index: int) -> Sample:
        size, fake = Size(56, 84), index % 2 == 0
        rng = np.random.default_rng(index)
        flaw = Region(
            mask=None, box=(10, 8, 40, 30), name="the hand", explanation="it has six fingers", severity=0.8,
            reasoning="a hand has five fingers", category=Category.ANATOMY,
        )  # fmt: skip
        regions = (flaw,) if fake else ()
        return Sample(
            name=self.names[index],
            image=Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)),
            fake=fake,
            truth=Analysis(size=size, regions=regions, detector="truth"),
            anomalies=from_regions(regions),
            caption="" if fake else "The light falls from one side.",
        )


def rows(note: Note, count: int, variants: int) -> list[dict[str, Any]]:
    made = supervised(lessons_of(Drawn(count), note, print), note, variants)
    return [made[place] for place in range(len(made))]


@pytest.mark.parametrize("note", NOTES, ids=str)
def test_each_answer_is_read_back_by_the_detector_s_reader(note: Note) -> None:
    form, shown = note.boxes or BoxFormat(), Size(56, 84)
    for row in rows(note, 2, 2):
        turns, answer = row["prompt"], row["completion"][0]["content"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"][: len(turns)]
        if turns[-1]["content"] == IS_IT_GENERATED:
            assert read_verdict(answer) == (row["images"][0] == lesson_of(Drawn(1).load(0), note).image)
            continue
        if note.form == "anomaly_only":
            found = read(answer, form=form, shown=shown)
        else:
            found = read_reasons(answer, fake=read_verdict(turns[1]["content"]), form=form, shown=shown)
        for anomaly in found:
            assert (anomaly.name, anomaly.phenomenon) == ("the hand", "it has six fingers")
            assert anomaly.reasoning == "a hand has five fingers"
            assert anomaly.severity == pytest.approx(0.8)
            assert (anomaly.box is None) == (note.boxes is None)


def test_each_image_is_asked_about_in_every_way() -> None:
    found = rows(NOTES[0], 3, 10)
    assert len(found) == 30
    for place in range(0, 30, 10):
        asked = {row["prompt"][-1]["content"].split("\n")[0] for row in found[place : place + 10]}
        assert asked == set(questions())


def test_verdicts_and_reasons_take_turns_and_a_real_image_is_described() -> None:
    found = rows(Note("authenticity_reasoning", None, 512), 2, 1)
    assert [row["completion"][0]["content"] for row in found[::2]] == ["Yes", "No"]
    assert found[3]["completion"][0]["content"] == "The light falls from one side."
    silent = replace(Drawn(2).load(1), caption="")
    assert lesson_of(silent, NOTES[0]).realism == ""
    assert rows(NOTES[0], 2, 1)[1]["completion"][0]["content"] == NOTHING


@pytest.mark.parametrize(
    "changes",
    [{"anomalies": None, "truth": None}, {"fake": None, "anomalies": None, "truth": None}, {"fake": False}],
)
def test_a_sample_without_a_clear_truth_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"0\.png"):
        lesson_of(replace(Drawn(1).load(0), **changes), NOTES[0])


def test_a_mask_that_joins_the_flaws_says_nothing_in_words() -> None:
    with pytest.raises(InputError, match="not known"):
        lesson_of(replace(Drawn(1).load(0), anomalies=None, itemised=False), NOTES[0])


def test_a_small_model_is_tuned_and_loaded_as_a_detector(tmp_path: Path) -> None:
    base = save_viewer(tmp_path / "base", context=1536)
    stage = StageSettings(most_steps=2, batch=2, accumulate=1, warmup=0.03, report_every=1, save_every=2)
    settings = AnomreasonSettings(
        base=str(base), rank=4, alpha=8, dropout=0.5, vision=False, bf16=False, boxes=True, max_side=128, sft=stage
    )
    train_on(settings, Drawn(4), Run(folder=tmp_path), tmp_path / "model")
    assert [step for step, _ in figures(tmp_path)["sft  loss"]] == [1, 2]
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert not any("visual" in name for name in config["target_modules"])
    for folder in (tmp_path / "model", tmp_path / "merged"):
        detector = load_detector(str(folder), device="cpu")
        assert isinstance(detector, AnomReasonorDetector)
        assert detector.note == Note("authenticity_reasoning", BoxFormat(), 128)


@pytest.mark.parametrize("drawn", [False, True], ids=["samples", "drawn images"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_viewer(tmp_path / "base", context=1536)
    stage = StageSettings(most_steps=4, batch=2, accumulate=1, report_every=1, save_every=2)
    settings = AnomreasonSettings(base=str(base), rank=4, alpha=8, bf16=False, max_side=128, merged=False, sft=stage)
    data = None if drawn else Drawn(6)
    for name in ("straight", "killed"):
        folder = tmp_path / name

        def train(folder: Path = folder) -> None:
            train_on(settings, data, Run(folder=folder), folder / "model")

        if name == "straight":
            train()
        else:
            kill_and_resume(monkeypatch, ("sft", 3), train, folder / "model")
    assert_same_figures(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.parametrize("name", RECIPE.configs)
def test_every_config_is_valid_and_can_be_changed(name: str) -> None:
    assert changed(RECIPE.configs[name](), {"format": "anomaly_only", "sft": {"warmup": 20}}).sft.warmup == 20


@pytest.mark.parametrize("change", [{"format": "free"}, {"variants": 0}, {"variants": 11}, {"max_side": 8}], ids=str)
def test_settings_that_cannot_be_used_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        changed(AnomreasonSettings(), change)


@pytest.mark.parametrize("name", ["paper", "released"])
def test_the_command_asks_for_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "anomreason", "--config", name, "--out", str(tmp_path / "run")]) == 2
    assert "--data" in capsys.readouterr().err
