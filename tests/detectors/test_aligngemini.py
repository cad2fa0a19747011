"""AlignGemini: answers of the semantic branch, the pixel expert against DDA's network, fusion, ids, and the loop."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.conformance import assert_same, pictures
from support.tiny_chat_models import save_speaker
from support.tiny_experts import PublishedExpert, save_published, save_tiny_expert
from torchvision.transforms import v2

from refiner import RefinedPipeline
from refiner.calibration import ABSTAINED
from refiner.cli import main
from refiner.detectors import load_detector
from refiner.detectors.aligngemini.config import CLIP_MEAN, CLIP_STD, PairConfig
from refiner.detectors.aligngemini.conversion import read_published
from refiner.detectors.aligngemini.detector import AlignGeminiDetector
from refiner.detectors.aligngemini.expert import SEVERITY, TRACES, ExpertDetector, window
from refiner.detectors.aligngemini.fusion import FUSIONS, Fusion, scaled
from refiner.detectors.aligngemini.grammar import read, write
from refiner.detectors.aligngemini.notes import NOTE
from refiner.detectors.aligngemini.semantic import WHOLE, SemanticDetector
from refiner.detectors.fakexplain.grammar import Answer, Flaw
from refiner.detectors.gated import GatedDetector
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.registry import detector_needs
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, ModelNotFoundError, UnreadableOutputError, UserError, WeightsError
from refiner.files import dumps
from refiner.pipelines.judges import RealnessJudge, judge_needs, load_judge
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

SHOWN, FORM = Size(96, 96), BoxFormat()
HAND = Flaw("the left hand: it has six fingers", (0.12, 0.4, 0.31, 0.62))


@pytest.mark.parametrize("scale", ["thousand", "pixels", "unit"])
@pytest.mark.parametrize("flaws", [(), (HAND,), (HAND, Flaw("odd light", None), Flaw("the sign", (0.5, 0.5, 1, 1)))])
def test_an_answer_is_read_back(flaws: tuple[Flaw, ...], scale: Any) -> None:
    form = BoxFormat(scale=scale)
    for fake in (True, False):
        wanted = Answer(flaws if fake else (), (), fake)
        found = read(write(wanted, form=form, shown=SHOWN), form=form, shown=SHOWN)
        assert (found.fake, found.tags) == (fake, ())
        assert [flaw.description for flaw in found.flaws] == [flaw.description for flaw in wanted.flaws]
        for box, true in zip(found.boxes, wanted.boxes, strict=True):
            assert box == pytest.approx(true, abs=0.012)


@pytest.mark.parametrize(
    ("text", "fake", "reasons"),
    [
        ("real", False, []),
        ("Real.\n", False, []),
        ("**Fake**\n* the hand [1, 2, 300, 400]", True, ["the hand"]),
        ("fake: it has six fingers", True, ["it has six fingers"]),
        ("Verdict: FAKE\n1. one\n2) two\n2) two", True, ["one", "two"]),
        ("fake\nThe hand has six fingers.", True, ["The hand has six fingers."]),
        ("fake\n- a box outside [1200, 2, 1300, 9]", True, ["a box outside"]),
        ("fake", True, []),
    ],
)
def test_free_answers_are_read(text: str, fake: bool, reasons: list[str]) -> None:
    found = read(text, form=FORM, shown=SHOWN)
    assert (found.fake, [flaw.description for flaw in found.flaws]) == (fake, reasons)


@pytest.mark.parametrize("text", ["", "faked", "unreal", "I cannot tell.", '{"verdict": 1}', "fak", "f" * 200_000])
def test_an_answer_without_a_verdict_is_not_clean(text: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        read(text, form=FORM, shown=SHOWN)
    assert caught.value.raw == text


def test_hostile_answers_are_read_in_linear_time() -> None:
    for text in ("fake" + "\n- [" * 20_000, "fake\n" + "1, " * 30_000, "*" * 90_000, "fake" + " " * 90_000 + "["):
        try:
            assert read(text, form=FORM, shown=SHOWN).fake
        except UnreadableOutputError:
            assert text.startswith("*")


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = ["fake", "\n- ", "the hand: six fingers", " [250, 250, 750, 500]"]
    return save_speaker(tmp_path_factory.mktemp("speaker"), pieces)


def test_the_probability_is_that_of_the_first_word(tmp_path: Path, speaker: Path) -> None:
    detector = load_detector(f"semantic:{speaker}", device="cpu", grounder="box")
    assert isinstance(detector, SemanticDetector)
    analysis = detector(pictures()[0])
    [region] = analysis.regions
    assert (region.name, region.explanation) == ("the hand", "the hand: six fingers")
    assert region.box == (24, 24, 72, 48)
    assert analysis.fake_probability is not None
    assert region.score == analysis.fake_probability
    silent = load_detector(f"semantic:{save_speaker(tmp_path, ['fake'])}", device="cpu")
    [region] = silent(pictures()[0]).regions
    assert (region.name, region.placed) == (WHOLE, False)


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_expert(tmp_path_factory.mktemp("expert"))


@pytest.mark.parametrize("parallel", [False, True])
def test_the_published_checkpoint_gives_the_logits_of_its_network(tmp_path: Path, parallel: bool) -> None:
    """Against a network with Meta's names, the fused attention layer and its adapters, on official preprocessing."""
    network = save_published(tmp_path / "ckpt.pth", parallel=parallel)
    official = v2.Compose([
        v2.PILToTensor(), v2.CenterCrop(336), v2.ToDtype(torch.float32, scale=True), v2.Normalize(CLIP_MEAN, CLIP_STD)
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    sizes = [(336, 336), (500, 401), (200, 700), (97, 51)]
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    detector = load_detector(f"dda:{tmp_path / 'ckpt.pth'}", device="cpu")
    assert isinstance(detector, ExpertDetector)
    with torch.no_grad():
        wanted = network(torch.stack([official(image) for image in images])).sigmoid()
    found = [analysis.fake_probability for analysis in detector.batch(images)]
    assert found == pytest.approx(wanted.tolist(), abs=1e-5)
    assert load_detector(f"dda:{tmp_path}", device="cpu").name == detector.name


def test_a_converted_checkpoint_is_saved_and_loaded_as_our_layout(tmp_path: Path) -> None:
    save_published(tmp_path / "ckpt.pth")
    detector = load_detector(f"dda:{tmp_path / 'ckpt.pth'}", device="cpu")
    assert isinstance(detector, ExpertDetector)
    detector.save_pretrained(tmp_path / "ours")
    again = load_detector(tmp_path / "ours", device="cpu")
    for image in pictures()[:2]:
        assert_same(again(image), detector(image))


def test_an_image_is_never_resized(expert: Path) -> None:
    detector = load_detector(f"dda:{expert}", device="cpu")
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (200, 300, 3), dtype=np.uint8)
    centre = Image.fromarray(pixels[52:148, 102:198])
    whole = Image.fromarray(pixels)
    assert detector(whole).fake_probability == pytest.approx(detector(centre).fake_probability, abs=1e-6)
    heat = detector(whole).heatmap
    assert heat is not None
    assert np.array_equal(heat[52:148, 102:198], detector(centre).heatmap)
    assert np.count_nonzero(heat) == np.count_nonzero(heat[52:148, 102:198])
    small = window(Image.fromarray(pixels[:20, :33]), 96)
    assert np.array_equal(small.pixels[38:58, 31:64], pixels[:20, :33])
    assert small.pixels.sum() == pixels[:20, :33].sum()


def test_regions_are_where_the_evidence_is_and_only_if_the_verdict_is_generated(expert: Path) -> None:
    detector = load_detector(f"dda:{expert}", device="cpu")
    rng = np.random.default_rng(1)
    images = [Image.fromarray(rng.integers(0, 255, (120, 96, 3), dtype=np.uint8)) for _ in range(12)]
    images += [Image.new("RGB", (96, 96), (value, 90, 255 - value)) for value in range(0, 256, 20)]
    analyses = detector.batch(images)
    verdicts = [(analysis.fake_probability or 0) > 0.5 for analysis in analyses]
    assert len(set(verdicts)) == 2, "the network must be of two minds here"
    for analysis, fake in zip(analyses, verdicts, strict=True):
        assert analysis.heatmap is not None
        assert analysis.heatmap.max() <= 1
        assert bool(analysis.regions) == fake
        for region in analysis.regions:
            assert (region.name, region.category, region.severity) == (TRACES, Category.TEXTURE, SEVERITY)
            assert region.score == analysis.fake_probability
            assert region.mask is not None
            assert (analysis.heatmap[region.mask] >= 0.5).all()


DAMAGES: dict[str, Any] = {
    "no checkpoint": lambda path: path.write_bytes(b"nothing"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "another network": lambda path: torch.save({"model": {"layer.weight": torch.zeros(3)}}, path),
    "a missing weight": lambda path: _without(path, "blocks.1.norm2.weight"),
    "a missing adapter": lambda path: _without(path, "blocks.0.attn.qkv.lora.lora_B"),
    "a surplus weight": lambda path: _with(path, "base_model.other.weight"),
    "a list": lambda path: torch.save([1, 2], path),
    "a pickled network": lambda path: torch.save(PublishedExpert(), path),
}


def _without(path: Path, end: str) -> None:
    stored = torch.load(path, weights_only=True)["model"]
    torch.save({"model": {name: weight for name, weight in stored.items() if not name.endswith(end)}}, path)


def _with(path: Path, name: str) -> None:
    stored = torch.load(path, weights_only=True)["model"]
    torch.save({"model": {**stored, name: torch.zeros(2)}}, path)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ckpt.pth"
    save_published(path)
    read_published(path)
    DAMAGES[kind](path)
    with pytest.raises(WeightsError) as caught:
        load_detector(f"dda:{path}", device="cpu")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "document",
    ["{", "[]", '{"model_type": "dda"}', '{"model_type": "dda", "backbone": 3}', '{"model_type": "x", "backbone": {}}',
     '{"model_type": "dda", "backbone": {"hidden_size": "a"}}', '{"model_type": "dda", "backbone": {}, "side": -1}',
     '{"model_type": "dda", "backbone": {}, "std": [0, 1, 1]}', '{"model_type": "dda", "backbone": {}, "more": 1}'],
)  # fmt: skip
def test_a_bad_config_of_an_expert_is_refused(expert: Path, tmp_path: Path, document: str) -> None:
    (tmp_path / "model.safetensors").write_bytes((expert / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(document)
    with pytest.raises(WeightsError):
        load_detector(f"dda:{tmp_path}", device="cpu")


def saying(chance: float | None, flaws: int = 0, name: str = "a") -> ScriptedDetector:
    """A detector that always gives this verdict."""

    def answer(image: Image.Image) -> Analysis:
        regions = tuple(
            Region(mask=None, box=None, name=f"thing {n}", explanation="odd", reasoning="why", category=Category.SHAPE)
            for n in range(flaws)
        )
        size = Size(image.height, image.width)
        return Analysis(size=size, regions=regions, fake_probability=chance, tags=(f"tag {name}",), detector=name)

    return ScriptedDetector(answer)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_fused_verdict_is_that_of_the_rule(name: str) -> None:
    thresholds = (0.7, 0.2) if name == "thresholds" else None
    grid = [0.0, 0.1, 0.2, 0.3, 0.5, 0.51, 0.69, 0.7, 0.71, 0.9, 1.0]
    for one, other in itertools.product(grid, grid):
        detector = AlignGeminiDetector(saying(one), saying(other), fusion=Fusion(name, thresholds))
        found = detector(Image.new("RGB", (32, 32))).fake_probability
        assert found is not None
        decided = {
            "or": one > 0.5 or other > 0.5, "max": max(one, other) > 0.5, "mean": (one + other) / 2 > 0.5,
            "thresholds": one > 0.7 or other > 0.2,
        }  # fmt: skip
        assert (found > 0.5) == decided[name]
        assert 0 <= found <= 1


def test_a_scaled_probability_keeps_its_order_and_moves_the_threshold_to_a_half() -> None:
    grid = np.linspace(0, 1, 101)
    for threshold in (0.01, 0.3, 0.5, 0.99):
        values = [scaled(float(chance), threshold) for chance in grid]
        assert (np.diff(values) > 0).all()
        assert (values[0], values[-1], scaled(threshold, threshold)) == (0, 1, 0.5)
    assert [scaled(float(chance), 0.5) for chance in grid] == pytest.approx(grid.tolist())


def test_both_branches_are_named_in_regions_tags_and_trace() -> None:
    detector = AlignGeminiDetector(saying(0.9, 2, "seeing"), saying(0.2, 1, "looking"))
    analysis = detector(Image.new("RGB", (32, 32)))
    assert [region.reasoning for region in analysis.regions] == ["why (semantic branch)"] * 2 + ["why (pixel branch)"]
    assert analysis.tags == (
        "semantic branch: generated (probability 0.900)", "tag seeing", "pixel branch: real (probability 0.200)",
        "tag looking",
    )  # fmt: skip
    assert [(step.stage, step.subject) for step in analysis.trace] == [
        ("semantic branch", "thing 0"), ("semantic branch", "thing 1"), ("pixel branch", "thing 0"),
    ]  # fmt: skip


def test_a_branch_without_a_probability_counts_by_its_flaws_for_or_alone() -> None:
    image = Image.new("RGB", (32, 32))
    for flaws in (0, 1):
        assert AlignGeminiDetector(saying(0.1), saying(None, flaws))(image).fake_probability == max(0.1, flaws)
    for name in ("mean", "max"):
        detector = AlignGeminiDetector(saying(0.1), saying(None, 1), fusion=Fusion(name))
        with pytest.raises(ConfigError, match="no fake_probability"):
            detector(image)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize(("known", "settles"), [(0.2, False), (0.9, True)])
def test_an_open_verdict_of_a_branch_is_never_a_number(name: str, known: float, settles: bool) -> None:
    thresholds = (0.5, 0.5) if name == "thresholds" else None
    image, tag = Image.new("RGB", (32, 32)), f"{ABSTAINED} between the bounds"
    undecided = ScriptedDetector(
        lambda image: Analysis(size=Size(image.height, image.width), tags=(tag,), detector="undecided")
    )
    for branches in ((undecided, saying(known)), (saying(known), undecided)):
        analysis = AlignGeminiDetector(*branches, fusion=Fusion(name, thresholds))(image)
        assert analysis.fake_probability == (known if settles and name != "mean" else None)
        assert tag in analysis.tags
        assert any(said.endswith("branch: open") for said in analysis.tags)


@pytest.mark.parametrize(
    "fusion", [("and", None), ("thresholds", None), ("thresholds", (0.0, 0.5)), ("thresholds", (0.5, 1.0))]
)
def test_rules_that_there_are_not_are_refused(fusion: Any) -> None:
    with pytest.raises(ConfigError):
        Fusion(*fusion)


def save_pair(folder: Path, speaker: Path, expert: Path, **changes: Any) -> Path:
    """A folder with both branches; the semantic one is a whole model, with its note."""
    folder.mkdir()
    for name, place in (("semantic", speaker), ("pixel", expert)):
        shutil.copytree(place, folder / name)
    (folder / "semantic" / NOTE).write_text(json.dumps({"boxes": {"scale": "thousand"}, "max_side": 96}))
    config = {**PairConfig(branches={"semantic": "semantic", "pixel": "pixel"}).document, **changes}
    (folder / "config.json").write_text(dumps(config))
    return folder


def test_a_folder_and_two_ids_are_the_same_detector(tmp_path: Path, speaker: Path, expert: Path) -> None:
    folder = save_pair(tmp_path / "pair", speaker, expert)
    image = pictures()[0]
    ids = [str(folder), f"aligngemini:{folder},fusion=or", f"aligngemini:semantic:{speaker}+dda:{expert}"]
    answers = [load_detector(each, device="cpu", grounder="box")(image) for each in ids]
    for answer in answers:
        assert_same(answer, answers[0])
        assert {region.reasoning for region in answer.regions} >= {"(semantic branch)"}
    assert [Path(place) for place in detector_needs(ids[2])] == [speaker, expert]
    assert folder in detector_needs(ids[1])


def test_options_behind_two_ids_are_theirs_and_other_options_stay_with_the_ids(speaker: Path, expert: Path) -> None:
    pair = f"aligngemini:semantic:{speaker},grounder=box+dda:{expert}"
    mean = load_detector(f"{pair},fusion=mean", device="cpu")
    assert isinstance(mean, AlignGeminiDetector)
    assert mean.fusion.name == "mean"
    assert "masks by box" in mean.name
    learned = load_detector(f"{pair},fusion=thresholds,thresholds=0.7/0.4", device="cpu")
    assert isinstance(learned, AlignGeminiDetector)
    assert learned.fusion == Fusion("thresholds", (0.7, 0.4))
    for bad in (",fusion=and", ",fusion=thresholds", ",thresholds=1", ",size=3"):
        with pytest.raises(UserError):
            load_detector(f"{pair}{bad}", device="cpu")
    with pytest.raises(ConfigError, match="one \\+ between"):
        load_detector(f"aligngemini:dda:{expert}+dda:{expert}+dda:{expert}")


@pytest.mark.parametrize(
    "changes",
    [{"semantic": "nowhere"}, {"pixel": "../pixel"}, {"semantic": 3}, {"fusion": "and"}, {"fusion": "thresholds"},
     {"thresholds": [0.5]}, {"thresholds": "half"}, {"model_type": "other"}, {"semantic": None, "pixel": None}],
)  # fmt: skip
def test_a_bad_config_of_a_pair_is_refused(tmp_path: Path, speaker: Path, expert: Path, changes: Any) -> None:
    folder = save_pair(tmp_path / "pair", speaker, expert, **changes)
    with pytest.raises(WeightsError, match="config"):
        load_detector(f"aligngemini:{folder}", device="cpu")


def test_a_folder_with_one_branch_is_that_branch(tmp_path: Path, speaker: Path, expert: Path) -> None:
    folder = save_pair(tmp_path / "pair", speaker, expert, semantic=None)
    assert isinstance(load_detector(folder, device="cpu"), ExpertDetector)


@pytest.mark.parametrize("model", ["", "nowhere", "{}"])
def test_a_missing_expert_is_said_in_one_sentence(tmp_path: Path, model: str) -> None:
    for ask in (load_detector, detector_needs):
        with pytest.raises((ModelNotFoundError, WeightsError)):
            ask(f"dda:{model.format(tmp_path)}")


def test_it_is_a_gate_and_a_judge(tmp_path: Path, expert: Path) -> None:
    gated = load_detector("micro:legion", device="cpu", gate=f"dda:{expert}")
    assert isinstance(gated, GatedDetector)
    judge = load_judge(f"realness:dda:{expert}", device="cpu")
    assert isinstance(judge, RealnessJudge)
    images = pictures()
    chances = [analysis.fake_probability or 0.0 for analysis in load_detector(expert, device="cpu").batch(images)]
    assert judge.score(images, [""] * len(images)) == pytest.approx([1 - chance for chance in chances])
    assert list(judge_needs(f"realness:dda:{expert}")) == [expert]
    with pytest.raises(ConfigError, match="no fake_probability"):
        RealnessJudge(saying(None)).score(images, [""] * len(images))


def test_it_steers_refinement(speaker: Path, expert: Path) -> None:
    detector = f"aligngemini:semantic:{speaker},grounder=box+dda:{expert}"
    pipe = RefinedPipeline.from_pretrained("micro", detector=detector, judge=f"realness:dda:{expert}")
    [run] = pipe("a red hand on a sky background", seed=1, max_rounds=1).results
    first, best = run.attempts[0], run.attempts[run.best]
    assert first.analysis is not None
    assert best.analysis is not None
    assert first.analysis.regions
    assert len(run.attempts) > 1
    assert best.analysis.burden <= first.analysis.burden
    assert first.scores[0].name.startswith("realness:dda")


def test_it_is_there_on_the_command_line(
    tmp_path: Path, speaker: Path, expert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures()[0].save(tmp_path / "picture.png")
    pair = f"aligngemini:semantic:{speaker},grounder=box+dda:{expert}"
    assert main(["detect", str(tmp_path / "picture.png"), "--json", "--detector", pair, "--device", "cpu"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["analysis"]["tags"][0].startswith("semantic branch: generated")
    assert main(["detect", str(tmp_path / "picture.png"), "--detector", f"{pair},fusion=and"]) == 2
    assert "fusion" in capsys.readouterr().err
