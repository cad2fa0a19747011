"""A repository of the Hugging Face hub at one revision: which files it has, and how they are downloaded."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from refiner.errors import ModelNotFoundError

UNUSED_FORMATS = ["*.onnx", "*.onnx_data", "*.pb", "*.msgpack", "*.h5", "*.tflite", "*.ot", "openvino_*", "flax_*"]
"""Weights in formats that neither transformers nor diffusers loads here."""
_OF_THE_DISK = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM)
_WORDS = {"model": "model", "dataset": "data set"}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A model or data set on the hub; nothing is downloaded before a method is called."""

    name: str
    """Owner and model, such as ``stabilityai/sdxl-turbo``."""
    revision: str | None = None
    """Branch, tag or commit; None: ``main``."""
    access: Mapping[str, Any] = field(default_factory=dict)
    """``token``, ``cache_dir``, ``local_files_only`` and ``force_download``, as for ``hf_hub_download``."""
    kind: Literal["model", "dataset"] = "model"

    @cached_property
    def files(self) -> frozenset[str] | None:
        """The paths of all files; None if the hub cannot be asked, or must not be (``local_files_only``).

        Raises:
            ModelNotFoundError: the hub says that there is no such model or revision, or refuses the access.
        """
        from huggingface_hub import dataset_info, errors, model_info

        if self.access.get("local_files_only"):
            return None
        try:
            ask = model_info if self.kind == "model" else dataset_info
            info = ask(self.name, revision=self.revision, token=self.access.get("token"))
        except (OSError, errors.HTTPError) as error:
            if self._refusal(error) is None:
                return None
            raise self.unavailable(error) from error
        return frozenset(file.rfilename for file in info.siblings or ())

    def file(self, path: str) -> Path | None:
        """Download one file, unless it is cached; None if there is none, or if it is not cached and cannot be had.

        If the hub did not answer before, it is not asked again: only the cache is searched, as diffusers does.

        Raises:
            ModelNotFoundError: as for ``files``; or the file cannot be stored.
        """
        from huggingface_hub import errors, hf_hub_download

        cached = {} if self.files is not None else {"local_files_only": True, "force_download": False}
        try:
            access = {**self.access, **cached}
            return Path(hf_hub_download(self.name, path, repo_type=self.kind, revision=self.revision, **access))
        except errors.EntryNotFoundError:
            return None
        except (OSError, ValueError, errors.HTTPError) as error:
            raise self.unavailable(error) from error

    def folder(self, patterns: Sequence[str] | None = None) -> Path:
        """Download the files whose paths match one of the patterns, unless they are cached; None: all files.

        Returns:
            The folder of the whole repository in the cache.

        Raises:
            ModelNotFoundError: the files cannot be had.
        """
        from huggingface_hub import errors, snapshot_download

        allowed = None if patterns is None else list(patterns)
        try:
            return Path(
                snapshot_download(
                    self.name,
                    repo_type=self.kind,
                    revision=self.revision,
                    allow_patterns=allowed,
                    ignore_patterns=UNUSED_FORMATS,
                    **self.access,
                )
            )
        except (OSError, ValueError, errors.HTTPError) as error:
            raise self.unavailable(error) from error

    def unavailable(self, error: BaseException | None = None) -> ModelNotFoundError:
        """Make the error that says why files of this repository cannot be had; None: the hub cannot be reached."""
        absent = "not all of it is cached" if self.access.get("local_files_only") else None
        reason = self._refusal(error) or absent or "the hub cannot be reached and nothing is cached"
        instead = "a folder or a bundled model" if self.kind == "model" else "a folder"
        return ModelNotFoundError(
            f"Cannot download the {_WORDS[self.kind]} {self.name!r}, because {reason}: check the id, the token and the "
            f"network, or use {instead}."
        )

    def _refusal(self, error: BaseException | None) -> str | None:
        """Say why the answer of the hub or of the disk is final; None if trying again, or the cache, may help."""
        from huggingface_hub import errors

        status = getattr(getattr(error, "response", None), "status_code", None)
        reasons = {
            errors.GatedRepoError: "its licence must be accepted on the hub first",
            errors.RevisionNotFoundError: f"the hub has no revision {self.revision!r} of it",
            errors.RepositoryNotFoundError: f"the hub has no such {_WORDS[self.kind]}, or it is private",
        }
        for kind, reason in reasons.items():
            if isinstance(error, kind):
                return reason
        if status in (401, 403):
            return "the hub refuses access with this token"
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return f"it cannot be stored ({error.strerror})"
        return None
