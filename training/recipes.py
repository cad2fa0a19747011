"""What a recipe is, and how one is run: ``refiner train`` and ``refiner micro build`` both come here."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from refiner import training
from refiner.data.samples import DataSet
from refiner.errors import ConfigError, InputError, ModelNotFoundError
from refiner.files import Json
from refiner.hub import write_card
from refiner.training.runs import Run, open_run, stored_config
from refiner.training.settings import LoopSettings, changed

S = TypeVar("S", bound=LoopSettings)


@dataclass(frozen=True, kw_only=True)
class Card(Generic[S]):
    """What ``card.json`` says of a model that a recipe made."""

    name: str
    """Of the model, with its version."""
    family: str = ""
    """Of a detector; "" for other models."""
    data: Callable[[S], str]
    """What it was trained on, in words."""
    settings: Callable[[S], Mapping[str, Any]] = dataclasses.asdict


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[S]):
    """How to train one model."""

    name: str
    help: str
    """What it makes."""
    budget: str
    """About how long ``micro()`` takes, and on what."""
    micro: Callable[[], S]
    """The settings at the micro world's size."""
    train: Callable[[S, DataSet | None, Run, Path], None]
    """Train in the run's folder, or go on there, and write the model to a folder."""
    data: str = ""
    """What samples it learns from, in words; "" where it draws its own and takes none."""
    folder: str = ""
    """Among the bundled weights; "" where the model is not bundled."""
    card: Card[S] | None = None
    measure: Callable[[Path, Run, int], Mapping[str, Any]] | None = None
    """Scores of the model of a folder, on so many held-out samples of each sort."""
    measured: int = 200
    """How many of each sort the bundled model's card is about."""


def load_recipe(name: str) -> Recipe[Any]:
    """The recipe of a row of ``RECIPES``.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    rows = training.RECIPES
    if name not in rows:
        raise ModelNotFoundError(f"There is no recipe {name!r}: choose from {', '.join(rows)}.")
    module, _, attribute = rows[name].partition(":")
    recipe: Recipe[Any] = getattr(importlib.import_module(module), attribute)
    return recipe


def run_recipe(
    name: str, folder: Path, *, data: str | None, document: object, resume: bool, run: Callable[[str | None], Run]
) -> Path:
    """Train by a recipe in a folder, or go on with the run there.

    Args:
        name: of a row of ``RECIPES``.
        folder: of the run.
        data: as of ``refiner.data.sources.open_data``; None: the recipe draws its own, or the run is resumed.
        document: JSON of the settings that differ from ``micro()``; None: of none, or those of the resumed run.
        resume: go on with the run of the folder.
        run: makes the run from the dtype of a resumed one.

    Returns:
        The folder of the finished model, ``folder/model``.

    Raises:
        ConfigError: an unknown setting or a bad value, data for a recipe that takes none, or another run in the folder.
        InputError: data that cannot be used.
    """
    recipe = load_recipe(name)
    stored = (stored_config(folder) or {}) if resume else {}
    if data is None:
        data = stored.get("data")
    if recipe.data and data is None:
        raise ConfigError(f"The recipe {name} learns from {recipe.data}: name them with --data.")
    if data is not None and not recipe.data:
        raise ConfigError(f"The recipe {name} draws its own data and takes no --data: leave out {data!r}.")
    settings = changed(recipe.micro(), stored.get("settings", {}) if document is None else document)
    made = run(stored.get("dtype"))
    config = {"recipe": name, "data": data, "dtype": made.dtype, "settings": plain(settings)}
    samples = None
    if data is not None:
        from refiner.data.sources import open_data

        samples = open_data(data)
    processes = made.processes  # a device that is not there is refused before the folder is made
    open_run(folder, config, resume=resume)
    out = folder / "model"
    recipe.train(settings, samples, made, out)
    if processes.main:
        finish(recipe, settings, out, {})
    processes.wait()
    return out


def finish(recipe: Recipe[Any], settings: LoopSettings, out: Path, scores: Mapping[str, Any]) -> None:
    """Write the model's card, where the recipe has one."""
    if recipe.card is None:
        return
    write_card(
        out,
        name=recipe.card.name,
        recipe=f"refiner train {recipe.name}",
        seed=getattr(settings, "seed", 0),
        data=recipe.card.data(settings),
        domain="micro",
        family=recipe.card.family,
        scores={name: round(float(value), 4) for name, value in scores.items()},
        settings=recipe.card.settings(settings),
    )


def plain(settings: LoopSettings) -> Json:
    """Settings as JSON has them."""
    document: Json = json.loads(json.dumps(dataclasses.asdict(settings)))
    return document


def read_document(path: str) -> object:
    """The JSON document of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The config {path!r} cannot be read as JSON ({error}): correct it.") from error
