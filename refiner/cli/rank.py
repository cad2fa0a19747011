"""``refiner rank``: compare generators on the same prompts, as models or as folders of their images."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from refiner.cli.endpoint import add_endpoint, tell_costs
from refiner.cli.evaluate import load_looker, weight_sums
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import DETECTOR, check_detector
from refiner.cli.rank_runs import Contest, collect_one, collect_several
from refiner.cli.rank_tables import finish_one, finish_several
from refiner.cli.view import Terminal
from refiner.errors import ConfigError, InputError, ModelNotFoundError
from refiner.files import Json, check_writable
from refiner.hub import read_card, resolve, verify
from refiner.ledger import Ledger, added
from refiner.machine import Machine

if TYPE_CHECKING:
    from PIL import Image

    from refiner.evaluate.entrants import Entrant, Option
    from refiner.evaluate.harness import Run
    from refiner.evaluate.systems import Looker, Painting
    from refiner.protocols import PaintJob

_EXAMPLES: Final = """examples:
  refiner rank quick=micro,num_inference_steps=4 usual=micro --prompts micro-prompts:20 --judge micro
  refiner rank ours=images/ours sdxl=stabilityai/stable-diffusion-xl-base-1.0,guidance_scale=6 --prompts prompts.json
  refiner rank a=images/a b=images/b c=images/c --prompts prompts.json --detector micro --detector micro:probe

A FOLDER holds one image per prompt, with the prompt's name: the image of prompt 00007 is 00007.png, .jpg or the like.
Prompts of a text file or a JSON list are named 00000, 00001 and so on. A MODEL is micro, a folder, or the hub id of a
diffusers text-to-image pipeline. Its options are arguments of the pipeline's call. With several detectors, the images
are generated once; each detector ranks them, and Kendall's tau says how far two rankings agree (1: the same order, -1:
the reversed one)."""
DEFAULT: Final = "micro"
"""The detector if none is named."""


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
    words = f"{DETECTOR}; may be repeated, to see how the rankings of several detectors agree (micro)"
    parser.add_argument("--detector", action="append", metavar="ID", help=words)
    parser.add_argument("--judge", help="HPS weights: micro, a folder, a file, or a hub id (none)")
    parser.add_argument(
        "--by", choices=("CAP", "HPS", "PAR"), default="CAP", help="metric that decides the order (CAP)"
    )
    parser.add_argument("--seed", type=int, default=0, help="all other seeds are derived from it (0)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="images per prompt: NAME-0, NAME-1, ... (1)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images per batch (8)")
    add_endpoint(parser)
    add_machine(parser, pipeline=True)
    parser.add_argument("--out", metavar="DIR", default="rank", help="where records, tables and report go (rank)")
    words = "continue the ranking in DIR; may add generators, or detectors to several"
    parser.add_argument("--resume", action="store_true", help=words)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_rank)


def _rank(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.evaluate.entrants import parse_entrants
    from refiner.evaluate.ranking import Pictures, open_prompts

    check_machine(args)
    detectors = args.detector or [DEFAULT]
    entrants = parse_entrants(args.systems)
    _check(args, detectors, entrants)
    for detector in detectors:
        check_detector(detector)
    prompts = open_prompts(args.prompts, seeds=args.seeds, limit=args.limit)
    for entrant in entrants:
        if entrant.paints:
            _check_entrant(entrant)
    data = {
        entrant.name: Pictures(prompts) if entrant.paints else Pictures.of_folder(prompts, entrant.place)
        for entrant in entrants
    }
    calls = {entrant.name: _call(entrant) for entrant in entrants if entrant.paints}
    tell_problems([*prompts.problems, *(problem for each in data.values() for problem in each.problems)], terminal)
    root = check_writable(args.out)
    machine = machine_of(args)
    shelf = _Shelf(machine)
    with terminal.waiting("loading models"):
        _check_words(entrants, calls, list(prompts.prompts.values()), shelf)
        lookers = _lookers(detectors, args, Machine(device=machine.device))
    paintings = {
        entrant.name: _painting(entrant, calls[entrant.name], root, args, shelf)
        for entrant in entrants
        if entrant.paints
    }
    contest = Contest({entrant.name: entrant.source for entrant in entrants}, prompts, data, paintings, root)
    if len(lookers) == 1:
        runs = collect_one(contest, lookers[detectors[0]], args, terminal)
        tell_costs(_costs(runs.values()), args, terminal)
        return finish_one(contest, runs, args, terminal)
    several = collect_several(contest, lookers, args, terminal)
    tell_costs(_costs(run for runs in several.values() for run in runs.values()), args, terminal)
    return finish_several(contest, several, args, terminal)


def _costs(runs: Iterable[Run]) -> Mapping[str, Ledger]:
    return functools.reduce(added, (run.ledgers() for run in runs), {})


def _check(args: argparse.Namespace, detectors: Sequence[str], entrants: Sequence[Entrant]) -> None:
    """Check what needs no file and no model."""
    from refiner.evaluate.audit import DETECTORS, ORDERS

    if args.by == "HPS" and args.judge is None:
        raise ConfigError("--by HPS needs a judge: pass --judge.")
    if len(detectors) == 1:
        return
    if len(set(detectors)) < len(detectors):
        raise ConfigError(f"Expected different detectors, got {', '.join(detectors)}: name each one once.")
    if args.by not in ORDERS:
        raise ConfigError(
            f"--by {args.by} does not depend on the detector: pass --by {' or --by '.join(ORDERS)}, or one detector."
        )
    if any(entrant.name.casefold() == DETECTORS for entrant in entrants):
        raise InputError(
            f"Expected another name than {DETECTORS!r} for a generator, because a folder of results has it: change it."
        )


def _lookers(detectors: Sequence[str], args: argparse.Namespace, machine: Machine) -> dict[str, Looker]:
    """A looker for each detector; all have the same judge."""
    from refiner.detectors import load_detector

    first, *others = detectors
    looker = load_looker(args, machine, first)
    loaded = {name: load_detector(name, machine.device, machine.dtype) for name in others}
    return {first: looker} | {name: replace(looker, detector=detector) for name, detector in loaded.items()}


def _call(entrant: Entrant) -> dict[str, Option]:
    """Arguments of the pipeline's call: the saved ones, and the options of the command line, which win."""
    from refiner.pipelines.loading.written import call_hints, class_name, class_named
    from refiner.pipelines.painting.families import FAMILIES, known_family
    from refiner.pipelines.saving.settings import SavedSettings

    folder = resolve(entrant.place, "generator")
    name = class_name(folder)
    cls = class_named(name)
    if cls is None or known_family(cls) is None:
        raise ConfigError(f"Pipelines of class {name} are not supported: use one of {', '.join(FAMILIES)}.")
    return {**SavedSettings.read(folder).call, **_options(entrant, name, call_hints(cls))}


def _options(entrant: Entrant, cls: str, hints: Mapping[str, Any]) -> dict[str, Option]:
    """The options of the command line, in the types that a call of a class of pipelines takes."""
    from refiner.pipelines.loading.written import nearest, read_argument

    for name in entrant.options:
        if name not in hints:
            raise ConfigError(f"A call of {cls} takes no option {name!r}: use {nearest(name, hints)}.")
    return {name: read_argument(name, (value,), hints[name]) for name, value in entrant.options.items()}


def _check_entrant(entrant: Entrant) -> None:
    """Check a generator's place and options as far as this needs neither its weights nor torch."""
    from refiner.pipelines.loading.parts import find_source
    from refiner.pipelines.loading.written import class_name, index_of, source_hints

    try:
        find_source(entrant.place)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(f"{error} It is not a folder of images either.") from error
    if (folder := index_of(entrant.place)) is None:
        return
    cls = class_name(folder)
    if hints := source_hints(cls):
        _options(entrant, cls, hints)


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


def _painting(
    entrant: Entrant, call: Mapping[str, Option], root: Path, args: argparse.Namespace, shelf: _Shelf
) -> Painting:
    """The system that generates with a model. The model is loaded for the first image."""
    from refiner.evaluate.systems import Painting
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

    return Painting(
        paint=paint,
        settings={"model": entrant.place, **shelf.identity(entrant.place), "call": dict(call)},
        folder=root / entrant.name,
        seed=args.seed,
        negative_prompt=str(negative_prompt or ""),
        batch_size=args.batch_size,
    )
