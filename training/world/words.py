"""The words of the micro world's questions and answers. Words that always appear together are one text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refiner.masks import location_words
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE, sample_scene
from refiner.taxonomy import PERCEPTUAL
from refiner.training.world.flaws import EXPLANATION, REASONING
from refiner.training.world.labels import PART_NAMES
from refiner.types import Region, Size

FRAME = Size(SIZE, SIZE)
INSTEAD, WANTED = "this is {seen} instead of {wanted}", "the picture was to show {phrase}"
"""Explanation and reasoning for a difference from the caption."""
NOTHING = "nothing is wrong there"  # evidence in the answer to a false claim
VERDICTS = ("present", "absent")


def words() -> list[str]:
    """The words of the micro world, and the fixed phrases of explanations."""
    found = [*VERDICTS, NOTHING, *map(str, PERCEPTUAL), *(str(tenths / 10) for tenths in range(11))]
    found += [location_words((x, y, x + 1, y + 1), FRAME) for y in _MIDDLES for x in _MIDDLES]
    parts = {name.partition(": ")[2] for name in PART_NAMES} | {"surface"}
    parts |= {region.name.removeprefix("the ").partition(" of the ")[0] for region in injected_regions()}
    found += [f"the {part}" for part in sorted(parts)]
    found += [piece for kind in FLAWS.values() for piece in _pieces(kind.explanation)]
    found += [kind.reasoning for kind in FLAWS.values()]
    found += [piece for text in (EXPLANATION, REASONING, INSTEAD, WANTED) for piece in _pieces(text)]
    found += ["the", " the", "the letters", " of the", " a", "a", " an", "an", " left of", " above", " on a"]
    found += [" background", "o'clock", " o'clock", "facing", "with the sun on the"]
    found += [f" {word}" for word in (*COLOURS, *KINDS, *BACKGROUNDS)]
    found += [*COLOURS, *KINDS]
    for kind in KINDS.values():
        found += [f"{space}{word}" for word in kind.attributes if word for space in ("", " ")]
        rest = kind.phrase.partition(kind.name)[2]  # the fixed texts of a caption after the thing, as " with two eyes"
        found += [piece.rstrip() for piece in rest.split("{attribute}") if piece.strip()]
    return found


_MIDDLES = (1, SIZE // 2, SIZE - 2)


def _pieces(text: str) -> Iterator[str]:
    """The texts between the placeholders of a sentence template."""
    for place in ("the {part}", "{part}", "{kind}", "{seen}", "{wanted}", "{phrase}"):
        text = text.replace(place, "\0")
    return (piece.rstrip() if piece.endswith(" a ") else piece for piece in text.split("\0") if piece.strip())


def injected_regions() -> Iterator[Region]:
    """The regions of every kind of injected flaw on every kind of thing that can have it."""
    rng = np.random.default_rng(0)
    for kind in FLAWS.values():
        for thing in kind.things:
            while (scene := sample_scene(rng, 1)).things[0].kind != thing:
                pass
            yield from inject(scene, rng, 1, [kind.name]).regions
