"""What ``refiner refine`` passes on: arguments, settings of the loop, LoRAs, an inpainter, and several images."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.chat_servers import KEY, settle_environment
from support.edit_servers import EditServer

from refiner.cli.main import main
from refiner.pipelines import RefineConfig, RefinedPipeline

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"

PLUGIN = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

class Detector(ScriptedDetector):
    def __call__(self, image, prompt=None):
        if len(self.seen) == self.patience:
            raise KeyboardInterrupt
        return super().__call__(image, prompt)

def build(folder, device, dtype):
    def answer(image):
        if (folder / "babble").exists():
            return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
        mask = np.zeros((image.height, image.width), dtype=bool)
        mask[8:24, 8:24] = True
        severity = float(np.asarray(image)[8:24, 8:24].mean()) / 255
        region = Region(mask=mask, box=(8, 8, 24, 24), name="hand", category=Category.ANATOMY, severity=severity)
        return Analysis(size=Size(*mask.shape), detector="bright", regions=(region,))

    detector = Detector(answer, name="bright")
    detector.patience = int((folder / "patience").read_text())
    return detector
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(write_plugin: Callable[[Path, str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a detector from a plug-in package: the brighter the square (8, 8, 24, 24), the more severe its flaw."""
    folder = tmp_path / "plugin"
    write_plugin(folder, "bright_for_tests", PLUGIN)
    (folder / "patience").write_text("1000")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "bright_for_tests", raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def refine(model: str, home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``refiner refine`` with further arguments: exit code, stdout, stderr."""

    def run(*arguments: object, prompt: tuple[str, ...] = (PROMPT,)) -> tuple[int, str, str]:
        words = [*prompt, *map(str, arguments)]
        words += [] if "--model" in words else ["--model", model]
        try:
            code = main(["refine", *words, "--detector", f"spots:{home}"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def settings(folder: str = "out") -> Any:
    return json.loads(Path(folder, "run.json").read_text())["settings"]


def pixels(path: str | Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


ARGUMENTS = (
    "--steps", 3, "--guidance", 1.5, "--width", 48, "--height", 40, "--negative-prompt", "4", "--set", "eta=0.5",
    "--set", "dilate=0.1", "--set", "strengths=[0.5, 1]", "--set", "order=centre", "--rounds", 1, "--seed", 3,
)  # fmt: skip


def test_arguments_reach_the_call_and_the_loop(refine: Cli, model: str, home: Path) -> None:
    code, out, err = refine(*ARGUMENTS, "--json")
    assert code == 0, err
    made = settings()
    assert made["call"].items() >= {"num_inference_steps": 3, "guidance_scale": 1.5, "eta": 0.5}.items()
    wanted = {"negative_prompt": "4", "dilate": 0.1, "strengths": [0.5, 1], "order": "centre", "max_rounds": 1}
    assert made["config"].items() >= wanted.items()
    pipe = RefinedPipeline.from_pretrained(model, detector=f"spots:{home}")
    call = {"num_inference_steps": 3, "guidance_scale": 1.5, "width": 48, "height": 40, "eta": 0.5}
    start = pipe.pipe(PROMPT, negative_prompt="4", generator=torch.Generator().manual_seed(0), **call).images[0]
    assert start.size == (48, 40)
    again = pipe.stream(PROMPT, negative_prompt="4", max_rounds=0, seed=3, **call).result
    assert pixels(json.loads(out)["files"]["start"]) == again.image.tobytes()


def test_a_setting_that_has_an_option_can_be_set_too(refine: Cli) -> None:
    named = ("--set", "max_rounds=0", "--set", "seed=3", "--set", "num_inference_steps=3", "--set", "height=40")
    assert refine(*named)[0] == 0
    first = settings()
    assert refine("--rounds", 0, "--seed", 3, "--steps", 3, "--height", 40)[0] == 0
    assert settings() == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "dilat=0.1"), "use dilate"),
        (("--set", "num_inference_step=4"), "num_inference_steps"),
        (("--set", "dilate=wide"), "--set dilate: expected dilate of type float, got 'wide'"),
        (("--set", "dilate=-1"), "dilate"),
        (("--set", "strengths=[2]"), "strengths"),
        (("--set", "strategy=magic"), "'auto' or 'inpaint' or 'regenerate'"),
        (("--set", "latents=1"), "'latents'"),
        (("--set", "num_images_per_prompt=2"), "use --num-images"),
        (("--set", "image=x.png"), "use --image"),
        (("--set", "eta=0.5", "--set", "eta=1"), "give the same setting"),
        (("--set", "num_inference_steps=4", "--steps", 3), "--set num_inference_steps and --steps"),
        (("--rounds", -1), "--rounds"),
        (("--inpainter", "/no/such"), "/no/such"),
        (("--lora", "/no/such"), "'/no/such'"),
        (("--lora", "plugin=0.5"), "'plugin'"),
        (("--out", "/proc/refiner"), "/proc/refiner"),
    ],
)
def test_bad_values_are_refused_before_weights_are_loaded(
    refine: Cli, model: str, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    """The model has no weights, but the error is about the argument."""
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    code, out, err = refine("--model", bare, *arguments, "--json")
    assert (code, out) == (2, "")
    assert err.startswith("refiner: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "out/run.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--steps", 0), ("--steps", "few"), ("--guidance", "nan"), ("--width", -8), ("--height", 1.5),
        ("--num-images", 0), ("--set", "dilate"), ("--set", "=1"), ("--lora", "=0.5"), ("--lora", "folder=much"),
    ],
)  # fmt: skip
def test_values_that_no_model_takes_are_refused(refine: Cli, arguments: tuple[object, ...]) -> None:
    code, out, err = refine(*arguments)
    assert (code, out) == (2, "")
    assert f"argument {arguments[0]}: " in err


def test_several_images_have_folders_of_their_own(refine: Cli, tmp_path: Path) -> None:
    code, out, err = refine("--num-images", 3, "--rounds", 1, "--seed", 5, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert list(document) == ["prompt", "images", "files"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["image-00", "image-01", "image-02", "overview.png"]
    best = [image["files"]["best"] for image in document["images"]]
    assert [Path(path).parent.name for path in best] == ["image-00", "image-01", "image-02"]
    assert len({pixels(path) for path in best}) == 3
    with Image.open(document["files"]["overview"]) as overview:
        assert overview.info["Source"] == "AI-generated"
    one = json.loads(refine("--rounds", 1, "--seed", 5, "--out", "one", "--json")[1])
    assert one["attempts"] == document["images"][0]["attempts"]


def test_several_images_are_told_to_people(refine: Cli) -> None:
    code, out, _ = refine("--num-images", 2, "--rounds", 0)
    assert code == 0
    assert re.findall(r"^image-\d\d", out, re.MULTILINE) == ["image-00", "image-01"]
    assert "overview: out/overview.png" in out


def test_an_earlier_result_is_replaced_whole(refine: Cli) -> None:
    def files() -> set[str]:
        return {path.relative_to("out").parts[0] for path in Path("out").rglob("*")}

    refine("--num-images", 3, "--rounds", 0)
    Path("out/image-02/mine.txt").write_text("a file of the user")
    refine("--num-images", 2, "--rounds", 0)
    assert files() == {"image-00", "image-01", "image-02", "overview.png"}
    assert [path.name for path in Path("out/image-02").iterdir()] == ["mine.txt"]
    Path("out/image-02/mine.txt").unlink()
    refine("--rounds", 0)
    single = files()
    assert {"best.png", "run.json"} <= single
    assert not {"image-00", "image-01", "image-02", "overview.png"} & single
    refine("--num-images", 2, "--rounds", 0)
    assert files() == {"image-00", "image-01", "overview.png"}


def test_an_interrupt_keeps_the_images_before_it(refine: Cli, home: Path) -> None:
    (home / "patience").write_text("2")
    code, out, _ = refine("--num-images", 4, "--rounds", 0, "--json")
    assert code == 130
    assert len(json.loads(out)["images"]) == 2
    assert sorted(path.name for path in Path("out").iterdir()) == ["image-00", "image-01", "overview.png"]


def test_images_that_could_not_be_judged_are_a_failure(refine: Cli, home: Path) -> None:
    (home / "babble").touch()
    code, out, err = refine("--num-images", 2, "--rounds", 0, "--json")
    assert code == 1
    assert [image["stop"] for image in json.loads(out)["images"]] == ["unreadable"] * 2
    assert err.count("refiner: Expected a list of flaws, got babble.") == 2


@pytest.fixture
def lora(model: str, tmp_path: Path) -> Path:
    """Folder of a LoRA for the model."""
    import peft
    from diffusers import StableDiffusionPipeline

    teacher = StableDiffusionPipeline.from_pretrained(model)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    teacher.unet.add_adapter(config, adapter_name="mine")
    layers = {name: value for name, value in teacher.unet.state_dict().items() if "lora" in name}
    state = {name.replace(".mine", ""): value * 5 for name, value in layers.items()}
    teacher.save_lora_weights(tmp_path / "lora", unet_lora_layers=state)
    return tmp_path / "lora"


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # of peft, about two adapters
def test_loras_are_added_with_their_weights_and_replayed(refine: Cli, model: str, home: Path, lora: Path) -> None:
    file = next(lora.iterdir())
    named = ("--rounds", 0, "--seed", 3, "--json")
    without, whole, weighted, twice = (
        pixels(json.loads(refine(*named, *arguments)[1])["files"]["best"])
        for arguments in ((), ("--lora", lora), ("--lora", f"{file}=0.5"), ("--lora", f"{lora}=0.25") * 2)
    )
    assert len({without, whole, weighted}) == 3
    pipe = RefinedPipeline.from_pretrained(model, detector=f"spots:{home}")
    for name in ("one", "two"):
        pipe.load_lora_weights(str(lora), adapter_name=name)
    for names, weights, image in (("one", 1.0, whole), ("one", 0.5, weighted), (["one", "two"], [0.25, 0.25], twice)):
        pipe.set_adapters(names, weights)
        assert pipe.stream(PROMPT, max_rounds=0, seed=3).result.image.tobytes() == image
    assert settings()["ids"]["lora"] == [f"{lora}=0.25"] * 2
    code, out, err = refine("--replay", "out/run.json", prompt=())
    assert code == 0, err
    assert "bit for bit" in out


def test_a_lora_of_another_model_is_refused(refine: Cli, lora: Path) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = lora.iterdir()
    weights = load_file(file)
    for name, changed in {
        "wide": {key: torch.zeros(3, 5) for key in weights},
        "elsewhere": {key.replace("unet.", "transformer."): value for key, value in weights.items()},
        "broken": {},
    }.items():
        Path(name).mkdir()
        save_file(changed, Path(name, file.name))
        if not changed:
            Path(name, file.name).write_bytes(b"no safetensors")
        code, out, err = refine("--lora", name, "--rounds", 0, "--json")
        assert (code, out) == (2, ""), name
        assert re.fullmatch(rf"refiner: The LoRA '{name}' .+: .+\.", err.splitlines()[-1]), err


def test_a_pipeline_inpaints_for_the_model(refine: Cli, model: str, tmp_path: Path) -> None:
    from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline

    base = StableDiffusionPipeline.from_pretrained(model)
    StableDiffusionInpaintPipeline(**base.components, requires_safety_checker=False).save_pretrained(tmp_path / "i")
    assert refine("--inpainter", "i", "--strategy", "inpaint", "--rounds", 1, "--seed", 3)[0] == 0
    assert settings()["inpainter"]["class"] == "StableDiffusionInpaintPipeline"
    assert settings()["ids"]["inpainter"] == "i"
    assert json.loads(Path("out/run.json").read_text())["attempts"][1]["action"] == "inpaint"
    assert refine("--replay", "out/run.json", prompt=())[0] == 0


def test_a_hosted_edit_model_repairs_for_the_model(refine: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_environment(monkeypatch)
    server = EditServer()
    try:
        id_ = f"edit:m@{server.url},max_side=64"
        code, _, err = refine("--inpainter", id_, "--strategy", "inpaint", "--rounds", 1, "--seed", 3)
    finally:
        server.stop()
    assert (code, settings()["ids"]["inpainter"]) == (0, id_)
    assert f"costs of m: {len(server.asked)} call" in err
    assert server.asked
    record = json.loads(Path("out/run.json").read_text())
    assert "Keep everything else" in record["attempts"][1]["prompt"]
    assert KEY not in json.dumps(record)


def test_tools_are_used_as_earlier_runs_say(refine: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_environment(monkeypatch)
    server = EditServer()
    tools = ("--editor", f"edit:m@{server.url},max_side=64", "--tools", "inpaint,edit", "--rounds", 1)
    try:
        Path("earlier").mkdir()
        Path("earlier/tools.json").write_text(json.dumps({"anatomy": {"inpaint": [0, 9], "edit": [9, 9]}}))
        for records, tool in (((), "inpaint"), (("--tool-records", "earlier/tools.json"), "edit")):
            assert refine(*tools, *records, "--seed", 3)[0] == 0
            repairs = json.loads(Path("out/run.json").read_text())["attempts"][1]["repairs"]
            assert [repair["tool"] for repair in repairs] == [tool]
            assert refine("--replay", "out/run.json", *(tools[:2]), prompt=())[0] == 0
        code, _, err = refine("--tools", "pray")
        assert (code, "--tools: expected tools" in err) == (2, True), err
    finally:
        server.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--num-images", 2), ("--seed", 1), ("--negative-prompt", "x"), ("--steps", 2), ("--guidance", 2),
        ("--width", 64), ("--height", 64), ("--set", "dilate=0.1"), ("--strategy", "inpaint"), ("--rounds", 1),
        ("--max-rows", 5), ("--max-seconds", 5), ("--dtype", "float16"), ("--controller", "legion-inpaint"),
    ],
)  # fmt: skip
def test_what_the_record_holds_cannot_be_given_with_it(refine: Cli, arguments: tuple[object, ...]) -> None:
    code, out, err = refine("--replay", "out/run.json", *arguments, prompt=())
    assert (code, out) == (2, "")
    assert err.startswith(f"refiner: {arguments[0]} has no effect with --replay")


@pytest.mark.parametrize("mode", ["inpaint", "regenerate"])
def test_legions_controller_runs_and_is_replayed(refine: Cli, mode: str) -> None:
    code, out, err = refine("--controller", f"legion-{mode}", "--steps", 3, "--seed", 3)
    assert code == 0, err
    assert "nothing was verified: the last image was kept, whether it is better or not" in out
    own = settings()["config"]
    rounds = RefineConfig.legion(mode, seed=3).max_rounds  # type: ignore[arg-type]
    assert (own["keep"], own["strategy"], own["max_rounds"], own["seed"]) == ("last", mode, rounds, 3)
    record = json.loads(Path("out/run.json").read_text())
    assert (record["verified"], record["best"], record["config"]["controller"]) == (False, rounds, f"legion-{mode}")
    assert [attempt["action"] for attempt in record["attempts"]] == ["generate", *[mode] * rounds]
    assert all(attempt["reason"].startswith("kept without verification; ") for attempt in record["attempts"][1:])
    rows = [attempt["calls"]["denoiser_rows"] for attempt in record["attempts"]]
    if mode == "inpaint":  # 25 steps at strength 0.84, with guidance
        assert rows[1:] == [2 * 21] * rounds
        assert record["attempts"][1]["prompt"].startswith("Try to avoid the problem: hand And make every effort")
    code, out, err = refine("--replay", "out/run.json", prompt=())
    assert code == 0, err
    assert "bit for bit" in out


def test_the_settings_of_legions_controller_can_be_changed(refine: Cli) -> None:
    less = ("--rounds", 1, "--set", 'inpaint_call={"num_inference_steps": 2}', "--set", 'prompts=["[PROMPT]"]')
    assert refine("--controller", "legion-inpaint", "--steps", 3, "--seed", 3, *less)[0] == 0
    (_, attempt) = json.loads(Path("out/run.json").read_text())["attempts"]
    assert attempt["prompt"] == PROMPT
    assert attempt["calls"]["denoiser_rows"] < 2 * 21
    code, _, err = refine("--controller", "legion-inpaint", "--set", 'inpaint_call={"num_steps": 2}')
    assert (code, err.count("\n")) == (2, 1)
    assert "takes no argument 'num_steps' (in inpaint_call=)" in err
    assert "leave one of them out" in refine("--controller", "legion-inpaint", "--strategy", "auto")[2]
    assert "candidates must be exactly 1" in refine("--controller", "legion-inpaint", "--set", "candidates=2")[2]


def test_the_models_own_settings_are_kept(refine: Cli, model: str, tmp_path: Path) -> None:
    own = shutil.copytree(model, tmp_path / "own")
    saved = json.loads((own / "refiner.json").read_text())
    saved["config"] = {"max_rounds": 1, "strategy": "regenerate", "dilate": 0.2}
    (own / "refiner.json").write_text(json.dumps(saved))
    assert refine("--model", own, "--set", "patience=1")[0] == 0
    wanted = {"max_rounds": 1, "strategy": "regenerate", "dilate": 0.2, "patience": 1}
    assert settings()["config"].items() >= wanted.items()
