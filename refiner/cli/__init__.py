"""The command line: one file for each sub-command."""

from refiner.cli.main import main

__all__ = ["main"]
