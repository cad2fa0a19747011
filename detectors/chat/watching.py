"""The probabilities of a few words at one place of an answer that a model on this machine writes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from refiner.detectors.chat.choices import Choice

_GAPS = ("", " ", "\n")
"""White space that may stand before the word."""


class _Split(NamedTuple):
    """Where the tokens of the words part, for one kind of white space before them."""

    lead: str
    """The text of the tokens that all words share."""
    tokens: tuple[int, ...]
    """The next token of each word."""


class Watch:
    """Notes the scores of a few tokens in each step of a generation, for the probabilities of a ``Choice``.

    The words are encoded together with the text before them, because tokenizers may join its end with a word. The
    tokens of interest are the first ones in which the words differ. Only their scores are kept, not those of the whole
    vocabulary. The scores are the model's own, without the penalties and bans of its generation settings.

    Args:
        choice: the place and the words.
        tokenizer: of the model.
    """

    def __init__(self, choice: Choice, tokenizer: PreTrainedTokenizerBase) -> None:
        self._choice, self._tokenizer = choice, tokenizer
        self._splits = {gap: split for gap in _GAPS if (split := self._split(gap))}
        self._watched = sorted({token for split in self._splits.values() for token in split.tokens})
        self._steps: list[Tensor] = []

    @contextmanager
    def on(self, model: Any, rows: int) -> Iterator[None]:
        """Note the scores while a model generates answers to ``rows`` requests, one row of its output for each."""

        def note(_module: Any, _inputs: Any, output: Any) -> None:
            if len(output.logits) == rows:
                self._steps.append(output.logits[:, -1, watched].float())

        watched = torch.tensor(self._watched, dtype=torch.long, device=model.device)
        hook = model.register_forward_hook(note)
        try:
            yield
        finally:
            hook.remove()

    def shares(self, row: int, tokens: Sequence[int]) -> tuple[float, ...] | None:
        """Compute the probabilities of the words in an answer.

        Args:
            row: of the model's output.
            tokens: of the answer.

        Returns:
            For each word, in order, its share of the sum of their probabilities, in [0, 1]. None if the place is not in
            the answer, the words do not differ in one token, or a token of the answer spans the place.
        """
        said = self._text(tokens)
        start = said.find(self._choice.after)
        rest = said[start + len(self._choice.after) :]
        split = self._splits.get(rest[: len(rest) - len(rest.lstrip())])
        if start < 0 or split is None or not said.startswith(split.lead, start):
            return None
        end = start + len(split.lead)
        step = bisect_left(range(len(tokens) + 1), end, key=lambda count: len(self._text(tokens[:count])))
        if self._text(tokens[:step]) != said[:end] or step >= len(self._steps):
            return None
        scores = self._steps[step][row, [self._watched.index(token) for token in split.tokens]]
        return tuple(scores.softmax(0).tolist())

    def _split(self, gap: str) -> _Split | None:
        before = f"{self._choice.after}{gap}"
        rows = [self._tokenizer.encode(f"{before}{word}", add_special_tokens=False) for word in self._choice.words]
        columns = enumerate(zip(*rows, strict=False))
        parting = next((place for place, column in columns if len(set(column)) > 1), None)
        if parting is None or len({row[parting] for row in rows}) < len(rows):
            return None
        return _Split(self._text(rows[0][:parting]), tuple(row[parting] for row in rows))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
