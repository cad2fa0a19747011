"""The ``refiner`` command. Its documents go to stdout; tables, progress and complaints go to stderr."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from refiner import __version__
from refiner.cli_demo import add_demo
from refiner.cli_evaluate import add_evaluate
from refiner.cli_micro import add_micro
from refiner.cli_rank import add_rank
from refiner.cli_replay import replay
from refiner.cli_view import RoundsView, Terminal, show_analysis
from refiner.errors import InputError, RefinerError, UserError
from refiner.images import load_image, png_bytes
from refiner.overlays import flaw_words, overlay
from refiner.report import save_result
from refiner.runs import Json, analysis_summary, atomic_write_all, check_writable, dumps, result_summary
from refiner.types import Attempt, RefinementResult

if TYPE_CHECKING:
    from refiner.pipelines.loop import Attempts
    from refiner.protocols import Detector

_DETECTOR = "micro, vlm:MODEL[@URL], parts:hand,face@MODEL, a folder, a hub id, or several: joint:ID+ID"
_GROUNDER = "draws the masks of vlm:MODEL and parts:NAMES: sam:PATH, grabcut or box (grabcut; box for parts)"
DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 done; 1 a model failed; 2 the user can mend it; 130 interrupted.
    """
    args = _parser().parse_args(argv)
    if args.run is _refine and args.prompt is args.replay is None:
        args.wrong("the following arguments are required: prompt")
    terminal = Terminal()
    try:
        with _muted_libraries():
            code: int = args.run(args, terminal)
        return code
    except RefinerError as error:
        terminal.complain(error)
        return USER_ERROR if isinstance(error, UserError) else FAILED
    except KeyboardInterrupt:
        terminal.complain("interrupted.")
        return INTERRUPTED


@contextlib.contextmanager
def _muted_libraries() -> Iterator[None]:
    """Keep what libraries print, warn and log away from the terminal; a ``Terminal`` made before goes on writing."""
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
    parser = argparse.ArgumentParser(prog="refiner", description="See what is wrong with a generated picture; fix it.")
    parser.add_argument("--version", action="version", version=f"refiner {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_refine(commands.add_parser("refine", help="paint a picture, or take one, and make it better"))
    _add_detect(commands.add_parser("detect", help="say what is wrong with pictures"))
    add_evaluate(commands.add_parser("evaluate", help="measure detectors, generators and refinement"))
    add_rank(commands.add_parser("rank", help="compare generators on the same prompts"))
    add_demo(commands.add_parser("demo", help="all of it in a browser"))
    add_micro(commands.add_parser("micro", help="the bundled models: contact sheet, training, benchmark"))
    return parser


def _add_refine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="what the picture shows")
    parser.add_argument("--model", help="micro, a folder, or a hub id of a pipeline (micro)")
    parser.add_argument("--detector", help=f"{_DETECTOR} (the model's own)")
    parser.add_argument("--grounder", help=_GROUNDER)
    parser.add_argument(
        "--judge", action="append", metavar="ID", help="micro, clip:MODEL, burden:DETECTOR or HPS; may be repeated"
    )
    parser.add_argument("--reviser", help="template, or a language model: chat:MODEL[@URL] (the model's own)")
    parser.add_argument("--strategy", choices=("auto", "inpaint", "regenerate"), default="auto", help="(auto)")
    parser.add_argument("--rounds", type=int, default=5, help="at most so many rounds after the start (5)")
    parser.add_argument("--max-rows", type=int, metavar="N", help="start no painting after so many denoiser rows")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="start no painting after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="all other seeds are derived from it (0)")
    parser.add_argument("--image", metavar="FILE", help="a picture to refine instead of painting one")
    parser.add_argument("--replay", metavar="FILE", help="make the picture of this run.json or picture again instead")
    parser.add_argument("--out", metavar="DIR", help="where pictures, report and record go (out, replay)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_refine, wrong=parser.error)


def _add_detect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    parser.add_argument("--detector", default="micro", help=f"{_DETECTOR} (micro)")
    parser.add_argument("--grounder", help=_GROUNDER)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--prompt", metavar="TEXT", help="what the pictures were to show, for detectors that read it")
    wanted.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, each picture's own")
    parser.add_argument("--out", metavar="DIR", help="where to write the pictures with their regions marked")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_detect)


def _refine(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.replay is not None:
        return replay(args, terminal)
    args.model, args.out = args.model or "micro", args.out or "out"
    if not args.prompt.strip():
        raise InputError("Expected a prompt that says what the picture shows, got an empty one: write a few words.")
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
        attempts = pipe.stream(
            args.prompt,
            strategy=args.strategy,
            max_rounds=args.rounds,
            seed=args.seed,
            image=image,
            config=replace(pipe.refine_config, **{name: most for name, most in limits.items() if most is not None}),
            callback_on_step_end=view.on_step,
        )
        result = _collect(args.prompt, attempts, view)
    settings = ("model", "detector", "grounder", "judge", "reviser", "strategy", "rounds", "seed", "image")
    config = {name: getattr(args, name) for name in settings} | limits
    files = save_result(result, folder, config, made_from=args.image)
    if args.json:
        terminal.document(result_summary(result, files))
    else:
        _tell(result, files, terminal)
    if result.stop == "interrupted":
        return INTERRUPTED
    failure = result.attempts[result.best].error
    if failure is not None:
        terminal.complain(failure)
        return FAILED
    return DONE


def _collect(prompt: str, attempts: Attempts, view: RoundsView) -> RefinementResult:
    """Show the attempts as they come; where the user interrupts, what was painted so far is the result."""
    seen: list[Attempt] = []
    try:
        while True:
            seen.append(next(attempts))
            view.add(seen[-1])
    except StopIteration as stop:
        result: RefinementResult = stop.value
        return result
    except KeyboardInterrupt:
        if not any(attempt.image for attempt in seen):
            raise
        best = max((attempt.index for attempt in seen if attempt.accepted), default=seen[0].index)
        return RefinementResult(prompt=prompt, attempts=tuple(seen), best=best, stop="interrupted")


def _tell(result: RefinementResult, files: dict[str, str], terminal: Terminal) -> None:
    start, best = result.attempts[0], result.attempts[result.best]
    terminal.say(f"start: {flaw_words(start.analysis)}; kept attempt {best.index}: {flaw_words(best.analysis)}")
    for attempt in result.attempts:
        if attempt.note:
            terminal.say(f"attempt {attempt.index}: {attempt.note}")
    for name in ("best", "before_after", "report"):
        if name in files:
            terminal.say(f"{name.replace('_', '/')}: {files[name]}")


def _detect(args: argparse.Namespace, terminal: Terminal) -> int:
    folder = check_writable(args.out) if args.out else None
    detector: Detector | None = None
    rows: list[Json] = []
    pictures: dict[str, bytes] = {}
    code, prompts = DONE, _prompts(args, terminal)
    for number, file in enumerate(terminal.track(args.images, "looking")):
        try:
            image = load_image(file)
        except InputError as error:
            terminal.complain(error)
            code = USER_ERROR
            continue
        if detector is None:
            from refiner.detectors import load_detector

            detector = load_detector(args.detector, grounder=args.grounder)
        try:
            analysis = detector(image, prompts[number])
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
    """What each picture was to show, as far as that was said."""
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
            terminal.complain(f"{name}: no prompt of its own in {args.prompts}, so it is looked at without one.")
    return [prompts[keys[name]] if name in keys else None for name in names]
