"""Model ids: find the folder of a model on disk, and check the weights in it.

An id is an existing folder, ``micro`` or ``micro:<part>`` (a bundled model), or a Hugging Face hub id with an optional
``@revision``. Every bundled folder has a ``card.json``. It says how the model was trained, what was measured, and the
checksum of each weight file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.files import atomic_write, dumps
from refiner.reading import reason_of
from refiner.repository import Repository

Kind = Literal["generator", "detector", "judge"]

MICRO_WEIGHTS = Path(__file__).parent / "micro" / "weights"

_MICRO_PARTS: dict[str, str] = {"generator": "generator", "detector": "legion", "judge": "hps"}
"""The bundled part that plain ``micro`` stands for, by kind."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of ``card.json``: where a weights folder comes from, and what it can be used for."""

    name: str
    """Part and version, such as "legion-micro 1"."""
    recipe: str
    """How it was trained: a description, or the command that trains it again."""
    seed: int
    data: str
    """What it was trained on."""
    domain: str
    """The pictures it knows, such as "micro"; models of a narrow domain refuse others."""
    family: str = ""
    """Family of detectors that loads it, such as "legion"; empty for what is no detector, and where it is not said."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Metrics on held-out data, by name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the training; plain JSON values."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each weight file, by its path inside the folder."""


def micro_parts() -> list[str]:
    """List the ids of the bundled models: ``micro:generator`` and so on."""
    if not MICRO_WEIGHTS.is_dir():
        return []
    return sorted(f"micro:{path.name}" for path in MICRO_WEIGHTS.iterdir() if path.is_dir())


def resolve(model: str | Path, kind: Kind) -> Path:
    """Find the folder of a model; a hub model is downloaded first, unless it is cached.

    Args:
        model: an existing folder, ``micro``, ``micro:<part>``, or a hub id with an optional ``@revision``.
        kind: the purpose of the model. Plain ``micro`` stands for the bundled part of this kind. The download of a
            generator omits files that diffusers does not load.

    Raises:
        ModelNotFoundError: there is no such folder, bundled part or hub model, or the hub cannot be reached.
    """
    found = locate(model, kind)
    if isinstance(found, Path):
        return found
    return _download_pipeline(found) if kind == "generator" else found.folder()


def locate(model: str | Path, kind: Kind) -> Path | Repository:
    """Find a model without a download: the folder of a model on this machine, or the repository of a hub id.

    Raises:
        ModelNotFoundError: it is neither an existing folder nor a bundled part, and cannot be a hub id.
    """
    text = str(model)
    if text == "micro" or text.startswith("micro:"):
        part = text if text != "micro" else f"micro:{_MICRO_PARTS[kind]}"
        if part not in micro_parts():
            raise ModelNotFoundError(f"Expected a bundled model ({_known()}), got {part!r}: choose one of these.")
        return MICRO_WEIGHTS / part.removeprefix("micro:")
    path = Path(model).expanduser()
    if text.strip() and path.is_dir():
        return path
    name, _, revision = text.partition("@")
    if not is_hub_id(name, kind):
        raise ModelNotFoundError(
            f"Expected a model folder, a hub id such as owner/model, or a bundled model ({_known()}), got {text!r}, "
            "and there is no such folder: check the path."
        )
    return Repository(name=name, revision=revision or None)


def check_reachable(models: Iterable[Path | Repository]) -> None:
    """Ask the hub whether its models exist, before anything is downloaded; a hub that cannot be reached is no error.

    Raises:
        ModelNotFoundError: the hub has no such model or revision, or refuses the access.
    """
    for model in models:
        if isinstance(model, Repository):
            _ = model.files


def _known() -> str:
    return ", ".join(micro_parts()) or "none is installed"


def is_hub_id(name: str, kind: Kind = "generator") -> bool:
    """Whether a name without a revision may be a hub id. Only text encoders, loaded like judges, may have no owner."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return kind == "judge" or "/" in name


def _download_pipeline(repository: Repository) -> Path:
    from diffusers import DiffusionPipeline
    from huggingface_hub import errors

    try:
        return Path(DiffusionPipeline.download(repository.name, revision=repository.revision, **repository.access))
    except (OSError, ValueError, errors.HTTPError) as error:
        raise repository.unavailable(error.__cause__ or error) from error


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _holds_pickles(folder: Path) -> bool:
    """Whether there are pickled torch weights; transformers and diffusers load them with ``weights_only``."""
    return any(next(folder.rglob(pattern), None) for pattern in ("*.bin", "*.pt", "*.pth"))


def write_card(folder: str | Path, card: Card) -> Card:
    """Write ``card.json`` for the weights that are in ``folder`` now, and return the card with their checksums.

    Raises:
        WeightsError: the folder holds no weights.
        ConfigError: scores or settings are not plain JSON values.
        OutputError: the file cannot be written.
    """
    root = Path(folder)
    files = {path.relative_to(root).as_posix(): checksum(path) for path in _weight_files(root)}
    if not files:
        raise WeightsError(f"{str(root)!r} holds no weights (*.safetensors): save the model there first.")
    card = dataclasses.replace(card, scores={key: float(value) for key, value in card.scores.items()}, sha256=files)
    try:
        text = dumps(dataclasses.asdict(card))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"A card must hold only plain JSON values ({error}): use text, finite numbers, lists and dicts."
        ) from error
    atomic_write(root / "card.json", text + "\n")
    return card


def read_card(folder: str | Path) -> Card:
    """Read the card of a weights folder.

    Raises:
        WeightsError: the card is missing or cannot be read.
    """
    path = Path(folder) / "card.json"
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"The card {str(path)!r} is missing: install or build the weights again.") from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"The card {str(path)!r} cannot be read ({error}): build the weights again.") from error


def verify(folder: str | Path) -> None:
    """Check that a folder's weights exist, can be opened, and match the checksums in its card.

    A bundled model must have a card. For other folders the card is optional.

    Raises:
        WeightsError: a file is missing, truncated or changed.
    """
    root = Path(folder)
    card = read_card(root) if (root / "card.json").exists() or root.is_relative_to(MICRO_WEIGHTS) else None
    files = _weight_files(root)
    if not files and not _holds_pickles(root):
        raise WeightsError(f"{str(root)!r} holds no weights (*.safetensors): download or build them again.")
    for path in files:
        check_opens(path)
    for index in root.rglob("*.safetensors.index.json"):
        _check_shards(index)
    for name, wanted in (card.sha256 if card else {}).items():
        path = root / name
        if not path.is_file():
            raise WeightsError(f"The weight file {str(path)!r} is missing: install the weights again.")
        if checksum(path) != wanted:
            raise WeightsError(f"{str(path)!r} does not match the checksum in its card: install the weights again.")


def check_opens(path: Path) -> None:
    """Check that a safetensors file is complete; raises WeightsError if not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{str(path)!r} is not a complete safetensors file ({error}): download or build it again."
        ) from error


def _check_shards(index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"The weight index {str(index)!r} cannot be read ({reason_of(error)}): download it again."
        ) from error
    for shard in sorted(shards):
        if not (index.parent / shard).is_file():
            raise WeightsError(f"The weight file {str(index.parent / shard)!r} is missing: download it again.")
