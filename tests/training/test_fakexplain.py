"""FakeXplain trained on samples: lessons, both stages on small real models, resume, merged export, cross-validation."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.killed_trainings import assert_same_figures, figures, kill_and_resume
from support.tiny_chat_models import save_viewer

from refiner.cli import main
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.detectors.fakexplain.grammar import DIALECTS, Content, read
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError, InputError, UnreadableOutputError
from refiner.taxonomy import Category
from refiner.training.chat.running import without_foreign_warnings
from refiner.training.chat.settings import StageSettings
from refiner.training.fakexplain.grpo import config_of, reward_functions
from refiner.training.fakexplain.lessons import Style, lesson_of, lessons_of, reinforced, supervised, truth_of
from refiner.training.fakexplain.recipe import RECIPE, fold_of, micro, train_on
from refiner.training.fakexplain.settings import FakexplainSettings, GrpoSettings
from refiner.training.runs import Run
from refiner.training.settings import changed
from refiner.training.world.injected import InjectedData
from refiner.types import Analysis, Region, Size

STYLE = Style(DIALECTS["paper"], BoxFormat(), Content(), 512)
STEPS = {"most_steps": 4, "report_every": 1, "save_every": 2}
TINY = FakexplainSettings(
    rank=4, alpha=8, bf16=False, max_side=128,
    sft=StageSettings(batch=2, accumulate=1, **STEPS), grpo=GrpoSettings(accumulate=1, most_tokens=12, **STEPS),
)  # fmt: skip


class Drawn:
    """Images of different sizes; every third is real, every fourth cannot be read."""

    def __init__(self, count: int, broken: bool = True) -> None:
        self.problems: list[Problem] = []
        self.names, self.broken = tuple(f"{index}.png" for index in range(count)), broken

    def load(self, index: int) -> Sample:
        if self.broken and index % 4 == 3:
            raise InputError(f"The image {index}.png is damaged: download it again.")
        size, fake = Size(48 + 16 * (index % 3), 64), index % 3 > 0
        rng = np.random.default_rng(index)
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        box = (4 + index, 8, 40, 30 + index)
        flaw = Region(mask=None, box=box, name="the hand", explanation="it has six fingers", category=Category.ANATOMY)
        truth = Analysis(size=size, regions=(flaw,) if fake else (), detector="truth")
        return Sample(name=self.names[index], image=image, fake=fake, truth=truth)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_viewer(tmp_path_factory.mktemp("base"), context=1536)


@pytest.mark.parametrize("scale", ["thousand", "pixels", "unit"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("left_out", [(), ("boxes",), ("captions",), ("tags",), ("boxes", "captions", "tags")])
def test_a_lesson_is_read_back_as_its_truth(dialect: str, scale: Any, left_out: tuple[str, ...]) -> None:
    content = Content(**{name: name not in left_out for name in Content._fields})
    style = Style(DIALECTS[dialect], BoxFormat(scale=scale), content, 512)
    for index in range(3):
        lesson = lesson_of(Drawn(3, broken=False).load(index), style)
        shown = Size(lesson.image.height, lesson.image.width)
        found = read(lesson.answer, style.dialect, form=style.form, shown=shown)
        assert (found.tags, found.fake) == (lesson.truth.tags, lesson.truth.fake)
        assert [flaw.description for flaw in found.flaws] == [flaw.description for flaw in lesson.truth.flaws]
        for box, true in zip(found.boxes, lesson.truth.boxes, strict=True):
            assert box == pytest.approx(true, abs=0.012)  # a pixel of the smallest image


def test_a_sample_without_a_clear_truth_is_refused() -> None:
    flawed = Drawn(2, broken=False).load(1)
    for changes in ({"fake": None, "truth": None}, {"fake": True, "truth": None}, {"fake": False}):
        with pytest.raises(InputError, match=r"1\.png"):
            truth_of(replace(flawed, **changes))
    assert not truth_of(replace(flawed, fake=False, truth=None)).fake
    with pytest.raises(InputError, match="no image"):
        lesson_of(replace(flawed, image=None), STYLE)


def test_a_sample_that_cannot_be_read_is_told_once_and_replaced() -> None:
    told: list[str] = []
    lessons = lessons_of(Drawn(8), STYLE, told.append)
    assert [len(supervised(lessons)), len(reinforced(lessons))] == [8, 8]
    for _ in range(2):
        assert lessons[3].truth == lessons[4].truth
    assert len(told) == 1
    with pytest.raises(InputError, match="none that can be used"):
        lessons_of(Drawn(8), STYLE, told.append, rows=[3, 7])[0]


@pytest.mark.parametrize("dialect", ["paper", "official"])
def test_rewards_are_read_from_the_tokens(base: Path, dialect: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    marks = ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    style = STYLE._replace(dialect=DIALECTS[dialect])
    lesson = lesson_of(Drawn(3, broken=False).load(1), style)
    ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in (lesson.answer, lesson.answer[:-4])]
    logged: dict[str, float] = {}
    columns = {
        "completion_ids": ids,
        "shown": [(lesson.image.height, lesson.image.width)] * 2,
        "boxes": [lesson.truth.boxes] * 2,
        "fake": [True] * 2,
        "trainer_state": SimpleNamespace(global_step=1, max_steps=2),
        "log_metric": logged.__setitem__,
    }
    given = [function(**columns) for function in reward_functions(GrpoSettings(), style, tokenizer)]
    assert given == [[0.75, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert logged["omega"] == 0.75
    assert logged["iou"] == pytest.approx(0.5, abs=0.02)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages, never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train_on(replace(TINY, base=str(base)), Drawn(8), list(range(8)), Run(folder=folder), folder / "model")
    return folder


def test_both_stages_write_an_adapter_a_merged_model_and_curves(trained: Path, base: Path) -> None:
    config = json.loads((trained / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert not (trained / "model" / "model.safetensors").exists()
    assert (trained / "merged" / "model.safetensors").exists()
    assert (trained / "curves.png").stat().st_size > 1000
    stages = {name.split()[0] for name in figures(trained)}
    assert stages == {"sft", "grpo"}
    assert {"grpo  reward", "grpo  grounding", "grpo  verdict", "grpo  form", "grpo  omega"} <= set(figures(trained))
    assert [value for _, value in figures(trained)["grpo  omega"]] == pytest.approx([0.5, 0.625, 0.75, 0.875])


def test_the_adapter_and_the_merged_model_answer_alike(trained: Path) -> None:
    image = Drawn(8).load(1).image
    detectors = [load_detector(f"fakexplain:{trained / name}", device="cpu") for name in ("model", "merged")]
    texts = []
    for detector in detectors:
        detector.backend.max_tokens = 24
        with pytest.raises(UnreadableOutputError) as caught:
            detector(image)
        texts.append(caught.value.raw)
    assert texts[0] == texts[1] != ""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains, is killed after a step of a stage, and goes on; checkpoints are at every second step."""

    def killed(stop: tuple[str, int], settings: FakexplainSettings, data: Any, folder: Path) -> None:
        rows, run = list(range(len(data.names))), Run(folder=folder)
        kill_and_resume(
            monkeypatch, stop, lambda: train_on(settings, data, rows, run, folder / "model"), folder / "model"
        )

    return killed


@pytest.mark.parametrize("stop", [("sft", 3), ("grpo", 3)])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not(
    stop: tuple[str, int], base: Path, trained: Path, tmp_path: Path, killing: Callable[..., None]
) -> None:
    killing(stop, replace(TINY, base=str(base)), Drawn(8), tmp_path)
    assert_same_figures(trained, tmp_path)


def test_a_killed_grpo_gives_the_rewards_of_a_straight_run(tmp_path: Path, killing: Callable[..., None]) -> None:
    """With the bundled detector, whose answers earn rewards that differ, so that each step changes it."""
    own = micro()
    grpo = replace(own.grpo, most_steps=4, batch=8, report_every=1, save_every=2)
    settings = replace(own, base="micro:fakexplain", stage="grpo", grpo=grpo, merged=False)
    data = InjectedData(16)
    train_on(settings, data, list(range(16)), Run(folder=tmp_path / "straight"), tmp_path / "straight" / "model")
    killing(("grpo", 3), settings, data, tmp_path / "killed")
    assert_same_figures(tmp_path / "straight", tmp_path / "killed")
    rewards = [value for _, value in figures(tmp_path / "straight")["grpo  reward"]]
    assert min(rewards) > 1.5
    assert any(value > 0 for _, value in figures(tmp_path / "straight")["grpo  grad_norm"])


def test_both_stages_are_the_same_as_one_after_the_other(base: Path, trained: Path, tmp_path: Path) -> None:
    start = str(base)
    for stage in ("sft", "grpo"):
        settings, run = replace(TINY, base=start, stage=stage), Run(folder=tmp_path / stage)
        start = str(tmp_path / stage / "model")
        train_on(settings, Drawn(8), list(range(8)), run, Path(start))
    together = figures(trained)
    for name, curve in {**figures(tmp_path / "sft"), **figures(tmp_path / "grpo")}.items():
        assert together[name] == [(step, pytest.approx(value, abs=1e-5)) for step, value in curve], name


def test_full_training_without_an_adapter_writes_a_whole_model(base: Path, tmp_path: Path) -> None:
    settings = replace(TINY, base=str(base), rank=0, vision=False, stage="sft")
    train_on(settings, Drawn(8), list(range(8)), Run(folder=tmp_path), tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_dry_run_shows_the_first_batch_and_loads_no_weights(
    stage: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--base", str(base), "--stage", stage, "--config", "paper", "--dry-run", "--json"]
    assert main(["train", "fakexplain", "--data", "micro:12", "--out", str(tmp_path), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["parameters"]["trained"] < found["parameters"]["all"]
    assert found["images_per_step"] == 16
    assert found["steps"] == 3
    assert sorted(path.name for path in (tmp_path / "dry-run").iterdir())[-1] == "answers.json"
    answers = json.loads((tmp_path / "dry-run" / "answers.json").read_text())
    assert answers[0]["answer"].startswith("<think>")


def test_folds_split_the_samples_evenly_and_by_name_alone() -> None:
    names = [f"{index}.png" for index in range(4000)]
    parts = Counter(fold_of(name, 4) for name in names)
    assert set(parts) == {0, 1, 2, 3}
    assert min(parts.values()) > 900


def test_cross_validation_measures_each_sample_by_a_model_that_never_saw_it(tmp_path: Path) -> None:
    own = micro()
    sft = replace(own.sft, most_steps=2, batch=2, warmup=0, learning_rate=1e-5)
    settings = replace(own, base="micro:fakexplain", stage="sft", sft=sft, folds=2, merged=False)
    data = InjectedData(12)
    RECIPE.train(settings, data, Run(folder=tmp_path), tmp_path / "model")
    found = json.loads((tmp_path / "folds.json").read_text())
    assert len(found["folds"]) == 2
    for name, row in found["scores"].items():
        values = [fold[name] for fold in found["folds"] if name in fold]
        assert row == {"mean": pytest.approx(np.mean(values)), "lowest": min(values), "highest": max(values)}
    assert found["scores"]["accuracy"]["mean"] > 0.6
    for folder in (tmp_path, tmp_path / "fold-1", tmp_path / "fold-2"):
        assert (folder / "model" / "fakexplain.json").exists()
    with pytest.raises(InputError, match="lower folds"):
        RECIPE.train(replace(settings, folds=99), data, Run(folder=tmp_path / "many"), tmp_path / "many" / "model")


@pytest.mark.parametrize("engine", ["transformers", "colocate", "server"])
def test_trl_takes_what_samples_the_answers(engine: str, base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    with_vllm = engine != "transformers"
    address = "http://127.0.0.1:8000" if engine == "server" else ""
    grpo = replace(TINY.grpo, engine=engine, server=address, constrained=with_vllm)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with without_foreign_warnings():
        config = config_of(replace(TINY, grpo=grpo), STYLE, tokenizer, Run(folder=tmp_path), tmp_path)
    assert config.use_vllm == with_vllm
    if with_vllm:
        assert (config.vllm_mode, config.vllm_server_base_url or "") == (engine, address)
        answer = lesson_of(Drawn(3, broken=False).load(1), STYLE).answer
        assert re.fullmatch(config.vllm_structured_outputs_regex, answer)
    else:
        hidden = config.generation_kwargs["suppress_tokens"]
        assert "<|image_pad|>" in tokenizer.convert_ids_to_tokens(hidden)


@pytest.mark.parametrize("name", RECIPE.configs)
def test_every_config_is_valid_and_can_be_changed(name: str) -> None:
    settings = RECIPE.configs[name]()
    assert changed(settings, {"grpo": {"omega": "half"}, "folds": 4}).grpo.omega == "half"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "rl"}, {"dialect": "latin"}, {"leave_out": ["faces"]}, {"folds": 1}, {"rank": -1},
        {"grpo": {"omega": "none"}}, {"grpo": {"reward": "best"}}, {"grpo": {"engine": "server"}},
        {"grpo": {"server": "http://127.0.0.1:1"}}, {"grpo": {"constrained": True}}, {"grpo": {"answers": 1}},
        {"rank": 0, "tokens": ["a"]}, {"grpo": {"temperature": 0.0}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        changed(TINY, change)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "rl"], "sft"),
        (["--stage", "2"], "stage"),
        (["--base", "no/such-model-here/at-all"], "no/such-model-here"),
        (["--config", "paper"], "--data"),
    ],
)
def test_the_command_refuses_what_it_cannot_train(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "fakexplain", "--out", str(tmp_path / "run"), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_without_trl_the_command_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    assert main(["train", "fakexplain", "--out", str(tmp_path / "run")]) == 2
    assert ".[train]" in capsys.readouterr().err
