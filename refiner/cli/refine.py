"""``refiner refine``: generate an image, or take an existing one, and fix its flaws."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from refiner.cli.options import DETECTOR, DONE, FAILED, GROUNDER, INTERRUPTED
from refiner.cli.replay import replay
from refiner.cli.view import RoundsView, Terminal
from refiner.errors import InputError
from refiner.files import check_writable
from refiner.images import load_image
from refiner.records import result_summary
from refiner.reports.overlays import flaw_words
from refiner.reports.result import save_result
from refiner.types import RefinementResult

if TYPE_CHECKING:
    from refiner.pipelines.run import RefinementRun


def add_refine(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner refine``."""
    parser.add_argument("prompt", nargs="?", help="what the image shows")
    parser.add_argument("--model", help="micro, a folder, or a hub id of a pipeline (micro)")
    parser.add_argument("--detector", help=f"{DETECTOR} (the model's own)")
    parser.add_argument("--grounder", help=GROUNDER)
    parser.add_argument(
        "--judge",
        action="append",
        metavar="ID",
        help="micro, clip:MODEL, burden:DETECTOR or HPS; may be repeated (the model's own)",
    )
    parser.add_argument("--reviser", help="template, or a language model: chat:MODEL[@URL] (the model's own)")
    parser.add_argument(
        "--strategy", choices=("auto", "inpaint", "regenerate"), default="auto", help="how flaws are fixed (auto)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="maximum number of rounds after the start image (5)")
    parser.add_argument(
        "--max-rows", type=int, metavar="N", help="start no image after N denoiser rows (images x passes)"
    )
    parser.add_argument("--max-seconds", type=float, metavar="S", help="start no image after S seconds")
    parser.add_argument("--seed", type=int, default=0, help="all other seeds are derived from it (0)")
    parser.add_argument("--image", metavar="FILE", help="an image to refine instead of a generated one")
    parser.add_argument("--replay", metavar="FILE", help="make the image of this run.json or refined image again")
    parser.add_argument("--out", metavar="DIR", help="where images, report and record go (out; replay for --replay)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_refine, check=lambda args: _check(args, parser))


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.prompt is args.replay is None:
        parser.error("the following arguments are required: prompt")


def _refine(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.replay is not None:
        return replay(args, terminal)
    args.model, args.out = args.model or "micro", args.out or "out"
    if not args.prompt.strip():
        raise InputError("Expected a prompt that says what the image shows, got an empty one: write a few words.")
    folder = check_writable(args.out)
    image = load_image(args.image) if args.image else None
    with terminal.waiting(f"loading {args.model}"):
        from refiner.detectors.registry import with_grounder
        from refiner.pipelines import RefinedPipeline

        detector = with_grounder(args.detector or "micro", args.grounder) if args.grounder else args.detector
        pipe = RefinedPipeline.from_pretrained(
            args.model, detector=detector, judge=args.judge or "saved", reviser=args.reviser
        )
        limits = {"max_denoiser_rows": args.max_rows, "max_seconds": args.max_seconds}
        pipe.set_progress_bar_config(disable=True)
    with RoundsView(terminal.err, args.rounds) as view:
        run = pipe.stream(
            args.prompt,
            strategy=args.strategy,
            max_rounds=args.rounds,
            seed=args.seed,
            image=image,
            config=replace(pipe.refine_config, **{name: most for name, most in limits.items() if most is not None}),
            callback_on_step_end=view.on_step,
        )
        result = _collect(run, view)
    settings = ("model", "detector", "grounder", "judge", "reviser", "strategy", "rounds", "seed", "image")
    config = {name: getattr(args, name) for name in settings} | limits
    files = save_result(result, folder, config)
    terminal.answer(args, result_summary(result, files), lambda: _tell(result, files, terminal))
    if result.stop == "interrupted":
        return INTERRUPTED
    failure = result.attempts[result.best].error
    if failure is not None:
        terminal.complain(failure)
        return FAILED
    return DONE


def _collect(run: RefinementRun, view: RoundsView) -> RefinementResult:
    """Show the attempts as they come. If the user interrupts, the result holds the images so far."""
    try:
        for attempt in run:
            view.add(attempt)
    except KeyboardInterrupt:
        if not any(attempt.image for attempt in run.attempts):
            raise
        run.stop()
    return run.result


def _tell(result: RefinementResult, files: dict[str, str], terminal: Terminal) -> None:
    start, best = result.attempts[0], result.attempts[result.best]
    terminal.say(f"start: {flaw_words(start.analysis)}; kept attempt {best.index}: {flaw_words(best.analysis)}")
    for attempt in result.attempts:
        if attempt.note:
            terminal.say(f"attempt {attempt.index}: {attempt.note}")
    for name in ("best", "before_after", "report"):
        if name in files:
            terminal.say(f"{name.replace('_', '/')}: {files[name]}")
