"""Pipelines in a single checkpoint file (``.safetensors``, ``.ckpt``), on this machine or on the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import check_opens
from refiner.pipelines.loading.options import ACCESS, SINGLE_FILE, check_names, merged_revision, read_options
from refiner.pipelines.loading.sources import (
    INDEX_FILE,
    Source,
    Where,
    check_components,
    components_of,
    pipeline_class,
    read_index,
    readable_errors,
)
from refiner.pipelines.saving.settings import SavedSettings
from refiner.repository import Repository

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_IN_A_REPOSITORY = re.compile(r"/?([^/]+/[^/]+)/(?:blob|resolve|raw)/([^/]+)/([^?#]+)")


def is_checkpoint(model: Where) -> bool:
    """Whether a model is named by a file or a URL, not by a folder or id."""
    path = Path(model).expanduser()
    return _is_url(str(model)) or path.is_file() or (path.suffix.lower() in _SUFFIXES and not path.is_dir())


class CheckpointSource(Source):
    """A pipeline in a single file, which diffusers loads with ``from_single_file``.

    The class of the pipeline is that of the pipeline whose configuration is used: ``config`` of the options, else the
    published pipeline that diffusers recognises in the weights.

    Args:
        model: path of a file, or URL of a file on the hub.
        options: arguments of ``from_single_file``, and components of the pipeline.

    Raises:
        ModelNotFoundError: there is no such file, or the URL is not that of a file on the hub.
        ConfigError: an option is wrong, or the file's format cannot be loaded.
    """

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        super().__init__(model, read_options(options, SINGLE_FILE))
        dtype = self.options.get("dtype")
        if dtype == "auto" or isinstance(dtype, Mapping):
            raise ConfigError(f"Expected one dtype= for a single file, got {dtype!r}: pass a torch.dtype.")
        if model.lower().endswith(".gguf"):
            raise ConfigError(
                f"{model!r} holds only one component: load it with the component's from_single_file and a "
                "GGUFQuantizationConfig, then pass it to the pipeline's folder or hub id, such as transformer=."
            )
        self._access = {name: self.options[name] for name in ACCESS if name in self.options}
        self._repository, self._path = None, model
        if _is_url(model):
            self._repository, self._path = self._on_the_hub()
        elif not Path(model).expanduser().is_file():
            raise ModelNotFoundError(f"There is no checkpoint file {model!r}: check the path, or name its URL.")

    def _on_the_hub(self) -> tuple[Repository, str]:
        from huggingface_hub import constants

        hosts = "|".join(map(re.escape, (constants.ENDPOINT, "https://huggingface.co", "https://hf.co")))
        match = re.match(f"(?:{hosts})(?P<rest>/.*)", self.model)
        found = match and _IN_A_REPOSITORY.match(match["rest"])
        if not found:
            raise ModelNotFoundError(
                f"Expected the URL of a file on the hub, such as https://huggingface.co/OWNER/MODEL/blob/main/"
                f"FILE.safetensors, got {self.model!r}: name such a URL, a hub id OWNER/MODEL, or a file."
            )
        revision = merged_revision(self.model, unquote(found[2]), self.options.pop("revision", None))
        return Repository(name=found[1], revision=revision, access=self._access), unquote(found[3])

    @property
    def needs(self) -> list[Repository]:
        return [] if self._repository is None else [self._repository]

    def settings(self) -> SavedSettings | None:
        return None

    def check(self) -> type | None:
        if self._repository is None:
            return self._class
        files = self._repository.files
        if files is not None and self._path not in files:
            raise ModelNotFoundError(
                f"The repository {self._repository.name!r} holds no {self._path!r}: check the URL."
            )
        return None

    def holds(self, place: str) -> bool:
        return False

    def inside(self, place: str) -> Path:
        raise AssertionError("a single file has no sub-folders")

    def load(self) -> DiffusionPipeline:
        from diffusers.loaders.single_file_utils import SingleFileComponentError

        try:
            with readable_errors(self.model):
                cls: Any = self._class
                return cls.from_single_file(str(self._file), **self.options | {"config": self._config})
        except SingleFileComponentError as error:
            missing = re.search(r"^(\w+) = ", str(error), re.MULTILINE)
            part = missing[1] if missing else "component"
            raise WeightsError(
                f"The checkpoint {self.model!r} holds no {part}, which {self._class.__name__} needs: load it first, "
                f"and pass it as {part}=."
            ) from error

    @cached_property
    def _file(self) -> Path:
        file = Path(self._path).expanduser() if self._repository is None else self._repository.file(self._path)
        if file is None:
            assert self._repository is not None
            raise self._repository.unavailable()
        if file.suffix == ".safetensors":
            check_opens(file)
        return file

    @cached_property
    def _config(self) -> str:
        """Folder or hub id of the pipeline whose configuration is used."""
        if "config" in self.options:
            return str(self.options["config"])
        from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

        with readable_errors(self.model):
            return str(
                fetch_diffusers_config(load_single_file_checkpoint(str(self._file)))["pretrained_model_name_or_path"]
            )

    @cached_property
    def _class(self) -> type:
        """The class of the pipeline; the options are checked against it."""
        folder = Path(self._config).expanduser()
        file: Path | None = folder / INDEX_FILE
        if not folder.is_dir():
            revision = self.options.get("revision")
            repository = Repository(name=self._config, revision=revision, access=self._access)
            file = repository.file(INDEX_FILE)
        if file is None:
            raise ModelNotFoundError(
                f"The configuration {self._config!r} of the checkpoint {self.model!r} cannot be had from the hub: pass "
                "config=, the folder of a pipeline of the same kind."
            )
        index = read_index(file)
        found = pipeline_class(self._config, index)
        if found is None or not hasattr(found, "from_single_file"):
            raise ConfigError(
                f"Diffusers cannot load a {index['_class_name']} from a single file such as {self.model!r}: use the "
                "folder or hub id of the pipeline."
            )
        check_names(self.options, SINGLE_FILE, components_of(found, index))
        check_components(self.options, {name for name, value in index.items() if isinstance(value, list)})
        return found


def _is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))
