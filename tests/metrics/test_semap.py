"""SemAP and SemF1: the official figures, laws, variants, and every bad input named while the run goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

from refiner.data.anomreason import AnomalySet, Answers, Subset, read_subset
from refiner.data.problems import count_problems
from refiner.errors import ConfigError, InputError, ModelNotFoundError, WeightsError
from refiner.metrics.bertscore import BertScore
from refiner.metrics.counts import Hits
from refiner.metrics.semap import evaluate, gate, match_images, score_files
from refiner.metrics.semap_scoring import SemapConfig, Similarity, match, score, score_image
from refiner.types import Claim

WORDS = [f"{first}{second}" for first in "abcdefgh" for second in "klmnopqr"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose embeddings know words apart and nothing else: BERTScore is the overlap of words."""
    where = tmp_path_factory.mktemp("encoder") / "words"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    size = len(vocabulary) + 3
    config = DistilBertConfig(
        vocab_size=len(vocabulary), dim=size, n_layers=1, n_heads=1, hidden_dim=4, max_position_embeddings=16
    )
    model = DistilBertModel(config)
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["embeddings.word_embeddings.weight"] = torch.eye(size)[: len(vocabulary)].contiguous()
    state["embeddings.LayerNorm.weight"] = torch.ones(size)
    config.save_pretrained(where)
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})
    ids = {word: at for at, word in enumerate(vocabulary)}
    BertTokenizerFast(vocab=ids, model_max_length=16).save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BertScore:
    return BertScore.from_pretrained(folder, layer=0, device="cpu")


def anomaly(phenomenon: str, reasoning: str, severity: Any = 20) -> dict[str, Any]:
    return {"phenomenon": phenomenon, "reasoning": reasoning, "severity": severity}


def some(count: int, seed: int, each: int = 3) -> dict[str, list[dict[str, Any]]]:
    """Images of anomalies, no two of which share a word with another image's, for eight images."""
    rng = np.random.default_rng(seed)
    images = {}
    for at in range(count):
        own = WORDS[8 * at : 8 * at + 8]
        images[f"{at}.png"] = [anomaly(*(" ".join(rng.permutation(own)[:4]) for _ in range(2))) for _ in range(each)]
    return images


@pytest.fixture
def files(tmp_path: Path):
    def write(predictions: Any, references: Any) -> tuple[Path, Path]:
        paths = tmp_path / "predictions.json", tmp_path / "references.json"
        for path, document in zip(paths, (predictions, references), strict=True):
            path.write_text(json.dumps(document))
        return paths

    return write


def similar(phenomenon: Any, reasoning: Any = None, confidence: Sequence[float | None] | None = None) -> Similarity:
    matrix = np.array(phenomenon, dtype=np.float32)
    other = matrix if reasoning is None else np.array(reasoning, dtype=np.float32)
    ranks = tuple(confidence) if confidence is not None else (None,) * len(matrix)
    return Similarity(image="a.png", phenomenon=matrix, reasoning=other, confidence=ranks)


# Six images of the official evaluator's sample run (alpha .5): predictions, references, pairs that reach .7 and .8
# (none reaches .9), and the SemAP and SemF1 that it printed, rounded to four digits.
OFFICIAL = [
    (6, 4, 4, 4, 0.4444, 0.5333),
    (5, 8, 5, 5, 0.6667, 0.5128),
    (5, 6, 5, 4, 0.6, 0.5455),
    (7, 6, 6, 4, 0.4762, 0.5128),
    (9, 8, 8, 5, 0.4815, 0.5098),
    (4, 9, 4, 4, 0.6667, 0.4103),
]


@pytest.mark.parametrize(("predictions", "references", "at_7", "at_8", "semap", "semf1"), OFFICIAL)
def test_images_of_the_official_sample_run(predictions, references, at_7, at_8, semap, semf1):
    scores = np.full((predictions, references), 0.2)
    for at in range(at_7):
        scores[at, at] = 0.85 if at < at_8 else 0.75
    result = score_image(similar(scores), SemapConfig())
    assert (round(result.semap, 4), round(result.semf1, 4)) == (semap, semf1)
    assert len(result.pairs) == min(predictions, references)


def test_totals_of_the_official_sample_run():
    printed = {
        (505, 46, 105): (0.9165, 0.8279, 0.8699),
        (380, 171, 230): (0.6897, 0.623, 0.6546),
        (0, 551, 610): (0, 0, 0),
    }
    for (tp, fp, fn), figures in printed.items():
        each = Hits(tp=tp, fp=fp, fn=fn)
        assert (round(each.precision, 4), round(each.recall, 4), round(each.f1, 4)) == figures


MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5),
    elements=st.integers(0, 8).map(lambda n: n / 8),
)


@given(MATRICES)
def test_greedy_matching_takes_the_best_that_is_left(scores):
    left = scores.astype(float)
    wanted = []
    while left.size and left.max() > 0:
        row, column = (int(at) for at in np.argwhere(left == left.max())[0])
        wanted.append((row, column, left[row, column]))
        left[row, :] = left[:, column] = -1
    assert list(match(scores)) == wanted


@given(MATRICES)
def test_optimal_matching_has_the_larger_sum(scores):
    greedy, optimal = match(scores), match(scores, "optimal")
    assert sum(pair.score for pair in optimal) >= sum(pair.score for pair in greedy) - 1e-6
    assert len({pair.prediction for pair in optimal}) == len({pair.reference for pair in optimal}) == len(optimal)


def test_optimal_matching_is_another_one_and_is_named():
    scores = [[0.9, 0.85], [0.85, 0.2]]
    greedy, optimal = SemapConfig(), SemapConfig(matching="optimal")
    assert score_image(similar(scores), greedy).by_threshold[1].tp == 1
    assert score_image(similar(scores), optimal).by_threshold[1].tp == 2
    assert greedy.signature != optimal.signature


@given(MATRICES, st.sampled_from(["official", "ranked"]))
def test_figures_lie_between_nothing_and_all(scores, protocol):
    result = score_image(similar(scores), SemapConfig(protocol=protocol))
    assert 0 <= result.semap <= 1
    assert 0 <= result.semf1 <= 1
    for counts in result.by_threshold:
        assert counts.tp + counts.fp == scores.shape[0]
        assert counts.tp + counts.fn == scores.shape[1]


@pytest.mark.parametrize(("view", "wanted"), [("phe", 0.9), ("rea", 0.5), ("full", 0.7)])
def test_views_weigh_the_fields(view, wanted):
    assert similar([[0.9]], [[0.5]]).fused(view)[0, 0] == pytest.approx(wanted)


def test_scores_are_clipped():
    assert np.array_equal(similar([[-0.5, 3.0]]).fused("full"), [[0, 1]])


def ranked(scores: Any, confidence: Sequence[float | None]) -> float:
    return score_image(similar(scores, confidence=confidence), SemapConfig(protocol="ranked", thresholds=(0.5,))).semap


def test_ranked_area_by_hand():
    scores = [[1.0, 0, 0], [0, 0, 0], [0, 1.0, 0], [0, 0, 0]]
    right_first = ranked(scores, [0.9, 0.5, 0.8, 0.1])
    mixed = ranked(scores, [0.9, 0.8, 0.7, 0.1])
    right_last = ranked(scores, [0.1, 0.9, 0.2, 0.8])
    assert right_first == pytest.approx((1 + 1) / 3)
    assert mixed == pytest.approx((1 + 2 / 3) / 3)
    assert right_last == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert ranked(np.eye(3), [0.2, None, 0.9]) == 1.0


def test_ranked_ties_keep_the_order_and_missing_severities_come_last():
    scores = [[1.0], [0]]
    assert ranked(scores, [0.5, 0.5]) == 1.0
    assert ranked(scores, [None, None]) == 1.0
    assert ranked(scores, [None, 0.0]) == 0.5


def test_empty_images_as_documented():
    nothing, unfound, invented = np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((2, 0))
    for config in (SemapConfig(), SemapConfig(protocol="ranked"), SemapConfig(empty=1)):
        assert score_image(similar(nothing), config).semap == config.empty
        assert score_image(similar(nothing), config).semf1 == config.empty
        for scores in (unfound, invented):
            assert score_image(similar(scores), config).semap == score_image(similar(scores), config).semf1 == 0
    assert SemapConfig().signature != SemapConfig(empty=1).signature


@pytest.mark.parametrize(
    "settings",
    [{"view": "name"}, {"protocol": "coco"}, {"thresholds": ()}, {"thresholds": (0.0,)}, {"thresholds": (1.5,)}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError):
        SemapConfig(**settings)


def test_no_image_to_score():
    with pytest.raises(InputError, match="none"):
        score([], SemapConfig(), "encoder")


@given(MATRICES)
def test_records_come_back_exact(scores):
    one = similar(scores, scores[::-1] / 3, [0.5] * len(scores))
    again = Similarity.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again.image == one.image
    assert again.confidence == one.confidence
    assert np.array_equal(again.phenomenon, one.phenomenon)
    assert np.array_equal(again.reasoning, one.reasoning)


@pytest.mark.parametrize(
    "data", [{}, {"image": "a", "shape": [2, 2], "phenomenon": [1], "reasoning": [1], "confidence": []}]
)
def test_damaged_records(data):
    with pytest.raises(InputError, match="write it again"):
        Similarity.from_dict(data)


@pytest.mark.parametrize("view", ["phe", "rea", "full"])
def test_perfect_predictions_score_one(files, encoder, view):
    document = score_files(*files(some(8, 0), some(8, 0)), encoder=encoder, config=SemapConfig(view=view)).document()
    assert document["semap"] == document["semf1"] == 1.0
    assert all(row["precision"] == row["recall"] == row["f1"] == 1.0 for row in document["by_threshold"].values())
    assert document["images"] == 8


def test_shuffled_predictions_score_nothing(files, encoder):
    images = some(8, 0)
    shuffled = dict(zip(images, [*list(images.values())[1:], images["0.png"]], strict=True))
    document = score_files(*files(shuffled, images), encoder=encoder).document()
    assert document["semap"] == document["semf1"] == 0.0
    assert document["by_threshold"]["0.7"] == {"tp": 0, "fp": 24, "fn": 24, "precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_document_by_hand(files, encoder):
    """One image: a hit, a pair of F1 .75 in both fields, and a miss; another with nothing predicted."""
    references = {
        "a.png": [anomaly("ak al am an", "ao ap aq ar"), anomaly("bk bl bm bn", "bo bp bq br"), anomaly("ck", "cl")],
        "b.png": [anomaly("dk", "dl")],
    }
    predictions = {
        "x/a.png": [anomaly("bk bl bm dn", "bo bp bq dr"), anomaly("ak al am an", "ao ap aq ar")],
        "b.png": [],
    }
    document = score_files(*files(predictions, references), encoder=encoder).document()
    assert list(document) == ["semap", "semf1", "by_threshold", "images", "signature"]
    assert list(document["by_threshold"]) == ["0.7", "0.8", "0.9"]
    two = {"tp": 2, "fp": 0, "fn": 2, "precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    one = {"tp": 1, "fp": 1, "fn": 3, "precision": 0.5, "recall": 0.25, "f1": 1 / 3}
    assert document["by_threshold"] == {"0.7": pytest.approx(two), "0.8": pytest.approx(one), "0.9": pytest.approx(one)}
    assert document["semap"] == pytest.approx((1 + 0.5 + 0.5) / 3 / 2)
    assert document["semf1"] == pytest.approx((0.8 + 0.4 + 0.4) / 3 / 2)
    assert json.loads(json.dumps(document)) == document


def test_order_of_images_and_anomalies_changes_nothing(files, encoder):
    predictions, references = some(8, 1), some(8, 2)
    wanted = score_files(*files(predictions, references), encoder=encoder).document()
    turned = [{key: value[::-1] for key, value in reversed(images.items())} for images in (predictions, references)]
    again = score_files(*files(*turned), encoder=encoder).document()
    assert again["semap"] == pytest.approx(wanted["semap"])
    assert again["by_threshold"] == wanted["by_threshold"]


def test_images_in_pieces_score_as_together(files, encoder, monkeypatch):
    paths = files(some(8, 1), some(8, 2))
    wanted = score_files(*paths, encoder=encoder)
    monkeypatch.setattr("refiner.metrics.semap._TEXTS_AT_A_TIME", 1)
    again = score_files(*paths, encoder=encoder)
    assert again.document() == wanted.document()
    assert again.images == wanted.images


def test_each_text_is_encoded_once_whatever_the_view(files, folder):
    scorer = BertScore.from_pretrained(folder, layer=0, device="cpu")
    predictions, references = some(8, 1), some(8, 2)
    paths = files(predictions, references)
    for view in ("phe", "rea", "full"):
        score_files(*paths, encoder=scorer, config=SemapConfig(view=view))
    rows = [one for part in (predictions, references) for image in part.values() for one in image]
    assert scorer.encoded == len({text for one in rows for text in (one["phenomenon"], one["reasoning"])})


def test_signature_names_what_the_numbers_depend_on(files, encoder, folder):
    paths = files(some(2, 0), some(2, 0))
    signature = score_files(*paths, encoder=folder, layer=0).signature
    for part in ("protocol=official", "view=full", "thresholds=0.7,0.8,0.9", "encoder=words@", "layer=0", "empty=0"):
        assert part in signature
    assert "comparable_with_published=no" in signature
    others = [SemapConfig(view="phe"), SemapConfig(protocol="ranked"), SemapConfig(missing="empty")]
    signatures = {score_files(*paths, encoder=encoder, config=config).signature for config in others}
    assert len(signatures | {signature}) == 4


def test_micro_averages(files, encoder):
    result = score_files(*files({"0.png": [], "1.png": some(2, 0)["1.png"]}, some(2, 0)), encoder=encoder)
    assert result.micro == pytest.approx((1.0, 2 / 3))
    assert result.semap == 0.5


def test_every_bad_input_is_named_and_the_run_goes_on(files, encoder):
    good = some(1, 0)["0.png"]
    predictions = {
        "good.png": good,
        "unknown.png": good,
        "text.png": "The hand has six fingers.",
        "entries.png": [None, "x", good[0]],
        "gaps.png": [{"phenomenon": "", "reasoning": "ak al"}, {"name": "x"}],
        "long.png": [anomaly("ak " * 40, "al")],
        "signs.png": [anomaly("\u200b", "al")],
        "nan.png": [anomaly("ak", "al", float("nan"))],
        "a/same.png": good,
        "b/same.png": good,
    }
    names = ("good", "missing", "text", "entries", "gaps", "long", "signs", "nan", "same")
    references = {f"{name}.png": good for name in names} | {"broken.png": 7}
    result = score_files(*files(predictions, references), encoder=encoder)
    assert count_problems(result.problems) == {
        "bad_severity": 1,
        "duplicate_basename": 1,
        "empty_text": 4,
        "long_text": 1,
        "missing_image": 3,
        "unknown_image": 3,
        "unreadable_anomaly": 2,
        "unreadable_image": 2,
    }
    by_name = {image.image: image for image in result.images}
    assert sorted(by_name) == sorted(f"{name}.png" for name in names if name not in ("missing", "same"))
    assert by_name["good.png"].semap == 1.0
    assert by_name["text.png"].predictions == 0
    assert by_name["entries.png"].predictions == 1
    assert all(problem.where and problem.file.endswith(".json") for problem in result.problems)


def failing(folder: Path, copy: Path, words: Sequence[str]) -> BertScore:
    """The encoder of these tests, but with NaN for every text that has one of the words."""
    shutil.copytree(folder, copy)
    state = load_file(copy / "model.safetensors")
    state["embeddings.word_embeddings.weight"][[5 + WORDS.index(word) for word in words]] = float("nan")
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    return BertScore.from_pretrained(copy, layer=0, device="cpu")


def test_an_encoder_that_gives_nan_costs_the_images_of_those_texts(files, folder, encoder, tmp_path):
    predictions, references = some(6, 0), some(6, 1)
    references["2.png"][1]["reasoning"] = "hq hr"
    predictions["4.png"][0]["phenomenon"] = "hr"
    faulty = failing(folder, tmp_path / "faulty", ["hr"])
    result = score_files(*files(predictions, references), encoder=faulty)
    assert [image.image for image in result.images] == ["0.png", "1.png", "3.png", "5.png"]
    named = [problem for problem in result.problems if problem.kind == "not_finite"]
    assert [(Path(problem.file).name, problem.where) for problem in named] == [
        ("references.json", "2.png, anomaly 1"),
        ("predictions.json", "4.png, anomaly 0"),
    ]
    for name in ("2.png", "4.png"):
        del predictions[name], references[name]
    rest = score_files(*files(predictions, references), encoder=encoder)
    assert (result.semap, result.semf1) == pytest.approx((rest.semap, rest.semf1), abs=1e-6)
    assert result.by_threshold == rest.by_threshold


def test_an_encoder_that_gives_nan_for_all_is_refused(files, folder, tmp_path):
    with pytest.raises(WeightsError, match="each of 2 images"):
        score_files(*files(some(2, 0), some(2, 1)), encoder=failing(folder, tmp_path / "faulty", WORDS))


def sets(predictions: Sequence[str], references: Sequence[str]) -> tuple[AnomalySet, AnomalySet]:
    one = (Claim(explanation="ak", reasoning="al"),)
    parts = [
        AnomalySet(file=name, images=dict.fromkeys(keys, one)) for name, keys in (("p", predictions), ("r", references))
    ]
    return parts[0], parts[1]


def test_same_names_in_several_folders_are_matched_by_whole_path():
    matches, problems = match_images(*sets(["x/1.png", "y/1.png", "q/2.png"], ["x/1.png", "y/1.png", "2.png"]))
    assert [each.image for each in matches] == ["x/1.png", "y/1.png", "2.png"]
    assert count_problems(problems) == {"duplicate_basename": 2}


def test_missing_images_can_count_as_misses(files, encoder):
    paths = files({"0.png": some(2, 0)["0.png"]}, some(2, 0))
    dropped = score_files(*paths, encoder=encoder)
    counted = score_files(*paths, encoder=encoder, config=SemapConfig(missing="empty"))
    assert (len(dropped.images), dropped.semap) == (1, 1.0)
    assert (len(counted.images), counted.semap) == (2, 0.5)
    assert count_problems(dropped.problems) == count_problems(counted.problems) == {"missing_image": 1}


@pytest.mark.parametrize(("predictions", "references"), [({}, {}), ({"a.png": []}, {"b.png": []}), ({}, {"b.png": []})])
def test_files_of_different_images(files, encoder, predictions, references):
    with pytest.raises(InputError, match=r"references\.json.*predictions\.json"):
        score_files(*files(predictions, references), encoder=encoder)


def test_files_or_encoder_that_are_not_there(files, tmp_path):
    predictions, references = files(some(1, 0), some(1, 0))
    with pytest.raises(InputError, match=r"none\.json"):
        score_files(tmp_path / "none.json", references)
    with pytest.raises(ModelNotFoundError):
        score_files(predictions, references, encoder=tmp_path / "none")


def test_explanations_count_where_the_image_was_called_generated(files, encoder, tmp_path):
    images = some(4, 0)
    predictions = {f"set/1_fake/{name}": value for name, value in images.items()} | {
        "set/0_real/r.png": images["0.png"]
    }
    answers = tmp_path / "answers.json"
    said = {"set/1_fake/0.png": "Yes, it is.", "1.png": "no", "2.png": "Well"}
    answers.write_text(json.dumps(said))
    result = score_files(*files(predictions, images), encoder=encoder, answers=answers)
    assert (result.semap, result.semf1, len(result.images)) == (0.25, 0.25, 4)
    assert result.signature.startswith("csemap|")
    assert count_problems(result.problems) == {"missing_answer": 1, "real_image": 1, "unreadable_answer": 1}


@pytest.mark.parametrize(
    "form", [list, lambda names: dict.fromkeys(names, 0), lambda names: [{name: 1} for name in names]]
)
def test_a_subset_in_any_form_scores_only_its_images(files, encoder, tmp_path, form):
    images, wrong = some(4, 0), some(4, 0, each=1)
    predictions = {f"set/{name}": images[name] if name in ("1.png", "2.png") else wrong[name] for name in images}
    subset = tmp_path / "subset.json"
    subset.write_text(json.dumps(form(["2.png", "elsewhere/1.png", "gone.png"])))
    paths = files(predictions, images)
    whole, part = (score_files(*paths, encoder=encoder, subset=chosen) for chosen in (None, subset))
    assert (whole.semf1 < 1, part.semf1, len(part.images)) == (True, 1, 2)
    start, _, digest = part.signature.rpartition("|subset=")
    assert (start, len(digest)) == (whole.signature, 12)


def test_a_path_in_a_subset_means_just_that_image():
    part, _ = sets(["x/a.png", "y/a.png", "b.png"], [])
    kept = {
        names: tuple(Subset(file="s", names=frozenset(names)).of(part).images)
        for names in [("x/a.png",), ("a.png",), ("z/a.png",), ("c.png", "b.png")]
    }
    assert list(kept.values()) == [("x/a.png",), ("x/a.png", "y/a.png"), ("x/a.png", "y/a.png"), ("b.png",)]


@pytest.mark.parametrize("content", ["", "3", '"a.png"', "[", "[]", "{}", '[3, null, [], {}, " "]', '["\\ud800"]'])
def test_subsets_that_name_no_image_are_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(InputError, match=r"s\.json"):
        read_subset(tmp_path / "s.json")
    (tmp_path / "s.json").write_text('[3, "a.png", {"b.png": 1, "c.png": 2}]')
    found = read_subset(tmp_path / "s.json")
    assert (found.names, [problem.kind for problem in found.problems]) == ({"a.png"}, ["bad_name", "bad_name"])


def test_answers_for_several_images_of_one_name_are_ambiguous():
    predictions, _ = sets(["1_fake/a.png"], [])
    answers = Answers(file="answers", fake={"x/a.png": True, "y/a.png": True})
    assert gate(predictions, answers).images == {"1_fake/a.png": ()}
    exact = Answers(file="answers", fake={"1_fake/a.png": True, "y/a.png": False})
    assert gate(predictions, exact).images == predictions.images


def test_comparing_sets_that_are_read_already(encoder):
    result = evaluate(*sets(["a.png"], ["a.png"]), encoder)
    assert result.semap == 1.0
    assert not result.problems
