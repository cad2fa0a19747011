"""``refiner micro``: the bundled models and the micro world (small drawn images with exact ground truth)."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import count
from refiner.cli.view import Terminal, plain_grid
from refiner.files import Json, atomic_write, check_writable, dumps
from refiner.images import save_png
from refiner.repairs import TABLE_FILE, TOOLS


def add_micro(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands ``render``, ``build`` and ``bench``."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    render = commands.add_parser("render", help="draw a contact sheet of scenes and flaws of the micro world")
    render.add_argument("--seed", type=int, default=0, help="random seed (0)")
    render.add_argument("--out", metavar="DIR", default="out", help="folder for micro.png (out)")
    render.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    render.set_defaults(run=_render)
    build = commands.add_parser("build", help="train the bundled models again (hours)")
    build.add_argument("--runs", metavar="DIR", default="runs", help="folder for checkpoints, to resume from (runs)")
    build.add_argument("--out", metavar="DIR", help="folder for the weights (the package's own folder)")
    build.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    build.set_defaults(run=_build)
    bench = commands.add_parser("bench", help="measure what refinement improves, compared with controls of equal cost")
    bench.add_argument("--prompts", type=count, default=100, help="held-out prompts (100)")
    bench.add_argument("--seeds", type=count, default=3, help="seeds of each prompt (3)")
    bench.add_argument("--detector", help="detector that finds the flaws to fix (the bundled pipeline's own)")
    words = "compare tools instead, each alone and all by a policy: a list of inpaint, edit and regenerate"
    bench.add_argument("--tools", type=lambda text: text.split(","), metavar="NAME,NAME", help=words)
    bench.add_argument("--reviser", help="model that revises prompts: template, or chat:MODEL[@URL] (template)")
    add_machine(bench, pipeline=True, offload=False)
    bench.add_argument(
        "--out", metavar="DIR", default="runs/bench", help="folder for records, to resume from (runs/bench)"
    )
    bench.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    bench.set_defaults(run=_bench)
    tools = commands.add_parser("tools", help="count how often each tool repairs each kind of flaw (minutes)")
    tools.add_argument("--prompts", type=count, default=32, help="scenes that no benchmark uses (32)")
    tools.add_argument("--seeds", type=count, default=1, help="seeds of each scene (1)")
    add_machine(tools, pipeline=True, offload=False)
    tools.add_argument(
        "--out", metavar="DIR", default="runs/tools", help="folder for records and tools.json (runs/tools)"
    )
    tools.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    tools.set_defaults(run=_tools)


def _render(args: argparse.Namespace, terminal: Terminal) -> int:
    folder = check_writable(args.out)
    from refiner.reports.contact_sheet import contact_sheet

    path = save_png(contact_sheet(args.seed), folder / "micro.png")
    terminal.answer(args, {"files": {"sheet": str(path)}}, str(path))
    return 0


def _build(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.hub import MICRO_WEIGHTS

    runs, out = check_writable(args.runs), check_writable(args.out or MICRO_WEIGHTS)
    from refiner.training.build import build

    build(runs, out, terminal.err)
    terminal.answer(args, {"files": {path.name: str(path) for path in sorted(Path(out).iterdir())}}, str(out))
    return 0


def _bench(args: argparse.Namespace, terminal: Terminal) -> int:
    check_machine(args)
    folder = check_writable(args.out)
    with terminal.waiting("loading micro"):
        from refiner.pipelines.bench import run
        from refiner.pipelines.loading.placing import load_refined

        pipe = load_refined("micro", machine_of(args), detector=args.detector, reviser=args.reviser)
    track = functools.partial(terminal.track, what="refining")
    report: Json
    if args.tools is None:
        report = run(pipe, args.prompts, args.seeds, folder, track)
    else:
        from refiner.pipelines.bench_tools import compare_tools, with_editor

        report = compare_tools(with_editor(pipe), args.tools, args.prompts, args.seeds, folder, track)
    terminal.answer(args, report, lambda: _show_bench(report, terminal))
    return 0


def _tools(args: argparse.Namespace, terminal: Terminal) -> int:
    check_machine(args)
    folder = check_writable(args.out)
    with terminal.waiting("loading micro"):
        from refiner.pipelines.bench_tools import count_tools, with_editor
        from refiner.pipelines.loading.placing import load_refined

        pipe = with_editor(load_refined("micro", machine_of(args)))
    track = functools.partial(terminal.track, what="refining")
    table: Json = count_tools(pipe, TOOLS, args.prompts, args.seeds, folder, track)
    file = Path(folder) / TABLE_FILE
    atomic_write(file, dumps(table) + "\n")
    terminal.answer(args, {"table": table, "files": {"table": str(file)}}, str(file))
    return 0


def _show_bench(report: Json, terminal: Terminal) -> None:
    table = plain_grid()
    columns = ("oracle_flaws", "oracle_area", "denoiser_rows", "detector_calls", "seconds")
    table.add_column("system")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for system, row in report["systems"].items():
        table.add_row(system, *(f"{row[name]:.4g}" for name in columns))
    terminal.out.print(table)
    for pair, row in report["paired"].items():
        terminal.say(f"{pair}: {_change(row)}")
    for system, row in report["signs"].items():
        if row is not None and row["signs"]:
            told = f"{row['oracle_signs']} by the referee, {row['text_signs']} by the reader of lettering"
            terminal.say(f"wrong signs of {system}, of {row['signs']}: {told}")
    never = report["never_worse"]
    terminal.say(
        f"never worse: {never['violations']} violations in {never['runs']} runs; "
        f"largest difference outside accepted masks: {never['outside_max_diff']}"
    )


def _change(row: Json) -> str:
    low, high = row["ci95"]
    if row["change"] is None:
        return "the control has no flaws to compare with"
    if low is None:
        return f"{row['change']:+.1%} oracle flaws (interval not known)"
    return f"{row['change']:+.1%} oracle flaws (95 % interval {low:+.1%} to {high:+.1%})"
