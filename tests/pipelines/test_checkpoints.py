"""Pipelines in single checkpoint files, as published: the same pipeline as the folder that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline, FluxPipeline  # noqa: E402
from support.checkpoints import (  # noqa: E402
    save_checkpoint,
    sd_checkpoint,
    sdxl_checkpoint,
    stable_diffusion_1,
    stable_diffusion_xl_base,
)
from support.hub import Hub, Repo, loopback_hub  # noqa: E402
from support.tiny_pipelines import flux  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError, ModelNotFoundError, RefinerError, WeightsError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402

PROMPT = "a red hand"


class Published(NamedTuple):
    pipe: DiffusionPipeline
    file: Path
    folder: Path
    """Its configuration, without weights."""
    repository: str
    """Where diffusers looks for the configuration."""


BUILT: dict[str, tuple[Callable[[], DiffusionPipeline], Callable[[DiffusionPipeline], Any], str]] = {
    "sd": (stable_diffusion_1, sd_checkpoint, "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "sdxl": (stable_diffusion_xl_base, sdxl_checkpoint, "stabilityai/stable-diffusion-xl-base-1.0"),
}


@pytest.fixture(scope="module", params=sorted(BUILT))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    build, state_of, repository = BUILT[request.param]
    home, pipe = tmp_path_factory.mktemp(request.param), build()
    pipe.save_pretrained(home / "folder")
    for weights in (home / "folder").rglob("*.safetensors"):
        weights.unlink()
    return Published(pipe, save_checkpoint(state_of(pipe), home / "model.safetensors"), home / "folder", repository)


@pytest.fixture
def hub(tmp_path: Path, published: Published) -> Iterator[Hub]:
    with loopback_hub(tmp_path / "cache") as hub:
        hub.repos[published.repository] = Repo({"main": published.folder})
        hub.repos["org/files"] = Repo({"main": published.file.parent, "v1.0": published.file.parent}, token="hf_right")
        yield hub


def load(model: Any, **options: Any) -> RefinedPipeline:
    return RefinedPipeline.from_pretrained(model, **{"detector": ScriptedDetector([])} | options)


def assert_same(pipe: RefinedPipeline, published: Published, dtype: torch.dtype = torch.float32) -> None:
    assert type(pipe.pipe) is type(published.pipe)
    for name, part in published.pipe.components.items():
        if isinstance(part, torch.nn.Module):
            own, wanted = pipe.components[name].state_dict(), part.state_dict()
            assert own.keys() == wanted.keys()
            assert all(torch.equal(own[key], wanted[key].to(dtype)) for key in own), name


def test_a_file_is_the_pipeline_that_it_was_made_from(published: Published) -> None:
    pipe = load(published.file, config=published.folder)
    assert_same(pipe, published)
    pipe.set_progress_bar_config(disable=True)
    published.pipe.set_progress_bar_config(disable=True)
    seen = [
        each(PROMPT, num_inference_steps=2, height=64, width=64, output_type="np", generator=torch.manual_seed(0))
        for each in (pipe.pipe, published.pipe)
    ]
    assert (seen[0].images == seen[1].images).all()
    assert pipe.ids["model"] == str(published.file)


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_dtype_and_components_are_passed_on(published: Published, name: str) -> None:
    vae = published.pipe.vae
    pipe = load(str(published.file), config=str(published.folder), vae=vae, **{name: torch.float16})
    assert pipe.vae is vae
    assert (pipe.unet.dtype, pipe.text_encoder.dtype) == (torch.float16, torch.float16)


def test_its_kind_is_recognised_and_its_configuration_comes_from_the_hub(hub: Hub, published: Published) -> None:
    assert_same(load(published.file), published)
    assert hub.weights_sent() == []
    hub.requests.clear()
    assert_same(load(published.file, local_files_only=True), published)
    assert hub.requests == []


@pytest.mark.parametrize("place", ["blob/main/model.safetensors", "resolve/v1.0/model.safetensors?download=true"])
def test_a_url_is_loaded_from_the_hub(hub: Hub, published: Published, place: str) -> None:
    url = f"{hub.url}/org/files/{place}"
    assert_same(load(url, token="hf_right", dtype="float16"), published, torch.float16)
    assert hub.weights_sent() == ["org/files/model.safetensors"]
    with pytest.raises(ModelNotFoundError, match="or it is private"):
        load(url)
    with pytest.raises(ConfigError, match="only once"):
        load(url, revision="v2")


def test_further_pipelines_may_be_files_too(hub: Hub, published: Published) -> None:
    pipe = load(published.file, inpainter=str(published.file), dtype=torch.bfloat16)
    assert pipe.inpainter.unet.dtype == torch.bfloat16
    assert pipe.ids["inpainter"] == str(published.file)


def test_the_settings_of_the_loop_are_set_beside_a_file(hub: Hub, published: Published) -> None:
    config = RefineConfig(max_rounds=1)
    pipe = load(published.file, config=config, call={"num_inference_steps": 2}, judge="micro")
    assert (pipe.refine_config, pipe.call_defaults) == (config, {"num_inference_steps": 2})
    assert pipe.ids["judge"] == "micro"


def test_a_pickled_file_is_loaded_without_running_its_code(hub: Hub, published: Published, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(published.file)}, tmp_path / "model.ckpt")
    assert_same(load(tmp_path / "model.ckpt"), published)
    torch.save({"state_dict": published.pipe.unet}, tmp_path / "code.ckpt")
    with pytest.raises(WeightsError, match=r"code\.ckpt"):
        load(tmp_path / "code.ckpt")


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such file": ("{home}/gone.safetensors", {}, "There is no checkpoint file"),
    "another server": ("https://example.org/a/b/resolve/main/model.safetensors", {}, "URL of a file on the hub"),
    "a repository's page": ("https://huggingface.co/org/files", {}, "a hub id OWNER/MODEL"),
    "a component's file": ("{home}/model.gguf", {}, "GGUFQuantizationConfig"),
    "a variant": ("{file}", {"variant": "fp16"}, "no option variant="),
    "a device map": ("{file}", {"device_map": "cpu"}, "no option device_map="),
    "several dtypes": ("{file}", {"dtype": {"unet": torch.float16}}, "one dtype="),
    "detector": ("{url}/org/files/blob/main/model.safetensors", {"detector": "micro:nothing"}, "micro:nothing"),
    "no detector": ("{file}", {"detector": None}, "pass detector="),
    "misspelt": ("{url}/org/files/blob/main/model.safetensors", {"orginal_config": "x"}, "write original_config="),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said_before_any_download(hub: Hub, published: Published, wrong: str) -> None:
    model, options, message = WRONG[wrong]
    model = model.format(home=published.file.parent, file=published.file, url=hub.url)
    with pytest.raises(RefinerError, match=message) as caught:
        load(model, **options)
    assert "\n" not in str(caught.value)
    assert hub.weights_sent() == []


def test_a_damaged_or_foreign_file_is_one_sentence(hub: Hub, published: Published, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(published.file.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load(cut)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"holds no model_index\.json"):
        load(published.file, config=tmp_path / "empty")
    with pytest.raises(ModelNotFoundError, match="org/gone"):
        load(published.file, config="org/gone")
    with pytest.raises(ModelNotFoundError, match=r"holds no 'gone\.safetensors'"):
        load(f"{hub.url}/org/files/blob/main/gone.safetensors", token="hf_right")
    for place, token in ((published.file, None), (f"{hub.url}/org/files/blob/main/model.safetensors", "hf_right")):
        with pytest.raises(ConfigError, match=r"vaee=.*write vae="):
            load(place, vaee=published.pipe.vae, token=token, config=published.folder)
    hub.repos.clear()
    with pytest.raises(ModelNotFoundError, match="no such model"):
        load(published.file, cache_dir=tmp_path / "new")


def test_flux_files_hold_the_transformer_alone(tmp_path: Path) -> None:
    """Their converter in diffusers knows only the size of the published model, so the transformer is passed here."""
    pipe = flux()
    pipe.save_pretrained(tmp_path / "folder")
    weights = {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(2), "img_in.weight": torch.ones(2, 64)}
    file = save_checkpoint(weights, tmp_path / "flux1-schnell.safetensors")
    shutil.rmtree(tmp_path / "folder" / "text_encoder_2")
    with loopback_hub(tmp_path / "cache") as hub:
        hub.repos["black-forest-labs/FLUX.1-schnell"] = Repo({"main": tmp_path / "folder"})
        parts = {name: pipe.components[name] for name in ("transformer", "vae", "text_encoder")}
        with pytest.raises(WeightsError, match=r"holds no text_encoder_2.* pass it as text_encoder_2="):
            load(file, **parts)
        whole = load(file, **parts, text_encoder_2=pipe.text_encoder_2)
    assert type(whole.pipe) is FluxPipeline
    assert whole.transformer is pipe.transformer
