"""Judgements of people about candidates, in a file that several of them may write at the same time.

``judgements.jsonl`` has a line for each judgement: ``candidate`` (its id), ``annotator`` (a name), ``answer``
(``ACCEPT``, ``REJECT`` or ``UNSURE``; null takes an earlier judgement back) and ``time``. Of several lines of one
annotator about one candidate, the last one counts. A line that is not such JSON counts nothing, whatever it holds; so a
line that was cut off when a process was killed costs this judgement and no other.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from refiner.errors import InputError
from refiner.files import append_line, dumps

JUDGEMENTS_FILE: Final = "judgements.jsonl"
LONGEST_NAME: Final = 60
"""Most characters of an annotator's name."""
_LONGEST_LINE: Final = 4096
"""Most bytes of a line; a longer one counts nothing, and is not read into memory."""


class Answer(StrEnum):
    """What an annotator says to "Is this description correct for this image?" (AnomReason, section 3)."""

    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    UNSURE = "UNSURE"


class _Line(NamedTuple):
    candidate: str
    annotator: str
    answer: Answer | None


def annotator_name(text: str) -> str:
    """The name of an annotator, without blanks around it.

    Raises:
        InputError: it is empty, longer than ``LONGEST_NAME``, or has letters that cannot be printed.
    """
    name = " ".join(text.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"Expected the name of an annotator, 1 to {LONGEST_NAME} printable characters, got {text[:80]!r}: choose "
            "another."
        )
    return name


class Judgements:
    """The judgements in a folder. Those of other processes are seen at the next ``refresh``.

    Args:
        folder: of the file; the file is made by the first judgement.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JUDGEMENTS_FILE
        self._lock = threading.RLock()
        self._read, self._unreadable = 0, 0
        self._answers: dict[str, dict[str, Answer]] = {}
        self.refresh()

    def annotators(self) -> tuple[str, ...]:
        """The names of all who have judged, sorted."""
        with self._lock:
            return tuple(sorted(name for name, answers in self._answers.items() if answers))

    def of(self, annotator: str) -> dict[str, Answer]:
        """What an annotator says, by candidate, the latest judgement last."""
        with self._lock:
            return dict(self._answers.get(annotator, {}))

    def about(self, candidate: str) -> dict[str, Answer]:
        """What the annotators say about a candidate, by their names in order."""
        with self._lock:
            found = {name: answers.get(candidate) for name, answers in sorted(self._answers.items())}
        return {name: answer for name, answer in found.items() if answer is not None}

    def last(self, annotator: str) -> str | None:
        """The candidate that an annotator judged last; None if there is none."""
        with self._lock:
            return next(reversed(self._answers.get(annotator, {})), None)

    def add(self, candidate: str, annotator: str, answer: Answer | None) -> None:
        """Write a judgement, or take one back with None; it is on the disk when this returns.

        Raises:
            OutputError: it cannot be written.
        """
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"candidate": candidate, "annotator": annotator, "answer": answer, "time": time}
        append_line(self.path, dumps(line, indent=None))
        self.refresh()

    @property
    def unreadable(self) -> int:
        """Number of lines that count nothing."""
        return self._unreadable

    def refresh(self) -> None:
        """Read the lines that were written since the last time.

        Raises:
            InputError: the file cannot be read.
        """
        with self._lock:
            try:
                if not self.path.exists():
                    return
                with self.path.open("rb") as file:
                    if file.seek(0, 2) < self._read:  # another file took its place
                        self._read, self._unreadable, self._answers = 0, 0, {}
                    self._follow(file)
            except OSError as error:
                raise InputError(f"Cannot read {str(self.path)!r} ({error}): check the file.") from error

    def _follow(self, file: BinaryIO) -> None:
        file.seek(self._read)
        while line := file.readline(_LONGEST_LINE):
            whole, length = line.endswith(b"\n"), len(line)
            found = _parsed(line)
            if not whole and found is None:
                if length < _LONGEST_LINE:
                    return  # still being written, or cut off
                while rest := file.readline(_LONGEST_LINE):
                    length += len(rest)
                    if rest.endswith(b"\n"):
                        break
                else:
                    return
            self._read += length
            self._take(found, blank=not line.strip())

    def _take(self, line: _Line | None, *, blank: bool) -> None:
        if line is None:
            self._unreadable += not blank
            return
        answers = self._answers.setdefault(line.annotator, {})
        answers.pop(line.candidate, None)
        if line.answer is not None:
            answers[line.candidate] = line.answer


def _parsed(line: bytes) -> _Line | None:
    """The judgement of a line; None if it is none."""
    try:
        found = json.loads(line)
        candidate, annotator, answer = found["candidate"], found["annotator"], found["answer"]
        if not isinstance(candidate, str) or annotator_name(annotator) != annotator:
            return None
        return _Line(candidate, annotator, None if answer is None else Answer(answer))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # an InputError is a ValueError
        return None


def is_accepted(answers: Mapping[str, Answer]) -> bool:
    """Whether more than half of the judgements about a candidate accept it. UNSURE counts as one that does not."""
    return 2 * Counter(answers.values())[Answer.ACCEPT] > len(answers)
