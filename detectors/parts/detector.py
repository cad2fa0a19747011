"""A detector of parts that are always regenerated: hands, faces, text, or other parts given by words.

ADetailer and similar tools work this way. An open-vocabulary detector finds the parts, but not what is wrong with them.
A low confidence suggests a misshapen part. So the severity is one minus the confidence, and the refinement loop keeps a
regenerated part if it is easier to recognise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from refiner.claims import region_of
from refiner.detectors.base import BaseDetector
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.grounding.base import Grounder, Segment
from refiner.detectors.grounding.text import Located, Locator, TextLocator, clean_phrase
from refiner.errors import ConfigError
from refiner.hub import locate
from refiner.protocols import Movable
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Region, Size

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

DEFAULT_MODEL = "IDEA-Research/grounding-dino-tiny"
DEFAULT_GROUNDER = "box"
"""The filled box, as for most models of ADetailer."""
REASONING = "This part is repainted as a matter of course: it was found, not examined."
_TEXT = frozenset({"text", "sign", "letter", "word", "lettering", "logo", "label", "caption"})


class PartsDetector(BaseDetector):
    """Finds parts by their names; a ``refiner.protocols.Detector``.

    Each region is one part. ``reasoning`` says that the part was only found and not examined. ``explanation`` is empty,
    so that it adds nothing to a negative prompt. ``severity`` is one minus the locator's confidence, and ``score`` is
    1. The category is ``text`` for parts with writing, else ``anatomy``. ``fake_probability`` is None. The user's
    prompt is not used.

    Args:
        locator: finds boxes for words.
        grounder: makes masks from boxes.
        parts: names of the parts, such as ``("hand", "face", "text")``.

    Raises:
        ConfigError: no part is named.
    """

    def __init__(self, locator: Locator, grounder: Grounder, parts: Sequence[str]) -> None:
        self.locator, self.grounder = locator, grounder
        self.parts = tuple(dict.fromkeys(filter(None, map(clean_phrase, parts))))
        if not self.parts:
            raise ConfigError(f"Expected the names of parts, such as hand,face, got {list(parts)!r}: name one.")
        super().__init__(name=f"parts:{','.join(self.parts)}@{locator.name}, masks by {grounder.name}")

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        return [self._analysis(image) for image in images]

    def _analysis(self, image: Image.Image) -> Analysis:
        found = self.locator.locate(image, self.parts)
        segments = self.grounder.segment(image, boxes=[place.box for place in found]) if found else []
        size = Size(image.height, image.width)
        pairs = list(zip(found, segments, strict=True))
        told = "; ".join(f"{place.phrase} {place.score:.2f} (mask by {made.source})" for place, made in pairs)
        regions = tuple(_region(place, made, size) for place, made in pairs)
        return Analysis(size=size, regions=regions, tags=("parts",), raw=told, detector=self.name)

    def to(self, device: str | torch.device) -> PartsDetector:
        """Move the networks."""
        for part in (self.locator, self.grounder):
            if isinstance(part, Movable):
                part.to(device)
        return self


def load_parts(
    rest: str,
    *,
    grounder: str | Path = DEFAULT_GROUNDER,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> PartsDetector:
    """Load a ``PartsDetector`` by the part of its id after ``parts:``.

    Args:
        rest: names of parts, separated by commas, then optionally ``@`` and a folder or hub id of a locator, such as
            ``hand,face@google/owlv2-base-patch16-ensemble``.
        grounder: id for ``load_grounder``.
        device, dtype: as for ``load_detector``.

    Raises:
        ConfigError: no part is named.
        RefinerError: the errors of ``TextLocator.from_pretrained`` and ``load_grounder``.
    """
    parts, model = _split(rest)
    locator = TextLocator.from_pretrained(model, device=device, dtype=dtype)
    return PartsDetector(locator, load_grounder(grounder, device=device, dtype=dtype), parts)


def parts_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_parts`` reads; raises its errors that are known before a download."""
    return [
        locate(_split(model.model)[1], "detector"),
        *grounder_needs(model.options.get("grounder", DEFAULT_GROUNDER)),
    ]


def _split(rest: str) -> tuple[list[str], str]:
    """Split the part of an id after ``parts:`` into the names of the parts and the locator."""
    names, _, model = rest.partition("@")
    parts = names.split(",")
    if not any(map(clean_phrase, parts)):
        raise ConfigError(f"Expected the names of parts, such as parts:hand,face, got 'parts:{rest}': name one.")
    return parts, model or DEFAULT_MODEL


def _region(place: Located, segment: Segment, size: Size) -> Region:
    words = {word.removesuffix("s") for word in place.phrase.split()}
    claim = Claim(
        name=f"the {place.phrase}",
        reasoning=REASONING,
        category=Category.TEXT if words & _TEXT else Category.ANATOMY,
        severity=round(1 - place.score, 6),
        box=place.box,
    )
    return region_of(claim, segment.mask, size)
