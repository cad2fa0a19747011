"""What a recipe is, and how to run one, for ``refiner train`` and ``refiner micro build``."""

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
from refiner.hub import Card as WeightsCard
from refiner.hub import write_card
from refiner.training.runs import Run, open_run, stored_config
from refiner.training.settings import LoopSettings, changed

S = TypeVar("S", bound=LoopSettings)


@dataclass(frozen=True, kw_only=True)
class Card(Generic[S]):
    """What ``card.json`` records about a model that a recipe trained."""

    name: str  # name of the model, with its version
    family: str = ""  # family of a detector; "" for other models
    data: Callable[[S], str]  # describes the training data for given settings
    settings: Callable[[S], Mapping[str, Any]] = dataclasses.asdict  # the settings as the card stores them


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[S]):
    """How to train one model."""

    name: str  # its key in ``RECIPES``
    micro: Callable[[], S]  # the recipe's own settings, at the micro world's size
    train: Callable[[S, DataSet | None, Run, Path], None]
    """Trains in the run's folder, or resumes there, and writes the model to the given folder."""
    folder: str = ""  # its folder in the bundled weights; "" if the model is not bundled
    card: Card[S] | None = None  # None: the model gets no ``card.json``
    measure: Callable[[Path, Run, int], Mapping[str, Any]] | None = None
    """Scores of the model in a folder. The int is the number of held-out samples of each kind."""
    measured: int = 200  # number of held-out samples of each kind for the scores in the bundled model's card


def load_recipe(name: str) -> Recipe[Any]:
    """Import the recipe of a row of ``RECIPES``. Raises ModelNotFoundError if no recipe has that name."""
    module, _, attribute = _row(name).target.partition(":")
    recipe: Recipe[Any] = getattr(importlib.import_module(module), attribute)
    return recipe


def _row(name: str) -> training.Row:
    rows = training.RECIPES
    if name not in rows:
        raise ModelNotFoundError(f"There is no recipe {name!r}: choose from {', '.join(rows)}.")
    return rows[name]


def run_recipe(
    name: str, folder: Path, *, data: str | None, document: object, resume: bool, run: Callable[[str | None], Run]
) -> Path:
    """Train a model with a recipe, or resume a run.

    Args:
        name: key of the recipe in ``RECIPES``.
        folder: folder of the run.
        data: id of a dataset, as for ``open_data``. None: the recipe generates its own, or the resumed run names it.
        document: JSON object of the settings to change. None: none, or those of the resumed run.
        resume: whether to resume the run in ``folder``.
        run: makes the ``Run`` from the dtype of the resumed run (None: a new run).

    Returns:
        The folder of the finished model, ``folder/model``.

    Raises:
        ConfigError: a setting is unknown or has a bad value, the recipe takes no data, or ``folder`` holds another run.
        InputError: the data cannot be used.
        ModelNotFoundError: no recipe has that name.
    """
    row, recipe = _row(name), load_recipe(name)
    stored = (stored_config(folder) or {}) if resume else {}
    if data is None:
        data = stored.get("data")
    if row.data and data is None:
        raise ConfigError(f"The recipe {name} learns from {row.data}: name them with --data.")
    if data is not None and not row.data:
        raise ConfigError(f"The recipe {name} generates its own data and takes no --data: remove {data!r}.")
    settings = changed(recipe.micro(), stored.get("settings", {}) if document is None else document)
    made = run(stored.get("dtype"))
    config = {"recipe": name, "data": data, "dtype": made.dtype, "settings": plain(settings)}
    samples = None
    if data is not None:
        from refiner.data.sources import open_data

        samples = open_data(data)
    processes = made.processes  # checks the device before the folder is made
    open_run(folder, config, resume=resume)
    out = folder / "model"
    recipe.train(settings, samples, made, out)
    if processes.main:
        finish(recipe, settings, out, {})
    processes.wait()
    return out


def finish(recipe: Recipe[Any], settings: LoopSettings, out: Path, scores: Mapping[str, Any]) -> None:
    """Write the ``card.json`` of the model in ``out``, if the recipe has a card. Scores are rounded to 4 digits."""
    if recipe.card is None:
        return
    card = WeightsCard(
        name=recipe.card.name,
        recipe=f"refiner train {recipe.name}",
        seed=getattr(settings, "seed", 0),
        data=recipe.card.data(settings),
        domain="micro",
        family=recipe.card.family,
        scores={name: round(float(value), 4) for name, value in scores.items()},
        settings=recipe.card.settings(settings),
    )
    write_card(out, card)


def plain(settings: LoopSettings) -> Json:
    """Settings as plain JSON values."""
    document: Json = json.loads(json.dumps(dataclasses.asdict(settings)))
    return document


def read_document(path: str) -> object:
    """Read a JSON file. Raises InputError if the file cannot be read, or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The config {path!r} cannot be read as JSON ({error}): correct it.") from error
