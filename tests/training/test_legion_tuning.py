"""LEGION trained on samples: what is learnt, what stays, resume, merged export, and the verdict of stage 2."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.launching import launch
from support.legion_folders import save_original
from support.synthscars_files import write_synthscars
from torch.nn import functional

from refiner.cli import main
from refiner.data.samples import DataSet, Sample
from refiner.data.sources import open_data
from refiner.detectors.legion.detector import LegionDetector
from refiner.errors import ConfigError, InputError, UserError
from refiner.images import load_image
from refiner.taxonomy import Category
from refiner.training.curves import read_curves
from refiner.training.fit import Draw
from refiner.training.legion.adapters import LoraSettings, freeze, merge, trained_in_float32
from refiner.training.legion.answers import answer_of
from refiner.training.legion.dry_run import dry_run
from refiner.training.legion.samples import Lesson, Samples, collate
from refiner.training.legion.settings import CONFIGS, TuneSettings, VerdictSettings, paper
from refiner.training.legion.tuning import Tuned, at_size, start_from, steps_of, train_on
from refiner.training.legion.verdict import stored_features
from refiner.training.runs import Run
from refiner.training.settings import changed
from refiner.types import Analysis, Region, Size

TOY = {
    "architecture": {
        "clip_patch": 24, "clip_width": 16, "clip_layers": 1, "text_width": 16, "text_layers": 1, "sam_patch": 16,
        "sam_width": 16, "sam_layers": 2, "mask_width": 16, "verdict_width": 8,
    },
    "most_steps": 4, "tower_steps": 2, "batch": 2, "warmup": 1, "bf16": False, "report_every": 1, "save_every": 2,
}  # fmt: skip
FRESH = changed(CONFIGS["micro"](), TOY)
TUNED = replace(
    paper(),
    batch=2,
    epochs=1.0,
    warmup=1,
    report_every=1,
    save_every=2,
    image_size=16,
    max_length=1536,
    bf16=False,
)
"""LEGION's own settings, for a folder of tests; the base is filled in."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data(f"synthscars:{write_synthscars(tmp_path_factory.mktemp('data') / 'train', 6)}")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_original(tmp_path_factory.mktemp("base") / "published")


@pytest.fixture(scope="module", params=["fresh", "published"])
def settings(request: pytest.FixtureRequest, published: Path) -> TuneSettings:
    return FRESH if request.param == "fresh" else replace(TUNED, base=str(published))


def trained(settings: TuneSettings, data: DataSet, folder: Path) -> LegionDetector:
    train_on(settings, data, Run(folder=folder), folder / "model")
    return LegionDetector.from_pretrained(folder / "model", device="cpu")


def weights(detector: LegionDetector) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in detector.model.state_dict().items()}


def test_the_published_settings_are_those_of_the_paper() -> None:
    found = paper()
    assert (found.lora.rank, found.lora.targets) == (8, ("q_proj", "v_proj"))
    assert (found.weights.ce, found.weights.bce, found.weights.dice) == (1.0, 0.4, 0.2)
    assert (found.learning_rate, found.warmup, found.weight_decay) == (1e-4, 100, 0.0)
    assert steps_of(found, 11_236, 8) == (703, 3 * 703 - 2)  # 11,236 annotations, two on each of eight GPUs


def test_only_what_is_trained_changes_and_the_export_answers_as_the_trained_model(
    data: DataSet, published: Path, tmp_path: Path
) -> None:
    settings = replace(TUNED, base=str(published))
    before = weights(LegionDetector.from_pretrained(published, device="cpu"))
    after = weights(trained(settings, data, tmp_path))
    assert after.keys() == before.keys()
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    allowed = (*settings.trained, "llava.model.language_model.layers")
    assert all(name.startswith(allowed) for name in differing)
    layers = {name.split(".")[-2] for name in differing if ".layers." in name and "language_model" in name}
    assert layers == {"q_proj", "v_proj"}
    assert any(name.startswith("sam.mask_decoder") for name in differing)


def test_a_resumed_run_equals_a_straight_one(settings: TuneSettings, data: DataSet, tmp_path: Path) -> None:
    straight = weights(trained(settings, data, tmp_path / "straight"))

    class Stopping:
        """Fails in the third batch of the last stage, after a checkpoint."""

        problems, names = data.problems, data.names
        left = 5 if settings.base else 6 + 3 * settings.batch + 5  # a new model first reads all captions

        def load(self, index: int) -> Sample:
            Stopping.left -= 1
            if Stopping.left < 0:
                raise KeyboardInterrupt
            return data.load(index)

    with pytest.raises(KeyboardInterrupt):
        trained(settings, Stopping(), tmp_path / "again")
    resumed = weights(trained(settings, data, tmp_path / "again"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_before_stage_2_there_is_no_verdict(data: DataSet, tmp_path: Path) -> None:
    detector = trained(FRESH, data, tmp_path)
    assert not [name for name in weights(detector) if name.startswith("prediction_head")]


@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_USE_FSDP": "true"}], ids=["ddp", "fsdp"])
def test_two_processes_learn_what_one_does_with_the_same_global_batch(
    environment: dict[str, str], data: DataSet, published: Path, tmp_path: Path
) -> None:
    place = data.places.files[0].parent.parent  # type: ignore[attr-defined]
    changes = {"epochs": 2.0, "batch": 1, "warmup": 1, "image_size": 16, "max_length": 1536, "bf16": False}
    changes |= {"report_every": 1, "base": str(published), "lora": {"dropout": 0.0}}
    runs = {}
    for name, accumulate in (("one", 2), ("two", 1)):
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps({**changes, "accumulate": accumulate}))
        arguments = ["legion", "--data", f"synthscars:{place}", "--config", "legion-paper", "--config", str(config)]
        if name == "one":
            assert main(["train", *arguments, "--device", "cpu", "--out", str(tmp_path / name)]) == 0
        else:
            launch("refiner", arguments, tmp_path / name, environment)
        log = read_curves(tmp_path / name / "log.jsonl")["stage1  loss"]
        runs[name] = log, weights(LegionDetector.from_pretrained(tmp_path / name / "model", device="cpu"))
    assert len(runs["one"][0]) == 6
    assert runs["one"][0] == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in runs["two"][0]]
    for name, weight in runs["one"][1].items():
        torch.testing.assert_close(runs["two"][1][name], weight, rtol=1e-4, atol=1e-5)


def test_merged_adapters_give_what_the_adapters_gave(data: DataSet, published: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    torch.manual_seed(0)
    freeze(detector.model, LoraSettings(rank=2, dropout=0.0), ("text_hidden_fcs",))
    for name, weight in detector.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    image = data.load(0).image
    assert image is not None
    lesson = Samples(data, detector, size=1, longest=1600, parts=1, stride=1, seed=0, tell=print).lesson(0)
    batch = collate([lesson], detector, 1600)
    with torch.no_grad():
        wanted = detector.model(batch.ids, batch.pixels, batch.sam_pixels)
        merge(detector.model)
        found = detector.model(batch.ids, batch.pixels, batch.sam_pixels)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in detector.model.named_parameters() if "lora" in name]


def test_losses_are_those_of_the_paper_at_the_images_own_sizes(published: Path) -> None:
    """Against a reference that goes image by image, region by region, and resizes as SAM's processor does."""
    detector = LegionDetector.from_pretrained(published, device="cpu")
    settings = replace(TUNED, base=str(published))
    batch = collate([lesson_of((40, 70), 2), lesson_of((90, 30), 0), lesson_of((64, 64), 1)], detector, 1024)
    with torch.no_grad():
        losses = Tuned(detector.model).losses(batch, settings)
        output = detector.model(batch.ids, batch.pixels, batch.sam_pixels)
    bce, dice, place = [], [], 0
    for masks, scaled in zip(batch.masks, batch.scaled, strict=True):
        for mask in masks:
            sized = detector.sam_processor.post_process_masks(
                [output.mask_logits[place][None, None]], [list(mask.shape)], [list(scaled)], binarize=False
            )[0][0, 0]
            chance = 1 / (1 + np.exp(-sized.double().numpy()))
            truth = mask.double().numpy()
            bce.append(-(truth * np.log(chance) + (1 - truth) * np.log(1 - chance)).mean())
            both, either = (chance * truth).sum() / 1000, (chance.sum() + truth.sum()) / 1000
            dice.append(1 - (2 * both + 1e-6) / (either + 1e-6))
            place += 1
    assert place == 3
    assert float(losses["bce"]) == pytest.approx(0.4 * np.mean(bce), rel=1e-4)
    assert float(losses["dice"]) == pytest.approx(0.2 * np.mean(dice), rel=1e-4)
    asked = batch.labels != -100
    logits = output.logits[:, :-1][asked[:, 1:]]
    assert float(losses["ce"]) == pytest.approx(float(functional.cross_entropy(logits, batch.labels[asked])), rel=1e-5)


def lesson_of(size: tuple[int, int], regions: int) -> Lesson:
    rng = np.random.default_rng([*size, regions])
    image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    found = []
    for number in range(regions):
        mask = np.zeros(size, dtype=np.bool_)
        mask[number : 20 + number, 3:25] = True
        box = (3, number, 25, 20 + number)
        found.append(Region(mask=mask, box=box, name=f"thing {number}", explanation="odd", category=Category.SHAPE))
    truth = Analysis(size=Size(*size), regions=tuple(found), detector="truth")
    return Lesson("a", image, answer_of(Sample(name="a", image=image, truth=truth)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_weights_may_be_in_half_precision_as_on_a_gpu(
    checkpointing: bool, published: Path, data: DataSet
) -> None:
    """Every trained weight gets a gradient near that in float32, and no frozen one does."""
    grads = {}
    for dtype in (torch.float32, torch.bfloat16):
        detector = LegionDetector.from_pretrained(published, device="cpu", dtype=dtype)
        torch.manual_seed(0)
        settings = replace(TUNED, lora=LoraSettings(rank=2, dropout=0.0), checkpointing=checkpointing)
        freeze(detector.model, settings.lora, settings.trained)
        trained_in_float32(detector.model)
        batch = Samples(data, detector, size=2, longest=1600, parts=1, stride=1, seed=0, tell=print).batch(Draw(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            torch.stack(list(Tuned(detector.model).losses(batch, settings).values())).sum().backward()
        grads[dtype] = {
            name: weight.grad for name, weight in detector.model.named_parameters() if weight.grad is not None
        }
        trained = {name for name, weight in detector.model.named_parameters() if weight.requires_grad}
        assert all(weight.dtype == torch.float32 for weight in detector.model.parameters() if weight.requires_grad)
        unused = {name for name in trained if "lora_A" in name or "iou" in name or "mask_tokens" in name}
        assert trained - unused <= grads[dtype].keys() <= trained
    exact, half = (torch.cat([grad.flatten() for _, grad in sorted(each.items())]) for each in grads.values())
    assert functional.cosine_similarity(exact, half, dim=0) > 0.98


def test_masks_are_resized_as_by_sams_processor(published: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    logits = torch.randn(2, 28, 28, generator=torch.Generator().manual_seed(0))
    wanted = detector.sam_processor.post_process_masks([logits[:, None]], [[50, 80]], [[20, 32]], binarize=False)[0]
    torch.testing.assert_close(at_size(logits, 32, (20, 32), (50, 80)), wanted[:, 0])


@pytest.mark.parametrize("layout", ["legion", "stage-2"])
def test_the_taught_tokens_are_those_of_the_whole_text(layout: Any, data: DataSet, tmp_path: Path) -> None:
    """The prompt and the answer together have the tokens that the model would be given, with one image token each."""
    detector = LegionDetector.from_pretrained(save_original(tmp_path / "base", layout), device="cpu")
    samples = Samples(data, detector, size=1, longest=5000, parts=1, stride=1, seed=0, tell=print)
    lesson = samples.lesson(0)
    batch = collate([lesson], detector, 5000)
    whole = detector.tokenizer(f"{detector.model.config.prompt} {lesson.answer.text}")["input_ids"]
    image = detector.model.llava.config.image_token_index
    ids = [int(token) for token in batch.ids[0] if int(token) != image]
    stop = len(whole) - 1
    assert ids[:stop] == [token for token in whole if token != image]
    assert ids[stop] == detector.tokenizer.eos_token_id
    taught = batch.labels[0][batch.labels[0] != -100]
    assert (
        int((taught == detector.model.config.seg_token_id).sum()) == len(lesson.answer.regions) == len(batch.masks[0])
    )


def test_an_answer_that_is_too_long_is_cut_with_its_masks(data: DataSet, published: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    longest = len(detector.prompt_ids()) + 40
    batch = Samples(data, detector, size=6, longest=longest, parts=1, stride=1, seed=0, tell=print).batch(Draw(0))
    assert (batch.labels != -100).sum(1).max() == 40
    marks = (batch.labels == detector.model.config.seg_token_id).sum(1).tolist()
    assert [len(masks) for masks in batch.masks] == marks


def test_each_epoch_uses_every_sample_once_in_an_order_of_its_own(data: DataSet, published: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    samples = Samples(data, detector, size=2, longest=1600, parts=1, stride=1, seed=3, tell=print)
    epochs = [[samples.lesson(6 * epoch + place).name for place in range(6)] for epoch in range(2)]
    assert [sorted(names) for names in epochs] == [sorted(data.names)] * 2
    assert epochs[0] != epochs[1]


class Damaged:
    """A data set of which some samples cannot be used."""

    def __init__(self, data: DataSet, bad: set[int]) -> None:
        self.data, self.bad, self.names, self.problems = data, bad, data.names, data.problems

    def load(self, index: int) -> Sample:
        if index in self.bad:
            raise InputError(f"The image {self.names[index]} is damaged: download it again.")
        return self.data.load(index)


def test_damaged_samples_are_told_once_and_the_rest_goes_on(data: DataSet, published: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    said: list[str] = []
    damaged = Damaged(data, {1, 4})
    samples = Samples(damaged, detector, size=2, longest=1600, parts=1, stride=1, seed=0, tell=said.append)
    names = {samples.lesson(place).name for place in range(12)}
    assert names == {name for index, name in enumerate(data.names) if index not in {1, 4}}
    assert sorted(said) == [f"The image {data.names[index]} is damaged: download it again." for index in (1, 4)]
    with pytest.raises(InputError, match=r"No sample of the data can be used"):
        Samples(
            Damaged(data, set(range(6))), detector, size=2, longest=1600, parts=1, stride=1, seed=0, tell=said.append
        ).lesson(0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trained": ("nothing.at.all",)}, "begins with 'nothing.at.all'"),
        ({"lora": LoraSettings(rank=4, targets=("qq_proj",))}, "targets qq_proj"),
        ({"image_size": 33}, "above the 32 pixels"),
        ({"max_length": 100}, "max_length is 100"),
        ({"stage": 2, "base": ""}, "--base"),
        ({"base": "nowhere/at-all"}, "nowhere/at-all"),
    ],
)
def test_settings_that_do_not_fit_the_base_are_refused_in_a_sentence(
    changes: dict[str, Any], words: str, data: DataSet, published: Path, tmp_path: Path
) -> None:
    settings = replace(TUNED, **{"base": str(published), **changes})
    with pytest.raises(UserError) as caught:
        train_on(settings, data, Run(folder=tmp_path), tmp_path / "model")
    assert words in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_a_schedule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cosine or linear"):
        TuneSettings(schedule="stairs")


@pytest.fixture
def verdicts() -> DataSet:
    """Bright images are real."""
    rng = np.random.default_rng(0)

    class Bright:
        problems: list[Any] = []  # noqa: RUF012
        names = tuple(f"{index}.png" for index in range(40))
        loaded = 0

        def load(self, index: int) -> Sample:
            Bright.loaded += 1
            if index == 7:
                raise InputError("The image 7.png is damaged: download it again.")
            pixels = rng.integers(0, 100, (24, 24, 3)) + (150 if index % 2 else 0)
            return Sample(name=self.names[index], image=Image.fromarray(pixels.astype(np.uint8)), fake=not index % 2)

    return Bright()


def test_stage_2_learns_the_verdict_and_changes_nothing_else(verdicts: Any, published: Path, tmp_path: Path) -> None:
    settings = replace(
        TUNED, base=str(published), stage=2, verdict=VerdictSettings(width=16, batch=8, epochs=12.0, report_every=5)
    )
    before = weights(LegionDetector.from_pretrained(published, device="cpu"))
    detector = trained(settings, verdicts, tmp_path)
    after = weights(detector)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name for name in after if name not in before} == {
        f"prediction_head.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")
    }
    dark, bright = (Image.new("RGB", (24, 24), (shade,) * 3) for shade in (40, 210))
    chances = [each.fake_probability for each in detector.batch([dark, bright])]
    assert chances[0] > 0.5 > chances[1]
    assert read_curves(tmp_path / "log.jsonl")["verdict  accuracy"][-1][1] > 0.9


def test_features_are_computed_once(verdicts: Any, published: Path, tmp_path: Path) -> None:
    detector = LegionDetector.from_pretrained(published, device="cpu")
    first = stored_features(verdicts, detector, Run(folder=tmp_path))
    loaded = type(verdicts).loaded
    again = stored_features(verdicts, detector, Run(folder=tmp_path))
    assert type(verdicts).loaded == loaded
    assert torch.equal(first.values, again.values)
    assert (len(first.real), int(first.real.sum())) == (39, 19)


def test_a_verdict_needs_real_and_generated_images(data: DataSet, published: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no usable real images"):
        train_on(replace(TUNED, base=str(published), stage=2), data, Run(folder=tmp_path), tmp_path / "model")


def test_a_dry_run_describes_the_training_without_weights(
    settings: TuneSettings, data: DataSet, tmp_path: Path
) -> None:
    found = dry_run(settings, data, Run(folder=tmp_path))
    detector = start_from(settings, data, Run(folder=tmp_path))
    text = detector.model.llava.config.text_config
    adapters = text.num_hidden_layers * len(settings.lora.targets) * 2 * settings.lora.rank * text.hidden_size
    own = sum(weight.numel() for weight in detector.model.parameters())
    assert found["parameters"]["all"] == own + adapters
    assert 0 < found["parameters"]["trained"] <= found["parameters"]["all"]
    answers = json.loads((tmp_path / "dry-run" / "answers.json").read_text())
    assert [each["name"] for each in answers] == [
        Samples(data, detector, size=2, longest=1600, parts=1, stride=1, seed=2 * settings.seed + 1, tell=print)
        .lesson(place)
        .name
        for place in range(2)
    ]
    images = [load_image(tmp_path / "dry-run" / f"{number:02d}.png") for number in range(2)]
    assert all(image.width == image.height > 96 for image in images)  # enlarged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dry-run"]
