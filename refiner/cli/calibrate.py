"""``refiner calibrate``: learn from labelled images what the scores of a detector mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from refiner.cli.endpoint import add_endpoint, tell_costs
from refiner.cli.evaluate import SCORING, load_looker, speed
from refiner.cli.evaluate_files import tell_problems
from refiner.cli.machine import add_machine, check_machine, machine_of
from refiner.cli.options import DETECTOR, DONE, FAILED, check_detector, count
from refiner.cli.view import Terminal, plain_grid
from refiner.data.sources import contents, open_data, sources_help
from refiner.errors import ConfigError
from refiner.files import check_writable

if TYPE_CHECKING:
    from refiner.evaluate.calibration import Calibrated, Drawn
    from refiner.evaluate.harness import Run

_EXAMPLES = """examples:
  refiner calibrate micro:probe --data micro:400 --out probe.json
  refiner calibrate fakexplain:my-model@http://127.0.0.1:8000/v1 --data universalfake:images --labels 300 --fpr 0.02
  refiner detect --detector micro:probe,calibration=probe.json images/*.png

FILE goes into the detector's id as ,calibration=FILE. Then a fake_probability above 0.5 means generated, with the
chosen false-positive rate. Where verdicts would be wrong too often, there is none, and a tag says so. The flaws that
the detector finds stay as they are. FILE.run/ holds the records, the report and the reliability diagram."""


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``refiner calibrate``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLES
    parser.add_argument("detector", metavar="DETECTOR", help=f"one with a real/fake verdict: {DETECTOR}")
    parser.add_argument("--data", metavar="SPEC", required=True, help=f"labelled images: {sources_help()}")
    parser.add_argument("--prompts", metavar="FILE", help="JSON or CSV of file name -> prompt, for a folder")
    words = "labelled images to draw, half of them generated if there are as many (200)"
    parser.add_argument("--labels", type=count, default=200, metavar="N", help=words)
    words = "false-positive rate: share of real images that count as generated (0.05)"
    parser.add_argument("--fpr", type=float, default=0.05, metavar="RATE", help=words)
    words = "leave the verdict open where it would be wrong more often than this; 1: never (0.2)"
    parser.add_argument("--max-error", type=float, default=0.2, metavar="RATE", help=words)
    parser.add_argument("--seed", type=int, default=0, help="of the draw and the cross-validation (0)")
    parser.add_argument("--batch-size", type=count, default=8, metavar="N", help="images per batch (8)")
    add_endpoint(parser)
    add_machine(parser, pipeline=False)
    parser.add_argument("--out", metavar="FILE", default="calibration.json", help="(calibration.json)")
    parser.add_argument("--resume", action="store_true", help="continue the run in FILE.run; retry failed images")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.set_defaults(run=_calibrate)


def _calibrate(args: argparse.Namespace, terminal: Terminal) -> int:
    from refiner.evaluate.calibration import calibrate, draw
    from refiner.metrics.calibration import check_labels, check_rates
    from refiner.reports.calibration import write_calibration_report

    check_machine(args)
    check_detector(args.detector)
    check_rates(args.fpr, args.max_error)
    if args.seed < 0:
        raise ConfigError(f"Expected a seed of at least 0, got seed={args.seed}: choose another one.")
    check_writable(Path(args.out).parent)
    if Path(args.out).is_dir():
        raise ConfigError(f"Expected a file to write, got the folder --out {args.out}: add a name, such as c.json.")
    data = open_data(args.data, prompts=args.prompts)
    with terminal.waiting("drawing labelled images"):
        drawn = draw(data, args.labels, args.seed)
    tell_problems(drawn.data.problems, terminal)
    check_labels(drawn.real, drawn.generated, args.fpr)
    run = _scored(args, drawn, terminal)
    tell_costs(run.ledgers(), args, terminal)
    found = calibrate(run, fpr=args.fpr, max_error=args.max_error, seed=args.seed)
    report = write_calibration_report(found, run.folder)
    file = found.calibration.save(args.out)
    return _tell(args, found, {"file": file, "report": report}, terminal)


def _scored(args: argparse.Namespace, drawn: Drawn, terminal: Terminal) -> Run:
    """Run the detector on the labelled images."""
    from refiner.detectors.calibrated import CalibratedDetector
    from refiner.evaluate.calibration import Scoring, unscored
    from refiner.evaluate.harness import collect, describe
    from refiner.protocols import Deciding

    with terminal.waiting("loading models"):
        looker = load_looker(args, machine_of(args), args.detector)
    detector = looker.detector
    if isinstance(detector, CalibratedDetector):
        raise ConfigError(f"{args.detector!r} is calibrated already: leave its option calibration out.")
    if isinstance(detector, Deciding) and not detector.decides:
        raise unscored(args.detector)
    system = Scoring(looker=looker)
    source = {"specification": args.data, "prompts": args.prompts, "references": None, "limit": None}
    source |= {"labels": args.labels, "seed": args.seed, "contents": contents(args.data, prompts=args.prompts)}
    description = describe("detection", drawn.data, source, system, dict(SCORING))
    with speed(terminal, "calibrate") as report:
        return collect(drawn.data, system, description, f"{args.out}.run", resume=args.resume, progress=report)


def _tell(args: argparse.Namespace, found: Calibrated, files: dict[str, Path], terminal: Terminal) -> int:
    from refiner.reports.calibration import calibration_rows

    document = found.calibration.document()

    def show() -> None:
        grid = plain_grid()
        grid.add_column("figure")
        grid.add_column("value", justify="right")
        grid.add_column("95 % interval")
        for row in calibration_rows(document):
            grid.add_row(*map(Text, row))
        terminal.out.print(grid)
        used = found.calibration.data
        terminal.say(f"{used['real']} real and {used['generated']} generated images")
        terminal.say(f"use it as: {args.detector},calibration={files['file']}")
        terminal.say(f"report: {files['report']}")

    terminal.answer(args, document | {"files": {name: str(path) for name, path in files.items()}}, show)
    terminal.complain_some(f"{failure.name}: {failure.kind}: {failure.detail}" for failure in found.failures)
    if found.failures:
        terminal.complain(f"{len(found.failures)} images without a score were left out; --resume tries them again.")
    return FAILED if found.failures else DONE
