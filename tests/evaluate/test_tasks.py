"""What each task measures on records with known answers, and its report."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.data.anomreason import from_regions
from refiner.data.captions import LISTING, OPENING, caption_of
from refiner.data.micro import MicroData
from refiner.data.samples import Sample
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import BadAnswerError, ConfigError, InputError, ModelError, UnreadableOutputError
from refiner.evaluate.figures import with_interval
from refiner.evaluate.harness import Run, collect, describe, open_run
from refiner.evaluate.systems import Looker, Refining
from refiner.evaluate.table import Scored, score
from refiner.evaluate.tasks import TASKS, build_task
from refiner.masks import box_of
from refiner.metrics.css import SentenceEncoder
from refiner.metrics.semap_scoring import Similarity
from refiner.reports.evaluation import write_report
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Claim, Mask, RefinementResult, Region, Score, Size, Step

SCORING = {"threshold": 0.5, "view": "full"}
SIZE = Size(32, 32)


def area(x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros(tuple(SIZE), dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def region(mask: Mask, category: Category = Category.ANATOMY, severity: float = 0.5) -> Region:
    box = box_of(mask)
    assert box is not None
    return Region(
        mask=mask, box=box, name="hand", category=category, severity=severity, explanation="six fingers",
        reasoning="a hand has five",
    )  # fmt: skip


def analysis(*regions: Region, fake: float | None = None) -> Analysis:
    return Analysis(size=SIZE, regions=regions, fake_probability=fake, detector="script")


class Given:
    """Samples as they are given."""

    def __init__(self, samples: list[Sample]) -> None:
        self.problems: list = []
        self.samples = samples
        self.names = tuple(sample.name for sample in samples)

    def load(self, index: int) -> Sample:
        return self.samples[index]


def sample(name: str, **facts: object) -> Sample:
    return Sample(name=name, image=Image.new("RGB", (32, 32), (120, 90, 60)), **facts)  # type: ignore[arg-type]


def measure(folder: Path, task: str, samples: list[Sample], answers: list, **options: object) -> tuple[Run, Scored]:
    data, detector = Given(samples), ScriptedDetector(answers)
    system = Looker(detector=detector, **options)  # type: ignore[arg-type]
    run = collect(data, system, describe(task, data, {"specification": "given"}, system, SCORING), folder)
    scored = score(run)
    write_report(run, scored, data)
    return run, scored


class FixedJudge:
    """The score is the prompt."""

    name = "fixed"

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        return [float(prompt) for prompt in prompts]


class Echo:
    """Compares texts by whether they are equal."""

    signature = "echo"
    max_length = 9

    def encode(self, texts: list[str]) -> list:
        from refiner.metrics.bertscore import Tokens

        known = {text: at for at, text in enumerate(sorted(set(texts)))}
        vectors = np.eye(max(1, len(known)), 64, dtype=np.float32)
        return [Tokens(vectors[known[text]][None], np.ones(1, dtype=np.float32), len(text) > 200) for text in texts]


def test_localization_of_perfect_shifted_missed_and_clean_pictures(tmp_path: Path) -> None:
    first, second = area(0, 0, 8, 8), area(0, 4, 8, 12)
    truths = [analysis(region(first)), analysis(region(first)), analysis(region(first)), analysis(), analysis()]
    answers = [analysis(region(first)), analysis(region(second)), analysis(), analysis(), analysis(region(first))]
    samples = [sample(f"{at}", truth=truth) for at, truth in enumerate(truths)]
    _, scored = measure(tmp_path, "localization", samples, answers)
    figures = scored.table["figures"]
    assert scored.columns["iou"].tolist() == [1, 32 / 96, 0, 1, 0]
    assert scored.table["signature"].endswith("|detector=scripted")
    assert figures["IoU"] == (64 + 32) / (64 + 96 + 64 + 64)
    assert figures["IoU_per_image"] == pytest.approx((1 + 1 / 3 + 1) / 5)
    assert (figures["PAR>0_images"], figures["PAR=0_images"]) == (3, 2)
    assert (figures["PAR>0_flagged"], figures["PAR=0_flagged"]) == (2 / 3, 0.5)


def test_localization_by_category_counts_only_that_category(tmp_path: Path) -> None:
    first, second = area(0, 0, 8, 8), area(16, 16, 24, 24)
    truth = analysis(region(first, Category.TEXT), region(second, Category.COLOR))
    answer = analysis(region(first, Category.TEXT), region(second, Category.TEXT))
    _, scored = measure(tmp_path, "localization", [sample("a", truth=truth)], [answer])
    found = scored.table["categories"]
    assert scored.table["figures"]["IoU"] == 1
    assert found["low-level-symbol"]["IoU"] == 0.5
    assert found["low-level-color"]["IoU"] == 0
    plain = [sample("a", truth=truth, categorised=False)]
    assert measure(tmp_path / "plain", "localization", plain, [answer])[1].table["categories"] == {}


def warm(mask: Mask, hottest: float = 0.4) -> np.ndarray:
    return np.where(mask, hottest, 0.1).astype(np.float32)


def test_heat_maps_are_stretched_cut_and_compared_with_the_mask(tmp_path: Path) -> None:
    first, second = area(0, 0, 8, 8), area(0, 4, 8, 12)
    truths = [analysis(region(first)), analysis(region(first)), analysis(), analysis(region(first))]
    maps = [warm(first), warm(second), np.full(tuple(SIZE), 0.9, dtype=np.float32), None]
    answers = [replace(analysis(region(first)), heatmap=values) for values in maps]
    samples = [sample(f"{at}", truth=truth) for at, truth in enumerate(truths)]
    run, scored = measure(tmp_path, "localization", samples, answers)
    figures = scored.table["figures"]
    assert figures["heatmap_images"] == 3
    assert figures["heatmap_IoU"] == (64 + 32) / (64 + 96)
    assert figures["heatmap_IoU_per_image"] == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert figures["IoU"] == 64 * 3 / (64 * 4)
    assert np.isnan(scored.columns["heatmap_iou"][3])
    assert "heatmap|version=1|stretch=minmax" in scored.table["signature"]
    plain = score(run._replace(description={**run.description, "scoring": {"stretch": "none"}})).table
    assert plain["figures"]["heatmap_IoU"] == 0, "no map but the flat one goes above 0.5 as it is"
    assert plain["figures"]["heatmap_PixP"] == 0


@pytest.mark.parametrize("wrong", [np.nan, -0.5, 1.5])
def test_a_heat_map_out_of_range_is_counted_and_left_out(tmp_path: Path, wrong: float) -> None:
    mask = area(0, 0, 8, 8)
    answer = replace(analysis(region(mask)), heatmap=np.where(mask, wrong, 0.5).astype(np.float32))
    _, scored = measure(tmp_path, "localization", [sample("a", truth=analysis(region(mask)))], [answer])
    assert scored.table["problems"] == {"bad_heatmap": 1}
    assert scored.table["figures"]["IoU"] == 1
    assert "heatmap_IoU" not in scored.table["figures"]


def test_boxes_are_compared_by_the_area_they_cover(tmp_path: Path) -> None:
    wide, left, right = area(0, 0, 16, 8), area(0, 0, 8, 8), area(8, 0, 16, 8)
    truths = [analysis(region(wide)), analysis(region(wide)), analysis()]
    answers = [analysis(region(left), region(right)), analysis(), analysis(region(left))]
    samples = [sample(f"{at}", truth=truth) for at, truth in enumerate(truths)]
    run, scored = measure(tmp_path, "localization", samples, answers)
    assert scored.columns["region_iou"][:2].tolist() == [1, 0]
    assert np.isnan(scored.columns["region_iou"][2])
    assert scored.table["figures"]["region_iou"] == 0.5
    assert "region=union" in scored.table["signature"]
    matched = score(run._replace(description={**run.description, "scoring": {"region": "matched"}})).table
    assert matched["figures"]["region_iou"] == 0.125
    lump = [sample("a", truth=truths[0], itemised=False)]
    assert "region_iou" not in measure(tmp_path / "lump", "localization", lump, answers[:1])[1].table["figures"]


def test_explanations_give_the_table_of_fakexplain(tmp_path: Path) -> None:
    flaw, half = region(area(0, 0, 16, 8)), region(area(0, 0, 8, 8))
    truths = [(True, analysis(flaw)), (True, analysis(flaw)), (False, analysis()), (False, analysis())]
    samples = [
        sample(f"{at}", fake=fake, truth=truth, anomalies=from_regions(truth.regions))
        for at, (fake, truth) in enumerate(truths)
    ]
    answers = [analysis(flaw, fake=0.9), analysis(half, fake=0.3), analysis(fake=0.1), analysis(flaw, fake=0.2)]
    _, scored = measure(tmp_path, "explanation", samples, answers, encoder=Echo())
    figures = scored.table["figures"]
    assert (figures["accuracy"], figures["region_iou"]) == (0.75, 0.75)
    assert figures["bleu_2"] == figures["rouge_l"] == 1
    assert "accuracy|version=1|decision=score>0.5" in scored.table["signature"]


BABBLE = UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")


def rescored(run: Run, **scoring: object) -> Scored:
    return score(run._replace(description={**run.description, "scoring": {**SCORING, **scoring}}))


def test_explanations_that_cannot_be_read_miss_all_that_is_true(tmp_path: Path) -> None:
    flaw = region(area(0, 0, 16, 8))
    truths = [(True, analysis(flaw, flaw)), (True, analysis(flaw)), (False, analysis()), (True, analysis(flaw))]
    samples = [
        sample(f"{at}", fake=fake, truth=truth, anomalies=from_regions(truth.regions))
        for at, (fake, truth) in enumerate(truths)
    ]
    samples.append(sample("unknown"))
    nan = BadAnswerError("Expected a severity in [0, 1], got nan.")
    answers = [BABBLE, analysis(flaw, fake=0.9), BABBLE, nan, BABBLE]
    run, scored = measure(tmp_path, "explanation", samples, answers, encoder=Echo(), batch_size=1)
    table, figures = scored.table, scored.table["figures"]
    assert (table["samples"], table["scored"]) == (5, 4)
    assert table["errors"] == {"BadAnswerError": 1, "UnreadableOutputError": 3}
    assert table["misses"] == {"BadAnswerError": 1, "UnreadableOutputError": 2}
    assert figures["region_iou"] == pytest.approx(1 / 3)
    assert figures["accuracy"] == 1 / 4
    assert (figures["semap"], figures["semf1"]) == (1 / 4, 1 / 4)
    assert figures["rouge_l"] == figures["bleu_2"] == pytest.approx(1 / 3)
    assert (figures["tp@0.7"], figures["fp@0.7"], figures["fn@0.7"]) == (1, 0, 3)
    assert table["signature"].count("unreadable=miss") == 3
    assert "2 of them as missed (UnreadableOutputError)" in (tmp_path / "report.html").read_text()
    omitted = rescored(run, unreadable="omit").table
    assert (omitted["scored"], omitted["misses"]) == (1, {})
    assert omitted["figures"]["accuracy"] == omitted["figures"]["region_iou"] == 1
    assert omitted["signature"].count("unreadable=omit") == 3


def test_css_of_an_answer_that_cannot_be_read_is_0(tmp_path: Path) -> None:
    samples = [sample(f"{at}", anomalies=(Claim(explanation="short", reasoning=""),)) for at in range(2)]
    answers = [analysis(region(area(0, 0, 8, 8))), BABBLE]
    options = {"encoder": Echo(), "sentences": Lengths(), "batch_size": 1}
    _, scored = measure(tmp_path, "explanation", samples, answers, **options)
    assert scored.columns["css"].tolist() == [1, 0]


def test_masks_that_cannot_be_read_are_missed_flaws_but_never_clean_pictures(tmp_path: Path) -> None:
    flaw = region(area(0, 0, 8, 8), Category.TEXT)
    samples = [sample("right", truth=analysis(flaw)), sample("babble", truth=analysis(flaw))]
    samples += [sample("clean", truth=analysis())]
    samples += [sample("lump", truth=analysis(flaw), categorised=False, itemised=False)]
    answers = [analysis(flaw), BABBLE, BABBLE, BABBLE]
    run, scored = measure(tmp_path, "localization", samples, answers, batch_size=1)
    table, figures = scored.table, scored.table["figures"]
    assert (table["scored"], table["errors"], table["misses"]) == (
        3, {"UnreadableOutputError": 3}, {"UnreadableOutputError": 2}
    )  # fmt: skip
    assert list(scored.names) == ["right", "babble", "lump"]
    assert figures["region_iou"] == 0.5, "of the two that tell their flaws apart"
    assert figures["IoU"] == figures["PixR"] == pytest.approx(1 / 3)
    assert table["categories"]["low-level-symbol"]["IoU"] == 0.5
    assert table["signature"].count("unreadable=miss") == 2
    assert [failure.name for failure in scored.failures] == ["babble", "clean", "lump"]
    assert rescored(run, unreadable="omit").table["figures"]["region_iou"] == 1


def test_what_was_not_the_models_fault_is_no_miss(tmp_path: Path) -> None:
    flaw = region(area(0, 0, 8, 8))
    samples = [sample(f"{at}", truth=analysis(flaw)) for at in range(3)]
    answers = [analysis(flaw), ModelError("Expected the server, got none."), InputError("Expected a picture.")]
    _, scored = measure(tmp_path, "localization", samples, answers, batch_size=1)
    assert (scored.table["scored"], scored.table["misses"]) == (1, {})
    assert scored.table["figures"]["region_iou"] == 1


def test_detection_is_balanced_over_both_kinds(tmp_path: Path) -> None:
    samples = [sample(f"{at}", fake=at < 4) for at in range(6)] + [sample("unlabelled"), sample("mute", fake=True)]
    answers = [analysis(fake=p) for p in (0.9, 0.8, 0.5, 0.1, 0.2, 0.7, 0.9)] + [analysis()]
    _, scored = measure(tmp_path, "detection", samples, answers)
    assert scored.table["errors"] == {"missing_truth": 1, "no_verdict": 1}
    figures = scored.table["figures"]
    assert (figures["tp"], figures["fn"], figures["fp"], figures["tn"]) == (2, 2, 1, 1)
    assert figures["balanced_accuracy"] == 0.5
    lower = build_task("detection", {}, {"threshold": 0.4}).figures(scored.columns)
    assert (lower["tp"], lower["fn"]) == (3, 1)


def test_detection_compares_heat_maps_of_generated_images_with_the_true_flaws(tmp_path: Path) -> None:
    """By brute force: pixels of the stretched map above 0.5, pooled; real images and unknown flaws do not count."""
    rng = np.random.default_rng(0)
    flaws = [rng.random(tuple(SIZE)) < share for share in (0.5, 0.2, 0.0, 0.4, 0.3)]
    maps: list = [(3 * rng.random(tuple(SIZE)) / 4).astype(np.float32) for _ in flaws]
    truths = [analysis(*([region(mask)] if mask.any() else [])) for mask in flaws]
    samples = [sample(f"{at}", fake=at != 4, truth=truth) for at, truth in enumerate(truths)]
    samples.append(sample("unknown", fake=True))
    answers = [replace(analysis(fake=0.9), heatmap=heat) for heat in (*maps[:3], None, maps[4], maps[0])]
    run, scored = measure(tmp_path, "detection", samples, answers)
    figures = scored.table["figures"]
    hot = [(each - each.min()) / (each.max() - each.min()) > 0.5 for each in maps[:3]]
    tp, fp, fn = (
        sum(int((one & other).sum()) for one, other in zip(found, true, strict=True))
        for found, true in (
            (hot, flaws[:3]),
            (hot, [~mask for mask in flaws[:3]]),
            ([~mask for mask in hot], flaws[:3]),
        )
    )
    assert figures["heatmap_images"] == 3
    assert figures["heatmap_IoU"] == tp / (tp + fp + fn)
    assert figures["heatmap_PixF1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert figures["balanced_accuracy"] == 0.5
    assert "images=generated" in scored.table["signature"]
    hot = [each > 0.5 for each in maps[:3]]
    both, either = (
        sum(int(join(one, other).sum()) for one, other in zip(hot, flaws[:3], strict=True))
        for join in (np.logical_and, np.logical_or)
    )
    assert rescored(run, stretch="none").table["figures"]["heatmap_IoU"] == both / either


def test_explanations_against_what_is_true(tmp_path: Path) -> None:
    right = region(area(0, 0, 8, 8))
    wrong = replace(right, explanation="four fingers", reasoning="a hand has more")
    truth = from_regions([right])
    answers = [analysis(right), analysis(wrong), analysis(right, wrong), analysis(), analysis(right)]
    samples = [sample(f"{at}", anomalies=truth) for at in range(4)] + [sample("unknown")]
    run, scored = measure(tmp_path, "explanation", samples, answers, encoder=Echo())
    assert scored.columns["semap"].tolist() == [1, 0, 0.5, 0]
    assert scored.columns["semf1"].tolist() == pytest.approx([1, 0, 2 / 3, 0])
    assert scored.columns["rouge_l"][0] == scored.columns["bleu_2"][0] == 1
    figures = scored.table["figures"]
    assert (figures["tp@0.7"], figures["fp@0.7"], figures["fn@0.7"]) == (2, 2, 2)
    assert scored.table["errors"] == {"missing_truth": 1}
    stored = Similarity.from_dict(run.records[2]["answer"]["similarity"])
    assert stored.phenomenon.tolist() == [[1], [0]]


def test_with_a_caption_whole_answers_are_compared_in_its_format(tmp_path: Path) -> None:
    """An answer in the format is taken as it is, without its tokens; others are converted."""
    caption = f"{OPENING} one artifact.\n{LISTING} hand:six fingers, because a hand has five."
    marked = caption.replace(" hand:", " <p> hand </p> [SEG]:")
    right = region(area(0, 0, 8, 8))
    truth = from_regions([right])
    answers = [analysis(right), replace(analysis(), raw=f"{marked}</s>"), analysis(), replace(analysis(), raw="clean")]
    samples = [sample(f"{at}", anomalies=truth, caption=caption) for at in range(4)]
    encoder = SentenceEncoder.from_pretrained(None, device="cpu")
    _, scored = measure(tmp_path, "explanation", samples, answers, encoder=Echo(), sentences=encoder)
    rouge, css = scored.columns["rouge_l"], scored.columns["css"]
    assert [rouge[1], css[1]] == pytest.approx([1, 1])
    assert 0.9 < rouge[0] < 1, "only the count differs: 1, not one"
    assert css[0] > 0.9
    assert rouge[2] == rouge[3] < 0.7
    assert css[2] == css[3]
    assert caption_of(analysis()) == f"{OPENING} no artifacts."


def test_texts_that_the_encoder_cannot_hold_are_counted(tmp_path: Path) -> None:
    long = replace(region(area(0, 0, 8, 8)), explanation="six fingers " * 30)
    truth = (Claim(explanation="six fingers", reasoning="five"),)
    _, scored = measure(tmp_path, "explanation", [sample("a", anomalies=truth)], [analysis(long)], encoder=Echo())
    assert scored.table["problems"] == {"long_text": 1}


class Faulty(Echo):
    """Gives NaN for one text."""

    def encode(self, texts: list[str]) -> list:
        tokens = super().encode(texts)
        return [
            each._replace(vectors=each.vectors * np.nan) if text == "four fingers" else each
            for text, each in zip(texts, tokens, strict=True)
        ]


class FaultySentences:
    """The same of whole texts."""

    signature = "faulty"

    def encode(self, texts: list[str]) -> np.ndarray:
        if any("four fingers" in text for text in texts):
            raise ModelError("Expected finite features from the encoder, got others of 'four fingers'.")
        return np.ones((len(texts), 1), dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        return False


@pytest.mark.parametrize("encoders", [{"encoder": Faulty()}, {"encoder": Echo(), "sentences": FaultySentences()}])
def test_a_text_encoder_that_gives_nan_costs_those_samples_alone(tmp_path: Path, encoders: dict) -> None:
    right = region(area(0, 0, 8, 8))
    wrong = replace(right, explanation="four fingers")
    samples = [sample(f"{at}", anomalies=from_regions([right])) for at in range(4)]
    answers = [analysis(right), analysis(right, wrong), analysis(wrong), analysis(right)]
    run, scored = measure(tmp_path, "explanation", samples, 2 * answers, **encoders)
    assert scored.table["errors"] == {"ModelError": 2}
    assert (scored.table["scored"], scored.table["figures"]["semap"]) == (2, 1.0)
    assert [failure.name for failure in scored.failures] == ["1", "2"]
    assert all("finite" in failure.detail for failure in scored.failures)
    assert "finite" in (tmp_path / "report.html").read_text()
    assert list(run.records.done()) == [0, 3], "the others are tried again when the run is resumed"


class Lengths:
    """Sentence vectors of equal texts; whatever is longer than 20 letters is cut."""

    signature = "lengths"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[1.0, 0.0]] * len(texts), dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        return len(text) > 20


def test_texts_that_css_cannot_read_are_counted_and_named(tmp_path: Path) -> None:
    flaw = region(area(0, 0, 8, 8))
    samples = [sample(name, anomalies=(Claim(explanation="short", reasoning=""),)) for name in ("mute", "wordy")]
    answers = [analysis(), analysis(flaw)]
    _, scored = measure(
        tmp_path, "explanation", samples, answers, encoder=Echo(), sentences=Lengths()  # type: ignore[arg-type]
    )  # fmt: skip
    problems = scored.table["problems"]
    assert (problems["empty_text"], problems["long_text"]) == (1, 1)
    assert [note.split(":")[0] for note in scored.notes if "CSS" in note or "sentence" in note] == ["mute", "wordy"]
    page = (tmp_path / "report.html").read_text()
    assert "wordy: longer than the sentence encoder reads" in page


class Streaming:
    """A judge with notes, as HPS has them."""

    name = "streaming"

    def stream(self, images: list, prompts: list[str]) -> list:
        from refiner.metrics.hps.scorer import Scored as Outcome

        return [Outcome(0.2, notes=("prompt cut to 77 tokens", "transparency laid over white")) for _ in prompts]


def test_prompts_that_a_judge_cannot_hold_are_counted(tmp_path: Path) -> None:
    samples = [sample("a", prompt="a hand " * 90)]
    _, scored = measure(tmp_path, "realism", samples, [analysis()], judge=Streaming())
    assert scored.table["problems"] == {"alpha_over_white": 1, "long_text": 1}
    assert scored.notes[0] == "a: prompt cut to 77 tokens"


def test_realism_by_generator(tmp_path: Path) -> None:
    flaws = [region(area(0, 0, 8, 8), severity=0.2), region(area(8, 0, 16, 8), Category.TEXT, severity=0.6)]
    samples = [sample(f"{group}/{at}", group=group, prompt=f"0.{at}") for group in ("good", "bad") for at in (1, 2)]
    answers = [analysis(), analysis(flaws[0]), analysis(*flaws), analysis(flaws[1])]
    _, scored = measure(tmp_path, "realism", samples, answers, judge=FixedJudge())
    good, bad = scored.table["groups"]["good"], scored.table["groups"]["bad"]
    assert (good["AF"], good["MAI"], good["CAP"]) == pytest.approx((0.5, 0.2, 0.1))
    assert (bad["AF"], bad["MAI"], bad["CAP"]) == pytest.approx((1.5, 1.4 / 3, 0.7))
    assert good["AF_share"] == 0.5
    assert bad["PAR"] == pytest.approx((128 + 64) / 2 / 1024)
    assert good["HPS"] == bad["HPS"] == pytest.approx(0.15)
    assert scored.table["categories"]["text"] == {"rate": 0.5, "per_image": 0.5}
    assert scored.table["figures"]["CAP_low"] <= scored.table["figures"]["CAP"] <= scored.table["figures"]["CAP_high"]


def test_a_score_that_is_no_number_is_an_error_of_its_sample(tmp_path: Path) -> None:
    samples = [sample("a", prompt="0.25"), sample("b", prompt="nan"), sample("c", prompt="inf"), sample("d")]
    answers: Callable = lambda _: analysis()  # noqa: E731
    _, scored = measure(tmp_path, "realism", samples, answers, judge=FixedJudge())  # type: ignore[arg-type]
    assert scored.table["errors"] == {"ModelError": 2}
    assert [failure.name for failure in scored.failures] == ["b", "c"]
    assert scored.table["figures"]["HPS"] == 0.25


# Refinement


def attempt(
    index: int, burden: float, *, action: str = "inpaint", accepted: bool = True, score: float = 0.2
) -> Attempt:
    flaws = (region(area(0, 0, 8, 8), severity=burden),) if burden else ()
    return Attempt(
        index=index, action=action, prompt="revised", seed=1, image=Image.new("RGB", (32, 32), (index, 0, 0)),  # type: ignore[arg-type]
        analysis=analysis(*flaws), accepted=accepted, reason="", scores=(Score(name="j", value=0.2),),
    )  # fmt: skip


class ByPrompt:
    """Scores red; remembers the prompts."""

    name = "red"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def score(self, images: list[Image.Image], prompts: list[str]) -> list[float]:
        self.prompts += prompts
        return [float(np.asarray(image)[0, 0, 0]) / 10 for image in images]


def refinement(folder: Path, results: list[RefinementResult], **options: object) -> tuple[Run, Scored, ByPrompt]:
    judge, left = ByPrompt(), iter(results)
    prompts = Given([Sample(name=f"{at}", prompt=f"the user's {at}", **options) for at in range(len(results))])  # type: ignore[arg-type]
    encoder = Echo() if "anomalies" in options else None
    looker = Looker(judge=judge, encoder=encoder)  # type: ignore[arg-type]
    system = Refining(refine=lambda _: next(left), settings={"seed": 0}, looker=looker, pictures=folder)
    run = collect(prompts, system, describe("refinement", prompts, {"specification": "given"}, system, SCORING), folder)
    scored = score(run)
    write_report(run, scored, None)
    return run, scored, judge


def result(*attempts: Attempt, best: int) -> RefinementResult:
    return RefinementResult(prompt="p", attempts=attempts, best=best, stop="rounds")


def test_refinement_compares_before_last_and_best(tmp_path: Path) -> None:
    better = result(attempt(0, 0.8, action="generate"), attempt(1, 0.3), attempt(2, 0.6, accepted=False), best=1)
    same = result(attempt(0, 0.5, action="given"), best=0)
    run, scored, judge = refinement(tmp_path, [better, same], anomalies=(Claim(explanation="six fingers"),))
    columns = scored.columns
    assert columns["burden_before"].tolist() == [0.8, 0.5]
    assert columns["burden_last"].tolist() == [0.6, 0.5]
    assert columns["burden_best"].tolist() == [0.3, 0.5]
    assert columns["hps_change"].tolist() == pytest.approx([0.1, 0])
    assert set(judge.prompts) == {"the user's 0", "the user's 1"}
    figures = scored.table["figures"]
    assert (figures["better_share"], figures["worse_share"]) == (0.5, 0)
    assert figures["burden_change"] == pytest.approx(-0.25)
    assert figures["semap_before"] is not None
    look = run.records[0]["answer"]["best"]
    assert np.asarray(Image.open(tmp_path / look["picture"]))[0, 0, 0] == 1
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    assert b"trainedAlgorithmicMedia" in (tmp_path / look["picture"]).read_bytes()
    given = run.records[1]["answer"]["best"]["picture"]
    assert b"AlgorithmicMedia" not in (tmp_path / given).read_bytes()


def test_a_refinement_without_a_readable_picture_is_an_error(tmp_path: Path) -> None:
    unread = replace(attempt(0, 0.5, action="generate"), analysis=None, error="babble")
    unpainted = replace(unread, image=None)
    _, scored, _ = refinement(
        tmp_path, [result(unread, best=0), result(unpainted, best=0), result(attempt(0, 0), best=0)]
    )
    assert scored.table["errors"] == {"ModelError": 2}
    assert "babble" in scored.failures[0].detail
    assert scored.table["scored"] == 1


def test_systems_refuse_what_they_cannot_look_at() -> None:
    with pytest.raises(ConfigError, match="detector or a judge"):
        Looker()
    with pytest.raises(ConfigError, match="batch size"):
        Looker(detector=ScriptedDetector([]), batch_size=0)
    with pytest.raises(ConfigError, match="folder of images"):
        Looker(detector=ScriptedDetector([]))([Sample(name="a", prompt="a hand")])
    looker = Looker(judge=FixedJudge())  # type: ignore[arg-type]
    refining = Refining(refine=lambda _: result(attempt(0, 0), best=0), settings={}, looker=looker, pictures=Path())
    with pytest.raises(ConfigError, match="--prompts"):
        refining([Sample(name="a")])
    with pytest.raises(ConfigError, match="detection, localization"):
        build_task("guessing", {}, {})


# Table and page


def test_an_interval_covers_the_mean_and_needs_two_numbers() -> None:
    values = np.random.default_rng(1).normal(3, 1, 400)
    found = with_interval("x", values)
    low, high = found["x_low"], found["x_high"]
    assert low is not None
    assert high is not None
    assert found["x"] == values.mean()
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert with_interval("x", np.append(values, np.nan)) == found
    assert with_interval("x", np.array([1.0, np.nan])) == {"x": 1.0, "x_low": None, "x_high": None}
    assert with_interval("x", np.full(7, 0.25)) == {"x": 0.25, "x_low": None, "x_high": None}, "no width 0"


def test_the_tables_say_the_same_in_json_and_csv(tmp_path: Path) -> None:
    truth = analysis(region(area(0, 0, 8, 8)))
    samples = [sample(f"{group}/{at},\n{at}", group=group, truth=truth) for group in "ab" for at in range(3)]
    _, scored = measure(tmp_path, "localization", samples, [truth] * 6)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [(row["scope"], row["name"]) for row in rows[:3]] == [("all", "all"), ("group", "a"), ("group", "b")]
    assert float(rows[0]["miou"]) == scored.table["figures"]["miou"] == 1
    lines = list(csv.DictReader(io.StringIO((tmp_path / "samples.csv").read_text(), newline="")))
    assert [line["name"] for line in lines] == [each.name for each in samples]
    assert [float(line["iou"]) for line in lines] == [1] * 6
    assert json.loads((tmp_path / "table.json").read_text()) == scored.table


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


EVIL = "<script>alert(1)</script> & \"quotes\" 'too'"


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    flaw = replace(region(area(0, 0, 8, 8)), explanation=EVIL, name=EVIL)
    samples = [sample(f"{EVIL} {at}", group=f"{EVIL} {at % 2}", prompt=EVIL, truth=analysis(flaw)) for at in range(20)]
    samples.append(sample("unknown"))
    answers = [analysis(flaw if at % 3 else region(area(0, 2, 8, 10))) for at in range(21)]
    measure(tmp_path, "localization", samples, answers)
    page = Page((tmp_path / "report.html").read_text())
    assert page.open == []
    names = [tag for tag, _ in page.tags]
    assert "script" not in names
    assert names.count("article") == 12
    assert names.count("img") == 24
    assert names.count("svg") == 6
    places = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(place.startswith("data:image/png;base64,") for place in places)
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text())
    assert EVIL in page.text
    assert "20 of 21 samples scored; 1 without figures (missing_truth)." in page.text


def test_the_page_tells_how_the_worst_were_found(tmp_path: Path) -> None:
    step = Step(stage=EVIL, subject="hand", outcome="rejected", text=EVIL, reason=EVIL)
    flaw = region(area(0, 0, 8, 8))
    told = replace(analysis(flaw), trace=(step, step))
    samples = [sample(str(at), truth=analysis(flaw)) for at in range(2)]
    measure(tmp_path / "one", "localization", samples, [told, analysis()])
    page = Page((tmp_path / "one" / "report.html").read_text())
    assert page.text.count("How it was found (2 rejected)") == 1
    assert page.text.count(EVIL) == 5
    assert "script" not in [tag for tag, _ in page.tags]
    first, last = attempt(0, 0.5, action="generate"), attempt(1, 0.2)
    seen = replace(first, analysis=told)
    refinement(tmp_path / "two", [result(seen, last, best=1), result(seen, replace(last, analysis=told), best=1)])
    page = Page((tmp_path / "two" / "report.html").read_text())
    assert page.text.count("How it was found, before (2 rejected)") == 2
    assert page.text.count("How it was found, kept (2 rejected)") == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_page_without_any_scored_sample(tmp_path: Path, task: str) -> None:
    data = Given([sample("a", prompt="x")])
    system = Looker(detector=ScriptedDetector(lambda _: ModelError("Expected words, got none.")))
    run = collect(data, system, describe(task, data, {"specification": "given"}, system, SCORING), tmp_path)
    scored = score(run)
    write_report(run, scored, None)
    assert scored.table["figures"] == {}
    assert "Expected words, got none." in Page((tmp_path / "report.html").read_text()).text


def test_the_page_is_made_without_the_pictures_too(tmp_path: Path) -> None:
    data = MicroData(3, painted=True)
    system = Looker(detector=ScriptedDetector(lambda image: replace(analysis(), size=Size(image.height, image.width))))
    collect(data, system, describe("localization", data, {"specification": "micro:3"}, system, SCORING), tmp_path)
    run = open_run(tmp_path)
    write_report(run, score(run), None)
    tags = [tag for tag, _ in Page((tmp_path / "report.html").read_text()).tags]
    assert (tags.count("img"), tags.count("article")) == (0, 3)


# Functions as detectors, and objects with a score as judges


class Length:
    def score(self, images: list[Image.Image], prompts: list[str]) -> np.ndarray:
        return np.asarray([len(prompt) for prompt in prompts])


def reds(image: Image.Image) -> list[dict]:
    return [{"name": "hand", "box": (0, 0, 8, 8), "severity": 0.5}]


def test_a_function_and_an_object_with_a_score_are_evaluated(tmp_path: Path) -> None:
    data, system = Given([sample("a", prompt="a hand"), sample("b")]), Looker(detector=reds, judge=Length())
    assert (system.identity()["detector"], system.identity()["judge"]) == ("reds", "Length")
    scored = score(
        collect(data, system, describe("realism", data, {"specification": "given"}, system, SCORING), tmp_path)
    )
    assert scored.table["errors"] == {}
    assert scored.table["figures"]["AF"] == 1
    assert scored.table["figures"]["HPS"] == 6


@pytest.mark.parametrize("answer", [None, "none", [3], [{"name": "hand", "category": "anatmy"}]])
def test_a_wrong_answer_of_a_function_is_an_error_of_its_sample(tmp_path: Path, answer: object) -> None:
    data, left = Given([sample("a"), sample("b"), sample("c")]), iter([[], answer, answer, []])
    system = Looker(detector=lambda image: next(left), batch_size=1)
    run = collect(data, system, describe("realism", data, {"specification": "given"}, system, SCORING), tmp_path)
    assert score(run).table["errors"] == {"BadAnswerError": 2}


@pytest.mark.parametrize("part", ["detector", "judge"])
@pytest.mark.parametrize("wrong", [3, Length])
def test_what_is_no_detector_or_judge_is_refused(part: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=f"Expected a {part}, got "):
        Looker(**{part: wrong})  # type: ignore[arg-type]
