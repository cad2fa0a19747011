"""The seven kinds of things (objects) of the micro world, drawn in a unit square.

Each ``draw_`` function gets the thing's colour, the background colour and the attribute. It returns the parts in unit
coordinates, in which the thing fills [-1, 1] x [-1, 1]. At the smallest size one unit is 18 pixels, so no important
part is thinner than 0.16 units (3 pixels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from refiner.micro.drawing import INK, Colour, Points, capsule, ellipse, polygon, rectangle

COLOURS: dict[str, Colour] = {
    "red": (214, 52, 52),
    "orange": (240, 138, 36),
    "yellow": (246, 206, 62),
    "green": (66, 160, 78),
    "blue": (52, 108, 206),
    "purple": (142, 78, 176),
}
BACKGROUNDS: dict[str, Colour] = {
    "sky": (188, 224, 246),
    "sand": (240, 224, 186),
    "grass": (190, 226, 164),
    "snow": (244, 246, 250),
    "rose": (246, 208, 214),
    "stone": (196, 200, 208),
}
WHITE: Colour = (252, 252, 252)
BROWN: Colour = (124, 82, 52)
WATER: Colour = (110, 170, 214)
SUN: Colour = (255, 222, 70)

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
WORDS = ("sun", "car", "ice", "tea", "zoo", "bus")
FINGERS = ("first finger", "second finger", "third finger", "fourth finger", "thumb")
LEGS = ("first leg", "second leg", "third leg", "fourth leg")
TICKS = ("twelve o'clock tick", "three o'clock tick", "six o'clock tick", "nine o'clock tick")
PLACES = ("first letter", "second letter", "third letter")


class Part(NamedTuple):
    """One polygon of a thing, in the thing's unit coordinates."""

    name: str
    points: Points
    colour: Colour
    layer: int = 0
    outline: bool = False


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Mix ``share`` (in [0, 1]) of the second colour into the first."""
    return tuple(round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def finger(index: int) -> Points:
    """Polygon of finger 1 to 5 of a hand (5 is the thumb); 0 is a sixth finger, which only a flawed hand has."""
    if index == 5:
        return capsule(0.48, 0.50, 0.84, -0.02, 0.25)
    if index == 0:
        return capsule(-0.48, 0.50, -0.84, 0.02, 0.22)
    x = (-0.45, -0.15, 0.15, 0.45)[index - 1]
    top = (-0.58, -0.86, -0.84, -0.6)[index - 1]
    return capsule(x, 0.25, x, top, 0.22)


def draw_hand(colour: Colour, _background: Colour, _attribute: str) -> list[Part]:
    palm = polygon((-0.57, 0.1), (0.57, 0.1), (0.6, 0.55), (0.36, 0.98), (-0.36, 0.98), (-0.6, 0.55))
    fingers = [Part(name, finger(i), colour, 0, True) for i, name in enumerate(FINGERS, start=1)]
    return [*fingers, Part("palm", palm, colour, 0, True)]


def eye(x: float, y: float, size: float = 1.0) -> tuple[Points, Points]:
    """Polygons of the white and the pupil of a face's eye."""
    return ellipse(x, y, 0.22 * size, 0.25 * size), ellipse(x, y + 0.02, 0.11 * size, 0.13 * size)


def draw_face(colour: Colour, _background: Colour, mood: str) -> list[Part]:
    parts = [Part("head", ellipse(0, 0, 0.94, 0.94), colour, 0, True)]
    for side, x in (("left", -0.36), ("right", 0.36)):
        white, pupil = eye(x, -0.22)
        parts += [Part(f"{side} eye", white, WHITE, 1), Part(f"{side} pupil", pupil, INK, 2)]
    parts.append(Part("nose", polygon((0, -0.02), (0.13, 0.24), (-0.13, 0.24)), blend(colour, INK, 0.55), 1))
    turn = np.linspace(0.12 * np.pi, 0.88 * np.pi, 14)
    bend = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    outer, inner = bend * (0.56, 0.36), bend * (0.5, 0.12)
    arc = np.concatenate([outer, inner[::-1]])
    arc = arc * (1, -1) + (0, 0.8) if mood == "sad" else arc + (0, 0.34)
    parts.append(Part("mouth", arc, INK, 1))
    return parts


def leg(index: int) -> Points:
    """Polygon of leg 1 to 4 of a cat; 0 is a fifth leg, which only a flawed cat has."""
    x = (-0.03, -0.5, -0.26, 0.2, 0.44)[index]
    return rectangle(x - 0.095, 0.2, x + 0.095, 0.94)


def draw_cat(colour: Colour, _background: Colour, side: str) -> list[Part]:
    parts = [
        Part("tail", capsule(-0.56, 0.1, -0.84, -0.6, 0.2), colour, 0, True),
        *[Part(name, leg(i), colour, 0, True) for i, name in enumerate(LEGS, start=1)],
        Part("body", ellipse(-0.06, 0.2, 0.62, 0.33), colour, 0, True),
        Part("left ear", polygon((0.26, -0.5), (0.3, -0.92), (0.56, -0.66)), colour, 0, True),
        Part("right ear", polygon((0.92, -0.5), (0.88, -0.92), (0.62, -0.66)), colour, 0, True),
        Part("head", ellipse(0.59, -0.32, 0.37, 0.36), colour, 0, True),
        Part("left eye", ellipse(0.45, -0.38, 0.1, 0.12), INK, 1),
        Part("right eye", ellipse(0.75, -0.38, 0.1, 0.12), INK, 1),
    ]
    return parts if side == "right" else [part._replace(points=part.points * (-1, 1)) for part in parts]


def tick(index: int) -> Points:
    """Polygon of tick 0 to 3 of a clock: at twelve, three, six and nine."""
    x, y = ((0, -1), (1, 0), (0, 1), (-1, 0))[index]
    return capsule(x * 0.58, y * 0.58, x * 0.64, y * 0.64, 0.17)


def clock_hand(hour: float, length: float, width: float) -> Points:
    """Polygon of a clock hand that points at an hour (0 and 12 are up)."""
    angle = 2 * np.pi * hour / 12
    return capsule(0, 0, length * np.sin(angle), -length * np.cos(angle), width)


def draw_clock(colour: Colour, _background: Colour, hour: str) -> list[Part]:
    return [
        Part("rim", ellipse(0, 0, 0.94, 0.94), colour, 0, True),
        Part("dial", ellipse(0, 0, 0.74, 0.74), WHITE, 1),
        *[Part(name, tick(i), INK, 2) for i, name in enumerate(TICKS)],
        Part("hour hand", clock_hand(NUMBERS.index(hour) + 1, 0.4, 0.2), COLOURS["red"], 4),
        Part("minute hand", clock_hand(0, 0.58, 0.16), INK, 3),
    ]


_GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "a": (((0, 1), (0, 0.3), (0.5, 0), (1, 0.3), (1, 1)), ((0, 0.62), (1, 0.62))),
    "b": (((0, 0), (0, 1), (1, 1), (1, 0.55), (0, 0.45)), ((0, 0), (0.85, 0), (0.85, 0.45))),
    "c": (((1, 0), (0, 0), (0, 1), (1, 1)),),
    "e": (((1, 0), (0, 0), (0, 1), (1, 1)), ((0, 0.5), (0.8, 0.5))),
    "i": (((0.5, 0), (0.5, 1)),),
    "n": (((0, 1), (0, 0), (1, 1), (1, 0)),),
    "o": (((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)),),
    "r": (((0, 1), (0, 0), (1, 0), (1, 0.5), (0, 0.5)), ((0.4, 0.5), (1, 1))),
    "s": (((1, 0), (0, 0), (0, 0.5), (1, 0.5), (1, 1), (0, 1)),),
    "t": (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),
    "u": (((0, 0), (0, 1), (1, 1), (1, 0)),),
    "x": (((0, 0), (1, 1)), ((1, 0), (0, 1))),
    "y": (((0, 0), (0.5, 0.5), (1, 0)), ((0.5, 0.5), (0.5, 1))),
    "z": (((0, 0), (1, 0), (0, 1), (1, 1)),),
}

LETTERS = tuple(_GLYPHS)


def letter_box(place: int) -> tuple[float, float, float, float]:
    """The box of letter 0, 1 or 2 of a sign: x0, y0, width, height of its strokes' centre lines."""
    return (-0.72, -0.1, 0.52)[place], -0.62, 0.22, 0.58


def letter(glyph: str, place: int, mirrored: bool = False) -> list[Points]:
    """Polygons of the strokes of a letter at place 0, 1 or 2 of a sign."""
    x, y, width, height = letter_box(place)
    strokes: list[Points] = []
    for path in _GLYPHS[glyph]:
        line = [(x + (1 - u if mirrored else u) * width, y + v * height) for u, v in path]
        strokes += [capsule(*start, *end, 0.16) for start, end in pairwise(line)]
    return strokes


def letter_colour(board: Colour) -> Colour:
    """The colour of a sign's letters: dark on a light board, white on a dark one."""
    return INK if sum(board) > 500 else WHITE


def draw_sign(colour: Colour, _background: Colour, word: str) -> list[Part]:
    ink = letter_colour(colour)
    parts = [
        Part("post", rectangle(-0.11, 0.1, 0.11, 0.97), BROWN, 0, True),
        Part("board", rectangle(-0.95, -0.84, 0.95, 0.2), colour, 1, True),
    ]
    for place, glyph in enumerate(word):
        parts += [Part(PLACES[place], stroke, ink, 2) for stroke in letter(glyph, place)]
    return parts


def draw_house(colour: Colour, _background: Colour, _attribute: str) -> list[Part]:
    roof = blend(colour, INK, 0.62)
    mirrored = [
        ("reflection of the wall", rectangle(-0.52, 0.38, 0.52, 0.68), blend(colour, WATER, 0.35)),
        ("reflection of the roof", polygon((-0.66, 0.66), (0.66, 0.66), (0, 0.94)), blend(roof, WATER, 0.35)),
    ]
    return [
        Part("pond", polygon((-0.96, 0.36), (0.96, 0.36), (0.88, 0.97), (-0.88, 0.97)), WATER, 0, True),
        *[Part(name, points, fill, 1) for name, points, fill in mirrored],
        Part("wall", rectangle(-0.56, -0.32, 0.56, 0.34), colour, 2, True),
        Part("roof", polygon((-0.78, -0.28), (0.78, -0.28), (0, -0.94)), roof, 2, True),
        Part("door", rectangle(-0.4, -0.1, -0.1, 0.34), INK, 3),
        Part("window", rectangle(0.1, -0.14, 0.4, 0.16), SUN, 3),
    ]


def sun_of_tree(side: str) -> Points:
    """Polygon of the small sun next to a tree's crown."""
    return ellipse(-0.76 if side == "left" else 0.76, -0.76, 0.2, 0.2)


def shadow_of_tree(side: str) -> Points:
    """Polygon of the shadow on the ground, on the given side of the trunk."""
    x = -0.42 if side == "left" else 0.42
    return ellipse(x, 0.86, 0.5, 0.12)


def draw_tree(colour: Colour, background: Colour, sun: str) -> list[Part]:
    away = "right" if sun == "left" else "left"
    return [
        Part("shadow", shadow_of_tree(away), blend(background, INK, 0.5), 0),
        Part("trunk", rectangle(-0.13, 0.1, 0.13, 0.92), BROWN, 1, True),
        *[
            Part("crown", ellipse(x, y, r, r), colour, 2, True)
            for x, y, r in ((-0.3, 0.0, 0.36), (0.3, 0.0, 0.36), (0.0, -0.42, 0.42))
        ],
        Part("sun", sun_of_tree(sun), SUN, 1, True),
    ]


@dataclass(frozen=True)
class Kind:
    """A kind of thing: how it is drawn, how captions name it, and which values its attribute has."""

    name: str
    content: str
    """SynthScars' content type: human, animal, object or scene."""
    draw: Callable[[Colour, Colour, str], list[Part]] = field(repr=False)
    phrase: str
    """How a caption names it, without the article; ``{colour}`` and ``{attribute}`` are replaced by the values."""
    attributes: tuple[str, ...] = ("",)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("hand", "human", draw_hand, "{colour} hand with five fingers"),
        Kind("face", "human", draw_face, "{colour} face with two eyes {attribute}", ("smiling", "sad")),
        Kind("cat", "animal", draw_cat, "{colour} cat with four legs facing {attribute}", ("left", "right")),
        Kind("clock", "object", draw_clock, "{colour} clock showing {attribute} o'clock", NUMBERS[:11]),
        Kind("sign", "object", draw_sign, "{colour} sign saying {attribute}", WORDS),
        Kind("house", "scene", draw_house, "{colour} house by a pond"),
        Kind("tree", "scene", draw_tree, "{colour} tree with the sun on the {attribute}", ("left", "right")),
    )
}
