"""Pipelines in less memory: quantised, in half precision, with xformers, offloaded; on tiny random weights."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import accelerate.hooks  # noqa: E402
from diffusers.utils import is_xformers_available  # noqa: E402
from support.repairs import NOISE, mended, pictures, refined, weights  # noqa: E402
from support.tiny_pipelines import TINY, stable_diffusion  # noqa: E402

from refiner.pipelines.painting.families import denoiser_of  # noqa: E402
from refiner.pipelines.saving.record import fingerprints  # noqa: E402

pytestmark = NOISE


class Int8Linear(torch.nn.Module):
    """A stand-in for a layer of a quantiser: it must not be cast (like those of bitsandbytes) or moved."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))
        self.bias = layer.bias
        self.in_features = layer.in_features  # read by the SDXL of diffusers; layers of quantisers have it

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(values, self.weight * self.scale, self.bias)

    def _apply(self, *_args: Any, **_options: Any) -> None:
        raise AssertionError("a quantised layer was cast or moved")


def quantise(module: torch.nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, torch.nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantise(child)


@pytest.mark.parametrize("name", [name for name in TINY if name != "hunyuan-dit"])  # whose pooling reads bare weights
def test_quantised_denoisers_are_neither_cast_nor_copied(name: str) -> None:
    tiny = TINY[name]
    base = tiny.build()
    plain = pictures(mended(refined(base, call=tiny.call, native=tiny.native)))
    denoiser = denoiser_of(base)
    quantise(denoiser)
    before = weights(base)
    assert sum(isinstance(module, Int8Linear) for module in denoiser.modules()) > 5
    assert pictures(mended(refined(base, call=tiny.call, native=tiny.native)))[0] != plain[0]
    assert weights(base) == before


@pytest.mark.parametrize("name", [name for name in TINY if name != "hunyuan-dit"])  # whose pooling reads bare weights
@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_denoisers_that_torchao_quantised_paint_and_stay_quantised(name: str, kind: str) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    tiny = TINY[name]
    base = tiny.build().to(torch.bfloat16)
    denoiser = denoiser_of(base)
    plain = fingerprints({"denoiser": denoiser})
    quantization.quantize_(denoiser, getattr(quantization, kind)())
    before = fingerprints({"denoiser": denoiser})
    assert before != plain
    pipe = refined(base, call=tiny.call, native=tiny.native)
    assert pictures(mended(pipe)) == pictures(mended(pipe))
    assert fingerprints({"denoiser": denoiser}) == before


def as_gguf(module: torch.nn.Module) -> int:
    """Replace the linear layers whose rows fill whole blocks by those of a GGUF file; returns their number."""
    from gguf import GGMLQuantizationType, quants

    utils = pytest.importorskip("diffusers.quantizers.gguf.utils")
    kind, count = GGMLQuantizationType.Q8_0, 0
    for name, child in module.named_children():
        if type(child) is torch.nn.Linear and child.in_features % 32 == 0:
            bias = child.bias
            layer = utils.GGUFLinear(child.in_features, child.out_features, bias is not None, torch.bfloat16)
            packed = torch.from_numpy(quants.quantize(child.weight.detach().float().numpy(), kind))
            layer.weight, layer.bias = utils.GGUFParameter(packed, quant_type=kind), bias
            setattr(module, name, layer)
            count += 1
        else:
            count += as_gguf(child)
    return count


@pytest.mark.parametrize("name", [name for name in TINY if name != "hunyuan-dit"])  # whose pooling reads bare weights
def test_denoisers_from_gguf_files_paint_and_stay_as_they_are(name: str) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    tiny = TINY[name]
    base = tiny.build().to(torch.bfloat16)
    denoiser = denoiser_of(base)
    assert as_gguf(denoiser) > 0
    before = fingerprints({"denoiser": denoiser})
    pipe = refined(base, call=tiny.call, native=tiny.native)
    assert pictures(mended(pipe)) == pictures(mended(pipe))
    assert fingerprints({"denoiser": denoiser}) == before


class Packed(torch.Tensor):
    """A quantised weight as torchao stores it: it has another tensor inside, and can be computed with in no way."""

    data_inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> Packed:
        packed: Packed = torch.Tensor._make_wrapper_subclass(cls, inside.shape, dtype=torch.bfloat16)
        packed.data_inside = inside
        return packed

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_inside"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_args: Any, **_options: Any) -> Any:
        raise NotImplementedError(f"{function} of a packed weight")


def test_the_record_tells_packed_weights_apart() -> None:
    digests = []
    for value in (1, 1, 2):
        network = torch.nn.Module()
        network.register_buffer("weight", Packed(torch.full((4, 4), value, dtype=torch.int8)))
        digests.append(fingerprints({"network": network})["network"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", TINY)
def test_half_precision_stays_half_precision(name: str) -> None:
    base = TINY[name].build().to(torch.float16)
    mended(refined(base, native=32, call=TINY[name].call))
    parts = [part for part in base.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.dtype for part in parts} == {torch.float16}


@pytest.mark.skipif(is_xformers_available(), reason="xformers is installed: the next test is the one")
def test_without_xformers_it_is_diffusers_that_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="xformers"):
        refined(stable_diffusion()).enable_xformers_memory_efficient_attention()


@pytest.mark.gpu
@pytest.mark.skipif(not (is_xformers_available() and torch.cuda.is_available()), reason="needs xformers and a GPU")
def test_xformers_reaches_generating_and_repainting() -> None:
    pipe = refined(stable_diffusion()).to("cuda")
    pipe.enable_xformers_memory_efficient_attention()
    mended(pipe)
    assert all("XFormers" in type(processor).__name__ for processor in pipe.unet.attn_processors.values())


@pytest.mark.parametrize("name", TINY)
def test_models_offloaded_one_by_one_paint_the_same_and_stay_offloaded(name: str) -> None:
    tiny = TINY[name]
    own = stable_diffusion()
    for inpainter in (None, own):
        pipe = refined(tiny.build(), call=tiny.call, native=32, inpainter=inpainter)
        plain = pictures(mended(pipe))
        pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert pictures(mended(pipe)) == plain
        for each in (pipe.pipe, inpainter or pipe.pipe):
            assert all(hasattr(part, "_hf_hook") for part in (each.vae, each.text_encoder))


@pytest.fixture
def layers_load_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accelerate's layer hooks load onto the CPU as onto a GPU: as a copy, with weights as parameters.

    A weight that is on the device already it hands over as it is, and then refuses to put it away again.
    """
    place = accelerate.hooks.set_module_tensor_to_device

    def load(module: torch.nn.Module, name: str, device: Any, value: Any = None, **options: Any) -> None:
        if value is None or torch.device(device).type != "cpu":
            place(module, name, device, value=value, **options)
        elif name in module._parameters:
            module._parameters[name] = torch.nn.Parameter(value.clone(), requires_grad=False)
        else:
            module._buffers[name] = value.clone()

    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", load)


@pytest.mark.usefixtures("layers_load_on_the_cpu")
@pytest.mark.parametrize("name", [name for name in TINY if name != "hunyuan-dit"])  # whose pooling diffusers cannot
def test_models_offloaded_layer_by_layer_paint_the_same_and_stay_offloaded(name: str) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=32)
    plain = pictures(mended(pipe))
    pipe.enable_sequential_cpu_offload(device="cpu")
    for _ in range(2):
        assert pictures(mended(pipe)) == plain
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {weight.device.type for module in modules for weight in module.parameters()} == {"meta"}


@pytest.mark.parametrize("name", [name for name in TINY if name != "hunyuan-dit"])  # which diffusers does not so
def test_models_offloaded_by_groups_paint_the_same(name: str) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=32)
    plain = pictures(mended(pipe))
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert pictures(mended(pipe)) == plain


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloading layer by layer needs a GPU")
@pytest.mark.parametrize("name", ["sd", "aura-flow"])
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloaded_pipelines_paint_on_the_gpu_and_leave_it(name: str, way: str) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=32)
    getattr(pipe, way)()
    mended(pipe)
    assert pipe.vae.device.type in ("cpu", "meta")
    assert torch.cuda.memory_allocated() < 2**24
