"""``refiner refine --prompts``: refine any number of prompts, several at a time, and go on after a stop."""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from refiner.cli.detect_results import telling
from refiner.cli.endpoint import tell_costs
from refiner.cli.evaluate import add_engine, engine_of, speed, weight_sums
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import check_machine
from refiner.cli.options import DONE, FAILED, count
from refiner.cli.painting import check_models, controlled, measured, wanted_of
from refiner.cli.stopping import ended_by_signals
from refiner.cli.view import Terminal, plain_grid
from refiner.data.samples import digest
from refiner.files import Json, check_writable
from refiner.machine import share_freed_memory

if TYPE_CHECKING:
    from refiner.data.samples import DataSet
    from refiner.evaluate.harness import Engine, Run, System
    from refiner.evaluate.refining import Refining

TOGETHER: Final = 4
"""Prompts that are refined together."""


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``--prompts``."""
    many = parser.add_argument_group("many prompts")
    words = (
        "refine all prompts of a file: lines of text, JSON (a list, or name -> prompt), JSON Lines, or CSV with the "
    )
    words += "columns file and prompt"
    many.add_argument("--prompts", metavar="FILE", help=words)
    words = f"prompts that are refined together ({TOGETHER}); each batch is the same in every run"
    many.add_argument("--batch-images", type=count, default=TOGETHER, metavar="N", help=words)
    words = "of each prompt: start.png, best.png and run.json, or all images and a report, too (kept)"
    many.add_argument("--files", choices=("kept", "all"), default="kept", help=words)
    words = "continue the run in --out; failed prompts are tried again, finished ones are not"
    many.add_argument("--resume", action="store_true", help=words)
    words = "stop when N prompts in a row have failed (20)"
    many.add_argument("--max-failures", type=count, default=20, metavar="N", help=words)
    add_engine(many)


def check_prompts(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse arguments that do not go together."""
    if args.prompts is None:
        if args.resume or args.engine != "local" or args.workers is not None:
            parser.error("--resume, --engine and --workers need --prompts")
        return
    for name in ("prompt", "image", "replay"):
        if getattr(args, name) is not None:
            given = "a prompt" if name == "prompt" else f"--{name}"
            parser.error(f"--prompts cannot be used with {given}: leave one of them out")


def refine_prompts(args: argparse.Namespace, load: Any, terminal: Terminal) -> int:
    """Refine the prompts; returns the exit code.

    Args:
        args: the arguments of the command.
        load: loads the pipeline that they name.
        terminal: for messages.
    """
    args.model, args.out, args.seed = args.model or "micro", args.out or "out", args.seed or 0
    if args.engine == "local":
        check_machine(args)  # workers of Ray may have devices and folders that this machine does not have
        check_models(args, args.model)
    folder, data = check_writable(args.out), _data(args, terminal)
    wanted_of(args, args.model)
    run, code = _collect(args, load, data, folder, terminal)
    return max(code, _finish(run, args, terminal))


def _data(args: argparse.Namespace, terminal: Terminal) -> DataSet:
    from refiner.data.prompts import PromptData
    from refiner.evaluate.refining import Prompts

    data = Prompts(PromptData(args.prompts), args.num_images or 1)
    tell_problems(data.problems, terminal)
    return data


def _collect(args: argparse.Namespace, load: Any, data: DataSet, folder: Path, terminal: Terminal) -> tuple[Run, int]:
    """Refine what is left; returns the run, and the exit code of the signal that ended it, else 0."""
    from refiner.evaluate.engines import Stop, patient, until
    from refiner.evaluate.harness import collect, describe, work
    from refiner.evaluate.refining import TASK, whole_batches

    stop = Stop()
    share_freed_memory()
    build = partial(build_refining, args, load)
    with engine_of(args) as ray:
        with terminal.waiting(f"loading {args.model}"):
            system: System = build() if ray is None else ray.deferred(build)
        source = {"specification": "prompts", "asked": _asked(data), "num_images": args.num_images or 1}
        description = describe(TASK, data, source, system, {})
        engine: Engine = until(stop, whole_batches(ray or work))
        engine = telling(patient(engine, stop, args.max_failures), terminal)
        with ended_by_signals(stop, terminal) as told, speed(terminal, "refine") as report:
            run = collect(data, system, description, folder, resume=args.resume, engine=engine, progress=report)
    if stop and told.code == DONE:
        terminal.complain(f"stopped: {stop.reason}")
    return run, told.code


def _asked(data: DataSet) -> str:
    """A digest of the prompts, without those that cannot be used."""
    from refiner.evaluate.harness import read_samples

    loaded = (sample for _, sample in read_samples(data, range(len(data.names))))
    return digest([getattr(sample, "prompt", "") for sample in loaded])


def build_refining(args: argparse.Namespace, load: Any) -> Refining:
    """Load the pipeline, and build the system that refines with it."""
    from refiner.evaluate.refining import Refining, refine_call
    from refiner.pipelines.judges import judges_of
    from refiner.pipelines.painting.families import family_of

    pipe, wanted = load(args), wanted_of(args, args.model)
    call = wanted.call_of(type(pipe.pipe))
    base = controlled(args.controller, pipe) if args.controller else pipe.refine_config
    config = measured(wanted.config_of(base), args.tool_records)
    config = dataclasses.replace(config, seed=None, batch_images=None)
    settings = {
        "model": args.model,
        "weights": weight_sums(args.model),
        "detector": pipe.detector.name,
        "judges": [judge.name for judge in judges_of(pipe.judge)],
        "config": dataclasses.asdict(config),
        "call": {**pipe.call_defaults, **call},
        "controller": args.controller,
        "inpainter": args.inpainter,
        "editor": args.editor,
        "reviser": args.reviser,
        "loras": [str(lora) for lora in args.lora],
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }
    return Refining(
        refine=refine_call(pipe, config, call),
        settings=settings,
        folder=Path(args.out),
        seed=args.seed,
        parts=(pipe.detector, pipe.reviser, pipe.inpainter, pipe.editor, *judges_of(pipe.judge)),
        batch_size=1 if family_of(pipe.pipe).single else args.batch_images,
        files=args.files,
        prices=args.prices,
    )


def _finish(run: Run, args: argparse.Namespace, terminal: Terminal) -> int:
    """Write the table and the contact sheet, and print the table; returns the exit code."""
    from refiner.reports.refinements import table_of, write_sheet, write_table

    table = table_of(run.records, run.samples)
    files = write_table(table, run.records, run.folder)
    lead = f"{table['done']} of {table['prompts']} prompts refined, {table['better']} images replaced by a better one."
    indices = [record["index"] for record in run.records]
    drawn = terminal.track(indices, "drawing")
    files.append(write_sheet(run.records, drawn, run.folder, lead=lead, total=len(indices)))
    tell_costs(run.ledgers(), args, terminal)

    def show() -> None:
        _show(table, terminal)
        for file in files:
            terminal.say(str(file))

    terminal.answer(args, table | {"files": list(map(str, files))}, show)
    if table["missing"]:
        terminal.complain(f"{table['missing']} prompts are left: continue with --resume.")
    return FAILED if table["errors"] or table["missing"] else DONE


def _show(table: Json, terminal: Terminal) -> None:
    from refiner.reports.plots import number, words

    grid = plain_grid()
    for name in ("mean of", "start", "kept", "change", "95 % interval"):
        grid.add_column(name, justify="left" if name == "mean of" else "right")
    for name, row in table["figures"].items():
        values = (number(row[column]) for column in ("start", "best", "change"))
        known = row["low"] is not None
        grid.add_row(Text(words(name)), *values, f"{number(row['low'])} to {number(row['high'])}" if known else "")
    terminal.out.print(grid)
    clean, failed = table["clean"], sum(table["errors"].values())
    said = f"{table['done']} of {table['prompts']} prompts refined; {table['better']} images replaced by a better one"
    terminal.say(f"{said}; without flaws: {clean['start']} at the start, {clean['best']} at the end")
    if failed:
        terminal.say(f"failed: {failed}")
