"""The lowest versions that ``pyproject.toml`` allows, an exact pin a line: ``python tests/support/lowest.py EXTRA...``.

The pins cover the dependencies of the package and of the named extras. pip reads them as constraints.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?>=(?P<version>[\w.]+)")


def pins(extras: list[str]) -> list[str]:
    """``NAME==VERSION`` for each requirement, with its lower bound as the version."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = []
    for line in wanted:
        if not (bound := BOUND.match(line)):
            raise ValueError(f"{line!r} in {PROJECT.name} has no lower bound; write NAME>=VERSION.")
        found.append(f"{bound['name']}=={bound['version']}")
    return found


if __name__ == "__main__":
    print("\n".join(pins(sys.argv[1:])))
