"""Make error messages safe for visitors: no paths, keys or addresses of the server."""

from __future__ import annotations

import logging
import os
import re
import secrets
from typing import Final

from refiner.errors import OutOfDomainError, RefinerError

_LOG: Final = logging.getLogger(__name__)
_LONGEST: Final = 600
"""Most characters of a message."""
_SECRET_NAMES: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET: Final = 6
"""Characters. Shorter values of environment variables are often ordinary words, so they are not removed."""
_SECRET_SHAPES: Final = re.compile(
    r"\b(?:sk|pk|hf|gh[pousr]|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{12,}|\bBearer\s+\S+|\beyJ[\w-]+\.[\w-]+\.[\w-]+"
)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.IGNORECASE)
_PATH: Final = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"<>:,;/\\]+[/\\])+([^\s'\"<>:,;/\\]*)")

_FOR_PROGRAMS: Final = re.compile(
    r"(?<![\w-])--\w|\w[(=]|[a-z]_[a-z]|\b(?:refiner|pip) [a-z]|\b(?:pass|install|path|folder|Python|dtype|device)\b"
)
"""What advice for a command line or for Python has: options, calls, arguments, files of the server."""


def public_text(text: str) -> str:
    """Remove keys and addresses from a text, and all but the last part of each path; cut it to 600 characters.

    Args:
        text: a message of a model, a library or refiner.
    """
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "[key]")
    text = _SECRET_SHAPES.sub("[key]", text)
    text = _URL.sub("[address]", text)
    text = _PATH.sub(lambda found: found[1] or "[folder]", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def for_browsers(text: str) -> str:
    """A message without the advice at its end, if a visitor of the page could not follow that.

    Args:
        text: a sentence that says what is wrong, a colon, and what to do.
    """
    wrong, colon, advice = text.rpartition(": ")
    return f"{wrong}." if colon and _FOR_PROGRAMS.search(advice) else text


def public_message(error: BaseException) -> str:
    """The message that a visitor sees.

    An error of refiner keeps its message, but for advice that needs a command line or Python. Any other error is logged
    under a number, and the visitor sees the number.
    """
    if isinstance(error, OutOfDomainError):
        return f"{public_text(str(error)).rpartition(': ')[0]}: choose one of the example images."
    if isinstance(error, RefinerError):
        return for_browsers(public_text(str(error)))
    number = secrets.token_hex(4)
    _LOG.error("error %s", number, exc_info=error)
    return f"An internal error occurred; the server's log describes it under {number}. Try again, or change a setting."
