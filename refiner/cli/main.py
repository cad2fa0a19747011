"""The ``refiner`` command. Its documents go to stdout; tables, progress and error messages go to stderr."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from refiner import __version__
from refiner.errors import RefinerError, UserError

_COMMANDS: Final[Mapping[str, str]] = {
    "refine": "generate an image, or take an existing one, and fix its flaws",
    "detect": "find the flaws of images",
    "report": "make tables, COCO and a contact sheet from records of detections",
    "train": "train a detector, a judge or a generator with a recipe",
    "evaluate": "measure detectors, generators and refinement",
    "calibrate": "learn a detector's threshold and probabilities from labelled images",
    "rank": "compare generators on the same prompts",
    "verify": "check the claims of detectors by hand",
    "data": "convert data sets and published weights, reconstruct images",
    "demo": "serve the demo for a browser",
    "micro": "the bundled models: contact sheet, training, benchmark",
}
"""Sub-command -> its help. The arguments of ``NAME`` are added by ``refiner.cli.NAME.add_NAME``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: done; 1: a model failed; 2: an error that the user can fix; 130: interrupted; 141: the reader of the output
        went away, such as ``head``; 143: ended by SIGTERM.
    """
    arguments = sys.argv[1:] if argv is None else argv
    _tolerate_letters()
    args = _parser(arguments).parse_args(arguments)
    from refiner.cli.endpoint import apply_endpoint
    from refiner.cli.options import FAILED, INTERRUPTED, UNREAD, USER_ERROR
    from refiner.cli.view import Terminal

    terminal = Terminal(options=frozenset(vars(args)))
    try:
        if "check" in args:
            args.check(args)
        with _muted_libraries():
            apply_endpoint(args)
            code: int = args.run(args, terminal)
        return code
    except RefinerError as error:
        terminal.complain(error)
        return USER_ERROR if isinstance(error, UserError) else FAILED
    except KeyboardInterrupt:
        terminal.complain("interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        terminal.discard()
        return UNREAD
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        terminal.complain(f"The path {error.filename!r:.100} is too long for this system: use a shorter one.")
        return USER_ERROR


@contextlib.contextmanager
def _muted_libraries() -> Iterator[None]:
    """Hide what libraries print, warn and log. A ``Terminal`` that was made before still writes."""
    for name, value in {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _tolerate_letters() -> None:
    """Let stdout and stderr write letters that their encoding does not have as escapes, such as ``\\u2192``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no UTF-8


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only sub-commands that occur among the arguments are imported."""
    parser = argparse.ArgumentParser(prog="refiner", description="Find and fix the flaws of generated images.")
    parser.add_argument("--version", action="version", version=f"refiner {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, words in _COMMANDS.items():
        command = commands.add_parser(name, help=words)
        if name in arguments:
            getattr(importlib.import_module(f"refiner.cli.{name}"), f"add_{name}")(command)
    return parser
