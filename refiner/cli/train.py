"""``refiner train``: train a detector or another model by a recipe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.table import Table

from refiner.cli.options import DONE
from refiner.cli.view import Terminal


def add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="its name; --list shows them all")
    parser.add_argument("--list", action="store_true", help="show the recipes: what each makes, and how long it takes")
    parser.add_argument(
        "--data", metavar="ID", help="samples to learn from, as for refiner evaluate, such as micro:1000"
    )
    parser.add_argument("--config", metavar="FILE", help="JSON of the recipe's settings that differ from its own")
    parser.add_argument("--out", metavar="DIR", help="folder of the run; the model goes to DIR/model (runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (the best one that there is)")
    parser.add_argument("--dtype", metavar="NAME", help="of autocast: float32 or bfloat16 (the recipe's own)")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_train, check=lambda args: _check(parser, args))


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.list == (args.recipe is not None):
        parser.error("name a RECIPE, or ask for --list: one of the two")


def _train(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.list:
        return _list(args, terminal)
    from refiner.training.recipes import read_document, run_recipe
    from refiner.training.runs import Run

    folder = Path(args.out or f"runs/{args.recipe}")

    def run(stored_dtype: str | None) -> Run:
        console = terminal.err
        return Run(folder=folder, device=args.device, dtype=args.dtype or stored_dtype, console=console)

    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)  # small models lose more to threads that wait for each other than they gain
    document = None if args.config is None else read_document(args.config)
    model = run_recipe(args.recipe, folder, data=args.data, document=document, resume=args.resume, run=run)
    from refiner.training.processes import is_main

    if not is_main():
        return DONE
    if args.json:
        terminal.document({"recipe": args.recipe, "files": {"run": str(folder), "model": str(model)}})
    else:
        terminal.say(str(model))
    return DONE


def _list(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.training import RECIPES
    from refiner.training.recipes import load_recipe

    with terminal.waiting("reading the recipes"):
        recipes = [load_recipe(name) for name in RECIPES]
    if args.json:
        rows = [
            {"name": recipe.name, "help": recipe.help, "budget": recipe.budget, "data": recipe.data or None}
            for recipe in recipes
        ]
        terminal.document(rows)
        return DONE
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("recipe", "makes", "takes", "learns from"):
        table.add_column(name, overflow="fold")
    for recipe in recipes:
        table.add_row(recipe.name, recipe.help, recipe.budget, recipe.data or "what it draws itself")
    terminal.out.print(table)
    return DONE
