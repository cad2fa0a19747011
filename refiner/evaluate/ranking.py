"""Generators compared on the same prompts.

A generator is ``NAME=FOLDER`` (existing images) or ``NAME=MODEL,option=value,...`` (a pipeline that generates now, with
arguments of its call). Each one is a run of the harness in a folder of its name, so that every image has its record and
an interrupted ranking can be resumed. Only images that could be analysed for every generator are compared; the others
are counted. All figures come from ``refiner.metrics.ranking``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final, NamedTuple

from refiner.coverage import Coverage
from refiner.data.folders import SUFFIXES, ImageFolder
from refiner.data.problems import Problem
from refiner.data.prompts import match_prompts
from refiner.data.samples import Sample, digest, group_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError
from refiner.evaluate.figures import coverage_of
from refiner.evaluate.harness import Run
from refiner.evaluate.systems import picture_file
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_write, dumps
from refiner.images import load_image
from refiner.metrics.intervals import ANY, UNIT
from refiner.metrics.ranking import FIGURES, Ranking, rank_by_score, rank_generators
from refiner.taxonomy import Category

RANK_FILE, RANK_CSV, WINS_CSV = "rank.json", "rank.csv", "wins.csv"
HIGHER_IS_BETTER: Final = frozenset({"HPS"})
VARIANTS: Final = frozenset({"AF_share", "MAI_image"})
"""Other readings of AF and MAI; only in the tables."""


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts that all generators get."""

    specification: str
    prompts: Mapping[str, str]
    """Name of each image -> its prompt."""
    prompts_of: Mapping[str, str]
    """Name of each image -> name of its prompt."""
    settings: Json
    """A summary of the above, for ``run.json``."""
    problems: tuple[Problem, ...]


def open_prompts(specification: str, *, seeds: int = 1, limit: int | None = None) -> PromptSet:
    """Read the prompts.

    Args:
        specification: a file of prompts (see ``refiner.data.prompts``), or ``micro-prompts:N``.
        seeds: images per prompt. A single image has the prompt's name; several are ``NAME-0`` and so on. If the file
            names its prompts by image files, their suffix is dropped.
        limit: use only the first ``limit`` prompts.

    Raises:
        ConfigError: seeds or limit below 1.
        InputError: there are no prompts.
    """
    if seeds < 1:
        raise ConfigError(f"Expected at least 1 seed, got {seeds}: set how many images of each prompt you want.")
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 prompt, got {limit}: leave it out for all of them.")
    drawn = specification.partition(":")[0] == "micro-prompts"
    data = open_data(specification if drawn else f"prompts:{specification}")
    names: Sequence[str] = [_without_suffix(name) for name in data.names]
    if len(set(names)) < len(names):
        names = data.names
    prompts, prompts_of = {}, {}
    for index, name in enumerate(names[:limit]):
        prompt = data.load(index).prompt
        for image in [name] if seeds == 1 else [f"{name}-{number}" for number in range(seeds)]:
            prompts[image], prompts_of[image] = prompt, name
    settings = {"prompts": specification, "references": None, "limit": limit, "seeds": seeds}
    return PromptSet(
        specification=specification,
        prompts=prompts,
        prompts_of=prompts_of,
        settings=settings | {"texts": digest(prompts.values())},
        problems=tuple(data.problems),
    )


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix) if path.suffix.lower() in SUFFIXES else name


class Pictures:
    """The images of one generator, as a data set of the harness: a sample for each image of the prompt set.

    Args:
        prompts: the prompt set.
        files: name of each image -> its file; None if the images are still to be generated.
        folder: folder of these files, for messages.
        problems: problems of that folder.
        failures: name of each image that could not be generated -> the reason.
    """

    def __init__(
        self,
        prompts: PromptSet,
        files: Mapping[str, Path] | None = None,
        folder: str = "",
        problems: Sequence[Problem] = (),
        failures: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.prompts, self.files, self.folder, self.failures = prompts, files, folder, failures
        self.names = tuple(prompts.prompts)
        self.problems = list(problems)

    @classmethod
    def of_folder(cls, prompts: PromptSet, folder: str) -> Pictures:
        """Match a folder's images with the prompts, as ``refiner evaluate hps`` does.

        Raises:
            InputError: there is no such folder, no image in it, or no image of any prompt.
        """
        problems: list[Problem] = []
        images = ImageFolder.open(folder, problems)
        owners = match_prompts(images.names, prompts.prompts, prompts.specification, problems)
        if not owners:
            raise InputError(
                f"Expected images named after the prompts in {folder!r}, such as '{next(iter(prompts.prompts))}.png', "
                f"got names such as {images.names[0]!r}: name them as {prompts.specification!r} does."
            )
        files = {name: images.path(image) for image, name in owners.items()}
        # The record of a prompt without an image reports it.
        return cls(prompts, files, folder, [each for each in problems if each.kind != "missing_image"])

    def painted(self, folder: Path, failures: Mapping[str, str] = MappingProxyType({})) -> Pictures:
        """The same data set, after a run has generated its images into its folder, but for the ``failures``."""
        if self.files is not None:
            return self
        files = {name: picture_file(folder, name) for name in self.names}
        return Pictures(self.prompts, files, str(folder), self.problems, failures)

    def load(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            InputError: its image is missing or cannot be read.
        """
        name, image = self.names[index], None
        if name in self.failures:
            reason = self.failures[name].rstrip(".")
            raise InputError(f"The image of {name!r} was not generated ({reason}): pass --resume to try again.")
        if self.files is not None:
            if name not in self.files:
                raise InputError(f"Expected an image of {name!r} in {self.folder!r}, got none: add it.")
            image = load_image(self.files[name])
        return Sample(name=name, group=group_of(name), prompt=self.prompts.prompts[name], image=image)


@dataclass(frozen=True)
class Inspected:
    """What detector and judge returned for one image."""

    severities: tuple[float, ...]
    categories: frozenset[str]
    area: float | None
    """None if the place of no flaw is known."""
    score: float | None


class Answers(NamedTuple):
    """The answers in the records of a run."""

    looks: Mapping[str, Inspected]
    """By name of the image."""
    errors: Mapping[str, int]
    """Number of images without an answer, by kind of error."""
    coverage: Coverage


def area_of(analysis: Json) -> float | None:
    """The share of flawed pixels of a stored analysis; None if it has flaws, and the place of none is known."""
    boxes = [region["box"] for region in analysis["regions"]]
    return None if boxes and not any(boxes) else float(analysis["artifact_ratio"])


def read_answers(run: Run) -> Answers:
    """The answers of detector and judge about the images of one generator."""
    found: dict[str, Inspected] = {}
    errors: Counter[str] = Counter()
    coverage = Coverage()
    for record in run.records:
        coverage += coverage_of(record)
        if record["error"] is not None:
            errors[record["error"]["kind"]] += 1
            continue
        analysis = record["answer"]["analysis"]
        found[record["name"]] = Inspected(
            severities=tuple(region["severity"] for region in analysis["regions"]),
            categories=frozenset(region["category"] for region in analysis["regions"]),
            area=area_of(analysis),
            score=record["answer"]["score"],
        )
    return Answers(found, dict(sorted(errors.items())), coverage)


def rank_runs(
    runs: Mapping[str, Run],
    prompts_of: Mapping[str, str],
    *,
    by: str = "CAP",
    answers: Mapping[str, Answers] | None = None,
) -> Json:
    """Rank generators by the records of their runs.

    Args:
        runs: by name of the generator; all of one prompt set.
        prompts_of: name of each image -> name of its prompt.
        by: ``CAP``, ``HPS`` (needs a judge) or ``PAR``.
        answers: of each run, if they were read before.

    Returns:
        ``by``; number of ``prompts`` and ``pictures`` that are compared, ``of`` all images; ``systems``, best first,
        each with ``name``, ``place``, ``source``, ``scored``, ``coverage``, ``errors``, ``problems``, ``figures`` (by
        the names of ``FIGURES``) and ``rates`` (share of images with a flaw of the category), each figure with
        ``value``, ``low`` and ``high``; ``orders`` and ``wins`` by CAP, HPS and PAR; ``signature``.

    Raises:
        ConfigError: there is nothing to rank by.
        InputError: no image could be analysed for every generator.
    """
    read = {name: answers[name] if answers else read_answers(runs[name]) for name in sorted(runs)}
    looks = {name: each.looks for name, each in read.items()}
    common = set.intersection(*(set(each) for each in looks.values()))
    if not common:
        counts = ", ".join(f"{len(own)} of {name}" for name, own in looks.items())
        raise InputError(f"The generators have no analysed images in common ({counts}): fix the problems listed above.")
    rankings, rates = rankings_of(looks, prompts_of), _rates(looks, prompts_of)
    if by not in rankings:
        raise ConfigError(f"Expected to rank by one of {', '.join(rankings)}, got {by!r}: name one, or pass a judge.")
    figures, shares = _figures(rankings.values()), _figures(rates)
    first = next(iter(runs.values()))
    systems = [
        {
            "name": row.name,
            "place": row.place,
            "source": runs[row.name].description["data"]["specification"],
            "scored": len(looks[row.name]),
            "coverage": read[row.name].coverage.row(),
            "errors": dict(read[row.name].errors),
            "problems": runs[row.name].description["problems"],
            "figures": {name: figures[row.name][name] for name in FIGURES if name in figures[row.name]},
            "rates": shares.get(row.name, {}),
        }
        for row in rankings[by].rows
    ]
    models = [f"{name}={model}" for name in ("detector", "judge") if (model := first.description["system"][name])]
    return {
        "task": "rank",
        "by": by,
        "prompts": rankings[by].prompts,
        "pictures": len(common),
        "of": first.samples,
        "systems": systems,
        "orders": {name: [row.name for row in ranking.rows] for name, ranking in rankings.items()},
        "wins": {name: _wins(ranking) for name, ranking in rankings.items()},
        "signature": ";".join([*(ranking.signature for ranking in rankings.values()), *models]),
    }


Looks = Mapping[str, Mapping[str, Inspected]]
"""By generator, by image."""


def rankings_of(looks: Looks, prompts_of: Mapping[str, str]) -> dict[str, Ranking]:
    """By CAP (with MAI and AF), by HPS if a judge scored the images, and by PAR if areas are known of the same ones."""
    severities = {name: {key: look.severities for key, look in own.items()} for name, own in looks.items()}
    found = {"CAP": rank_generators(severities, prompts_of=prompts_of)}
    if any(look.score is not None for own in looks.values() for look in own.values()):
        found["HPS"] = _ranked(looks, prompts_of, "HPS", lambda look: look.score)
    areas = [{key for key, look in own.items() if look.area is not None} for own in looks.values()]
    if set.intersection(*areas):
        found["PAR"] = _ranked(looks, prompts_of, "PAR", lambda look: look.area)
    return found


def _rates(looks: Looks, prompts_of: Mapping[str, str]) -> list[Ranking]:
    """By the share of images with a flaw of each category that occurs."""
    seen = {category for own in looks.values() for look in own.values() for category in look.categories}
    return [_ranked(looks, prompts_of, kind, partial(_flawed, kind)) for kind in map(str, Category) if kind in seen]


def _ranked(
    looks: Looks, prompts_of: Mapping[str, str], name: str, value: Callable[[Inspected], float | None]
) -> Ranking:
    scores = {
        generator: {key: score for key, look in own.items() if (score := value(look)) is not None}
        for generator, own in looks.items()
    }
    within = ANY if name == "HPS" else UNIT
    return rank_by_score(
        scores, name=name, higher_is_better=name in HIGHER_IS_BETTER, prompts_of=prompts_of, within=within
    )


def _flawed(category: str, look: Inspected) -> float:
    return float(category in look.categories)


def _figures(rankings: Iterable[Ranking]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Estimates by generator and by name of the figure."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for ranking in rankings:
        for row in ranking.rows:
            estimates = {name: estimate._asdict() for name, estimate in row.estimates.items()}
            found.setdefault(row.name, {}).update(estimates)
    return found


def _wins(ranking: Ranking) -> Json:
    """By one generator, then by the other: how likely the first is better."""
    names = [row.name for row in ranking.rows]
    return {one: {other: ranking.duels[one, other]._asdict() for other in names if other != one} for one in names}


def both_covered(one: Mapping[str, int], other: Mapping[str, int]) -> Json:
    """The columns of the coverage of two sides."""
    sides = {"one": one, "other": other}
    return {f"{side}_{name}": count for side, row in sides.items() for name, count in row.items()}


def write_tables(document: Json, folder: Path) -> None:
    """Write ``rank.json``, ``rank.csv`` (a row for each generator) and ``wins.csv`` (for each order and pair).

    Raises:
        OutputError: the folder cannot be written.
    """
    atomic_write(folder / RANK_FILE, dumps(document) + "\n")
    atomic_write(folder / RANK_CSV, csv_text(rank_rows(document)))
    atomic_write(folder / WINS_CSV, csv_text(win_rows(document), ["by", "one", "other", "overall", "per_prompt"]))


def rank_rows(document: Json) -> list[Json]:
    """A row of numbers for each generator of a ranking, best first."""
    rows = []
    for system in document["systems"]:
        row = {name: system[name] for name in ("place", "name", "source", "scored")}
        row |= {"errors": sum(system["errors"].values()), **system["coverage"]}
        rates = {f"rate_{name}": estimate for name, estimate in system["rates"].items()}
        for name, estimate in {**system["figures"], **rates}.items():
            row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
        rows.append(row)
    return rows


def win_rows(document: Json) -> list[Json]:
    """A row for each order and pair of generators of a ranking, with the coverage of both."""
    coverage = {system["name"]: system["coverage"] for system in document["systems"]}
    return [
        {"by": by, "one": one, "other": other, **duel, **both_covered(coverage[one], coverage[other])}
        for by, table in document["wins"].items()
        for one, duels in table.items()
        for other, duel in duels.items()
    ]
