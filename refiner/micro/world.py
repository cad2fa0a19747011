"""The micro world: small images whose ground truth is known exactly.

A scene has one to four things (objects) on a flat background. Its caption says everything except the exact places and
sizes::

    a red hand with five fingers left of a green clock showing three o'clock above a blue sign saying sun
    on a sky background

"left of" binds tighter than "above": a caption is one row, or two rows of one or two things each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from refiner.errors import InputError
from refiner.micro.drawing import Colour, Shape, rasterise
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS, Kind, Part

SIZE = 96
"""Height and width of an image, in pixels."""
LAYOUTS: dict[int, tuple[tuple[int, ...], ...]] = {1: ((1,),), 2: ((2,), (1, 1)), 3: ((2, 1), (1, 2)), 4: ((2, 2),)}
"""For each number of things in a scene, the possible layouts: the number of things in each row."""
RADII = {1: (26.0, 40.0), 2: (18.5, 22.0), 3: (18.5, 22.0), 4: (18.5, 22.0)}
"""Smallest and largest radius of a thing, in pixels, for each number of things in a scene."""
_MARGIN = 1.5


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing of a scene. Place and size are in pixels: it fills x - radius to x + radius, and the same for y."""

    kind: str
    colour: str
    attribute: str = ""
    x: float = SIZE / 2
    y: float = SIZE / 2
    radius: float = 20.0

    @property
    def phrase(self) -> str:
        """How a caption names this thing, with the article."""
        text = KINDS[self.kind].phrase.format(colour=self.colour, attribute=self.attribute)
        return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"

    def parts(self, background: Colour) -> list[Part]:
        """The thing's parts in unit coordinates; ``background`` is the background colour."""
        return KINDS[self.kind].draw(COLOURS[self.colour], background, self.attribute)

    def shapes(self, index: int, parts: Sequence[Part]) -> list[Shape]:
        """Convert parts of this thing to polygons in image coordinates; ``index`` is the thing's index in the scene."""
        return [
            Shape(
                thing=index,
                part=part.name,
                points=part.points * self.radius + (self.x, self.y),
                colour=part.colour,
                layer=part.layer,
                outline=part.outline,
            )
            for part in parts
        ]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things in reading order (row by row), the number of things in each row, and the background's name."""

    things: tuple[Thing, ...]
    rows: tuple[int, ...]
    background: str

    @property
    def caption(self) -> str:
        """The text that describes the scene."""
        lines, start = [], 0
        for count in self.rows:
            lines.append(" left of ".join(thing.phrase for thing in self.things[start : start + count]))
            start += count
        return f"{' above '.join(lines)} on a {self.background} background"

    @property
    def ground(self) -> Colour:
        """The background's colour."""
        return BACKGROUNDS[self.background]

    def shapes(self) -> list[Shape]:
        """All parts of all things, in drawing order."""
        return [
            shape for index, thing in enumerate(self.things) for shape in thing.shapes(index, thing.parts(self.ground))
        ]


def cells(rows: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    """The rectangle (x0, y0, x1, y1), in pixels, that each thing of a layout stays in; in reading order."""
    height = SIZE / len(rows)
    return [
        (SIZE / count * column, height * row, SIZE / count * (column + 1), height * (row + 1))
        for row, count in enumerate(rows)
        for column in range(count)
    ]


def render(scene: Scene) -> Image.Image:
    """Draw the image of a scene without flaws: RGB, 96 x 96."""
    return rasterise(scene.shapes(), scene.ground, SIZE)


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Sample a random scene.

    Args:
        rng: the only source of randomness.
        count: the number of things, 1 to 4; None samples it uniformly.
    """
    count = int(rng.integers(1, 5)) if count is None else count
    rows = LAYOUTS[count][int(rng.integers(len(LAYOUTS[count])))]
    sun = ("left", "right")[int(rng.integers(2))]
    kinds = list(KINDS.values())
    chosen = [kinds[int(i)] for i in rng.permutation(len(kinds))[:count]]
    things = tuple(_sample_thing(rng, kind, sun) for kind in chosen)
    background = list(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    return place(Scene(things=things, rows=rows, background=background), rng)


def _sample_thing(rng: np.random.Generator, kind: Kind, sun: str) -> Thing:
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
    attribute = sun if kind.name == "tree" else kind.attributes[int(rng.integers(len(kind.attributes)))]
    return Thing(kind=kind.name, colour=colour, attribute=attribute)


def place(scene: Scene, rng: np.random.Generator) -> Scene:
    """Move every thing of a scene to a random place in its cell, with a random size."""
    low, high = RADII[len(scene.things)]
    placed = []
    for thing, (x0, y0, x1, y1) in zip(scene.things, cells(scene.rows), strict=True):
        radius = float(rng.uniform(low, high))
        room = radius + _MARGIN
        x = float(rng.uniform(x0 + room, x1 - room))
        y = float(rng.uniform(y0 + room, y1 - room))
        if len(scene.rows) == 1 and len(scene.things) == 2:
            y = (y0 + y1) / 2 + float(rng.uniform(-14, 14))
        if scene.rows in ((1, 1), (2, 1), (1, 2)) and x1 - x0 > SIZE / 2:
            x = (x0 + x1) / 2 + float(rng.uniform(-14, 14))
        placed.append(replace(thing, x=x, y=y, radius=radius))
    return replace(scene, things=tuple(placed))


def close_up(scene: Scene, index: int, rng: np.random.Generator) -> tuple[Image.Image, str]:
    """Draw only one thing of a scene, enlarged; returns the image and its caption."""
    thing = scene.things[index]
    radius = SIZE / 2 / float(rng.uniform(1.12, 1.6))
    x, y = (SIZE * (0.5 + float(rng.uniform(-0.06, 0.06))) for _ in range(2))
    near = Scene(things=(replace(thing, x=x, y=y, radius=radius),), rows=(1,), background=scene.background)
    return render(near), near.caption


def caption_words() -> list[str]:
    """Every word of the captions, in lower case, in alphabetical order."""
    phrases = [kind.phrase for kind in KINDS.values()] + [word for kind in KINDS.values() for word in kind.attributes]
    text = " ".join([*phrases, *COLOURS, *BACKGROUNDS, "a an left of above on background"])
    return sorted(set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text))))


def _phrase_pattern(kind: Kind) -> re.Pattern[str]:
    text = re.escape(kind.phrase).replace(r"\{", "{").replace(r"\}", "}")
    colour, attribute = "|".join(COLOURS), "|".join(kind.attributes)
    return re.compile(
        "an? " + text.replace("{colour}", f"(?P<colour>{colour})").replace("{attribute}", f"(?P<attribute>{attribute})")
    )


_PATTERNS = {name: _phrase_pattern(kind) for name, kind in KINDS.items()}


def parse_phrase(text: str) -> Thing:
    """Read the phrase of one thing; place and size keep their defaults.

    Raises:
        InputError: the text does not name a thing of the micro world.
    """
    for name, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(text.strip().lower()):
            found = match.groupdict()
            return Thing(kind=name, colour=found["colour"], attribute=found.get("attribute", ""))
    raise InputError(
        f"Expected a thing of the micro world, such as 'a red hand with five fingers', got {text.strip()!r}: "
        "use the words of its captions."
    )


def parse_caption(text: str) -> Scene:
    """Read a caption: ``parse_caption(scene.caption)`` equals the scene except for places and sizes.

    Raises:
        InputError: the text is not a caption of the micro world.
    """
    body, separator, background = text.strip().lower().rpartition(" on a ")
    name = background.removesuffix(" background")
    if not separator or name not in BACKGROUNDS:
        raise InputError(
            f"Expected a caption that ends with 'on a NAME background', NAME one of {', '.join(BACKGROUNDS)}, "
            f"got {text.strip()!r}: add the background."
        )
    rows = [row.split(" left of ") for row in body.split(" above ")]
    counts = tuple(len(row) for row in rows)
    if counts not in {layout for layouts in LAYOUTS.values() for layout in layouts}:
        raise InputError(
            f"Expected one or two rows of one or two things each, got rows of {counts} in {text.strip()!r}: "
            "use at most two rows of two things."
        )
    things = tuple(parse_phrase(phrase) for row in rows for phrase in row)
    return Scene(things=things, rows=counts, background=name)
