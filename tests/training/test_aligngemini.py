"""AlignGemini's training: lessons without pixel cues, preferences, pairs, DDA's losses, and small real models."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from support.tiny_chat_models import save_viewer
from tokenizers import AddedToken

from refiner.cli import main
from refiner.data.problems import Problem
from refiner.data.samples import Sample
from refiner.detectors import load_detector
from refiner.detectors.aligngemini.detector import AlignGeminiDetector
from refiner.detectors.aligngemini.expert import ExpertDetector
from refiner.detectors.aligngemini.fusion import Fusion
from refiner.detectors.aligngemini.grammar import read
from refiner.detectors.aligngemini.semantic import SemanticDetector
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError, InputError, UnreadableOutputError, WeightsError
from refiner.hub import MICRO_WEIGHTS
from refiner.micro.flaws import FLAWS
from refiner.micro.world import render, sample_scene
from refiner.taxonomy import Category
from refiner.training.aligngemini.cues import destroyed
from refiner.training.aligngemini.drawn import KINDS, DrawnPairs, held_out, semantic_data
from refiner.training.aligngemini.eval import balanced_accuracy, scores_of
from refiner.training.aligngemini.expert import TARGETS, batch_of, contrastive, load_trainee, losses, train_pixel
from refiner.training.aligngemini.fusing import held_rows, learn_thresholds
from refiner.training.aligngemini.lessons import Style, lesson_of, lessons_of, preferred, supervised
from refiner.training.aligngemini.pairs import DataPairs, Pair, changed, place_of, views
from refiner.training.aligngemini.recipe import RECIPE, micro, train_on
from refiner.training.aligngemini.settings import AlignGeminiSettings, PixelSettings, SemanticSettings
from refiner.training.aligngemini.words import tokens
from refiner.training.chat.running import Report
from refiner.training.chat.settings import StageSettings
from refiner.training.curves import read_curves
from refiner.training.runs import Run
from refiner.training.settings import changed as changed_settings
from refiner.types import Analysis, Region, Size

STYLE = Style(BoxFormat(), 256, 2.0)
STAGE = StageSettings(batch=2, accumulate=1, most_steps=4, report_every=1, save_every=2)
SEMANTIC = SemanticSettings(rank=4, alpha=8, vision=False, bf16=False, max_side=96, sft=STAGE, dpo=STAGE)
PIXEL = PixelSettings(
    base="", width=32, layers=2, heads=2, patch=16, side=48, rank=0, batch=2, accumulate=1, most_steps=4,
    report_every=1, save_every=2, resized=False, bf16=False,
)  # fmt: skip


class Drawn:
    """Pairs of a real image and one that is generated from it, with a flaw that is told."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()) -> None:
        self.problems: list[Problem] = []
        self.broken = broken
        self.names = tuple(f"{kind}/{index}.png" for index in range(count) for kind in ("0_real", "1_fake"))

    def load(self, index: int) -> Sample:
        if index in self.broken:
            raise InputError(f"The image {self.names[index]!r} is damaged: download it again.")
        number, fake = index // 2, index % 2 == 1
        scene = np.asarray(render(sample_scene(np.random.default_rng(number))).resize((80, 64)))
        pixels = np.clip(scene + (np.random.default_rng(index).normal(0, 9, scene.shape) if fake else 0), 0, 255)
        flaw = Region(
            mask=None, box=(10, 8, 40, 30), name="the hand", explanation=f"it has {number} fingers",
            category=Category.ANATOMY,
        )  # fmt: skip
        truth = Analysis(size=Size(64, 80), regions=(flaw,) if fake else (), detector="truth")
        image = Image.fromarray(pixels.astype(np.uint8))
        return Sample(name=self.names[index], image=image, fake=fake, truth=truth, pair=str(number))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_viewer(tmp_path_factory.mktemp("base"), context=1536)


def figures(folder: Path) -> dict[str, list[tuple[int, float]]]:
    return {name: curve for name, curve in read_curves(folder / "log.jsonl").items() if "rate" not in name}


# --- the semantic branch: lessons


@pytest.mark.parametrize("strength", [0.2, 1.0, 2.0])
def test_pixel_cues_are_destroyed_and_what_is_shown_stays(strength: float) -> None:
    """Fine noise, which stands for a generator's traces, loses energy; large areas keep their colours."""
    rng = np.random.default_rng(0)
    weaker, total = 0, 30
    for number in range(total):
        scene = np.asarray(render(sample_scene(rng)), dtype=np.float64)
        noisy = Image.fromarray(np.clip(scene + rng.normal(0, 12, scene.shape), 0, 255).astype(np.uint8))
        found = destroyed(noisy, f"{number}.png", strength)
        assert found.size == noisy.size
        assert destroyed(noisy, f"{number}.png", strength).tobytes() == found.tobytes()
        before, after = (np.abs(np.diff(np.asarray(each, dtype=np.float64), axis=1)).mean() for each in (noisy, found))
        weaker += bool(after < before)
        small = [np.asarray(each.resize((8, 8), Image.Resampling.BOX), dtype=np.float64) for each in (noisy, found)]
        assert np.abs(small[0] - small[1]).mean() < 12
    assert weaker >= 0.9 * total
    assert destroyed(noisy, "x", 0) is noisy


def test_a_lesson_is_read_back_as_its_truth() -> None:
    for index in range(4):
        lesson = lesson_of(Drawn(2).load(index), STYLE)
        found = read(lesson.answer, form=STYLE.form, shown=Size(lesson.image.height, lesson.image.width))
        assert found.fake == (index % 2 == 1)
        assert [flaw.description for flaw in found.flaws] == [flaw.description for flaw in lesson.truth.flaws]
    told = lesson_of(replace(Drawn(1).load(1), truth=None), STYLE)
    assert (told.truth.fake, told.answer) == (True, "fake")
    with pytest.raises(InputError):
        lesson_of(replace(Drawn(1).load(1), fake=None, truth=None), STYLE)


def test_each_preference_is_a_right_answer_over_one_with_the_wrong_verdict() -> None:
    lessons = lessons_of(Drawn(4), STYLE, print)
    rows = preferred(lessons, STYLE)
    shown = Size(64, 80)
    for place in range(len(lessons)):
        row = rows[place]
        chosen, rejected = (
            read(row[kind][0]["content"], form=STYLE.form, shown=shown) for kind in ("chosen", "rejected")
        )
        assert chosen.fake == (place % 2 == 1)
        assert rejected.fake != chosen.fake
        assert bool(rejected.flaws) == rejected.fake, "a wrong verdict 'fake' has reasons, which are true elsewhere"
        assert row["prompt"] == supervised(lessons)[place]["prompt"]


# --- the semantic branch: training


class KilledError(BaseException):
    """Ends a training without any cleaning up."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Trains, is killed after a step of a stage, and goes on; checkpoints are at every second step."""

    def killed(stop: tuple[str, int], settings: AlignGeminiSettings, data: Any, folder: Path) -> None:
        went_on = Report.on_log

        def kill(self: Report, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if (self.stage, state.global_step) == stop:
                raise KilledError
            went_on(self, args, state, control, **rest)

        monkeypatch.setattr(Report, "on_log", kill)
        with pytest.raises(KilledError):
            train_on(settings, data, Run(folder=folder), folder / "model")
        monkeypatch.setattr(Report, "on_log", went_on)
        train_on(settings, data, Run(folder=folder), folder / "model")

    return killed


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both branches with both methods, never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    settings = AlignGeminiSettings(semantic=replace(SEMANTIC, base=str(base), method="both"), pixel=PIXEL)
    train_on(settings, Drawn(4), Run(folder=folder), folder / "model")
    return folder


def test_both_branches_are_written_and_loaded(trained: Path) -> None:
    stages = {name.split()[0] for name in figures(trained)}
    assert stages == {"sft", "dpo", "pixel"}
    assert figures(trained)["dpo  loss"][0][1] == pytest.approx(math.log(2), abs=1e-4), "nothing is preferred at first"
    detector = load_detector(trained / "model", device="cpu")
    assert isinstance(detector, AlignGeminiDetector)
    assert isinstance(detector.semantic, SemanticDetector)
    assert isinstance(detector.pixel, ExpertDetector)
    assert detector.semantic.max_side == 96
    assert detector.pixel(Drawn(1).load(0).image).fake_probability is not None  # type: ignore[arg-type]


def test_the_adapter_and_the_merged_model_answer_alike(trained: Path) -> None:
    texts = []
    for folder in (trained / "model" / "semantic", trained / "merged"):
        detector: Any = load_detector(str(folder), device="cpu")
        detector.backend.max_tokens = 16
        with pytest.raises(UnreadableOutputError) as caught:
            detector(Drawn(1).load(0).image)
        texts.append(caught.value.raw)
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("stop", [("sft", 3), ("dpo", 3)])
def test_a_semantic_run_that_was_killed_goes_on_as_if_it_had_not(
    stop: tuple[str, int], base: Path, trained: Path, tmp_path: Path, killing: Callable[..., None]
) -> None:
    semantic = replace(SEMANTIC, base=str(base), method="both", merged=False)
    killing(stop, AlignGeminiSettings(branch="semantic", semantic=semantic), Drawn(4), tmp_path)
    straight, resumed = figures(trained), figures(tmp_path)
    assert resumed.keys() == {name for name in straight if not name.startswith("pixel")}
    for name, curve in resumed.items():
        assert curve == [(step, pytest.approx(value, abs=1e-5)) for step, value in straight[name]], name


def test_dpo_lowers_its_loss_on_what_it_is_shown(base: Path, tmp_path: Path) -> None:
    stage = replace(STAGE, most_steps=8, learning_rate=8e-3, report_every=4)
    settings = replace(SEMANTIC, base=str(base), dpo=stage, beta=0.5, merged=False)
    train_on(AlignGeminiSettings(branch="semantic", semantic=settings), Drawn(2), Run(folder=tmp_path), tmp_path / "m")
    curve = [value for _, value in figures(tmp_path)["dpo  loss"]]
    assert curve[-1] < 0.8 * curve[0]


# --- the pixel branch: pairs


def test_real_and_generated_images_are_changed_alike() -> None:
    """With equal images on both sides, all views are equal; other seeds give other views."""
    image = Drawn(1).load(0).image
    assert image is not None
    settings = replace(PIXEL, resized=True, jpeg=0.0)
    seen = set()
    for seed in range(40):
        real, fake = views(Pair(image, image), settings, [0, seed])
        assert len(real) == 3
        for one, other in zip(real, fake, strict=True):
            assert one.shape == (48, 48, 3)
            assert np.array_equal(one, other)
        seen.add(real[0].tobytes())
    assert len(seen) == 40


def test_an_image_is_cropped_and_padded_but_never_resized() -> None:
    """Each crop that no change of pixels touched is a part of the image, or the image within black."""
    rng = np.random.default_rng(3)
    large = Image.fromarray(rng.integers(1, 255, (90, 70, 3), dtype=np.uint8))
    flips = [np.asarray(large)[::a, ::b] for a in (1, -1) for b in (1, -1)]
    parts = {each[y : y + 48, x : x + 48].tobytes() for each in flips for y in range(43) for x in range(23)}
    found = [changed(large, 48, key).tobytes() in parts for key in range(80)]
    assert 10 < sum(found) < 80  # all ten other changes are left out with probability 0.36
    small = changed(Image.new("RGB", (20, 30), (255, 255, 255)), 48, 5)
    assert (small[:9] == 0).all()
    assert (small[:, :14] == 0).all()


def test_a_reconstruction_is_compressed_and_mixed_as_often_as_the_settings_say() -> None:
    rng = np.random.default_rng(0)
    real, fake = (Image.fromarray(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)) for _ in range(2))
    pair = Pair(real, fake, quality=30)
    never = replace(PIXEL, jpeg=0.0, mix=0.0)
    pure = [views(pair, never, [seed]) for seed in range(60)]
    for settings, low, high in ((replace(never, jpeg=0.5), 0.3, 0.7), (replace(never, mix=0.5), 0.55, 0.95)):
        other = [views(pair, settings, [seed]) for seed in range(60)]
        assert all(np.array_equal(one[0][0], two[0][0]) for one, two in zip(pure, other, strict=True)), "real: the same"
        share = np.mean([not np.array_equal(one[1][0], two[1][0]) for one, two in zip(pure, other, strict=True)])
        assert low < share < high


def test_pairs_are_found_and_bad_ones_are_told_once_and_replaced() -> None:
    told: list[str] = []
    pairs = DataPairs(Drawn(4, broken=(2,)), told.append)
    assert len(pairs) == 3, "a sample that cannot be read is in no pair"
    data = Drawn(3)
    real_load = data.load
    data.load = lambda index: replace(real_load(index), fake=True) if index == 2 else real_load(index)  # type: ignore[method-assign]
    pairs = DataPairs(data, told.append)
    for _ in range(2):
        assert pairs[1].real.tobytes() == pairs[2].real.tobytes()
    assert len(told) == 1
    with pytest.raises(InputError, match="refiner data reconstruct"):
        DataPairs(semantic_data(4), told.append)


def test_each_epoch_sees_each_pair_once() -> None:
    places = [place_of(number, 7, 1) for number in range(21)]
    for epoch in range(3):
        assert sorted(places[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert places[:7] != places[7:14]


# --- the pixel branch: losses


def reference_contrast(features: np.ndarray, labels: np.ndarray) -> float:
    """The loss in loops over pairs."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    alike, apart = [], []
    for one, other in itertools.permutations(range(len(labels)), 2):
        distance = float(np.linalg.norm(unit[one] - unit[other]))
        if labels[one] == labels[other]:
            alike.append(max(0.0, distance))
        else:
            apart.append(max(0.0, 1 - distance))
    means = [[value for value in values if value > 0] for values in (alike, apart)]
    return sum(float(np.mean(values)) if values else 0.0 for values in means)


@pytest.mark.parametrize("spread", [0.05, 1.0, 5.0])
def test_the_losses_are_those_of_an_independent_reference(spread: float) -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0.0, 0, 1, 1, 1, 0])
    features = rng.normal(1, spread, (6, 5)) + labels[:, None]
    logits = rng.normal(size=6)
    total, parts = losses(*(torch.from_numpy(each) for each in (features, logits, labels)), 0.3)
    chances = 1 / (1 + np.exp(-logits))
    entropy = -np.mean(labels * np.log(chances) + (1 - labels) * np.log(1 - chances))
    wanted = reference_contrast(features, labels)
    assert float(parts["entropy"]) == pytest.approx(entropy)
    assert float(parts["contrast"]) == pytest.approx(wanted)
    assert float(total) == pytest.approx(0.7 * entropy + 0.3 * wanted)
    assert float(parts["accuracy"]) == pytest.approx(np.mean((logits > 0) == (labels > 0)))


def test_the_slope_of_the_contrastive_loss_is_right_and_finite_for_equal_features() -> None:
    labels = torch.tensor([0.0, 0, 1, 1])
    features = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: contrastive(values, labels), features)
    equal = torch.ones(4, 3, requires_grad=True)
    contrastive(equal, labels).backward()
    assert equal.grad is not None
    assert bool(equal.grad.isfinite().all())


# --- the pixel branch: training


def test_adapters_change_nothing_at_first_train_alone_and_are_merged(tmp_path: Path) -> None:
    train_pixel(PIXEL, DataPairs(Drawn(4), print), Run(folder=tmp_path / "base"), tmp_path / "expert", torch.float32)
    settings = replace(PIXEL, base=str(tmp_path / "expert"), rank=2, learning_rate=0.05)
    start: Any = load_detector(tmp_path / "expert", device="cpu")
    network = load_trainee(settings)
    pixels, _ = batch_of(settings, DataPairs(Drawn(4), print), [0, 1], network.config)
    with torch.no_grad():
        assert torch.allclose(network(pixels).logits, start.model(pixels).logits, atol=1e-6)
    adapted = {name.split(".")[-4] for name, weight in network.named_parameters() if "lora_A" in name}
    assert adapted == set(TARGETS)
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    train_pixel(settings, DataPairs(Drawn(4), print), Run(folder=tmp_path / "run"), tmp_path / "tuned", torch.float32)
    tuned: Any = load_detector(tmp_path / "tuned", device="cpu")
    assert not any("lora" in name for name in tuned.model.state_dict())
    same = {
        name for name, weight in tuned.model.state_dict().items() if torch.equal(weight, start.model.state_dict()[name])
    }
    assert {name for name in tuned.model.state_dict() if name.endswith("weight") and "proj" in name} - same
    assert all(name in same for name in tuned.model.state_dict() if "norm" in name or "embeddings" in name)


def test_a_dinov2_folder_is_a_base_with_positions_of_the_crop(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=40)
    own = Dinov2Model(config).eval()
    own.save_pretrained(tmp_path)
    network = load_trainee(replace(PIXEL, base=str(tmp_path), patch=8, side=40)).eval()
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        assert torch.allclose(network.backbone(pixels).pooler_output, own(pixels).pooler_output, atol=1e-6)
    larger = load_trainee(replace(PIXEL, base=str(tmp_path), patch=8, side=48, rank=2))
    assert larger(torch.randn(1, 3, 48, 48)).logits.shape == (1,)
    with pytest.raises(WeightsError, match="DINOv2"):
        load_trainee(replace(PIXEL, base="micro:vlm"))


def test_a_pixel_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    """The checkpoint of step 2 is as a run that was killed after it leaves it."""
    pairs = DataPairs(Drawn(4), print)
    settings = replace(PIXEL, resized=True, most_steps=4, rank=0)
    train_pixel(settings, pairs, Run(folder=tmp_path / "straight"), tmp_path / "straight" / "m", torch.float32)

    class Killing(DataPairs):
        def __getitem__(self, place: int) -> Pair:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return super().__getitem__(place)

    left = 3 * settings.batch
    run = Run(folder=tmp_path / "killed")
    with pytest.raises(KilledError):
        train_pixel(settings, Killing(Drawn(4), print), run, tmp_path / "killed" / "m", torch.float32)
    train_pixel(settings, pairs, Run(folder=tmp_path / "killed"), tmp_path / "killed" / "m", torch.float32)
    one, two = (load_detector(tmp_path / name / "m", device="cpu") for name in ("straight", "killed"))
    assert isinstance(one, ExpertDetector)
    assert isinstance(two, ExpertDetector)
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(weight, two.model.state_dict()[name], atol=1e-7), name


def test_a_small_expert_learns_traces_that_real_images_lack(tmp_path: Path) -> None:
    settings = replace(
        PIXEL,
        patch=8,
        batch=8,
        most_steps=60,
        learning_rate=2e-3,
        report_every=20,
        mix=0.0,
    )
    train_pixel(settings, DataPairs(Drawn(24), print), Run(folder=tmp_path), tmp_path / "m", torch.float32)
    data = Drawn(40)
    cases = [data.load(index) for index in range(48, 80)]
    detector = load_detector(tmp_path / "m", device="cpu")
    chances = np.array([detector(case.image).fake_probability for case in cases])  # type: ignore[arg-type]
    assert balanced_accuracy(chances, [bool(case.fake) for case in cases]) > 0.8


# --- both branches


def test_learned_thresholds_are_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        fake = rng.random(40) < 0.5
        chances = np.clip(rng.normal(0.4 + 0.25 * fake[:, None] * rng.random((40, 2)), 0.15), 0, 1)
        found = learn_thresholds(chances, fake.tolist())

        def score(one: float, other: float, chances: Any = chances, fake: Any = fake) -> float:
            said = (chances[:, 0] > one) | (chances[:, 1] > other)
            return float((said[fake].mean() + (~said[~fake]).mean()) / 2)

        grid = np.linspace(0.001, 0.999, 60)
        assert score(*found) >= max(score(one, other) for one in grid for other in grid) - 1e-9
    with pytest.raises(InputError, match="raise held"):
        learn_thresholds(chances, [True] * 40)


def test_samples_that_are_held_out_keep_their_pairs_together() -> None:
    rows = held_rows(Drawn(20), 7)
    assert len(rows) == 8
    assert (
        {row // 2 for row in rows} == {row // 2 for row in rows if row % 2} == {row // 2 for row in rows if not row % 2}
    )
    pairs = DataPairs(Drawn(20), print, rows)
    assert len(pairs) == 16


class Verdicts(Drawn):
    """Images whose flaws are not told: the semantic branch learns an answer of one word."""

    def load(self, index: int) -> Sample:
        return replace(super().load(index), truth=None)


@pytest.mark.parametrize("steps", [1, 60])
def test_fusion_thresholds_are_learned_from_images_that_both_branches_answered(
    steps: int, base: Path, tmp_path: Path
) -> None:
    """After one step the semantic branch says nothing readable: the branches stay joined by OR, and that is said."""
    stage = replace(STAGE, most_steps=steps, learning_rate=3e-2, save_every=100)
    semantic = replace(SEMANTIC, base=str(base), method="sft", merged=False, sft=stage)
    settings = AlignGeminiSettings(fusion="thresholds", held=4, semantic=semantic, pixel=replace(PIXEL, most_steps=1))
    said = io.StringIO()
    train_on(settings, Verdicts(6), Run(folder=tmp_path, console=Console(file=said, width=500)), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    detector = load_detector(tmp_path / "model", device="cpu")
    assert isinstance(detector, AlignGeminiDetector)
    assert ("joined by OR: of 4 held-out images 0 had answers" in said.getvalue()) == (steps == 1)
    if steps == 1:
        assert detector.fusion == Fusion()
    else:
        assert detector.fusion == Fusion("thresholds", tuple(config["thresholds"]))


@pytest.mark.parametrize("name", RECIPE.configs)
def test_every_config_is_valid_and_can_be_changed(name: str) -> None:
    document = {"branch": "pixel", "pixel": {"batch": 3}, "semantic": {"method": "sft"}}
    assert changed_settings(RECIPE.configs[name](), document).pixel.batch == 3


@pytest.mark.parametrize(
    "change",
    [
        {"branch": "third"}, {"fusion": "and"}, {"fusion": "thresholds", "branch": "pixel"},
        {"fusion": "thresholds", "held": 1}, {"semantic": {"method": "rl"}}, {"semantic": {"beta": 0.0}},
        {"semantic": {"rank": 0}}, {"semantic": {"blur": -1.0}}, {"pixel": {"side": 100}}, {"pixel": {"contrast": 2.0}},
        {"pixel": {"epochs": 0.0}}, {"pixel": {"mix": 1.5}}, {"pixel": {"learning_rate": 0.0}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        changed_settings(AlignGeminiSettings(), change)


# --- the micro world


def test_the_bundled_semantic_branch_learns_only_what_images_show() -> None:
    assert {str(FLAWS[name].category) for name in KINDS} == {
        "anatomy", "commonsense", "optics", "perspective", "physical_law", "text",
    }  # fmt: skip
    data = semantic_data(60)
    seen = {region.category for index in range(60) for region in data.load(index).truth.regions}  # type: ignore[union-attr]
    assert seen <= {FLAWS[name].category for name in KINDS}
    assert len(seen) > 3


def test_the_words_of_the_bundled_branch_are_one_token_each() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MICRO_WEIGHTS / "vlm")
    before = len(tokenizer.encode(lesson_of(semantic_data(8).load(1), STYLE).question))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in tokens() if text not in tokenizer.get_vocab()])
    lesson = lesson_of(semantic_data(8).load(1), STYLE._replace(max_side=96))
    assert len(tokenizer.encode(lesson.question)) == 1 < before


def test_drawn_pairs_are_made_once_and_the_held_out_sets_are_balanced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refiner.training.aligngemini.drawn._SHARD", 2)
    pairs = DrawnPairs(3, Run(folder=tmp_path))
    pairs.make()
    again = DrawnPairs(3, Run(folder=tmp_path))
    for place in range(3):
        assert again[place].real.tobytes() == pairs[place].real.tobytes() != pairs[place].fake.tobytes()
        difference = np.abs(np.asarray(pairs[place].real, dtype=int) - np.asarray(pairs[place].fake))
        assert 0 < difference.mean() < 8
    (tmp_path / "pairs" / "0000.npz").write_bytes(b"damaged")
    with pytest.raises(InputError, match="delete the file"):
        DrawnPairs(3, Run(folder=tmp_path))[0]
    sets = held_out(3, MICRO_WEIGHTS / "generator")
    assert {name: [case.fake for case in cases] for name, cases in sets.items()} == dict.fromkeys(
        ("semantic", "pixel", "mixture"), [False] * 3 + [True] * 3
    )


def test_an_answer_that_cannot_be_read_is_wrong() -> None:
    fake = [True, True, False, False]
    assert balanced_accuracy(np.array([0.9, 0.2, 0.1, 0.6]), fake) == 0.5
    assert balanced_accuracy(np.array([0.9, np.nan, 0.1, np.nan]), fake) == 0.5
    assert scores_of({}, {}) == {}


def test_the_command_asks_for_data_and_names_the_configs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "aligngemini", "--config", "paper", "--out", str(tmp_path / "run")]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["train", "aligngemini", "--config", "nothing", "--data", "micro:4", "--out", str(tmp_path / "r")]) == 2


def test_the_micro_settings_fit_the_bundled_models() -> None:
    own = micro()
    assert own.trains == ("semantic", "pixel")
    network = load_trainee(own.pixel)
    weights = sum(weight.numel() for weight in network.parameters())
    assert 2 * weights < 2_500_000  # bytes in float16
    assert network.cells == 12
