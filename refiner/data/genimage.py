"""GenImage: images of ImageNet's classes from eight generators, and ImageNet's own (Zhu et al., NeurIPS 2023).

Read in the official README: ``FOLDER/GENERATOR/train/ai``, ``train/nature``, ``val/ai`` and ``val/nature``, where
``ai`` are the generated images and ``nature`` those of ImageNet. Archives unpack to a folder of their own in between,
such as ``ADM/imagenet_ai_0508_adm/train/ai``, or hold it alone, as read in the official lists of damaged files; both
are read. A folder without splits is accepted as well, which is our guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from refiner.data.verdicts import VerdictFolders


class GenimageData(VerdictFolders):
    """GenImage as a data set; the group is the generator, also of the images of ImageNet beside its own."""

    labels: ClassVar[Mapping[str, bool]] = MappingProxyType({"nature": False, "ai": True})
