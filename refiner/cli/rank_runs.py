"""The runs of ``refiner rank``: one for each generator, or for each generator and detector."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from refiner.cli.evaluate import SCORING, speed
from refiner.cli.view import Terminal
from refiner.errors import ConfigError
from refiner.files import Json

if TYPE_CHECKING:
    from refiner.evaluate.harness import Run, System
    from refiner.evaluate.ranking import Pictures, PromptSet
    from refiner.evaluate.systems import Looker, Painting


@dataclass(frozen=True)
class Contest:
    """What is ranked."""

    sources: Mapping[str, str]
    """Name of each generator -> its folder, or its model with options."""
    prompts: PromptSet
    data: dict[str, Pictures]
    """The images of each generator."""
    paintings: Mapping[str, Painting]
    """Systems of the generators whose images are still to be generated."""
    root: Path

    def shown(self) -> dict[str, Pictures]:
        """The images of each generator, after they were generated."""
        return {name: each.painted(self.root / name) for name, each in self.data.items()}


class _Work(NamedTuple):
    """One run of the harness."""

    generator: str
    title: str
    folder: Path
    system: System
    description: Json


def collect_one(contest: Contest, looker: Looker, args: argparse.Namespace, terminal: Terminal) -> dict[str, Run]:
    """A run for each generator, by name: its images are generated and analysed batch by batch."""
    from refiner.evaluate.systems import Generating

    works = []
    for name in contest.sources:
        painting = contest.paintings.get(name)
        system = looker if painting is None else Generating(looker=looker, **vars(painting))
        works.append(_work(contest, name, name, contest.root / name, system, "realism"))
    _check_earlier(works, args)
    return {work.generator: _collected(work, contest, args, terminal) for work in works}


def collect_several(
    contest: Contest, lookers: Mapping[str, Looker], args: argparse.Namespace, terminal: Terminal
) -> dict[str, dict[str, Run]]:
    """A run for each detector and generator, by id and name. All images are generated before the first is analysed."""
    from refiner.evaluate.audit import detector_folder
    from refiner.evaluate.systems import Inspecting

    paints = [
        _work(contest, name, name, contest.root / name, painting, "painting")
        for name, painting in contest.paintings.items()
    ]
    looks: dict[str, list[_Work]] = {}
    for detector, looker in lookers.items():
        folder, looks[detector] = contest.root / detector_folder(detector), []
        for name in contest.sources:
            painting = contest.paintings.get(name)
            system = looker if painting is None else Inspecting(painting=painting, looker=looker)
            looks[detector].append(_work(contest, name, f"{name}, {detector}", folder / name, system, "realism"))
    _check_earlier([*paints, *(work for works in looks.values() for work in works)], args)
    for work in paints:
        run = _collected(work, contest, args, terminal)
        failures = {record["name"]: record["error"]["detail"] for record in run.records if record["error"] is not None}
        contest.data[work.generator] = contest.data[work.generator].painted(work.folder, failures)
    return {
        detector: {work.generator: _collected(work, contest, args, terminal) for work in works}
        for detector, works in looks.items()
    }


def _work(contest: Contest, name: str, title: str, folder: Path, system: System, task: str) -> _Work:
    from refiner.evaluate.harness import describe

    settings = {"specification": contest.sources[name], **contest.prompts.settings}
    return _Work(name, title, folder, system, describe(task, contest.data[name], settings, system, dict(SCORING)))


def _check_earlier(works: Iterable[_Work], args: argparse.Namespace) -> None:
    """Check runs against their earlier records, before the first one starts."""
    from refiner.evaluate.harness import RUN_FILE, check_same, read_description

    for work in works:
        if (work.folder / RUN_FILE).exists():
            check_same(read_description(work.folder), work.description, work.folder)
            if not args.resume:
                raise ConfigError(
                    f"{args.out!r} already holds records of {work.generator!r}: pass --resume to continue that "
                    "ranking, or name another folder with --out."
                )


def _collected(work: _Work, contest: Contest, args: argparse.Namespace, terminal: Terminal) -> Run:
    from refiner.evaluate.harness import collect

    data = contest.data[work.generator]
    with speed(terminal, work.title) as report:
        return collect(data, work.system, work.description, work.folder, resume=args.resume, progress=report)
