"""Gradio components with the demo's settings: checked uploads, escaped text, and errors in plain words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, ParamSpec

import gradio as gr
from gradio.data_classes import ImageData

from refiner.demo.messages import public_message
from refiner.demo.views.status import missing, status_line

P = ParamSpec("P")
Row = tuple[Any, ...]
"""A value for each output."""


def picture(label: str, **options: Any) -> gr.Image:
    """An image to upload or paste. The handler gets its path, and only ``refiner.demo.uploads`` decodes it.

    If Gradio decoded the file, a file that is not an image would fail without a message. A method is replaced here
    because Gradio writes a ``.pyi`` file beside the source of each subclass of its components.
    """
    image = gr.Image(label=label, type="filepath", sources=["upload", "clipboard"], **options)
    image.preprocess = _path_of  # type: ignore[method-assign]
    return image


def _path_of(payload: ImageData | None) -> str | None:
    """The path of an uploaded file; Gradio has checked that it is one."""
    if payload is None:
        return None
    if payload.path is None:
        raise _refusal("Upload an image file: the request holds none.")
    return payload.path


def html(what: str, name: str, view: str = "") -> gr.HTML:
    """A place for a view; without one, it shows the text ``what`` until there is one."""
    return gr.HTML(view or (missing(what) if what else ""), elem_id=name, padding=False, js_on_load=None)


def guarded(function: Callable[P, Iterator[Row]], outputs: int) -> Callable[P, Iterator[Row]]:
    """The same generator, but an exception is shown in the status line, and programs get it as an error.

    Args:
        function: yields one value for each output, the status line first.
        outputs: number of outputs.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Iterator[Row]:
        try:
            yield from function(*args, **kwargs)
        except Exception as error:
            message = public_message(error)
            yield (status_line(message, kind="bad"), *nothing(outputs - 1))
            raise _refusal(message, visible=False) from None

    return run


def _refusal(message: str, *, visible: bool = True) -> gr.Error:
    """Gradio shows the message of an error as HTML, so it is escaped; ``visible``: in a corner of the page, too."""
    return gr.Error(escape(message, quote=False), print_exception=False, visible=visible)


def nothing(count: int) -> list[Any]:
    """Values that leave ``count`` outputs unchanged."""
    return [gr.skip() for _ in range(count)]
