"""Data sets by their specification: ``NAME:PLACE`` with a name of ``SOURCES``, or a folder of images.

Samples are read one by one when they are asked for. A new data set is a reader in a file of its own, and one row here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from refiner.data.samples import DataSet, Sample
from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.hub import checksum

FOLDER: Final = "folder"
"""The source of a specification without a name."""


def _reader(target: str) -> Callable[..., DataSet]:
    """A reader named as ``module:attribute``, imported when it is first used."""
    module, _, attribute = target.partition(":")

    def read(*args: str, **options: str | None) -> DataSet:
        data: DataSet = getattr(importlib.import_module(f"refiner.data.{module}"), attribute)(*args, **options)
        return data

    return read


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of data set."""

    name: str
    read: Callable[..., DataSet]
    """From the place to the data set; with the arguments ``prompts`` and ``references`` where it is ``matched``."""
    place: str
    """What the place is, as the help writes it."""
    help: str
    matched: bool = False
    """Whether prompts and references may lie in files of their own, matched by the images' names."""
    default: str | None = None
    """The place that the name alone means; None where the name alone means nothing."""
    text: bool = False
    """Whether the place is a file of text, on whose content the run depends."""


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.name: source
        for source in (
            Source(
                name=FOLDER,
                read=_reader("folders:FolderData"),
                place="FOLDER",
                help="images, with masks in masks/ if there are any",
                matched=True,
            ),
            Source(name="xaigd", read=_reader("xaigd:XaigdData"), place="FOLDER", help="X-AIGD's annotated images"),
            Source(
                name="fakexplained",
                read=_reader("fakexplained:FakexplainedData"),
                place="FOLDER",
                help="boxes with descriptions, as FakeXplained has them",
            ),
            Source(
                name="prompts",
                read=_reader("prompts:PromptData"),
                place="FILE",
                help="prompts alone, to generate from",
                text=True,
            ),
            Source(
                name="micro",
                read=_reader("micro:open_images"),
                place="N",
                help="N images of the micro world, every second one with flaws",
                default="100",
            ),
            Source(
                name="micro-prompts",
                read=_reader("micro:open_captions"),
                place="N",
                help="captions of the micro world, to generate from",
                default="100",
            ),
        )
    }
)
"""Name -> source."""


def sources_help() -> str:
    """All specifications in one line."""
    rows = [f"{source.name}:{source.place} ({source.help})" for source in SOURCES.values()]
    return f"a folder of images, or {', '.join(rows[:-1])} or {rows[-1]}"


def known_names() -> str:
    """All names of sources in one line."""
    return ", ".join(f"{name}:" for name in SOURCES)


def _named(specification: str) -> tuple[Source, str]:
    """The source and the place of a specification; what names no source is a folder of images."""
    name, colon, place = specification.partition(":")
    source = SOURCES.get(name)
    if source is None or (source.default is None and not colon):
        return SOURCES[FOLDER], specification
    return source, place or source.default or ""


def contents(specification: str, *, prompts: str | None = None, references: str | None = None) -> Json:
    """Fingerprints of the files of words that a data set reads: a run goes on with the same ones only.

    Args:
        specification: as of ``open_data``, which has read it.
        prompts: the same.
        references: the same.
    """
    source, place = _named(specification)
    files = {"prompts": place if source.text else prompts, "references": references}
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
        specification: ``NAME:PLACE`` with a name of ``SOURCES``, or a folder of images.
        prompts: file of prompts for the images of a folder; images without one are left out, named and counted.
        references: AnomReason's JSON of file name -> anomalies, as the truth in words; other images are left out.
        limit: only the first so many samples.

    Raises:
        ConfigError: a place that the source cannot read, or a source that has prompts and references of its own.
        InputError: the data set is missing, damaged as a whole, or without samples.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 sample, got {limit}: leave it out for all of them.")
    source, place = _named(specification)
    if source.matched:
        _check_name(specification, place)
        data = source.read(place, prompts=prompts, references=references)
    elif prompts or references:
        option = "prompts" if prompts else "references"
        raise ConfigError(
            f"Expected no {option} for {source.name}: data, which has its own, got {prompts or references!r}."
        )
    else:
        data = source.read(place)
    if not data.names:
        raise InputError(f"Expected samples in {specification!r}, got none that can be used: see what is wrong above.")
    return data if limit is None or limit >= len(data.names) else _First(data, limit)


def _check_name(specification: str, place: str) -> None:
    """Refuse a name that is no source, where there is no folder of that name either."""
    if ":" in place and place == specification and not Path(place).exists():
        raise InputError(
            f"Expected a folder of pictures, or one of {known_names()} and a place, got {specification!r}: check the "
            "name, or the path."
        )


class _First:
    """The first samples of a data set."""

    def __init__(self, data: DataSet, count: int) -> None:
        self.data, self.problems, self.names = data, data.problems, data.names[:count]

    def load(self, index: int) -> Sample:
        return self.data.load(index)
