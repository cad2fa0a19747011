"""Shared fixtures: a pipeline with a few thousand weights, detectors from plug-in packages, ``refiner rank``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from refiner.cli.main import main

pytest.register_assert_rewrite("support.conformance")

SPOTS = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def answer(image):
    pixels = np.asarray(image).astype(int)
    if (pixels == 0).all():
        return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
    regions = []
    for channel, category in ((0, Category.COLOR), (2, Category.SHAPE)):
        mask = pixels[..., channel] > pixels[..., 1] + 20
        if mask.any():
            severity = round(float(pixels[..., channel][mask].mean()) / 255, 3)
            regions.append(Region(mask=mask, box=box_of(mask), name="spot", category=category, severity=severity))
    return Analysis(size=Size(*mask.shape), detector="spots", regions=tuple(regions))

def build(folder, device, dtype):
    return ScriptedDetector(answer, name="spots")
"""
PROMPTS = {"00": "a red hand", "01": "a green clock", "02": "a blue cat"}

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a Stable Diffusion pipeline with a few thousand random weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from refiner.pipelines.saving.settings import SavedSettings

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=[16, 16], down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2, norm_num_groups=8, sample_size=64,
        ),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77),
        unet=UNet2DConditionModel(
            block_out_channels=(16, 32), layers_per_block=1, sample_size=32, cross_attention_dim=32, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=8,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    SavedSettings(call={"num_inference_steps": 2}).write(folder)
    return str(folder)


@pytest.fixture(scope="session")
def write_plugin() -> Callable[[Path, str, str], str]:
    """Write a package that looks installed, whose entry point "spots" is the function ``build`` of ``source``.

    The returned function takes the folder (the test adds it to the path), the name of the package and the source of its
    module. It returns the id of the detector.
    """

    def write(home: Path, package: str, source: str) -> str:
        info = home / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (home / f"{package}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[refiner.detectors]\nspots = {package}:build\n")
        return f"spots:{home}"

    return write


@pytest.fixture(scope="session")
def transformers_server() -> Iterator[str]:
    """Address of a ``transformers serve`` on loopback. It serves the folder that a request names as its model."""
    pytest.importorskip("torch")
    from support.served import TransformersServer

    server = TransformersServer()
    yield server.url
    server.stop()


@pytest.fixture
def rank(
    write_plugin: Callable[[Path, str, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Run ``refiner rank`` in ``tmp_path`` with a detector from a plug-in package, for which red and blue are flaws.

    The arguments may name another detector. The returned function returns exit code, stdout and stderr.
    """
    home = tmp_path / "plugin"
    detector = write_plugin(home, "spots_for_ranking", SPOTS)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delitem(sys.modules, "spots_for_ranking", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(PROMPTS))

    def run(*arguments: object) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        given += [] if "--prompts" in given else ["--prompts", "p.json"]
        given += [] if "--detector" in given else ["--detector", detector]
        code = main(["rank", *given])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def stopping_at_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """A context in which training is interrupted as soon as it has written a checkpoint."""
    from refiner.training import fit
    from refiner.training.checkpoints import save_checkpoint

    def save_and_stop(path: Path, state: dict[str, object]) -> None:
        save_checkpoint(path, state)
        raise KeyboardInterrupt

    @contextmanager
    def stopping() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(fit, "save_checkpoint", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stopping
