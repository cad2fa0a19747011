"""A tiny LEGION network: the original names of weights, decoding, and the shift of [SEG] states."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from support.legion_folders import WORDS as PUBLISHED_WORDS
from support.legion_folders import original_state
from transformers import SamImageProcessor

from refiner.detectors.legion.conversion import convert_state_dict, rename_key
from refiner.detectors.legion.decoding import Lookup
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.errors import WeightsError

WORDS = 40
TEXT, TOWER, SAM, OUT = 16, 12, 16, 32


def test_every_original_key_has_one_name_of_ours_or_none() -> None:
    state = original_state()
    names = [name for key in state if (name := rename_key(key))]
    assert len(names) == len(set(names)) == len(state) - 2
    head = {"prediction_head.0.weight": "prediction_head.0.weight"}
    tower = {"model.vision_tower.vision_tower.vision_model.x.y": "llava.model.vision_tower.x.y"}
    for key, name in (head | tower).items():
        assert rename_key(key) == name
    with pytest.raises(WeightsError, match="bert"):
        rename_key("bert.encoder.weight")


def test_the_image_token_gets_a_row_at_the_end() -> None:
    state = original_state()
    converted = convert_state_dict(state)
    head = converted["llava.lm_head.weight"]
    assert len(head) == PUBLISHED_WORDS + 1
    assert torch.equal(head[:-1], state["lm_head.weight"])
    assert not head[-1].any()


def toy_model() -> LegionModel:
    torch.manual_seed(3)
    sides = {"image_size": 32, "patch_size": 8}
    config = LegionConfig(
        llava={
            "text_config": {
                "model_type": "llama",
                "hidden_size": TEXT,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": WORDS,
                "eos_token_id": 2,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": TOWER,
                "intermediate_size": 20,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                **sides,
            },
            "image_token_index": 9,
            "image_seq_length": 16,
        },
        sam={
            "vision_config": {
                "hidden_size": SAM,
                "output_channels": OUT,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "window_size": 2,
                "global_attn_indexes": [1],
                "num_pos_feats": OUT // 2,
                "initializer_range": 0.2,
                **sides,
            },
            "prompt_encoder_config": {"hidden_size": OUT, **sides},
            "mask_decoder_config": {"hidden_size": OUT, "mlp_dim": 20, "iou_head_hidden_dim": 12},
        },
        verdict_width=10,
        seg_token_id=6,
        max_new_tokens=8,
    )
    return LegionModel(config).eval()


def test_a_mask_is_asked_for_by_the_state_before_its_token() -> None:
    model = toy_model()
    prompt = torch.tensor([1, *[9] * 16, 5, 4])
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        answer = model.answer(prompt, model.encode_image(pixels))
        tokens = torch.full((2, 1), 6)
        output = model(torch.cat([prompt.expand(2, -1), tokens], 1), pixels, pixels)
        ground = model.encode_ground(pixels)
        expected, next_one = (model.decode_masks(ground, answer.states[:, place]) for place in (0, 1))
        nothing = model.decode_masks(ground[:0], answer.states[:0, 0])
    assert torch.allclose(output.mask_logits, expected, atol=1e-5)
    assert not torch.allclose(output.mask_logits, next_one, atol=1e-6)
    assert nothing.shape == (0, *expected.shape[1:])


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    model = toy_model()
    prompt = torch.tensor([1, *[9] * 16, 5])
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        together = model.answer(prompt, model.encode_image(pixels))
        for row in range(3):
            alone = model.answer(prompt, model.encode_image(pixels[row : row + 1]))
            length = alone.tokens.shape[1]
            assert torch.equal(alone.tokens[0], together.tokens[row, :length])
            assert torch.allclose(alone.states[0], together.states[row, :length], atol=1e-5)


@pytest.mark.parametrize("examples", [5, "text", [7], {"a": 1}, [["text"]]])
def test_examples_that_are_no_texts_are_refused(examples: object) -> None:
    with pytest.raises(ValueError, match="Expected a list of texts"):
        LegionConfig(examples=examples)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3])
def test_guesses_change_nothing_but_the_number_of_passes(count: int) -> None:
    """Right, partly right, wrong and very long guesses, for one answer and for several answers together."""
    model = toy_model()
    model.config.max_new_tokens = 24
    prompt = torch.tensor([1, *[9] * 16, 5])
    passes: list[int] = []
    model.llava.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        vision = model.encode_image(torch.randn(count, 3, 32, 32))
        plain = model.answer(prompt, vision, [40, 41])
        unguided = len(passes)
        own = plain.tokens.tolist()
        half = [[*row[:7], 3, *row[7:]] for row in own]
        for known, fewer in ((own, True), (half, True), ([[7, 8] * 40], False), ([[]], False)):
            passes.clear()
            answer = model.answer(prompt, vision, [40, 41], Lookup(known))
            assert torch.equal(answer.tokens, plain.tokens)
            assert torch.allclose(answer.states, plain.states, atol=1e-5)
            assert torch.allclose(answer.chances, plain.chances, atol=1e-5)
            assert len(passes) < unguided if fewer else len(passes) <= answer.tokens.shape[1]


def test_greedy_decoding_by_hand_says_the_same() -> None:
    """Decode token by token with the whole network, without a cache or guesses."""
    model = toy_model()
    prompt = torch.tensor([1, *[9] * 16, 5])
    with torch.no_grad():
        pixels = torch.randn(1, 3, 32, 32)
        vision = model.encode_image(pixels)
        answer = model.answer(prompt, vision)
        ids = prompt[None]
        for token in answer.tokens[0].tolist():
            logits = model(ids, pixels, pixels).logits[0, -1]
            logits[9] = -torch.inf
            assert int(logits.argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_the_word_for_clean_is_taken_where_it_is_likely_enough_and_only_there() -> None:
    """The rule works for any word. First the greedy word is below the threshold, then another word is above it."""
    model = toy_model()
    prompt = torch.tensor([1, *[9] * 16, 5])
    with torch.no_grad():
        vision = model.encode_image(torch.randn(1, 3, 32, 32))
        plain = model.answer(prompt, vision)
        word, chance = int(plain.tokens[0, 1]), float(plain.chances[0, 1])
        assert chance < 0.5
        lead = int(plain.tokens[0, 0])
        reluctant = model.answer(prompt, vision, [lead, word])
        assert reluctant.tokens[0, 0] == lead
        assert reluctant.tokens[0, 1] != word
        elsewhere = model.answer(prompt, vision, [lead + 1, word])
        assert torch.equal(elsewhere.tokens, plain.tokens)
        other = int(plain.tokens[0, 1]) - 1
        model.config.clean_threshold = 0.0
        assert model.answer(prompt, vision, [lead, other]).tokens[0, 1] == other
        model.config.clean_threshold = 0.5
        model.llava.lm_head.weight *= 1e5  # now the model is confident
        sure = model.answer(prompt, vision)
        assert sure.chances[0, 1] > 0.5
        begun = sure.tokens[0, :2].tolist()
        assert torch.equal(model.answer(prompt, vision, begun).tokens, sure.tokens)


def test_masks_follow_sams_resize_and_pad() -> None:
    """A mask that fills SAM's padded square fills exactly the image, at the image's resolution."""
    processor = SamImageProcessor(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32})
    inputs = processor([Image.new("RGB", (80, 40))], return_tensors="pt")
    logits = torch.full((1, 1, 16, 16), -1.0)
    logits[..., :8, :8] = 1.0
    (mask,) = processor.post_process_masks([logits], inputs["original_sizes"], inputs["reshaped_input_sizes"])
    assert mask.shape == (1, 1, 40, 80)
    assert mask[0, 0, :, :36].all()
    assert not mask[0, 0, :, 44:].any()
