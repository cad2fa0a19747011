"""A probe on the denoiser's features: it uses the generating pipeline and the prompt, and is safe to load."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from refiner import RefinedPipeline
from refiner.detectors import load_detector
from refiner.detectors.probe.detector import DenoiserFeatures, ProbeDetector
from refiner.errors import ConfigError, OutOfDomainError, WeightsError
from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import inject
from refiner.micro.world import render, sample_scene

SCENES = [sample_scene(np.random.default_rng([77, number]), count=1 + number % 4) for number in range(6)]


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    loaded = DiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def probe(pipe: DiffusionPipeline) -> ProbeDetector:
    detector = load_detector("micro:probe", device="cpu")
    assert isinstance(detector, ProbeDetector)
    detector.bind(pipe)
    return detector


def test_features_of_a_picture_do_not_depend_on_its_neighbours(pipe: DiffusionPipeline) -> None:
    look, pictures = DenoiserFeatures(pipe, 150, 2), [render(scene) for scene in SCENES[:3]]
    caption = SCENES[0].caption
    together = look(pictures, caption)
    alone = torch.cat([look([picture], caption) for picture in pictures])
    assert together.shape[0] == 3
    assert together.shape[2:] == (24, 24)
    assert torch.allclose(together, alone, atol=5e-4)


def test_runs_at_the_same_time_do_not_mix(probe: ProbeDetector) -> None:
    jobs = [(render(scene), scene.caption) for scene in SCENES]
    wanted = [probe(*job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda job: probe(*job), jobs))
    for one, other in zip(found, wanted, strict=True):
        assert one.heatmap is not None
        assert other.heatmap is not None
        assert np.allclose(one.heatmap, other.heatmap, atol=1e-5)


def test_it_reads_the_prompt(probe: ProbeDetector) -> None:
    """The same images get higher flaw probabilities with a caption that does not describe them."""
    right = [probe(render(scene), scene.caption).fake_probability for scene in SCENES]
    others = [SCENES[number - 1].caption for number in range(len(SCENES))]
    wrong = [probe(render(scene), other).fake_probability for scene, other in zip(SCENES, others, strict=True)]
    assert sum(a > b for a, b in zip(wrong, right, strict=True)) >= 5


def test_most_of_what_it_marks_on_flawed_pictures_is_flawed(probe: ProbeDetector) -> None:
    """The probe was not trained on injected flaws, but marks their pixels far more often than by chance."""
    rng = np.random.default_rng(5)
    marked, hits, shares = 0, 0.0, []
    for scene in SCENES:
        flawed = inject(scene, rng, 1)
        truth = np.logical_or.reduce([region.mask for region in flawed.regions])
        claimed = probe(flawed.image, scene.caption).mask
        marked, hits = marked + int(claimed.sum()), hits + float((claimed & truth).sum())
        shares.append(float(truth.mean()))
    assert marked > 0
    assert hits / marked > 3 * float(np.mean(shares))


def test_regions_name_things_of_the_world_in_words_of_the_prompt(probe: ProbeDetector) -> None:
    kinds = {thing.kind for scene in SCENES for thing in scene.things} | {"sign", "tree", "house"}
    lenient = ProbeDetector(probe.model, replace(probe.config, threshold=0.02), name="lenient", domain="micro")
    assert probe._pipe is not None
    lenient.bind(probe._pipe)
    regions = [region for scene in SCENES for region in lenient(render(scene), scene.caption).regions]
    assert regions
    for region in regions:
        assert region.name.split()[-1] in kinds
        assert region.explanation
        assert 0 < region.score <= 1


def test_a_pipeline_lends_its_denoiser_and_counts_the_rows() -> None:
    pipe = RefinedPipeline.from_pretrained("micro", detector="micro:probe")
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.detector, ProbeDetector)
    assert pipe.detector._pipe is pipe.pipe
    start = next(pipe.stream(SCENES[1].caption, seed=3, num_inference_steps=2))
    assert start.calls.denoiser_rows == 2 * 2 + pipe.detector.config.draws
    assert start.calls.detector_calls == 1


def test_without_a_pipeline_it_loads_the_one_it_was_trained_on(probe: ProbeDetector) -> None:
    alone = load_detector(MICRO_WEIGHTS / "probe", device="cpu")
    picture = render(SCENES[0])
    found, wanted = alone(picture, SCENES[0].caption), probe(picture, SCENES[0].caption)
    assert found.heatmap is not None
    assert np.allclose(found.heatmap, wanted.heatmap, atol=1e-5)


def test_another_denoiser_is_refused(probe: ProbeDetector, pipe: DiffusionPipeline) -> None:
    class Foreign:
        scheduler = pipe.scheduler

    with pytest.raises(ConfigError, match="channels of features"):
        probe.bind(Foreign())


def test_a_photograph_is_refused(probe: ProbeDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    with pytest.raises(OutOfDomainError):
        probe(Image.fromarray(noise), "a red hand")


def test_a_saved_probe_answers_as_before(probe: ProbeDetector, pipe: DiffusionPipeline, tmp_path: Path) -> None:
    probe.save_pretrained(tmp_path)
    again = ProbeDetector.from_pretrained(tmp_path, device="cpu")
    again.bind(pipe)
    picture = render(SCENES[2])
    found, wanted = again(picture, SCENES[2].caption), probe(picture, SCENES[2].caption)
    assert np.array_equal(found.heatmap, wanted.heatmap)
    assert [(region.box, region.name) for region in found.regions] == [
        (region.box, region.name) for region in wanted.regions
    ]


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "other weights", "no config", "cut config", "surplus"])
def test_a_damaged_folder_is_refused_in_one_sentence(probe: ProbeDetector, tmp_path: Path, damage: str) -> None:
    probe.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    values = json.loads(config.read_text())
    match damage:
        case "no weights":
            weights.unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "other weights":
            config.write_text(json.dumps(values | {"width": 8}))
        case "no config":
            config.unlink()
        case "cut config":
            config.write_text(config.read_text()[:40])
        case "surplus":
            config.write_text(json.dumps(values | {"command": "rm"}))
    with pytest.raises(WeightsError, match=r"probe .* cannot be loaded"):
        ProbeDetector.from_pretrained(tmp_path)
