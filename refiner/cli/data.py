"""``refiner data``: convert data sets and model folders, reconstruct images, and write pairs of repairs to train on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_device, check_device
from refiner.cli.options import DONE, FAILED, count
from refiner.cli.view import Terminal
from refiner.data.pairs import FILES as LAYOUTS
from refiner.data.problems import Problem, count_problems
from refiner.data.sources import names_data, open_data, sources_help
from refiner.data.writing import FORMATS, check_target, convert_data

WEIGHTS = "refiner"
"""The format that published weights are converted to."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_reconstruct(commands)
    _add_pairs(commands)


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser("convert", help="write a data set, or published weights, in another format")
    convert.add_argument(
        "source",
        metavar="SRC",
        help=f"a data set: {sources_help()}; or the folder or hub id of published LEGION or GLaMM weights",
    )
    convert.add_argument("target", metavar="DST", help="folder to write; it must not exist yet, or be empty")
    convert.add_argument(
        "--to",
        choices=sorted(FORMATS),
        required=True,
        help="refiner: records that fakexplained:DST reads, or safetensors of weights; ms-swift: training records in "
        "FakeXplain's form; coco: boxes and masks; anomreason: flaws in words, which anomreason:DST reads",
    )
    convert.add_argument("--limit", type=count, metavar="N", help="only the first N samples of a data set")
    convert.add_argument("--references", metavar="FILE", help="AnomReason's JSON of file name -> anomalies of a folder")
    convert.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    convert.set_defaults(run=_convert, check=lambda args: _check(convert, args))


def _add_reconstruct(commands: Any) -> None:
    words = "reconstruct real images by an autoencoder, as pairs for the pixel branch of AlignGemini"
    made = commands.add_parser("reconstruct", help=words)
    made.add_argument("images", metavar="IMAGES", help="folder of real images, at any depth")
    made.add_argument("--vae", required=True, metavar="ID", help="micro, a folder, or a hub id of a pipeline")
    made.add_argument("--out", required=True, metavar="DST", help="folder to write, or of a run that was stopped")
    made.add_argument("--seed", type=int, default=0, help="of the latents (0)")
    made.add_argument("--batch", type=count, default=8, metavar="N", help="images of one size at a time (8)")
    words = "compress the reconstruction of a JPEG file with the quality of this file"
    made.add_argument("--jpeg", action="store_true", help=words)
    add_device(made)
    made.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    made.set_defaults(run=_reconstruct)


def _add_pairs(commands: Any) -> None:
    words = "write accepted against rejected repairs as preference pairs, to train a generator on"
    pairs = commands.add_parser("pairs", help=words)
    words = "folder that refiner refine or refiner evaluate refinement wrote, or one that holds such folders"
    pairs.add_argument("records", metavar="RECORDS", nargs="+", help=words)
    pairs.add_argument(
        "--to",
        choices=sorted(LAYOUTS),
        required=True,
        help="trl: prompt, chosen, rejected and mask, for datasets as an imagefolder; ms-swift: records of DPO",
    )
    pairs.add_argument("--out", required=True, metavar="DST", help="folder to write, or of a run that was stopped")
    pairs.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    pairs.set_defaults(run=_pairs)


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not _is_data(args) and (args.limit is not None or args.references is not None):
        parser.error(f"--limit and --references need a data set, got {args.source!r}")


def _is_data(args: argparse.Namespace) -> bool:
    """Whether the source is a data set; only ``WEIGHTS`` takes weights, too."""
    return args.to != WEIGHTS or names_data(args.source)


def _convert(args: argparse.Namespace, terminal: Terminal) -> int:
    return (_convert_data if _is_data(args) else _convert_weights)(args, terminal)


def _convert_data(args: argparse.Namespace, terminal: Terminal) -> int:
    target = Path(args.target)
    check_target(target)
    data = open_data(args.source, references=args.references, limit=args.limit)
    problems = list(data.problems)
    try:
        numbers = terminal.track(range(len(data.names)), "converting")
        done = convert_data(data, target, args.to, problems, numbers=numbers)
    finally:
        tell_problems(problems, terminal)
    document = {
        "files": {name: str(path) for name, path in done.files.items()},
        "images": done.samples,
        "regions": done.regions,
        "left_out": done.left_out,
        "problems": count_problems(problems),
    }
    counts = f"{done.samples} images, {done.regions} regions, {done.left_out} samples left out"
    terminal.answer(args, document, f"{done.annotations}: {counts}")
    return DONE


def _convert_weights(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.detectors.legion.saving import convert_folder
    from refiner.hub import resolve

    with terminal.waiting(f"converting {args.source}"):
        written = convert_folder(resolve(args.source, "detector"), Path(args.target))
    files = {path.relative_to(written).as_posix(): str(path) for path in sorted(written.rglob("*")) if path.is_file()}
    terminal.answer(args, {"files": files}, str(written))
    return DONE


def _reconstruct(args: argparse.Namespace, terminal: Terminal) -> int:
    check_device(args.device)
    from refiner.data.writing.reconstruction import Autoencoder, ReconstructionSettings, reconstruct
    from refiner.machine import device_of

    settings = ReconstructionSettings(vae=args.vae, seed=args.seed, batch=args.batch, jpeg=args.jpeg)
    with terminal.waiting(f"loading {args.vae}"):
        autoencoder = Autoencoder.from_pretrained(args.vae, device_of(args.device))
    problems: list[Problem] = []
    source, target = Path(args.images), Path(args.out)
    try:
        done = reconstruct(
            source, target, settings, autoencoder, problems, lambda names: terminal.track(names, "reconstructing")
        )
    finally:
        tell_problems(problems, terminal)
    document = {"folder": str(target), **done._asdict(), "problems": count_problems(problems)}
    counts = f"{done.made} pairs made, {done.kept} there before, {done.left_out} images left out"
    terminal.answer(args, document, f"{target}: {counts}")
    return DONE if done.made + done.kept else FAILED


def _pairs(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.data.writing.pairs import write_pairs
    from refiner.evaluate.repairs import comparisons, find_runs

    runs = find_runs(args.records)
    problems: list[Problem] = []
    try:
        found = comparisons(terminal.track(runs, "comparing"), problems)
        done = write_pairs(found, args.out, args.to, problems, sources=args.records)
    finally:
        tell_problems(problems, terminal)
    document = {
        "file": str(done.file),
        "runs": len(runs),
        "pairs": done.pairs,
        "images": {"written": done.written, "there_before": done.kept},
        "left_out": done.left_out,
        "problems": count_problems(problems),
    }
    terminal.answer(args, document, f"{done.file}: {done.pairs} pairs from {len(runs)} runs, {done.left_out} left out")
    return DONE
