"""What a recipe is, and how to run one, for ``refiner train`` and ``refiner micro build``."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from refiner import training
from refiner.data.problems import count_problems
from refiner.data.samples import DataSet
from refiner.errors import ConfigError, InputError, ModelNotFoundError
from refiner.files import Json
from refiner.hub import Card as WeightsCard
from refiner.hub import write_card
from refiner.training.runs import Run, open_run, stored_config
from refiner.training.settings import CheckedSettings, changed

S = TypeVar("S", bound=CheckedSettings)


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
    configs: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)
    """Settings for training on the samples of ``--data``, by name; the first are the default."""
    check: Callable[[Any], None] = lambda _settings: None
    """Refuses settings that cannot be used, before anything is downloaded or written."""
    dry_run: Callable[[Any, DataSet, Run], Json] | None = None
    """Describes a training on samples, and writes its first batch to the run's folder."""
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


class Order(NamedTuple):
    """What to train, as the command line says it."""

    recipe: str  # key in ``RECIPES``
    data: str | None = None
    """Data set, as for ``open_data``. None: the recipe generates its own, or the resumed run names it."""
    configs: Sequence[str] = ()
    """Names of the recipe's configs (one at most), and JSON files of settings to change."""
    changes: Mapping[str, Any] = MappingProxyType({})
    """Settings to change, after those of the files."""
    resume: bool = False


class Plan(NamedTuple):
    """A training that can start."""

    recipe: Recipe[Any]
    settings: Any
    samples: DataSet | None
    run: Run
    config: Json
    """The ``config.json`` of the run."""


def plan(order: Order, run: Callable[[str | None], Run], folder: Path) -> Plan:
    """Read settings and data of a training, without writing anything.

    Args:
        order: what to train.
        run: makes the ``Run`` from the dtype of the resumed run (None: a new run).
        folder: folder of the run.

    Raises:
        ConfigError: a config or a setting is unknown or has a bad value, or the recipe takes no data.
        InputError: the data or a file of settings cannot be read.
        ModelNotFoundError: no recipe has that name.
    """
    row = _row(order.recipe)
    stored = (stored_config(folder) or {}) if order.resume else {}
    data = order.data or stored.get("data")
    if row.data and data is None and not row.data_optional:
        raise ConfigError(f"The recipe {order.recipe} learns from {row.data}: name them with --data.")
    if data is not None and not row.data:
        raise ConfigError(f"The recipe {order.recipe} generates its own data and takes no --data: remove {data!r}.")
    for file in [each for each in order.configs if each.endswith(".json")]:
        read_document(file)
    samples = None
    if data is not None:
        from refiner.data.sources import open_data

        samples = open_data(data)
    recipe = load_recipe(order.recipe)  # imports torch, which takes seconds
    name, settings = _settings(order, recipe, data, stored)
    recipe.check(settings)
    made = run(stored.get("dtype"))
    config = {"recipe": recipe.name, "data": data, "config": name, "dtype": made.dtype, "settings": plain(settings)}
    for kind, count in count_problems(() if samples is None else samples.problems).items():
        made.tell(f"{data}: {kind}, {count} times; `refiner evaluate` lists them one by one.")
    return Plan(recipe, settings, samples, made, config)


def _settings(order: Order, recipe: Recipe[Any], data: str | None, stored: Json) -> tuple[str | None, Any]:
    """The name of the config that was chosen (None without data), and the settings."""
    known = (None if data is None else recipe.configs) or {"micro": recipe.micro}
    names = [each for each in order.configs if each in {"micro", *recipe.configs}]
    if len(names) > 1:
        raise ConfigError(f"Expected one config, got {' and '.join(names)}: leave one out.")
    own = {field.name for field in dataclasses.fields(recipe.micro())}
    foreign = [change for change in order.changes if change not in own]
    if data is None and recipe.configs and (foreign or (names and names[0] not in known)):
        what = " and ".join([*names, *(f"--{change}" for change in foreign)])
        raise ConfigError(f"Training with {what} learns from samples: name them with --data.")
    name = names[0] if names else stored.get("config") or next(iter(known))
    if name not in known:
        raise ConfigError(f"The recipe {recipe.name} has no config {name!r}: choose from {', '.join(known)}.")
    settings = known[name]()
    for change in order.changes:
        if not hasattr(settings, change):
            inner = [each for each in _within(settings) if each.endswith(f".{change}")]
            advice = f"set {' or '.join(inner)} in a file for --config" if inner else "leave it out"
            raise ConfigError(f"The recipe {recipe.name} takes no --{change}: {advice}.")
    files = [each for each in order.configs if each not in names]
    for document in [read_document(file) for file in files] or [stored.get("settings", {})]:
        settings = changed(settings, document)
    return (None if data is None else name), changed(settings, order.changes)


def run_recipe(order: Order, folder: Path, run: Callable[[str | None], Run]) -> Path:
    """Train a model with a recipe, or resume a run.

    Args:
        order: what to train.
        folder: folder of the run.
        run: as for ``plan``.

    Returns:
        The folder of the finished model, ``folder/model``.

    Raises:
        UserError: as for ``plan``; or ``folder`` holds another run.
    """
    recipe, settings, samples, made, config = plan(order, run, folder)
    processes = made.processes  # checks the device before the folder is made
    open_run(folder, config, resume=order.resume)
    out = folder / "model"
    recipe.train(settings, samples, made, out)
    if processes.main:
        finish(recipe, settings, out, {}, data=config["data"])
    processes.wait()
    return out


def _within(settings: CheckedSettings) -> list[str]:
    """The names of the settings within settings, such as "semantic.base"."""
    parts = {name: value for name, value in vars(settings).items() if dataclasses.is_dataclass(value)}
    return [f"{name}.{field.name}" for name, value in parts.items() for field in dataclasses.fields(value)]


def describe(order: Order, folder: Path, run: Callable[[str | None], Run]) -> Json:
    """Describe a training without starting it; see ``Recipe.dry_run``.

    Raises:
        UserError: as for ``plan``; or the recipe has no dry run.
    """
    recipe, settings, samples, made, config = plan(order, run, folder)
    if recipe.dry_run is None or samples is None:
        raise ConfigError(f"The recipe {recipe.name} has a dry run only with --data of its own: leave --dry-run out.")
    return {**config, **recipe.dry_run(settings, samples, made)}


def finish(
    recipe: Recipe[Any], settings: CheckedSettings, out: Path, scores: Mapping[str, Any], data: str | None = None
) -> None:
    """Write the ``card.json`` of the model in ``out``, if the recipe has a card. Scores are rounded to 4 digits.

    ``data`` names the samples of the training; None: the recipe's own, of the micro world.
    """
    if recipe.card is None:
        return
    card = WeightsCard(
        name=recipe.card.name if data is None else f"{recipe.name}, trained on {data}",
        recipe=f"refiner train {recipe.name}" + ("" if data is None else f" --data {data}"),
        seed=getattr(settings, "seed", 0),
        data=data or recipe.card.data(settings),
        domain="micro" if data is None else "",
        family=recipe.card.family,
        scores={name: round(float(value), 4) for name, value in scores.items()},
        settings=recipe.card.settings(settings) if data is None else plain(settings),
    )
    write_card(out, card)


def plain(settings: CheckedSettings) -> Json:
    """Settings as plain JSON values."""
    document: Json = json.loads(json.dumps(dataclasses.asdict(settings)))
    return document


def read_document(path: str) -> object:
    """Read a JSON file. Raises InputError if the file cannot be read, or is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The config {path!r} cannot be read as JSON ({error}): correct it.") from error
