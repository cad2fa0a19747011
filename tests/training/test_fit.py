"""The training loop: checked settings, micro-batches, several processes, devices and dtypes, the files of a run."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.launching import launch
from support.throwaway_recipe import RECIPE, Settings
from torch import Tensor, nn

from refiner.data.sources import open_data
from refiner.errors import ConfigError, WeightsError
from refiner.training.checkpoints import save_checkpoint
from refiner.training.curves import read_curves
from refiner.training.fit import Draw, FitSettings, fit
from refiner.training.processes import sharding_works
from refiner.training.progress import Progress
from refiner.training.runs import Run

SHARDED = pytest.mark.skipif(not sharding_works(torch.__version__), reason="this PyTorch is too old for FSDP")

TOY = ["throwaway", "--data", "micro:8"]
"""What several processes train."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1), ("learning_rate", 0.0), ("learning_rate", float("nan")), ("warmup", -1), ("weight_decay", -0.1),
        ("ema", 1.5), ("seed", -1), ("clip", 0.0), ("accumulate", 0), ("dtype", "float16"), ("report_every", 0),
        ("save_every", 0),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        FitSettings(**{"steps": 1, "learning_rate": 0.1, name: value})


def test_the_first_part_draws_what_a_step_of_one_part_draws() -> None:
    assert Draw(7).key == (7,)
    assert Draw(7).seed(3) == 3 * 1_000_003 + 7
    seeds = {Draw(step, part).seed(0) % 2**32 for step in range(300) for part in range(16)}
    keys = {Draw(step, part).key for step in range(300) for part in range(16)}
    assert len(seeds) == len(keys) == 300 * 16


def batch_of(part: Draw) -> Tensor:
    return torch.tensor(np.random.default_rng(part.key).normal(size=(8, 4)), dtype=torch.float32)


def trained(folder: Path, draw: object = batch_of, device: str = "cpu", **values: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    settings = FitSettings(**{"steps": 6, "learning_rate": 0.02, "warmup": 2, "report_every": 1, **values})
    run = Run(folder=folder, device=device)
    fit(network, draw, lambda batch: ((network(batch) - 1).square().mean(), {}), settings, run, "toy")  # type: ignore[arg-type]
    return network.state_dict()


def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    def both(part: Draw) -> Tensor:
        return torch.cat([batch_of(part), batch_of(Draw(part.step, 1))])

    one, two = trained(tmp_path / "one", accumulate=2), trained(tmp_path / "two", both)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-5, atol=1e-6)


def test_an_accumulated_run_resumes(tmp_path: Path) -> None:
    def stopping(part: Draw) -> Tensor:
        if part == Draw(3, 1):
            raise KeyboardInterrupt
        return batch_of(part)

    straight = trained(tmp_path / "straight", accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", stopping, accumulate=2, save_every=2)
    resumed = trained(tmp_path / "broken", accumulate=2)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    curves = read_curves(tmp_path / "broken" / "log.jsonl")
    assert curves == read_curves(tmp_path / "straight" / "log.jsonl")


def test_the_last_weights_may_be_asked_for(tmp_path: Path) -> None:
    last, average = trained(tmp_path / "last", average=False), trained(tmp_path / "average")
    assert not torch.equal(last["0.weight"], average["0.weight"])
    kept = torch.load(tmp_path / "average" / "toy.pt", weights_only=True)
    assert torch.equal(kept["module"]["0.weight"], last["0.weight"])


def test_bfloat16_is_near_float32_and_weights_stay_float32(tmp_path: Path) -> None:
    exact, rounded = trained(tmp_path / "exact"), trained(tmp_path / "rounded", dtype="bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in rounded.values())
    assert not torch.equal(exact["0.weight"], rounded["0.weight"])
    torch.testing.assert_close(exact["0.weight"], rounded["0.weight"], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str, tmp_path: Path) -> None:
    if {"cuda": torch.cuda, "mps": torch.backends.mps}[device].is_available():
        pytest.skip(f"this machine has {device}")
    with pytest.raises(ConfigError, match=device):
        trained(tmp_path, device=device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_learns_the_same(tmp_path: Path) -> None:
    here, there = trained(tmp_path / "cpu"), trained(tmp_path / "cuda", device="cuda")
    for name, tensor in here.items():
        torch.testing.assert_close(there[name].cpu(), tensor, rtol=1e-4, atol=1e-5)


def test_a_run_keeps_its_log_its_curves_and_nothing_half_written(tmp_path: Path) -> None:
    trained(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {"stage", "step", "seconds", "loss"}
    assert read_curves(tmp_path / "log.jsonl") == {"toy  loss": [(row["step"], row["loss"]) for row in rows]}
    assert not list(tmp_path.glob("*.partial"))
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_terminal_shows_a_bar_and_no_lines(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    with Progress(tmp_path, "toy", 0, 4, console) as progress:
        progress.report(2, {"loss": 0.5})
    assert "2/4" in shown.getvalue()
    assert "steps/s" not in shown.getvalue()


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "toy.pt", {"trainee": {}, "step": 3})
    with pytest.raises(WeightsError, match=r"toy\.pt"):
        trained(tmp_path)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    (tmp_path / "toy.pt").write_bytes(pickle.dumps({"module": Trap()}))
    with pytest.raises(WeightsError, match=r"toy\.pt"):
        trained(tmp_path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("environment", "tolerance"),
    [({}, 1e-6), pytest.param({"ACCELERATE_USE_FSDP": "true"}, 1e-5, marks=SHARDED)],
    ids=["each holds all weights", "each holds a part of every weight"],
)
def test_two_processes_learn_what_one_does_with_the_same_global_batch(
    tmp_path: Path, environment: dict[str, str], tolerance: float
) -> None:
    data = open_data("micro:8")
    RECIPE.train(Settings(accumulate=2), data, Run(folder=tmp_path / "one"), tmp_path / "one" / "model")
    launch("support.train_throwaway", TOY, tmp_path / "two", environment)
    for stage in ("toy", "more"):
        logs = [read_curves(tmp_path / name / "log.jsonl")[f"{stage}  loss"] for name in ("one", "two")]
        assert logs[0] == [(step, pytest.approx(loss, rel=tolerance)) for step, loss in logs[1]]
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=10 * tolerance, atol=tolerance)
    if environment:  # the checkpoint of a sharded run is unsharded: one process or several can read it
        (tmp_path / "two" / "model" / "model.safetensors").unlink()
        launch("support.train_throwaway", TOY, tmp_path / "two", environment)
        again = load_file(tmp_path / "two" / "model" / "model.safetensors")
        assert all(torch.equal(two[name], again[name]) for name in two)


@pytest.mark.parametrize(
    ("version", "works"),
    [("2.7.0", False), ("2.9.1+cpu", False), ("2.12.0", True), ("2.15.0+cu132", True), ("3.0", True)],
)
def test_sharded_weights_need_a_pytorch_that_computes_their_losses_right(version: str, works: bool) -> None:
    assert sharding_works(version) == works
