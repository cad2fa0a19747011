"""From the runs of several generators to their ranking: figures with intervals, who beats whom, files for programs.

Only pictures that could be looked at for every generator are compared; the others are counted. All figures come from
``refiner.metrics.ranking``: the same prompts are drawn for all generators, and pictures of one prompt together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from refiner.errors import ConfigError, InputError
from refiner.evaluate.harness import Run
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_write, dumps
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


@dataclass(frozen=True)
class _Look:
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


def _read(run: Run) -> tuple[dict[str, _Look], Counter[str]]:
    """What was said of each picture, by its name; and how many have an error of which kind."""
    found, errors = {}, Counter[str]()
    for record in run.records:
        if record["error"] is not None:
            errors[record["error"]["kind"]] += 1
            continue
        analysis = record["answer"]["analysis"]
        found[record["name"]] = _Look(
            severities=tuple(region["severity"] for region in analysis["regions"]),
            categories=frozenset(region["category"] for region in analysis["regions"]),
            area=analysis["artifact_ratio"],
            score=record["answer"]["score"],
        )
    return found, errors


def _rankings(
    looks: Mapping[str, Mapping[str, _Look]], prompts_of: Mapping[str, str], bootstrap: Bootstrap
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
    looks: Mapping[str, Mapping[str, _Look]], prompts_of: Mapping[str, str], bootstrap: Bootstrap
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
