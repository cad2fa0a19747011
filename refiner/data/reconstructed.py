"""Real images and what an autoencoder makes of each, as the pixel branch of AlignGemini is trained on them.

``FOLDER/0_real`` holds the images, and ``FOLDER/1_fake`` the reconstructions under the same names; a suffix may differ.
Folders may stand above both (``FOLDER/VAE/0_real``) or in both (``0_real/cats/1.jpg`` and ``1_fake/cats/1.png``). The
layout is ours. Other data sets have the same folders with names that mean nothing; they are ``universalfake:``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.data.verdicts import VerdictFolders, folders_of


class ReconstructedData(VerdictFolders):
    """Pairs of a real image and its reconstruction; the pair is their common path without suffix and verdict.

    An image without a partner is counted as ``missing_pair``, and several images of one kind and name as
    ``duplicate_basename``; all of these are kept without a pair.
    """

    def __init__(self, folder: str, *, split: str | None = None) -> None:
        super().__init__(folder, split=split)
        counts = Counter((self._common(name), self._fake(name)) for name in self.names)
        self._alone: set[str] = set()
        for name in self.names:
            common, fake = self._common(name), self._fake(name)
            if counts[common, fake] > 1:
                self._note("duplicate_basename", name, "another image has the same name, so neither is paired")
            elif counts[common, not fake] != 1:
                self._note("missing_pair", name, f"no one {'real' if fake else 'reconstructed'} image has its name")

    def _note(self, kind: str, name: str, detail: str) -> None:
        self._alone.add(name)
        self.problems.append(Problem(kind, str(self.root), name, detail))

    def _common(self, name: str) -> str:
        folders = [part for part in folders_of(name) if part not in self.labels]
        return same("/".join((*folders, PurePosixPath(name).stem)))

    def _pair(self, name: str) -> str:
        return "" if name in self._alone else self._common(name)
