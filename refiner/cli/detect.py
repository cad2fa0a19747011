"""``refiner detect``: find the flaws of images."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.answers import read_analysis
from refiner.cli.endpoint import add_endpoint, tell_costs
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_machine, machine_of
from refiner.cli.options import DETECTOR, DONE, FAILED, GROUNDER, USER_ERROR, count
from refiner.cli.view import Terminal, show_analysis
from refiner.data.sources import open_data, sources_help
from refiner.errors import InputError, RefinerError, UserError
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.images import load_image, save_png
from refiner.ledger import ledgers_of
from refiner.records import analysis_summary
from refiner.reports.overlays import overlay
from refiner.verify.detections import Detections

if TYPE_CHECKING:
    from PIL import Image

    from refiner.protocols import Detector

_Picture = tuple[str, "Callable[[], tuple[Image.Image, str | None]]"]
"""The name of an image, and a function that reads it and its prompt."""


def add_detect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner detect``."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    parser.add_argument("--data", metavar="SPEC", help=f"a data set in place of image files: {sources_help()}")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N samples of --data")
    parser.add_argument("--detector", default="micro", help=f"{DETECTOR} (micro)")
    parser.add_argument("--grounder", help=GROUNDER)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--prompt", metavar="TEXT", help="prompt of the images, for detectors that read it")
    wanted.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, one for each image")
    add_endpoint(parser)
    add_machine(parser, pipeline=False)
    words = "where to write the images with their regions marked, and records for refiner verify"
    parser.add_argument("--out", metavar="DIR", help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_detect, check=lambda args: _check(parser, args))


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.images) == (args.data is not None):
        parser.error("expected either IMAGE files or --data")
    if args.limit is not None and args.data is None:
        parser.error("--limit needs --data")


def _detect(args: argparse.Namespace, terminal: Terminal) -> int:
    machine = machine_of(args)
    folder = check_writable(args.out) if args.out else None
    detector: Detector | None = None
    rows: list[Json] = []
    kept = Detections(folder, args.data)
    code, pictures = DONE, _data(args, terminal) if args.data else _files(args, terminal)
    for number, (file, load) in enumerate(terminal.track(pictures, "analysing")):
        try:
            image, prompt = load()
        except InputError as error:
            terminal.complain(error)
            code = USER_ERROR
            kept.add(number, file, None, error)
            continue
        if detector is None:
            from refiner.detectors import load_detector

            detector = load_detector(args.detector, machine.device, machine.dtype, grounder=args.grounder)
        try:
            analysis = read_analysis(detector(image, prompt), image, detector.name)
        except RefinerError as error:
            terminal.complain(f"{file}: {error}")
            code = max(code, USER_ERROR if isinstance(error, UserError) else FAILED)
            kept.add(number, file, prompt, error)
            continue
        rows.append({"file": file, "analysis": analysis_summary(analysis)})
        kept.add(number, file, prompt, (image, analysis))
        if folder is not None:
            save_png(overlay(image, analysis), folder / f"{number:02d}-{Path(file).stem}.png")
        if not args.json:
            show_analysis(terminal, file, analysis)
    if folder is not None and rows:
        kept.write()
        atomic_write(folder / "detect.json", dumps(rows) + "\n")
    tell_costs(ledgers_of([detector]), args, terminal)
    if args.json:
        terminal.document(rows)
    return code


def _files(args: argparse.Namespace, terminal: Terminal) -> list[_Picture]:
    """The image files, with a prompt each if there are any."""
    prompts = _prompts(args, terminal)

    def load(file: str, prompt: str | None) -> tuple[Image.Image, str | None]:
        return load_image(file), prompt

    return [(file, functools.partial(load, file, prompt)) for file, prompt in zip(args.images, prompts, strict=True)]


def _data(args: argparse.Namespace, terminal: Terminal) -> list[_Picture]:
    """The samples of a data set, with their own prompts, or else the one prompt for all."""
    data = open_data(args.data, prompts=args.prompts, limit=args.limit)
    tell_problems(data.problems, terminal)

    def load(index: int) -> tuple[Image.Image, str | None]:
        sample = data.load(index)
        if sample.image is None:
            raise InputError(f"Expected images in {args.data!r}, got only prompts: name a data set of images.")
        return sample.image, sample.prompt or args.prompt

    return [(name, functools.partial(load, index)) for index, name in enumerate(data.names)]


def _prompts(args: argparse.Namespace, terminal: Terminal) -> list[str | None]:
    """The prompt of each image, or None if there is none."""
    if args.prompts is None:
        return [args.prompt] * len(args.images)
    from refiner.data.problems import Problem
    from refiner.data.prompts import match_prompts, read_prompts

    problems: list[Problem] = []
    prompts = read_prompts(args.prompts, problems)
    names = [Path(file).as_posix() for file in args.images]
    keys = match_prompts(names, prompts, args.prompts, [])
    for problem in problems:
        terminal.complain(problem)
    for name in names:
        if name not in keys:
            terminal.complain(f"{name}: {args.prompts} holds no prompt for this image, so it is analysed without one.")
    return [prompts[keys[name]] if name in keys else None for name in names]
