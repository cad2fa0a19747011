"""Device, dtype and offload: the same rules wherever models are loaded."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner.errors import ConfigError  # noqa: E402
from refiner.machine import DTYPES, Machine, device_of  # noqa: E402

KINDS = {"cuda": torch.cuda, "mps": torch.backends.mps}


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let torch say that this machine has these devices; the GPUs are given by their compute capability."""

    def say(*kinds: str, gpus: tuple[tuple[int, int], ...] = ((9, 0),)) -> None:
        for kind, module in KINDS.items():
            monkeypatch.setattr(module, "is_available", lambda kind=kind: kind in kinds)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus) if "cuda" in kinds else 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=0: gpus[int(device)])

    return say


@pytest.mark.parametrize(
    ("kinds", "device"), [(("cuda", "mps"), "cuda"), (("cuda",), "cuda"), (("mps",), "mps"), ((), "cpu")]
)
def test_the_default_is_the_first_of_cuda_mps_and_cpu(has: Any, kinds: tuple[str, ...], device: str) -> None:
    has(*kinds)
    assert device_of(None) == Machine.choose().device == torch.device(device)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_named_device_is_that_device(has: Any, name: str) -> None:
    has("cuda", "mps", gpus=((9, 0), (9, 0)))
    assert device_of(name) == torch.device(name)


@pytest.mark.parametrize("name", ["abacus", "cuda:2", "cuda:x", "cuda:", "cpu:1", "meta", "", "mps"])
def test_a_device_that_is_not_there_is_refused(has: Any, name: str) -> None:
    has("cuda", gpus=((9, 0), (9, 0)))
    with pytest.raises(ConfigError, match=r": choose .+\."):
        device_of(name)


@pytest.mark.parametrize(
    ("device", "gpus", "dtype"),
    [
        ("cuda", ((9, 0),), torch.bfloat16),
        ("cuda", ((8, 0), (9, 0)), torch.bfloat16),
        ("cuda", ((7, 5),), torch.float16),
        ("cuda", ((9, 0), (7, 5)), torch.float16),
        ("mps", (), torch.float16),
        ("cpu", ((9, 0),), torch.float32),
    ],
)
def test_pipelines_are_half_precision_on_a_gpu(has: Any, device: str, gpus: Any, dtype: Any) -> None:
    has("cuda", "mps", gpus=gpus)
    assert Machine.choose(device).pipeline_dtype is dtype
    for name in DTYPES:
        assert Machine.choose(device, name).pipeline_dtype is getattr(torch, name)


def test_a_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'int8'"):
        Machine.choose("cpu", "int8")


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
def test_a_cpu_has_nothing_to_offload_from(has: Any, offload: Any) -> None:
    has()
    with pytest.raises(ConfigError, match="the CPU: choose a GPU"):
        Machine.choose(offload=offload)


def test_a_pipeline_is_moved_or_offloaded() -> None:
    """Offloading is tried with the CPU as the device, which diffusers allows."""
    cpu = torch.device("cpu")
    pipes = {offload: stable_diffusion() for offload in ("none", "model", "sequential", "group")}
    for offload, pipe in pipes.items():
        Machine(device=cpu, offload=offload).place(pipe)
    assert not hasattr(pipes["none"].unet, "_hf_hook")
    assert pipes["model"].unet._hf_hook.__class__.__name__ == "CpuOffload"
    assert {weight.device.type for weight in pipes["sequential"].unet.parameters()} == {"meta"}
    assert any(hasattr(module, "_diffusers_hook") for module in pipes["group"].unet.modules())
    assert {pipe._execution_device.type for pipe in pipes.values()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offload", ["none", "model", "sequential", "group"])
def test_an_offloaded_pipeline_computes_on_the_gpu(offload: Any) -> None:
    pipe = stable_diffusion().to(torch.float16)
    Machine.choose("cuda", offload=offload).place(pipe)
    assert pipe._execution_device.type == "cuda"
    assert len(pipe("a red hand", num_inference_steps=2).images) == 1
