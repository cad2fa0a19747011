"""``refiner data``: convert model folders to refiner's formats."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from refiner.cli.options import DONE
from refiner.cli.view import Terminal


def _to_refiner(source: str, target: Path) -> Path:
    from refiner.detectors.legion.saving import convert_folder
    from refiner.hub import resolve

    return convert_folder(resolve(source, "detector"), target)


CONVERSIONS: Mapping[str, Callable[[str, Path], Path]] = {"refiner": _to_refiner}
"""Format -> convert(source, target folder), which returns what was written."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the sub-command ``convert``."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="write published weights in another format")
    convert.add_argument("source", metavar="SRC", help="folder or hub id of published LEGION or GLaMM weights")
    convert.add_argument("target", metavar="DST", help="folder to write; it must not exist yet, or be empty")
    convert.add_argument(
        "--to",
        choices=sorted(CONVERSIONS),
        required=True,
        help="refiner: safetensors that load without conversion, written part by part in bounded memory",
    )
    convert.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace, terminal: Terminal) -> int:
    with terminal.waiting(f"converting {args.source}"):
        written = CONVERSIONS[args.to](args.source, Path(args.target))
    files = {path.relative_to(written).as_posix(): str(path) for path in sorted(written.rglob("*")) if path.is_file()}
    terminal.answer(args, {"files": files}, str(written))
    return DONE
