"""Greedy decoding that guesses ahead: prompt lookup decoding (Saxena, 2023) for a batch whose rows share the prompt.

What followed the last few tokens before, in the answer so far or in answers like it, goes through the network as a
guess, and is kept as far as greedy decoding says the same: the tokens are those of greedy decoding, in fewer passes.

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
"""Tokens that must have occurred before, at most; the more, the better the guess."""
_GUESSED = 16
"""Tokens that are guessed at once, at most."""
_START = -1
"""Stands before an answer's first token."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What greedy decoding gives; what follows a row's end token means nothing."""

    tokens: Tensor
    """Int (B, T)."""
    states: Tensor
    """Float (B, T, D): the state that predicted each token, which is what a [SEG] token's mask is asked with."""
    chances: Tensor
    """Float (B, T): probability of each token."""


@dataclass(frozen=True, kw_only=True)
class CleanRule:
    """When an answer says that nothing is wrong.

    There is one way to say so and there are many to begin a list, each of which may be less likely: so the last of
    ``tokens`` is taken where its probability is at least ``threshold``, in [0, 1], and only there.
    """

    tokens: Sequence[int]
    """The clean sentence's up to the first that the beginning of a list does not share."""
    threshold: float

    def token(self, so_far: Sequence[int], probability: Tensor, greedy: int) -> int:
        """The next token after ``so_far``, from its probabilities, float (V,)."""
        if len(so_far) + 1 != len(self.tokens) or [*so_far] != [*self.tokens[:-1]]:
            return greedy
        clean = self.tokens[-1]
        if probability[clean] >= self.threshold:
            return clean
        return int(probability.index_fill(0, torch.tensor([clean], device=probability.device), -1).argmax())


class Lookup:
    """Where which tokens occurred last in texts, and what followed."""

    def __init__(self, texts: Sequence[Sequence[int]] = ()) -> None:
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}
        for text in texts:
            self.extend([_START, *text])

    def extend(self, tokens: Sequence[int]) -> None:
        """Go on with the text."""
        for token in tokens:
            place = len(self._tokens)
            for length in range(1, min(_CONTEXT, place) + 1):
                self._next[tuple(self._tokens[place - length :])] = place
            self._tokens.append(token)

    def after(self, ending: Sequence[int]) -> list[int]:
        """What followed a text that ended like this; empty where that never occurred before."""
        start = self._next.get(tuple(ending), len(self._tokens))
        guess = self._tokens[start : start + _GUESSED]
        return guess[: guess.index(_START)] if _START in guess else guess


@dataclass(eq=False)
class _Row:
    """One answer in the making."""

    known: Lookup
    own: Lookup = field(default_factory=lambda: Lookup([[]]))
    """The answer so far."""
    tokens: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    chances: list[Tensor] = field(default_factory=list)
    ended: bool = False

    def guess(self) -> list[int]:
        """What may come next."""
        if self.ended:
            return []
        text = [_START, *self.tokens]
        for length in range(min(_CONTEXT, len(text)), 0, -1):
            if found := self.own.after(text[-length:]) or self.known.after(text[-length:]):
                return found
        return []

    def take(self, guess: Sequence[int], state: Tensor, probability: Tensor, rule: CleanRule, stop: _Stop) -> int:
        """Take the tokens that one pass over ``guess`` settles: one more than are right; returns how many.

        ``state`` float (W, D) and ``probability`` float (W, V) hold one row after the token before the guess, and one
        after each guessed token.
        """
        greedy, taken = probability.argmax(-1).tolist(), 0
        while not self.ended:
            token = rule.token(self.tokens, probability[taken], greedy[taken])
            self.tokens.append(token)
            self.chances.append(probability[taken, token])
            taken += 1
            self.ended = token == stop.token or len(self.tokens) == stop.length
            if taken > len(guess) or guess[taken - 1] != token:
                break
        self.own.extend(self.tokens[len(self.tokens) - taken :])
        self.states.append(state[:taken])
        return taken


@dataclass(frozen=True, kw_only=True)
class _Stop:
    """What ends an answer: a token, or its length."""

    token: int
    length: int


class Decoder:
    """Writes the answers to one prompt about several pictures.

    Args:
        llava: the model; ``never`` is the token that it must not write.
        prompt: embeddings, float (B, L, D).
        known: answers like those to come.
    """

    def __init__(self, llava: LlavaForConditionalGeneration, prompt: Tensor, known: Lookup, *, never: int) -> None:
        self._llava, self._pending, self._never = llava, prompt, never
        self._cache = DynamicCache(config=llava.config.text_config)
        self._rows = [_Row(known) for _ in prompt]
        self._seen = torch.ones(len(prompt), 0, dtype=torch.long, device=prompt.device)

    def write(self, rule: CleanRule, most: int) -> Answer:
        """All answers, of at most ``most`` tokens each."""
        stop = _Stop(token=self._llava.config.text_config.eos_token_id, length=most)
        while not all(row.ended for row in self._rows):
            self._step(rule, stop)
        length = max(len(row.tokens) for row in self._rows)
        device = self._pending.device
        answer = Answer(
            tokens=torch.full((len(self._rows), length), stop.token, device=device),
            states=self._pending.new_zeros(len(self._rows), length, self._pending.shape[-1]),
            chances=torch.ones(len(self._rows), length, device=device),
        )
        for number, row in enumerate(self._rows):
            answer.tokens[number, : len(row.tokens)] = torch.tensor(row.tokens, device=device)
            answer.states[number, : len(row.tokens)] = torch.cat(row.states)
            answer.chances[number, : len(row.tokens)] = torch.stack(row.chances)
        return answer

    def _step(self, rule: CleanRule, stop: _Stop) -> None:
        guesses = [row.guess() for row in self._rows]
        state = self._pass(guesses)
        logits = self._llava.lm_head(state).float()
        logits[..., self._never] = -torch.inf
        probability = logits.softmax(-1)
        taken = [
            row.take(guess, state[number], probability[number], rule, stop)
            for number, (row, guess) in enumerate(zip(self._rows, guesses, strict=True))
        ]
        self._forget([max(count - 1, 0) for count in taken], state.shape[1] - 1)
        last = torch.tensor([[row.tokens[-1]] for row in self._rows], device=state.device)
        self._pending = self._llava.get_input_embeddings()(last)

    def _pass(self, guesses: Sequence[Sequence[int]]) -> Tensor:
        """States after what is pending and after each guessed token: float (B, 1 + longest guess, D)."""
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
        """Keep so many of each row's guesses in the cache; where one row alone was wrong, the mask hides them."""
        if wrong := guessed - max(right):
            self._cache.crop(-wrong)
        length = self._seen.shape[1] - wrong
        self._seen = self._seen[:, :length]
        for number, count in enumerate(right):
            self._seen[number, length - max(right) + count :] = 0

    def _mask(self, width: int, dtype: torch.dtype) -> Tensor:
        """What the last ``width`` tokens may look at, as a summand: (B, 1, width, tokens in the cache and these)."""
        seen = self._seen[:, None, None, :].bool()
        later = torch.ones(width, seen.shape[-1], dtype=torch.bool, device=seen.device).triu(seen.shape[-1] - width + 1)
        return torch.zeros(seen.shape[0], 1, *later.shape, dtype=dtype, device=seen.device).masked_fill(
            ~seen | later, torch.finfo(dtype).min
        )
