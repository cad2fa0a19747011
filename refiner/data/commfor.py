"""Community Forensics: images of thousands of generators, and real ones (Park and Owens, CVPR 2025).

Read in the cards of CommunityForensics, -Small and -Eval (OwensLab) on the hub: parquet files at any depth, such as
``data/CompEval-00000-of-00413.parquet`` or ``data/systematic/*.parquet``, with ``image_data`` (bytes of an image file),
``image_name``, ``model_name``, ``label`` (1 generated, 0 real), ``prompt`` and ``split``. A real image of -Eval has
the name of the generator that it is compared with, one of -Small that of its own data set (read in code that uses
both). No column pairs single images.

A folder without parquet files is read as the official training code reads its own: ``GENERATOR/real`` and
``GENERATOR/fake``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

from refiner.data.json_stream import Place, Places
from refiner.data.parquet import ParquetRows, decoded, image_bytes, stream_rows
from refiner.data.problems import Problem, UnusableError
from refiner.data.samples import DataSet, Sample
from refiner.data.texts import is_unicode
from refiner.data.verdicts import VerdictFolders
from refiner.errors import ConfigError, InputError

IMAGE: Final = "image_data"
"""The column of the images."""
FIELDS: Final = ("image_name", "model_name", "label", "prompt", "split")
_WHAT: Final = "the rows of Community Forensics"
_NO_PROMPT: Final = frozenset({"", "n/a", "none"})


def open_commfor(folder: str, *, split: str | None = None) -> DataSet:
    """Open parquet files, or folders of images if there are none.

    Args:
        folder: the root.
        split: only the parquet files in a folder of this name, or whose names begin with it and ``-``, such as
            ``CompEval``; capitals do not matter. None for all. Of folders, ``train``, ``val`` or ``test``.

    Raises:
        InputError: there is no such folder, or nothing in it to read, or no such split.
        ConfigError: there is no such split of folders.
    """
    root = Path(folder)
    if not isdir(root):
        raise InputError(
            f"Expected the folder of Community Forensics, but {folder!r} is not a folder: name the data set's folder."
        )
    files = [path for path in sorted(root.rglob("*.parquet")) if not _hidden(path.relative_to(root))]
    if not files:
        return CommforFolders(folder, split=split)
    chosen = files if split is None else [path for path in files if _is_of(path.relative_to(root), split)]
    if not chosen:
        raise ConfigError(
            f"Expected a split of {folder!r}, a folder of parquet files or the beginning of their names, got "
            f"{split!r:.60}: use one of these, such as {files[0].relative_to(root).as_posix()!r:.200}."
        )
    return CommforData(root, chosen)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_of(path: Path, split: str) -> bool:
    wanted = split.lower()
    return wanted in [part.lower() for part in path.parts[:-1]] or path.name.lower().startswith(f"{wanted}-")


class CommforFolders(VerdictFolders):
    """Folders of images; the group is the generator, and real images in a folder of their own belong to no group."""

    labels: ClassVar[Mapping[str, bool]] = MappingProxyType({"real": False, "fake": True})

    def __init__(self, folder: str, *, split: str | None = None) -> None:
        super().__init__(folder, split=split)
        self.generators = {super(CommforFolders, self)._group(name) for name in self.names if self._fake(name)}

    def _group(self, name: str) -> str:
        group = super()._group(name)
        return group if group in self.generators else ""


@dataclass(frozen=True, kw_only=True)
class CommforRow:
    """What a row says about its image."""

    image: str
    model: str
    """The generator, or what a real image belongs to; "" if a real image belongs to nothing."""
    fake: bool
    prompt: str
    split: str

    @classmethod
    def of(cls, row: Any) -> CommforRow:
        """Check a row.

        Raises:
            UnusableError: it lacks a name, the generator of a generated image or a label of 0 or 1 (``bad_record``).
        """
        if not isinstance(row, Mapping):
            raise UnusableError("bad_record", "expected columns of UTF-8 text, got others")
        image, model, label = _text(row, "image_name"), _text(row, "model_name"), row.get("label")
        if isinstance(label, bool) or label not in (0, 1):
            raise UnusableError("bad_record", f"expected label as 0 or 1, got {label!r:.60}", f", {image!r:.200}")
        if not image or (label and not model):
            lacking = "model_name" if image else "image_name"
            raise UnusableError("bad_record", f"expected {lacking} as a text, got {row.get(lacking)!r:.60}")
        prompt = _text(row, "prompt") if label else ""
        prompt = "" if prompt.lower() in _NO_PROMPT else prompt
        return cls(image=image, model=model, fake=bool(label), prompt=prompt, split=_text(row, "split"))

    @property
    def name(self) -> str:
        """Model, kind and name of the image; usually unique."""
        return f"{self.model}/{'fake' if self.fake else 'real'}/{self.image}".lstrip("/")


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    return value.strip() if isinstance(value, str) and is_unicode(value) else ""


class CommforData:
    """Community Forensics in parquet files.

    The group is the generator, also of the real images that it is compared with; a real image that is compared with
    none belongs to no group. Kinds of problems: ``bad_record`` (left out) and ``damaged_file`` (what follows in the
    file is lost).

    Args:
        root: the folder.
        files: parquet files in it.

    Raises:
        InputError: there are damaged files and no usable row.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, root: Path, files: list[Path]) -> None:
        self.problems: list[Problem] = []
        self.root, self.places = root, Places(files)
        self.rows = ParquetRows((*FIELDS, IMAGE))
        self.generators: set[str] = set()
        names: dict[str, None] = {}
        for file in files:
            for row, place in self._read(file):
                name = row.name if row.name not in names else f"{row.name} ({self._where(place)})"
                names[name] = None
                self.places.append(place)
                if row.fake:
                    self.generators.add(row.model)
        self.names = tuple(names)
        """Of several samples with one name, all but the first one say where they lie."""
        damaged = next((problem for problem in self.problems if problem.kind == "damaged_file"), None)
        if damaged is not None and not names:
            raise InputError(damaged.detail)

    @property
    def pairs(self) -> list[str]:
        """The data set pairs no images."""
        return [""] * len(self.names)

    def _where(self, place: Place) -> str:
        return f"{place.file.relative_to(self.root).as_posix()} row {place.start}"

    def _read(self, file: Path) -> Iterator[tuple[CommforRow, Place]]:
        try:
            for where, row, place in stream_rows(file, FIELDS, _WHAT):
                try:
                    yield CommforRow.of(row), place
                except UnusableError as error:
                    self.problems.append(Problem(error.kind, str(file), where + error.where, str(error)))
        except InputError as error:
            self.problems.append(Problem("damaged_file", str(file), "", str(error)))

    def load(self, index: int) -> Sample:
        """Read one sample."""
        place = self.places[index]
        cells = self.rows.read(place.file, place.start)
        where = f"row {place.start} of {str(place.file)!r}"
        try:
            row = CommforRow.of(cells)
        except UnusableError as error:
            raise InputError(
                f"Cannot read {where} again ({error}): do not change the file while it is used."
            ) from error
        data = image_bytes(cells.get(IMAGE))
        if data is None:
            raise InputError(f"Expected {IMAGE} as the bytes of an image file in {where}, got none: download it again.")
        return Sample(
            name=self.names[index],
            group=row.model if row.model in self.generators else "",
            prompt=row.prompt,
            image=decoded(data, where),
            fake=row.fake,
            split=row.split,
        )
