"""HPS: the reference's preprocessing, both weight formats, scores that do not depend on the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.metrics.hps.scorer import CONFIG_FILE, MEAN, PUBLISHED_FILES, STD, WEIGHTS_FILE, HPSScorer, preprocess
from refiner.protocols import Judge

PROMPTS = ["a red hand", "a green clock", "a red hand", "two cats &amp; a dog", "a red hand"]


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def tiny_config() -> dict:
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A tiny checkpoint in the published layout: half precision, pickled, under ``state_dict``."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**tiny_config())
    folder = tmp_path / "official"
    folder.mkdir()
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, folder / PUBLISHED_FILES["v2.1"])
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": tiny_config()}))
    return folder


def load(folder: Path, **settings: object) -> HPSScorer:
    return HPSScorer.from_pretrained(folder, device="cpu", **settings)  # type: ignore[arg-type]


def pictures() -> list[Image.Image]:
    sizes = [(32, 32), (60, 40), (17, 90), (300, 200), (32, 20)]
    return [picture(width, height, seed=seed) for seed, (width, height) in enumerate(sizes)]


class _ResizeMaxSize:
    """The reference's resize, step by step as facts/evaluation.md section 1.1 has it, in torchvision's own classes."""

    def __init__(self, size: int, antialias: bool) -> None:
        self.size, self.antialias = size, antialias

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        height, width = tensor.shape[1:]
        scale = self.size / float(max(height, width))
        if scale == 1.0:
            return tensor
        new = (round(height * scale), round(width * scale))
        bicubic = transforms.InterpolationMode.BICUBIC
        tensor = transforms.functional.resize(tensor, list(new), bicubic, antialias=self.antialias)
        pad_h, pad_w = self.size - new[0], self.size - new[1]
        return transforms.Pad((pad_w // 2, pad_h // 2, pad_w - pad_w // 2, pad_h - pad_h // 2), fill=0)(tensor)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(640, 427), (101, 333), (224, 224), (50, 49), (1000, 1000), (223, 225), (16, 128)])
def test_preprocess_equals_the_reference_steps(size: tuple[int, int], antialias: bool) -> None:
    image = picture(*size)
    steps = [transforms.ToTensor(), _ResizeMaxSize(224, antialias), transforms.Normalize(MEAN, STD)]
    assert torch.equal(preprocess(image, 224, antialias=antialias), transforms.Compose(steps)(image))


def test_antialias_matters_and_pads_are_black() -> None:
    image = picture(640, 320)
    ours, other = preprocess(image, 224), preprocess(image, 224, antialias=False)
    assert (ours - other).abs().max() > 1e-3
    black = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)])
    assert torch.allclose(ours[:, 0, 0], black)
    assert torch.allclose(ours[:, -1, -1], black)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture(48, 30) if mode in ("I;16", "F") else picture(48, 30, mode)
    image = image.convert("L").convert(mode) if mode in ("I;16", "F") else image
    assert preprocess(image, 32).shape == (3, 32, 32)


def test_longest_side_of_the_right_length_is_padded() -> None:
    assert preprocess(picture(224, 112), 224).shape == (3, 224, 224)


def test_published_layout_scores_as_the_bare_network(official: Path) -> None:
    scorer = load(official)
    model = open_clip.CLIP(**tiny_config())
    model.load_state_dict(torch.load(official / PUBLISHED_FILES["v2.1"], weights_only=True)["state_dict"])
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=20)(PROMPTS)
    with torch.no_grad():
        images, texts, _ = model.eval()(torch.stack([preprocess(image, 32) for image in pictures()]), tokens)
    wanted = torch.diag(images @ texts.T).tolist()
    assert scorer.score(pictures(), PROMPTS) == pytest.approx(wanted, abs=1e-6)
    assert isinstance(scorer, Judge)
    assert "@" in scorer.name
    assert "v2.1" in scorer.name


def test_scores_do_not_depend_on_the_batch(official: Path) -> None:
    scorer = load(official, batch_size=4)
    together = scorer.score(pictures(), PROMPTS)
    alone = [scorer.score([image], [prompt])[0] for image, prompt in zip(pictures(), PROMPTS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-6)
    assert all(isinstance(score, float) and -1 <= score <= 1 for score in together)
    assert len(set(together)) == len(together)


def test_each_prompt_is_encoded_once(official: Path) -> None:
    scorer = load(official)
    seen: list[str] = []
    tokenizer = scorer.tokenizer
    scorer.tokenizer = lambda texts: (seen.extend(texts), tokenizer(texts))[1]
    scorer.score(pictures(), PROMPTS)
    assert seen == list(dict.fromkeys(PROMPTS))


def test_folder_round_trip(official: Path, tmp_path: Path) -> None:
    scorer = load(official)
    scorer.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.score(pictures(), PROMPTS) == scorer.score(pictures(), PROMPTS)
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / WEIGHTS_FILE).read_bytes() == (tmp_path / "saved" / WEIGHTS_FILE).read_bytes()
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    assert plain.state_dict().keys() == scorer.model.state_dict().keys()


def test_antialias_is_in_the_name(official: Path) -> None:
    assert load(official, antialias=False).name != load(official).name


def test_wrong_arguments_are_named(official: Path) -> None:
    with pytest.raises(ConfigError, match=r"v2\.1"):
        load(official, version="v2")
    with pytest.raises(ConfigError, match="one prompt for each of 5 images"):
        load(official).score(pictures(), PROMPTS[:2])
    with pytest.raises(ConfigError, match="batch_size"):
        load(official, batch_size=0)
    with pytest.raises(ModelNotFoundError):
        HPSScorer.from_pretrained("no such/folder at all")
    assert load(official).score([], []) == []


def test_other_version_is_missing(official: Path) -> None:
    with pytest.raises(WeightsError, match=PUBLISHED_FILES["v2.0"]):
        load(official, version="v2.0")


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_truncated_pickle(official: Path, keep: int) -> None:
    file = official / PUBLISHED_FILES["v2.1"]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="download it again"):
        load(official)


def test_truncated_safetensors(official: Path, tmp_path: Path) -> None:
    load(official).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model_cfg": 3}', '{"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}', '{"other": {}}']
)
def test_damaged_config(official: Path, text: str) -> None:
    (official / CONFIG_FILE).write_text(text)
    with pytest.raises(WeightsError, match=r"open_clip|CLIP"):
        load(official)


def test_weights_of_another_model(official: Path) -> None:
    config = tiny_config() | {"embed_dim": 24}
    (official / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(WeightsError, match="do not fit"):
        load(official)


def test_pickled_code_is_not_run(official: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Bomb()}, official / PUBLISHED_FILES["v2.1"])
    with pytest.raises(WeightsError):
        load(official)
    assert not (tmp_path / "ran").exists()
