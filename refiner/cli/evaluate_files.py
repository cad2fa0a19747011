"""``refiner evaluate semap | pad | hps | aj``: score files of results or images, without a run."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from refiner.cli.machine import add_device, check_device
from refiner.cli.options import DONE, FAILED, count
from refiner.cli.view import Terminal, plain_grid
from refiner.coverage import Coverage
from refiner.data.problems import Problem, count_problems
from refiner.errors import ConfigError, InputError
from refiner.files import Json, check_writable

if TYPE_CHECKING:
    from refiner.data.xaigd.predictions import Transform
    from refiner.metrics.hps.benchmark import Row
    from refiner.metrics.hps.scorer import HPSScorer, Scored

_SHOWN: Final = 20
"""How many problems of one kind are printed one by one."""


def add_files(commands: Any) -> None:
    """Add the sub-commands that only score files."""
    _add_semap(commands.add_parser("semap", help="SemAP and SemF1 of predicted anomalies in a JSON file"))
    _add_pad(commands.add_parser("pad", help="X-AIGD's PAD metrics of predicted masks or boxes"))
    _add_hps(commands.add_parser("hps", help="HPS v2 of a folder of images and their prompts"))
    _add_aj(commands.add_parser("aj", help="X-AIGD's AJ metrics of verdicts in a CSV file"))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")


def _add_semap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="FILE", required=True, help="JSON of image name -> anomalies")
    parser.add_argument("--references", metavar="FILE", required=True, help="the same for the true anomalies")
    words = "JSON of image name -> yes or no (generated or not), for CSemAP and CSemF1"
    parser.add_argument("--answers", metavar="FILE", help=words)
    words = "JSON list of the images to score, or an object with their names (all that both files have)"
    parser.add_argument("--subset", metavar="FILE", help=words)
    parser.add_argument("--encoder", help="a folder or hub id (distilbert-base-uncased if cached, else MiniLM)")
    parser.add_argument("--layer", type=int, metavar="N", help="layer of the encoder (the encoder's default)")
    parser.add_argument(
        "--view", choices=("phe", "rea", "full"), default="full", help="compare phenomena, reasonings or both (full)"
    )
    words = "scores from which a pair counts, in (0, 1] (0.7,0.8,0.9)"
    parser.add_argument("--thresholds", metavar="T,T", default="0.7,0.8,0.9", help=words)
    add_device(parser)
    _add_json(parser)
    parser.set_defaults(run=_semap)


def _semap(args: argparse.Namespace, terminal: Terminal) -> int:
    check_device(args.device)
    _check_files(args, "predictions", "references", "answers", "subset")
    with terminal.waiting("comparing"):
        from refiner.metrics.semap import score_files
        from refiner.metrics.semap_scoring import SemapConfig

        config = SemapConfig(view=args.view, thresholds=_numbers("--thresholds", args.thresholds))
        result = score_files(
            args.predictions,
            args.references,
            encoder=args.encoder,
            layer=args.layer,
            device=args.device,
            config=config,
            answers=args.answers,
            subset=args.subset,
        )
    tell_problems(result.problems, terminal)
    lost = Counter((problem.kind, problem.file) for problem in result.problems)
    unread, missing = lost["unreadable_image", args.predictions], lost["missing_image", args.references]
    coverage = Coverage(answered=len(result.images) - unread, unreadable=unread, failed=missing)
    document = result.document() | {"coverage": coverage.row()}
    if args.json:
        terminal.document(document)
        return DONE
    rows = [{"threshold": tau, **row} for tau, row in document["by_threshold"].items()]
    _show_rows(terminal, rows, coverage)
    gated = "" if args.answers is None else "C"
    means = f"{gated}SemAP {document['semap']:.4f}, {gated}SemF1 {document['semf1']:.4f}"
    terminal.say(f"{means} over {document['images']} images; {coverage.words()}")
    terminal.say(f"signature: {document['signature']}")
    return DONE


def _check_files(args: argparse.Namespace, *options: str) -> None:
    """Raise InputError if one of the options names something other than a file; None is left out."""
    for option in options:
        file = getattr(args, option)
        if file is not None and not Path(file).is_file():
            raise InputError(f"--{option} {file!r} is not a file: check the path.")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"Expected {option} as numbers such as 0.7,0.8, got {text!r:.60}: write them so.") from error


def _add_pad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="ROOT", required=True, help="folder of masks, or CSV of boxes")
    parser.add_argument("--data", metavar="xaigd:FOLDER", required=True, help="folder of the annotations")
    parser.add_argument(
        "--task", choices=("agnostic", "fine-grained", "instance"), default="agnostic", help="(agnostic)"
    )
    resizing = parser.add_argument_group("size at which masks are compared (the image's own)")
    how = resizing.add_mutually_exclusive_group()
    how.add_argument(
        "--transform",
        choices=("keep", "256-224", "518"),
        default="keep",
        help="by name: 256x256 and the centre 224x224; or shortest side 518 and the centre 518x518 (keep)",
    )
    how.add_argument("--resize-size", nargs=2, type=int, metavar=("WIDTH", "HEIGHT"), help="resize to this size")
    how.add_argument("--resize-short-side", type=int, metavar="PIXELS", help="resize the shorter side to this length")
    resizing.add_argument("--center-crop", nargs=2, type=int, metavar=("WIDTH", "HEIGHT"), help="then keep the centre")
    words = "read masks as the official scripts do, flawed above this grey (theirs: 127); else as what they show"
    parser.add_argument("--prediction-threshold", type=int, metavar="GREY", help=words)
    words = "instances: share of a box that must lie on an instance, from 0 to 1 (0.5)"
    parser.add_argument("--overlap-threshold", type=float, default=0.5, metavar="SHARE", help=words)
    parser.add_argument("--split", help="split of the data (labeled_test)")
    parser.add_argument("--out", metavar="DIR", help="where the CSV files in X-AIGD's format go")
    _add_json(parser)
    parser.set_defaults(run=_pad)


def _pad(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.out is not None:
        check_writable(args.out)
    with terminal.waiting("comparing"):
        from refiner.metrics.pad import evaluate_pad

        document = evaluate_pad(
            args.predictions,
            args.data,
            task=args.task,
            transform=_transform_of(args),
            threshold=args.prediction_threshold,
            overlap=args.overlap_threshold,
            split=args.split,
            out=args.out,
        )
    missing = document["missing_predictions"]
    coverage = Coverage(answered=document["images"] - missing, failed=missing)
    document["coverage"] = coverage.row()
    if args.json:
        terminal.document(document)
        return DONE
    _show_rows(terminal, document["rows"])
    _tell_counts(document["problems"], terminal)
    terminal.say(f"{document['images']} images, {missing} without a prediction; {coverage.words()}")
    terminal.say(f"signature: {document['signature']}")
    return DONE


def _transform_of(args: argparse.Namespace) -> Transform:
    from refiner.data.xaigd.predictions import Transform
    from refiner.types import Size

    named, crop = Transform.named(args.transform), args.center_crop
    if args.resize_size is None and args.resize_short_side is None and crop is None:
        return named
    if named != Transform():
        raise ConfigError(f"--transform {args.transform} has its own crop: leave --center-crop out.")
    return Transform(
        resize=args.resize_size and Size(*reversed(args.resize_size)),
        short_side=args.resize_short_side,
        crop=crop and Size(*reversed(crop)),
    )


def _add_hps(parser: argparse.ArgumentParser) -> None:
    words = "folder of images, sub-folders included; with --benchmark one folder per style (the folder of --benchmark)"
    parser.add_argument("--images", metavar="FOLDER", help=words)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt")
    words = "folder of the HPS v2 benchmark, with prompts in STYLE.json; makes its table by style"
    prompts.add_argument("--benchmark", metavar="FOLDER", help=words)
    parser.add_argument("--model", default="micro", help="micro, a folder, a file, or a hub id: xswu/HPSv2 (micro)")
    parser.add_argument(
        "--version", choices=("v2.0", "v2.1"), default="v2.1", help="version of the published weights (v2.1)"
    )
    parser.add_argument("--mode", choices=("fp32", "compat"), default="fp32", help="compat rounds as on a GPU (fp32)")
    parser.add_argument("--antialias", choices=("on", "off"), default="on", help="off: as torchvision before 0.17 (on)")
    parser.add_argument(
        "--backend",
        choices=("open_clip", "hpsv2"),
        default="open_clip",
        help="package of network and preprocessing (open_clip)",
    )
    parser.add_argument("--batch-size", type=count, default=16, metavar="N", help="images per batch (16)")
    add_device(parser)
    _add_json(parser)
    parser.set_defaults(run=_hps, check=lambda args: _check_hps(args, parser))


def _check_hps(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.benchmark is None and args.images is None:
        parser.error("--prompts needs --images")


def _hps(args: argparse.Namespace, terminal: Terminal) -> int:
    check_device(args.device)
    if args.benchmark is not None:
        return _hps_benchmark(args, terminal)
    from refiner.data.folders import ImageFolder
    from refiner.data.prompts import match_prompts, read_prompts

    problems: list[Problem] = []
    folder = ImageFolder.open(args.images, problems)
    prompts = read_prompts(args.prompts, problems)
    keys = match_prompts(folder.names, prompts, args.prompts, problems)
    names = [name for name in folder.names if name in keys]
    scorer = _scorer(args, terminal)
    outcomes = scorer.stream(map(folder.path, names), [prompts[keys[name]] for name in names])
    scores: dict[str, float] = {}
    for name, outcome in zip(terminal.track(names, "scoring"), outcomes, strict=True):
        if outcome.score is not None:
            scores[name] = outcome.score
        problems += _problems_of(outcome, args.images, name)
    tell_problems(problems, terminal)
    mean = math.fsum(scores.values()) / len(scores) if scores else None
    coverage = Coverage(answered=len(scores), failed=len(names) - len(scores))
    document = {
        "scores": scores,
        "mean": mean,
        "read_differently": _read_differently(problems),
        "signature": scorer.signature,
        "coverage": coverage.row(),
    }
    if args.json:
        terminal.document(document)
    else:
        _show_rows(terminal, [{"file": name, "HPS": score} for name, score in scores.items()])
        terminal.say(
            f"mean {'-' if mean is None else f'{mean:.6f}'} of {len(scores)} of {len(names)} images; {coverage.words()}"
        )
        terminal.say(f"signature: {document['signature']}")
    return DONE if len(scores) == len(names) > 0 else FAILED


def _hps_benchmark(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.metrics.hps.benchmark import SIGNATURE, STYLES, find_images, read_prompts, score_items, table

    root = args.images or args.benchmark
    items = find_images(root, read_prompts(args.benchmark))
    scorer = _scorer(args, terminal)
    problems: list[Problem] = []
    scores: dict[str, float] = {}
    for item, outcome in zip(terminal.track(items, "scoring"), score_items(scorer, items), strict=True):
        if outcome is None:
            problems.append(Problem("missing_image", root, item.name, "this image does not exist and is left out"))
            continue
        if outcome.score is not None:
            scores[item.name] = outcome.score
        problems += _problems_of(outcome, root, item.name)
    tell_problems(problems, terminal)
    found = table(((item.style, scores.get(item.name)) for item in items), compat=args.mode == "compat")
    *styles, average = (_style_row(row) for row in found)
    document = {
        "styles": styles,
        "average": average,
        "scores": scores,
        "read_differently": _read_differently(problems),
        "signature": f"{scorer.signature};{SIGNATURE}",
    }
    if args.json:
        terminal.document(document)
    else:
        _show_rows(terminal, [asdict(row) | {"style": STYLES.get(row.style, "Average")} for row in found])
        terminal.say(f"signature: {document['signature']}")
    there = sum(item.path is not None for item in items)
    return DONE if len(scores) == there > 0 else FAILED


def _style_row(row: Row) -> Json:
    """A row of the benchmark's table, with its coverage."""
    return asdict(row) | {"coverage": Coverage(answered=row.images, failed=row.missing).row()}


def _scorer(args: argparse.Namespace, terminal: Terminal) -> HPSScorer:
    with terminal.waiting(f"loading {args.model}"):
        from refiner.metrics.hps.scorer import HPSScorer

        options = {name: getattr(args, name) for name in ("version", "mode", "backend", "batch_size", "device")}
        scorer = HPSScorer.from_pretrained(args.model, antialias=args.antialias == "on", **options)
    if args.model.partition(":")[0] == "micro":
        terminal.complain("the bundled model knows only the micro world: pass --model xswu/HPSv2 for other images.")
    return scorer


def _problems_of(outcome: Scored, folder: str, name: str) -> Iterator[Problem]:
    """The error of an image, and notes on what was changed in it."""
    from refiner.evaluate.systems import note_kind

    if outcome.error is not None:
        yield Problem(type(outcome.error).__name__, folder, name, str(outcome.error))
    yield from (Problem(note_kind(note), folder, name, note) for note in outcome.notes)


def _read_differently(problems: Iterable[Problem]) -> Json:
    """How many images the authors' code reads in another way, by kind."""
    from refiner.metrics.hps.inputs import DIFFERENCES

    return count_problems(problem for problem in problems if problem.kind in DIFFERENCES.values())


def _add_aj(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--predictions", metavar="CSV", required=True, help="columns label and prediction or score")
    parser.add_argument("--threshold", type=float, default=0.5, help="generated if the score is above it (0.5)")
    _add_json(parser)
    parser.set_defaults(run=_aj)


def _aj(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.metrics.classification import evaluate_aj

    document = evaluate_aj(args.predictions, threshold=args.threshold)
    unread = sum(document["problems"].get(kind, 0) for kind in ("nan_score", "bad_score"))
    coverage = Coverage(answered=document["images"], unreadable=unread)
    document["coverage"] = coverage.row()
    for problem in document["problem_list"][:_SHOWN]:
        terminal.complain(problem)
    _tell_counts(document["problems"], terminal)
    if args.json:
        terminal.document(document)
        return DONE
    names = ("balanced_accuracy", "accuracy", "precision", "recall", "f1", "images")
    _show_rows(terminal, [{name: document[name] for name in names}], coverage)
    terminal.say(f"signature: {document['signature']}")
    return DONE


def tell_problems(problems: Iterable[Any], terminal: Terminal) -> None:
    """Print problems of the input on stderr, and their count by kind.

    Args:
        problems: each has a ``kind``, and its ``str`` is one sentence.
        terminal: where they are printed.
    """
    counts: Counter[str] = Counter()
    for problem in problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= _SHOWN:
            terminal.complain(problem)
    _tell_counts(counts, terminal)


def _tell_counts(counts: Mapping[str, int], terminal: Terminal) -> None:
    if counts:
        words = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(counts.items()))
        terminal.complain(f"problems with the input: {words}.")


def _show_rows(terminal: Terminal, rows: Sequence[Json], coverage: Coverage | None = None) -> None:
    """Print rows; if they all have the same coverage, with a column of it."""
    table = plain_grid()
    if coverage is not None:
        rows = [row | {"coverage": coverage.brief()} for row in rows]
    for name, value in (rows[0] if rows else {}).items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    terminal.out.print(table)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
