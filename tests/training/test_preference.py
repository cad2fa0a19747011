"""The micro judge's recipe: near misses, labels, losses, repeatable training, and the meaning of its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from refiner.hub import MICRO_WEIGHTS
from refiner.metrics.hps.scorer import HPSScorer
from refiner.micro.flaws import FLAWS
from refiner.micro.things import KINDS
from refiner.micro.world import parse_caption, render, sample_scene
from refiner.training.preference.data import (
    CELLS,
    PICTURES,
    RIVALS,
    cells_of,
    draw_sample,
    flawed_pair,
    natural_sample,
    part_labels,
    rival,
    thing_labels,
)
from refiner.training.preference.eval import evaluate
from refiner.training.preference.losses import Trainee, contrastive_loss, duel_scores, preference_loss
from refiner.training.preference.model import build_scorer
from refiner.training.preference.pool import build_pool, decoder_look, shifted
from refiner.training.preference.recipe import RECIPE, PreferenceSettings, train
from refiner.training.recipes import finish
from refiner.training.runs import Run
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.paintings import VIEWS, paint
from refiner.training.world.tokenizers import CONTEXT_LENGTH, judge_tokenizer

GENERATOR = MICRO_WEIGHTS / "generator"


@pytest.mark.parametrize("kind", list(RIVALS))
def test_a_rival_is_another_scene_of_the_world(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        scene = sample_scene(rng, count=int(rng.integers(2, 5)))
        other = rival(scene, rng, (kind, "other_colour"))
        assert other.caption != scene.caption
        assert parse_caption(other.caption).caption == other.caption
        assert (np.asarray(render(other)) != np.asarray(render(scene))).any()


def test_worse_has_one_flaw_more_and_keeps_the_others() -> None:
    rng = np.random.default_rng(4)
    for _ in range(6):
        fewer, more = flawed_pair(sample_scene(rng, count=3), rng)
        assert 1 <= len(fewer.kinds) <= len(more.kinds) <= len(fewer.kinds) + 1
        assert set(fewer.kinds) <= set(more.kinds)


def test_samples_repeat_and_agree_with_their_labels() -> None:
    first, again = (draw_sample(np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.pictures, again.pictures)
    assert first.captions == again.captions
    assert first.captions[0] not in first.captions[1:]
    assert first.better[0].tolist() == [False, False, True, True, True]
    assert not (first.better & first.better.T).any()
    flawed = first.flaws.astype(bool).any(axis=(1, 2)).tolist()
    assert flawed == [name in ("flawed", "worse") for name in PICTURES]
    changed = np.abs(first.pictures[2].astype(int) - first.pictures[0]).max(axis=2) > 26
    assert not (cells_of(changed) & (first.flaws[2] == 0)).any()


def test_natural_samples_mark_what_the_generator_got_wrong() -> None:
    paintings = paint(np.random.default_rng(5), 6, ImperfectGenerator(GENERATOR))
    assert any(painting.flaws[VIEWS.index("poorer")] for painting in paintings)
    for painting in paintings:
        sample = natural_sample(painting)
        counts = [len(flaws) for flaws in painting.flaws]
        assert [labels.any() for labels in sample.flaws] == [bool(count) for count in counts]
        assert set(sample.flaws[sample.flaws > 0].tolist()) <= {len(FLAWS) + 1}
        assert sample.better[0].tolist() == [count > 0 for count in counts]
        assert not (sample.better & sample.better.T).any()
        better, worse = sample.better.nonzero()
        assert all(counts[one] < counts[other] for one, other in zip(better, worse, strict=True))


def test_labels_name_every_thing_and_stay_on_it() -> None:
    scene = sample_scene(np.random.default_rng(6), count=4)
    kinds = {list(KINDS).index(thing.kind) for thing in scene.things}
    labels = thing_labels(scene)
    assert kinds < set(labels[0].ravel().tolist()) <= kinds | {len(KINDS)}
    parts = part_labels(scene)
    assert parts.shape[:2] == (CELLS, CELLS)
    assert parts[labels[0] != len(KINDS)].any(axis=-1).mean() > 0.6
    assert parts.any(axis=(0, 1)).sum() >= 3 * len(scene.things)


def test_a_pool_gives_back_what_was_drawn(tmp_path: Path) -> None:
    pool = build_pool(tmp_path, 2, 2, seed=1, retouch=lambda pictures: 255 - pictures)
    pictures, labels = pool.take(np.array([1, 3]), ("worse", "rival"))
    for place, (shard, number) in enumerate([(0, 1), (1, 1)]):
        sample = draw_sample(np.random.default_rng([1, shard, number]))
        assert pool.captions[2 * shard + number] == sample.captions
        for at, name in enumerate(("worse", "rival")):
            picture = sample.pictures[PICTURES.index(name)]
            seen = (pictures[2 * at + place] * 255).round().byte().permute(1, 2, 0).numpy()
            assert np.array_equal(seen, 255 - picture if shard else picture)
            assert np.array_equal(labels.flaws[2 * at + place], sample.flaws[PICTURES.index(name)])
            assert np.array_equal(labels.parts[2 * at + place].bool(), sample.parts[PICTURES.index(name)])
            assert np.array_equal(labels.things[2 * at + place], sample.things[PICTURES.index(name)])


def clean_pictures(count: int) -> torch.Tensor:
    rng = np.random.default_rng(7)
    pictures = np.stack([np.asarray(render(sample_scene(rng))) for _ in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def test_the_trainee_sees_as_the_judge_will() -> None:
    scorer = build_scorer(0)
    pictures, text = clean_pictures(2), sample_scene(np.random.default_rng(7)).caption
    trainee = Trainee(scorer)
    with torch.no_grad():
        seen, read = trainee.see(pictures), trainee.read([text])
    scores = scorer.score([render(sample_scene(rng)) for rng in [np.random.default_rng(7)]], [text])
    assert float((seen.features[0] * read[0]).sum()) == pytest.approx(scores[0], abs=0.02)
    assert seen.tokens.shape[:2] == (2, 1 + CELLS**2)


def test_a_decoders_look_is_slight() -> None:
    pictures = clean_pictures(16)
    torch.manual_seed(0)
    looked = decoder_look(pictures)
    assert looked.min() >= 0
    assert looked.max() <= 1
    assert 0.002 < (looked - pictures).abs().mean() < 0.05


def test_a_shift_moves_each_picture_by_a_few_pixels() -> None:
    pictures = clean_pictures(8)
    torch.manual_seed(0)
    moved = shifted(pictures, [0, 1, 2, 3] * 2)
    assert moved.shape == pictures.shape
    shifts = [(dy, dx) for dy in range(-3, 4) for dx in range(-3, 4)]
    found = []
    for before, after in zip(pictures, moved, strict=True):
        gaps = [float((after - before.roll(shift, (1, 2)))[:, 3:-3, 3:-3].abs().max()) for shift in shifts]
        assert min(gaps) == 0
        found.append(shifts[gaps.index(0)])
    assert found[:4] == found[4:]
    assert len(set(found)) > 1


def test_tokenizer_knows_the_world() -> None:
    tokenizer = judge_tokenizer()
    rng = np.random.default_rng(8)
    for _ in range(300):
        ids = tokenizer(sample_scene(rng, count=4).caption).input_ids
        assert tokenizer.unk_token_id not in ids
        assert len(ids) <= CONTEXT_LENGTH
        assert max(ids) == ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id in tokenizer("a red dragon").input_ids
    assert tokenizer("A Red HAND, sad.").input_ids == tokenizer("a red hand sad").input_ids


def test_preference_loss_is_the_cross_entropy_of_the_pair() -> None:
    better, worse, scale = torch.tensor([0.3, 0.1]), torch.tensor([0.2, 0.4]), torch.tensor(20.0)
    pair = torch.stack([better, worse], dim=1) * scale
    wanted = functional.cross_entropy(pair, torch.zeros(2, dtype=torch.long), reduction="none")
    torch.testing.assert_close(preference_loss(better, worse, scale), wanted)


def test_both_pictures_of_a_duel_answer_to_one_prompt() -> None:
    texts = torch.eye(3)
    scores = duel_scores(torch.eye(3), texts, torch.tensor([[0, 1], [2, 2]]))
    assert torch.equal(scores, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert torch.equal(duel_scores(texts, texts[[1, 1, 1]], torch.tensor([[0, 1]])), torch.tensor([[0.0, 1.0]]))


def test_contrastive_loss() -> None:
    features = functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    names = list("abcdef")
    scale = torch.tensor(10.0)
    plain = contrastive_loss(features[:4], features[:4], names[:4], scale)
    logits = scale * features[:4] @ features[:4].T
    wanted = (
        functional.cross_entropy(logits, torch.arange(4)) + functional.cross_entropy(logits.T, torch.arange(4))
    ) / 2
    torch.testing.assert_close(plain, wanted)
    assert contrastive_loss(features[:4], features, names, scale) > plain
    copies = torch.cat([features[:4], features[:1]])
    assert contrastive_loss(features[:4], copies, [*names[:4], "a"], scale) < contrastive_loss(
        features[:4], copies, names[:5], scale
    )


class _Constant:
    name = "constant"

    def score(self, images: object, prompts: list[str]) -> list[float]:
        return [0.5] * len(prompts)


def test_evaluate_counts_ties_as_wrong_and_covers_every_kind() -> None:
    scores = evaluate(_Constant(), seed=1, pairs=len(FLAWS))  # type: ignore[arg-type]
    assert {f"flaw/{kind}" for kind in FLAWS} <= scores.keys()
    assert {f"{sort}/{kind}" for sort in ("caption", "picture") for kind in RIVALS} <= scores.keys()
    assert set(scores.values()) == {0.0}


def test_training_repeats_resumes_and_saves(tmp_path: Path) -> None:
    sizes = {"shards": 2, "shard_size": 3, "batch": 2, "natural_shards": 1, "natural_shard_size": 2, "naturals": 1}
    recipe = PreferenceSettings(steps=4, reading=1, read=4, natural_from=2, **sizes)
    imperfect = ImperfectGenerator(GENERATOR)
    scorer = train(recipe, imperfect, Run(folder=tmp_path / "first" / "preference", dtype="float32"))
    resumed = train(recipe, imperfect, Run(folder=tmp_path / "first" / "preference", dtype="float32"))
    afresh = train(recipe, imperfect, Run(folder=tmp_path / "second" / "preference", dtype="float32"))
    for name, tensor in scorer.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
        assert torch.equal(tensor, afresh.model.state_dict()[name]), name
    scorer.save_pretrained(tmp_path / "out")
    finish(RECIPE, recipe, tmp_path / "out", {"flaw": 0.5})
    loaded = HPSScorer.from_pretrained(tmp_path / "out", device="cpu")
    scene = sample_scene(np.random.default_rng(9))
    wanted = scorer.score([render(scene)], [scene.caption])
    assert loaded.score([render(scene)], [scene.caption]) == pytest.approx(wanted, abs=5e-3)
    assert loaded.name == "hps-micro 6"
