"""Data sets by their specification: ``NAME:PLACE`` with a name of ``SOURCES``, or a folder of images.

Samples are read one by one when they are needed. A new data set is a reader in its own file, and one row here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os.path import exists, isdir
from pathlib import Path
from types import MappingProxyType
from typing import Final

from refiner.data.folders import metadata_of
from refiner.data.samples import DataSet, Sample, polygon_rule
from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.hub import checksum
from refiner.reading import check_path

FOLDER: Final = "folder"
"""The source of a specification without a name."""
_OPTION: Final = re.compile(r",\s*([A-Za-z_]\w*)=([^,]*)$")


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
    """From the place to the data set; also takes ``prompts`` and ``references`` if it is ``matched``."""
    place: str
    """The kind of place, for the help."""
    help: str
    matched: bool = False
    """Whether prompts and references can be in separate files, matched by the images' names."""
    default: str | None = None
    """The place if only the name is given; None if a place is required."""
    text: bool = False
    """Whether the place is a text file, whose content determines the run."""
    options: tuple[str, ...] = ()
    """Names of the options after the place, as in ``PLACE,split=test``; ``read`` takes them as keyword arguments."""


def _split(name: str, target: str, words: str) -> Source:
    """A source of folders with verdicts, of which one split may be chosen."""
    return Source(
        name=name, read=_reader(target), place="FOLDER[,split=train|val|test]", help=words, options=("split",)
    )


_FOLDER_HELP: Final = "images, with masks in masks/ and prompts in metadata.csv or metadata.jsonl if there are any"
_PROMPTS_HELP: Final = "only prompts, to generate from"
_MICRO_HELP: Final = "N images of the micro world, every second one with flaws"
_CAPTIONS_HELP: Final = "captions of the micro world, to generate from"
_BOXES_HELP: Final = "boxes with descriptions, as FakeXplained has them"
_SWIFT_HELP: Final = "one file of ms-swift's records with boxes, as FakeXplain trains from"
_SYNTHSCARS_HELP: Final = "a split of SynthScars, such as SynthScars/test"
_SDG_HELP: Final = "SDG-30K's boxes of artifacts and misalignments, with the images"
_RICHHF_HELP: Final = "RichHF-18K's TFRecord file, with the images in images/ beside it"
_VERDICTS_HELP: Final = "GENERATOR[/CLASS]/0_real and 1_fake, as ProGAN and UniversalFakeDetect have them"
_GENIMAGE_HELP: Final = "GENERATOR/train|val/nature and ai, as GenImage has them"
_AIGINOW_HELP: Final = "GENERATOR/semantic|pixel/0_real and 1_fake, as AIGI-Now has them"
_CHAMELEON_HELP: Final = "Chameleon's 0_real and 1_fake"
_SYNTHBUSTER_HELP: Final = (
    "a folder for each generator of Synthbuster, and RAISE's photographs beside them or elsewhere"
)
_COMMFOR_HELP: Final = "Community Forensics' parquet files, or GENERATOR/real and fake"
_RECONSTRUCTED_HELP: Final = "pairs of equal names in 0_real and 1_fake, as refiner data reconstruct makes them"
_XAIGD_HELP: Final = "X-AIGD's annotated images, and the real images beside them"
_ANOMREASON_HELP: Final = "AnomReason's JSON files with the images in 1_fake/ and 0_real/ beside them"
_PAL4VST_HELP: Final = "images and binary masks, as PAL4VST has them"
_ROWS: Final = (
    Source(name=FOLDER, read=_reader("folders:FolderData"), place="FOLDER", help=_FOLDER_HELP, matched=True),
    Source(
        name="xaigd",
        read=_reader("xaigd:XaigdData"),
        place="FOLDER|ID[,split=NAME][,real=FOLDER|none]",
        help=_XAIGD_HELP,
        options=("split", "real"),
    ),
    Source(name="fakexplained", read=_reader("fakexplained:FakexplainedData"), place="FOLDER", help=_BOXES_HELP),
    Source(name="swift", read=_reader("fakexplained:FakexplainedFile"), place="FILE", help=_SWIFT_HELP),
    Source(name="synthscars", read=_reader("synthscars:SynthscarsData"), place="SPLIT", help=_SYNTHSCARS_HELP),
    Source(
        name="anomreason",
        read=_reader("anomreason.dataset:AnomreasonData"),
        place="FOLDER[,split=train|test]",
        help=_ANOMREASON_HELP,
        options=("split",),
    ),
    Source(name="loki", read=_reader("loki:LokiData"), place="FOLDER", help="LOKI's images with boxes"),
    Source(
        name="sdg",
        read=_reader("sdg:SdgData"),
        place="FOLDER[,split=test|train]",
        help=_SDG_HELP,
        options=("split",),
    ),
    Source(name="richhf", read=_reader("richhf:RichhfData"), place="FILE", help=_RICHHF_HELP),
    _split("universalfake", "universalfake:UniversalfakeData", _VERDICTS_HELP),
    _split("genimage", "genimage:GenimageData", _GENIMAGE_HELP),
    _split("chameleon", "chameleon:ChameleonData", _CHAMELEON_HELP),
    _split("reconstructed", "reconstructed:ReconstructedData", _RECONSTRUCTED_HELP),
    Source(
        name="aiginow",
        read=_reader("aiginow:AiginowData"),
        place="FOLDER[,kind=semantic|pixel]",
        help=_AIGINOW_HELP,
        options=("kind",),
    ),
    Source(
        name="synthbuster",
        read=_reader("synthbuster:SynthbusterData"),
        place="FOLDER[,real=FOLDER]",
        help=_SYNTHBUSTER_HELP,
        options=("real",),
    ),
    Source(
        name="commfor",
        read=_reader("commfor:open_commfor"),
        place="FOLDER[,split=NAME]",
        help=_COMMFOR_HELP,
        options=("split",),
    ),
    Source(name="pal4vst", read=_reader("pal4vst:Pal4vstData"), place="FOLDER", help=_PAL4VST_HELP),
    Source(name="prompts", read=_reader("prompts:PromptData"), place="FILE", help=_PROMPTS_HELP, text=True),
    Source(name="micro", read=_reader("micro:open_images"), place="N", help=_MICRO_HELP, default="100"),
    Source(name="micro-prompts", read=_reader("micro:open_captions"), place="N", help=_CAPTIONS_HELP, default="100"),
)
SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _ROWS})
"""Name -> source."""


def sources_help() -> str:
    """All specifications in one line."""
    rows = [f"{source.name}:{source.place} ({source.help})" for source in SOURCES.values()]
    return f"a folder of images, or {', '.join(rows[:-1])} or {rows[-1]}"


def known_names() -> str:
    """All names of sources in one line."""
    return ", ".join(f"{name}:" for name in SOURCES)


def _named(specification: str) -> tuple[Source, str]:
    """The source and the place of a specification; without the name of a source it is a folder of images."""
    name, colon, place = specification.partition(":")
    source = SOURCES.get(name)
    if source is None or (source.default is None and not colon):
        return SOURCES[FOLDER], specification
    return source, place or source.default or ""


def _options(source: Source, place: str) -> tuple[str, dict[str, str]]:
    """The place of a specification without the options after it, and these; an existing path may look like options."""
    options: dict[str, str] = {}
    while source.options and not exists(place) and (found := _OPTION.search(place)):
        if found[1] not in source.options or found[1] in options:
            known = ", ".join(source.options)
            raise ConfigError(
                f"Expected {known} as option of {source.name}:, each once, got {found[1]!r:.60}: write "
                f"{source.name}:PLACE,{source.options[0]}=VALUE."
            )
        options[found[1]] = found[2].strip()
        place = place[: found.start()]
    return place, options


def names_data(specification: str) -> bool:
    """Whether a specification stands for data rather than for a model: a known name, or a folder without weights.

    A folder of weights has a ``config.json``; ``folder:PLACE`` is data in any case.
    """
    _, place = _named(specification)
    if place != specification:
        return True
    return isdir(place) and not exists(f"{place}/config.json")


def contents(specification: str, *, prompts: str | None = None, references: str | None = None) -> Json:
    """Fingerprints of the text files that a data set reads; a run is resumed only with the same ones.

    Args:
        specification: as for ``open_data``, which has read it.
        prompts: the same.
        references: the same.
    """
    source, place = _named(specification)
    metadata = metadata_of(place) if source.matched else None
    files = {"prompts": place if source.text else prompts or metadata, "references": references}
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
        limit: only the first samples, up to this number.

    Raises:
        ConfigError: a place or option that the source cannot read, or prompts or references for a source that has its
            own.
        InputError: the data set is missing, damaged as a whole, or without samples.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 sample, got {limit}: leave it out for all samples.")
    source, place = _named(specification)
    for path in filter(None, (place, prompts, references)):
        check_path(path)
    if source.matched:
        if ":" in place and place == specification and not exists(place):
            raise InputError(
                f"Expected a folder of images, or one of {known_names()} and a place, got {specification!r}: check the "
                "name or the path."
            )
        data = source.read(place, prompts=prompts, references=references)
    elif prompts or references:
        option = "prompts" if prompts else "references"
        raise ConfigError(
            f"Expected no {option} for {source.name}: data, which has its own, got {prompts or references!r}: leave "
            "them out."
        )
    else:
        place, options = _options(source, place)
        data = source.read(place, **options)
    if not data.names:
        why = f" ({len(data.problems)} problems, such as {data.problems[0]!s:.300})" if data.problems else ""
        raise InputError(f"Expected samples in {specification!r}, got none that can be used{why}: check the place.")
    return data if limit is None or limit >= len(data.names) else _First(data, limit)


class _First:
    """The first samples of a data set."""

    def __init__(self, data: DataSet, count: int) -> None:
        self.data, self.problems, self.names = data, data.problems, data.names[:count]
        self.polygons = polygon_rule(data)
        if (pairs := getattr(data, "pairs", None)) is not None:
            self.pairs = pairs[:count]

    def load(self, index: int) -> Sample:
        return self.data.load(index)
