"""``refiner evaluate pad``: predictions on disk against X-AIGD's annotations, by the official protocol of 2026.

Masks lie in the layout of ``refiner.data.xaigd.predictions``; boxes are one CSV (``refiner.metrics.instances``). Counts
are pooled over all images of the split, whatever a classifier says of them; an image without a prediction is one where
nothing was found. Where the official scripts stop with an error (a mask of the wrong size, an unknown category), this
one names the file, counts it, leaves that prediction or image out and goes on; ``comparable`` is then False.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from refiner.data.problems import Problem, count_problems
from refiner.data.xaigd import XaigdFolder, XaigdImage
from refiner.data.xaigd.predictions import (
    OFFICIAL_TRANSFORMS,
    Transform,
    compared_size,
    read_prediction,
    transform_truth,
    unknown_predictions,
)
from refiner.errors import ConfigError, InputError, OutputError
from refiner.files import Json, atomic_write_all, check_writable, dumps
from refiner.metrics import instances
from refiner.metrics.instances import InstanceCounts, instance_row, match_boxes, read_boxes
from refiner.metrics.localization import VERSION, PixelCounts, PixelTotals, by_artifact_ratio, count_pixels
from refiner.taxonomy import XaigdCategory

Task = Literal["agnostic", "fine-grained", "instance"]
Record = Callable[[Json], None]
"""Takes one line of ``per_image.jsonl``."""

OFFICIAL_TASKS: Final[dict[Task, str]] = {"agnostic": "category-agnostic", "fine-grained": "fine-grained"}
_TOLERATED = {"unknown_image", "ignored_file", "faint_mask", "no_predictions", "not_finite"}
"""Problems that the official scripts pass over as well, so that the figures still compare."""


@dataclass(frozen=True, kw_only=True)
class PadConfig:
    """What is compared; the defaults are the official ones where it has any."""

    task: Task = "agnostic"
    transform: Transform = "keep"
    overlap: float = instances.DEFAULT_OVERLAP
    """Of instances, in [0, 1]: share of a box that must lie on one."""

    def __post_init__(self) -> None:
        for name, kind in {"task": Task, "transform": Transform}.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"Expected a {name} of {known}; got {getattr(self, name)!r}: name one of these.")
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"Expected an overlap in [0, 1], got {self.overlap!r}: name a share of the box's area.")
        if self.task == "instance" and self.transform != "keep":
            raise ConfigError(
                f"Expected transform 'keep' for instances, got {self.transform!r}: boxes are not resized."
            )

    @property
    def signature(self) -> str:
        """Every choice, so that equal signatures compare."""
        if self.task == "instance":
            return (
                f"pad-instance|version={instances.VERSION}|protocol=x-aigd-2026|overlap>{self.overlap:g}"
                "|instances=dilate5x5,connect8|average=pooled|empty=0"
            )
        return (
            f"pad|version={VERSION}|protocol=x-aigd-2026|task={OFFICIAL_TASKS[self.task]}"
            f"|transform={OFFICIAL_TRANSFORMS[self.transform]}|mask>127|polygons=opencv|average=pooled|empty=0"
        )


def evaluate_pad(
    predictions: str | Path,
    data: str | Path,
    *,
    task: Task = "agnostic",
    transform: Transform = "keep",
    overlap: float = instances.DEFAULT_OVERLAP,
    split: str | None = None,
    out: str | Path | None = None,
) -> Json:
    """Score predictions on disk.

    Args:
        predictions: root folder of masks; for ``task="instance"`` a CSV of boxes, or a folder with just one.
        data: folder of X-AIGD, with or without ``xaigd:`` before it.
        task: masks of all categories together, masks of each category, or boxes.
        transform: size at which masks are compared; see ``refiner.data.xaigd.predictions``.
        overlap: see ``PadConfig``.
        split: None means ``labeled_test`` where there is one, else the only one.
        out: folder for ``overall.csv`` and ``per_generator.csv`` (official columns), ``per_image.jsonl`` (counts of
            each image and category, from which all else follows), ``problems.csv`` and ``pad.json``; None for none.

    Returns:
        Ready for JSON. ``rows`` and ``per_generator`` are the official tables. Of masks there are also
        ``per_image`` (means of the images' own figures, both empty = 1), ``legion`` (mIoU and F1 by LEGION's reading)
        and, for ``agnostic``, ``by_artifact_ratio`` (PAR > 0 against PAR = 0). Then ``images``,
        ``missing_predictions`` (images without any), ``comparable`` (with figures of the official scripts),
        ``problems`` (how many of each kind), ``problem_list`` (in words), ``split`` and ``signature``.

    Raises:
        ConfigError: a setting out of its range.
        InputError: the predictions or the data are missing, damaged as a whole, or without images.
        OutputError: ``out`` cannot be written.
    """
    config = PadConfig(task=task, transform=transform, overlap=overlap)
    source = XaigdFolder.open(str(data).removeprefix("xaigd:"), split)
    folder = None if out is None else check_writable(out)
    problems: list[Problem] = []
    scorer = (_Boxes if task == "instance" else _Masks)(Path(predictions), config, problems)
    with _recorder(folder) as record:
        for image in source.images(problems, scorer.names):
            scorer.add(image, record)
    if not scorer.names:
        raise InputError(
            f"Expected images in the split {source.split!r}, got {len(problems)} unusable: fetch it again."
        )
    scorer.finish()
    document = scorer.document() | {
        "images": len(scorer.names),
        "missing_predictions": scorer.missing,
        "comparable": all(problem.kind in _TOLERATED for problem in problems),
        "problems": count_problems(problems),
        "problem_list": list(map(str, problems)),
        "split": source.split,
        "signature": f"{config.signature}|split={source.split}",
    }
    if folder is not None:
        _write_tables(folder, document, problems)
    return document


class _Masks:
    """Pixel by pixel, agnostic or by category."""

    def __init__(self, root: Path, config: PadConfig, problems: list[Problem]) -> None:
        if not root.is_dir():
            raise InputError(
                f"Expected a folder of predicted masks, got {str(root)!r}, which is none: "
                "name the root of {generator}/{uid}/*.png."
            )
        self.root, self.config, self.problems = root, config, problems
        self.fine = config.task == "fine-grained"
        self.categories: list[XaigdCategory | None] = list(XaigdCategory) if self.fine else [None]
        self.names: set[str] = set()
        self.missing = 0
        self.totals: dict[tuple[str, str, bool], PixelTotals] = {}

    def add(self, image: XaigdImage, record: Record) -> None:
        folders = {category: self._folder(image, category) for category in self.categories}
        size = compared_size(image.size, self.config.transform)
        found = {category: read_prediction(folder, size, self.problems) for category, folder in folders.items()}
        self.missing += all(mask is None for mask in found.values())
        for category, predicted in found.items():
            counts = self._count(image, category, predicted)
            key = (image.generator, str(category or "all"), counts.flawed)
            self.totals[key] = self.totals.get(key, PixelTotals()) + PixelTotals.of(counts)
            record(_place(image, key[1]) | asdict(counts) | {"missing": predicted is None})

    def _folder(self, image: XaigdImage, category: XaigdCategory | None) -> Path:
        return self.root / image.generator / (category or "") / image.uid

    def _count(self, image: XaigdImage, category: XaigdCategory | None, predicted: np.ndarray | None) -> PixelCounts:
        transform = self.config.transform
        if not image.labels or (category and category not in image.categories):
            size = compared_size(image.size, transform)
            found = 0 if predicted is None else int(np.count_nonzero(predicted))
            return PixelCounts(fp=found, tn=size.height * size.width - found)
        truth = transform_truth(image.mask(category), transform)
        return count_pixels(np.zeros_like(truth) if predicted is None else predicted, truth)

    def finish(self) -> None:
        self.problems.extend(unknown_predictions(self.root, self.names, fine_grained=self.fine))
        if self.missing == len(self.names):
            layout = "{generator}/{category}/{uid}/*.png" if self.fine else "{generator}/{uid}/*.png"
            self.problems.append(Problem("no_predictions", str(self.root), "", f"no image has masks in {layout}"))

    def document(self) -> Json:
        generators = sorted({generator for generator, _, _ in self.totals})
        names = [str(category or "all") for category in self.categories]
        document = {
            "rows": [self._row(None, name) for name in names],
            "per_generator": [self._row(generator, name) for generator in generators for name in names],
            "per_image": {name: self._total(None, name).pad_per_image() for name in names},
            "legion": {name: self._total(None, name).legion() for name in names},
        }
        if not self.fine:
            flawed, clean = (self._total(None, "all", [flag]) for flag in (True, False))
            document["by_artifact_ratio"] = by_artifact_ratio(flawed, clean)
        return document

    def _total(self, generator: str | None, category: str, flags: Iterable[bool] = (True, False)) -> PixelTotals:
        wanted = [
            total
            for (owner, name, flawed), total in self.totals.items()
            if generator in (None, owner) and name == category and flawed in flags
        ]
        return sum(wanted, PixelTotals())

    def _row(self, generator: str | None, category: str) -> Json:
        total = self._total(generator, category)
        place = {"generator": generator or "all", "task": OFFICIAL_TASKS[self.config.task], "category": category}
        return place | total.pad() | {"evaluated_images": total.images, "zero_prediction_images": total.silent}


class _Boxes:
    """Instance by instance, by category."""

    def __init__(self, path: Path, config: PadConfig, problems: list[Problem]) -> None:
        self.path, self.config, self.problems = _find_csv(path), config, problems
        self.boxes = read_boxes(self.path, problems)
        self.names: set[str] = set()
        self.missing = 0
        self.totals: dict[tuple[str, str], InstanceCounts] = {}

    def add(self, image: XaigdImage, record: Record) -> None:
        silent = 0
        for category in XaigdCategory:
            boxes = self.boxes.get((image.generator, image.uid, str(category)), [])
            counts = match_boxes(image.mask(category), boxes, self.config.overlap)
            key = (image.generator, str(category))
            self.totals[key] = self.totals.get(key, InstanceCounts()) + counts
            silent += counts.silent
            record(_place(image, str(category)) | asdict(counts))
        self.missing += silent == len(XaigdCategory)

    def finish(self) -> None:
        images = dict.fromkeys(f"{generator}/{uid}" for generator, uid, _ in self.boxes)
        for name in images:
            if name not in self.names:
                detail = "the data has no usable image of this name"
                self.problems.append(Problem("unknown_image", str(self.path), name, detail))

    def document(self) -> Json:
        generators = sorted({generator for generator, _ in self.totals})
        return {
            "rows": [self._row(None, category) for category in XaigdCategory],
            "per_generator": [self._row(generator, category) for generator in generators for category in XaigdCategory],
        }

    def _row(self, generator: str | None, category: XaigdCategory) -> Json:
        wanted = (
            total for (owner, name), total in self.totals.items() if generator in (None, owner) and name == category
        )
        return instance_row(sum(wanted, InstanceCounts()), generator or "all", str(category), self.config.overlap)


def _find_csv(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.csv"))
    if len(found) != 1:
        raise InputError(f"Expected one CSV of boxes in {str(path)!r}, got {len(found)}: name the file itself.")
    return found[0]


def _place(image: XaigdImage, category: str) -> Json:
    return {"generator": image.generator, "uid": image.uid, "category": category}


@contextmanager
def _recorder(folder: Path | None) -> Iterator[Record]:
    """Writes ``per_image.jsonl`` line by line; the file takes its name when all is well."""
    if folder is None:
        yield lambda record: None
        return
    part = folder / f".per_image.{secrets.token_hex(4)}.part"
    try:
        with part.open("x", encoding="utf-8") as file:
            yield lambda record: print(json.dumps(record, ensure_ascii=False), file=file)
        os.replace(part, folder / "per_image.jsonl")
    except OSError as error:
        raise OutputError(
            f"Expected to write {str(folder / 'per_image.jsonl')!r}, got {error.strerror!r}: "
            "choose a place with free space."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _write_tables(folder: Path, document: Json, problems: Sequence[Problem]) -> None:
    tables = {
        "overall.csv": _csv(list(document["rows"][0]), document["rows"]),
        "per_generator.csv": _csv(list(document["rows"][0]), document["per_generator"]),
        "problems.csv": _csv(Problem._fields, [problem._asdict() for problem in problems]),
        "pad.json": dumps(document) + "\n",
    }
    atomic_write_all(folder, {name: text.encode() for name, text in tables.items()})


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
