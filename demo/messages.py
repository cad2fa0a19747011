"""What strangers may read of an error: no paths, no keys, no addresses of machines inside."""

from __future__ import annotations

import logging
import os
import re
import secrets
from typing import Final

from refiner.errors import RefinerError

_LOG: Final = logging.getLogger(__name__)
_LONGEST: Final = 600
"""Letters of a message."""
_SECRET_NAMES: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET: Final = 6
"""Letters; the values of shorter variables are words of other uses."""
_SECRET_SHAPES: Final = re.compile(
    r"\b(?:sk|pk|hf|gh[pousr]|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{12,}|\bBearer\s+\S+|\beyJ[\w-]+\.[\w-]+\.[\w-]+"
)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.IGNORECASE)
_PATH: Final = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\](?:[^\s'\"<>:,;/\\]+[/\\])+([^\s'\"<>:,;/\\]*)")


def public_text(text: str) -> str:
    """A text without what is none of a stranger's business: of paths the last part is left, of keys and addresses none.

    Args:
        text: of a model, a library or ourselves.
    """
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "[key]")
    text = _SECRET_SHAPES.sub("[key]", text)
    text = _URL.sub("[address]", text)
    text = _PATH.sub(lambda found: found[1] or "[folder]", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def public_message(error: BaseException) -> str:
    """What a stranger is told of an error: ours in their words, of others a number to look up in the log."""
    if isinstance(error, RefinerError):
        return public_text(str(error))
    number = secrets.token_hex(4)
    _LOG.error("error %s", number, exc_info=error)
    return f"Something broke on the server; its log knows more under {number}. Try again, or with other settings."
