"""HPS from each layout of weights: the CLIPModel against transformers itself, the hub, the package backend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.metrics.hps.scorer import CONFIG_FILE, PUBLISHED_FILES, HPSScorer, preprocess
from refiner.metrics.hps.transformers_layout import open_clip_config, open_clip_state

PROMPTS = ["a red hand", "two cats &amp; a dog", "a red hand"]
TOWERS = {
    "projection_dim": 16,
    "text_config": {"hidden_size": 24, "intermediate_size": 60, "num_hidden_layers": 2, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
}


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(40, 30), (32, 32), (17, 90)]
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def converted(act: str) -> CLIPModel:
    """A small CLIPModel with every weight random, biases and norms included."""
    config = json.loads(json.dumps(TOWERS))
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = act
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**config)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def save(model: CLIPModel, folder: Path, layout: str) -> Path:
    model.save_pretrained(folder)
    if layout == "old":  # as transformers wrote it in 2023: pickled, position_ids among the weights
        (folder / "model.safetensors").unlink()
        state = dict(model.state_dict())
        for tower, count in (("text_model", 77), ("vision_model", 17)):
            state[f"{tower}.embeddings.position_ids"] = torch.arange(count)[None]
        torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("layout", ["new", "old"])
def test_conversion_scores_as_transformers_does(tmp_path: Path, act: str, layout: str) -> None:
    model = converted(act)
    scorer = HPSScorer.from_pretrained(save(model, tmp_path / "converted", layout), device="cpu")
    tokens = open_clip.tokenizer.SimpleTokenizer()(PROMPTS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(image, 32) for image in pictures()])
        found = model(input_ids=tokens, pixel_values=pixels)
    wanted = (found.image_embeds * found.text_embeds).sum(1).tolist()
    assert scorer.score(pictures(), PROMPTS) == pytest.approx(wanted, abs=1e-6)
    assert len(set(wanted)) == 3
    assert "version:own" in scorer.signature


def test_the_full_size_layout_has_the_same_names_and_shapes() -> None:
    """ViT-H-14, without its 986 million numbers."""
    towers = {
        "model_type": "clip",
        "projection_dim": 1024,
        "text_config": {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        "vision_config": {
            "hidden_act": "gelu",
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
        },
    }
    published = open_clip.get_model_config("ViT-H-14")
    config = open_clip_config(towers)
    with torch.device("meta"):
        theirs = open_clip_state(CLIPModel(CLIPConfig(**towers)).state_dict())
        wanted = open_clip.CLIP(**published).state_dict()
        assert {name: value.shape for name, value in theirs.items()} == {k: v.shape for k, v in wanted.items()}
        again = open_clip.CLIP(**config)
    assert again.state_dict().keys() == wanted.keys()
    assert published["vision_cfg"].items() <= (config["vision_cfg"] | {"mlp_ratio": 4.0}).items()
    assert published["text_cfg"].items() <= config["text_cfg"].items()
    assert len(theirs) == 686


def test_conversion_round_trip_through_open_clips_format(tmp_path: Path) -> None:
    model = converted("gelu").half().float()
    scorer = HPSScorer.from_pretrained(save(model, tmp_path / "converted", "new"), device="cpu")
    scorer.save_pretrained(tmp_path / "saved")
    again = HPSScorer.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.score(pictures(), PROMPTS) == scorer.score(pictures(), PROMPTS)


def spoil(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_models_are_refused(tmp_path: Path) -> None:
    folder = save(converted("gelu"), tmp_path / "converted", "new")
    spoil(folder, model_type="siglip")
    with pytest.raises(WeightsError, match="'siglip'"):
        HPSScorer.from_pretrained(folder)
    spoil(folder, model_type="clip", vision_config=TOWERS["vision_config"] | {"hidden_act": "relu"})
    with pytest.raises(WeightsError, match="relu"):
        HPSScorer.from_pretrained(folder)
    spoil(folder, vision_config=TOWERS["vision_config"] | {"hidden_act": "gelu", "hidden_size": 64})
    with pytest.raises(WeightsError, match="do not fit"):
        HPSScorer.from_pretrained(folder)
    spoil(folder, vision_config=7)
    with pytest.raises(WeightsError):
        HPSScorer.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json"):
        HPSScorer.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["text_model.encoder.layers.0.self_attn.k_proj.weight", "vision_model.post_layernorm.bias", "logit_scale"]
)
def test_missing_weights_are_refused(tmp_path: Path, name: str) -> None:
    folder = save(converted("gelu"), tmp_path / "converted", "old")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state[name]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="do not fit"):
        HPSScorer.from_pretrained(folder)


@pytest.mark.parametrize("name", ["surprise", "text_model.encoder.layers.0.extra.weight"])
def test_additional_weights_are_refused(tmp_path: Path, name: str) -> None:
    folder = save(converted("gelu"), tmp_path / "converted", "old")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True) | {name: torch.zeros(2)}
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="do not fit"):
        HPSScorer.from_pretrained(folder)


def test_weights_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    folder = save(converted("gelu"), tmp_path / "converted", "old")
    torch.save({"logit_scale": 3}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="of tensors"):
        HPSScorer.from_pretrained(folder)


def test_unpacked_pickles_are_read(tmp_path: Path) -> None:
    """Files from before torch 1.6 cannot be mapped into memory."""
    torch.manual_seed(0)
    config = open_clip_config({"model_type": "clip"} | TOWERS)
    state = open_clip.CLIP(**config).state_dict()
    file = tmp_path / PUBLISHED_FILES["v2.0"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    found = []
    for zipped in (True, False):
        torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=zipped)
        scorer = HPSScorer.from_pretrained(tmp_path, version="v2.0", device="cpu")
        found.append(scorer.score(pictures(), PROMPTS))
        assert "version:v2.0" in scorer.signature
    assert found[0] == found[1]


@pytest.mark.parametrize("model", ["xswu/HPSv2", "xswu/HPSv2@main"])
def test_published_weights_off_line(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"HPS_v2\.1_compressed\.pt"):
        HPSScorer.from_pretrained(model)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "fp16"}, "mode 'fp32' or 'compat', got 'fp16'"),
        ({"backend": "clip"}, "backend 'open_clip' or 'hpsv2', got 'clip'"),
        ({"version": "v2"}, "version 'v2.0' or 'v2.1', got 'v2'"),
        ({"workers": -1}, "workers of at least 0"),
        ({"batch_size": 0}, "batch_size of at least 1"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        HPSScorer.from_pretrained("micro", **options)


def test_the_package_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ConfigError, match="is not installed"):
        HPSScorer.from_pretrained("micro", backend="hpsv2")


def test_the_package_as_its_wheel_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it fails, for its vocabulary is missing."""
    (tmp_path / "hpsv2" / "src" / "open_clip").mkdir(parents=True)
    (tmp_path / "hpsv2" / "src" / "open_clip" / "__init__.py").write_text("open('bpe_simple_vocab_16e6.txt.gz')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"fails with FileNotFoundError.*install hpsv2x"):
        HPSScorer.from_pretrained("micro", backend="hpsv2")
    with pytest.raises(ConfigError, match="antialias=True"):
        HPSScorer.from_pretrained("micro", backend="hpsv2", antialias=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "hpsv2"]:
        del sys.modules[name]
