"""Reproducing images from run records: bit for bit, or refused in one sentence that names the difference."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from conftest import SPOTS  # noqa: E402
from diffusers import EulerDiscreteScheduler  # noqa: E402

from refiner import provenance  # noqa: E402
from refiner.cli.main import main  # noqa: E402
from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import ConfigError, InputError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline, TemplateReviser  # noqa: E402
from refiner.pipelines.judges import BurdenJudge  # noqa: E402
from refiner.pipelines.saving.record import fingerprints  # noqa: E402
from refiner.records import to_record  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, RefinementResult, Region, Size  # noqa: E402

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"
BOXES = ((8, 8, 20, 20), (40, 40, 52, 52))


def by_pixels(image: Image.Image) -> Analysis:
    """Finds flaws only by the pixels: what is bright."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    means = [float(pixels[y0:y1, x0:x1].mean()) for x0, y0, x1, y1 in BOXES]
    regions = tuple(
        Region(mask=None, box=box, name="the hand", category=Category.ANATOMY, severity=mean)
        for box, mean in zip(BOXES, means, strict=True)
    )
    return Analysis(size=Size(image.height, image.width), regions=regions, detector="mean")


def within(image: Image.Image) -> Analysis:
    """Finds a flaw by the pixels in images of any size."""
    severity = float(np.asarray(image, dtype=np.float32)[8:20, 8:20].mean() / 255)
    region = Region(mask=None, box=BOXES[0], name="the hand", category=Category.ANATOMY, severity=severity)
    return Analysis(size=Size(image.height, image.width), regions=(region,), detector="mean 2")


CONFIG = RefineConfig(max_rounds=2, patience=3, min_burden_drop=0.001, strengths=(0.5, 1.0), seed=5)


def refined(model: str, **options: Any) -> RefinedPipeline:
    options = {"detector": ScriptedDetector(by_pixels, name="mean 1"), "config": CONFIG} | options
    pipe = RefinedPipeline.from_pretrained(model, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def original(model: str) -> RefinementResult:
    return refined(model).stream(PROMPT, index=3, guidance_scale=5.0, height=48, width=64).result


@pytest.fixture(scope="module")
def record(original: RefinementResult) -> dict[str, Any]:
    return json.loads(json.dumps(to_record(original, None, {})))


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_a_record_makes_the_same_picture_again(
    model: str, original: RefinementResult, record: dict[str, Any], tmp_path: Path
) -> None:
    png, jpeg = (provenance.save(original, tmp_path / name) for name in ("a.png", "a.jpg"))
    records = [record, provenance.read(png).record, provenance.read(jpeg).record]
    other = refined(model, config=RefineConfig(max_rounds=0, strategy="regenerate"))
    other.call_defaults, other.native = {"num_inference_steps": 1, "eta": 1.0}, 32
    for pipe in (refined(model), other):
        for each in records if pipe is other else records[:1]:
            result = pipe.replay(each)
            assert same(result.image, original.image)
            assert result.best == original.best
            assert len(result.attempts) == original.best + 1
    assert other.call_defaults == {"num_inference_steps": 1, "eta": 1.0}
    assert other.native == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {"hand": "[PROMPT], bare skin", "clock": ""}},
        {"prompts": ["a fist", "[SKIP]"], "order": "left_to_right"},
        {"prompts": "a fist [SEP] a palm"},
        {"exclude": ["clock"], "region_prompt": "whole"},
        {"region_prompt": "clause"},
    ],
)
def test_the_prompts_of_regions_are_in_the_record_and_in_the_saved_folder(
    model: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = replace(CONFIG, strategy="inpaint", **settings)
    pipe = refined(model, config=config)
    result = pipe.stream(PROMPT).result
    assert len(result.attempts) > 1
    again = refined(model).replay(json.loads(json.dumps(to_record(result, None, {}))))
    assert same(again.image, result.image)
    assert [each.prompt for each in again.attempts] == [each.prompt for each in result.attempts[: result.best + 1]]
    pipe.save_pretrained(tmp_path)
    loaded = RefinedPipeline.from_pretrained(tmp_path, detector=ScriptedDetector(by_pixels, name="mean 1"))
    assert loaded.refine_config == config


def test_settings_are_those_of_the_run_and_plain(record: dict[str, Any]) -> None:
    settings = record["settings"]
    assert settings["ids"]["model"]
    assert settings["index"] == 3
    sizes = {"height": 48, "width": 64}
    assert settings["call"] == {"prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 5.0, **sizes}
    assert settings["start"] == {
        "row": 0, "images": 1, "generators": [{"device": "cpu", "seed": 8}], "default": False, "seed": 8,
    }  # fmt: skip
    assert settings["config"]["seed"] == 5
    assert settings["pipeline"]["class"] == "StableDiffusionPipeline"
    assert settings["pipeline"]["scheduler"].startswith("DDIMScheduler ")
    assert (settings["image"], settings["judges"], settings["unrecorded"]) == (None, [], [])


def test_a_run_that_started_from_a_picture_needs_that_picture(model: str) -> None:
    given = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    result = refined(model, detector=ScriptedDetector(within, name="mean 2"))(PROMPT, image=given, seed=1).results[0]
    again = to_record(result, None, {})
    pipe = refined(model, detector=ScriptedDetector(within, name="mean 2"))
    assert same(pipe.replay(again, image=given).image, result.image)
    with pytest.raises(ConfigError, match="no start image"):
        pipe.replay(again)
    with pytest.raises(ConfigError, match="another start image"):
        pipe.replay(again, image=Image.new("RGB", (64, 48)))


def nudge(network: torch.nn.Module) -> None:
    next(weights for weights in network.parameters() if weights.ndim > 1).data += 1e-3


def other_scheduler(pipe: RefinedPipeline) -> None:
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)


CHANGES: dict[str, Callable[[RefinedPipeline], object]] = {
    "weights of the pipeline's unet": lambda pipe: nudge(pipe.unet),
    "weights of the pipeline's text_encoder, vae": lambda pipe: (nudge(pipe.vae), nudge(pipe.text_encoder)),
    "another scheduler of the pipeline (Euler": other_scheduler,
    "another dtype of the pipeline (float64 instead of float32)": lambda pipe: pipe.pipe.to(torch.float64),
    "another detector (mean 2 instead of mean 1)": lambda pipe: setattr(
        pipe, "detector", ScriptedDetector(by_pixels, name="mean 2")
    ),
    "other judges (burden:mean 1 instead of none)": lambda pipe: setattr(pipe, "judge", BurdenJudge(pipe.detector)),
    "another reviser": lambda pipe: setattr(pipe, "reviser", type("Mine", (TemplateReviser,), {})()),
    "a separate inpainter": lambda pipe: setattr(pipe, "inpainter", copy.copy(pipe.pipe)),
}


@pytest.mark.parametrize("word", CHANGES)
def test_what_differs_is_said_before_anything_is_painted(model: str, record: dict[str, Any], word: str) -> None:
    pipe = refined(model)
    CHANGES[word](pipe)
    with pytest.raises(ConfigError, match="The run differs from its record") as caught:
        pipe.replay(record)
    assert word in str(caught.value)
    assert pipe.detector.seen == []


def test_what_was_picked_by_hand_is_picked_again(model: str) -> None:
    pipe = refined(model, config=replace(CONFIG, max_rounds=1, keep_candidates=True, candidates=2))
    picked = pipe.stream(PROMPT, height=48, width=64).result.with_choice({0: 1})
    assert picked.attempts[picked.best].by == "hand"
    document = json.loads(json.dumps(to_record(picked, None, {})))
    assert same(pipe.replay(document).image, picked.image)
    for choice in ({"0": 7}, {"hand": 0}, [1]):
        document["attempts"][picked.best]["choice"] = choice
        with pytest.raises((ConfigError, InputError), match=r"candidate 7|choices in the record"):
            pipe.replay(document)


@pytest.mark.parametrize(("version", "matters"), [("0.1.0", True), (None, False), ("patch", False)])
def test_versions_matter_in_their_first_two_numbers(
    model: str, record: dict[str, Any], version: str | None, matters: bool
) -> None:
    changed = copy.deepcopy(record)
    own = record["environment"]["versions"]["torch"]
    patch = ".".join([*own.partition("+")[0].split(".")[:2], "99+cu130"])
    changed["environment"]["versions"]["torch"] = {"patch": patch, None: own}.get(version, version)
    if matters:
        with pytest.raises(ConfigError, match=rf"torch {own.split('+')[0]}\S* instead of 0\.1\.0"):
            refined(model).replay(changed)
    else:
        assert refined(model).replay(changed).image


def test_a_picture_that_came_out_differently_is_not_passed_off(model: str, record: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"differs from that of the record \(000000000000\)"):
        refined(model).replay({**record, "picture": "0" * 32})


def test_arguments_that_no_record_holds_are_asked_for(model: str) -> None:
    latents = torch.ones(1, 4, 32, 32)
    options = {"latents": latents, "callback_on_step_end": lambda _pipe, _step, _time, tensors: tensors}
    result = refined(model).stream(PROMPT, **options).result
    again = to_record(result, None, {})
    assert again["settings"]["unrecorded"] == ["callback_on_step_end", "latents"]
    with pytest.raises(ConfigError, match="The record could not store latents"):
        refined(model).replay(again)
    assert same(refined(model).replay(again, latents=latents).image, result.image)
    with pytest.raises(ConfigError, match=r"The new image .* differs from that of the record"):
        refined(model).replay(again, latents=-latents)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.clear(),
        lambda record: record.pop("settings"),
        lambda record: record.update(settings={}),
        lambda record: record.update(settings=None),
        lambda record: record.update(settings="x"),
        lambda record: record.update(picture=None),
        lambda record: record.update(prompt=7),
        lambda record: record.update(best="0"),
        lambda record: record["settings"].pop("config"),
        lambda record: record["settings"].update(config=7),
        lambda record: record["settings"]["config"].update(magic=1),
        lambda record: record["settings"]["config"].update(max_rounds=-1),
        lambda record: record["settings"].update(pipeline=None),
        lambda record: record["settings"].update(detector=7),
        lambda record: record["settings"].update(judges=7),
        lambda record: record["settings"].update(call=7),
        lambda record: record["settings"].update(unrecorded=None),
        lambda record: record.update(environment=None),
        lambda record: record["environment"].update(versions=7),
    ],
)
def test_records_that_are_none_are_refused(
    model: str, record: dict[str, Any], change: Callable[[dict[str, Any]], object]
) -> None:
    damaged = copy.deepcopy(record)
    change(damaged)
    words = r"record cannot be read|has no settings or no kept image|differs from its record|must be"
    with pytest.raises((InputError, ConfigError), match=words):
        refined(model).replay(damaged)


def test_fingerprints_see_every_matrix_and_nothing_else(model: str) -> None:
    pipe = refined(model)
    first = fingerprints(pipe.components)
    assert set(first) == {"text_encoder", "unet", "vae"}
    assert fingerprints(refined(model).components) == first
    matrices = [weights for weights in pipe.unet.parameters() if weights.ndim > 1]
    for weights in (*matrices[:3], *matrices[-3:]):
        kept = weights.detach().clone()
        weights.data += 0.01  # like a LoRA fused by peft: the version counter of the tensor does not change
        changed = fingerprints(pipe.components)
        assert [name for name in first if changed[name] != first[name]] == ["unet"]
        weights.data.copy_(kept)
    assert fingerprints(pipe.components) == first
    pipe.unet.register_parameter("lora", torch.nn.Parameter(torch.zeros(1)))
    assert fingerprints(pipe.components)["unet"] != first["unet"]
    assert fingerprints({"unet": pipe.unet.to("meta")}) == {"unet": None}


@pytest.fixture
def refine(
    model: str,
    write_plugin: Callable[[Path, str, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Run ``refiner refine`` in ``tmp_path`` with further arguments: exit code, stdout, stderr."""
    home = tmp_path / "plugin"
    detector = write_plugin(home, "spots_for_replay", SPOTS)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "spots_for_replay", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        words = [model if word == "MODEL" else detector if word == "DETECTOR" else str(word) for word in arguments]
        code = main(["refine", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


USUAL = ("--model", "MODEL", "--detector", "DETECTOR", "--rounds", 1)


def test_the_command_makes_the_same_picture_again(refine: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert refine(PROMPT, *USUAL, "--max-rows", 10, "--max-seconds", 600, "--seed", 4)[0] == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["config"]["max_denoiser_rows"], record["settings"]["config"]["max_denoiser_rows"]) == (10, 10)
    code, out, err = refine("--replay", "out/run.json")
    assert (code, err) == (0, "")
    assert "bit for bit" in out
    with Image.open(tmp_path / "out" / "best.png") as first, Image.open(tmp_path / "replay" / "best.png") as again:
        assert same(first, again)
    code, out, err = refine("--replay", "out/best.png", "--model", "MODEL", "--detector", "DETECTOR", "--json")
    assert code == 0, err
    assert json.loads(out)["prompt"] == PROMPT


def test_the_command_finds_the_picture_that_a_run_started_from(
    refine: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "given.png")
    assert refine(PROMPT, *USUAL, "--image", "given.png")[0] == 0
    assert refine("--replay", "out/run.json")[0] == 0
    (tmp_path / "out" / "best.png").rename(tmp_path / "lonely.png")
    code, _, err = refine("--replay", "lonely.png", *USUAL[:4])
    assert (code, "--image" in err) == (2, True)
    assert refine("--replay", "lonely.png", *USUAL[:4], "--image", "given.png")[0] == 0


def test_the_command_refuses_in_one_sentence(refine: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    Image.new("RGB", (20, 20)).save(tmp_path / "plain.png")
    for arguments, word in [
        (["nothing.json"], "nothing.json"),
        (["broken.json"], "broken.json"),
        (["list.json"], "'list.json' holds no run record"),
        (["empty.json"], "--model"),
        (["empty.json", "--model", "MODEL", "--detector", "DETECTOR"], "can be reproduced"),
        (["plain.png"], "run.json"),
        (["nothing.png"], "does not exist"),
        (["empty.json", "--out", "."], "another folder"),
        (["empty.json", PROMPT], "got both"),
    ]:
        code, out, err = refine("--replay", *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"refiner: .+: .+\.\n", err), err
        assert word in err
