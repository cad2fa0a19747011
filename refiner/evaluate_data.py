"""What a run goes over: samples by number, each with its picture, prompt and truth as far as there are any.

A data set is named by a specification: ``FOLDER`` or ``folder:FOLDER`` (pictures of any layout), ``xaigd:FOLDER``,
``fakexplained:FOLDER``, ``prompts:FILE`` (nothing but prompts, to be painted), ``micro:N`` (N pictures of the micro
world, every second one with flaws) and ``micro-prompts:N`` (captions of the micro world). Samples are read one by one
when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from refiner.data.anomreason import anomalies_at, basename, from_regions, index_anomalies
from refiner.data.folders import ImageFolder, group_of, is_fake
from refiner.data.json_stream import Place, Places
from refiner.data.problems import Problem
from refiner.data.prompts import Prompts, match_prompts, read_prompts
from refiner.errors import ConfigError, InputError
from refiner.evaluate_annotated import FakexplainedData, XaigdData
from refiner.evaluate_samples import DataSet, Sample
from refiner.hub import checksum
from refiner.images import load_image
from refiner.micro.flaws import inject
from refiner.micro.world import SIZE, sample_scene
from refiner.runs import Json
from refiner.types import Analysis, Size

_HELD_OUT = 900_003
"""First word of the micro pictures' seeds; no training draws from it."""


def contents(specification: str, *, prompts: str | None = None, references: str | None = None) -> Json:
    """Fingerprints of the files of words that a data set reads: a run goes on with the same ones only.

    Args:
        specification: as of ``open_data``, which has read it.
        prompts: the same.
        references: the same.
    """
    kind, _, place = specification.partition(":")
    files = {"prompts": place if kind == "prompts" else prompts, "references": references}
    return {name: checksum(Path(file))[:16] for name, file in files.items() if file is not None}


def open_data(
    specification: str,
    *,
    prompts: str | None = None,
    references: str | None = None,
    limit: int | None = None,
) -> DataSet:
    """Open a data set.

    Args:
        specification: see the module.
        prompts: file of prompts for the pictures of a folder; pictures without one are left out, named and counted.
        references: AnomReason's JSON of file name -> anomalies, as the truth in words; other pictures are left out.
        limit: only the first so many samples.

    Raises:
        ConfigError: a specification that is not known, or that cannot have prompts or references of its own.
        InputError: the data set is missing, damaged as a whole, or without samples.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 sample, got {limit}: leave it out for all of them.")
    kind, colon, place = specification.partition(":")
    known = {"folder", "xaigd", "fakexplained", "prompts", "micro", "micro-prompts"}
    if specification in ("micro", "micro-prompts") or (colon and kind in known):
        data = _open_kind(kind, place, prompts, references)
    else:
        data = FolderData(specification, prompts=prompts, references=references)
    if not data.names:
        raise InputError(f"Expected samples in {specification!r}, got none that can be used: see what is wrong above.")
    return data if limit is None or limit >= len(data.names) else _First(data, limit)


def _open_kind(kind: str, place: str, prompts: str | None, references: str | None) -> DataSet:
    if kind == "folder":
        return FolderData(place, prompts=prompts, references=references)
    if prompts or references:
        option = "prompts" if prompts else "references"
        raise ConfigError(f"Expected no {option} for {kind}: data, which has its own, got {prompts or references!r}.")
    if kind == "xaigd":
        return XaigdData(place)
    if kind == "fakexplained":
        return FakexplainedData(place)
    if kind == "prompts":
        return PromptData(place)
    if place and not (place.isdecimal() and int(place)):
        raise ConfigError(f"Expected a number of micro samples such as {kind}:100, got {place!r}: name one.")
    return MicroData(int(place or 100), painted=kind == "micro")


class _First:
    """The first samples of a data set."""

    def __init__(self, data: DataSet, count: int) -> None:
        self.data, self.problems, self.names = data, data.problems, data.names[:count]

    def load(self, index: int) -> Sample:
        return self.data.load(index)


class FolderData:
    """A folder of pictures; with prompts, masks (``masks/`` in the folder) and references where there are any.

    Whether a picture is generated is told by a folder ``1_fake`` or ``0_real`` in its path, its group by the first
    other one.
    """

    def __init__(self, folder: str, *, prompts: str | None = None, references: str | None = None) -> None:
        self.problems: list[Problem] = []
        self.folder = ImageFolder.open(folder, self.problems)
        self.names = self.folder.names
        self.prompts, self.keys = Prompts(), dict[str, str]()
        """Prompts by their names; the name of each picture's."""
        self.places: Places | None = None
        """Where each picture's references are."""
        if prompts is not None:
            self.prompts = read_prompts(prompts, self.problems)
            self.keys = match_prompts(self.names, self.prompts, prompts, self.problems)
            self.names = tuple(name for name in self.names if name in self.keys)
        if references is not None:
            found = _match_references(self.names, references, self.problems)
            self.names = tuple(name for name in self.names if name in found)
            self.places = Places([Path(references)])
            for name in self.names:
                self.places.append(found[name])

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        image = load_image(self.folder.path(name))
        return Sample(
            name=name,
            group=group_of(name),
            prompt=self.prompts[self.keys[name]] if self.keys else "",
            image=image,
            fake=is_fake(name),
            truth=self.folder.truth(name, Size(image.height, image.width)),
            categorised=False,
            itemised=False,
            anomalies=None if self.places is None else anomalies_at(self.places[index]),
        )


def _match_references(names: Iterable[str], file: str, problems: list[Problem]) -> dict[str, Place]:
    """References by the pictures' names; matched by the whole path, else by a file name that only one picture has."""
    index = index_anomalies(file, problems)
    known = list(names)
    found = {name: index.pop(name) for name in known if name in index}
    owners: dict[str, list[str]] = {}
    for name in known if index else ():
        owners.setdefault(basename(name), []).append(name)
    for key, place in index.items():
        candidates = owners.get(basename(key), [])
        if len(candidates) == 1:
            found.setdefault(candidates[0], place)
        else:
            kind = "duplicate_basename" if candidates else "missing_image"
            problems.append(Problem(kind, file, key, f"{len(candidates)} pictures have this name; left out"))
    for name in known:
        if name not in found:
            problems.append(Problem("missing_reference", file, name, "the picture has none; left out"))
    return found


class PromptData:
    """Nothing but prompts, to be painted; named by the file's own keys or by their numbers."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self.prompts = read_prompts(file, self.problems)
        self.names = tuple(self.prompts)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        return Sample(name=name, group=group_of(name), prompt=self.prompts[name])


class MicroData:
    """Scenes of the micro world, as many of one thing as of two, three and four; with exact truth where painted."""

    def __init__(self, count: int, *, painted: bool) -> None:
        self.problems: list[Problem] = []
        self.count, self.painted = count, painted

    @cached_property
    def names(self) -> tuple[str, ...]:
        """``00000`` and so on."""
        return tuple(f"{index:05d}" for index in range(self.count))

    def load(self, index: int) -> Sample:
        """Draw one sample; every second picture has a flaw on one to all of its things."""
        rng = np.random.default_rng([_HELD_OUT, index])
        scene = sample_scene(rng, count=1 + index // 2 % 4)
        things = len(scene.things)
        name, group = self.names[index], f"{things} thing{'s' if things > 1 else ''}"
        if not self.painted:
            return Sample(name=name, group=group, prompt=scene.caption)
        flawed = index % 2 == 1
        picture = inject(scene, rng, count=int(rng.integers(1, things + 1)) if flawed else 0)
        return Sample(
            name=name,
            group=group,
            prompt=scene.caption,
            image=picture.image,
            fake=flawed,
            truth=Analysis(size=Size(SIZE, SIZE), regions=picture.regions, detector="micro truth"),
            anomalies=from_regions(picture.regions),
        )
