"""The ``refiner`` command. Its documents go to stdout; tables, progress and error messages go to stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence

from refiner import __version__
from refiner.cli.calibrate import add_calibrate
from refiner.cli.data import add_data
from refiner.cli.demo import add_demo
from refiner.cli.detect import add_detect
from refiner.cli.endpoint import apply_endpoint
from refiner.cli.evaluate import add_evaluate
from refiner.cli.micro import add_micro
from refiner.cli.options import FAILED, INTERRUPTED, UNREAD, USER_ERROR
from refiner.cli.rank import add_rank
from refiner.cli.refine import add_refine
from refiner.cli.report import add_report
from refiner.cli.train import add_train
from refiner.cli.verify import add_verify
from refiner.cli.view import Terminal, tolerate_letters
from refiner.errors import RefinerError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: done; 1: a model failed; 2: an error that the user can fix; 130: interrupted; 141: the reader of the output
        went away, such as ``head``; 143: ended by SIGTERM.
    """
    tolerate_letters()
    args = _parser().parse_args(argv)
    if "check" in args:
        args.check(args)
    terminal = Terminal(options=frozenset(vars(args)))
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="refiner", description="Find and fix the flaws of generated images.")
    parser.add_argument("--version", action="version", version=f"refiner {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_refine(commands.add_parser("refine", help="generate an image, or take an existing one, and fix its flaws"))
    add_detect(commands.add_parser("detect", help="find the flaws of images"))
    add_report(commands.add_parser("report", help="make tables, COCO and a contact sheet from records of detections"))
    add_train(commands.add_parser("train", help="train a detector, a judge or a generator with a recipe"))
    add_evaluate(commands.add_parser("evaluate", help="measure detectors, generators and refinement"))
    words = "learn a detector's threshold and probabilities from labelled images"
    add_calibrate(commands.add_parser("calibrate", help=words))
    add_rank(commands.add_parser("rank", help="compare generators on the same prompts"))
    add_verify(commands.add_parser("verify", help="check the claims of detectors by hand"))
    add_data(commands.add_parser("data", help="convert data sets and published weights, reconstruct images"))
    add_demo(commands.add_parser("demo", help="serve the demo for a browser"))
    add_micro(commands.add_parser("micro", help="the bundled models: contact sheet, training, benchmark"))
    return parser
