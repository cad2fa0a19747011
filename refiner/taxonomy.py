"""One tree of flaw categories, with maps to the vocabularies of the papers.

The tree has LEGION's three kinds (SynthScars, section 3.2) below its root, and below each the finer causes that its
instruction lists. Every leaf also belongs to exactly one of X-AIGD's seven categories (its section "Three-level
Seven-category Perceptual Artifact Taxonomy"). LEGION has no place for common sense; we put it under physics, where it
lists spatial errors and impossible relations.
"""

from __future__ import annotations

from enum import StrEnum


class LegionKind(StrEnum):
    """The three artifact kinds of LEGION / SynthScars."""

    PHYSICS = "physics"
    STRUCTURE = "structure"
    DISTORTION = "distortion"


class XaigdCategory(StrEnum):
    """The seven categories of X-AIGD, spelled as in its data set."""

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
    """A leaf of the tree: what kind of flaw a region shows."""

    ANATOMY = "anatomy"
    """An object with missing, surplus or misplaced parts."""
    SHAPE = "shape"
    """Broken outlines: jagged, melted or cut edges."""
    TEXT = "text"
    """Garbled letters, digits or signs."""
    COLOR = "color"
    """A wrong or bleeding colour."""
    TEXTURE = "texture"
    """A surface pattern that does not belong, or a wrong material."""
    NOISE_BLUR = "noise_blur"
    """Noise or blur confined to a patch."""
    OPTICS = "optics"
    """Shadows, reflections and light that contradict each other."""
    PHYSICAL_LAW = "physical_law"
    """Objects that float, pass through each other, or defy gravity."""
    PERSPECTIVE = "perspective"
    """Sizes or lines that no single viewpoint explains."""
    COMMONSENSE = "commonsense"
    """Things that never go together."""

    @property
    def legion(self) -> LegionKind:
        """The LEGION kind above this leaf."""
        return _LEGION[self]

    @property
    def xaigd(self) -> XaigdCategory:
        """The X-AIGD category that this leaf belongs to."""
        return _XAIGD[self]

    @classmethod
    def parse(cls, text: str) -> Category:
        """Read a category from any of the vocabularies, ignoring case, spaces, hyphens and underscores.

        Names of the two papers are wider than our leaves: they map to the leaf that is most typical of them.

        Raises:
            ValueError: no vocabulary knows the word.
        """
        key = _normal(text)
        if key not in _NAMES:
            raise ValueError(f"expected a flaw category such as {', '.join(cls)}; got {text!r}")
        return _NAMES[key]


def _normal(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


_LEGION = {
    Category.ANATOMY: LegionKind.STRUCTURE,
    Category.SHAPE: LegionKind.STRUCTURE,
    Category.TEXT: LegionKind.STRUCTURE,
    Category.COLOR: LegionKind.DISTORTION,
    Category.TEXTURE: LegionKind.DISTORTION,
    Category.NOISE_BLUR: LegionKind.DISTORTION,
    Category.OPTICS: LegionKind.PHYSICS,
    Category.PHYSICAL_LAW: LegionKind.PHYSICS,
    Category.PERSPECTIVE: LegionKind.PHYSICS,
    Category.COMMONSENSE: LegionKind.PHYSICS,
}

_XAIGD = {
    Category.ANATOMY: XaigdCategory.SEMANTICS,
    Category.SHAPE: XaigdCategory.EDGE_SHAPE,
    Category.TEXT: XaigdCategory.SYMBOL,
    Category.COLOR: XaigdCategory.COLOR,
    Category.TEXTURE: XaigdCategory.TEXTURE,
    Category.NOISE_BLUR: XaigdCategory.TEXTURE,
    Category.OPTICS: XaigdCategory.PHYSICS,
    Category.PHYSICAL_LAW: XaigdCategory.PHYSICS,
    Category.PERSPECTIVE: XaigdCategory.PHYSICS,
    Category.COMMONSENSE: XaigdCategory.COMMONSENSE,
}

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
