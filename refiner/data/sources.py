"""What a run goes over: samples by number, each with its picture, prompt and truth as far as there are any.

A data set is named by a specification: ``FOLDER`` or ``folder:FOLDER`` (pictures of any layout), ``xaigd:FOLDER``,
``fakexplained:FOLDER``, ``prompts:FILE`` (nothing but prompts, to be painted), ``micro:N`` (N pictures of the micro
world, every second one with flaws) and ``micro-prompts:N`` (captions of the micro world). Samples are read one by one
when they are asked for.
"""

from __future__ import annotations

from pathlib import Path

from refiner.data.fakexplained import FakexplainedData
from refiner.data.folders import FolderData
from refiner.data.micro import MicroData
from refiner.data.prompts import PromptData
from refiner.data.samples import DataSet, Sample
from refiner.data.xaigd.dataset import XaigdData
from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.hub import checksum


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
