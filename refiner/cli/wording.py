"""Error messages name the arguments of Python; on the command line they name its options."""

from __future__ import annotations

import re
from collections.abc import Collection

_RENAMED = {"max_rounds": "rounds", "max_denoiser_rows": "max_rows"}
"""Arguments whose options have another name."""
_ARGUMENT = re.compile(r"(?<![\w.,=\"'])(?:RefineConfig\.(?P<setting>\w+)|(?P<name>[a-z]\w*)=(?P<value>['\"]?\w?))")


def in_option_words(message: str, options: Collection[str]) -> str:
    """Write the arguments that a message names, such as ``detector=``, as options, such as ``--detector``.

    Args:
        message: for people.
        options: names of the sub-command's options, with underscores. All other arguments stay as they are.
    """

    def written(found: re.Match[str]) -> str:
        argument = found["setting"] or found["name"]
        option = _RENAMED.get(argument, argument)
        if option not in options:
            return found[0]
        value = f" {found['value']}" if found["value"] else ""
        return f"--{option.replace('_', '-')}{value}"

    return _ARGUMENT.sub(written, message)
