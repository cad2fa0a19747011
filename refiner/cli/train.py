"""``refiner train``: train a detector or another model with a recipe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.cli.machine import add_device, check_device
from refiner.cli.options import DONE
from refiner.cli.view import Terminal, plain_grid
from refiner.files import Json

if TYPE_CHECKING:
    from refiner.training import Row


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner train``."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="name of the recipe; --list shows all of them")
    parser.add_argument("--list", action="store_true", help="list the recipes: what each trains, and how long it takes")
    parser.add_argument(
        "--data", metavar="ID", help="dataset to learn from, as for refiner evaluate, such as micro:1000"
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        action="append",
        default=[],
        help="a config of the recipe, such as legion-paper or micro, or a JSON file of settings to change; may be "
        "repeated",
    )
    parser.add_argument(
        "--stage",
        type=_stage,
        metavar="STAGE",
        help="stage of the training, for recipes with stages: 1 or 2, sft or grpo",
    )
    parser.add_argument("--base", metavar="ID", help="model to start from, a folder or hub id (the config's own)")
    words = "only show what would be trained, an estimate of the memory, and the first batch as images in DIR/dry-run"
    parser.add_argument("--dry-run", action="store_true", help=words)
    parser.add_argument("--out", metavar="DIR", help="folder of the run; the model goes to DIR/model (runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    add_device(parser)
    parser.add_argument("--dtype", metavar="NAME", help="autocast dtype: float32 or bfloat16 (the recipe's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_train, check=lambda args: _check(parser, args))


def _stage(text: str) -> int | str:
    """A stage by its number or name; the recipe's settings check it."""
    return int(text) if text.isdecimal() else text


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.list == (args.recipe is not None):
        parser.error("expected either a RECIPE or --list")


def _train(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.list:
        return _list(args, terminal)
    check_device(args.device)
    from refiner.training.recipes import Order, describe, run_recipe
    from refiner.training.runs import Run

    folder = Path(args.out or f"runs/{args.recipe}")

    def run(stored_dtype: str | None) -> Run:
        if "OMP_NUM_THREADS" not in os.environ:
            import torch

            torch.set_num_threads(1)  # with small models, threads that wait for each other cost more than they gain
        console = terminal.err
        return Run(folder=folder, device=args.device, dtype=args.dtype or stored_dtype, console=console)

    changes = {name: value for name in ("stage", "base") if (value := getattr(args, name)) is not None}
    order = Order(args.recipe, data=args.data, configs=args.config, changes=changes, resume=args.resume)
    if args.dry_run:
        return _describe(args, terminal, describe(order, folder, run))
    model = run_recipe(order, folder, run)
    from refiner.training.launching import is_main

    if not is_main():
        return DONE
    terminal.answer(args, {"recipe": args.recipe, "files": {"run": str(folder), "model": str(model)}}, str(model))
    return DONE


def _describe(args: argparse.Namespace, terminal: Terminal, found: Json) -> int:
    if args.json:
        terminal.document(found)
        return DONE
    for branch, part in found.get("branches", {"": found}).items():
        if branch:
            terminal.say(branch)
        _show(part, terminal)
    return DONE


def _show(found: Json, terminal: Terminal) -> None:
    table = plain_grid(gap=2)
    for title in ("", ""):
        table.add_column(title, overflow="fold")
    for name in ("samples", "steps", "images_per_step", "tokens"):
        if name in found:
            table.add_row(name.replace("_", " "), f"{found[name]:,}")
    for name, value in found["parameters"].items():
        table.add_row(f"parameters, {name}", f"{value:,}")
    for name, value in found["memory_gib"].items():
        table.add_row(f"memory, {name}", f"about {value:.2f} GiB")
    terminal.out.print(table)
    for file in found["files"]:
        terminal.say(file)


def _list(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.training import RECIPES

    if args.json:
        rows = [
            {"name": name, "help": row.help, "budget": row.budget, "data": row.data or None}
            for name, row in RECIPES.items()
        ]
        terminal.document(rows)
        return DONE
    table = plain_grid()
    for title in ("recipe", "trains", "takes", "learns from"):
        table.add_column(title, overflow="fold")
    for name, row in RECIPES.items():
        table.add_row(name, row.help, row.budget, _learns_from(row))
    terminal.out.print(table)
    return DONE


def _learns_from(row: Row) -> str:
    own = "its own generated data" if row.data_optional or not row.data else ""
    return ", or ".join(filter(None, (own, row.data)))
