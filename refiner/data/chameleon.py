"""Chameleon: generated images that people took for real ones, and real images (AIDE, arXiv 2406.19435).

Read in code that evaluates on it: ``FOLDER/test/0_real`` and ``FOLDER/test/1_fake``, or these two folders alone. The
generators are unknown.
"""

from __future__ import annotations

from refiner.data.verdicts import VerdictFolders


class ChameleonData(VerdictFolders):
    """Chameleon as a data set, without groups."""

    def _group(self, name: str) -> str:
        return ""
