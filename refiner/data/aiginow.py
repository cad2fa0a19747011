"""AIGI-Now: images of recent generators that are wrong in meaning or in pixels (AlignGemini, arXiv 2512.06746).

Read in code that uses the data set Gaffeyzz/AIGI-Now: its archives hold images in ``0_real`` and ``1_fake``, and its
parts are called after generator and kind, such as ``gpt4o/pixel`` and ``flux-dev/semantic``. Our guess is that both
are folders above the verdict, ``FOLDER/GENERATOR/semantic/1_fake``; their order makes no difference. The archives
(``*.tar``) must be unpacked.
"""

from __future__ import annotations

from typing import Final

from refiner.data.verdicts import SPLITS, VerdictFolders
from refiner.errors import ConfigError, InputError

KINDS: Final = ("semantic", "pixel")
"""What is wrong with the generated images: what they show, or traces in their pixels."""


class AiginowData(VerdictFolders):
    """AIGI-Now as a data set; the group is generator and kind, such as ``gpt4o/pixel``.

    Args:
        folder: the root.
        kind: one of ``KINDS``: only its images; None for all.

    Raises:
        InputError: there is no such folder, or no image of the kind.
        ConfigError: there is no such kind.
    """

    def __init__(self, folder: str, *, kind: str | None = None) -> None:
        if kind is not None and kind not in KINDS:
            raise ConfigError(f"Expected {' or '.join(KINDS)} as kind, got {kind!r:.60}: use one of these.")
        super().__init__(folder)
        if not self.names and next(self.root.rglob("*.tar"), None):
            raise InputError(f"Expected images in {folder!r}, got archives: unpack the files *.tar there.")
        if kind is not None:
            self.names = tuple(name for name in self.names if kind in self._above(name))
            if not self.names:
                raise InputError(
                    f"Expected images in folders {kind!r} of {folder!r}, got none: check the path, or name no kind."
                )

    def _group(self, name: str) -> str:
        above = [part for part in self._above(name) if part not in SPLITS]
        kinds = [part for part in above if part in KINDS]
        return "/".join([*(part for part in above if part not in KINDS), *kinds]) or super()._group(name)
