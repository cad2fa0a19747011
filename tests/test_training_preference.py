"""The micro judge's recipe: near misses, damage, losses, repeatable training, and what the bundled weights achieve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from refiner.metrics.hps import HPSScorer
from refiner.micro.flaws import FLAWS
from refiner.micro.things import KINDS
from refiner.micro.world import parse_caption, render, sample_scene
from refiner.training.preference import (
    CONTEXT_LENGTH,
    PreferenceRecipe,
    build_tokenizer,
    contrastive_loss,
    preference_loss,
    save,
    train,
)
from refiner.training.preference_data import (
    RIVALS,
    changed_cells,
    damage,
    decoder_look,
    draw_sample,
    flawed_pair,
    rival,
    thing_labels,
)
from refiner.training.preference_eval import evaluate


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
    assert len({*first.captions[:2]}) == 2
    pictures = torch.from_numpy(first.pictures).permute(0, 3, 1, 2) / 255
    flawed = [bool(changed_cells(picture[None], pictures[:1]).any()) for picture in pictures]
    assert flawed[0] is False
    assert flawed[2:4] == [True, True]


def test_thing_labels_name_every_thing() -> None:
    scene = sample_scene(np.random.default_rng(6), count=4)
    kinds = {list(KINDS).index(thing.kind) for thing in scene.things}
    assert kinds <= set(thing_labels(scene)[0].ravel().tolist())


def clean_pictures(count: int) -> torch.Tensor:
    rng = np.random.default_rng(7)
    pictures = np.stack([np.asarray(render(sample_scene(rng))) for _ in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def test_damage_is_local_and_found_where_it_is_seen() -> None:
    pictures = clean_pictures(8)
    torch.manual_seed(0)
    damaged = damage(pictures, pictures.flip(0))
    changed = (damaged - pictures).abs().amax(1) > 0.15
    assert changed.float().mean() < 0.15
    cells = functional.max_pool2d(changed.float()[:, None], 8)[:, 0].bool()
    marked = changed_cells(damaged, pictures)
    assert marked.any()
    assert (cells & ~marked).float().mean() < 0.01
    assert not changed_cells(pictures, pictures).any()


def test_a_decoders_look_is_slight() -> None:
    pictures = clean_pictures(16)
    torch.manual_seed(0)
    looked = decoder_look(pictures)
    assert looked.min() >= 0
    assert looked.max() <= 1
    assert 0.002 < (looked - pictures).abs().mean() < 0.05


def test_tokenizer_knows_the_world() -> None:
    tokenizer = build_tokenizer()
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
    recipe = PreferenceRecipe(
        shards=2, shard_size=3, caption_steps=2, caption_batch=3, preference_steps=2, preference_batch=2
    )
    scorer = train(tmp_path / "first", recipe)
    resumed = train(tmp_path / "first", recipe)
    afresh = train(tmp_path / "second", recipe)
    for name, tensor in scorer.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
        assert torch.equal(tensor, afresh.model.state_dict()[name]), name
    save(scorer, tmp_path / "out", recipe, {"flaw": 0.5})
    loaded = HPSScorer.from_pretrained(tmp_path / "out", device="cpu")
    scene = sample_scene(np.random.default_rng(9))
    wanted = scorer.score([render(scene)], [scene.caption])
    assert loaded.score([render(scene)], [scene.caption]) == pytest.approx(wanted, abs=5e-3)
    assert loaded.name == "hps-micro 1"
