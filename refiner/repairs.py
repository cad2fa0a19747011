"""Which tool repaired which flaws: what run records say, and how often each tool succeeds, by category of flaw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from refiner.errors import InputError
from refiner.files import Json
from refiner.reading import reason_of
from refiner.taxonomy import Category

LocalTool = Literal["inpaint", "edit"]
"""How a part of an image is repaired: it is inpainted, or edited by an instruction."""
Tool = Literal["inpaint", "edit", "regenerate"]
"""How a flaw is repaired: by a local tool, or the image is generated again."""
LOCAL_TOOLS: tuple[LocalTool, ...] = get_args(LocalTool)
TOOLS: tuple[Tool, ...] = get_args(Tool)
ToolTable = Mapping[str, Mapping[str, Sequence[int]]]
"""Category of flaw -> tool -> how many repairs succeeded, and how many were tried."""

LEAST_TRIES = 5
"""Tries of a tool below which its success for a category is not judged by that category alone."""
RUN_FILE, TABLE_FILE = "run.json", "tools.json"
MICRO_TABLE = Path(__file__).parent / "micro" / TABLE_FILE
"""The bundled table of tools of the micro world; ``refiner micro tools`` counts it."""
_MAX_BYTES = 200_000_000
"""Largest record that is read."""
_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution, for intervals of 95 %."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One try to repair a flaw."""

    tool: Tool
    category: Category
    name: str
    """Of the flawed region."""
    better: bool
    """Whether the repair was kept, because the region became better."""


class Interval(NamedTuple):
    """A share in [0, 1] with its interval of 95 %."""

    share: float
    low: float
    high: float


def success(better: int, tries: int) -> Interval | None:
    """Return the share of successful tries with Wilson's interval (1927); None without any try."""
    if tries == 0:
        return None
    share, shrink = better / tries, 1 + _Z**2 / tries
    centre = (share + _Z**2 / (2 * tries)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / tries + _Z**2 / (4 * tries**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def lower_bound(table: ToolTable, category: str, tool: str) -> float:
    """Return the lower bound of a tool's success for a category of flaw, in [0, 1].

    If the tool was tried less than ``LEAST_TRIES`` times for this category, its tries for all categories count. If
    there are still fewer, the bound is 0.
    """
    own = table.get(category, {}).get(tool, (0, 0))
    for better, tries in (own, _all(table, tool)):
        if tries >= LEAST_TRIES:
            found = success(better, tries)
            return 0.0 if found is None else found.low
    return 0.0


def _all(table: ToolTable, tool: str) -> tuple[int, int]:
    counts = [row[tool] for row in table.values() if tool in row]
    return sum(better for better, _ in counts), sum(tries for _, tries in counts)


def counted(repairs: Iterable[Repair]) -> dict[str, dict[str, list[int]]]:
    """Count repairs as a ``ToolTable``, sorted by category and tool."""
    table: dict[str, dict[str, list[int]]] = {}
    for repair in repairs:
        row = table.setdefault(str(repair.category), {}).setdefault(repair.tool, [0, 0])
        row[0] += repair.better
        row[1] += 1
    return {category: dict(sorted(table[category].items())) for category in sorted(table)}


def tool_table(*places: str | Path) -> dict[str, dict[str, list[int]]]:
    """Count the repairs in run records, for ``RefineConfig.tool_table``.

    Args:
        places: files ``run.json``, or folders with such files at any depth, as ``refiner refine`` writes them; files
            ``tools.json``, as ``refiner report --tools`` writes them; or "micro" for the bundled table of the micro
            world.

    Raises:
        InputError: there is no run record, or a file cannot be read.
    """
    table: dict[str, dict[str, list[int]]] = {}
    for place in places:
        for category, row in _table_of(Path(place)).items():
            for tool, counts in row.items():
                own = table.setdefault(category, {}).get(tool, (0, 0))
                table[category][tool] = [old + new for old, new in zip(own, counts, strict=True)]
    return {category: dict(sorted(table[category].items())) for category in sorted(table)}


def _table_of(place: Path) -> ToolTable:
    file = MICRO_TABLE if place == Path("micro") else place
    if file.name != TABLE_FILE:
        return counted(repair for record in _records_in(file) for repair in read_repairs(record))
    try:
        return checked_table(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"The table of tools {str(file)!r} cannot be read ({reason_of(error)}): write it again with refiner report "
            "--tools."
        ) from error


def read_repairs(file: Path) -> list[Repair]:
    """Read the repairs in a run record; records of older versions hold none.

    Raises:
        InputError: it is no run record.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
        record = json.loads(file.read_text(encoding="utf-8"))
        return [repair_of(row) for attempt in record["attempts"] for row in attempt.get("repairs", ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"The run record {str(file)!r} cannot be read ({reason_of(error)}): name a folder that refiner refine "
            "wrote."
        ) from error


def repair_summary(repair: Repair) -> Json:
    """Convert a repair to JSON."""
    return {**vars(repair), "category": str(repair.category)}


def checked_table(table: Any) -> dict[str, dict[str, list[int]]]:
    """Return a copy of a ``ToolTable``.

    Raises:
        ValueError: it is no such table; the message says why.
    """
    if not isinstance(table, Mapping):
        raise ValueError("it is no mapping")
    return {Category(category): _checked_row(row) for category, row in table.items()}


def _checked_row(row: Any) -> dict[str, list[int]]:
    if not isinstance(row, Mapping) or not set(row) <= set(TOOLS):
        raise ValueError(f"the tools must be of {', '.join(TOOLS)}, got {row!r:.80}")
    for counts in row.values():
        whole = isinstance(counts, Sequence) and all(type(count) is int for count in counts)
        if not whole or len(counts) != 2 or not 0 <= counts[0] <= counts[1]:
            raise ValueError(f"expected [successes, tries], got {counts!r:.80}")
    return {tool: list(counts) for tool, counts in row.items()}


def repair_of(row: Any) -> Repair:
    """Read what ``repair_summary`` wrote; raises ValueError or KeyError if it is something else."""
    if row["tool"] not in TOOLS or not isinstance(row["name"], str) or not isinstance(row["better"], bool):
        raise ValueError(f"{row!r:.80} is no repair")
    return Repair(tool=row["tool"], category=Category(row["category"]), name=row["name"], better=row["better"])


def _records_in(place: Path) -> Iterator[Path]:
    files = [place] if place.is_file() else sorted(place.rglob(RUN_FILE))
    if not files:
        raise InputError(f"{str(place)!r} holds no run records: name a folder that refiner refine --out wrote.")
    yield from files
