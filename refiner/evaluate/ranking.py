"""Generators side by side: each paints, or has painted, the same prompts, and the harness looks at what they made.

A generator is named on the command line as ``NAME=FOLDER`` (pictures that are there already) or
``NAME=MODEL,option=value,...`` (a pipeline that paints now, with arguments of its call). Each gets a run of the harness
in a folder of its name, so that every picture has its record and a run that was ended goes on where it was.
Only pictures that could be looked at for every generator are compared; the others are counted. All figures come from
``refiner.metrics.ranking``: the same prompts are drawn for all generators, and pictures of one prompt together.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser, isdir
from pathlib import Path, PurePosixPath
from typing import Final

from refiner.data.folders import SUFFIXES, ImageFolder
from refiner.data.problems import Problem
from refiner.data.prompts import match_prompts
from refiner.data.samples import Sample, digest, group_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError
from refiner.evaluate.harness import Run
from refiner.evaluate.systems import picture_file
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_write, dumps
from refiner.images import load_image
from refiner.metrics.ranking import Bootstrap, Ranking, rank_by_score, rank_generators
from refiner.taxonomy import Category

RANK_FILE, RANK_CSV, WINS_CSV = "rank.json", "rank.csv", "wins.csv"
ORDERS: Final = ("CAP", "HPS", "PAR")
"""What generators can be ranked by."""
HIGHER_IS_BETTER: Final = frozenset({"HPS"})
FIGURES: Final[Mapping[str, str]] = {
    "CAP": "sum of the severities of a picture's flaws, mean over the pictures",
    "MAI": "mean severity of the flaws",
    "AF": "flaws a picture",
    "AF_share": "share of the pictures with any flaw",
    "MAI_image": "mean severity within a flawed picture, mean over those pictures",
    "PAR": "share of flawed pixels, mean over the pictures",
    "HPS": "how well a picture fits its prompt by the judge, mean over the pictures",
}
"""In words; lower is better but for HPS."""
VARIANTS: Final = frozenset({"AF_share", "MAI_image"})
"""Other readings of AF and MAI; in the tables alone."""

Option = bool | int | float | str | None

SYNTAX: Final = "NAME=FOLDER or NAME=MODEL,option=value,..., such as quick=micro,num_inference_steps=4"
_NAME: Final = re.compile(r"\w[\w .+@-]{0,63}")
_FILES: Final = (".json", ".csv", ".html")
"""Endings of what lies beside the generators' folders."""
_OPTION: Final = re.compile(r",\s*([A-Za-z_]\w*)=([^,]*)$")


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A generator to rank."""

    name: str
    place: str
    """A folder of pictures; or the folder or id of a pipeline."""
    options: Mapping[str, Option]
    """Arguments of the pipeline's call."""

    @property
    def paints(self) -> bool:
        """Whether it is a pipeline; else it is a folder of pictures."""
        return not isdir(self.place) or (Path(self.place) / "model_index.json").is_file()

    @property
    def source(self) -> str:
        """Place and options as they are written on the command line."""
        return ",".join([self.place, *(f"{name}={_written(value)}" for name, value in self.options.items())])


def _written(value: Option) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_entrants(texts: Sequence[str]) -> list[Entrant]:
    """Read ``NAME=FOLDER`` and ``NAME=MODEL,option=value,...``; an existing folder is never taken apart at its commas.

    Values are JSON where they can be read as such (``4``, ``7.5``, ``true``, ``null``), else texts.

    Raises:
        InputError: another form, a name that cannot be that of a folder, or one that is given twice.
    """
    entrants: dict[str, Entrant] = {}
    for text in texts:
        entrant = _entrant(text)
        key = entrant.name.casefold()
        if key in entrants:
            raise InputError(
                f"Expected a name of its own for each generator, got {entrants[key].name!r} and {entrant.name!r}: "
                "change one of them."
            )
        entrants[key] = entrant
    return list(entrants.values())


def _entrant(text: str) -> Entrant:
    name, _, place = text.partition("=")
    plain = _NAME.fullmatch(name) and name == name.strip(" .") and not name.casefold().endswith(_FILES)
    if not plain or not place.strip() or "\0" in place:
        raise InputError(f"Expected {SYNTAX}, got {text!r}: write it so, with a name of letters and digits.")
    place = expanduser(place)
    options: dict[str, Option] = {}
    while not isdir(place) and (found := _OPTION.search(place)):
        if found[1] in options:
            raise InputError(f"Expected each option once, got {found[1]} twice in {text!r}: leave one out.")
        options[found[1]] = _value(found[2])
        place = place[: found.start()]
    if not isdir(place) and (not place.strip() or "," in place):
        raise InputError(f"Expected {SYNTAX}, got {text!r}: check the folder, or write options as option=value.")
    entrant = Entrant(name=name, place=place, options=dict(reversed(options.items())))
    if options and not entrant.paints:
        raise InputError(f"Expected no options for a folder of pictures, got {text!r}: leave them out.")
    return entrant


def _value(text: str) -> Option:
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """What all generators paint."""

    specification: str
    prompts: Mapping[str, str]
    """By name of the picture."""
    prompts_of: Mapping[str, str]
    """Name of the picture -> name of its prompt."""
    settings: Json
    """All of the above in short, for ``run.json``."""
    problems: tuple[Problem, ...]


def open_prompts(specification: str, *, seeds: int = 1, limit: int | None = None) -> PromptSet:
    """Read the prompts.

    Args:
        specification: a file of prompts (see ``refiner.data.prompts``), or ``micro-prompts:N``.
        seeds: pictures of each prompt. Of one, a picture has the prompt's name; of several, ``NAME-0`` and so on.
            Where a file names its prompts by pictures, their suffix does not count.
        limit: only the first so many prompts.

    Raises:
        ConfigError: seeds or limit below 1.
        InputError: there are no prompts.
    """
    if seeds < 1:
        raise ConfigError(f"Expected at least 1 seed, got {seeds}: name how many pictures of each prompt you want.")
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 prompt, got {limit}: leave it out for all of them.")
    drawn = specification.partition(":")[0] == "micro-prompts"
    data = open_data(specification if drawn else f"prompts:{specification}")
    called = {name: _without_suffix(name) for name in data.names}
    if len(set(called.values())) < len(called):
        called = {name: name for name in data.names}
    prompts, prompts_of = {}, {}
    for index, name in enumerate(data.names[:limit]):
        prompt = data.load(index).prompt
        for number in range(seeds):
            picture = called[name] if seeds == 1 else f"{called[name]}-{number}"
            prompts[picture], prompts_of[picture] = prompt, called[name]
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
    """The pictures of one generator, a sample for each name of the prompt set: a data set of the harness.

    Args:
        prompts: the prompt set.
        files: name -> where the picture lies; None where they are still to be painted.
        folder: that they lie in, for messages.
        problems: what was wrong with that folder.
    """

    def __init__(
        self,
        prompts: PromptSet,
        files: Mapping[str, Path] | None = None,
        folder: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        self.prompts, self.files, self.folder = prompts, files, folder
        self.names = tuple(prompts.prompts)
        self.problems = list(problems)

    @classmethod
    def of_folder(cls, prompts: PromptSet, folder: str) -> Pictures:
        """Match a folder's pictures with the prompts, as ``refiner evaluate hps`` does.

        Raises:
            InputError: there is no such folder, no picture in it, or no picture of any prompt.
        """
        problems: list[Problem] = []
        images = ImageFolder.open(folder, problems)
        owners = match_prompts(images.names, prompts.prompts, prompts.specification, problems)
        if not owners:
            raise InputError(
                f"Expected pictures of the prompts in {folder!r}, such as '{next(iter(prompts.prompts))}.png', got "
                f"{images.names[0]!r} and the like: name them as {prompts.specification!r} does."
            )
        files = {name: images.path(picture) for picture, name in owners.items()}
        # A prompt without a picture is told by its own record.
        return cls(prompts, files, folder, [each for each in problems if each.kind != "missing_image"])

    def painted(self, folder: Path) -> Pictures:
        """The same where the pictures were still to be painted, and now lie in the folder of a run."""
        if self.files is not None:
            return self
        files = {name: picture_file(folder, name) for name in self.names}
        return Pictures(self.prompts, files, str(folder), self.problems)

    def load(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            InputError: its picture is missing or cannot be read.
        """
        name, image = self.names[index], None
        if self.files is not None:
            if name not in self.files:
                raise InputError(f"Expected a picture of {name!r} in {self.folder!r}, got none: add it.")
            image = load_image(self.files[name])
        return Sample(name=name, group=group_of(name), prompt=self.prompts.prompts[name], image=image)


@dataclass(frozen=True)
class _Inspected:
    """What was said of one picture."""

    severities: tuple[float, ...]
    categories: frozenset[str]
    area: float
    score: float | None


def rank_runs(
    runs: Mapping[str, Run],
    prompts_of: Mapping[str, str],
    *,
    by: str = "CAP",
    bootstrap: Bootstrap | None = None,
) -> Json:
    """Rank generators by the records of their runs.

    Args:
        runs: by name of the generator; all of one prompt set.
        prompts_of: name of the picture -> name of its prompt.
        by: one of ``ORDERS``.
        bootstrap: how intervals are drawn.

    Returns:
        ``by``; ``prompts`` and ``pictures`` that are compared, ``of`` so many pictures; ``systems``, best first, each
        with ``name``, ``place``, ``source``, ``scored``, ``errors``, ``problems``, ``figures`` (by the names of
        ``FIGURES``) and ``rates`` (share of pictures with a flaw of the category), each figure with ``value``, ``low``
        and ``high``; ``orders`` and ``wins`` by each of ``ORDERS``; ``signature``.

    Raises:
        ConfigError: there is nothing to rank by.
        InputError: no picture could be looked at for every generator.
    """
    read = {name: _read(runs[name]) for name in sorted(runs)}
    looks = {name: own for name, (own, _) in read.items()}
    common = set.intersection(*(set(each) for each in looks.values()))
    if not common:
        counts = ", ".join(f"{len(own)} of {name}" for name, own in looks.items())
        raise InputError(
            f"Expected pictures that could be looked at for every generator, got none in common ({counts}): "
            "see what is wrong with the others above."
        )
    rankings = _rankings(looks, prompts_of, bootstrap or Bootstrap())
    if by not in rankings:
        raise ConfigError(f"Expected to rank by one of {', '.join(rankings)}, got {by!r}: name one, or pass a judge.")
    rates = _rates(looks, prompts_of, bootstrap or Bootstrap())
    figures = _figures(rankings.values())
    systems = [
        {
            "name": row.name,
            "place": row.place,
            "source": runs[row.name].description["data"]["specification"],
            "scored": len(looks[row.name]),
            "errors": dict(sorted(read[row.name][1].items())),
            "problems": runs[row.name].description["problems"],
            "figures": {name: figures[row.name][name] for name in FIGURES if name in figures[row.name]},
            "rates": {name: _figures([ranking])[row.name][name] for name, ranking in rates.items()},
        }
        for row in rankings[by].rows
    ]
    looker = next(iter(runs.values())).description["system"]
    models = [f"{name}={looker[name]}" for name in ("detector", "judge") if looker[name]]
    return {
        "task": "rank",
        "by": by,
        "prompts": rankings[by].prompts,
        "pictures": len(common),
        "of": next(iter(runs.values())).samples,
        "systems": systems,
        "orders": {name: [row.name for row in ranking.rows] for name, ranking in rankings.items()},
        "wins": {name: _wins(ranking) for name, ranking in rankings.items()},
        "signature": ";".join([*(ranking.signature for ranking in rankings.values()), *models]),
    }


def _read(run: Run) -> tuple[dict[str, _Inspected], Counter[str]]:
    """What was said of each picture, by its name; and how many have an error of which kind."""
    found, errors = {}, Counter[str]()
    for record in run.records:
        if record["error"] is not None:
            errors[record["error"]["kind"]] += 1
            continue
        analysis = record["answer"]["analysis"]
        found[record["name"]] = _Inspected(
            severities=tuple(region["severity"] for region in analysis["regions"]),
            categories=frozenset(region["category"] for region in analysis["regions"]),
            area=analysis["artifact_ratio"],
            score=record["answer"]["score"],
        )
    return found, errors


def _rankings(
    looks: Mapping[str, Mapping[str, _Inspected]], prompts_of: Mapping[str, str], bootstrap: Bootstrap
) -> dict[str, Ranking]:
    """By the names of ``ORDERS``."""
    severities = {name: {key: look.severities for key, look in own.items()} for name, own in looks.items()}
    areas = {name: {key: look.area for key, look in own.items()} for name, own in looks.items()}
    scores = {
        name: {key: look.score for key, look in own.items() if look.score is not None} for name, own in looks.items()
    }
    found = {"CAP": rank_generators(severities, bootstrap, prompts_of=prompts_of)}
    if any(scores.values()):
        found["HPS"] = rank_by_score(scores, name="HPS", bootstrap=bootstrap, prompts_of=prompts_of)
    found["PAR"] = rank_by_score(areas, name="PAR", higher_is_better=False, bootstrap=bootstrap, prompts_of=prompts_of)
    return found


def _rates(
    looks: Mapping[str, Mapping[str, _Inspected]], prompts_of: Mapping[str, str], bootstrap: Bootstrap
) -> dict[str, Ranking]:
    """Share of pictures with a flaw of each category that any picture has."""
    seen = {category for own in looks.values() for look in own.values() for category in look.categories}
    return {
        category: rank_by_score(
            {
                name: {key: float(category in look.categories) for key, look in own.items()}
                for name, own in looks.items()
            },
            name=category,
            higher_is_better=False,
            bootstrap=bootstrap,
            prompts_of=prompts_of,
        )
        for category in map(str, Category)
        if category in seen
    }


def _figures(rankings: Iterable[Ranking]) -> dict[str, dict[str, dict[str, float]]]:
    """Estimates by generator and name."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for ranking in rankings:
        for row in ranking.rows:
            estimates = {name: estimate._asdict() for name, estimate in row.estimates.items()}
            found.setdefault(row.name, {}).update(estimates)
    return found


def _wins(ranking: Ranking) -> Json:
    """By the one, by the other: how likely the one is better."""
    names = [row.name for row in ranking.rows]
    return {one: {other: ranking.duels[one, other]._asdict() for other in names if other != one} for one in names}


def write_tables(document: Json, folder: Path) -> None:
    """Write ``rank.json``, ``rank.csv`` (a row a generator) and ``wins.csv`` (a row a pair and order).

    Raises:
        OutputError: the folder cannot be written.
    """
    rows = [_csv_row(system) for system in document["systems"]]
    pairs = [
        {"by": by, "one": one, "other": other, **duel}
        for by, table in document["wins"].items()
        for one, duels in table.items()
        for other, duel in duels.items()
    ]
    atomic_write(folder / RANK_FILE, dumps(document) + "\n")
    atomic_write(folder / RANK_CSV, csv_text(list(dict.fromkeys(key for row in rows for key in row)), rows))
    atomic_write(folder / WINS_CSV, csv_text(["by", "one", "other", "overall", "per_prompt"], pairs))


def _csv_row(system: Json) -> Json:
    row = {name: system[name] for name in ("place", "name", "source", "scored")}
    row["errors"] = sum(system["errors"].values())
    for names, prefix in ((system["figures"], ""), (system["rates"], "rate_")):
        for name, estimate in names.items():
            row |= {f"{prefix}{name}": estimate["value"]}
            row |= {f"{prefix}{name}_{end}": estimate[end] for end in ("low", "high")}
    return row
