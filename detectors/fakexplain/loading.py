"""Load a ``FakexplainDetector`` by the parts of its id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refiner.detectors.chat.backend import ChatBackend, Loaded
from refiner.detectors.chat.loading import chat_id, chat_needs, chat_part, load_chat
from refiner.detectors.fakexplain.detector import FakexplainDetector
from refiner.detectors.fakexplain.grammar import DIALECTS, find_dialect
from refiner.detectors.fakexplain.notes import Note, read_note
from refiner.detectors.grounded import DEFAULT_GROUNDER, domain_of, kind_of
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_format
from refiner.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
"""The backbone of the paper. It is not tuned for these answers; the weights of the paper are not published."""


def load_fakexplain(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    dialect: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: str | Path | None,
) -> FakexplainDetector:
    """Load a ``FakexplainDetector``.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model; ""
            selects ``DEFAULT_MODEL``. The folder may be an adapter of peft.
        base_url: address of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs on
            this machine.
        dialect: how the model answers; None: as the note in its folder says (``refiner.detectors.fakexplain.notes``),
            else ``internvl`` for InternVL and ``paper`` for all others.
        grounder: id for ``load_grounder``.
        device, dtype: of the grounder and of a model on this machine, as for ``load_detector``.
        options: of the chat model, as in an id (``refiner.detectors.chat.options``). Without ``boxes``, boxes are as
            the note says, else as the type or name of the model does (``boxes_of``).

    Raises:
        ConfigError: there is no such dialect or scale, or the dialect has boxes of its own.
        RefinerError: the errors of ``load_chat``, ``read_note`` and ``load_grounder``.
    """
    boxes = None if options.get("boxes") is None else str(options["boxes"])
    _check(dialect, boxes)
    chat = load_chat(chat_id(str(model) or DEFAULT_MODEL, base_url, options), device=device, dtype=dtype)
    note = _note_of(chat)
    spoken = note.dialect if dialect is None else find_dialect(dialect)
    _check(spoken.name, boxes)
    return FakexplainDetector(
        chat,
        grounder=load_grounder(grounder, device=device, dtype=dtype),
        dialect=spoken,
        boxes=note.boxes if boxes is None else BoxFormat.parse(boxes, note.boxes),
        domain=domain_of(chat),
        max_side=note.max_side,
    )


def fakexplain_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_fakexplain`` reads; raises its errors that are known without a
    download."""
    options = model.options
    _check(options.get("dialect"), options.get("boxes"))
    grounder = options.get("grounder", DEFAULT_GROUNDER)
    return [*chat_needs(chat_part(model, DEFAULT_MODEL)), *grounder_needs(grounder)]


def _check(dialect: str | None, boxes: str | None) -> None:
    fixed = None if dialect is None else find_dialect(dialect).boxes
    if boxes is not None and BoxFormat.parse(boxes) and fixed is not None:
        raise ConfigError(f"The dialect {dialect!r} always has boxes in thousandths: leave boxes={boxes} out.")


def _note_of(chat: ChatBackend) -> Note:
    """The first note in the folders of a model, else what is usual for its type.

    A server on this machine may serve a folder under its path.
    """
    folders = chat.folders if isinstance(chat, Loaded) else (Path(chat.name),)
    kind = kind_of(chat)
    usual = Note(DIALECTS["internvl" if "internvl" in kind.lower() else "paper"], box_format(kind))
    return next((note for folder in folders if (note := read_note(folder))), usual)
