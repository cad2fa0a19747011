"""From the id of a model to a folder on disk, and what such a folder must hold.

An id is an existing folder, ``micro`` or ``micro:<part>`` (a bundled model), or a hub id with an optional
``@revision``. Every bundled folder has a ``card.json``: how it was trained, what was measured, and the checksum of each
weight file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.files import atomic_write, dumps

Kind = Literal["generator", "detector", "judge"]

MICRO_WEIGHTS = Path(__file__).parent / "micro" / "weights"

_MICRO_PARTS: dict[str, str] = {"generator": "generator", "detector": "legion", "judge": "hps"}
"""The bundled part that plain ``micro`` means, by kind."""

_UNUSED_FORMATS = ["*.onnx", "*.onnx_data", "*.pb", "*.msgpack", "*.h5", "*.tflite", "*.ot", "openvino_*", "flax_*"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a weights folder comes from, and what it is good for."""

    name: str
    """Part and version, such as "legion-micro 1"."""
    recipe: str
    """How it was trained, in words or as the command that does it again."""
    seed: int
    data: str
    """What it was trained on."""
    domain: str
    """The pictures it knows, such as "micro"; models of a narrow domain refuse others."""
    family: str = ""
    """Family of detectors that loads it, such as "legion"; empty for what is no detector, and where it is not said."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Measured on held-out data, by name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters of the training, plain JSON values."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Checksum of each weight file, by its path inside the folder."""


def micro_parts() -> list[str]:
    """The bundled models, as ids: ``micro:generator`` and so on."""
    if not MICRO_WEIGHTS.is_dir():
        return []
    return sorted(f"micro:{path.name}" for path in MICRO_WEIGHTS.iterdir() if path.is_dir())


def resolve(model: str | Path, kind: Kind) -> Path:
    """The folder of a model.

    Args:
        model: existing folder, ``micro``, ``micro:<part>``, or hub id with an optional ``@revision``.
        kind: what it is wanted for; plain ``micro`` means the part that fits, and a hub download of a generator
            leaves out files that diffusers would not load.

    Raises:
        ModelNotFoundError: there is no such folder or bundled part, or the hub cannot be reached or does not know it.
    """
    text = str(model)
    if text == "micro" or text.startswith("micro:"):
        return _micro_folder(text if text != "micro" else f"micro:{_MICRO_PARTS[kind]}")
    path = Path(model).expanduser()
    if text.strip() and path.is_dir():
        return path
    repository, _, revision = text.partition("@")
    if not _is_hub_id(repository):
        raise ModelNotFoundError(
            f"Expected a model folder, a hub id or a bundled model ({_known()}), got {text!r}: there is no such folder."
        )
    return _download(repository, revision or None, kind)


def _micro_folder(part: str) -> Path:
    folder = MICRO_WEIGHTS / part.removeprefix("micro:")
    if part not in micro_parts():
        raise ModelNotFoundError(f"Expected a bundled model ({_known()}), got {part!r}: name one of these.")
    return folder


def _known() -> str:
    return ", ".join(micro_parts()) or "none is bundled here"


def _is_hub_id(repository: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True


def _download(repository: str, revision: str | None, kind: Kind) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        if kind == "generator":
            from diffusers import DiffusionPipeline

            return Path(DiffusionPipeline.download(repository, revision=revision))
        return Path(snapshot_download(repository, revision=revision, ignore_patterns=_UNUSED_FORMATS))
    except (OSError, ValueError, errors.HTTPError) as error:
        reasons = {
            errors.GatedRepoError: "its licence must be accepted on the hub first",
            errors.RevisionNotFoundError: f"the hub knows no revision {revision!r} of it",
            errors.RepositoryNotFoundError: "the hub knows no such model, or it is private",
        }
        known = (reason for kind_of_error, reason in reasons.items() if isinstance(error, kind_of_error))
        reason = next(known, "the hub cannot be reached and nothing is cached")
        raise ModelNotFoundError(
            f"Expected to find the model {repository!r}, but {reason}: check the id and the network, "
            f"or use a folder or a bundled model ({_known()})."
        ) from error


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _holds_pickles(folder: Path) -> bool:
    """Whether there are weights in torch's own format; transformers and diffusers load them with weights_only."""
    return any(next(folder.rglob(pattern), None) for pattern in ("*.bin", "*.pt", "*.pth"))


def write_card(
    folder: str | Path,
    *,
    name: str,
    recipe: str,
    seed: int,
    data: str,
    domain: str,
    family: str = "",
    scores: Mapping[str, float],
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Write ``card.json`` for the weights that lie in ``folder`` now, checksums included.

    Raises:
        WeightsError: the folder holds no weights.
        ConfigError: scores or settings are no plain JSON values.
        OutputError: the folder cannot be written.
    """
    root = Path(folder)
    files = {path.relative_to(root).as_posix(): checksum(path) for path in _weight_files(root)}
    if not files:
        raise WeightsError(f"Expected weights (*.safetensors) in {str(root)!r}, got none: save the model there first.")
    card = Card(
        name=name,
        recipe=recipe,
        seed=seed,
        data=data,
        domain=domain,
        family=family,
        scores={key: float(value) for key, value in scores.items()},
        settings=dict(settings or {}),
        sha256=files,
    )
    try:
        text = dumps(dataclasses.asdict(card))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"A card must hold plain JSON values, got one that fails with {error}.") from error
    atomic_write(root / "card.json", text + "\n")
    return card


def read_card(folder: str | Path) -> Card:
    """The card of a weights folder.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    path = Path(folder) / "card.json"
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"Expected {str(path)!r}, got no such file: install or build the weights again.") from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"Expected a card in {str(path)!r}, got one that fails with {error}: build it again."
        ) from error


def verify(folder: str | Path) -> None:
    """Check that a folder's weights are there, can be opened, and are those that its card names.

    A card is required of bundled models; elsewhere it is checked where there is one.

    Raises:
        WeightsError: something is missing, truncated or changed.
    """
    root = Path(folder)
    card = read_card(root) if (root / "card.json").exists() or root.is_relative_to(MICRO_WEIGHTS) else None
    files = _weight_files(root)
    if not files and not _holds_pickles(root):
        raise WeightsError(f"Expected weights (*.safetensors) in {str(root)!r}, got none: fetch or build them again.")
    for path in files:
        _check_opens(path)
    for index in root.rglob("*.safetensors.index.json"):
        _check_shards(index)
    for name, wanted in (card.sha256 if card else {}).items():
        path = root / name
        if not path.is_file():
            raise WeightsError(f"Expected the weight file {str(path)!r}, got no such file: install the weights again.")
        if checksum(path) != wanted:
            raise WeightsError(f"Expected {str(path)!r} as its card names it, got other bytes: install it again.")


def _check_opens(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"Expected a whole safetensors file, got {str(path)!r} ({error}): fetch or build it again."
        ) from error


def _check_shards(index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"Expected a weight index, got {str(index)!r} ({error!r}): fetch it again.") from error
    for shard in sorted(shards):
        if not (index.parent / shard).is_file():
            raise WeightsError(
                f"Expected the weight file {str(index.parent / shard)!r}, got no such file: fetch it again."
            )
