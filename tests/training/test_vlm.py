"""The vision-language recipe at toy size: tokens, correct questions and answers, resume, export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from refiner.detectors.chat.local import LocalChat
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.detector import load_vlm
from refiner.detectors.vlm.questions import finding, read_verdicts, verifying
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of
from refiner.micro.oracle import inspect
from refiner.micro.world import parse_caption
from refiner.taxonomy import Category
from refiner.training.fit import Draw
from refiner.training.runs import Run
from refiner.training.vlm.data import HUES, MOST_REGIONS, Album, draw, hues_of, unlike
from refiner.training.vlm.eval import score
from refiner.training.vlm.exchange import ask, collate, false_claim, places_of, sample_batch
from refiner.training.vlm.model import Architecture, build_processor, copy_tower, in_rows, patches_of
from refiner.training.vlm.recipe import VlmSettings, export, prepare, run_stage
from refiner.training.vlm.words import FORM, PICTURE, build_tokenizer, coordinates, find_answer, rendered, told
from refiner.training.world.labels import KIND_NAMES, PART_NAMES
from refiner.training.world.marked import UNSEEN
from refiner.training.world.scenes import to_tensor
from refiner.training.world.words import FRAME
from refiner.types import Analysis, Claim, Region

TOY = Architecture(
    patch=24, vision_width=16, vision_layers=2, vision_heads=2, deepstack=(0,), text_width=24, text_layers=2,
    text_inner=32, text_heads=2, text_groups=1,
)  # fmt: skip
RECIPE = VlmSettings(
    architecture=TOY, tower_steps=2, steps=4, warmup=1, batch=3, first_shards=1, shards=2, shard_every=3, bf16=False,
    save_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tmp_path_factory.mktemp("album")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(11)
    return [draw(rng) for _ in range(40)]


def start(shards, folder):
    return prepare(RECIPE, Album(shards, shard=8), Run(folder=folder))


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", ["", "so ünlike a <b>\t sunny day, 12, 250, x", '\n\n  {"regions": []}', "o'clock"])
def test_the_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(encoded(tokenizer, text), skip_special_tokens=True) == text


def test_answers_are_few_tokens_and_come_back(tokenizer, items):
    rng = np.random.default_rng(0)
    for item in items:
        for _ in range(3):
            _, exchange = ask(item, rng)
            ids = encoded(tokenizer, exchange.answer)
            assert tokenizer.decode(ids, skip_special_tokens=True) == exchange.answer
            entries = next(iter(json.loads(exchange.answer).values()))
            assert len(ids) <= 3 + 34 * len(entries), exchange.answer


def test_what_every_question_says_is_one_token(tokenizer, items):
    assert all(len(encoded(tokenizer, text)) == 1 for text in told())
    for thorough in (True, False):
        longest = max((item.caption for item in items), key=len)
        question = finding(PICTURE, longest, FORM, thorough=thorough)
        assert len(encoded(tokenizer, rendered(question, tokenizer, 1))) < 60
    flawed = next(item for item in items if item.found)
    for caption in ("", flawed.caption):
        check = verifying(PICTURE, flawed.found, FRAME, FORM, caption)
        assert len(encoded(tokenizer, rendered(check, tokenizer, 1))) < 110 + 40 * bool(caption)


def test_training_asks_what_the_backend_asks(tokenizer, items):
    processor = build_processor(tokenizer, TOY)
    picture = Image.fromarray(items[0].image)
    for question in (finding(picture, items[0].caption, FORM, thorough=True), verifying(picture, [], FRAME, FORM)):
        turns = [
            {"role": "system", "content": [{"type": "text", "text": question.system}]},
            {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question.text}]},
        ]
        inputs = processor.apply_chat_template(
            [turns], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
            sanitize_control_tokens=True,
        )  # fmt: skip
        assert inputs["input_ids"][0].tolist() == encoded(tokenizer, rendered(question, tokenizer, TOY.tokens))
        assert torch.allclose(inputs["pixel_values"], patches_of(to_tensor(np.stack([items[0].image])), TOY), atol=1e-5)


def test_training_computes_what_the_plain_model_computes(shards, tmp_path, items):
    setting, trainee = start(shards, tmp_path)
    seen = {}
    handle = trainee.model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.update(hidden=inputs[0]))
    batch = sample_batch(items, setting.tokenizer, seed=(1,), size=3, picture_tokens=TOY.tokens)
    with torch.no_grad():
        trainee.losses(batch._replace(captions=torch.full_like(batch.ids, -100)), RECIPE.weights)
        ours = seen["hidden"]
        trainee.model(
            input_ids=batch.ids,
            pixel_values=patches_of(batch.pixels, TOY),
            image_grid_thw=trainee.grid(3),
            mm_token_type_ids=(batch.ids == trainee.model.config.image_token_id).int(),
        )
    handle.remove()
    asked = batch.labels[:, 1:] != -100
    assert torch.allclose(ours, seen["hidden"][:, :-1][asked], atol=1e-5)


def test_patches_of_the_tower_are_put_in_rows():
    pixels = torch.zeros(1, 3, 96, 96)
    pixels[:, :, :24, 24:48] = 1.0  # row 0, column 1
    rows = in_rows(patches_of(pixels, TOY), 1, TOY)
    assert rows.shape == (1, 16, 3 * 2 * 24 * 24)
    assert (rows[0].abs().sum(1) > 0).nonzero().flatten().tolist() == [1]


def test_an_answer_is_read_as_what_it_was_made_of(items):
    for item in items:
        read = read_regions(find_answer(item.found), FRAME, boxes=FORM)
        assert len(read) == len(item.found)
        for one, other in zip(read, item.found, strict=True):
            assert np.abs(np.subtract(one.box, other.box)).max() <= 1
            assert (one.name, one.location, one.explanation, one.reasoning) == (
                other.name, other.location, other.explanation, other.reasoning,
            )  # fmt: skip
            assert (one.category, one.severity, one.score) == (other.category, other.severity, other.score)


def test_verdicts_say_which_claims_are_true(items):
    rng, seen = np.random.default_rng(2), set()
    for _ in range(6):
        for item in items:
            changed, exchange = ask(item, rng)
            if "verdicts" not in exchange.answer:
                continue
            claims = json.loads(exchange.question.user.split("\n")[1])
            claimed = [claim["explanation"] for claim in claims]
            scores = read_verdicts(exchange.answer, [draw_claim() for _ in claims])
            true = {found.explanation for found in changed.found}
            assert [score is not None for score in scores] == [text in true for text in claimed]
            seen |= {score is not None for score in scores}
    assert seen == {True, False}


def draw_claim():
    return Claim(category=Category.SHAPE, severity=0.0, score=1.0)


def test_a_caption_that_asks_for_something_else_is_a_flaw_of_the_thing():
    rng, changes, seen = np.random.default_rng(3), 0, 0
    for _ in range(60):
        item = draw(rng, clean_share=1.0)
        changed = unlike(item, rng)
        assert np.array_equal(item.image, changed.image)
        if changed.caption == item.caption:
            continue
        changes += 1
        (region,), (mask,) = changed.found, changed.masks
        old, new = parse_caption(item.caption), parse_caption(changed.caption)
        (index,) = [n for n, pair in enumerate(zip(old.things, new.things, strict=True)) if pair[0] != pair[1]]
        assert region.box == box_of(mask)
        assert region.name.endswith(f"the {old.things[index].colour} {old.things[index].kind}")
        assert new.things[index].phrase in region.reasoning
        assert changed.kinds == (UNSEEN,)
        if changes <= 8:
            picture = Image.fromarray(item.image)
            assert inspect(picture, item.caption).count == 0
            seen += inspect(picture, changed.caption).count > 0
    assert changes > 50
    assert seen >= 7, "the referee misses only the mood of a small mouth"


def test_false_claims_are_of_what_is_right(items):
    rng, claims = np.random.default_rng(4), 0
    for item in items:
        claim = false_claim(item, rng)
        if claim is not None:
            claims += 1
            x0, y0, x1, y1 = claim.box
            assert not item.masks.any(axis=0)[y0:y1, x0:x1].all()
            assert claim.explanation not in {found.explanation for found in item.found}
    assert claims > 15


def test_places_are_where_the_parts_are(items):
    rng, whole, parts = np.random.default_rng(6), 0, 0
    for item in items:
        places = dict(places_of(item, rng))
        for name, box in places.items():
            part, _, thing = name.rpartition(" of ")
            colour, kind = thing.split()[-2:]
            assert f"{colour} {kind}" in item.caption
            x0, y0, x1, y1 = box
            shown = {
                PART_NAMES[label - 1] for label in np.unique(item.parts[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2]) if label
            }
            if part:
                assert f"{kind}: {part.removeprefix('the ')}" in shown
            whole, parts = whole + (not part), parts + bool(part)
    assert min(whole, parts) > 10


def test_every_pixel_has_the_colour_that_the_caption_says(items):
    changed = unlike(next(item for item in items if not item.found), np.random.default_rng(7))
    assert changed.kinds == (UNSEEN,)
    assert not hues_of(changed).any()
    for item in items:
        hues, scene = hues_of(item), parse_caption(item.caption)
        assert {HUES[hue - 1] for hue in hues[item.parts == 0]} == {scene.background}
        for label in np.unique(item.parts[item.parts > 0]):
            kind = PART_NAMES[label - 1].partition(": ")[0]
            colours = {thing.colour for thing in scene.things if thing.kind == kind}
            assert {HUES[hue - 1] for hue in hues[item.parts == label]} == colours


def test_a_shard_gives_back_what_was_drawn(shards):
    album = Album(shards, shard=8)
    album.grow(2)
    assert len(album) == 16
    for number in range(2):
        rng = np.random.default_rng(album.seed + number)
        for place in range(8):
            wanted, item = draw(rng), album[8 * number + place]
            assert (wanted.caption, wanted.found, wanted.kinds) == (item.caption, item.found, item.kinds)
            for name in ("image", "masks", "parts"):
                assert np.array_equal(getattr(wanted, name), getattr(item, name))


def test_batches_depend_on_seed_stage_and_step_alone(shards, tmp_path):
    setting, _ = start(shards, tmp_path)
    first = setting.batch(1, Draw(3))
    setting.batch(1, Draw(4))
    for one, other in zip(first, setting.batch(1, Draw(3)), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.pixels, setting.batch(0, Draw(3)).pixels)


def test_captions_are_learnt_only_where_they_are_true(tokenizer, items):
    rng = np.random.default_rng(5)
    asked = [ask(item, rng) for item in items * 3]
    batch = collate(asked, tokenizer, TOY.tokens)
    shown = located = 0
    for row, (item, exchange) in enumerate(asked):
        caption = tokenizer.decode(batch.captions[row][batch.captions[row] >= 0])
        assert caption in ("", item.caption)
        assert not caption or (UNSEEN not in item.kinds and item.caption in exchange.question.user)
        shown += bool(caption)
        answer = tokenizer.decode(batch.labels[row][batch.labels[row] >= 0], skip_special_tokens=True)
        if exchange.boxes_only:
            boxes = [region["bbox_2d"] for region in json.loads(exchange.answer)["regions"]]
            assert json.loads(f"[[{answer.replace(']', '],[')}]]")[:-1] == boxes
        else:
            assert answer == exchange.answer
        located += exchange.boxes_only
    assert shown > 20
    assert located > 5
    assert len(batch.masks) == len(batch.rows) == len(batch.kinds)
    assert batch.kinds.max() < len(KIND_NAMES)


def test_a_coordinate_may_be_a_little_beside(shards, tmp_path):
    setting, trainee = start(shards, tmp_path)
    sums = trainee.targets.sum(1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    ten, eleven, word = setting.tokenizer.convert_tokens_to_ids(["104, ", "115, ", " red"])
    assert 0 < trainee.targets[ten, eleven] < trainee.targets[ten, ten] < 1
    assert trainee.targets[word, word] == 1
    assert {"104, ", "115, "} < set(coordinates(", "))


def test_a_resumed_run_equals_a_straight_one(shards, tmp_path):
    setting, straight = start(shards, tmp_path / "straight")
    run_stage(setting, straight, 0)
    run_stage(setting, straight, 1)
    setting, first = start(shards, tmp_path / "broken")
    run_stage(setting, first, 0)
    batches = setting.batch
    object.__setattr__(setting, "batch", lambda stage, part: batches(stage, part) if part.step < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_stage(setting, first, 1)
    setting, resumed = start(shards, tmp_path / "broken")
    run_stage(setting, resumed, 1)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_one_batch_can_be_learnt(shards, tmp_path):
    setting, trainee = start(shards, tmp_path)
    batch = setting.batch(1, Draw(0))
    optimiser = torch.optim.AdamW(trainee.parameters(), lr=5e-3)
    history = []
    for _ in range(40):
        losses = trainee.losses(batch, RECIPE.weights)
        assert all(torch.isfinite(loss) for loss in losses.values())
        history.append({name: loss.item() for name, loss in losses.items()})
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    for name in ("answer", "flaws", "parts"):
        assert history[-1][name] < 0.7 * history[0][name], name


def test_an_exported_folder_is_a_detector(shards, tmp_path, items):
    setting, trainee = start(shards, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainee.model.state_dict().items()}
    export(setting, trainee, tmp_path / "out", torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainee.model.state_dict().items())
    chat = LocalChat.from_pretrained(tmp_path / "out", device="cpu", max_tokens=4)
    loaded = chat.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in before.items())
    detector = load_vlm(tmp_path / "out", device="cpu", grounder="box")
    detector.backend = chat
    with pytest.raises(UnreadableOutputError):
        detector(Image.fromarray(items[0].image), items[0].caption)


def test_a_tower_begins_with_clips(shards, tmp_path, items):
    _, trainee = start(shards, tmp_path)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=96, patch_size=24
    )  # fmt: skip
    torch.manual_seed(2)
    tower = CLIPVisionModel(config).eval()
    pixels = to_tensor(np.stack([item.image for item in items[:8]]))
    copy_tower(trainee.model, tower, pixels)
    visual = trainee.model.model.visual
    assert torch.equal(visual.blocks[1].mlp.linear_fc1.weight, tower.encoder.layers[1].mlp.fc1.weight)
    assert torch.equal(visual.blocks[0].attn.qkv.bias[16:32], tower.encoder.layers[0].self_attn.k_proj.bias)
    with torch.no_grad():
        wanted = tower.pre_layrnorm(tower.embeddings(pixels))[:, 1:]
        rows = in_rows(visual.patch_embed(patches_of(pixels, TOY)), 8, TOY)
        blocks = in_rows(torch.arange(16.0).repeat(8).view(-1, 1), 8, TOY)
        assert sorted(blocks[0].flatten().tolist()) == list(range(16))
        ours = rows + visual.pos_embed.weight
    assert torch.corrcoef(torch.stack([ours.flatten(), wanted.flatten()]))[0, 1] > 0.8


def test_scores_of_answers_with_known_errors(items):
    flawed = [item for item in items if item.found]
    clean = [item for item in items if not item.found]

    def answer(item, move=0):
        masks = np.roll(item.masks, move, axis=2)
        regions = [
            Region(mask=mask, box=box_of(mask), name="x", category=found.category)
            for found, mask in zip(item.found, masks, strict=True)
        ]
        return Analysis(size=FRAME, regions=tuple(regions), detector="x")

    right = score(flawed + clean, [answer(item) for item in flawed + clean])
    assert (right["found"], right["right_category"], right["pixel_f1"], right["clean_claimed"]) == (1, 1, 1, 0)
    half = score(flawed + clean, [answer(item) for item in flawed] + [answer(flawed[0])] * len(clean))
    assert half["clean_claimed"] == 1
    assert score(flawed, [answer(item, 48) for item in flawed])["found"] < 0.3
    none = score(flawed + clean, [None] * len(items))
    assert none["unreadable"] == 1
    assert "found" not in none


def test_no_answer_names_more_than_its_limit(items):
    assert max(len(item.found) for item in items) <= MOST_REGIONS
