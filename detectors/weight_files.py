"""Find the single weight file of a detector: named itself, or by the folder or hub id that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.errors import ModelNotFoundError
from refiner.hub import locate
from refiner.repository import Repository

if TYPE_CHECKING:
    from refiner.detectors.family import Needs


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What the file is, for messages, and how it is named in a folder."""

    what: str
    """Such as "PAL4VST's TorchScript file"."""
    patterns: tuple[str, ...]
    """A folder, with its sub-folders, must hold exactly one file of these names."""
    published: str = ""
    """A file of this name is preferred."""

    def find(self, model: str) -> Path:
        """Find the file; a hub model is downloaded first, unless it is cached.

        Args:
            model: a file, or a folder or hub id.

        Raises:
            ModelNotFoundError: there is no such file, or several.
        """
        found = self._located(model)
        return self._only(found.folder(self.patterns) if isinstance(found, Repository) else found)

    def needs(self, model: str) -> Needs:
        """List the file or hub model that ``find`` reads; raises its errors that are known before a download."""
        found = self._located(model)
        return [found if isinstance(found, Repository) else self._only(found)]

    def _located(self, model: str) -> Path | Repository:
        path = Path(model).expanduser()
        if model.strip() and path.is_file():
            return path
        try:
            return locate(model, "detector")
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"Expected {self.what}, or a folder or hub id that holds it, got {model!r}: check the path."
            ) from error

    def _only(self, place: Path) -> Path:
        if place.is_file():
            return place
        files = sorted(place.rglob(self.published)) if self.published else []
        files = files or sorted({path for pattern in self.patterns for path in place.rglob(pattern)})
        if len(files) != 1:
            names = ", ".join(path.relative_to(place).as_posix() for path in files[:5]) or "none"
            raise ModelNotFoundError(
                f"Expected {self.what} ({', '.join(self.patterns)}) in {str(place)!r}, got {names}: name the file."
            )
        return files[0]
