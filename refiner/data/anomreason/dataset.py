"""AnomReason's images as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, Literal, NamedTuple

from refiner.data.anomreason.anomalies import (
    FAKE,
    REAL,
    anomalies_at,
    index_anomalies,
    index_descriptions,
    members,
)
from refiner.data.anomreason.splits import SPLITS, Splits
from refiner.data.fakexplained.images import IMAGES
from refiner.data.fields import is_inside
from refiner.data.folders import SUFFIXES, find_images
from refiner.data.json_stream import Place, Places, first_letter, read_again
from refiner.data.names import basename, same, with_slashes
from refiner.data.problems import Problem
from refiner.data.samples import Sample, group_of
from refiner.errors import InputError
from refiner.images import load_image

_VALUES: Final = "list of anomalies, or of image name -> text"


class AnomreasonFiles(NamedTuple):
    """The files of a data set."""

    folder: Path
    anomalies: Path | None
    """Of generated images; None if there are none."""
    descriptions: Path | None
    """Of real images; None if there are none."""
    single: bool
    """Whether the place was one of the files, so that the images without a record do not matter."""


def find_files(place: str | Path, problems: list[Problem]) -> AnomreasonFiles:
    """Find the files of a folder, each by what it holds, or take a single file.

    Args:
        place: the folder; or one of its files, in place of all of them.
        problems: gets ``ignored_file`` for JSON of another kind.

    Raises:
        InputError: there is no such place, no file with anomalies or descriptions, two of one kind, or a damaged one.
    """
    path, kinds = Path(place), dict[str, Path]()
    single = path.is_file()
    for file in [path] if single else sorted(path.glob("*.json")):
        if file.name == SPLITS:
            continue
        kind = _kind(file)
        if kind == "nothing":
            continue
        if kind == "other":
            detail = "it holds neither anomalies nor descriptions of images"
            problems.append(Problem("ignored_file", str(file.parent), file.name, detail))
        elif kind in kinds:
            raise InputError(
                f"Expected one file of {kind} in {str(place)!r}, got {kinds[kind].name!r} and {file.name!r}: name "
                "one of them in place of the folder, or move the other one away."
            )
        else:
            kinds[kind] = file
    if not kinds:
        raise InputError(f"Expected JSON of image name -> {_VALUES} in {str(place)!r}, got none: check the path.")
    folder = path.parent if single else path
    return AnomreasonFiles(folder, kinds.get("anomalies"), kinds.get("descriptions"), single)


def _kind(file: Path) -> Literal["anomalies", "descriptions", "nothing", "other"]:
    """What a file holds, by the first value that tells; ``nothing`` if the object is empty."""
    with suppress(OSError, ValueError):  # ``members`` tells the same error in words
        if first_letter(file) == "[":
            return "other"
    kind: Literal["nothing", "other"] = "nothing"
    for key, item in members(file, _VALUES):
        kind = "other"
        if isinstance(item.value, list) and (not item.value or any(isinstance(each, dict) for each in item.value)):
            return "anomalies"
        if isinstance(item.value, str) and PurePosixPath(key).suffix.lower() in SUFFIXES:
            return "descriptions"
    return kind


class _Images:
    """The images of one label: those in its folder, or else in ``images/`` or the data set's folder."""

    def __init__(self, root: Path, label: str) -> None:
        self.label = label
        self.labelled = (root / label).is_dir()
        self.folder = next((place for place in (root / label, root / IMAGES) if place.is_dir()), root)
        other = f"{FAKE if label == REAL else REAL}/"
        found = (name for name in find_images(self.folder, deep=True) if not name.startswith(other))
        self.files = {same(name): name for name in found}
        """Each file by its name in the form of ``names.same``."""

    def find(self, key: str) -> str | None:
        """The file of a record, from ``folder``: one that exists, else where it should be; None if there is no name."""
        whole = with_slashes(key)
        path = f"/{whole}".rpartition(f"/{self.label}/")[2].removeprefix("/")
        names = [name for name in dict.fromkeys((path, whole, basename(path))) if is_inside(name)]
        stems = [name.rpartition(".")[0] or name for name in names]
        others = (f"{stem}{suffix}" for stem in stems for suffix in sorted(SUFFIXES))
        known = (self.files.get(same(name)) for name in (*names, *others))
        return next(filter(None, known), names[0] if names else None)


class AnomreasonData:
    """A folder of AnomReason: generated images with their anomalies, and real images with a description.

    An image lies in ``1_fake/`` or ``0_real/``, else in ``images/``, else in the folder itself. Its record names the
    file by a path or only by its name, and the suffix may be another one. The places of the anomalies are not
    known, so that samples have anomalies and no truth; real images have no anomalies. The description of a real image,
    which says why it looks real, is its caption. A real image needs no description.

    Kinds of problems, apart from those of ``find_files``, ``index_anomalies``, ``index_descriptions`` and ``Splits``:
    ``bad_name`` (not the name of an image), ``duplicate_image`` (two records of an image; the first one counts),
    ``missing_record`` (a generated image without one; left out) and ``missing_description`` (of a real image; kept). An
    image of which an anomaly is unreadable is left out. A record without an image is a sample with an error
    (``MissingImageError``).

    Args:
        place: the folder, or one of its JSON files.
        split: only the images of this split, such as ``test``; None for all.

    Raises:
        InputError: a file is missing or damaged as a whole.
        ConfigError: there is no such split.
    """

    def __init__(self, place: str, *, split: str | None = None) -> None:
        self.problems: list[Problem] = []
        files = find_files(place, self.problems)
        self.splits: dict[str, str] = {}
        """Name -> split of each sample, in order."""
        self.folders: dict[str, Path] = {}
        self.places = Places([file for file in (files.anomalies, files.descriptions) if file is not None])
        splits = Splits(files.folder, split, self.problems)
        for label, file in ((FAKE, files.anomalies), (REAL, files.descriptions)):
            images = _Images(files.folder, label)
            self.folders[label] = images.folder
            known = set[str]() if file is None else self._add(images, file, splits)
            if images.labelled and not files.single:
                self._add_others(images, known, file, splits)
        splits.finish()
        self.names = tuple(self.splits)

    def _add(self, images: _Images, file: Path, splits: Splits) -> set[str]:
        """Add the images of a file, and return all that it has records of, also those of other splits."""
        known: set[str] = set()
        for key, place in _index(images.label, file, self.problems).items():
            found = images.find(key)
            if found is None:
                self.problems.append(
                    Problem("bad_name", str(file), f"{key:.200}", "not the name of an image; left out")
                )
            elif found in known:
                detail = f"an earlier record has the same image {found!r:.200}; the first one counts"
                self.problems.append(Problem("duplicate_image", str(file), f"{key:.200}", detail))
            else:
                known.add(found)
                if self._wanted(f"{images.label}/{found}", key, splits):
                    self.places.append(place)
        return known

    def _add_others(self, images: _Images, known: set[str], file: Path | None, splits: Splits) -> None:
        """Add the real images that have no record, and name the generated ones."""
        for found in sorted({*images.files.values()} - known):
            where = str(images.folder)
            if images.label == FAKE:
                self.problems.append(Problem("missing_record", where, found, "no record names it; left out"))
            elif self._wanted(f"{REAL}/{found}", found, splits) and file is not None:
                self.problems.append(Problem("missing_description", where, found, "no record describes it; kept"))

    def _wanted(self, name: str, key: str, splits: Splits) -> bool:
        """Add an image if it is in the wanted split; returns whether it is."""
        _, _, image = name.partition("/")
        split = splits.of((name, image, key, basename(image), basename(key)))
        wanted = splits.wants(split, name)
        if wanted:
            self.splits[name] = split
        return wanted

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        label, _, image = name.partition("/")
        fake = label == FAKE
        place = self.places[index] if index < len(self.places) else None
        return Sample(
            name=name,
            group=group_of(name),
            image=load_image(self.folders[label] / image),
            fake=fake,
            anomalies=anomalies_at(place) if fake and place is not None else (),
            caption="" if fake or place is None else read_again(place, lambda text, _: str(text).strip()),
            split=self.splits[name],
        )


def _index(label: str, file: Path, problems: list[Problem]) -> Mapping[str, Place]:
    return index_anomalies(file, problems, strict=True) if label == FAKE else index_descriptions(file, problems)
