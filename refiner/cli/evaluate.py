"""``refiner evaluate``: measure detectors, generators and refinement on any number of images."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.progress import TextColumn, TimeRemainingColumn

from refiner.cli.endpoint import add_endpoint
from refiner.cli.evaluate_files import add_files, tell_problems
from refiner.cli.evaluate_tables import finish, finish_all, tell_shards
from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import check_detector, count, probability
from refiner.cli.painting import CONTROLLERS, add_image, add_weights, check_models, controlled, wanted_of
from refiner.cli.view import Terminal, progress
from refiner.data.sources import contents, known_names, sources_help
from refiner.errors import ConfigError
from refiner.files import Json
from refiner.records import derive_seed

if TYPE_CHECKING:
    from refiner.data.samples import DataSet, Sample
    from refiner.evaluate.distributed import RayEngine
    from refiner.evaluate.harness import Progress as Reporting
    from refiner.evaluate.harness import Run, Shard, System
    from refiner.evaluate.systems import Looker
    from refiner.machine import Machine
    from refiner.metrics.bertscore import BertScore
    from refiner.metrics.hps.scorer import HPSScorer
    from refiner.pipelines import RefinedPipeline
    from refiner.types import RefinementResult

SCORING: Final[Mapping[str, float | str]] = {
    "threshold": 0.5, "view": "full", "region": "union", "stretch": "minmax", "unreadable": "miss",
    "matching": "hungarian",
}  # fmt: skip
"""Settings of the scores that the records do not depend on; ``--rescore`` may change them."""
_EVERY: Final = 30.0
"""Seconds between two lines of progress if stderr is not a terminal."""
_TASKS: Final[Mapping[str, str]] = {
    "detection": "generated or real (AJ), and whether heat maps lie on the flaws",
    "localization": "predicted against true masks (PAD, mIoU, F1, region IoU, heat maps)",
    "defects": "predicted against true defects, by type (SDG-Eval: DetTypeF1, ClnAcc, BoxF1, DescCos, ImpAcc)",
    "explanation": "predicted against true texts (SemAP, SemF1, ROUGE-L, BLEU-2, CSS, accuracy, region IoU)",
    "checklist": "the share of the prompts' statements that holds, by kind (object, count, attribute, relation, text)",
    "text": "the words that the prompts ask for against what the images say (word accuracy, normalised edit distance)",
    "realism": "how real images look, by generator (MAI, AF, CAP, PAR, HPS)",
    "refinement": "before against after (HPS, PAR, flaws, SemAP)",
}

_DETECTORS: Final[Mapping[str, str | None]] = {"refinement": None, "checklist": None, "text": "text"}
"""The default detectors of tasks, if not ``micro``."""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each task, ``merge``, and the commands that only score files."""
    commands = parser.add_subparsers(title="tasks", required=True, metavar="TASK")
    for name, help_ in _TASKS.items():
        task = commands.add_parser(name, help=help_)
        _add_data(task)
        _add_models(task, name)
        if name == "refinement":
            add_image(task.add_argument_group("images"))
            words = (
                "a run each for refiner, LEGION's two controllers and no refinement, and their growth of HPS and PAR"
            )
            task.add_argument_group("comparison").add_argument("--peers", action="store_true", help=words)
        if name in ("detection", "localization"):
            _add_perturbations(task)
        add_endpoint(task)
        add_machine(task, pipeline=name == "refinement")
        _add_run(task)
        task.set_defaults(run=_evaluate, task=name)
    merge = commands.add_parser("merge", help="join the shards of a run and make its table")
    merge.add_argument("folders", nargs="+", metavar="DIR", help="folders that --shard wrote")
    merge.add_argument("--out", metavar="DIR", required=True, help="where the joined run goes; may be a DIR")
    _add_records(merge)
    merge.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    merge.set_defaults(run=_merge)
    add_files(commands)


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="SPEC", help=sources_help())
    data.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, for a folder")
    data.add_argument("--references", metavar="FILE", help="AnomReason's JSON of file name -> anomalies, for a folder")
    data.add_argument("--limit", type=count, metavar="N", help="only the first N samples")


def _add_models(parser: argparse.ArgumentParser, task: str) -> None:
    models = parser.add_argument_group("models and metrics")
    if task == "refinement":
        models.add_argument("--model", default="micro", help="micro, a folder, or a hub id of a pipeline (micro)")
        models.add_argument(
            "--strategy", choices=("auto", "inpaint", "regenerate"), help="how flaws are fixed (the model's own: auto)"
        )
        words = "maximum number of rounds after the start image (the model's own: 5)"
        models.add_argument("--rounds", type=int, help=words)
        models.add_argument("--seed", type=int, default=0, help="all other seeds are derived from it (0)")
    default = _DETECTORS.get(task, "micro")
    own = default or "the model's own"
    words = "checklist:MODEL or checklist:MODEL@URL" if task == "checklist" else f"micro, a folder, or a hub id ({own})"
    models.add_argument("--detector", default=default, help=words)
    if task == "refinement":
        add_weights(models)
    if task in ("realism", "refinement"):
        words = "the model's own" if task == "refinement" else "none"
        models.add_argument("--judge", help=f"HPS weights: micro, a folder, a file, or a hub id ({words})")
    if task in ("explanation", "refinement"):
        words = "none" if task == "refinement" else "distilbert-base-uncased if it is cached, else MiniLM"
        models.add_argument("--encoder", help=f"text encoder for SemAP: a folder or hub id ({words})")
        models.add_argument("--layer", type=int, metavar="N", help="layer of the encoder (the encoder's default)")
        models.add_argument(
            "--view", choices=("phe", "rea", "full"), help="SemAP compares phenomena, reasonings or both (full)"
        )
    if task in ("explanation", "defects"):
        metric = "CSS" if task == "explanation" else "DescCos"
        words = f"for {metric}: a folder or hub id, default for MiniLM, or none for no {metric} (default)"
        models.add_argument("--sentence-encoder", default="default", help=words)
    if task in ("detection", "explanation"):
        models.add_argument("--threshold", type=probability, help="generated if the probability is above it (0.5)")
    if task in ("localization", "explanation"):
        models.add_argument("--region", choices=("union", "matched"), help="how region IoU compares boxes (union)")
    if task == "defects":
        words = "boxes one to one: hungarian by 1-DIoU (the paper), or greedy by IoU (its script) (hungarian)"
        models.add_argument("--matching", choices=("hungarian", "greedy"), help=words)
    if task in ("localization", "explanation", "defects"):
        words = "count unreadable answers as misses, or leave them out (miss)"
        models.add_argument("--unreadable", choices=("miss", "omit"), help=words)
    if task in ("detection", "localization"):
        models.add_argument(
            "--stretch", choices=("minmax", "none"), help="scale heat maps before the cut at 0.5 (minmax)"
        )
    if task != "refinement":
        models.add_argument("--batch-size", type=count, default=8, metavar="N", help="images per batch (8)")


def _add_perturbations(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("robustness")
    words = (
        "corrupt the images: jpeg:QUALITY, noise:SIGMA, blur:SIZE, or legion for the nine of its Table 10; one run for"
    )
    words += " each, and one without"
    group.add_argument("--perturb", nargs="+", metavar="KIND:LEVEL", help=words)
    group.add_argument("--perturb-seed", type=int, default=0, metavar="N", help="seed of the noise (0)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("run")
    run.add_argument("--out", metavar="DIR", required=True, help="where records, table and report go")
    run.add_argument("--resume", action="store_true", help="continue the run in DIR; retry failed samples")
    _add_records(run)
    run.add_argument("--shard", metavar="I/N", help="only the I-th of N parts; join them with `refiner evaluate merge`")
    add_engine(run)
    run.add_argument("--rescore", action="store_true", help="make the table of the run in DIR again, without models")
    run.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")


def add_engine(parser: argparse._ActionsContainer) -> None:
    """Add ``--engine`` and ``--workers``."""
    words = "ray uses several workers, here or in a cluster (local)"
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=words)
    words = "workers of --engine ray, each with its models (one per GPU)"
    parser.add_argument("--workers", type=int, metavar="N", help=words)


def _add_records(parser: Any) -> None:
    words = "format of the finished records; during the run they are JSON Lines (jsonl)"
    parser.add_argument("--records", choices=("jsonl", "parquet"), default="jsonl", help=words)


def _evaluate(args: argparse.Namespace, terminal: Terminal) -> int:
    given = {name: value for name in SCORING if (value := getattr(args, name, None)) is not None}
    if args.rescore:
        return _rescore(args, given, terminal)
    if args.data is None:
        words = f"a folder of images, or one of {known_names()} and a place"
        raise ConfigError(f"--data is missing: name {words}.")
    if args.task == "checklist" and "checklist:" not in (args.detector or ""):
        given_words = f"is {args.detector!r}" if args.detector else "is missing"
        raise ConfigError(f"--detector {given_words}: name one that checks prompts, such as checklist:MODEL@URL.")
    if args.engine == "local":
        check_machine(args)  # workers of Ray may have devices and folders that this machine does not have
        if args.task == "refinement":
            check_models(args, args.model)
        else:
            check_detector(args.detector)
    from refiner.evaluate.harness import Shard
    from refiner.evaluate.robustness import open_source, variants

    shard = None if args.shard is None else Shard.parse(args.shard)
    source = {"specification": args.data, **{name: getattr(args, name) for name in ("prompts", "references", "limit")}}
    several = bool(getattr(args, "perturb", None)) or getattr(args, "peers", False)
    parts = variants(args.perturb, args.perturb_seed) if getattr(args, "perturb", None) else {"": {}}
    data = open_source(source)
    tell_problems(data.problems, terminal)
    source |= {"contents": contents(args.data, prompts=args.prompts, references=args.references)}
    if args.task == "refinement":
        wanted_of(args, args.model)
    sources = {name: source | part for name, part in parts.items()}
    runs = _collect(args, data, sources, {**SCORING, **given}, shard, terminal)
    if shard is not None and shard.count > 1:
        return tell_shards(runs, shard.file(args.records), args, terminal)
    return finish_all(runs, args, terminal) if several else finish(runs[""], data, args, terminal)


def _collect(
    args: argparse.Namespace, data: DataSet, sources: Json, scoring: Json, shard: Shard | None, terminal: Terminal
) -> dict[str, Run]:
    """One run for each source of images and each system, in a folder of its name."""
    from refiner.evaluate.harness import collect, describe
    from refiner.evaluate.robustness import spoilt
    from refiner.evaluate.tasks import build_task

    runs = {}
    with engine_of(args) as engine:
        with terminal.waiting("loading models"):
            systems = _systems(args, engine, terminal)
        for (source_name, source), (peer, system) in product(sources.items(), systems.items()):
            name, pictures = source_name or peer, spoilt(data, source)
            description = describe(args.task, pictures, source, system, scoring)
            build_task(args.task, description["system"], scoring)
            with speed(terminal, f"{args.task} {name}".rstrip()) as report:
                runs[name] = collect(
                    pictures, system, description, Path(args.out) / name, resume=args.resume, shard=shard,
                    engine=engine, progress=report, records=args.records,
                )  # fmt: skip
    return runs


def _systems(args: argparse.Namespace, engine: RayEngine | None, terminal: Terminal) -> dict[str, System]:
    """What is evaluated, by name: the detector or the refiner ("" alone), or each of the peers."""
    from refiner.evaluate.peers import PEERS

    names = PEERS if getattr(args, "peers", False) else ("",)
    if engine is not None:
        loads = {name: partial(_refining, args, name) for name in names}
        return {
            name: engine.deferred(loads[name] if args.task == "refinement" else partial(_looking, args))
            for name in names
        }
    if args.task != "refinement":
        return {"": _looking(args)}
    pipe = _loaded(args)
    return {name: _refining(args, name, pipe, terminal) for name in names}


def engine_of(args: argparse.Namespace) -> AbstractContextManager[RayEngine | None]:
    """The engine that ``--engine`` names, while the context lasts; None for this process."""
    if args.engine == "ray":
        from refiner.evaluate.distributed import ray_engine

        return ray_engine(args.workers)
    if args.workers is not None:
        raise ConfigError(f"--workers {args.workers} has no effect without --engine ray: add --engine ray.")
    return nullcontext()


def _rescore(args: argparse.Namespace, given: Json, terminal: Terminal) -> int:
    from refiner.evaluate.harness import open_run

    below = _below(args.out)
    runs = {name: open_run(Path(args.out) / name) for name in below or [""]}
    for name, run in runs.items():
        if run.description["task"] != args.task:
            raise ConfigError(
                f"Expected a run of {args.task} in {args.out!r}, got one of {run.description['task']}: use that task."
            )
        scoring = {**run.description["scoring"], **given}
        runs[name] = run._replace(description={**run.description, "scoring": scoring})
    return finish_all(runs, args, terminal) if below else finish(runs[""], None, args, terminal)


def _below(folder: str) -> list[str]:
    """Names of the runs of a robustness table or a table of peers in a folder; empty if there is neither."""
    from refiner.evaluate.peers import peers_below
    from refiner.evaluate.robustness import runs_below

    return runs_below(folder) or peers_below(folder)


def _merge(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.evaluate.harness import merge

    below = _below(args.folders[0])
    runs = {
        name: merge([Path(folder) / name for folder in args.folders], Path(args.out) / name, records=args.records)
        for name in below or [""]
    }
    return finish_all(runs, args, terminal) if below else finish(runs[""], None, args, terminal)


def _looking(args: argparse.Namespace) -> Looker:
    return load_looker(args, machine_of(args), args.detector)


def load_looker(args: argparse.Namespace, machine: Machine, detector: str) -> Looker:
    """Load a detector, and the judge and the text encoders if the options name them, onto the machine's device."""
    from refiner.detectors import load_detector
    from refiner.evaluate.systems import Looker

    task = getattr(args, "task", None)
    sentences = None
    if (name := getattr(args, "sentence_encoder", "none")) != "none":
        from refiner.metrics.css import MAX_TOKENS, SentenceEncoder
        from refiner.metrics.sdg import MAX_TOKENS as OF_DESCRIPTIONS

        longest = OF_DESCRIPTIONS if task == "defects" else MAX_TOKENS
        encoder = None if name == "default" else name
        sentences = SentenceEncoder.from_pretrained(encoder, device=machine.device, max_tokens=longest)
    return Looker(
        detector=load_detector(detector, machine.device, machine.dtype),
        judge=_judge(getattr(args, "judge", None), machine),
        encoder=_encoder(args, machine) if task == "explanation" else None,
        sentences=None if task == "defects" else sentences,
        descriptions=sentences if task == "defects" else None,
        batch_size=args.batch_size,
    )


def _judge(name: str | None, machine: Machine) -> HPSScorer | None:
    if name is None:
        return None
    from refiner.metrics.hps.scorer import HPSScorer

    return HPSScorer.from_pretrained(name, device=machine.device)


def _encoder(args: argparse.Namespace, machine: Machine) -> BertScore:
    from refiner.metrics.bertscore import BertScore

    return BertScore.from_pretrained(args.encoder, layer=args.layer, device=machine.device)


def _loaded(args: argparse.Namespace) -> RefinedPipeline:
    from refiner.pipelines.loading.placing import load_refined

    machine = machine_of(args)
    judge = _judge(args.judge, machine) or "saved"
    weights = {"inpainter": args.inpainter, "editor": args.editor, "loras": args.lora}
    pipe = load_refined(args.model, machine, detector=args.detector, judge=judge, **weights)
    if pipe.judge is None:
        raise ConfigError(f"The model {args.model!r} has no judge: pass --judge.")
    return pipe


def _refining(
    args: argparse.Namespace, peer: str = "", pipe: RefinedPipeline | None = None, terminal: Terminal | None = None
) -> System:
    """Build one of the peers ("": the only system); settings of the loop are refiner's own, those of the call all's."""
    from refiner.evaluate.peers import NONE
    from refiner.evaluate.systems import Looker, Refining

    machine, wanted, pipe = machine_of(args), wanted_of(args, args.model), pipe or _loaded(args)
    call = wanted.call_of(type(pipe.pipe))
    if peer in CONTROLLERS:
        config = controlled(peer, pipe, terminal)
    else:
        config = wanted.config_of(pipe.refine_config)
        config = dataclasses.replace(config, max_rounds=0) if peer == NONE else config

    def refine(sample: Sample) -> RefinementResult:
        seed = derive_seed(args.seed, sample.name)
        return pipe.stream(sample.prompt, start_image=sample.image, seed=seed, config=config, **call).result

    settings = {
        "model": args.model,
        "weights": weight_sums(args.model),
        "detector": pipe.detector.name,
        "config": dataclasses.asdict(config),
        "call": {**pipe.call_defaults, **call},
        "seed": args.seed,
        "strategy": config.strategy,
        "max_rounds": config.max_rounds,
        "inpainter": args.inpainter,
        "loras": [str(lora) for lora in args.lora],
        "dtype": str(pipe.dtype).removeprefix("torch."),
        **({"editor": args.editor} if args.editor else {}),
        **({"peer": peer} if peer else {}),
    }
    encoder = _encoder(args, machine) if args.encoder or args.references else None
    looker = Looker(judge=pipe.judge, encoder=encoder)
    parts = (pipe.detector, pipe.reviser, pipe.judge)
    return Refining(refine=refine, settings=settings, looker=looker, pictures=Path(args.out) / peer, parts=parts)


def weight_sums(model: str) -> dict[str, str]:
    """File name -> checksum (first 16 hex digits), for each weight file of a pipeline, which may be a single one."""
    from refiner.hub import checksum, resolve

    if (file := Path(model).expanduser()).is_file():
        return {file.name: checksum(file)[:16]}
    folder = resolve(model, "generator")
    files = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.rglob(pattern))
    return {path.relative_to(folder).as_posix(): checksum(path)[:16] for path in files}


@contextmanager
def speed(terminal: Terminal, task: str, cost: Callable[[], str] = str) -> Iterator[Reporting]:
    """Show progress, speed and remaining time on stderr: a bar, or a line now and then if it is not a terminal.

    Args:
        terminal: to show it on.
        task: what is done, in a word.
        cost: what was spent so far, in words; "" for nothing.
    """
    began = last = time.monotonic()
    bars = progress(terminal.err, TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    bar = bars.add_task(task, total=None, speed="")

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        rate = done / max(now - began, 1e-9)
        told = ", ".join(filter(None, (f"{rate:.3g} images/s", cost())))
        bars.update(bar, completed=done, total=total, speed=told)
        if not terminal.err.is_terminal and now - last >= _EVERY:
            last = now
            left = (total - done) / rate
            terminal.err.print(f"{task}: {done} of {total}, {told}, {_duration(left)} left", markup=False)

    with bars:
        yield report


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
