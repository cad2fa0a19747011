"""Greedy decoding with guessed tokens: prompt lookup decoding (Saxena, 2023) for a batch whose rows share the prompt.

The guess is the text that followed the last few tokens earlier: in the answer so far, or in known answers. It runs
through the network in one pass, and is kept up to the first token that differs from greedy decoding. So the tokens are
those of greedy decoding, with fewer passes.

Legend for shapes: B rows, T tokens of the longest answer, D width of the language model, V vocabulary, W tokens that go
through the network in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration

_CONTEXT = 3
"""Maximum number of last tokens that are searched in earlier text; a longer match gives a better guess."""
_GUESSED = 16
"""Maximum number of tokens in a guess."""
_START = -1
"""Marker before the first token of an answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of greedy decoding; values after the end token of a row have no meaning."""

    tokens: Tensor
    """Int (B, T)."""
    states: Tensor
    """Float (B, T, D): the hidden state that predicted each token; for a [SEG] token, the mask decoder uses it."""
    chances: Tensor
    """Float (B, T): probability of each token."""


@dataclass(frozen=True, kw_only=True)
class CleanRule:
    """Decides when an answer says that the image is clean.

    There is one sentence for a clean image, but a list of flaws can begin in many ways. Each of these may be less
    probable than the clean sentence, although a list is more probable in total. So the last of ``tokens`` is chosen if
    and only if its probability is at least ``threshold``.
    """

    tokens: Sequence[int] = ()
    """Tokens of the clean sentence, up to the first one in which the beginning of a list differs; empty: no rule."""
    threshold: float = 1.0
    """Minimum probability, in [0, 1]."""

    def token(self, so_far: Sequence[int], probability: Tensor, greedy: int) -> int:
        """Choose the next token after ``so_far``; ``probability`` is float (V,), ``greedy`` the most probable token."""
        if len(so_far) + 1 != len(self.tokens) or [*so_far] != [*self.tokens[:-1]]:
            return greedy
        clean = self.tokens[-1]
        if probability[clean] >= self.threshold:
            return clean
        return int(probability.index_fill(0, torch.tensor([clean], device=probability.device), -1).argmax())


class Lookup:
    """An index of texts: returns the tokens that followed the last occurrence of given tokens."""

    def __init__(self, texts: Sequence[Sequence[int]] = ()) -> None:
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        for text in texts:
            self.extend([_START, *text])

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            place = len(self._tokens)
            for length in range(1, min(_CONTEXT, place) + 1):
                self._next[tuple(self._tokens[place - length :])] = place
            self._tokens.append(token)

    def after(self, ending: Sequence[int]) -> list[int]:
        """Return the tokens after the last occurrence of ``ending``; empty if it did not occur."""
        start = self._next.get(tuple(ending), len(self._tokens))
        guess = self._tokens[start : start + _GUESSED]
        return guess[: guess.index(_START)] if _START in guess else guess


@dataclass(eq=False)
class _Row:
    """One answer during decoding; it ends with the token ``end`` or at ``most`` tokens."""

    known: Lookup
    rule: CleanRule
    end: int
    most: int
    own: Lookup = field(default_factory=lambda: Lookup([[]]))
    """The answer so far."""
    tokens: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    chances: list[Tensor] = field(default_factory=list)
    ended: bool = False

    def guess(self) -> list[int]:
        if self.ended:
            return []
        text = [_START, *self.tokens]
        for length in range(min(_CONTEXT, len(text)), 0, -1):
            if found := self.own.after(text[-length:]) or self.known.after(text[-length:]):
                return found
        return []

    def take(self, guess: Sequence[int], state: Tensor, probability: Tensor) -> int:
        """Append the tokens that one pass over ``guess`` decides, the correct guesses and one more; return how many.

        ``state``, float (W, D), holds the hidden states after the token before the guess and after each guessed token;
        ``probability``, float (W, V), that of the next token at the same places.
        """
        greedy, taken = probability.argmax(-1).tolist(), 0
        while not self.ended:
            token = self.rule.token(self.tokens, probability[taken], greedy[taken])
            self.tokens.append(token)
            self.chances.append(probability[taken, token])
            taken += 1
            self.ended = token == self.end or len(self.tokens) == self.most
            if taken > len(guess) or guess[taken - 1] != token:
                break
        self.own.extend(self.tokens[len(self.tokens) - taken :])
        self.states.append(state[:taken])
        return taken


class Decoder:
    """Decodes the answers to one prompt about several images.

    Args:
        llava: the model; it must not write the image token.
        prompt: embeddings, float (B, L, D).
        known: earlier answers, from which tokens are guessed.
        rule: for the sentence of a clean image.
        most: longest answer, in tokens.
    """

    def __init__(
        self, llava: LlavaForConditionalGeneration, prompt: Tensor, known: Lookup, rule: CleanRule, most: int
    ) -> None:
        self._llava, self._pending = llava, prompt
        self._cache = DynamicCache(config=llava.config.text_config)
        self._rows = [_Row(known, rule, llava.config.text_config.eos_token_id, most) for _ in prompt]
        self._seen = torch.ones(len(prompt), 0, dtype=torch.long, device=prompt.device)

    def write(self) -> Answer:
        """Decode all answers."""
        while not all(row.ended for row in self._rows):
            self._step()
        length = max(len(row.tokens) for row in self._rows)
        device = self._pending.device
        answer = Answer(
            tokens=torch.full((len(self._rows), length), self._rows[0].end, device=device),
            states=self._pending.new_zeros(len(self._rows), length, self._pending.shape[-1]),
            chances=torch.ones(len(self._rows), length, device=device),
        )
        for number, row in enumerate(self._rows):
            answer.tokens[number, : len(row.tokens)] = torch.tensor(row.tokens, device=device)
            answer.states[number, : len(row.tokens)] = torch.cat(row.states)
            answer.chances[number, : len(row.tokens)] = torch.stack(row.chances)
        return answer

    def _step(self) -> None:
        guesses = [row.guess() for row in self._rows]
        state = self._pass(guesses)
        logits = self._llava.lm_head(state).float()
        logits[..., self._llava.config.image_token_index] = -torch.inf
        probability = logits.softmax(-1)
        taken = [
            row.take(guess, state[number], probability[number])
            for number, (row, guess) in enumerate(zip(self._rows, guesses, strict=True))
        ]
        self._forget([max(count - 1, 0) for count in taken], state.shape[1] - 1)
        last = torch.tensor([[row.tokens[-1]] for row in self._rows], device=state.device)
        self._pending = self._llava.get_input_embeddings()(last)

    def _pass(self, guesses: Sequence[Sequence[int]]) -> Tensor:
        """Run the pending and the guessed tokens; returns the states after them, float (B, 1 + longest guess, D)."""
        longest, device = max(map(len, guesses)), self._seen.device
        padded = torch.tensor([[*guess, *[0] * (longest - len(guess))] for guess in guesses], device=device)
        guessed = self._llava.get_input_embeddings()(padded.long())
        embeds = torch.cat([self._pending, guessed.to(self._pending.dtype)], dim=1)
        first = self._seen.sum(1, keepdim=True)
        self._seen = torch.cat([self._seen, self._seen.new_ones(embeds.shape[:2])], dim=1)
        hidden = self._llava.model.language_model(
            inputs_embeds=embeds,
            attention_mask=self._mask(embeds.shape[1], embeds.dtype),
            position_ids=first + torch.arange(embeds.shape[1], device=device),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        states: Tensor = hidden[:, -1 - longest :]
        return states

    def _forget(self, right: Sequence[int], guessed: int) -> None:
        """Remove the tokens after the first ``right`` guesses of all rows from the cache; mask those of some rows."""
        if wrong := guessed - max(right):
            self._cache.crop(-wrong)
        length = self._seen.shape[1] - wrong
        self._seen = self._seen[:, :length]
        for number, count in enumerate(right):
            self._seen[number, length - max(right) + count :] = 0

    def _mask(self, width: int, dtype: torch.dtype) -> Tensor:
        """Make the additive attention mask of the last ``width`` tokens: (B, 1, width, cached tokens and these)."""
        seen = self._seen[:, None, None, :].bool()
        later = torch.ones(width, seen.shape[-1], dtype=torch.bool, device=seen.device).triu(seen.shape[-1] - width + 1)
        return torch.zeros(seen.shape[0], 1, *later.shape, dtype=dtype, device=seen.device).masked_fill(
            ~seen | later, torch.finfo(dtype).min
        )
