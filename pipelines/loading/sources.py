"""Where a diffusers pipeline comes from: a folder, a repository of the hub, or a single checkpoint file.

A source is made from the user's id and options. ``check`` then says everything that is wrong and is known before the
weights are downloaded, and ``load`` gives them to diffusers, with the user's own options.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from refiner.errors import ConfigError, ModelNotFoundError, RefinerError, WeightsError
from refiner.hub import verify
from refiner.pipelines.loading.options import PRETRAINED, check_names
from refiner.pipelines.saving.settings import SETTINGS_FILE, SavedSettings
from refiner.repository import Repository

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Where = str | Path
INDEX_FILE = "model_index.json"
_WEIGHTS = (".safetensors", ".bin")


class Source(ABC):
    """A pipeline that can be loaded.

    Args:
        model: as the user named it.
        options: as ``read_options`` returns them.
    """

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        self.model, self.options = model, dict(options)

    @property
    def id(self) -> str:
        """The id that names the same model without further options."""
        return self.model

    @property
    def needs(self) -> list[Repository]:
        """The repository of the hub that the pipeline is in, if it is in one."""
        return []

    @abstractmethod
    def settings(self) -> SavedSettings | None:
        """Read what a RefinedPipeline saved beside the pipeline; None if there is nothing."""

    @abstractmethod
    def check(self) -> type | None:
        """Check the options, as far as possible before the weights are downloaded.

        Returns:
            The class of the pipeline; None if it is not known yet.

        Raises:
            UserError: the pipeline or an option cannot be used.
        """

    @abstractmethod
    def holds(self, place: str) -> bool:
        """Whether a saved part is in the sub-folder ``place``, as far as this is known."""

    @abstractmethod
    def inside(self, place: str) -> Path:
        """Return the path of a saved part in the sub-folder ``place``, which is downloaded first."""

    @abstractmethod
    def load(self) -> DiffusionPipeline:
        """Load the pipeline.

        Raises:
            ModelNotFoundError, WeightsError: it cannot be had, or is damaged.
        """


class FolderSource(Source):
    """A pipeline in a folder on this machine."""

    def __init__(self, model: str, folder: Path, options: Mapping[str, Any]) -> None:
        super().__init__(model, options)
        self.folder = folder

    def settings(self) -> SavedSettings | None:
        saved = SavedSettings.read(self.folder)
        return saved if (self.folder / SETTINGS_FILE).exists() or saved.detector else None

    def check(self) -> type | None:
        index = read_index(self.folder / INDEX_FILE)
        verify(self.folder)
        files = {path.relative_to(self.folder).as_posix() for path in self.folder.glob("*/*")}
        return check_index(self.model, index, files, self.options)

    def holds(self, place: str) -> bool:
        return (self.folder / place).is_dir()

    def inside(self, place: str) -> Path:
        return self.folder / place

    def load(self) -> DiffusionPipeline:
        return load_pretrained(self.model, self.folder, self.options)


class HubSource(Source):
    """A pipeline in a repository of the hub. Diffusers downloads it, and only the files that it needs."""

    def __init__(self, model: str, repository: Repository, options: Mapping[str, Any]) -> None:
        super().__init__(model, options)
        self.repository = repository

    @property
    def id(self) -> str:
        name, revision = self.repository.name, self.repository.revision
        return name if revision is None else f"{name}@{revision}"

    @property
    def needs(self) -> list[Repository]:
        return [self.repository]

    def settings(self) -> SavedSettings | None:
        files = self.repository.files
        file = None if files is not None and SETTINGS_FILE not in files else self.repository.file(SETTINGS_FILE)
        return None if file is None else SavedSettings.read(file.parent)

    def check(self) -> type | None:
        name, files = self.repository.name, self.repository.files
        file = self.repository.file(INDEX_FILE)
        if file is None and files is None:
            raise self.repository.unavailable()
        if file is None:
            raise ModelNotFoundError(
                f"The repository {name!r} holds no {INDEX_FILE}: name the repository of a diffusers pipeline, or a "
                "checkpoint file by its URL."
            )
        return check_index(self.model, read_index(file), files, self.options)

    def holds(self, place: str) -> bool:
        files = self.repository.files
        return files is None or any(file.startswith(f"{PurePosixPath(place)}/") for file in files)

    def inside(self, place: str) -> Path:
        folder, files = str(PurePosixPath(place)), self.repository.files
        chosen = None if files is None else loaded_files((f for f in files if fnmatch(f, f"{folder}/*")), self.options)
        return self.repository.folder([f"{folder}/*"] if chosen is None else chosen) / folder

    def load(self) -> DiffusionPipeline:
        from huggingface_hub import errors

        repository = self.repository
        try:
            return load_pretrained(self.model, repository.name, {**self.options, "revision": repository.revision})
        except WeightsError as error:
            cause = error.__cause__
            while cause is not None:
                if isinstance(cause, errors.HTTPError | errors.EntryNotFoundError | ConnectionError):
                    raise repository.unavailable(cause) from error
                cause = cause.__cause__
            raise


def read_index(path: Path) -> dict[str, Any]:
    """Read a ``model_index.json``: the class of a pipeline, and library and class of each component."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(index, dict) or "_class_name" not in index:
            raise ValueError("it names no class of a pipeline")
    except FileNotFoundError as error:
        raise WeightsError(
            f"{str(path.parent)!r} holds no {path.name}: name the folder of a diffusers pipeline, or a checkpoint file."
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"The file {str(path)!r} cannot be read ({error}): download it again.") from error
    return index


def pipeline_class(model: str, index: Mapping[str, Any]) -> type | None:
    """Return the class of diffusers that an index names; None for a class whose code is in the repository.

    Raises:
        ConfigError: diffusers has no such class.
    """
    import diffusers

    name = index["_class_name"]
    if not isinstance(name, str):
        return None
    found = getattr(diffusers, name, None)
    if not isinstance(found, type):
        raise ConfigError(
            f"{model!r} is a {name}, which diffusers {diffusers.__version__} does not have: upgrade diffusers, or use "
            "another model."
        )
    return found


def check_index(
    model: str, index: Mapping[str, Any], files: Collection[str] | None, options: Mapping[str, Any]
) -> type | None:
    """Check the options against the index of a pipeline and its files; None: the files are not known.

    Returns:
        The class of the pipeline; None if it is not one of diffusers.

    Raises:
        ConfigError: an option is unknown, a component is not a loaded one, or there are no weights of the variant.
    """
    custom = options.get("custom_pipeline") is not None
    found = None if custom else pipeline_class(model, index)
    parts = {name for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    check_names(options, PRETRAINED, None if found is None else components_of(found, index))
    check_components(options, parts)
    variant = options.get("variant")
    if variant is not None and files is not None:
        variants = variants_of(file for file in files if file.partition("/")[0] in parts)
        if variant not in variants:
            others = f"pass variant={' or '.join(map(repr, sorted(variants)))}, or " if variants else ""
            # The first words are those of diffusers, which people search for.
            raise ConfigError(
                f"You are trying to load the model files of the `variant={variant}`, but {model!r} holds none: "
                f"{others}leave variant= out."
            )
    return found


def components_of(cls: type, index: Mapping[str, Any]) -> set[str]:
    """Return the names of a pipeline's components, and the other arguments of its class."""
    from inspect import signature

    return {name for name in index if not name.startswith("_")} | set(signature(cls).parameters)


def check_components(options: Mapping[str, Any], parts: Collection[str]) -> None:
    """Refuse a component that is given by its path or id, which diffusers does not load."""
    for name in parts:
        if isinstance(value := options.get(name), str | Path):
            raise ConfigError(
                f"Expected {name}= as a loaded component, got {str(value)!r}: load it with its from_pretrained first."
            )


def loaded_files(files: Iterable[str], options: Mapping[str, Any]) -> list[str]:
    """Leave out weights that are not loaded: those of other variants, and pickled ones beside safetensors."""
    paths = [PurePosixPath(file) for file in files]
    chosen = []
    for path in paths:
        rivals = [other for other in paths if other.parent == path.parent and other.suffix in _WEIGHTS]
        named = any(_variant(other) == options.get("variant") for other in rivals)
        variant = options.get("variant") if named else None
        rivals = [other for other in rivals if _variant(other) == variant]
        safe = any(other.suffix == ".safetensors" for other in rivals)
        wanted = path in rivals and (path.suffix == ".safetensors" or not safe)
        if path.suffix not in _WEIGHTS or wanted:
            chosen.append(str(path))
    return sorted(chosen)


def variants_of(files: Iterable[str]) -> set[str]:
    """Return the variants of the weights among the files of components, such as fp16."""
    paths = [PurePosixPath(file) for file in files]
    return {variant for path in paths if path.suffix in _WEIGHTS and (variant := _variant(path)) is not None}


def _variant(path: PurePosixPath) -> str | None:
    """Return the variant in the name of a weight file, such as fp16 in ``model.fp16-00001-of-00002.safetensors``."""
    words = path.name.split(".")
    return words[1].partition("-")[0] if len(words) == 3 else None


def load_pretrained(model: str, where: Where, options: Mapping[str, Any]) -> DiffusionPipeline:
    """Load a folder or repository with ``DiffusionPipeline.from_pretrained``; see ``Source.load`` for the errors."""
    from diffusers import DiffusionPipeline

    with readable_errors(model):
        return DiffusionPipeline.from_pretrained(where, **options)


@contextmanager
def readable_errors(model: str) -> Iterator[None]:
    """Turn what diffusers and transformers raise while they load a pipeline into a ``WeightsError`` of one sentence."""
    import torch
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    known = (OSError, ValueError, ImportError, KeyError, AttributeError, TypeError, RuntimeError)
    try:
        yield
    except RefinerError:
        raise
    except (*known, HTTPError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(
            f"The pipeline {model!r} cannot be loaded ({reason:.300}): check the options, or download it again."
        ) from error
