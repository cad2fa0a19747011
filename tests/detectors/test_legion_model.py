"""A tiny LEGION network and its folders: the original names of weights, round trips, and the shift of [SEG] states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    SamImageProcessor,
)

from refiner.detectors.legion.conversion import convert_state_dict, rename_key
from refiner.detectors.legion.decoding import Lookup
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.modeling import LegionConfig, LegionModel
from refiner.errors import UnreadableOutputError, WeightsError

WORDS = 40
TEXT, TOWER, SAM, OUT = 16, 12, 16, 32


def attention(prefix: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes |= {f"{prefix}.{name}.weight": (inner, width), f"{prefix}.{name}.bias": (inner,)}
    return shapes | {f"{prefix}.out_proj.weight": (width, inner), f"{prefix}.out_proj.bias": (width,)}


def affine(prefix: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.weight": shape, f"{prefix}.bias": (shape[0],)}


def llama_layout() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, TEXT),
        "model.norm.weight": (TEXT,),
        "lm_head.weight": (WORDS, TEXT),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (4,),
        "model.layers.0.input_layernorm.weight": (TEXT,),
        "model.layers.0.post_attention_layernorm.weight": (TEXT,),
        "model.layers.0.mlp.gate_proj.weight": (24, TEXT),
        "model.layers.0.mlp.up_proj.weight": (24, TEXT),
        "model.layers.0.mlp.down_proj.weight": (TEXT, 24),
        "model.region_encoder.mlvl_fuse.input_conv.0.weight": (2, 2),
    }
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        shapes[f"model.layers.0.self_attn.{name}.weight"] = (TEXT, TEXT)
    shapes |= affine("model.mm_projector.0", TEXT, TOWER) | affine("model.mm_projector.2", TEXT, TEXT)
    return shapes | affine("model.text_hidden_fcs.0.0", TEXT, TEXT) | affine("model.text_hidden_fcs.0.2", OUT, TEXT)


def sam_encoder_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes = {f"{root}.pos_embed": (1, 4, 4, SAM)} | affine(f"{root}.patch_embed.proj", SAM, 3, 8, 8)
    for index, reach in enumerate((2, 4)):
        block = f"{root}.blocks.{index}"
        shapes |= affine(f"{block}.norm1", SAM) | affine(f"{block}.norm2", SAM)
        shapes |= affine(f"{block}.attn.qkv", 3 * SAM, SAM) | affine(f"{block}.attn.proj", SAM, SAM)
        shapes |= {f"{block}.attn.rel_pos_h": (2 * reach - 1, 8), f"{block}.attn.rel_pos_w": (2 * reach - 1, 8)}
        shapes |= affine(f"{block}.mlp.lin1", 20, SAM) | affine(f"{block}.mlp.lin2", SAM, 20)
    shapes |= {f"{root}.neck.0.weight": (OUT, SAM, 1, 1), f"{root}.neck.2.weight": (OUT, OUT, 3, 3)}
    return shapes | affine(f"{root}.neck.1", OUT) | affine(f"{root}.neck.3", OUT)


def sam_prompt_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{root}.pe_layer.positional_encoding_gaussian_matrix": (2, OUT // 2)}
    shapes |= {f"{root}.point_embeddings.{index}.weight": (1, OUT) for index in range(4)}
    shapes |= {f"{root}.{name}.weight": (1, OUT) for name in ("not_a_point_embed", "no_mask_embed")}
    down = f"{root}.mask_downscaling"
    shapes |= affine(f"{down}.0", 4, 1, 2, 2) | affine(f"{down}.1", 4) | affine(f"{down}.3", 16, 4, 2, 2)
    return shapes | affine(f"{down}.4", 16) | affine(f"{down}.6", OUT, 16, 1, 1)


def sam_decoder_layout(root: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{root}.iou_token.weight": (1, OUT), f"{root}.mask_tokens.weight": (4, OUT)}
    for index in range(2):
        layer = f"{root}.transformer.layers.{index}"
        shapes |= attention(f"{layer}.self_attn", OUT, OUT)
        shapes |= attention(f"{layer}.cross_attn_token_to_image", OUT, OUT // 2)
        shapes |= attention(f"{layer}.cross_attn_image_to_token", OUT, OUT // 2)
        shapes |= affine(f"{layer}.mlp.lin1", 20, OUT) | affine(f"{layer}.mlp.lin2", OUT, 20)
        for norm in range(1, 5):
            shapes |= affine(f"{layer}.norm{norm}", OUT)
    shapes |= attention(f"{root}.transformer.final_attn_token_to_image", OUT, OUT // 2)
    shapes |= affine(f"{root}.transformer.norm_final_attn", OUT)
    up = f"{root}.output_upscaling"
    shapes |= {f"{up}.0.weight": (OUT, OUT // 4, 2, 2), f"{up}.0.bias": (OUT // 4,)} | affine(f"{up}.1", OUT // 4)
    shapes |= {f"{up}.3.weight": (OUT // 4, OUT // 8, 2, 2), f"{up}.3.bias": (OUT // 8,)}
    for head in range(4):
        mlp = f"{root}.output_hypernetworks_mlps.{head}.layers"
        shapes |= affine(f"{mlp}.0", OUT, OUT) | affine(f"{mlp}.1", OUT, OUT) | affine(f"{mlp}.2", OUT // 8, OUT)
    iou = f"{root}.iou_prediction_head.layers"
    return shapes | affine(f"{iou}.0", 12, OUT) | affine(f"{iou}.1", 12, 12) | affine(f"{iou}.2", 4, 12)


def original_layout() -> dict[str, Tensor]:
    """A tiny checkpoint with the names of weights of the public LEGION folder."""
    root = "model.grounding_encoder"
    shapes = llama_layout() | sam_encoder_layout(f"{root}.image_encoder")
    shapes |= sam_prompt_layout(f"{root}.prompt_encoder") | sam_decoder_layout(f"{root}.mask_decoder")
    generator = torch.Generator().manual_seed(0)
    return {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def save_original(folder: Path, state: dict[str, Tensor]) -> None:
    """A folder with weights in two shards, the tokenizer, and the CLIP tower."""
    folder.mkdir(parents=True)
    names = sorted(state)
    for index, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: state[name] for name in part}, folder / f"pytorch_model-0000{index}-of-00002.bin")
    flat = {
        "model_type": "llava",
        "hidden_size": TEXT,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": WORDS,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mm_vision_tower": "somewhere/else",
        "mm_vision_select_layer": -2,
        "out_dim": OUT,
    }
    (folder / "config.json").write_text(json.dumps(flat))
    plain = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(WORDS - 10))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(plain)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    fast.save_pretrained(folder / "tokenizer")
    for path in (folder / "tokenizer").iterdir():
        path.rename(folder / path.name)
    tower = CLIPVisionConfig(
        hidden_size=TOWER,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=8,
    )
    torch.manual_seed(1)
    CLIPVisionModel(tower).save_pretrained(folder / "vision_tower")
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(folder / "vision_tower")


def test_every_original_key_has_one_name_of_ours_or_none() -> None:
    state = original_layout()
    names = [name for key in state if (name := rename_key(key))]
    assert len(names) == len(set(names)) == len(state) - 2
    head = {"prediction_head.0.weight": "prediction_head.0.weight"}
    tower = {"model.vision_tower.vision_tower.vision_model.x.y": "llava.model.vision_tower.x.y"}
    for key, name in (head | tower).items():
        assert rename_key(key) == name
    with pytest.raises(WeightsError, match="bert"):
        rename_key("bert.encoder.weight")


def test_the_image_token_gets_a_row_at_the_end() -> None:
    state = original_layout()
    converted = convert_state_dict(state)
    head = converted["llava.lm_head.weight"]
    assert head.shape == (WORDS + 1, TEXT)
    assert torch.equal(head[:-1], state["lm_head.weight"])
    assert not head[-1].any()


def test_an_original_folder_loads_whole_and_saves_as_ours(tmp_path: Path) -> None:
    state = original_layout()
    save_original(tmp_path / "original", state)
    detector = LegionDetector.from_pretrained(tmp_path / "original", device="cpu")
    own = detector.model.state_dict()
    for key, tensor in state.items():
        if (name := rename_key(key)) and name not in (
            "llava.lm_head.weight",
            "llava.model.language_model.embed_tokens.weight",
        ):
            assert torch.equal(own[name], tensor), key
    assert detector.model.prediction_head is None
    assert detector.model.llava.config.vision_feature_layer == -2
    assert detector.tokenizer.convert_tokens_to_ids("<image>") == WORDS
    detector.save_pretrained(tmp_path / "ours")
    again = LegionDetector.from_pretrained(tmp_path / "ours", device="cpu")
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(own[name], tensor), name
    assert raw_answer(detector) == raw_answer(again)


def raw_answer(detector: LegionDetector) -> str:
    """Answers of untrained weights are unreadable, and never count as clean."""
    detector.model.config.max_new_tokens = 12
    with pytest.raises(UnreadableOutputError) as caught:
        detector(Image.new("RGB", (40, 24), (200, 30, 30)))
    return caught.value.raw


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.grounding_encoder.mask_decoder.iou_token.weight"])
def test_an_original_folder_that_lacks_a_weight_is_refused(tmp_path: Path, lost: str) -> None:
    state = original_layout()
    state.pop(lost)
    save_original(tmp_path / "original", state)
    with pytest.raises((WeightsError, KeyError)):
        LegionDetector.from_pretrained(tmp_path / "original", device="cpu")


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
