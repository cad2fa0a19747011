"""``refiner detect``: find the flaws of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.answers import read_analysis
from refiner.cli.machine import add_machine, machine_of
from refiner.cli.options import DETECTOR, DONE, FAILED, GROUNDER, USER_ERROR
from refiner.cli.view import Terminal, show_analysis
from refiner.errors import InputError, RefinerError, UserError
from refiner.files import Json, atomic_write_all, check_writable, dumps
from refiner.images import load_image, png_bytes
from refiner.records import analysis_summary
from refiner.reports.overlays import overlay

if TYPE_CHECKING:
    from refiner.protocols import Detector


def add_detect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner detect``."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--detector", default="micro", help=f"{DETECTOR} (micro)")
    parser.add_argument("--grounder", help=GROUNDER)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--prompt", metavar="TEXT", help="prompt of the images, for detectors that read it")
    wanted.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, one for each image")
    add_machine(parser, pipeline=False)
    parser.add_argument("--out", metavar="DIR", help="where to write the images with their regions marked")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_detect)


def _detect(args: argparse.Namespace, terminal: Terminal) -> int:
    machine = machine_of(args)
    folder = check_writable(args.out) if args.out else None
    detector: Detector | None = None
    rows: list[Json] = []
    pictures: dict[str, bytes] = {}
    code, prompts = DONE, _prompts(args, terminal)
    for number, file in enumerate(terminal.track(args.images, "analysing")):
        try:
            image = load_image(file)
        except InputError as error:
            terminal.complain(error)
            code = USER_ERROR
            continue
        if detector is None:
            from refiner.detectors import load_detector

            detector = load_detector(args.detector, machine.device, machine.dtype, grounder=args.grounder)
        try:
            analysis = read_analysis(detector(image, prompts[number]), image, detector.name)
        except RefinerError as error:
            terminal.complain(f"{file}: {error}")
            code = max(code, USER_ERROR if isinstance(error, UserError) else FAILED)
            continue
        rows.append({"file": file, "analysis": analysis_summary(analysis)})
        if folder is not None:
            pictures[f"{number:02d}-{Path(file).stem}.png"] = png_bytes(overlay(image, analysis))
        if not args.json:
            show_analysis(terminal, file, analysis)
    if folder is not None and rows:
        atomic_write_all(folder, pictures | {"detect.json": (dumps(rows) + "\n").encode("utf-8")})
    if args.json:
        terminal.document(rows)
    return code


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
