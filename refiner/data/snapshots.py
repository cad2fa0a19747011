"""Data sets of the Hugging Face hub: the folder of a snapshot in the cache, downloaded unless it is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os.path import exists
from pathlib import Path
from typing import Final

from refiner.errors import InputError, ModelNotFoundError
from refiner.repository import Repository

_ID: Final = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def find_folder(place: str, patterns: Sequence[str]) -> Path:
    """The folder of a data set.

    Args:
        place: a folder, or ``owner/name`` with an optional ``@revision`` for a data set on the hub.
        patterns: of the files on the hub that are needed; the others are not downloaded.

    Returns:
        The folder of the snapshot, or the place as it is.

    Raises:
        InputError: the files cannot be had from the hub, or it has none of them.
    """
    match = None if exists(place) else _ID.fullmatch(place)
    if match is None:
        return Path(place)
    try:
        folder = Repository(name=match["name"], revision=match["revision"], kind="dataset").folder(patterns)
    except ModelNotFoundError as error:
        raise InputError(f"There is no folder {place!r}. {error}") from error
    if not folder.is_dir():
        raise InputError(
            f"Expected files {' or '.join(patterns)} in the data set {place!r} of the hub, got none: check the id and "
            "the split."
        )
    return folder
