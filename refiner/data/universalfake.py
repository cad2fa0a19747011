"""Folders of generated and real images, as CNNSpot, ProGAN's training set and UniversalFakeDetect have them.

``FOLDER/GENERATOR/0_real`` and ``FOLDER/GENERATOR/1_fake`` hold the images, or ``FOLDER/GENERATOR/CLASS/0_real`` and so
on. A folder ``train``, ``val`` or ``test`` may stand anywhere above. Nothing says what is wrong in an image.
"""

from __future__ import annotations

from refiner.data.verdicts import VerdictFolders


class UniversalfakeData(VerdictFolders):
    """Images with a verdict each; the group is the generator, also of the real images that it is compared with."""
