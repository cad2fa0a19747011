"""``refiner demo``: serve the browser demo."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os

from refiner.cli.machine import add_machine, machine_of
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
            "micro, vlm:MODEL[@URL], anomagent:MODEL[@URL], fakexplain:MODEL[@URL], a folder, or a hub id; "
            "may be repeated"
        ),
    )
    add_machine(parser, pipeline=True)
    parser.add_argument("--port", type=_port, help="port to listen on (the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="make the demo public through Gradio's tunnel")
    parser.set_defaults(run=_demo)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def _demo(args: argparse.Namespace, terminal: Terminal) -> int:
    machine = machine_of(args)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("The demo", "gradio", "demo") from error
    from refiner.demo.settings import DemoSettings, bundled_detectors, labelled

    settings = DemoSettings(
        models=labelled(args.model or ["micro"]),
        detectors=labelled(args.detector or bundled_detectors()),
        machine=machine,
    )
    # The main command collects muted output in memory until it ends. A server runs too long for that.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        logging.getLogger("refiner.demo").addHandler(logging.StreamHandler(terminal.err.file))
        from refiner.demo.app import serve
        from refiner.demo.studio import Studio

        studio = Studio(settings)
        with terminal.waiting("loading models"):
            studio.warm()
        serve(studio, port=args.port, share=args.share, ready=lambda address: terminal.say(f"demo: {address}"))
    return 0
