"""Chat models on this machine, through transformers: vision-language models and text-only models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch

from refiner.detectors.base import chunks, placement
from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Outcome
from refiner.detectors.chat.choices import Choice
from refiner.detectors.chat.images import MAX_SIDE, fit_picture
from refiner.detectors.chat.pretrained import load_pretrained
from refiner.detectors.chat.watching import Watch
from refiner.detectors.chat.wire import Finish
from refiner.errors import ConfigError, InputError, ModelError, RefinerError, WeightsError


class _Group(NamedTuple):
    """Key of requests that may share a batch."""

    limit: int
    """Limit of the answer's tokens."""
    pictured: bool
    sampled: bool
    marks: bool
    choice: Choice | None


class LocalChat:
    """A chat model on this machine; a ``ChatBackend`` and ``Loaded``.

    Requests run in batches that are padded on the left. Each answer is the same as in a batch of one: exactly in
    float32; in half precision rounding may change tokens of nearly equal probability. Decoding is greedy, unless a
    request has a temperature. Such requests run one at a time, so that the answer depends only on the seed. If the
    model's chat template has a switch for thinking, thinking is off. If the template refuses or drops a system turn,
    the system text begins the user's turn.

    Args:
        model: a generative model; it is set to eval mode.
        processor: of the model: a processor with a chat template, or a tokenizer for a text-only model.
        name: id and revision.
        batch_size: number of requests in a batch.
        max_tokens: limit up to which a request's ``max_tokens`` is doubled if an answer is cut off.
        max_side: longest side, in pixels, of the images shown to the model.

    Raises:
        WeightsError: there is no chat template.
        ConfigError: a limit is below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        batch_size: int = 8,
        max_tokens: int = 4096,
        max_side: int = MAX_SIDE,
    ) -> None:
        for what, value in (("batch_size", batch_size), ("max_tokens", max_tokens), ("max_side", max_side)):
            if value < 1:
                raise ConfigError(f"LocalChat.{what} must be at least 1, got {value}.")
        self.model, self.processor = model.eval(), processor
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self.name, self.max_side = name, max_side
        self.folders: tuple[Path, ...] = ()
        self.ledger = Ledger()  # a call is one request that runs through the network
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self.sees = processor is not self._tokenizer
        """Whether the model takes images."""
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._template = str(getattr(processor, "chat_template", None) or self._tokenizer.chat_template or "")
        if not self._template:
            raise WeightsError(f"The model {name!r} has no chat template: use a model tuned for chat.")
        self._takes_system = self._shows_system()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        adapter: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        **limits: int,
    ) -> LocalChat:
        """Load a folder or hub id with ``AutoModelForImageTextToText``, else with ``AutoModelForCausalLM``.

        Args:
            model: an existing folder, ``micro:<part>``, or a hub id with an optional ``@revision``; also an adapter of
                peft, whose settings name its base model.
            adapter: an adapter for the model, given in the same forms. Its weights are added to those of the model. Its
                tokenizer, processor and chat template replace those of the model. If it has more tokens, the model gets
                rows for them, which are zero if the adapter does not bring them.
            device, dtype: as for ``load_detector``.
            limits: ``batch_size``, ``max_tokens`` and ``max_side`` of the class.

        Raises:
            ModelNotFoundError: there is no such model, adapter or base model.
            WeightsError: one of them is of another kind, incomplete or damaged, or the adapter does not fit the model.
            ConfigError: the model is an adapter itself, and another one is given.
        """
        place, wanted = placement(device, dtype)
        found = load_pretrained(model, adapter, dtype=wanted)
        name = str(model) if adapter is None else f"{model} with {adapter}"
        chat = cls(found.network.to(place), found.processor, name=name, **limits)
        chat.folders = found.folders
        return chat

    @property
    def kind(self) -> str:
        """The ``model_type`` in the model's config."""
        return str(self.model.config.model_type)

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """See ``Loaded``; they are known for the image processors of Qwen-VL."""
        images: Any = getattr(self.processor, "image_processor", None)
        if not hasattr(images, "merge_size"):
            return None
        least, most = images.size.get("shortest_edge"), images.size.get("longest_edge")
        return None if least is None or most is None else (least, most)

    def to(self, device: str | torch.device) -> LocalChat:
        """Move the network."""
        self.model.to(device)
        return self

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """See ``ChatBackend.complete``.

        The errors are ``InputError`` (images for a text-only model, a damaged image, a text that is too long for the
        model) and ``ModelError`` (not enough memory for a single request).
        """
        outcomes: dict[int, Outcome] = {}
        limits = {number: min(request.max_tokens, self.max_tokens) for number, request in enumerate(requests)}
        attempts = dict.fromkeys(limits, 0)
        while waiting := [number for number in limits if number not in outcomes]:
            for batch, group in self._batches(requests, waiting, limits):
                answers = self._batch([requests[number] for number in batch], group)
                for number, answer in zip(batch, answers, strict=True):
                    attempts[number] += 1
                    if isinstance(answer, ChatReply) and answer.finish == "length" and limits[number] < self.max_tokens:
                        limits[number] = min(2 * limits[number], self.max_tokens)
                    elif isinstance(answer, ChatReply):
                        outcomes[number] = replace(answer, attempts=attempts[number])
                    else:
                        outcomes[number] = answer
                        self.ledger += Ledger(failed=1)
        return [outcomes[number] for number in range(len(requests))]

    def _batches(
        self, requests: Sequence[ChatRequest], waiting: Sequence[int], limits: Mapping[int, int]
    ) -> list[tuple[Sequence[int], _Group]]:
        groups: dict[_Group, list[int]] = {}
        for number in waiting:
            request = requests[number]
            group = _Group(limits[number], bool(request.images), request.temperature > 0, request.marks, request.choice)
            groups.setdefault(group, []).append(number)
        sizes = {group: 1 if group.sampled else self.batch_size for group in groups}
        return [(batch, group) for group, members in groups.items() for batch in chunks(members, sizes[group])]

    def _batch(self, requests: Sequence[ChatRequest], group: _Group) -> list[Outcome]:
        """Return the outcomes of one batch; if memory runs out, the batch is split."""
        prepared: list[Any] = []
        for request in requests:
            try:
                prepared.append(self._conversation(request))
            except RefinerError as error:
                prepared.append(error)
        ready = [number for number, item in enumerate(prepared) if not isinstance(item, RefinerError)]
        answers = self._generate([prepared[number] for number in ready], [requests[n] for n in ready], group)
        for number, answer in zip(ready, answers, strict=True):
            prepared[number] = answer
        return prepared

    def _conversation(self, request: ChatRequest) -> list[dict[str, Any]]:
        if request.images and not self.sees:
            raise InputError(f"The model {self.name!r} is text-only and takes no images: choose another model.")
        shown = [{"type": "image", "image": fit_picture(image, self.max_side)} for image in request.images]
        self.ledger += Ledger(pictures=len(request.images))
        first, *others = *chain(*request.history), request.text
        roles = cycle(("assistant", "user"))
        later = [self._turn(role, text) for role, text in zip(roles, others, strict=False)]
        if request.system and self._takes_system:
            return [self._turn("system", request.system), self._turn("user", first, shown), *later]
        return [self._turn("user", "\n\n".join(filter(None, (request.system, first))), shown), *later]

    def _turn(self, role: str, text: str, shown: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        return {"role": role, "content": [*shown, {"type": "text", "text": text}] if self.sees else text}

    def _shows_system(self) -> bool:
        from jinja2 import TemplateError

        probe = "words of the system"
        try:
            text = self.processor.apply_chat_template(
                [self._turn("system", probe), self._turn("user", "words of the user")], tokenize=False
            )
        except TemplateError:
            return False
        return probe in text

    def _generate(
        self, conversations: list[list[dict[str, Any]]], requests: Sequence[ChatRequest], group: _Group
    ) -> list[Outcome]:
        if not conversations:
            return []
        began = time.monotonic()
        try:
            answers = self._run(conversations, requests[0], group)
        except torch.OutOfMemoryError:
            if len(conversations) == 1:
                message = f"The memory does not suffice for one request to {self.name!r}: use smaller images."
                return [ModelError(message)]
            half = len(conversations) // 2
            return self._generate(conversations[:half], requests[:half], group) + self._generate(
                conversations[half:], requests[half:], group
            )
        replies = [answer for answer in answers if isinstance(answer, ChatReply)]
        self.ledger += Ledger(
            calls=len(answers),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            seconds=time.monotonic() - began,
        )
        return answers

    @torch.inference_mode()
    def _run(self, conversations: list[list[dict[str, Any]]], request: ChatRequest, group: _Group) -> list[Outcome]:
        options: dict[str, Any] = {"processor_kwargs": {"padding": True}} if self.sees else {"padding": True}
        if "enable_thinking" in self._template:
            options["enable_thinking"] = False
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=not group.marks,  # a prompt that contains <|im_end|> must not end the turn
            **options,
        ).to(self.model.device)
        lengths = inputs["attention_mask"].sum(1).tolist()
        width = inputs["input_ids"].shape[1]
        if width + group.limit > self._context():
            return self._too_long(conversations, request, group, lengths)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        watch = None if group.choice is None else Watch(group.choice, self._tokenizer)
        watching = nullcontext() if watch is None else watch.on(self.model, len(conversations))
        with torch.random.fork_rng(devices, enabled=group.sampled), watching:
            if group.sampled:
                torch.manual_seed(torch.seed() if request.seed is None else request.seed)
            output = self.model.generate(**inputs, **self._options(request, group))
        written = [self._written(tokens) for tokens in output[:, width:].tolist()]
        shares = [None if watch is None else watch.shares(row, tokens) for row, (tokens, _) in enumerate(written)]
        return [
            self._reply(tokens, finish, length, group.marks, share)
            for (tokens, finish), length, share in zip(written, lengths, shares, strict=True)
        ]

    def _too_long(
        self, conversations: list[list[dict[str, Any]]], request: ChatRequest, group: _Group, lengths: Sequence[int]
    ) -> list[Outcome]:
        """Run the requests one by one, each with the number of tokens that still fits."""
        answers: list[Outcome] = []
        for conversation, length in zip(conversations, lengths, strict=True):
            room = min(group.limit, self._context() - length)
            if room < 1:
                answers.append(InputError(
                    f"Expected at most {self._context()} tokens for {self.name!r}, got {length}: shorten the prompt, "
                    "or use smaller images."
                ))  # fmt: skip
            else:
                answers += self._run([conversation], request, group._replace(limit=room))
        return answers

    def _context(self) -> int:
        text = self.model.config.get_text_config()
        return int(getattr(text, "max_position_embeddings", None) or 1 << 30)

    def _options(self, request: ChatRequest, group: _Group) -> dict[str, Any]:
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if group.sampled:
            sampling = {"do_sample": True, "temperature": request.temperature}
        return {"max_new_tokens": group.limit, "pad_token_id": self._tokenizer.pad_token_id, **sampling}

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        return {end for end in [*known, self._tokenizer.eos_token_id] if end is not None}

    def _written(self, tokens: Sequence[int]) -> tuple[list[int], Finish]:
        """The tokens of an answer before its end token."""
        ends = self._ends()
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        return list(tokens[:end]), "length" if end is None else "stop"

    def _reply(
        self, tokens: list[int], finish: Finish, prompt_tokens: int, marks: bool, shares: tuple[float, ...] | None
    ) -> ChatReply:
        told = [token for token in tokens if token != self._tokenizer.pad_token_id]
        return ChatReply(
            text=self._tokenizer.decode(told, skip_special_tokens=not marks).strip(),
            finish=finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(tokens) + (finish == "stop"),
            probabilities=shares,
        )
