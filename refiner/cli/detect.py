"""``refiner detect``: find the flaws of images, a few or many thousands."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from refiner.cli.detect_results import finish, telling
from refiner.cli.endpoint import add_endpoint
from refiner.cli.evaluate import add_engine, engine_of, speed
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_machine, check_device, check_machine
from refiner.cli.options import DETECTOR, DONE, GROUNDER, USER_ERROR, check_detector, count
from refiner.cli.stopping import ended_by_signals
from refiner.cli.view import Terminal
from refiner.data.pictures import Pictures, Prompted, find_pictures
from refiner.data.samples import digest
from refiner.data.sources import contents, open_data, sources_help
from refiner.errors import InputError
from refiner.files import Json, check_writable
from refiner.ledger import ledgers_of
from refiner.machine import dtype_of, share_freed_memory

if TYPE_CHECKING:
    from refiner.data.samples import DataSet
    from refiner.evaluate.detecting import Detecting
    from refiner.evaluate.distributed import RayEngine
    from refiner.evaluate.engines import Stop
    from refiner.evaluate.harness import Engine, Run, System
    from refiner.ledger import Prices

_EXAMPLES: Final = """examples:
  refiner detect picture.png other.png --detector micro
  refiner detect pictures/ --detector vlm:MODEL@http://127.0.0.1:8000/v1 --out found
  refiner detect 'runs/**/*.png' @more.txt --detector micro --out found --resume
  refiner report found

With --out, one line of records.jsonl is written for each image as soon as it is done. A run that was stopped goes on
with --resume: what is done is not asked for again, what failed is tried again. A detector behind an endpoint works on
several images at the same time."""


def add_detect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner detect``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    words = "image files, folders (with all images below them), patterns such as 'runs/**/*.png', and @FILE as --list"
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=words)
    words = "a file with the path of an image in each line; - reads standard input; may be repeated"
    parser.add_argument("--list", metavar="FILE", action="append", default=[], dest="lists", help=words)
    parser.add_argument("--data", metavar="SPEC", help=f"a data set in place of image files: {sources_help()}")
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N samples of --data")
    parser.add_argument("--detector", default="micro", help=f"{DETECTOR} (micro)")
    parser.add_argument("--grounder", help=GROUNDER)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--prompt", metavar="TEXT", help="prompt of the images, for detectors that read it")
    wanted.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, one for each image")
    words = "images that a detector on this machine gets at once (8)"
    parser.add_argument("--batch-size", type=count, default=8, metavar="N", help=words)
    add_endpoint(parser)
    add_machine(parser, pipeline=False)
    _add_run(parser.add_argument_group("run"))
    parser.set_defaults(run=_detect, check=lambda args: _check(parser, args))


def _add_run(run: argparse._ArgumentGroup) -> None:
    words = "where to write the records, which refiner report and refiner verify read; for up to 100 images also the "
    words += "images with their regions marked"
    run.add_argument("--out", metavar="DIR", help=words)
    run.add_argument("--resume", action="store_true", help="continue the run in DIR; retry failed images")
    words = "stop when the model has failed on N images in a row (20)"
    run.add_argument("--max-failures", type=count, default=20, metavar="N", help=words)
    add_engine(run)
    run.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.images or args.lists) == (args.data is not None):
        parser.error("expected either IMAGE files or --data")
    if args.limit is not None and args.data is None:
        parser.error("--limit needs --data")
    if args.resume and args.out is None:
        parser.error("--resume needs --out")


def _detect(args: argparse.Namespace, terminal: Terminal) -> int:
    if args.engine == "local":
        check_machine(args)  # workers of Ray may have devices and folders that this machine does not have
        check_detector(args.detector, args.grounder)
    with _folder(args.out) as folder:
        images = _data(args, terminal) if args.data else _files(args, terminal)
        if isinstance(images, Pictures) and not any(Path(name).is_file() for name in images.names):
            return _nothing(images, args, terminal)
        run, code = _collect(args, images, folder, terminal)
        return max(code, finish(run, images, args, terminal))


@contextmanager
def _folder(out: str | None) -> Iterator[Path]:
    """The folder of the run; a temporary one if nothing is to be kept."""
    if out is not None:
        yield check_writable(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _nothing(images: Pictures, args: argparse.Namespace, terminal: Terminal) -> int:
    """Say what is wrong with each file, if there is none that could be an image."""
    for index in range(len(images.names)):
        try:
            images.load(index)
        except InputError as error:
            terminal.complain(error)
    if args.json:
        terminal.document([])
    return USER_ERROR


def _files(args: argparse.Namespace, terminal: Terminal) -> Pictures:
    """The image files, with a prompt each if there are any."""
    names = find_pictures(args.images, args.lists)
    return Pictures(names, _prompts(args, names, terminal))


def _data(args: argparse.Namespace, terminal: Terminal) -> DataSet:
    """The samples of a data set, with their own prompts, or else the one prompt for all."""
    data = open_data(args.data, prompts=args.prompts, limit=args.limit)
    tell_problems(data.problems, terminal)
    return data if args.prompt is None else Prompted(data, args.prompt)


def _prompts(args: argparse.Namespace, names: tuple[str, ...], terminal: Terminal) -> tuple[str | None, ...]:
    """The prompt of each image, or None if there is none."""
    if args.prompts is None:
        return (args.prompt,) * len(names)
    from refiner.data.problems import Problem
    from refiner.data.prompts import match_prompts, read_prompts

    problems: list[Problem] = []
    prompts = read_prompts(args.prompts, problems)
    keys = match_prompts(names, prompts, args.prompts, [])
    detail = f"{args.prompts} holds no prompt for this image, so it is analysed without one."
    problems += [Problem("missing_prompt", name, "", detail) for name in names if name not in keys]
    tell_problems(problems, terminal)
    return tuple(prompts[keys[name]] if name in keys else None for name in names)


def _source(args: argparse.Namespace, images: DataSet) -> Json:
    """What the records depend on besides the detector, for ``run.json``."""
    if args.data is None:
        asked = [prompt or "" for prompt in images.prompts] if isinstance(images, Pictures) else []
        return {"specification": "files", "asked": digest(asked)}
    names = ("prompts", "limit", "prompt")
    given = {"specification": args.data, "references": None, **{name: getattr(args, name) for name in names}}
    return given | {"contents": contents(args.data, prompts=args.prompts)}


def _collect(args: argparse.Namespace, images: DataSet, folder: Path, terminal: Terminal) -> tuple[Run, int]:
    """Analyse the images that are left; returns the run, and the exit code of the signal that ended it, else 0."""
    from refiner.evaluate.detecting import TASK, set_aside
    from refiner.evaluate.engines import Stop
    from refiner.evaluate.harness import collect, describe

    load = partial(load_detecting, args.detector, args.grounder, args.device, args.dtype, args.batch_size)
    stop = Stop()
    share_freed_memory()
    with engine_of(args) as ray:
        with terminal.waiting("loading the detector"):
            system = load() if ray is None else ray.deferred(load)
        description = describe(TASK, images, _source(args, images), system, {})
        if not args.resume and (kept := set_aside(folder)):
            terminal.complain(f"the records of the earlier run in {str(folder)!r} are kept as {kept}.")
        engine = telling(_engine(args, system, ray, stop, folder), terminal)
        with ended_by_signals(stop, terminal) as told, speed(terminal, "detect", _cost(system, args.prices)) as report:
            run = collect(images, system, description, folder, resume=args.resume, engine=engine, progress=report)
    if stop and told.code == DONE:
        terminal.complain(f"stopped: {stop.reason}")
    return run, told.code


def load_detecting(
    detector: str, grounder: str | None, device: str | None, dtype: str | None, batch_size: int
) -> Detecting:
    """Load a detector, as the options of these names say."""
    from refiner.detectors import load_detector
    from refiner.evaluate.detecting import Detecting

    check_device(device)
    loaded = load_detector(detector, device, dtype_of(dtype), grounder=grounder)  # torch only for models that run here
    return Detecting(loaded, batch_size=batch_size)


def _engine(args: argparse.Namespace, system: System, ray: RayEngine | None, stop: Stop, folder: Path) -> Engine:
    from refiner.evaluate.detecting import Detecting, located
    from refiner.evaluate.engines import patient, several, until
    from refiner.evaluate.harness import work

    together = system.concurrency if isinstance(system, Detecting) else 1
    engine = until(stop, ray or work)
    if ray is None and together > 1:
        engine = several(2 * together, stop)  # while some images are read or drawn, others wait for the server
    return located(patient(engine, stop, args.max_failures), folder, args.data)


def _cost(system: System, prices: Prices | None) -> Callable[[], str]:
    """What the chat models in this process have cost so far, in words, for the progress bar."""
    from refiner.evaluate.detecting import Detecting

    asked = [system] if isinstance(system, Detecting) else []  # workers of Ray count their own costs

    def told() -> str:
        ledgers = ledgers_of(asked)
        tokens = sum(ledger.prompt_tokens + ledger.completion_tokens for ledger in ledgers.values())
        costs = [None if prices is None else prices.cost(name, ledger) for name, ledger in ledgers.items()]
        known = [cost for cost in costs if cost is not None]
        if prices is not None and known and len(known) == len(costs):
            return f"{sum(known):.4g} {prices.currency}"
        return f"{tokens:,} tokens" if tokens else ""

    return told
