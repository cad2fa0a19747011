"""Robustness: a run on clean images beside runs on perturbed ones, as LEGION reports it (its Table 10).

Each is an ordinary run in a separate folder, ``clean``, ``jpeg-50`` and so on: it can be resumed, merged and scored
again like any other. The truth stays that of the clean image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from refiner.data.samples import DataSet, Sample, polygon_rule
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError
from refiner.evaluate.harness import RUN_FILE, read_description
from refiner.evaluate.table import csv_text
from refiner.files import Json, atomic_write, dumps
from refiner.metrics.perturbations import PERTURBATIONS, Perturbation, perturb, relative_change

CLEAN: Final = "clean"
LEGION: Final = "legion"
"""Short for all perturbations of LEGION's Table 10."""
_KEPT: Final = ("scored", "coverage", "errors", "misses", "missing", "signature")
"""Entries of each run's table that the robustness table has, too."""
ROBUSTNESS_FILE, ROBUSTNESS_CSV = "robustness.json", "robustness.csv"


class Perturbed:
    """A data set whose images are perturbed when they are read.

    Args:
        data: the clean data set.
        perturbation: applied to each image.
        seed: of the noise, which differs between samples.
    """

    def __init__(self, data: DataSet, perturbation: Perturbation, seed: int) -> None:
        self.data, self.perturbation, self.seed = data, perturbation, seed
        self.problems, self.names, self.polygons = data.problems, data.names, polygon_rule(data)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        sample = self.data.load(index)
        if sample.image is None:
            return sample
        return replace(sample, image=perturb(sample.image, self.perturbation, image_id=sample.name, seed=self.seed))


def variants(names: Sequence[str], seed: int) -> dict[str, Json]:
    """Folder of each run -> the perturbation entries of its ``run.json``; the clean run first, the others by ``rank``.

    Args:
        names: perturbations, as ``Perturbation.parse`` reads them, or ``legion`` for all of its Table 10.
        seed: of the noise.

    Raises:
        ConfigError: a name cannot be read, or is given twice.
    """
    legion = [name.replace("-", ":", 1) for name in PERTURBATIONS]
    texts = [text for name in names for text in (legion if name == LEGION else [name])]
    found: dict[str, Json] = {}
    for text in texts:
        perturbation = Perturbation.parse(text)
        if perturbation.name in found:
            raise ConfigError(f"Expected each perturbation once, got {text!r} twice: leave one out.")
        found[perturbation.name] = {"perturbation": text, "perturbation_seed": seed}
    return {CLEAN: {}} | dict(sorted(found.items(), key=lambda each: Perturbation.parse(each[1]["perturbation"]).rank))


def spoilt(data: DataSet, source: Json) -> DataSet:
    """The data set, perturbed if the ``data`` of a run has the entries of ``variants``."""
    if "perturbation" not in source:
        return data
    return Perturbed(data, Perturbation.parse(source["perturbation"]), source["perturbation_seed"])


def open_source(source: Json) -> DataSet:
    """The data set that the ``data`` of a ``run.json`` describes; raises as ``open_data`` does."""
    names = ("prompts", "references", "limit")
    return spoilt(open_data(source["specification"], **{name: source[name] for name in names}), source)


def runs_below(folder: str | Path) -> list[str]:
    """Names of the runs of a robustness table: clean first, then by ``rank``; empty if there is none.

    Raises:
        InputError: one of them is damaged.
    """
    root = Path(folder)
    if (root / RUN_FILE).exists() or not (root / CLEAN / RUN_FILE).exists():
        return []
    ranks = {}
    for path in root.glob(f"*/{RUN_FILE}"):
        text = read_description(path.parent)["data"].get("perturbation")
        if text is not None:
            ranks[path.parent.name] = Perturbation.parse(text).rank
    return [CLEAN, *sorted(ranks, key=ranks.__getitem__)]


def compare(tables: Mapping[str, Json]) -> Json:
    """The robustness table, ready for JSON.

    Args:
        tables: name of a run -> its table; that of the clean one is ``clean``.

    Returns:
        ``task``, ``data``, ``seeds``, ``samples``, and for each of ``runs`` the ``scored`` samples, ``coverage``,
        ``errors``, ``misses`` (errors that are scored), ``missing``, ``signature``, ``figures``, and their ``change``
        against the clean run in percent (None if the clean figure is 0).

    Raises:
        InputError: there is no table of the clean run.
    """
    if CLEAN not in tables:
        raise InputError(f"The run on clean images is missing among {', '.join(tables) or 'no runs'}: run it again.")
    first = tables[CLEAN]
    clean = first["figures"]
    runs = {}
    for name, table in tables.items():
        figures = {key: value for key, value in table["figures"].items() if not key.endswith(("_low", "_high"))}
        known = {key: value for key, value in figures.items() if value is not None and clean.get(key) is not None}
        change = {key: relative_change(clean[key], value) for key, value in known.items()}
        runs[name] = {name: table[name] for name in _KEPT}
        runs[name] |= {"figures": figures, "change": change}
    seeds = {table["data"]["perturbation_seed"] for name, table in tables.items() if name != CLEAN}
    return {
        "task": first["task"],
        "data": first["data"],
        "seeds": sorted(seeds),
        "samples": first["samples"],
        "runs": runs,
    }


def write_robustness(document: Json, folder: str | Path) -> None:
    """Write ``robustness.json`` and ``robustness.csv``.

    Raises:
        OutputError: the folder cannot be written.
    """
    atomic_write(Path(folder) / ROBUSTNESS_FILE, dumps(document) + "\n")
    rows = []
    for name, run in document["runs"].items():
        change = {f"{key} change %": value for key, value in run["change"].items()}
        rows.append({"pictures": name, "scored": run["scored"], **run["coverage"], **run["figures"], **change})
    atomic_write(Path(folder) / ROBUSTNESS_CSV, csv_text(rows))
