"""Help and refusals come before the heavy libraries are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

HEAVY = {
    "accelerate", "diffusers", "gradio", "open_clip", "openai", "pandas", "scipy", "sklearn", "timm", "torch",
    "torchvision", "transformers",
}  # fmt: skip
RUN = """
import contextlib, io, json, sys
from refiner.cli import main
told = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
    told.append([code, out.getvalue(), err.getvalue(), sorted({name.split(".")[0] for name in sys.modules})])
print(json.dumps(told))
"""
COMMANDS = (
    "refine", "detect", "report", "train", "evaluate", "calibrate", "rank", "verify", "data", "demo", "micro",
)  # fmt: skip
TASKS = ("detection", "localization", "defects", "explanation", "checklist", "text", "realism", "refinement")
DEEPER = (
    *(f"evaluate {name}" for name in (*TASKS, "merge", "semap", "pad", "hps", "aj")),
    "micro render", "micro build", "micro bench", "data convert", "data reconstruct", "data pairs",
)  # fmt: skip
EVALUATE = "--data none --out o"
REFUSED = {
    **{
        f"{command} {option} -1": option
        for command, options in {
            "refine p": ("rounds", "max-rows", "max-seconds", "num-images", "steps", "width", "height"),
            "detect x.png": ("batch-size", "max-failures"),
            "micro bench": ("prompts", "seeds"),
            "calibrate micro --data none": ("labels", "fpr", "max-error", "batch-size"),
            f"evaluate detection {EVALUATE}": ("limit", "batch-size", "threshold"),
            f"evaluate refinement {EVALUATE}": ("rounds", "limit", "steps", "width", "height"),
            "evaluate hps --images none --prompts p.txt": ("batch-size",),
            "verify none": ("limit", "port"),
            "demo": ("port",),
        }.items()
        for option in (f"--{name}" for name in options)
    },
    **{
        f"rank a=/no/such --prompts p.txt --out o --{option} -1": word
        for option, word in (("limit", "limit"), ("seeds", "seed"))
    },
    "refine p --set dilate=-1": "dilate",
    "refine p --device cpu --offload model": "--offload",
    f"evaluate detection {EVALUATE} --threshold nan": "--threshold",
    f"evaluate detection {EVALUATE} --threshold 7": "--threshold",
    f"evaluate detection {EVALUATE} --perturb jpeg:500": "jpeg:500",
    f"evaluate detection {EVALUATE} --shard 9/2": "9/2",
    **{
        f"{command} --device abacus": "--device abacus"
        for command in (
            "refine p", "detect x.png", "micro bench", "demo", "train legion --data none",
            "rank a=/no/such --prompts p.txt --out o", "calibrate micro --data none", f"evaluate realism {EVALUATE}",
            f"evaluate refinement {EVALUATE}", "data reconstruct none --out o --vae none",
            "evaluate hps --images none --prompts p.txt", "evaluate semap --predictions p.json --references r.json",
        )
    },
    **{
        f"{command} --detector nosuch:1": "nosuch:1"
        for command in (
            "refine p", "detect x.png", f"evaluate detection {EVALUATE}", f"evaluate refinement {EVALUATE}",
            "rank a=/no/such --prompts p.txt --out o", "demo",
        )
    },
    **{
        f"refine p --{option}": option.split()[-1].partition("=")[0]
        for option in (
            "model ./nosuch", "judge nosuch:1", "reviser nosuch:1", "inpainter ./nosuch", "editor edit:nosuch",
            "grounder micro", "set nosuch=1", "set dilate=big", "set guidance_rescale=big",
        )
    },
    **{
        f"rank a=micro,{option} --prompts words.txt --out o": word
        for option, word in (("nosuch=1", "nosuch"), ("guidance_scale=big", "guidance_scale"), ("height=0", "height"))
    },
    "refine p --lora ./none.safetensors=0.5": "none.safetensors",
    "refine p --lora none": "none",
    f"evaluate refinement {EVALUATE} --lora none": "none",
    "refine --prompts none.txt": "none.txt",
    "detect x.png --grounder box": "grounder",
    "detect x.png --prices none.toml": "none.toml",
    "calibrate nosuch:1 --data none": "nosuch:1",
    "demo --model ./nosuch": "./nosuch",
    "train nosuch": "nosuch",
    "train legion --data none": "none",
    "train legion --config none.json": "none.json",
    "train vlm --data none": "none",
    "evaluate semap --predictions none.json --references none.json": "none.json",
    "evaluate refinement --data none --out o": "none",
    "refine p --image none.png": "none.png",
    "refine --replay none.json": "none.json",
    "detect none.png": "none.png",
    "report none": "none",
}  # fmt: skip
"""Command line -> what its refusal names. Of the named files only words.txt exists."""

Told = dict[str, tuple[int, str, str, set[str]]]


def run(lines: list[list[str]], folder: Path) -> list[tuple[int, str, str, list[str]]]:
    """Exit code, stdout, stderr and all modules imported so far, for each command line in one process."""
    command = [sys.executable, "-P", "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=120)
    return [tuple(each) for each in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What each command line gives in one process: exit code, stdout, stderr, and all modules imported so far."""
    lines = ["--help", *(f"{name} --help" for name in (*COMMANDS, *DEEPER)), *REFUSED]
    folder = tmp_path_factory.mktemp("startup")
    (folder / "words.txt").write_text("a red hand\n")
    found = run([line.split() for line in lines], folder)
    return {line: (code, out, err, set(names)) for line, (code, out, err, names) in zip(lines, found, strict=True)}


def first_with(told: Told, line: str) -> set[str]:
    """The heavy modules that a command line imported: those that no earlier one had."""
    lines = list(told)
    before = told[lines[lines.index(line) - 1]][3] if lines.index(line) else set()
    return (told[line][3] - before) & HEAVY


def test_the_help_names_every_command_and_imports_none_of_them(told: Told) -> None:
    code, out, _, names = told["--help"]
    assert code == 0
    assert all(f"    {name}" in out for name in COMMANDS)
    assert not names & (HEAVY | {"numpy", "PIL", "rich"})


@pytest.mark.parametrize("name", [*COMMANDS, *DEEPER])
def test_help_comes_before_heavy_imports(told: Told, name: str) -> None:
    code, out, err, _ = told[f"{name} --help"]
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: refiner {name} ")
    assert not first_with(told, f"{name} --help")


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_come_before_heavy_imports(told: Told, line: str) -> None:
    code, out, err, _ = told[line]
    assert (code, out) == (2, "")
    assert REFUSED[line] in err.splitlines()[-1]
    assert not first_with(told, line)


@pytest.mark.parametrize("family", ["vlm", "anomagent", "anomreason", "checklist", "fakexplain"])
def test_a_detector_behind_an_endpoint_needs_no_torch(family: str, tmp_path: Path) -> None:
    """No server listens at the address, so that all is loaded and nothing is answered."""
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    line = ["detect", "x.png", "--prompt", "a hand", "--detector", f"{family}:model@http://127.0.0.1:9/v1,attempts=1"]
    ((code, out, _, names),) = run([line], tmp_path)
    assert (code, out) == (1, "")
    assert not set(names) & (HEAVY - {"openai"})


def test_no_command_is_left_out_of_these_tests(told: Told) -> None:
    listed = told["--help"][1].split("COMMAND\n")[1]
    named = [line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line[4] != " "]
    assert tuple(named) == COMMANDS
