"""The checklist detector: what a prompt says becomes statements, and a chat model checks all of them on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args

from cachetools import LRUCache

from refiner.answers import value_of
from refiner.checklist import Checklist, Statement, of_trace, own_faults, share_that_holds, to_trace
from refiner.detectors.chat.backend import ChatBackend, ChatReply
from refiner.detectors.chat.loading import chat_id, chat_needs, chat_part, load_chat
from refiner.detectors.checklist.questions import Told, asking, listing, read_answers, read_listing
from refiner.detectors.checklist.rules import STYLE, parse_rules
from refiner.detectors.checklist.written import read_statements
from refiner.detectors.grounded import DEFAULT_GROUNDER, Case, GroundedDetector, boxes_of, domain_of
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.text.reader import RapidReader, Reader, is_installed
from refiner.detectors.vlm.detector import DEFAULT_MODEL
from refiner.errors import BadAnswerError, ConfigError, InputError, RefinerError
from refiner.taxonomy import Category
from refiner.types import Claim

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

Parser = Literal["auto", "rules", "model"]
"""What makes the statements of a prompt: rules, the chat model, or rules where they can read all of the prompt but its
style, else the model (``auto``)."""

_PROMPTS = 1024
"""Number of prompts whose statements are kept."""


class ChecklistDetector(GroundedDetector):
    """A chat model that checks the statements of a prompt, and a grounder; a ``refiner.protocols.Detector``.

    Each prompt is parsed once. The model gets one request for each image, with all statements. A statement that does
    not hold is a flaw of the category misalignment, unless one that it needs does not hold either. The flaw has a place
    if the answer has a box; else it is unplaced. ``Analysis.trace`` has the answer to each statement
    (``refiner.checklist``), and the parts of the prompt without a statement. If a statement is not decided, ``gaps``
    has "unverified". ``fake_probability`` is None.

    Args:
        backend, grounder, boxes, domain: as for ``VlmDetector``.
        parser: what makes the statements.
        reader: answers the statements about what is written, instead of the model; None: the model does.
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        boxes: BoxFormat | None = None,
        domain: str = "",
        parser: str = "auto",
        reader: Reader | None = None,
    ) -> None:
        super().__init__(backend, grounder=grounder, boxes=boxes or boxes_of(backend), domain=domain)
        self.parser, self.reader = read_parser(parser), reader
        self._lists: LRUCache[str, Checklist] = LRUCache(_PROMPTS)
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Model, parser and grounder; a fallback grounder is named as such."""
        reader = "" if self.reader is None else f", text by {self.reader.name}"
        return f"checklist:{self.model_name}, parser {self.parser}{reader}, masks by {self.grounder.name}"

    def checklists(self, prompts: Sequence[str]) -> list[Checklist | RefinerError]:
        """Return the statements of each prompt, or the error: ``InputError`` if there is none that can be checked."""
        with self._lock:
            found: dict[str, Checklist | RefinerError] = {
                prompt: self._lists[prompt] for prompt in set(prompts) if prompt in self._lists
            }
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        parsed = {prompt: parse_rules(prompt) for prompt in new if self.parser != "model" and prompt.strip()}
        asked = [prompt for prompt in new if prompt.strip() and self._asks(parsed.get(prompt))]
        replies = self.backend.complete([listing(prompt) for prompt in asked]) if asked else []
        told = dict(zip(asked, replies, strict=True))
        for prompt in new:
            try:
                found[prompt] = self._checklist(prompt, parsed.get(prompt), told.get(prompt))
            except RefinerError as error:
                found[prompt] = error
        with self._lock:
            self._lists.update({each: made for each in new if isinstance(made := found[each], Checklist)})
        return [found[prompt] for prompt in prompts]

    def _asks(self, ruled: Checklist | None) -> bool:
        """Whether the model makes the statements, given those of the rules."""
        if ruled is None:
            return True
        left = [part for part in ruled.unread if part.reason != STYLE]
        return self.parser == "auto" and bool(left or not ruled.statements)

    def _checklist(self, prompt: str, ruled: Checklist | None, told: ChatReply | RefinerError | None) -> Checklist:
        if not prompt.strip():
            raise InputError("A checklist needs the prompt of the image, and there is none: give the prompt.")
        if told is not None:
            return read_listing(value_of(told).text)
        assert ruled is not None
        if not ruled.statements:
            raise InputError(
                f"The rules find no statement in the prompt {prompt!r:.120}: name things with an article or a number, "
                "or let the model read it with parser=model."
            )
        return ruled

    def _find(self, cases: Sequence[Case]) -> None:
        lists = dict(zip(map(id, cases), self.checklists([case.prompt for case in cases]), strict=True))
        for case in cases:
            if isinstance(error := lists[id(case)], RefinerError):
                case.outcome = error
        known = {id(case): value_of(lists[id(case)]) for case in cases if case.outcome is None}
        read: dict[int, Mapping[int, Told]] = {}
        self._each(lambda case: read.update({id(case): self._read(case, known[id(case)])}), cases)
        going = [case for case in cases if case.outcome is None]
        whole = [case for case in going if len(read[id(case)]) == len(known[id(case)].statements)]
        self._each(lambda case: self._conclude(case, known[id(case)], read[id(case)]), whole)
        self._ask(
            [case for case in going if case not in whole],
            lambda case: asking(case.shown, _left(known[id(case)], read[id(case)]), self.boxes),
            lambda case, reply: self._take(case, reply, known[id(case)], read[id(case)]),
        )

    def _read(self, case: Case, checklist: Checklist) -> Mapping[int, Told]:
        """The answers of the reader of lettering, by the numbers of the statements."""
        if self.reader is None:
            return {}
        return read_statements(self.reader, case.image.convert("RGB"), checklist.statements)

    def _take(self, case: Case, reply: ChatReply, checklist: Checklist, read: Mapping[int, Told]) -> None:
        case.raw = reply.text
        left = [at for at in range(len(checklist.statements)) if at not in read]
        told = read_answers(reply.text, len(left), case.size, form=self.boxes, shown=case.shown_size)
        self._conclude(case, checklist, {**read, **dict(zip(left, told, strict=True))})

    def _conclude(self, case: Case, checklist: Checklist, answers: Mapping[int, Told]) -> None:
        count = len(checklist.statements)
        told = [answers[at] for at in range(count)]
        replies = [each.reply for each in told]
        case.trace = list(to_trace(checklist, replies, [each.evidence for each in told]))
        if share_that_holds(of_trace(case.trace)) is None:
            raise BadAnswerError(
                f"The model can tell none of the {count} statements about the image: use another model."
            )
        case.gaps += ["unverified"] if {"cannot tell", "unreadable"} & set(replies) else []
        case.found = [_claim(checklist.statements[at], told[at]) for at in own_faults(checklist, replies)]


def read_parser(text: str) -> Parser:
    """Return a parser by its name; raises ``ConfigError`` if there is no such parser."""
    for known in get_args(Parser):
        if text == known:
            return known
    raise ConfigError(
        f"Expected one of the parsers {', '.join(get_args(Parser))} of checklists, got {text!r}: choose one of them."
    )


def _left(checklist: Checklist, read: Mapping[int, Told]) -> list[Statement]:
    """The statements that the reader has not answered."""
    return [statement for at, statement in enumerate(checklist.statements) if at not in read]


def _claim(statement: Statement, told: Told) -> Claim:
    return Claim(
        name=statement.subject,
        explanation=f"not as the prompt says: {statement.text}",
        reasoning=told.evidence,
        category=Category.MISALIGNMENT,
        box=told.box,
    )


def load_checklist(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    parser: str = "auto",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: str | Path | None,
) -> ChecklistDetector:
    """Load a ``ChecklistDetector``; the arguments are those of ``load_vlm``, and ``parser`` is a ``Parser``.

    Where the extra ``text`` is installed, statements about what is written are answered by reading the image.

    Raises:
        RefinerError: the errors of ``load_chat`` and ``load_grounder``.
        ConfigError: there is no such parser.
    """
    read_parser(parser)
    chat = load_chat(chat_id(str(model) or DEFAULT_MODEL, base_url, options), device=device, dtype=dtype)
    return ChecklistDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        boxes=boxes_of(chat, options.get("boxes")),
        domain=domain_of(chat),
        parser=parser,
        reader=RapidReader() if is_installed() else None,
    )


def checklist_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_checklist`` reads; raises its errors that need no download."""
    read_parser(model.options.get("parser", "auto"))
    grounder = model.options.get("grounder", DEFAULT_GROUNDER)
    return [*chat_needs(chat_part(model, DEFAULT_MODEL)), *grounder_needs(grounder)]
