"""Settings of the demo: models, detectors and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from refiner.errors import ConfigError
from refiner.hub import micro_parts, resolve
from refiner.machine import Machine

BUNDLED: Final = "micro"
"""Id of the bundled models."""
Choices = Mapping[str, str]
"""Label -> id. Visitors see the labels. Ids may be paths or addresses, and the server never shows them."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may visit the demo, and where a reverse proxy serves it."""

    logins: tuple[tuple[str, str], ...] = ()
    """Name and password of each visitor who is let in; empty: everybody is."""
    root_path: str | None = None
    """The path in the visitors' addresses that the proxy removes; None: there is no such path."""

    @classmethod
    def parse(cls, logins: Sequence[str], root_path: str | None) -> Access:
        """Read the arguments of ``refiner demo``.

        Args:
            logins: ``NAME:PASSWORD`` each, or ``@FILE`` with such a line for each visitor.
            root_path: such as ``/refiner``.

        Raises:
            ConfigError: a login without a name or a password, a path that does not begin with a slash, or a file that
                cannot be read. The message holds no password.
        """
        if root_path is not None and not _ROOT_PATH.fullmatch(root_path):
            raise ConfigError(
                f"Expected a root path that begins with a slash, got {root_path!r}: write it as /refiner."
            )
        lines = [line for text in logins for line in (_lines_of(text[1:]) if text.startswith("@") else [text])]
        return cls(logins=tuple(_login(line) for line in lines), root_path=root_path and root_path.rstrip("/"))


_ROOT_PATH: Final = re.compile(r"/[\w/.~-]+")


def _lines_of(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file of logins {file!r} cannot be read ({error}): name a text file.") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"The file of logins {file!r} is empty: write a line NAME:PASSWORD for each visitor.")
    return found


def _login(line: str) -> tuple[str, str]:
    name, colon, password = line.strip().partition(":")
    if not (name and colon and password):
        raise ConfigError("Expected a login NAME:PASSWORD, got one without a name or a password: write both.")
    return name, password


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Models, detectors and limits of a demo.

    Raises:
        ConfigError: no model or detector, or a limit below 1.
    """

    models: Choices  # pipelines to choose from
    detectors: Choices  # detectors to choose from
    machine: Machine = field(default_factory=Machine.choose)  # device, dtype and offload of the models
    running: int = 2  # jobs at a time; they use the models in turn, one attempt each
    waiting: int = 16  # jobs that may wait; further ones are refused
    max_rounds: int = 6  # rounds of a refinement
    max_prompt: int = 1000  # characters of a prompt
    max_file_bytes: int = 16 * 2**20  # bytes of an uploaded file
    max_request_bytes: int = 256 * 2**20  # bytes of all files in one upload
    max_pixels: int = 24_000_000  # pixels of an uploaded image before it is scaled down
    max_side: int = 2048  # longer side of an image in pixels; larger uploads are scaled down to it
    max_prompts: int = 24  # prompts of a ranking
    keep_seconds: int = 3600  # seconds that uploads and results stay on the disk

    def __post_init__(self) -> None:
        if not self.models or not self.detectors:
            raise ConfigError("The demo needs at least one model and one detector, got none: name one of each.")
        limits = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        for name, value in limits.items():
            if value < 1:
                raise ConfigError(f"Expected DemoSettings.{name} of at least 1, got {value}: name a larger one.")


def labelled(ids: Sequence[str]) -> Choices:
    """Make a label for each id: folders without their path, models behind an endpoint without its address.

    Equal labels get numbers: "model", "model (2)". Repeated ids are dropped.
    """
    found: dict[str, str] = {}
    for id_ in dict.fromkeys(ids):
        family, colon, rest = id_.partition(":")
        plain = id_.partition("@http")[0]
        if Path(id_).expanduser().is_dir():
            plain = Path(id_).expanduser().resolve().name
        elif colon and Path(rest).expanduser().is_dir():
            plain = f"{family}:{Path(rest).expanduser().resolve().name}"
        label, number = plain, 1
        while label in found:
            number += 1
            label = f"{plain} ({number})"
        found[label] = id_
    return found


def bundled_detectors() -> list[str]:
    """The ids of the detectors that come with the package, that of ``micro`` first."""
    from refiner.detectors.registry import families

    first = f"micro:{resolve('micro', 'detector').name}"
    found = [part for part in micro_parts() if part.removeprefix("micro:") in families()]
    return sorted(found, key=lambda part: part != first)


def usual_detectors() -> list[str]:
    """The bundled detectors, and that of lettering if it is installed."""
    from refiner.detectors.text.reader import is_installed

    return [*bundled_detectors(), *(["text"] if is_installed() else [])]
