"""A cache on disk for the answers of chat models, so that no answer is paid for twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refiner.detectors.chat.wire import Answered
from refiner.errors import OutputError
from refiner.files import atomic_write, check_writable

_LOG = logging.getLogger(__name__)
_VERSION = 1


def cache_key(question: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of everything that an answer depends on, given as plain JSON values."""
    text = json.dumps({"version": _VERSION, **question}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """A folder with one small file for each answer; several processes may share it.

    Args:
        folder: created if it does not exist.

    Raises:
        OutputError: the folder cannot be created or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_writable(folder)

    def get(self, key: str) -> Answered | None:
        """Return the answer stored under a key; None if there is none, or if its file is damaged."""
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
            answer = entry["answer"]
            if entry["key"] != key or entry["sha256"] != _checksum(answer):
                return None
            shares = answer.get("probabilities")
            return Answered(**{**answer, "probabilities": None if shares is None else tuple(shares)})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, key: str, answer: Answered) -> None:
        """Store an answer; if the disk is full, only a warning is logged."""
        fields = {name: value for name, value in answer._asdict().items() if value is not None}
        file = self._file(key)
        try:
            file.parent.mkdir(exist_ok=True)
            atomic_write(file, json.dumps({"key": key, "answer": fields, "sha256": _checksum(fields)}))
        except (OSError, OutputError) as error:
            _LOG.warning("an answer could not be stored in the cache: %s", error)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _checksum(answer: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()
