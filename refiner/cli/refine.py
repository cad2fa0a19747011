"""``refiner refine``: generate images, or take an existing one, and fix their flaws."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refiner.cli.endpoint import add_endpoint, tell_costs
from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import DETECTOR, DONE, FAILED, GROUNDER, INTERRUPTED, count
from refiner.cli.painting import (
    Wanted,
    add_controller,
    add_image,
    add_weights,
    check_models,
    controlled,
    measured,
    wanted_of,
)
from refiner.cli.refine_many import add_prompts, check_prompts, refine_prompts
from refiner.cli.replay import replay
from refiner.cli.view import RoundsView, Terminal
from refiner.errors import InputError
from refiner.files import Json, check_writable
from refiner.images import load_image
from refiner.ledger import Prices, added
from refiner.micro.examples import EXAMPLES
from refiner.records import result_summary
from refiner.reports.overlays import flaw_words
from refiner.reports.overview import image_folder, remove_earlier, save_overview
from refiner.types import RefinementResult

if TYPE_CHECKING:
    from PIL import Image

    from refiner.pipelines import RefineConfig, RefinedPipeline
    from refiner.pipelines.run import RefinementRun


def _examples() -> str:
    shown = "\n".join(f'  refiner refine "{prompt}" --seed {seed} --out out' for prompt, seed in EXAMPLES)
    return (
        f"examples, of prompts and seeds at which the bundled models visibly repair the image:\n{shown}\n\n"
        "Open out/report.html: it shows each attempt, the regions, and why it was kept or not."
    )


def add_refine(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner refine``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _examples()
    image = parser.add_argument_group("image")
    image.add_argument("prompt", nargs="?", help="what the image shows")
    image.add_argument("--image", metavar="FILE", help="an image to refine instead of a generated one")
    image.add_argument("--num-images", type=count, metavar="N", help="number of images of the prompt (1)")
    image.add_argument("--seed", type=int, help="all other seeds are derived from it (0)")
    add_image(image)
    loop = parser.add_argument_group("refinement")
    loop.add_argument(
        "--strategy", choices=("auto", "inpaint", "regenerate"), help="how flaws are fixed (the model's own: auto)"
    )
    add_controller(loop)
    loop.add_argument("--rounds", type=int, help="maximum number of rounds after the start image (the model's own: 5)")
    words = "inpaint, edit and regenerate in the order in which they are tried; see tools of RefineConfig"
    loop.add_argument("--tools", type=lambda text: text.split(","), metavar="NAME,NAME", help=words)
    words = "earlier runs, or micro: the tool that repaired more flaws of a kind there comes first; may be repeated"
    loop.add_argument("--tool-records", action="append", metavar="DIR", help=words)
    loop.add_argument(
        "--max-rows", type=int, metavar="N", help="start no image after N denoiser rows (images x passes)"
    )
    loop.add_argument("--max-seconds", type=float, metavar="S", help="start no image after S seconds")
    add_prompts(parser)
    _add_models(parser.add_argument_group("models"))
    add_endpoint(parser)
    add_machine(parser, pipeline=True)
    output = parser.add_argument_group("output")
    output.add_argument("--replay", metavar="FILE", help="make the image of this run.json or refined image again")
    output.add_argument("--out", metavar="DIR", help="where images, report and record go (out; replay for --replay)")
    output.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_refine, check=lambda args: _check(args, parser))


def _add_models(models: argparse._ArgumentGroup) -> None:
    models.add_argument("--model", help="micro, a folder, or a hub id of a pipeline (micro)")
    add_weights(models)
    models.add_argument("--detector", help=f"{DETECTOR} (the model's own)")
    models.add_argument("--grounder", help=GROUNDER)
    models.add_argument(
        "--judge",
        action="append",
        metavar="ID",
        help="micro, clip:MODEL, burden:DETECTOR, realness:DETECTOR, checklist:MODEL, text or HPS; may be repeated "
        "(the model's own)",
    )
    models.add_argument("--reviser", help="template, or a language model: chat:MODEL[@URL] (the model's own)")


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.prompt is args.replay is args.prompts is None:
        parser.error("the following arguments are required: prompt")
    check_prompts(args, parser)


def _refine(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.replay is not None:
        return replay(args, terminal)
    if args.prompts is not None:
        return refine_prompts(args, load_pipeline, terminal)
    args.model, args.out = args.model or "micro", args.out or "out"
    if not args.prompt.strip():
        raise InputError("Expected a prompt that says what the image shows, got an empty one: write a few words.")
    check_machine(args)
    check_models(args, args.model)
    folder = check_writable(args.out)
    image = load_image(args.image) if args.image else None
    wanted = wanted_of(args, args.model)
    with terminal.waiting(f"loading {args.model}"):
        pipe = load_pipeline(args)
    return _refine_all(args, pipe, wanted, folder, image, terminal)


def load_pipeline(args: argparse.Namespace) -> RefinedPipeline:
    """Load the pipeline with the parts that the arguments name."""
    from refiner.detectors.registry import with_grounder
    from refiner.pipelines.loading.placing import load_refined

    return load_refined(
        args.model,
        machine_of(args),
        detector=with_grounder(args.detector or "micro", args.grounder) if args.grounder else args.detector,
        judge=args.judge or "saved",
        reviser=args.reviser,
        inpainter=args.inpainter,
        editor=args.editor,
        loras=args.lora,
    )


def _refine_all(
    args: argparse.Namespace,
    pipe: RefinedPipeline,
    wanted: Wanted,
    folder: Path,
    image: Image.Image | None,
    terminal: Terminal,
) -> int:
    """Refine the images one by one, and save each when it is done; returns the exit code."""
    from refiner.reports.result import save_result

    base = controlled(args.controller, pipe, terminal) if args.controller else pipe.refine_config
    config = wanted.config_of(base)
    config = measured(config, args.tool_records)
    options: dict[str, Any] = {"start_image": image, "config": config, **wanted.call_of(type(pipe.pipe))}
    number, record = args.num_images or 1, _record(args, config)
    results: list[RefinementResult] = []
    prices: Prices | None = args.prices
    documents: list[Json] = []
    places: list[Path] = []
    interrupted = False
    for index in range(number):
        if number > 1:
            terminal.err.print(f"{image_folder(folder, index).name} ({index + 1} of {number})", style="dim")
        with RoundsView(terminal.err, config.max_rounds) as view:
            run = pipe.stream(args.prompt, index=index, callback_on_step_end=view.on_step, **options)
            result = _collect(run, view, first=not results)
        if result is None:
            interrupted = True
            break
        places.append(folder if number == 1 else image_folder(folder, index))
        results.append(result)
        documents.append(result_summary(result, save_result(result, places[-1], record, prices=prices)))
        if result.stop == "interrupted":
            interrupted = True
            break
    remove_earlier(folder, places)
    tell_costs(functools.reduce(added, (result.costs for result in results), {}), args, terminal)
    _answer(args, results, documents, folder, terminal)
    return _code(results, interrupted, terminal)


def _collect(run: RefinementRun, view: RoundsView, *, first: bool) -> RefinementResult | None:
    """Show the attempts as they come. If the user interrupts, the result holds the images so far.

    Without an image so far, an interrupt of the first run is raised, and that of another one gives None.
    """
    try:
        for attempt in run:
            view.add(attempt)
    except KeyboardInterrupt:
        if not any(attempt.image for attempt in run.attempts):
            if first:
                raise
            return None
        run.stop()
    return run.result


def _record(args: argparse.Namespace, config: RefineConfig) -> Json:
    """The settings of the command, for the run record."""
    names = ("model", "detector", "grounder", "judge", "reviser", "inpainter", "editor", "image")
    return {
        **{name: getattr(args, name) for name in names},
        "lora": [str(lora) for lora in args.lora],
        "controller": args.controller,
        "strategy": config.strategy,
        "rounds": config.max_rounds,
        "seed": config.seed,
        "max_denoiser_rows": config.max_denoiser_rows,
        "max_seconds": config.max_seconds,
    }


def _answer(
    args: argparse.Namespace,
    results: Sequence[RefinementResult],
    documents: Sequence[Json],
    folder: Path,
    terminal: Terminal,
) -> None:
    """Print the result, or all results of several images, for which the overview is written."""
    if (args.num_images or 1) == 1:
        terminal.answer(args, documents[0], lambda: _tell(results[0], documents[0]["files"], terminal))
        return
    files = {"overview": str(save_overview(results, folder))}

    def tell() -> None:
        for index, (result, document) in enumerate(zip(results, documents, strict=True)):
            terminal.say(f"{image_folder(folder, index).name}:")
            _tell(result, document["files"], terminal)
        terminal.say(f"overview: {files['overview']}")

    terminal.answer(args, {"prompt": args.prompt, "images": list(documents), "files": files}, tell)


def _code(results: Sequence[RefinementResult], interrupted: bool, terminal: Terminal) -> int:
    """The exit code; failures of the kept attempts are printed."""
    failures = [failure for result in results if (failure := result.attempts[result.best].error) is not None]
    if interrupted:
        return INTERRUPTED
    for failure in failures:
        terminal.complain(failure)
    return FAILED if failures else DONE


def _tell(result: RefinementResult, files: Mapping[str, str], terminal: Terminal) -> None:
    start, best = result.attempts[0], result.attempts[result.best]
    terminal.say(f"start: {flaw_words(start.analysis)}; kept attempt {best.index}: {flaw_words(best.analysis)}")
    if not result.verified:
        terminal.say("nothing was verified: the last image was kept, whether it is better or not")
    for attempt in result.attempts:
        if attempt.note:
            terminal.say(f"attempt {attempt.index}: {attempt.note}")
    for name in ("best", "before_after", "report"):
        if name in files:
            terminal.say(f"{name.replace('_', '/')}: {files[name]}")
