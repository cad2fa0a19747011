"""``refiner train``: the list of recipes, bad configs, and runs that are refused, resumed and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.throwaway_recipe import ROW

from refiner.cli import main
from refiner.training import RECIPES

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``refiner train`` in an empty folder, with one more recipe in the table: exit code, stdout and stderr."""
    monkeypatch.setattr("refiner.training.RECIPES", {**RECIPES, **ROW})
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["train", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def written(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_every_recipe_is_listed(train: Command) -> None:
    code, out, _ = train("--list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert list(rows) == [*RECIPES, "throwaway"]
    assert all(row["help"] and row["budget"] for row in rows.values())
    assert rows["throwaway"]["data"]
    assert rows["generator"]["data"] is None


def test_a_recipe_or_a_list_is_asked_for(train: Command) -> None:
    for arguments in ((), ("legion", "--list")):
        with pytest.raises(SystemExit) as stopped:
            train(*arguments)
        assert stopped.value.code == 2


def test_one_row_makes_a_recipe_that_trains_resumes_and_exports(train: Command, tmp_path: Path) -> None:
    common = ("throwaway", "--data", "micro:8", "--device", "cpu")
    code, out, err = train(*common, "--config", written(tmp_path, {"save_every": 2}), "--out", "straight", "--json")
    assert (code, json.loads(out)["files"]["model"]) == (0, "straight/model"), err
    run = tmp_path / "straight"
    assert {"config.json", "log.jsonl", "curves.png", "toy.pt", "model"} <= {path.name for path in run.iterdir()}
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "toy"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["stage"] == "more"] == [1, 2]
    with Image.open(run / "curves.png") as picture:
        assert min(picture.size) >= 100
    assert "toy 6/6" in err, "expected plain lines without a terminal"

    code, _, err = train(*common, "--out", "straight")
    assert (code, "--resume" in err) == (2, True)
    straight = load_file(run / "model" / "model.safetensors")
    assert train("throwaway", "--device", "cpu", "--out", "straight", "--resume")[0] == 0
    again = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(straight[name], again[name]) for name in straight)

    code, _, err = train(
        "throwaway", "--device", "cpu", "--out", "straight", "--resume", "--config", written(tmp_path, {"steps": 8})
    )
    assert code == 2
    assert "settings.steps is 6 in the run and 8 now" in err
    code, _, err = train("throwaway", "--data", "micro:9", "--out", "straight", "--resume")
    assert (code, "micro:9" in err) == (2, True)


def test_an_interrupted_run_goes_on_to_the_same_weights(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("throwaway", "--data", "micro:8", "--device", "cpu", "--config", written(tmp_path, {"save_every": 2}))
    assert train(*common, "--out", "straight")[0] == 0
    from refiner.training import fit

    with monkeypatch.context() as patch:
        save, saved = fit.save_checkpoint, list[int]()

        def save_and_stop(path: Path, state: dict[str, int]) -> None:
            save(path, state)
            saved.append(state["step"])
            if len(saved) == 2:
                raise KeyboardInterrupt

        patch.setattr(fit, "save_checkpoint", save_and_stop)
        assert train(*common, "--out", "broken")[0] == 130
    assert saved == [2, 4]
    assert not (tmp_path / "broken" / "model").exists()
    assert train("throwaway", "--device", "cpu", "--out", "broken", "--resume")[0] == 0
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("straight", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("not json", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ([], "Expected a JSON object"),
        ({"speed": 3}, "no setting speed"),
        ({"__class__": 3}, "no setting __class__"),
        ({"steps": "many"}, "a whole number for steps"),
        ({"steps": True}, "a whole number for steps"),
        ({"steps": 1.5}, "a whole number for steps"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": -1}, "learning_rate must be above 0"),
        ('{"learning_rate": NaN}', "a number for learning_rate"),
        ('{"learning_rate": 1e999}', "a number for learning_rate"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": None}, "a whole number for seed"),
    ],
)
def test_a_bad_config_is_refused_by_field_before_any_work(
    train: Command, tmp_path: Path, document: object, said: str
) -> None:
    config = written(tmp_path, document)
    code, out, err = train("throwaway", "--data", "micro:8", "--config", config, "--out", "run")
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_settings_in_settings_are_named_in_full(train: Command, tmp_path: Path) -> None:
    code, _, err = train("legion", "--config", written(tmp_path, {"architecture": {"heads": "two"}}))
    assert (code, "architecture.heads" in err) == (2, True)
    code, _, err = train("vlm", "--config", written(tmp_path, {"architecture": {"deepstack": [1, "x"]}}))
    assert (code, "architecture.deepstack" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "no recipe 'nobody'"),
        (("throwaway",), "name them with --data"),
        (("vlm", "--data", "micro:8"), "takes no --data"),
        (("legion", "--config", "legion-paper"), "legion-paper learns from samples: name them with --data"),
        (("legion", "--stage", "2"), "--stage learns from samples: name them with --data"),
        (("legion", "--data", "micro:8", "--stage", "3"), "stage must be from 1 to 2"),
        (("legion", "--data", "micro:8", "--config", "micro", "--config", "legion-paper"), "Expected one config"),
        (("legion", "--data", "micro:8", "--config", "micro", "--stage", "2"), "--base"),
        (("legion", "--data", "micro:8", "--base", "micro:judge"), "micro:judge"),
        (("throwaway", "--data", "micro:8", "--stage", "1"), "throwaway takes no --stage: leave it out"),
        (("aligngemini", "--data", "micro:8", "--base", "micro:vlm"), "--base: set semantic.base or pixel.base"),
        (("throwaway", "--data", "micro:8", "--dry-run"), "dry run"),
        (("throwaway", "--data", "micro:8", "--resume"), "no run to resume"),
        (("throwaway", "--data", "micro:x"), "micro"),
        (("throwaway", "--data", "micro:8", "--config", "missing.json"), "missing.json"),
        (("throwaway", "--data", "micro:8", "--dtype", "int8"), "'int8'"),
        (("throwaway", "--data", "micro:8", "--device", "abacus"), "'abacus'"),
    ],
)
def test_what_cannot_be_done_is_refused(train: Command, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = train(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert not (tmp_path / "runs").exists()
