"""Structural flaws: edits of the parts of a thing (one object of the micro world), in the thing's unit coordinates.

Each edit takes the parts, the thing, the background colour and a random generator. It returns the new parts and the
name of the part that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from refiner.micro.drawing import INK, Colour, Points, capsule, ellipse, polygon
from refiner.micro.things import (
    COLOURS,
    FINGERS,
    LEGS,
    LETTERS,
    NUMBERS,
    PLACES,
    SUN,
    WATER,
    Part,
    blend,
    clock_hand,
    eye,
    finger,
    leg,
    letter,
    letter_box,
    letter_colour,
    shadow_of_tree,
    sun_of_tree,
)
from refiner.micro.world import Thing

Parts = list[Part]
Edited = tuple[Parts, str]
Rng = np.random.Generator
Edit = Callable[[Parts, Thing, Colour, Rng], Edited]


def pick(rng: Rng, choices: Sequence[str]) -> str:
    """Draw one of the choices uniformly."""
    return choices[int(rng.integers(len(choices)))]


def without(*choices: str, label: str | None = None) -> Edit:
    """An edit that removes one of the named parts; an eye is removed with its pupil."""

    def edit(parts: Parts, _thing: Thing, _ground: Colour, rng: Rng) -> Edited:
        gone = pick(rng, choices)
        lost = {gone, gone.replace("eye", "pupil")}
        return [part for part in parts if part.name not in lost], label or gone

    return edit


def without_all(prefix: str, label: str) -> Edit:
    """An edit that removes every part whose name starts with ``prefix``."""

    def edit(parts: Parts, _thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
        return [part for part in parts if not part.name.startswith(prefix)], label

    return edit


def sixth_finger(parts: Parts, thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    return [Part("sixth finger", finger(0), COLOURS[thing.colour], 0, True), *parts], "sixth finger"


def fused_fingers(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    first = int(rng.integers(1, 4))
    left, right = finger(first), finger(first + 1)
    web = polygon(
        (left[:, 0].mean(), 0.3), (left[:, 0].mean(), left[:, 1].min() + 0.1),
        (right[:, 0].mean(), right[:, 1].min() + 0.1), (right[:, 0].mean(), 0.3),
    )  # fmt: skip
    return [*parts, Part("web", web, COLOURS[thing.colour], 0, True)], FINGERS[first]


def third_eye(parts: Parts, _thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    white, pupil = eye(0, -0.62, 0.9)
    return [*parts, Part("third eye", white, (252, 252, 252), 3), Part("third pupil", pupil, INK, 4)], "third eye"


def giant_eye(parts: Parts, _thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    side = pick(rng, ("left", "right"))
    shapes = dict(
        zip((f"{side} eye", f"{side} pupil"), eye(-0.42 if side == "left" else 0.42, -0.24, 1.8), strict=True)
    )
    return [p._replace(points=shapes.get(p.name, p.points)) for p in parts], f"{side} eye"


def fifth_leg(parts: Parts, thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    points = leg(0) * (1 if thing.attribute == "right" else -1, 1)
    return [Part("fifth leg", points, COLOURS[thing.colour], 0, True), *parts], "fifth leg"


def floating_tail(parts: Parts, thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    points = capsule(-0.8, -0.5, -0.5, -0.86, 0.2) * (1 if thing.attribute == "right" else -1, 1)
    return [p._replace(points=points, layer=-1) if p.name == "tail" else p for p in parts], "tail"


def second_hour_hand(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    hour = NUMBERS.index(thing.attribute) + 1
    other = (hour + int(rng.integers(3, 10))) % 12
    other = other if other not in (0, 11, 1) else (hour + 6) % 12 or 6
    return [*parts, Part("second hour hand", clock_hand(other, 0.4, 0.2), COLOURS["red"], 4)], "second hour hand"


def garbled_letter(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    place = int(rng.integers(3))
    glyph, ink = thing.attribute[place], letter_colour(COLOURS[thing.colour])
    if glyph in "cerszn" and rng.random() < 0.5:
        strokes = letter(glyph, place, mirrored=True)
    else:
        x, y, width, height = letter_box(place)
        (x0, y0), (x1, y1) = rng.uniform((x, y), (x + width, y + height), (4, 2))[:2]
        other = pick(rng, [g for g in LETTERS if g != glyph and g not in "it"])
        strokes = [*letter(other, place, mirrored=True)[:2], capsule(x0, y0, x1, y1, 0.16)]
    kept = [part for part in parts if part.name != PLACES[place]]
    return [*kept, *(Part(PLACES[place], stroke, ink, 2) for stroke in strokes)], PLACES[place]


def wrong_reflection(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    near = {thing.colour, "blue"} | ({"orange"} if thing.colour == "red" else set())
    other = COLOURS[pick(rng, [name for name in COLOURS if name not in near])]
    fills = {
        "reflection of the wall": blend(other, WATER, 0.25),
        "reflection of the roof": blend(blend(other, INK, 0.4), WATER, 0.3),
    }
    return [p._replace(colour=fills.get(p.name, p.colour)) for p in parts], "reflection"


def door_in_roof(parts: Parts, _thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    door = polygon((-0.14, -0.66), (0.14, -0.66), (0.14, -0.32), (-0.14, -0.32))
    return [*parts, Part("second door", door, SUN, 3)], "second door"


def shadow_towards_sun(parts: Parts, thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    wrong = shadow_of_tree(thing.attribute)
    return [p._replace(points=wrong) if p.name == "shadow" else p for p in parts], "shadow"


def second_sun(parts: Parts, thing: Thing, _ground: Colour, _rng: Rng) -> Edited:
    other = "right" if thing.attribute == "left" else "left"
    return [*parts, Part("second sun", sun_of_tree(other), SUN, 1, True)], "second sun"


_BODIES = {
    "hand": ("palm",), "face": ("head",), "cat": ("body", "head"), "clock": ("rim",),
    "sign": ("board",), "house": ("roof", "wall"), "tree": ("crown", "trunk"),
}  # fmt: skip

_RECOLOURED = {
    "hand": FINGERS, "face": ("nose", "left eye", "right eye"), "cat": (*LEGS, "tail", "left ear", "right ear"),
    "clock": ("dial", "minute hand"), "sign": (*PLACES, "post"), "house": ("door", "window", "wall"),
    "tree": ("trunk", "sun"),
}  # fmt: skip


def wrong_colour(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    name = pick(rng, _RECOLOURED[thing.kind])
    old = next(part.colour for part in parts if part.name == name)
    far = [c for c in COLOURS.values() if sum(abs(a - b) for a, b in zip(c, old, strict=True)) > 150]
    new = far[int(rng.integers(len(far)))]
    return [p._replace(colour=new) if p.name == name else p for p in parts], name


def _dense(points: Points, step: float) -> Points:
    out = []
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        count = max(1, int(np.hypot(*(end - start)) / step))
        out.append(start + (end - start) * np.linspace(0, 1, count, endpoint=False)[:, None])
    return np.concatenate(out)


def jagged_edge(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    name = _BODIES[thing.kind][0]
    new, done = [], False
    for part in parts:
        if part.name == name and not done:
            points, done = _dense(part.points, 0.16), True
            outwards = points - points.mean(axis=0)
            outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
            push = rng.uniform(0.07, 0.14, (len(points), 1)) * np.where(np.arange(len(points)) % 2, 1, -1)[:, None]
            part = part._replace(points=points + outwards * push)
        new.append(part)
    return new, name


def bite(parts: Parts, thing: Thing, ground: Colour, rng: Rng) -> Edited:
    name = _BODIES[thing.kind][0]
    points = next(part.points for part in parts if part.name == name)
    x, y = points[int(rng.integers(len(points)))] * 0.92
    radius = float(rng.uniform(0.24, 0.34))
    return [*parts, Part("bite", ellipse(x, y, radius, radius), ground, 9)], name


def colour_bleed(parts: Parts, thing: Thing, _ground: Colour, rng: Rng) -> Edited:
    name = _BODIES[thing.kind][0]
    points = next(part.points for part in parts if part.name == name)
    corner = points[int(rng.integers(len(points)))]
    x, y = np.clip(corner * 1.02, -0.72, 0.72)
    lobes = rng.uniform(-0.16, 0.16, (3, 2))
    fill = blend(COLOURS[thing.colour], (255, 255, 255), 0.25)
    return [*parts, *(Part("bleed", ellipse(x + u, y + v, 0.22, 0.2), fill, 8) for u, v in lobes)], name
