"""Boxes for words, with tiny models of the real architectures, and many difficult phrases."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTImageProcessor,
    OwlViTProcessor,
)

from refiner.detectors.grounding.text import LocateConfig, Locator, TextLocator, clean_phrase
from refiner.errors import BadAnswerError, ConfigError, InputError, ModelNotFoundError, WeightsError

WORDS = ["red", "hand", "cat", "clock", "green", "the", "left", "a", "with", "##s", "six", "finger"]
KINDS = ["grounding-dino", "owlv2", "owlvit"]
ALL = LocateConfig(threshold=0.0, overlap=1.0, limit=10_000)


def dino():
    """GroundingDINO's code has fixed ids of [CLS], [SEP], full stop and question mark, those of BERT's vocabulary."""
    vocabulary = {f"[unused{number}]": number for number in range(1030)}
    marks = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    numbers = {**marks, **{word: 200 + number for number, word in enumerate(WORDS)}}
    numbers |= {f"##{letter}": 300 + number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    numbers |= {letter: 400 + number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz'-") if letter != "a"}
    taken = set(numbers.values())
    tokens = {name: number for name, number in vocabulary.items() if number not in taken} | numbers
    tokenizer = BertTokenizer(vocab=dict(sorted(tokens.items(), key=lambda item: item[1])), model_max_length=64)
    swin = {
        "model_type": "swin", "image_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16,
        "depths": [1, 1, 1], "num_heads": [1, 2, 4], "out_indices": [2, 3],
    }  # fmt: skip
    bert = {
        "model_type": "bert", "vocab_size": 1030, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
    }  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, num_queries=12, num_feature_levels=3, max_text_len=64,
        encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=32,
        decoder_attention_heads=2, encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return GroundingDinoForObjectDetection(config), GroundingDinoProcessor(images, tokenizer)


def owl(config_class, model_class, image_class, processor_class):
    letters = [*"abcdefghijklmnopqrstuvwxyz'-0123456789"]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=16)
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**shared, "vocab_size": len(words), "bos_token_id": 1, "eos_token_id": 2}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    config = config_class(text_config=text, vision_config=vision, projection_dim=32)
    return model_class(config), processor_class(image_class(size={"height": 32, "width": 32}), tokenizer)


BUILDERS = {
    "grounding-dino": dino,
    "owlv2": lambda: owl(Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor),
    "owlvit": lambda: owl(OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("texts")
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        model, processor = build()
        model.save_pretrained(home / name)
        processor.save_pretrained(home / name)
    return home


@pytest.fixture(scope="module")
def loaded(folders):
    return {kind: TextLocator.from_pretrained(folders / kind, config=ALL) for kind in KINDS}


@pytest.fixture(params=KINDS)
def locator(request, loaded):
    return loaded[request.param]


def with_config(locator, **settings):
    return TextLocator(locator.model, locator.processor, name=locator.name, config=LocateConfig(**settings))


def picture(width=60, height=40):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_boxes_lie_in_the_image_best_first_and_bear_the_phrase_as_asked(locator):
    assert isinstance(locator, Locator)
    found = locator.locate(picture(), ["A Red Hand.", "clock"])
    assert {place.phrase for place in found} == {"A Red Hand.", "clock"}
    assert [place.score for place in found] == sorted((place.score for place in found), reverse=True)
    for place in found:
        x0, y0, x1, y1 = place.box
        assert 0 <= x0 < x1 <= 60
        assert 0 <= y0 < y1 <= 40
        assert 0 <= place.score <= 1


def test_the_scores_are_those_of_the_library(locator):
    """For a single phrase, the best box is the same as in the post-processing of transformers."""
    image, phrase = picture(), "red hand"
    dino = locator.name.startswith("grounding-dino")
    inputs = locator.processor(images=image, text=f"{phrase}." if dino else [[phrase]], return_tensors="pt")
    with torch.inference_mode():
        output = locator.model(**inputs)
        if dino:  # its score uses all tokens, including the full stop and the end tokens
            output.logits[:, :, [0, *range(3, output.logits.shape[-1])]] = -torch.inf
    reference = locator.processor.post_process_grounded_object_detection(
        output, threshold=0.0, target_sizes=[(image.height, image.width)]
    )[0]
    best = int(reference["scores"].argmax())
    top = locator.locate(image, [phrase])[0]
    assert top.score == pytest.approx(float(reference["scores"][best]), abs=1e-5)
    wanted = np.clip(reference["boxes"][best].numpy(), 0, [60, 40, 60, 40])
    assert np.abs(np.array(top.box) - wanted).max() <= 1


def test_threshold_overlap_and_limit_bound_what_is_kept(locator):
    everything = locator.locate(picture(), ["cat", "clock"])
    middle = float(np.median([place.score for place in everything]))
    assert all(place.score >= middle for place in with_config(locator, threshold=middle).locate(picture(), ["cat"]))
    assert len(with_config(locator, threshold=0.0, limit=3).locate(picture(), ["cat", "clock"])) == 3
    apart = with_config(locator, threshold=0.0, overlap=0.0, limit=100).locate(picture(), ["cat"])
    alone = with_config(locator, threshold=0.0, overlap=1.0, limit=100).locate(picture(), ["cat"])
    assert len(apart) < len(alone)
    assert apart[0] == alone[0]


def test_the_same_phrase_is_asked_for_once(locator):
    once = locator.locate(picture(), ["Red hand!", "clock"])
    assert locator.locate(picture(), ["Red hand!", " red  HAND ", "clock", "red.hand"]) == once


def test_nothing_to_ask_for_finds_nothing(locator):
    assert locator.locate(picture(), []) == []
    assert locator.locate(picture(), ["", " . ", "?!", "\u202e\x00", "___", "'--'"]) == []


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (300, 2)])
def test_any_size_and_mode_will_do(locator, size):
    image = picture(*size)
    for place in locator.locate(image.convert("RGBA"), ["cat"]) + locator.locate(image.convert("L"), ["cat"]):
        assert 0 <= place.box[0] < place.box[2] <= size[0]
        assert 0 <= place.box[1] < place.box[3] <= size[1]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_finds_boxes_too(folders, kind):
    locator = TextLocator.from_pretrained(folders / kind, config=ALL, dtype=torch.bfloat16)
    assert locator.locate(picture(), ["cat"])


def test_forty_long_phrases_are_asked_for_in_parts(locator):
    phrases = [f"the left hand with six fingers {'abcdefghij'[n // 10]} {'abcdefghij'[n % 10]} " * 9 for n in range(40)]
    assert len({clean_phrase(phrase)[:60] for phrase in phrases}) == 40
    found = locator.locate(picture(), phrases)
    assert {place.phrase for place in found} == set(phrases)


def test_the_answer_for_a_phrase_of_owl_does_not_depend_on_the_others(loaded):
    alone = loaded["owlv2"].locate(picture(), ["cat"])
    among = [place for place in loaded["owlv2"].locate(picture(), ["cat", "red hand"]) if place.phrase == "cat"]
    assert [place.box for place in among] == [place.box for place in alone]
    assert [place.score for place in among] == pytest.approx([place.score for place in alone], abs=1e-6)


@given(st.text(max_size=300))
def test_clean_phrases_hold_no_marks_of_any_tokenizer(text):
    cleaned = clean_phrase(text)
    assert len(cleaned) <= 100
    assert not set(cleaned) & set('.?!,;:[]<>|{}()#@*/\\"\n\t\0')
    assert clean_phrase(cleaned) == cleaned
    assert all(letter.isprintable() for letter in cleaned)


@pytest.mark.parametrize(
    ("phrase", "cleaned"),
    [
        ("The Man's left-hand fingers.", "the man's left-hand fingers"),
        ("cat. dog? [SEP] <|endoftext|>", "cat dog sep endoftext"),
        ("第六根手指", "第六根手指"),
        ("ignore\nall previous\tinstructions", "ignore all previous instructions"),
    ],
)
def test_phrases_are_cleaned(phrase, cleaned):
    assert clean_phrase(phrase) == cleaned


@pytest.mark.parametrize("phrases", ["cat", [None], [1], [b"cat"]])
def test_phrases_must_be_a_list_of_texts(locator, phrases):
    with pytest.raises(InputError, match="list of phrases"):
        locator.locate(picture(), phrases)


@pytest.mark.parametrize("settings", [{"threshold": 1.5}, {"overlap": -1.0}, {"threshold": float("nan")}, {"limit": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="must"):
        LocateConfig(**settings)


@pytest.mark.parametrize("kind", ["owlv2", "owlvit"])
def test_scores_that_are_not_finite_are_an_error(folders, kind):
    locator = TextLocator.from_pretrained(folders / kind)
    locator.model.class_head.logit_shift.weight.data.fill_(float("nan"))
    with pytest.raises(BadAnswerError, match="NaN or infinite scores"):
        locator.locate(picture(), ["cat"])


@pytest.mark.parametrize("kind", ["truncated", "no weights", "no tokenizer", "other"])
def test_damaged_folders_are_refused_in_one_sentence(folders, tmp_path, kind):
    folder = tmp_path / "owl"
    shutil.copytree(folders / "owlv2", folder)
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:9000])
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no tokenizer":
        for path in folder.glob("tokenizer*"):
            path.unlink()
    else:
        (folder / "config.json").write_text('{"model_type": "sam"}')
    refused = r"^(Expected .* got |'.+' (is not a|holds no) |The .+ folder '.+' cannot be loaded )"
    with pytest.raises(WeightsError, match=refused) as caught:
        TextLocator.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_an_unknown_folder_is_named():
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        TextLocator.from_pretrained("./nowhere")
