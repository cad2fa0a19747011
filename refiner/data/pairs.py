"""Preference pairs of repairs, as ``refiner data pairs`` writes them, and their reader.

A pair is two images of one prompt that differ in a mask. By the detector and the judges of the run, the chosen one is
the better. Two layouts are written, each with paths that start at its folder:

- ``trl``: ``metadata.jsonl``, which ``datasets.load_dataset("imagefolder", data_dir=FOLDER)`` reads. Its columns have
  the names of TRL's preferences: ``prompt``, and ``chosen`` and ``rejected``, which are images here, as ``mask`` is.
  TRL's own trainers compare texts; these columns are for a trainer of diffusion models.
- ``ms-swift``: ``pairs.jsonl``, a record a line of ms-swift's DPO for models that answer with images (version 3.8 or
  later): ``messages`` with ``images``, ``rejected_messages`` with ``rejected_images``. All else is under ``refiner``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from refiner.data.fields import is_finite, is_inside, list_of, text_of
from refiner.data.problems import UnusableError
from refiner.errors import BadAnswerError, InputError
from refiner.files import Json
from refiner.types import Claim

FILES: Final[Mapping[str, str]] = {"trl": "metadata.jsonl", "ms-swift": "pairs.jsonl"}
"""Layout -> name of its file of pairs."""
IMAGES: Final = ("chosen", "rejected", "mask")
_SUFFIX: Final = "_file_name"
"""Ends the columns whose files ``datasets`` reads as images."""
_PLACEHOLDER: Final = "<image>"
_TEXTS: Final = ("name", "location", "explanation", "reasoning")
_MOST: Final = 16_000_000
"""Characters of a line."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one detector or judge says about both images of a pair."""

    by: str
    """Its name."""
    measure: str
    """``burden`` (severity times confidence over the flaws; lower is better) or ``score`` (higher is better)."""
    chosen: float
    rejected: float

    @property
    def gain(self) -> float:
        """By how much the chosen image is better; at least 0."""
        return self.rejected - self.chosen if self.measure == "burden" else self.chosen - self.rejected


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair."""

    prompt: str
    """What both images should show."""
    chosen: Path
    rejected: Path
    mask: Path
    """Greyscale, white where the two images differ."""
    action: str
    """What made the later of the two images, such as ``inpaint``."""
    flaws: tuple[Claim, ...]
    """Those of the rejected image in the mask, the worst first; empty if only a judge prefers the other image."""
    judgements: tuple[Judgement, ...]
    """Of the detector first."""
    run: str = ""
    """Where the images come from."""
    attempts: tuple[int, int] = (0, 0)
    """Numbers of the chosen and the rejected image in the run."""


def record_of(pair: Pair, layout: str) -> Json:
    """A pair as a record of a layout; its paths are written as they are."""
    rest: Json = {
        "action": pair.action,
        "flaws": [_flaw(flaw) for flaw in pair.flaws],
        "judgements": [vars(judgement) for judgement in pair.judgements],
        "run": pair.run,
        "attempts": list(pair.attempts),
    }
    paths = {name: getattr(pair, name).as_posix() for name in IMAGES}
    if layout == "trl":
        return {"prompt": pair.prompt, **{name + _SUFFIX: path for name, path in paths.items()}, **rest}
    user = {"role": "user", "content": pair.prompt.replace(_PLACEHOLDER, "(image)")}
    messages = [user, {"role": "assistant", "content": _PLACEHOLDER}]
    return {
        "messages": messages,
        "images": [paths["chosen"]],
        "rejected_messages": messages,
        "rejected_images": [paths["rejected"]],
        "refiner": {"prompt": pair.prompt, "mask": paths["mask"], **rest},
    }


def read_pairs(folder: str | Path) -> Iterator[Pair]:
    """Read the pairs of a folder in either layout, one by one.

    Args:
        folder: what ``refiner data pairs --out`` wrote.

    Raises:
        InputError: there are no pairs, or a line cannot be read.
    """
    root = Path(folder)
    layout = next((layout for layout, file in FILES.items() if (root / file).is_file()), None)
    if layout is None:
        raise InputError(f"{str(root)!r} has no {' or '.join(FILES.values())}: name what refiner data pairs wrote.")
    with (root / FILES[layout]).open(encoding="utf-8") as lines:
        number = 0
        while line := lines.readline(_MOST):
            number += 1
            try:
                yield _pair(json.loads(line), layout, root)
            except (ValueError, KeyError, IndexError, TypeError, RecursionError, BadAnswerError) as error:
                raise InputError(
                    f"Line {number} of {str(root / FILES[layout])!r} is not a pair ({error!r:.200}): write it again."
                ) from error


def _pair(record: Any, layout: str, root: Path) -> Pair:
    if layout == "trl":
        rest, paths = record, {name: record[name + _SUFFIX] for name in IMAGES}
    else:
        rest = record["refiner"]
        paths = {"chosen": record["images"][0], "rejected": record["rejected_images"][0], "mask": rest["mask"]}
    if outside := [path for path in paths.values() if not (isinstance(path, str) and is_inside(path))]:
        raise UnusableError("bad_record", f"expected a path inside the folder, got {outside[0]!r:.60}")
    chosen, rejected = map(int, rest["attempts"])
    return Pair(
        prompt=text_of(rest, "prompt"),
        **{name: root / path for name, path in paths.items()},
        action=text_of(rest, "action"),
        flaws=tuple(_claim(flaw) for flaw in list_of(rest, "flaws")),
        judgements=tuple(_judgement(judgement) for judgement in list_of(rest, "judgements")),
        run=text_of(rest, "run"),
        attempts=(chosen, rejected),
    )


def _flaw(flaw: Claim) -> Json:
    return {name: getattr(flaw, name) for name in _TEXTS} | {
        "category": None if flaw.category is None else str(flaw.category),
        "severity": flaw.severity,
        "score": flaw.score,
        "box": None if flaw.box is None else list(flaw.box),
    }


def _claim(value: Mapping[str, Any]) -> Claim:
    texts: Json = {name: text_of(value, name) for name in _TEXTS}
    category, severity, score, box = (value[name] for name in ("category", "severity", "score", "box"))
    return replace(Claim(category=category, severity=severity, score=score, box=box), **texts)


def _judgement(value: Mapping[str, Any]) -> Judgement:
    numbers = {name: value[name] for name in ("chosen", "rejected")}
    if not all(map(is_finite, numbers.values())) or value["measure"] not in ("burden", "score"):
        raise UnusableError("bad_record", f"expected a burden or a score of both images, got {value!r:.100}")
    return Judgement(by=text_of(value, "by"), measure=value["measure"], **numbers)
