"""CSS with a tiny encoder: pooling by hand, and no dependence on the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from refiner.errors import ConfigError, ModelError, ModelNotFoundError, WeightsError
from refiner.metrics.css import SentenceEncoder, css_scores

WORDS = ["the", "left", "hand", "has", "six", "fingers", "cat", "clock", "a", "no"]
TEXTS = ["the left hand has six fingers", "a cat", "no clock", "the hand", "a cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(place)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=12, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(place)
    return place


def pooled_by_hand(encoder: SentenceEncoder, text: str) -> np.ndarray:
    inputs = encoder.tokenizer(text, return_tensors="pt", truncation=True, max_length=encoder.max_tokens)
    with torch.no_grad():
        mean = encoder.model(**inputs).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_vectors_are_means_of_the_last_layer_whatever_the_batch(folder):
    for batch_size in (1, 2, 64):
        encoder = SentenceEncoder.from_pretrained(folder, batch_size=batch_size)
        vectors = encoder.encode(TEXTS)
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, [pooled_by_hand(encoder, text) for text in TEXTS], atol=1e-6)


def test_figures_over_texts(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    found = css_scores(TEXTS, [TEXTS[0], "the clock", "no clock", "  ", ""], encoder)
    first, second = (pooled_by_hand(encoder, text) for text in ("a cat", "the clock"))
    wanted = [1.0, float(first @ second), 1.0, 0.0, 0.0]
    assert found["per_text"] == pytest.approx(wanted, abs=1e-6)
    assert found["css"] == pytest.approx(sum(wanted) / 5, abs=1e-6)
    assert (found["texts"], found["empty"], found["cut"]) == (5, 2, 0)
    assert f"encoder={folder.name}@" in found["signature"]
    assert css_scores([], [], encoder)["css"] == 0


def test_long_texts_are_cut_and_counted(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    long = " ".join(["hand"] * 50)
    assert encoder.max_tokens == 12
    assert css_scores([long], [long + " cat"], encoder) | {"cut": 2, "css": pytest.approx(1)} == css_scores(
        [long], [long + " cat"], encoder
    )


def test_an_encoder_that_gives_nan_is_named_with_the_text(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[encoder.tokenizer.vocab["cat"]] = float("nan")
    assert css_scores(["the hand"], ["a clock"], encoder)["texts"] == 1
    with pytest.raises(ModelError, match=r"finite.*'a cat'"):
        css_scores(["the hand", "a cat"], ["a clock", "no clock"], encoder)


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    with pytest.raises(ModelNotFoundError):
        SentenceEncoder.from_pretrained(tmp_path / "no such folder")
    for name in folder.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(WeightsError, match="download the folder again"):
        SentenceEncoder.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="max_tokens"):
        SentenceEncoder.from_pretrained(folder, max_tokens=1)
    with pytest.raises(ConfigError, match="one reference for each of 1"):
        css_scores(["a"], [], SentenceEncoder.from_pretrained(folder))
