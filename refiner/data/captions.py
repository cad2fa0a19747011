"""The format of SynthScars' captions, in which LEGION answers (LEGION, sections 3 and 5.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from refiner.types import Analysis, Region

OPENING: Final = "Upon examining the image. I have found:"
"""The beginning of every caption; a sentence about the whole image follows."""
LISTING: Final = "To elaborate, I have found the following artifacts."
"""What stands before the list of the flaws, if there are any."""
_MARKS: Final = re.compile(r"</?p>|\[SEG\]|</?s>|<unk>|<pad>|<im_start>|<im_end>")


def caption_of(analysis: Analysis) -> str:
    """What a detector says about an image, in the format of SynthScars' captions.

    An answer that is written in this format is taken as it is, without the tokens for phrases and masks. All others are
    converted: LEGION's paper does so too, but does not say how.
    """
    said = " ".join(_MARKS.sub(" ", analysis.raw).split())
    return said if said.startswith(OPENING) else _composed(analysis.regions)


def _composed(regions: Sequence[Region]) -> str:
    if not regions:
        return f"{OPENING} no artifacts."
    items = " ".join(f"{region.name}:{_sentence(region)}" for region in regions)
    return f"{OPENING} {len(regions)} artifact{'s' if len(regions) > 1 else ''}.\n{LISTING} {items}"


def _sentence(region: Region) -> str:
    told = [text.strip().rstrip(".") for text in (region.explanation, region.reasoning)]
    return f"{', because '.join(filter(None, told))}."
