"""Answers of chat models on disk: each is paid for once."""

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
    """SHA-256 over everything that decides an answer, given as plain JSON values."""
    text = json.dumps({"version": _VERSION, **question}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """A folder with one small file for each answer; several processes may share it.

    Args:
        folder: made where it is missing.

    Raises:
        OutputError: it cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = check_writable(folder)

    def get(self, key: str) -> Answered | None:
        """The answer kept under a key; None where there is none, or where the file is damaged."""
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
            answer = entry["answer"]
            if entry["key"] != key or entry["sha256"] != _checksum(answer):
                return None
            return Answered(**answer)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, key: str, answer: Answered) -> None:
        """Keep an answer; a disk that is full costs the cache, not the answer."""
        fields = answer._asdict()
        file = self._file(key)
        try:
            file.parent.mkdir(exist_ok=True)
            atomic_write(file, json.dumps({"key": key, "answer": fields, "sha256": _checksum(fields)}))
        except (OSError, OutputError) as error:
            _LOG.warning("an answer could not be kept in the cache: %s", error)

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _checksum(answer: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()
