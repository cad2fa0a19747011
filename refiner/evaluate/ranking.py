"""Generators side by side: each paints, or has painted, the same prompts, and the harness looks at what they made.

A generator is named on the command line as ``NAME=FOLDER`` (pictures that are there already) or
``NAME=MODEL,option=value,...`` (a pipeline that paints now, with arguments of its call). Each gets a run of the harness
in a folder of its name, so that every picture has its record and a run that was ended goes on where it was.
``refiner.evaluate.ranking_table`` makes the ranking of the runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import expanduser, isdir
from pathlib import Path, PurePosixPath
from typing import Final

from PIL import Image

from refiner.data.folders import SUFFIXES, ImageFolder
from refiner.data.problems import Problem
from refiner.data.prompts import match_prompts
from refiner.data.samples import Sample, digest, group_of
from refiner.data.sources import open_data
from refiner.errors import ConfigError, InputError
from refiner.evaluate.systems import Looker
from refiner.files import Json, atomic_write
from refiner.images import load_image, png_bytes
from refiner.protocols import PaintJob
from refiner.provenance import ai_label
from refiner.records import derive_seed

Option = bool | int | float | str | None

PICTURES: Final = "pictures"
"""The sub-folder of a run that a model's pictures go to."""
SYNTAX: Final = "NAME=FOLDER or NAME=MODEL,option=value,..., such as quick=micro,num_inference_steps=4"
_NAME: Final = re.compile(r"\w[\w .+@-]{0,63}")
_FILES: Final = (".json", ".csv", ".html")
"""Endings of what lies beside the generators' folders."""
_OPTION: Final = re.compile(r",\s*([A-Za-z_]\w*)=([^,]*)$")
_PLAIN: Final = re.compile(r"[\w][\w .+()@-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A generator to rank."""

    name: str
    place: str
    """A folder of pictures; or the folder or id of a pipeline."""
    options: Mapping[str, Option]
    """Arguments of the pipeline's call."""

    @property
    def paints(self) -> bool:
        """Whether it is a pipeline; else it is a folder of pictures."""
        return not isdir(self.place) or (Path(self.place) / "model_index.json").is_file()

    @property
    def source(self) -> str:
        """Place and options as they are written on the command line."""
        return ",".join([self.place, *(f"{name}={_written(value)}" for name, value in self.options.items())])


def _written(value: Option) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_entrants(texts: Sequence[str]) -> list[Entrant]:
    """Read ``NAME=FOLDER`` and ``NAME=MODEL,option=value,...``; an existing folder is never taken apart at its commas.

    Values are JSON where they can be read as such (``4``, ``7.5``, ``true``, ``null``), else texts.

    Raises:
        InputError: another form, a name that cannot be that of a folder, or one that is given twice.
    """
    entrants: dict[str, Entrant] = {}
    for text in texts:
        entrant = _entrant(text)
        key = entrant.name.casefold()
        if key in entrants:
            raise InputError(
                f"Expected a name of its own for each generator, got {entrants[key].name!r} and {entrant.name!r}: "
                "change one of them."
            )
        entrants[key] = entrant
    return list(entrants.values())


def _entrant(text: str) -> Entrant:
    name, _, place = text.partition("=")
    plain = _NAME.fullmatch(name) and name == name.strip(" .") and not name.casefold().endswith(_FILES)
    if not plain or not place.strip() or "\0" in place:
        raise InputError(f"Expected {SYNTAX}, got {text!r}: write it so, with a name of letters and digits.")
    place = expanduser(place)
    options: dict[str, Option] = {}
    while not isdir(place) and (found := _OPTION.search(place)):
        if found[1] in options:
            raise InputError(f"Expected each option once, got {found[1]} twice in {text!r}: leave one out.")
        options[found[1]] = _value(found[2])
        place = place[: found.start()]
    if not isdir(place) and (not place.strip() or "," in place):
        raise InputError(f"Expected {SYNTAX}, got {text!r}: check the folder, or write options as option=value.")
    entrant = Entrant(name=name, place=place, options=dict(reversed(options.items())))
    if options and not entrant.paints:
        raise InputError(f"Expected no options for a folder of pictures, got {text!r}: leave them out.")
    return entrant


def _value(text: str) -> Option:
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """What all generators paint."""

    specification: str
    prompts: Mapping[str, str]
    """By name of the picture."""
    prompts_of: Mapping[str, str]
    """Name of the picture -> name of its prompt."""
    settings: Json
    """All of the above in short, for ``run.json``."""
    problems: tuple[Problem, ...]


def open_prompts(specification: str, *, seeds: int = 1, limit: int | None = None) -> PromptSet:
    """Read the prompts.

    Args:
        specification: a file of prompts (see ``refiner.data.prompts``), or ``micro-prompts:N``.
        seeds: pictures of each prompt. Of one, a picture has the prompt's name; of several, ``NAME-0`` and so on.
            Where a file names its prompts by pictures, their suffix does not count.
        limit: only the first so many prompts.

    Raises:
        ConfigError: seeds or limit below 1.
        InputError: there are no prompts.
    """
    if seeds < 1:
        raise ConfigError(f"Expected at least 1 seed, got {seeds}: name how many pictures of each prompt you want.")
    if limit is not None and limit < 1:
        raise ConfigError(f"Expected a limit of at least 1 prompt, got {limit}: leave it out for all of them.")
    drawn = specification.partition(":")[0] == "micro-prompts"
    data = open_data(specification if drawn else f"prompts:{specification}")
    called = {name: _without_suffix(name) for name in data.names}
    if len(set(called.values())) < len(called):
        called = {name: name for name in data.names}
    prompts, prompts_of = {}, {}
    for index, name in enumerate(data.names[:limit]):
        prompt = data.load(index).prompt
        for number in range(seeds):
            picture = called[name] if seeds == 1 else f"{called[name]}-{number}"
            prompts[picture], prompts_of[picture] = prompt, called[name]
    settings = {"prompts": specification, "references": None, "limit": limit, "seeds": seeds}
    return PromptSet(
        specification=specification,
        prompts=prompts,
        prompts_of=prompts_of,
        settings=settings | {"texts": digest(prompts.values())},
        problems=tuple(data.problems),
    )


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix) if path.suffix.lower() in SUFFIXES else name


class Pictures:
    """The pictures of one generator, a sample for each name of the prompt set: a data set of the harness.

    Args:
        prompts: the prompt set.
        files: name -> where the picture lies; None where they are still to be painted.
        folder: that they lie in, for messages.
        problems: what was wrong with that folder.
    """

    def __init__(
        self,
        prompts: PromptSet,
        files: Mapping[str, Path] | None = None,
        folder: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        self.prompts, self.files, self.folder = prompts, files, folder
        self.names = tuple(prompts.prompts)
        self.problems = list(problems)

    @classmethod
    def of_folder(cls, prompts: PromptSet, folder: str) -> Pictures:
        """Match a folder's pictures with the prompts, as ``refiner evaluate hps`` does.

        Raises:
            InputError: there is no such folder, no picture in it, or no picture of any prompt.
        """
        problems: list[Problem] = []
        images = ImageFolder.open(folder, problems)
        owners = match_prompts(images.names, prompts.prompts, prompts.specification, problems)
        if not owners:
            raise InputError(
                f"Expected pictures of the prompts in {folder!r}, such as '{next(iter(prompts.prompts))}.png', got "
                f"{images.names[0]!r} and the like: name them as {prompts.specification!r} does."
            )
        files = {name: images.path(picture) for picture, name in owners.items()}
        # A prompt without a picture is told by its own record.
        return cls(prompts, files, folder, [each for each in problems if each.kind != "missing_image"])

    def painted(self, folder: Path) -> Pictures:
        """The same where the pictures were still to be painted, and now lie in the folder of a run."""
        if self.files is not None:
            return self
        files = {name: picture_file(folder, name) for name in self.names}
        return Pictures(self.prompts, files, str(folder), self.problems)

    def load(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            InputError: its picture is missing or cannot be read.
        """
        name, image = self.names[index], None
        if self.files is not None:
            if name not in self.files:
                raise InputError(f"Expected a picture of {name!r} in {self.folder!r}, got none: add it.")
            image = load_image(self.files[name])
        return Sample(name=name, group=group_of(name), prompt=self.prompts.prompts[name], image=image)


@dataclass(kw_only=True)
class Painting:
    """Paints samples, and looks at what it painted: a system of the harness.

    A picture depends on the seed, its name and the model's settings: not on the batch, the order or other generators,
    and all generators paint a picture from the same seed.
    """

    paint: Callable[[Sequence[PaintJob]], list[Image.Image]]
    settings: Json
    """All that the pictures depend on: model, weights, arguments of its call."""
    looker: Looker
    folder: Path
    """Of the run; pictures go to ``pictures/`` in it."""
    seed: int
    negative_prompt: str = ""
    batch_size: int = 8

    def identity(self) -> Json:
        """Model, seed and what looks at the pictures."""
        return {**self.settings, "seed": self.seed, **self.looker.identity()}

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """What the looker says, with the ``picture`` and its ``seed``.

        Raises:
            ModelError: the model cannot paint one of them, or the looker fails on it.
        """
        jobs = [
            PaintJob(
                prompt=sample.prompt, negative_prompt=self.negative_prompt, seed=derive_seed(self.seed, sample.name)
            )
            for sample in samples
        ]
        painted = []
        for sample, image in zip(samples, self.paint(jobs), strict=True):
            path = picture_file(self.folder, sample.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, png_bytes(image, ai_label(from_given_image=False)))
            painted.append(replace(sample, image=image))
        answers = self.looker(painted)
        return [answer | {"seed": job.seed} for answer, job in zip(answers, jobs, strict=True)]


def picture_file(folder: Path, name: str) -> Path:
    """Where a model's picture goes: ``pictures/NAME.png`` in the run's folder, if that is a plain path.

    Such a folder can be ranked as one of pictures later.
    """
    parts = name.split("/")
    if not all(_PLAIN.fullmatch(part) and part == part.strip(" .") for part in parts):
        parts = [f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{digest([name])[:8]}"]
    return folder.joinpath(PICTURES, *parts[:-1], f"{parts[-1]}.png")
