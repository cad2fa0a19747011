"""Refinement beside its peers: refiner, LEGION's two controllers, and no refinement, as in LEGION's Table 4.

Each is an ordinary run of the task ``refinement`` in a separate folder, ``none``, ``refiner`` and so on: it can be
resumed, merged and scored again like any other. All runs have the same start images, detector and judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from refiner.errors import InputError
from refiner.evaluate.figures import Figures, mean, quotient
from refiner.evaluate.harness import RUN_FILE, read_description
from refiner.evaluate.table import Scored, csv_text
from refiner.files import Json, atomic_write, dumps
from refiner.metrics.intervals import ANY

NONE: Final = "none"
PEERS: Final = (NONE, "refiner", "legion-inpaint", "legion-regenerate")
"""Names of the runs and of their folders."""
PEERS_FILE, PEERS_CSV = "peers.json", "peers.csv"
MEASURES: Final = ("hps", "par")
COSTS: Final = ("denoiser_rows", "detector_calls")


def peers_below(folder: str | Path) -> list[str]:
    """Names of the runs of a table of peers in a folder; empty if there is none.

    Raises:
        InputError: one of them is damaged.
    """
    root = Path(folder)
    if (root / RUN_FILE).exists():
        return []
    there = [name for name in PEERS if (root / name / RUN_FILE).exists()]
    return [name for name in there if read_description(root / name)["system"].get("refiner", {}).get("peer") == name]


def compare(runs: Mapping[str, Scored]) -> Json:
    """The table of peers, ready for JSON.

    The figures are those of the samples that all runs have figures of. ``growth`` is the change of the mean in percent
    of its absolute value before, with a 95 % bootstrap interval over the samples. It is None if the mean before is 0,
    and the interval is None if that of a resample is. LEGION says only that it measures "the average growth rate".

    Args:
        runs: name of a run -> its scored samples.

    Returns:
        ``task``, ``data``, ``samples``, ``compared`` (samples in the figures), and for each of ``runs`` the ``scored``
        samples, ``coverage``, ``errors``, ``missing``, ``signature`` and ``figures``: ``hps_before``, ``hps_after``,
        ``hps_growth`` with ``_low`` and ``_high``, the same for ``par``, and the mean ``denoiser_rows`` and
        ``detector_calls``.

    Raises:
        InputError: the run without refinement is missing.
    """
    if NONE not in runs:
        raise InputError(f"The run without refinement is missing among {', '.join(runs) or 'no runs'}: run it again.")
    shared = set.intersection(*(set(scored.indices.tolist()) for scored in runs.values()))
    first, rows = runs[NONE].table, {}
    for name, scored in runs.items():
        chosen = np.isin(scored.indices, np.array(sorted(shared), dtype=np.int64))
        rows[name] = {key: scored.table[key] for key in ("scored", "coverage", "errors", "missing", "signature")}
        rows[name]["figures"] = _figures(scored, chosen) if shared else {}
    return {
        "task": first["task"],
        "data": first["data"],
        "samples": first["samples"],
        "compared": len(shared),
        "runs": rows,
    }


def _figures(scored: Scored, chosen: Any) -> Figures:
    columns, found = scored.columns.rows_of(chosen), Figures()
    for name in MEASURES:
        before, after = columns[f"{name}_before"], columns[f"{name}_best"]
        known = ~(np.isnan(before) | np.isnan(after))
        found |= {f"{name}_before": mean(before[known]), f"{name}_after": mean(after[known])}
        found |= _growth(f"{name}_growth", before[known], after[known])
    return found | {name: mean(columns[name]) for name in COSTS}


def _growth(name: str, before: Any, after: Any) -> Figures:
    """The growth of the mean in percent, with its interval; None where a mean before is 0 or there is no sample."""
    return quotient(name, 100 * (after - before), before * np.sign(before.sum()), ANY)


def write_peers(document: Json, folder: str | Path) -> None:
    """Write ``peers.json`` and ``peers.csv``.

    Raises:
        OutputError: the folder cannot be written.
    """
    root = Path(folder)
    atomic_write(root / PEERS_FILE, dumps(document) + "\n")
    rows = [
        {"system": name, "scored": run["scored"], **run["coverage"], **run["figures"]}
        for name, run in document["runs"].items()
    ]
    atomic_write(root / PEERS_CSV, csv_text(rows))
