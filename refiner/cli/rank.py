"""``refiner rank``: compare generators on the same prompts, as models or as folders of their images."""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from refiner.cli.evaluate import SCORING, load_looker, speed, weight_sums
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_machine, machine_of
from refiner.cli.options import DONE, FAILED
from refiner.cli.view import Terminal, plain_grid
from refiner.errors import ConfigError, ModelNotFoundError
from refiner.files import Json, check_writable
from refiner.hub import read_card, resolve, verify
from refiner.machine import Machine

if TYPE_CHECKING:
    from PIL import Image

    from refiner.evaluate.entrants import Entrant, Option
    from refiner.evaluate.harness import Run, System
    from refiner.evaluate.ranking import Pictures, PromptSet
    from refiner.evaluate.systems import Looker
    from refiner.protocols import PaintJob

    Paint = Callable[[Sequence[PaintJob]], list[Image.Image]]

_EXAMPLES: Final = """examples:
  refiner rank quick=micro,num_inference_steps=4 usual=micro --prompts micro-prompts:20 --judge micro
  refiner rank ours=images/ours sdxl=stabilityai/stable-diffusion-xl-base-1.0,guidance_scale=6 --prompts prompts.json

A FOLDER holds one image per prompt, with the prompt's name: the image of prompt 00007 is 00007.png, .jpg or the like.
Prompts of a text file or a JSON list are named 00000, 00001 and so on. A MODEL is micro, a folder, or the hub id of a
diffusers text-to-image pipeline. Its options are arguments of the pipeline's call."""
_NAMED: Final = 20
"""How many failed images are printed one by one for each generator."""


def add_rank(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner rank``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="NAME=FOLDER|MODEL[,OPTION=VALUE...]",
        help="a generator, with a name that you choose",
    )
    parser.add_argument("--prompts", metavar="FILE", required=True, help="JSON, CSV or text; or micro-prompts:N")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--detector", default="micro", help="micro, a folder, or a hub id (micro)")
    parser.add_argument("--judge", help="HPS weights: micro, a folder, a file, or a hub id (none)")
    parser.add_argument(
        "--by", choices=("CAP", "HPS", "PAR"), default="CAP", help="metric that decides the order (CAP)"
    )
    parser.add_argument("--seed", type=int, default=0, help="all other seeds are derived from it (0)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="images per prompt: NAME-0, NAME-1, ... (1)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per batch (8)")
    add_machine(parser, pipeline=True)
    parser.add_argument("--out", metavar="DIR", default="rank", help="where records, tables and report go (rank)")
    parser.add_argument("--resume", action="store_true", help="continue the ranking in DIR; may add generators")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_rank)


def _rank(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.evaluate.entrants import parse_entrants
    from refiner.evaluate.ranking import Pictures, open_prompts

    machine = machine_of(args)
    entrants = parse_entrants(args.systems)
    if args.by == "HPS" and args.judge is None:
        raise ConfigError("--by HPS needs a judge: pass --judge.")
    prompts = open_prompts(args.prompts, seeds=args.seeds, limit=args.limit)
    data = {
        entrant.name: Pictures(prompts) if entrant.paints else Pictures.of_folder(prompts, entrant.place)
        for entrant in entrants
    }
    calls = {entrant.name: _call(entrant) for entrant in entrants if entrant.paints}
    tell_problems([*prompts.problems, *(problem for each in data.values() for problem in each.problems)], terminal)
    root = check_writable(args.out)
    shelf = _Shelf(machine)
    with terminal.waiting("loading models"):
        _check_words(entrants, calls, list(prompts.prompts.values()), shelf)
        looker = load_looker(args, Machine(device=machine.device))
    systems: dict[str, System] = {
        entrant.name: _generating(entrant, calls[entrant.name], looker, root, args, shelf) if entrant.paints else looker
        for entrant in entrants
    }
    runs = _collect(entrants, prompts, data, systems, root, args, terminal)
    return _finish(runs, prompts, data, root, args, terminal)


def _call(entrant: Entrant) -> dict[str, Option]:
    """Arguments of the pipeline's call: the saved ones, and the options of the command line, which win."""
    try:
        folder = resolve(entrant.place, "generator")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} It is not a folder of images either.") from error
    from refiner.pipelines.loading.written import call_hints, class_name, class_named, nearest, read_argument
    from refiner.pipelines.painting.families import FAMILIES, known_family
    from refiner.pipelines.saving.settings import SavedSettings

    name = class_name(folder)
    cls = class_named(name)
    if cls is None or known_family(cls) is None:
        raise ConfigError(f"Pipelines of class {name} are not supported: use one of {', '.join(FAMILIES)}.")
    hints = call_hints(cls)
    options = {}
    for name, value in entrant.options.items():
        if name not in hints:
            raise ConfigError(f"A call of {cls.__name__} takes no option {name!r}: use {nearest(name, hints)}.")
        options[name] = read_argument(name, (value,), hints[name])
    return {**SavedSettings.read(folder).call, **options}


class _Shelf:
    """The models of all generators, on a machine.

    Several generators may use one model with different options. Its files are hashed once, and it is loaded once as
    long as no other model is used in between.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.weights = functools.cache(weight_sums)
        self._model = ""
        self._pipe: Any = None

    def pipeline(self, model: str) -> Any:
        """Load a pipeline. The previous pipeline is released first."""
        if model != self._model:
            from diffusers import DiffusionPipeline

            self._model, self._pipe = "", None
            folder = resolve(model, "generator")
            verify(folder)
            self._pipe = DiffusionPipeline.from_pretrained(folder, dtype=self.machine.pipeline_dtype)
            self.machine.place(self._pipe)
            self._pipe.set_progress_bar_config(disable=True)
            self._model = model
        return self._pipe

    def identity(self, model: str) -> Json:
        """Checksums and dtype of the weights of a model."""
        return {"weights": self.weights(model), "dtype": str(self.machine.pipeline_dtype).removeprefix("torch.")}


def _check_words(
    entrants: Sequence[Entrant], calls: Mapping[str, Mapping[str, Option]], prompts: Sequence[str], shelf: _Shelf
) -> None:
    """Check that the bundled models know all words of the prompts and of their negative prompts."""
    from refiner.pipelines.painting.vocabulary import check_words

    for entrant in entrants:
        folder = resolve(entrant.place, "generator") if entrant.paints else Path(entrant.place)
        if entrant.paints and (folder / "card.json").exists() and read_card(folder).domain == "micro":
            negative = calls[entrant.name].get("negative_prompt")
            check_words([shelf.pipeline(entrant.place)], [*prompts, str(negative or "")])


def _generating(
    entrant: Entrant, call: Mapping[str, Option], looker: Looker, root: Path, args: argparse.Namespace, shelf: _Shelf
) -> System:
    """The system that generates with a model. The model is loaded for the first image."""
    from refiner.evaluate.systems import Generating
    from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings

    options = dict(call)
    sides: dict[str, Any] = {name: options.pop(name, None) for name in ("height", "width")}
    negative_prompt = options.pop("negative_prompt", None)

    def paint(jobs: Sequence[PaintJob]) -> list[Image.Image]:
        painter = DiffusersPainter(shelf.pipeline(entrant.place), PaintSettings(**sides, options=options))
        try:
            return painter.generate(jobs)
        except (TypeError, ValueError) as error:
            if not entrant.options:
                raise
            raise ConfigError(
                f"{entrant.place!r} cannot generate with the options of {entrant.source!r}, it fails with "
                f"{str(error)!r}: change the options."
            ) from error

    return Generating(
        paint=paint,
        settings={"model": entrant.place, **shelf.identity(entrant.place), "call": dict(call)},
        looker=looker,
        folder=root / entrant.name,
        seed=args.seed,
        negative_prompt=str(negative_prompt or ""),
        batch_size=args.batch_size,
    )


def _collect(
    entrants: Sequence[Entrant],
    prompts: PromptSet,
    data: dict[str, Pictures],
    systems: Mapping[str, System],
    root: Path,
    args: argparse.Namespace,
    terminal: Terminal,
) -> dict[str, Run]:
    """One run of the harness for each generator. Before the first run, all are checked against earlier records."""
    from refiner.evaluate.harness import RUN_FILE, check_same, collect, describe, read_description

    descriptions = {}
    for entrant in entrants:
        settings = {"specification": entrant.source, **prompts.settings}
        name, folder = entrant.name, root / entrant.name
        descriptions[name] = describe("realism", data[name], settings, systems[name], dict(SCORING))
        if (folder / RUN_FILE).exists():
            check_same(read_description(folder), descriptions[name], folder)
            if not args.resume:
                raise ConfigError(
                    f"{args.out!r} already holds records of {name!r}: pass --resume to continue that ranking, or name "
                    "another folder with --out."
                )
    runs = {}
    for name, description in descriptions.items():
        with speed(terminal, name) as report:
            runs[name] = collect(
                data[name], systems[name], description, root / name, resume=args.resume, progress=report
            )
    return runs


def _finish(
    runs: Mapping[str, Run],
    prompts: PromptSet,
    data: Mapping[str, Pictures],
    root: Path,
    args: argparse.Namespace,
    terminal: Terminal,
) -> int:
    """Write the tables and reports, and print the ranking; returns the exit code."""
    from refiner.evaluate.ranking import rank_runs, write_tables
    from refiner.evaluate.table import score
    from refiner.reports.evaluation import write_report
    from refiner.reports.ranking import write_rank_report

    shown = {name: each.painted(root / name) for name, each in data.items()}
    for name, run in runs.items():
        scored = score(run)
        write_report(run, scored, shown[name])
        for failure in scored.failures[:_NAMED]:
            terminal.complain(f"{name}: {failure.name}: {failure.kind}: {failure.detail}")
    document = rank_runs(runs, prompts.prompts_of, by=args.by)
    write_tables(document, root)
    page = write_rank_report(document, runs, shown, root)
    if args.json:
        terminal.document(document)
    else:
        _show(document, terminal)
        terminal.say(f"report: {page}")
    failed = {system["name"]: sum(system["errors"].values()) for system in document["systems"]}
    if any(failed.values()):
        counts = ", ".join(f"{count} of {name}" for name, count in failed.items() if count)
        terminal.complain(
            f"images without scores: {counts}; {document['pictures']} of {document['of']} images are compared."
        )
    return FAILED if any(failed.values()) else DONE


def _show(document: Json, terminal: Terminal) -> None:
    from refiner.evaluate.ranking import HIGHER_IS_BETTER, VARIANTS
    from refiner.reports.plots import short, words

    by, order = document["by"], document["orders"][document["by"]]
    table = plain_grid()
    table.add_column("", justify="right")
    table.add_column("generator", overflow="fold")
    names = [name for name in document["systems"][0]["figures"] if name not in VARIANTS]
    for name in names:
        table.add_column(f"{words(name)} {'↑' if name in HIGHER_IS_BETTER else '↓'}", no_wrap=True)
    for system in document["systems"]:
        cells = [Text(str(system["place"])), Text(system["name"])]
        for name in names:
            value, low, high = (short(system["figures"][name][key]) for key in ("value", "low", "high"))
            cells.append(Text.assemble(value, "\n", (f"{low}–{high}", "dim")))
        table.add_row(*cells)
    terminal.out.print(table)
    for one, other in itertools.pairwise(order):
        share = document["wins"][by][one][other]["overall"]
        terminal.say(f"{one} against {other}: better {by} in {100 * share:.3g} % of the bootstrap draws")
    compared = f"{document['pictures']} of {document['of']} images, {document['prompts']} prompts"
    terminal.say(f"{compared}; 95 % intervals below the figures")
    terminal.say(f"signature: {document['signature']}")
