"""X-AIGD's detector: regions, images of any size, and folders that are damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.conformance import pictures
from support.tiny_xaigd import BACKBONES, PATCH, SIDE, save_tiny, tiny_config, tiny_model

from refiner import RefinedPipeline
from refiner.detectors import load_detector
from refiner.detectors.xaigd.config import CATEGORIES, XaigdConfig
from refiner.detectors.xaigd.detector import XaigdDetector, load_xaigd
from refiner.detectors.xaigd.fitting import fit_of, mask_of, pixels_of, placed
from refiner.detectors.xaigd.modeling import XaigdModel
from refiner.detectors.xaigd.regions import SUSPECT, WHOLE, WORDS, artifact_regions, heat_regions
from refiner.errors import BadAnswerError, ConfigError, WeightsError
from refiner.taxonomy import FROM_XAIGD, XaigdCategory
from refiner.types import Size


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_every_backbone_answers_images_of_any_size(kind: str, tmp_path: Path) -> None:
    detector = load_xaigd(save_tiny(tmp_path, kind), regions="all", device="cpu")
    for size in ((130, 70), (20, 33), (SIDE, SIDE)):
        analysis = detector(pictures()[0].resize(size))
        assert analysis.size == size[::-1]
        assert analysis.heatmap is not None
        assert analysis.heatmap.dtype == np.float32
        assert 0 <= analysis.heatmap.min() < analysis.heatmap.max() <= 1
        assert analysis.fake_probability is not None
    assert all(weight.grad is None for weight in detector.model.parameters())


def test_answers_are_the_same_where_gradients_are_off(tmp_path: Path) -> None:
    detector, image = load_xaigd(save_tiny(tmp_path), device="cpu"), pictures()[0]
    plain = detector(image)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            again = detector(image)
        assert again.fake_probability == pytest.approx(plain.fake_probability)
        assert np.allclose(again.heatmap, plain.heatmap, atol=1e-6)


def probabilities(size: Size, *boxes: tuple[int, int, int, int, int, float]) -> np.ndarray:
    maps = np.zeros((len(CATEGORIES), *size), dtype=np.float32)
    for channel, x0, y0, x1, y1, value in boxes:
        maps[channel, y0:y1, x0:x1] = value
    return maps


def test_regions_are_the_connected_parts_of_each_category() -> None:
    size = Size(40, 60)
    maps = probabilities(
        size, (0, 2, 2, 12, 12, 0.9), (0, 30, 5, 50, 25, 0.6), (3, 5, 5, 15, 15, 0.8), (4, 0, 30, 60, 40, 0.4),
        (6, 1, 1, 2, 2, 0.99),
    )  # fmt: skip
    regions = artifact_regions(maps, tiny_config(least_share=0.001), size)
    assert [(region.category, region.box) for region in regions] == [
        (FROM_XAIGD[CATEGORIES[0]], (30, 5, 50, 25)),
        (FROM_XAIGD[CATEGORIES[0]], (2, 2, 12, 12)),
        (FROM_XAIGD[CATEGORIES[3]], (5, 5, 15, 15)),
    ]
    assert [region.score for region in regions] == pytest.approx([0.6, 0.9, 0.8])
    tiny = artifact_regions(probabilities(size, (0, 2, 2, 6, 6, 0.9)), tiny_config(least_share=0.001), size)
    assert regions[0].severity > tiny[0].severity
    for region in regions:
        assert region.explanation
        assert region.location
    few = artifact_regions(maps, tiny_config(least_share=0.1), size)
    assert [region.box for region in few] == [(30, 5, 50, 25)]
    everything = artifact_regions(maps, tiny_config(artifact_threshold=0.3, least_share=0.0), size)
    assert np.array_equal(np.any([region.mask for region in everything], axis=0), (maps >= 0.3).any(axis=0))


def test_the_seven_categories_have_words_of_their_own() -> None:
    assert list(WORDS) == list(XaigdCategory) == list(CATEGORIES)
    assert len({words for own in WORDS.values() for words in own}) == 21


def with_bias(model: XaigdModel, verdict: float, artifacts: float | None = None) -> XaigdDetector:
    """A detector whose verdict is nearly fixed, and whose artifacts are all above or below their threshold."""
    with torch.no_grad():
        if model.verdict is not None:
            model.verdict.weight.mul_(0.01)
            model.verdict.bias.fill_(verdict)
        if model.artifacts is not None and artifacts is not None:
            model.artifacts.leave.weight.mul_(0.01)
            model.artifacts.leave.bias.fill_(artifacts)
    return XaigdDetector(model, name="tiny")


def test_real_images_have_no_regions_unless_asked_for() -> None:
    image = pictures()[0]
    assert with_bias(tiny_model(), -5.0, 3.0)(image).regions == ()
    found = with_bias(tiny_model(regions="all"), -5.0, 3.0)(image)
    assert found.fake_probability is not None
    assert found.fake_probability < 0.1
    assert found.artifact_ratio == 1.0
    assert {region.category for region in found.regions} == {FROM_XAIGD[category] for category in CATEGORIES}
    assert with_bias(tiny_model(threshold=0.001), -5.0, 3.0)(image).regions


def test_a_generated_image_without_artifacts_has_one_unplaced_region() -> None:
    (region,) = with_bias(tiny_model(), 5.0, -5.0)(pictures()[0]).regions
    assert (region.name, region.placed) == (WHOLE, False)
    assert region.score > 0.9


def test_without_masks_the_regions_are_those_of_the_heat_map() -> None:
    detector = with_bias(tiny_model(artifacts=False), 5.0)
    found = detector(pictures()[0])
    assert found.heatmap is not None
    assert {region.name for region in found.regions} == {SUSPECT}
    inside = found.heatmap > 0.5
    assert not (found.mask & ~inside).any()
    assert found.mask.sum() > 0.9 * inside.sum()
    assert with_bias(tiny_model(artifacts=False), -5.0)(pictures()[0]).regions == ()
    assert heat_regions(np.zeros((40, 40), np.float32), detector.config, Size(40, 40)) == ()


def test_without_a_verdict_the_heat_map_is_the_likeliest_category() -> None:
    detector = with_bias(tiny_model(verdict=False), 0.0, 3.0)
    found = detector(pictures()[0])
    assert found.fake_probability is None
    assert not detector.decides
    assert found.regions
    assert found.heatmap is not None
    assert found.heatmap.min() > 0.8


def test_a_cut_out_centre_is_placed_where_it_was_cut() -> None:
    config = tiny_config(fit="crop", short_side=64)
    fit = fit_of(config, Size(128, 256))
    assert fit.scaled == (64, 128)
    assert (fit.top, fit.left) == (8, 40)
    assert fit.window == (80, 16, 176, 112)
    whole = placed(np.ones((1, 4, 4), np.float32), config, Size(128, 256))[0]
    assert np.array_equal(np.argwhere(whole).min(0), (16, 80))
    assert np.array_equal(np.argwhere(whole).max(0), (111, 175))
    mask = np.zeros((128, 256), dtype=np.bool_)
    mask[16:64, 80:176] = True
    seen = mask_of(mask, config)
    assert seen[: SIDE // 2].min() == 1
    assert seen[SIDE // 2 :].max() == 0


@pytest.mark.parametrize("size", [(SIDE, SIDE), (31, 97), (97, 31), (7, 300)])
@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_masks_are_brought_to_the_input_as_images_are(size: tuple[int, int], fit: str) -> None:
    config = tiny_config(fit=fit, mean=(0.0,) * 3, std=(1.0,) * 3)
    height, width = size
    y, x = np.indices(size)
    mask = ((x / width - 0.45) ** 2 + (y / height - 0.6) ** 2) < 0.1
    image = Image.fromarray(np.repeat((mask * 255).astype(np.uint8)[..., None], 3, axis=2))
    shown = pixels_of(image, config)
    assert shown.shape == (3, SIDE, SIDE)
    assert np.abs(shown[0].clip(0, 1) - mask_of(mask, config)).mean() < 0.06


def test_images_of_the_networks_size_are_only_normalised() -> None:
    config = tiny_config(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    values = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    wanted = (values / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    assert np.allclose(pixels_of(Image.fromarray(values), config), wanted.transpose(2, 0, 1), atol=1e-6)


def test_a_saved_detector_answers_as_before(tmp_path: Path) -> None:
    detector = XaigdDetector(tiny_model(least_share=0.01), name="tiny")
    detector.save_pretrained(tmp_path)
    again = load_detector(tmp_path, device="cpu")
    assert isinstance(again, XaigdDetector)
    assert again.config == detector.config
    for image in pictures():
        first, second = detector(image), again(image)
        assert first.fake_probability == second.fake_probability
        assert np.array_equal(first.heatmap, second.heatmap)
        assert np.array_equal(first.mask, second.mask)


def test_a_half_precision_folder_runs_in_float32_on_a_cpu(tmp_path: Path) -> None:
    XaigdDetector(tiny_model().half(), name="tiny").save_pretrained(tmp_path)
    detector = load_xaigd(tmp_path, device="cpu")
    assert {weight.dtype for weight in detector.model.parameters()} == {torch.float32}


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"fit": "stretch"}, "fit"),
    ({"pool": "max"}, "pool"),
    ({"heatmap": "gradcam"}, "rollout or relevance"),
    ({"heatmap": "lime"}, "heatmap"),
    ({"regions": "some"}, "regions"),
    ({"threshold": 1.5}, "threshold"),
    ({"zoom": 0}, "zoom"),
    ({"layers": -1}, "layers"),
    ({"short_side": 20}, "short_side"),
    ({"verdict": False, "artifacts": False}, "needs a verdict or artifacts"),
    ({"backbone": {"model_type": "bert"}}, "bert"),
    ({"backbone": {"model_type": "siglip_vision_model"}}, "no class token"),
    ({"backbone": {"model_type": "timm"}}, "gradcam"),
]


@pytest.mark.parametrize(("changes", "words"), CONFIGS)
def test_a_bad_setting_is_refused_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(**changes)


def test_a_config_survives_its_file() -> None:
    config = tiny_config(fit="crop", short_side=64, mean=(0.1, 0.2, 0.3), layers=2)
    assert XaigdConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_networks_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of the backbone's patch size"):
        XaigdModel(tiny_config(image_size=SIDE + PATCH // 2))
    with pytest.raises(ConfigError, match="no_such_net"):
        XaigdModel(replace(tiny_config("timm"), backbone={"model_type": "timm", "name": "no_such_net"}))
    with pytest.raises(ConfigError, match="convolutional"):
        XaigdModel(replace(tiny_config("timm"), image_size=160, backbone={"model_type": "timm", "name": "test_vit"}))


def damage(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(config.read_text())
    if how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no config":
        config.unlink()
    elif how == "text":
        config.write_text("not JSON")
    elif how == "list":
        config.write_text("[]")
    else:
        {
            "other kind": lambda: values.update(model_type="bert"),
            "other size": lambda: values["backbone"].update(hidden_size=24),
            "unknown field": lambda: values.update(colour="red"),
            "missing field": lambda: values.pop("image_size"),
            "bad mean": lambda: values.update(mean="grey"),
            "bad backbone": lambda: values.update(backbone=3),
            "bad number": lambda: values.update(image_size="large"),
            "unknown backbone setting": lambda: values["backbone"].update(num_attention_heads=3),
        }[how]()
        config.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "how",
    ["no weights", "cut weights", "no config", "text", "list", "other kind", "other size", "unknown field"]
    + ["missing field", "bad mean", "bad backbone", "bad number", "unknown backbone setting"],
)
def test_a_damaged_folder_is_named(how: str, tmp_path: Path, saved: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "damaged")
    damage(folder, how)
    with pytest.raises(WeightsError, match="damaged"):
        load_detector(f"xaigd:{folder}", device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("xaigd") / "tiny")


def test_options_that_do_not_fit_are_refused(saved: Path, tmp_path: Path) -> None:
    for option, words in (("heatmap=gradcam", "rollout or relevance"), ("regions=some", "regions"), ("x=1", "x")):
        with pytest.raises(ConfigError, match=words):
            load_detector(f"xaigd:{saved},{option}", device="cpu")
    marks = save_tiny(tmp_path, verdict=False)
    with pytest.raises(ConfigError, match="no verdict"):
        load_detector(f"xaigd:{marks},heatmap=relevance", device="cpu")


def test_answers_that_are_no_numbers_are_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        next(model.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(BadAnswerError, match="finite"):
        XaigdDetector(model, name="tiny")(pictures()[0])


def test_it_steers_a_refinement(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "generated"
    with_bias(tiny_model(), 5.0, 3.0).save_pretrained(folder)
    pipe = RefinedPipeline.from_pretrained("micro", detector=f"xaigd:{folder}")
    result = pipe("a red hand", seed=3, num_inference_steps=2).results[0]
    assert len(result.attempts) > 1
    assert all(attempt.analysis is not None for attempt in result.attempts if attempt.image is not None)
    assert any(attempt.action == "inpaint" or attempt.action == "regenerate" for attempt in result.attempts[1:])
