"""Load the detectors of AnomReason by the parts of their ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.detectors.anomreason.agent import AnomAgent
from refiner.detectors.anomreason.grammar import check_format
from refiner.detectors.anomreason.notes import Note, read_note
from refiner.detectors.anomreason.reasonor import AnomReasonorDetector
from refiner.detectors.anomreason.work import Limits
from refiner.detectors.chat.backend import ChatBackend, Loaded
from refiner.detectors.chat.loading import chat_id, chat_needs, chat_part, load_chat
from refiner.detectors.grounded import DEFAULT_GROUNDER, boxes_of, domain_of
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

AGENT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"
REASONOR_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""The backbone of the paper. It is not tuned for these answers."""
_DIGITS = 6
"""Most digits of a limit."""
LIMITS = tuple(vars(Limits()))
"""Options of AnomAgent's ids that are whole numbers."""


def load_anomagent(
    model: str | Path = AGENT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: int | str | Path | None,
) -> AnomAgent:
    """Load an ``AnomAgent``.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model; ""
            selects ``AGENT_MODEL``.
        base_url: address of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs on
            this machine.
        grounder: id for ``load_grounder``.
        device, dtype: of the grounder and of a model on this machine, as for ``load_detector``.
        options: the fields of ``Limits``, and options of the chat model, as in an id
            (``refiner.detectors.chat.options``). With ``cache``, a run that was stopped goes on where it ended.

    Raises:
        ConfigError: a limit is no whole number, or out of its range.
        RefinerError: the errors of ``load_chat`` and ``load_grounder``.
    """
    bounds = _limits({name: options.pop(name) for name in LIMITS if name in options})
    asked = chat_id(str(model) or AGENT_MODEL, base_url, options)
    chat = load_chat(asked, device=device, dtype=dtype)
    return AnomAgent(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        boxes=boxes_of(chat, asked.options.get("boxes")),
        limits=bounds,
        domain=domain_of(chat),
    )


def load_anomreason(
    model: str | Path = REASONOR_MODEL,
    *,
    base_url: str | None = None,
    format: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: str | Path | None,
) -> AnomReasonorDetector:
    """Load an ``AnomReasonorDetector``.

    Args:
        model: as for ``load_anomagent``; "" selects ``REASONOR_MODEL``. The folder may be an adapter of peft.
        base_url: as for ``load_anomagent``.
        format: one of ``FORMATS``; None: as the note in the model's folder says
            (``refiner.detectors.anomreason.notes``), else ``authenticity_reasoning``.
        grounder, device, dtype: as for ``load_anomagent``.
        options: of the chat model, as in an id (``refiner.detectors.chat.options``). With ``boxes``, the model is asked
            for boxes, and its boxes are read so.

    Raises:
        ConfigError: there is no such format.
        RefinerError: the errors of ``load_chat``, ``read_note`` and ``load_grounder``.
    """
    if format is not None:
        check_format(format)
    chat = load_chat(chat_id(str(model) or REASONOR_MODEL, base_url, options), device=device, dtype=dtype)
    note, told = _note_of(chat), options.get("boxes")
    if told is not None:
        note = note._replace(boxes=BoxFormat.parse(str(told), note.boxes))
    return AnomReasonorDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        note=note if format is None else note._replace(form=format),
        boxes=boxes_of(chat),
        domain=domain_of(chat),
    )


def anomagent_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_anomagent`` reads; raises its errors that are known without a
    download."""
    _limits({name: value for name, value in model.options.items() if name in LIMITS})
    return _needs(model, AGENT_MODEL)


def anomreason_needs(model: ModelId) -> Needs:
    """As ``anomagent_needs``, for ``load_anomreason``."""
    if "format" in model.options:
        check_format(model.options["format"])
    return _needs(model, REASONOR_MODEL)


def _needs(model: ModelId, default: str) -> Needs:
    grounder = model.options.get("grounder", DEFAULT_GROUNDER)
    return [*chat_needs(chat_part(model, default)), *grounder_needs(grounder)]


def _limits(given: Mapping[str, int | str | Path | None]) -> Limits:
    for name, value in given.items():
        if not str(value).isdecimal() or len(str(value)) > _DIGITS:
            raise ConfigError(f"Expected {name} as a whole number, got {value!r:.40}: write, for example, {name}=20.")
    return Limits(**{name: int(str(value)) for name, value in given.items()})


def _note_of(chat: ChatBackend) -> Note:
    """The first note in the folders of a model; a server on this machine may serve a folder under its path."""
    folders = chat.folders if isinstance(chat, Loaded) else (Path(chat.name),)
    return next((note for folder in folders if (note := read_note(folder))), Note())
