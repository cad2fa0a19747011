"""One tree of flaw categories, with maps to the vocabularies of the papers.

Below the root are LEGION's three kinds (SynthScars, section 3.2). Below each kind are the finer causes that LEGION's
instruction lists. Every leaf also belongs to exactly one of X-AIGD's seven categories (section "Three-level
Seven-category Perceptual Artifact Taxonomy"). LEGION has no kind for common sense. We put it under physics, where
LEGION lists spatial errors and impossible relations.

One leaf is in neither vocabulary: misalignment, where the image does not show what its prompt asks for (SDG, arXiv
2606.06113, Appendix A.2). Such a region may look perfectly real. So the metrics of the other papers leave it out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class LegionKind(StrEnum):
    """The three artifact kinds of LEGION / SynthScars."""

    PHYSICS = "physics"
    STRUCTURE = "structure"
    DISTORTION = "distortion"


class XaigdCategory(StrEnum):
    """The seven categories of X-AIGD, spelled as in its dataset."""

    EDGE_SHAPE = "low-level-edge_shape"
    TEXTURE = "low-level-texture"
    COLOR = "low-level-color"
    SYMBOL = "low-level-symbol"
    SEMANTICS = "high-level-semantics"
    COMMONSENSE = "cognitive-level-commonsense"
    PHYSICS = "cognitive-level-physics"

    @property
    def level(self) -> str:
        """``low-level``, ``high-level`` or ``cognitive-level``."""
        return "-".join(self.value.split("-")[:2])


class Category(StrEnum):
    """A leaf of the tree: the kind of flaw in a region."""

    ANATOMY = "anatomy"
    """An object with missing, extra or misplaced parts."""
    SHAPE = "shape"
    """Broken outlines: jagged, melted or cut edges."""
    TEXT = "text"
    """Garbled letters, digits or signs."""
    COLOR = "color"
    """A wrong or bleeding colour."""
    TEXTURE = "texture"
    """A surface pattern that does not fit the object, or a wrong material."""
    NOISE_BLUR = "noise_blur"
    """Noise or blur in one patch of the image."""
    OPTICS = "optics"
    """Shadows, reflections and light that contradict each other."""
    PHYSICAL_LAW = "physical_law"
    """Objects that float, pass through each other, or break the law of gravity."""
    PERSPECTIVE = "perspective"
    """Sizes or lines that are not possible from a single viewpoint."""
    COMMONSENSE = "commonsense"
    """Objects that never occur together."""
    MISALIGNMENT = "misalignment"
    """Something that differs from the prompt, such as a wrong number of things; not visible without the prompt."""

    @property
    def legion(self) -> LegionKind | None:
        """The LEGION kind above this leaf; None for misalignment."""
        return _ABOVE[self][0] if self in _ABOVE else None

    @property
    def xaigd(self) -> XaigdCategory | None:
        """The X-AIGD category that this leaf belongs to; None for misalignment."""
        return _ABOVE[self][1] if self in _ABOVE else None

    @classmethod
    def parse(cls, text: str) -> Category:
        """Read a category from any of the vocabularies, ignoring case, spaces, hyphens and underscores.

        The categories of the two papers are wider than our leaves. Each maps to its most typical leaf.

        Raises:
            ValueError: the text is not in any of the vocabularies.
        """
        key = _normal(text)
        if key not in _NAMES:
            raise ValueError(f"Expected a flaw category such as {', '.join(cls)}, got {text!r}: use one of these.")
        return _NAMES[key]


def _normal(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


_ABOVE = {
    Category.ANATOMY: (LegionKind.STRUCTURE, XaigdCategory.SEMANTICS),
    Category.SHAPE: (LegionKind.STRUCTURE, XaigdCategory.EDGE_SHAPE),
    Category.TEXT: (LegionKind.STRUCTURE, XaigdCategory.SYMBOL),
    Category.COLOR: (LegionKind.DISTORTION, XaigdCategory.COLOR),
    Category.TEXTURE: (LegionKind.DISTORTION, XaigdCategory.TEXTURE),
    Category.NOISE_BLUR: (LegionKind.DISTORTION, XaigdCategory.TEXTURE),
    Category.OPTICS: (LegionKind.PHYSICS, XaigdCategory.PHYSICS),
    Category.PHYSICAL_LAW: (LegionKind.PHYSICS, XaigdCategory.PHYSICS),
    Category.PERSPECTIVE: (LegionKind.PHYSICS, XaigdCategory.PHYSICS),
    Category.COMMONSENSE: (LegionKind.PHYSICS, XaigdCategory.COMMONSENSE),
}

PERCEPTUAL: Final = tuple(_ABOVE)
"""The categories of flaws that are visible without the prompt: all but misalignment."""

FROM_LEGION = {
    LegionKind.PHYSICS: Category.OPTICS,
    LegionKind.STRUCTURE: Category.ANATOMY,
    LegionKind.DISTORTION: Category.TEXTURE,
}
"""The most typical leaf below each LEGION kind."""

FROM_XAIGD = {
    XaigdCategory.EDGE_SHAPE: Category.SHAPE,
    XaigdCategory.TEXTURE: Category.TEXTURE,
    XaigdCategory.COLOR: Category.COLOR,
    XaigdCategory.SYMBOL: Category.TEXT,
    XaigdCategory.SEMANTICS: Category.ANATOMY,
    XaigdCategory.COMMONSENSE: Category.COMMONSENSE,
    XaigdCategory.PHYSICS: Category.OPTICS,
}
"""The most typical leaf of each X-AIGD category."""

_NAMES = (
    {_normal(kind): leaf for kind, leaf in FROM_LEGION.items()}
    | {_normal(name): leaf for name, leaf in FROM_XAIGD.items()}
    | {_normal(name.value.split("-")[-1]): leaf for name, leaf in FROM_XAIGD.items()}
    | {_normal(leaf): leaf for leaf in Category}
)
