"""``refiner demo``: serve the browser demo."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator

from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import check_detector, port
from refiner.cli.view import Terminal
from refiner.errors import MissingExtraError


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner demo``."""
    parser.add_argument("--model", action="append", metavar="ID", help="micro, a folder, or a hub id; may be repeated")
    parser.add_argument(
        "--detector",
        action="append",
        metavar="ID",
        help=(
            "micro, text, vlm:MODEL[@URL], anomagent:MODEL[@URL], fakexplain:MODEL[@URL], a folder, or a hub id; "
            "may be repeated"
        ),
    )
    add_machine(parser, pipeline=True)
    parser.add_argument("--port", type=port, help="port to listen on (the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make the demo public through Gradio's tunnel")
    parser.add_argument(
        "--auth",
        action="append",
        default=[],
        metavar="NAME:PASSWORD",
        help="let in only visitors with this name and password, or @FILE with such a line for each; may be repeated",
    )
    parser.add_argument("--root-path", metavar="/PATH", help="where a reverse proxy serves the demo, such as /refiner")
    parser.set_defaults(run=_demo)


def need_gradio(feature: str) -> None:
    """Check that Gradio is installed.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(feature, "gradio", "demo") from error


@contextlib.contextmanager
def quiet_server(terminal: Terminal) -> Iterator[None]:
    """Drop what libraries print; errors of the server go to stderr.

    The main command collects muted output in memory until it ends. A server runs too long for that.
    """
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        logging.getLogger("refiner.demo").addHandler(logging.StreamHandler(terminal.err.file))
        yield


def _demo(args: argparse.Namespace, terminal: Terminal) -> int:
    check_machine(args)
    for detector in args.detector or ():
        check_detector(detector)
    if args.model:
        from refiner.pipelines.loading.parts import find_source

        for model in args.model:
            find_source(model)
    machine = machine_of(args)
    need_gradio("The demo")
    from refiner.demo.settings import Access, DemoSettings, labelled, usual_detectors

    access = Access.parse(args.auth, args.root_path)
    settings = DemoSettings(
        models=labelled(args.model or ["micro"]),
        detectors=labelled(args.detector or usual_detectors()),
        machine=machine,
    )
    with quiet_server(terminal):
        from refiner.demo.app import serve
        from refiner.demo.studio import Studio

        studio = Studio(settings)
        with terminal.waiting("loading models"):
            studio.warm()
        ready = lambda address: terminal.say(f"demo: {address}")  # noqa: E731
        serve(studio, port=args.port, share=args.share, access=access, ready=ready)
    return 0
