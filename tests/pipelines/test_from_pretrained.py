"""Loading from a hub (on 127.0.0.1), a folder or a checkpoint as diffusers does; errors come before downloads."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline, StableDiffusionPipeline  # noqa: E402
from diffusers.loaders.single_file import FromSingleFileMixin  # noqa: E402
from support.hub import Hub, Repo, loopback_hub  # noqa: E402
from support.tiny_pipelines import ddim, stable_diffusion  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError, ModelNotFoundError, RefinerError, WeightsError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.loading.options import PRETRAINED, SINGLE_FILE  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")

MODEL = "org/model"


def scripted() -> ScriptedDetector:
    return ScriptedDetector([])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with its full weights, and those of the variant fp16."""
    folder = tmp_path_factory.mktemp("published")
    pipe = stable_diffusion()
    pipe.save_pretrained(folder)
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16")
    return folder


@pytest.fixture(scope="module")
def refined_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a RefinedPipeline saved, with an inpainter, in the variant fp16."""
    folder = tmp_path_factory.mktemp("refined")
    pipe = RefinedPipeline(
        stable_diffusion(),
        detector=scripted(),
        judge=None,
        config=RefineConfig(max_rounds=1),
        call={"num_inference_steps": 2},
        inpainter=stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True),
        inpaint_call={"guidance_scale": 2.0},
        native=48,
    )
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16")
    return folder


@pytest.fixture
def hub(tmp_path: Path, published: Path, refined_folder: Path) -> Iterator[Hub]:
    with loopback_hub(tmp_path / "cache") as hub:
        hub.repos[MODEL] = Repo({"main": published, "refined": refined_folder})
        hub.repos["org/private"] = Repo({"main": published}, token="hf_right")
        hub.repos["org/gated"] = Repo({"main": published}, gated=True)
        yield hub


def load(model: Any = MODEL, **options: Any) -> RefinedPipeline:
    return RefinedPipeline.from_pretrained(model, **{"detector": scripted()} | options)


# What is loaded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "fp16", "torch_dtype": torch.float16},
        {"variant": "fp16", "dtype": torch.float16, "torch_dtype": torch.float16},
        {"dtype": "bfloat16", "use_safetensors": True},
        {"dtype": {"unet": torch.bfloat16, "default": "float32"}},
        {"device_map": "cpu"},
        {"safety_checker": None, "scheduler": ddim()},
        {"vae": stable_diffusion().vae, "variant": "fp16"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_it_loads_and_downloads_what_diffusers_does(hub: Hub, tmp_path: Path, options: dict[str, Any]) -> None:
    asked = dict(options)
    if "torch_dtype" in asked:
        asked["dtype"] = asked.pop("torch_dtype")
    if isinstance(asked.get("dtype"), str):
        asked["dtype"] = getattr(torch, asked["dtype"])
    if isinstance(asked.get("dtype"), dict):
        asked["dtype"] = {"unet": torch.bfloat16, "default": torch.float32}
    plain = DiffusionPipeline.from_pretrained(MODEL, cache_dir=tmp_path / "plain", **asked)
    expected = sorted(hub.sent)
    hub.sent.clear()
    pipe = load(**options)
    assert sorted(hub.sent) == expected
    assert type(pipe.pipe) is type(plain)
    for name, part in plain.components.items():
        own = pipe.components[name]
        assert type(own) is type(part)
        if isinstance(part, torch.nn.Module):
            assert (own.dtype, own.device) == (part.dtype, part.device)
            assert all(torch.equal(one, other) for one, other in zip(own.parameters(), part.parameters(), strict=True))
    for name in ("scheduler", "vae"):
        if name in options:
            assert pipe.components[name] is options[name]


@pytest.mark.parametrize("options", [{"revision": "refined"}, {}])
def test_a_revision_may_stand_in_the_id_or_beside_it(hub: Hub, options: dict[str, str]) -> None:
    model = MODEL if options else f"{MODEL}@refined"
    pipe = load(model, variant="fp16", dtype=torch.float16, **options)
    assert pipe.refine_config == RefineConfig(max_rounds=1)
    assert pipe.ids["model"] == f"{MODEL}@refined"
    assert load(f"{MODEL}@main", revision="main").refine_config == RefineConfig()


def test_what_was_saved_comes_with_it_and_can_be_overridden(hub: Hub) -> None:
    options = {"revision": "refined", "variant": "fp16", "dtype": torch.float16}
    pipe = load(**options)
    assert (pipe.call_defaults, pipe.inpaint_call_defaults) == ({"num_inference_steps": 2}, {"guidance_scale": 2.0})
    assert pipe.native == 48
    assert type(pipe.inpainter) is diffusers.StableDiffusionInpaintPipeline
    assert pipe.inpainter.dtype == torch.float16
    assert "inpainter" not in pipe.ids
    own = {"call": {}, "inpaint_call": {"guidance_scale": 3.0}, "native": 64, "config": RefineConfig()}
    other = load(**options, **own, judge="micro")
    assert (other.call_defaults, other.inpaint_call_defaults, other.native) == ({}, {"guidance_scale": 3.0}, 64)
    assert other.refine_config == RefineConfig()
    assert other.ids["judge"] == "micro"


def test_a_private_repository_needs_its_token_for_every_part(hub: Hub, refined_folder: Path) -> None:
    hub.repos[MODEL] = Repo({"main": refined_folder}, token="hf_right")
    options = {"variant": "fp16", "token": "hf_right"}
    pipe = load(**options)
    assert pipe.inpainter is not None
    own = load("org/private", token="hf_right", inpainter="org/private", dtype=torch.float16)
    assert own.inpainter.dtype == torch.float16
    assert own.ids["inpainter"] == "org/private"
    with pytest.raises(ModelNotFoundError, match="or it is private"):
        load("org/private", token="hf_wrong")


def test_what_is_cached_is_loaded_without_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"cache_dir": tmp_path / "own", "variant": "fp16", "revision": "refined"}
    first = load(**where)
    hub.requests.clear()
    again = load(**where, local_files_only=True)
    assert hub.requests == []
    assert again.refine_config == first.refine_config
    assert again.inpainter.unet.config == first.inpainter.unet.config
    with pytest.raises(ModelNotFoundError, match="not all of it is cached"):
        load(local_files_only=True)
    load(variant="fp16")
    for setting in ({"HF_HUB_OFFLINE": True}, {"HF_HUB_OFFLINE": False, "ENDPOINT": "http://127.0.0.1:1"}):
        for name, value in setting.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        if "ENDPOINT" in setting:
            template = f"{setting['ENDPOINT']}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
            monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", setting["ENDPOINT"])
        assert load(variant="fp16").refine_config == RefineConfig()
        assert load(**where).refine_config == first.refine_config


def test_a_device_map_is_diffusers_own(hub: Hub) -> None:
    pipe = load(device_map="cpu", inpainter=MODEL)
    assert pipe.hf_device_map == "cpu"
    assert pipe.inpainter.device == pipe.device
    pipe.hf_device_map = {"unet": "cpu", "vae": "meta"}
    for each in (pipe, pipe.pipe):
        with pytest.raises(ValueError, match="device mapping"):
            each.to("cpu")


def test_a_custom_pipeline_is_loaded(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "pipeline.py").write_text(
        "from diffusers import StableDiffusionPipeline\nclass Mine(StableDiffusionPipeline):\n    pass\n"
    )
    pipe = load(custom_pipeline=str(tmp_path / "own"), trust_remote_code=True)
    assert type(pipe.pipe).__name__ == "Mine"
    assert isinstance(pipe.pipe, StableDiffusionPipeline)


def test_parts_saved_inside_are_saved_inside_again(hub: Hub, tmp_path: Path) -> None:
    load(revision="refined", variant="fp16").save_pretrained(tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "refiner.json").read_text())
    assert kept["inpainter"] == "./inpainter"
    assert load(tmp_path / "again").inpainter is not None


def test_a_detector_saved_inside_a_repository_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    from refiner.detectors import load_detector

    detector = load_detector("micro", device="cpu")
    RefinedPipeline(stable_diffusion(), detector=detector, judge=None).save_pretrained(tmp_path / "saved")
    hub.repos["org/saved"] = Repo({"main": tmp_path / "saved"})
    pipe = RefinedPipeline.from_pretrained("org/saved")
    assert type(pipe.detector) is type(detector)
    assert pipe.judge is None
    assert pipe.ids == {"model": "org/saved"}
    settings = json.loads((tmp_path / "saved" / "refiner.json").read_text())
    for place in ("./gone", "./../saved/detector"):
        (tmp_path / "saved" / "refiner.json").write_text(json.dumps(settings | {"detector": place}))
        with pytest.raises(WeightsError, match="holds no folder"):
            RefinedPipeline.from_pretrained(tmp_path / "saved")


# What is refused, and when

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "detector": ({"detector": "nothing-like-it"}, "nothing-like-it.*Known detectors"),
    "bundled detector": ({"detector": "micro:nothing"}, "micro:nothing"),
    "detector of no family": ({"detector": "viml:a/b"}, "viml:a/b"),
    "detector's folder": ({"detector": "legion:./nowhere"}, "nowhere"),
    "detector's option": ({"detector": "vlm:a/b,grunder=box"}, "grunder"),
    "grounder": ({"detector": "vlm:a/b,grounder=sum:x"}, "Known grounders"),
    "parts": ({"detector": "parts:@a/b"}, "name one"),
    "one of several": ({"detector": "joint:micro+micro:nothing"}, "micro:nothing"),
    "judge": ({"judge": "clip:./nowhere"}, "nowhere.*Known judges"),
    "one judge": ({"judge": ["micro", "burden:micro:nothing"]}, "micro:nothing"),
    "judge of no kind": ({"judge": "clpi:a/b"}, "clpi.*Known judges"),
    "reviser": ({"reviser": "magic"}, "Expected a reviser"),
    "inpainter": ({"inpainter": "./nowhere"}, "nowhere"),
    "second stage": ({"second_stage": "gone.safetensors"}, "gone"),
    "misspelt option": ({"varient": "fp16"}, "varient.*variant="),
    "misspelt argument": ({"detectr": "micro"}, "detectr.*detector="),
    "variant's type": ({"variant": 16}, "variant= of type str"),
    "dtype": ({"dtype": "float17"}, "float17"),
    "dtype of integers": ({"torch_dtype": torch.int8}, "torch_dtype= as a torch.dtype of floats"),
    "component's dtype": ({"dtype": {"unet": 16}}, "dtype="),
    "two dtypes": ({"dtype": torch.float16, "torch_dtype": torch.float32}, "contradict"),
    "two revisions": ({"model": f"{MODEL}@main", "revision": "refined"}, "only once"),
    "device map": ({"device_map": "blanced"}, "balanced"),
    "call": ({"call": 30}, "call= as a Mapping"),
    "native": ({"native": 0}, "native="),
    "config": ({"config": {"max_rounds": 1}}, "config= as a RefineConfig"),
    "configuration": ({"config": "org/model"}, "config= as a RefineConfig for 'org/model'"),
    "cached anew": ({"force_download": True, "local_files_only": True}, "contradict"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_itself_is_said_before_any_request(hub: Hub, wrong: str) -> None:
    options, message = WRONG[wrong]
    with pytest.raises(RefinerError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    assert hub.requests == []


ABSENT: dict[str, tuple[dict[str, Any], str]] = {
    "no detector": ({"detector": None}, "no saved detector: pass detector="),
    "detector unknown to the hub": ({"detector": "org/no-such"}, "org/no-such.*no such model"),
    "judge unknown to the hub": ({"judge": "clip:org/no-such"}, "org/no-such.*no such model"),
    "reviser unknown to the hub": ({"reviser": "chat:org/no-such"}, "org/no-such.*no such model"),
    "inpainter unknown to the hub": ({"inpainter": "org/no-such"}, "org/no-such.*no such model"),
    "model": ({"model": "org/no-such"}, "org/no-such.*no such model"),
    "private model": ({"model": "org/private"}, "or it is private"),
    "gated model": ({"model": "org/gated"}, "licence must be accepted"),
    "revision": ({"revision": "v9"}, "no revision 'v9'"),
    "variant": ({"variant": "fp8"}, "variant=fp8.*pass variant='fp16'"),
    "component": ({"schedular": ddim()}, "schedular=.*write scheduler="),
    "option of another pipeline": ({"controlnet": None}, "no option controlnet=.*components"),
    "component by its id": ({"vae": "org/vae"}, "vae= as a loaded component"),
}


@pytest.mark.parametrize("absent", ABSENT)
def test_what_the_hub_knows_is_said_before_any_weights(hub: Hub, absent: str) -> None:
    options, message = ABSENT[absent]
    with pytest.raises(RefinerError, match=message) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    assert hub.weights_sent() == []


def test_a_family_that_cannot_inpaint_is_refused_before_its_weights(hub: Hub, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "other")
    index = json.loads((published / "model_index.json").read_text())
    for name, message in [("WuerstchenDecoderPipeline", "can inpaint"), ("NextYearPipeline", "upgrade diffusers")]:
        hub.repos[f"org/{name}"] = Repo({"main": tmp_path / "other"})
        (tmp_path / "other" / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
        with pytest.raises(ConfigError, match=message):
            load(f"org/{name}")
    hub.repos["org/other"] = Repo({"main": tmp_path / "other"})
    (tmp_path / "other" / "model_index.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds no model_index\.json"):
        load("org/other")
    assert hub.weights_sent() == []


def test_without_a_hub_and_a_cache_it_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="cannot be reached and nothing is cached"):
        load()


def test_a_damaged_folder_is_one_sentence(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "damaged")
    (tmp_path / "damaged" / "unet" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"cannot be loaded \([^\n]*\): check the options"):
        load(tmp_path / "damaged")
    with pytest.raises(WeightsError, match=r"holds no model_index\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("method", "known", "left"),
    [
        (DiffusionPipeline.from_pretrained, PRETRAINED, set()),
        (FromSingleFileMixin.from_single_file, SINGLE_FILE, {"original_config_file", "load_safety_checker"}),
    ],
)
def test_every_option_of_diffusers_is_known(method: Any, known: dict[str, Any], left: set[str]) -> None:
    """Those that are left out are deprecated by diffusers."""
    taken = set(re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(inspect.unwrap(method))))
    assert taken - left <= known.keys()
