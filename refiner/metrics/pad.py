"""``refiner evaluate pad``: predictions on disk against X-AIGD's annotations, by the official protocol of 2026.

Masks lie in the layout of ``refiner.data.xaigd.predictions``; boxes are one CSV (``refiner.metrics.instances``). Counts
are pooled over all images of the split, regardless of a classifier's verdict. An image without a prediction counts as
one where nothing was found. The official scripts stop at a mask of the wrong size or an unknown category. This one
names and counts the file, leaves that prediction or image out and continues; ``comparable`` is then False.
"""

from __future__ import annotations

import csv
import io
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, Literal, TextIO, TypeVar, get_args

import numpy as np

from refiner.data.problems import Problem, count_problems
from refiner.data.xaigd import XaigdFolder, XaigdImage
from refiner.data.xaigd.predictions import OFFICIAL_THRESHOLD, Transform, read_prediction, unknown_predictions
from refiner.errors import ConfigError, InputError, OutputError
from refiner.files import Json, atomic_write_all, check_writable, dumps
from refiner.metrics import instances
from refiner.metrics.instances import InstanceCounts, instance_row, match_boxes, read_boxes
from refiner.metrics.localization import PixelCounts, PixelTotals, by_artifact_ratio, count_pixels
from refiner.taxonomy import XaigdCategory

VERSION = 2
"""Of the comparison of masks; increases when the same input can give other numbers."""

Task = Literal["agnostic", "fine-grained", "instance"]

OFFICIAL_TASKS: Final[dict[Task, str]] = {"agnostic": "category-agnostic", "fine-grained": "fine-grained"}
_TOLERATED = {"unknown_image", "ignored_file", "faint_mask", "no_predictions", "not_finite"}
"""Problems that the official scripts pass over as well, so that the figures are still comparable."""


@dataclass(frozen=True, kw_only=True)
class PadConfig:
    """What is compared. The defaults give the official figures, unless ``comparable`` says otherwise."""

    task: Task = "agnostic"
    transform: Transform = field(default_factory=Transform)
    threshold: int | None = None
    """For masks: None reads what each shows; a number from 0 to 255 reads them as the official scripts do, which find
    flawed what is above this grey (``OFFICIAL_THRESHOLD``)."""
    overlap: float = instances.DEFAULT_OVERLAP
    """For instances, in [0, 1]: share of a box that must lie on an instance."""

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            known = ", ".join(get_args(Task))
            raise ConfigError(f"Expected a task of {known}; got {self.task!r}: name one of these.")
        if self.threshold is not None and not 0 <= self.threshold <= 255:
            raise ConfigError(
                f"Expected a threshold of masks from 0 to 255, got {self.threshold}: choose a grey value."
            )
        if not 0 <= self.overlap <= 1:
            raise ConfigError(f"Expected an overlap in [0, 1], got {self.overlap!r}: name a share of the box's area.")
        if self.task == "instance" and self.transform != Transform():
            raise ConfigError(
                f"Expected transform 'keep' for instances, got {self.transform.signature!r}: boxes are not resized."
            )

    @property
    def signature(self) -> str:
        """Every choice; figures with equal signatures are comparable."""
        if self.task == "instance":
            return (
                f"pad-instance|version={instances.VERSION}|protocol=x-aigd-2026|overlap>{self.overlap:g}"
                "|instances=dilate5x5,connect8|average=pooled|empty=0"
            )
        shown = f"mask>{OFFICIAL_THRESHOLD}|read=as-shown"
        masks = shown if self.threshold is None else f"mask>{self.threshold}"
        return (
            f"pad|version={VERSION}|protocol=x-aigd-2026|task={OFFICIAL_TASKS[self.task]}"
            f"|transform={self.transform.signature}|{masks}|polygons=opencv|average=pooled|empty=0"
        )


def evaluate_pad(
    predictions: str | Path,
    data: str | Path,
    *,
    task: Task = "agnostic",
    transform: str | Transform = "keep",
    threshold: int | None = None,
    overlap: float = instances.DEFAULT_OVERLAP,
    split: str | None = None,
    out: str | Path | None = None,
) -> Json:
    """Score predictions on disk.

    Args:
        predictions: root folder of masks; for ``task="instance"`` a CSV of boxes, or a folder with exactly one.
        data: folder of X-AIGD, with or without ``xaigd:`` before it.
        task: masks of all categories together, masks of each category, or boxes.
        transform: size at which masks are compared: a name in ``refiner.data.xaigd.predictions.TRANSFORMS``, or sizes.
        threshold, overlap: see ``PadConfig``.
        split: None means ``labeled_test`` if there is one, else the only one.
        out: folder for ``overall.csv`` and ``per_generator.csv`` (official columns), ``per_image.jsonl`` (counts of
            each image and category, from which all else follows), ``problems.csv`` and ``pad.json``; None for none.

    Returns:
        Ready for JSON. ``rows`` and ``per_generator`` are the official tables. For masks also ``per_image`` (means of
        the images' own figures, both empty = 1), ``legion`` (mIoU and F1 as LEGION reads them) and, for ``agnostic``,
        ``by_artifact_ratio`` (PAR > 0 against PAR = 0). Then ``images``, ``missing_predictions`` (images without any),
        ``comparable`` (with figures of the official scripts), ``problems`` (how many of each kind), ``problem_list``
        (in words), ``split`` and ``signature``.

    Raises:
        ConfigError: a setting out of its range.
        InputError: the predictions or the data are missing, damaged as a whole, or without images.
        OutputError: ``out`` cannot be written.
    """
    sizes = Transform.named(transform) if isinstance(transform, str) else transform
    config = PadConfig(task=task, transform=sizes, threshold=threshold, overlap=overlap)
    source = XaigdFolder.open(str(data).removeprefix("xaigd:"), split)
    folder = None if out is None else check_writable(out)
    problems: list[Problem] = []
    scorer = (_Boxes if task == "instance" else _Masks)(Path(predictions), config, problems)
    with _recorder(folder) as scorer.records:
        for image in source.images(problems, scorer.names):
            scorer.add(image)
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
        columns = list(document["rows"][0])
        tables = {
            "overall.csv": _csv(columns, document["rows"]),
            "per_generator.csv": _csv(columns, document["per_generator"]),
            "problems.csv": _csv(Problem._fields, [problem._asdict() for problem in problems]),
            "pad.json": dumps(document) + "\n",
        }
        atomic_write_all(folder, {name: text.encode() for name, text in tables.items()})
    return document


_T = TypeVar("_T", PixelTotals, InstanceCounts)


class _Scorer(ABC, Generic[_T]):
    """The common part of masks and boxes."""

    categories: Sequence[str]
    """Of the rows."""

    def __init__(self, path: Path, config: PadConfig, problems: list[Problem], nothing: _T) -> None:
        self.path, self.config, self.problems = path, config, problems
        self.nothing: _T = nothing
        self.names: set[str] = set()
        self.missing = 0
        self.records: TextIO | None = None
        self.totals: dict[tuple[str, str, bool], _T] = {}

    def count(self, image: XaigdImage, category: str, counts: _T, record: Json, flawed: bool = True) -> None:
        key = (image.generator, category, flawed)
        self.totals[key] = self.totals.get(key, self.nothing) + counts
        if self.records is not None:
            place = {"generator": image.generator, "uid": image.uid, "category": category}
            print(json.dumps(place | record, ensure_ascii=False), file=self.records)

    def total(self, generator: str | None, category: str, flags: Iterable[bool] = (True, False)) -> _T:
        wanted = [
            total
            for (owner, name, flawed), total in self.totals.items()
            if generator in (None, owner) and name == category and flawed in flags
        ]
        return sum(wanted, self.nothing)

    @abstractmethod
    def row(self, generator: str | None, category: str) -> Json:
        """A row of the official tables; of all generators for None."""

    def document(self) -> Json:
        generators = sorted({generator for generator, _, _ in self.totals})
        return {
            "rows": [self.row(None, category) for category in self.categories],
            "per_generator": [self.row(generator, name) for generator in generators for name in self.categories],
        }


class _Masks(_Scorer[PixelTotals]):
    """Pixel by pixel, for all categories together or for each one."""

    def __init__(self, root: Path, config: PadConfig, problems: list[Problem]) -> None:
        if not root.is_dir():
            raise InputError(
                f"Expected a folder of predicted masks, but {str(root)!r} is not a folder: name the root of "
                "{generator}/{uid}/*.png."
            )
        super().__init__(root, config, problems, PixelTotals())
        self.fine = config.task == "fine-grained"
        self.categories = tuple(map(str, XaigdCategory)) if self.fine else ("all",)

    def add(self, image: XaigdImage) -> None:
        size = self.config.transform.size(image.size)
        root = self.path / image.generator
        folders = {name: root / name / image.uid if self.fine else root / image.uid for name in self.categories}
        found = {
            name: read_prediction(folder, size, self.problems, self.config.threshold)
            for name, folder in folders.items()
        }
        self.missing += all(mask is None for mask in found.values())
        for name, predicted in found.items():
            counts = self._count(image, XaigdCategory(name) if self.fine else None, predicted)
            record = asdict(counts) | {"missing": predicted is None}
            self.count(image, name, PixelTotals.of(counts), record, counts.flawed)

    def _count(self, image: XaigdImage, category: XaigdCategory | None, predicted: np.ndarray | None) -> PixelCounts:
        transform = self.config.transform
        if not image.labels or (category and category not in image.categories):
            size = transform.size(image.size)
            found = 0 if predicted is None else int(np.count_nonzero(predicted))
            return PixelCounts(fp=found, tn=size.height * size.width - found)
        truth = transform(image.mask(category))
        return count_pixels(np.zeros_like(truth) if predicted is None else predicted, truth)

    def finish(self) -> None:
        self.problems.extend(unknown_predictions(self.path, self.names, fine_grained=self.fine))
        if self.missing == len(self.names):
            layout = "{generator}/{category}/{uid}/*.png" if self.fine else "{generator}/{uid}/*.png"
            self.problems.append(Problem("no_predictions", str(self.path), "", f"no image has masks in {layout}"))

    def document(self) -> Json:
        document = super().document() | {
            "per_image": {name: self.total(None, name).pad_per_image() for name in self.categories},
            "legion": {name: self.total(None, name).legion() for name in self.categories},
        }
        if not self.fine:
            flawed, clean = (self.total(None, "all", [flag]) for flag in (True, False))
            document["by_artifact_ratio"] = by_artifact_ratio(flawed, clean)
        return document

    def row(self, generator: str | None, category: str) -> Json:
        total = self.total(generator, category)
        place = {"generator": generator or "all", "task": OFFICIAL_TASKS[self.config.task], "category": category}
        return place | total.pad() | {"evaluated_images": total.images, "zero_prediction_images": total.silent}


class _Boxes(_Scorer[InstanceCounts]):
    """Instance by instance, by category."""

    categories = tuple(map(str, XaigdCategory))

    def __init__(self, path: Path, config: PadConfig, problems: list[Problem]) -> None:
        if path.is_dir():
            tables = sorted(path.glob("*.csv"))
            if len(tables) != 1:
                raise InputError(f"Expected one CSV of boxes in {str(path)!r}, got {len(tables)}: name the file.")
            path = tables[0]
        super().__init__(path, config, problems, InstanceCounts())
        self.boxes = read_boxes(path, problems)

    def add(self, image: XaigdImage) -> None:
        silent = 0
        for category in XaigdCategory:
            boxes = self.boxes.get((image.generator, image.uid, str(category)), [])
            counts = match_boxes(image.mask(category), boxes, self.config.overlap)
            silent += counts.silent
            self.count(image, str(category), counts, asdict(counts))
        self.missing += silent == len(XaigdCategory)

    def finish(self) -> None:
        for name in dict.fromkeys(f"{generator}/{uid}" for generator, uid, _ in self.boxes):
            if name not in self.names:
                detail = "the data has no usable image of this name"
                self.problems.append(Problem("unknown_image", str(self.path), name, detail))

    def row(self, generator: str | None, category: str) -> Json:
        return instance_row(self.total(generator, category), generator or "all", category, self.config.overlap)


@contextmanager
def _recorder(folder: Path | None) -> Iterator[TextIO | None]:
    """``per_image.jsonl``, open for writing; the file gets its name when all images are done."""
    if folder is None:
        yield None
        return
    target = folder / "per_image.jsonl"
    part = folder / f".per_image.{secrets.token_hex(4)}.part"
    try:
        with part.open("x", encoding="utf-8") as file:
            yield file
        part.replace(target)
    except OSError as error:
        raise OutputError(f"Cannot write {str(target)!r} ({error.strerror}): choose a disk with free space.") from error
    finally:
        part.unlink(missing_ok=True)


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
