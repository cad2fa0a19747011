"""Flaws of the micro world's images, each with its exact mask and a text that explains it.

A flaw changes one thing (one object of the micro world): its parts (``edits.py``) or the pixels on it. The mask is the
set of pixels that the flaw changed, so it is exact by construction. The kinds of flaws cover the seven categories of
X-AIGD and the three kinds of LEGION.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from refiner.errors import ConfigError
from refiner.masks import box_of, location_words
from refiner.micro import edits
from refiner.micro.drawing import coverage, rasterise
from refiner.micro.things import COLOURS, KINDS, TICKS
from refiner.micro.world import SIZE, Scene, Thing
from refiner.taxonomy import Category
from refiner.types import Mask, Region, Size

Pixels = NDArray[np.uint8]
Touch = Callable[[Pixels, Mask, np.random.Generator], Pixels]

VISIBLE = 26
"""A pixel belongs to a flaw's mask if the flaw changed one of its channels by more than this, in [0, 255]."""
_LEAST_PIXELS = 8


@dataclass(frozen=True)
class FlawKind:
    """One kind of flaw."""

    name: str
    things: tuple[str, ...]
    """The kinds of things that can have it."""
    category: Category
    severity: float
    """In [0, 1], 1 = worst."""
    explanation: str
    """What is wrong; ``{part}`` is replaced by the name of the part."""
    reasoning: str
    """Why it is wrong."""
    edit: edits.Edit | None = None
    """Changes the thing's parts; None if ``touch`` is set."""
    touch: Touch | None = None
    """Changes the pixels in a patch on the thing; None if ``edit`` is set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FlawedPicture:
    """An image of a scene with flaws, and the ground truth about them."""

    scene: Scene
    image: Image.Image
    regions: tuple[Region, ...]
    kinds: tuple[str, ...]
    """The name of each region's kind of flaw."""


def _stripes(pixels: Pixels, patch: Mask, rng: np.random.Generator) -> Pixels:
    period, tilt = int(rng.integers(3, 5)), int(rng.integers(-1, 2))
    rows, columns = np.indices(patch.shape)
    dark = patch & (((rows + tilt * columns) // (period // 2 + 1)) % 2 == 0)
    colour = np.array(COLOURS[list(COLOURS)[int(rng.integers(len(COLOURS)))]])
    out = pixels.copy()
    light = out[patch].mean() > 128
    out[dark] = (out[dark] * 0.35 + colour * 0.3 * (1 if light else 1.6) + (0 if light else 90)).clip(0, 255)
    return out


def _noise(pixels: Pixels, patch: Mask, rng: np.random.Generator) -> Pixels:
    noise = rng.normal(0, 62, (*patch.shape, 3))
    return np.where(patch[..., None], (pixels + noise).clip(0, 255), pixels).astype(np.uint8)


def _blur(pixels: Pixels, patch: Mask, _rng: np.random.Generator) -> Pixels:
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2.6)))
    return np.where(patch[..., None], soft, pixels)


_ALL = tuple(KINDS)
_A, _C = Category.ANATOMY, Category.COMMONSENSE


_ROWS: tuple[tuple[Any, ...], ...] = (
    ("extra_finger", ("hand",), _A, 0.9, "a sixth finger grows from the palm", "a hand has five fingers", edits.sixth_finger, None),
    ("missing_finger", ("hand",), _A, 0.8, "the {part} is missing", "a hand has five fingers", edits.without(*edits.FINGERS), None),
    ("fused_fingers", ("hand",), Category.SHAPE, 0.6, "the {part} is melted into its neighbour", "fingers have gaps between them", edits.fused_fingers, None),
    ("third_eye", ("face",), _A, 1.0, "a third eye is on the forehead", "a face has two eyes", edits.third_eye, None),
    ("missing_eye", ("face",), _A, 0.9, "the {part} is missing", "a face has two eyes", edits.without("left eye", "right eye"), None),
    ("missing_pupil", ("face",), _A, 0.6, "the {part} is missing", "an eye has a pupil", edits.without("left pupil", "right pupil"), None),
    ("missing_mouth", ("face",), _A, 0.8, "the mouth is missing", "a face has a mouth", edits.without("mouth"), None),
    ("giant_eye", ("face",), Category.PERSPECTIVE, 0.6, "the {part} is far larger than the other", "two eyes of a face have one size", edits.giant_eye, None),
    ("missing_leg", ("cat",), _A, 0.8, "the {part} is missing", "a cat has four legs", edits.without(*edits.LEGS), None),
    ("extra_leg", ("cat",), _A, 0.9, "a fifth leg grows from the belly", "a cat has four legs", edits.fifth_leg, None),
    ("missing_ear", ("cat",), _A, 0.6, "the {part} is missing", "a cat has two ears", edits.without("left ear", "right ear"), None),
    ("missing_tail", ("cat",), _A, 0.6, "the tail is missing", "a cat has a tail", edits.without("tail"), None),
    ("floating_tail", ("cat",), Category.PHYSICAL_LAW, 0.7, "the tail floats apart from the body", "a tail grows from its body", edits.floating_tail, None),
    ("second_hour_hand", ("clock",), _C, 0.7, "a second hour hand points elsewhere", "a clock has one hour hand", edits.second_hour_hand, None),
    ("missing_hand", ("clock",), _C, 0.7, "the {part} is missing", "a clock has two hands", edits.without("hour hand", "minute hand"), None),
    ("missing_tick", ("clock",), Category.TEXT, 0.5, "the {part} is missing", "a dial has four ticks", edits.without(*TICKS[1:]), None),
    ("garbled_letter", ("sign",), Category.TEXT, 0.7, "the {part} is garbled", "this is no letter of the alphabet", edits.garbled_letter, None),
    ("missing_letter", ("sign",), Category.TEXT, 0.6, "the {part} is missing", "the word has three letters", edits.without(*edits.PLACES), None),
    ("floating_board", ("sign",), Category.PHYSICAL_LAW, 0.8, "the post is missing and the board floats", "a sign needs a post to stand on", edits.without("post"), None),
    ("wrong_reflection", ("house",), Category.OPTICS, 0.6, "the reflection has another colour than the house", "water mirrors what stands above it", edits.wrong_reflection, None),
    ("missing_reflection", ("house",), Category.OPTICS, 0.6, "the reflection in the pond is missing", "water mirrors what stands above it", edits.without_all("reflection", "reflection"), None),
    ("missing_door", ("house",), _A, 0.5, "the door is missing", "a house has a door", edits.without("door"), None),
    ("missing_window", ("house",), _A, 0.5, "the window is missing", "a house has a window", edits.without("window"), None),
    ("door_in_roof", ("house",), _C, 0.7, "a second door stands in the roof", "nobody can reach a door in a roof", edits.door_in_roof, None),
    ("wrong_shadow", ("tree",), Category.OPTICS, 0.7, "the shadow falls towards the sun", "a shadow falls away from the light", edits.shadow_towards_sun, None),
    ("missing_shadow", ("tree",), Category.OPTICS, 0.5, "the shadow is missing", "a tree in the sun casts a shadow", edits.without("shadow"), None),
    ("second_sun", ("tree",), _C, 0.9, "a second sun is in the sky", "there is only one sun", edits.second_sun, None),
    ("missing_trunk", ("tree",), Category.PHYSICAL_LAW, 0.9, "the trunk is missing and the crown floats", "a crown needs a trunk to stand on", edits.without("trunk"), None),
    ("jagged_edge", ("hand", "face", "cat", "clock", "sign", "house"), Category.SHAPE, 0.6, "the edge of the {part} is jagged", "its outline should be smooth", edits.jagged_edge, None),
    ("bite", _ALL, Category.SHAPE, 0.6, "a piece of the {part} is cut out", "its outline should be closed", edits.bite, None),
    ("wrong_colour", _ALL, Category.COLOR, 0.6, "the {part} has a wrong colour", "its colour should fit the rest", edits.wrong_colour, None),
    ("colour_bleed", _ALL, Category.COLOR, 0.5, "colour bleeds over the edge of the {part}", "paint stays inside its outline", edits.colour_bleed, None),
    ("texture_patch", _ALL, Category.TEXTURE, 0.5, "a patch of stripes covers the surface", "its surface should be plain", None, _stripes),
    ("noise_patch", _ALL, Category.NOISE_BLUR, 0.5, "a patch of noise covers the surface", "its surface should be plain", None, _noise),
    ("blur_patch", _ALL, Category.NOISE_BLUR, 0.4, "a patch of the surface is blurred", "the rest of the picture is sharp", None, _blur),
)  # fmt: skip

FLAWS: dict[str, FlawKind] = {row[0]: FlawKind(*row) for row in _ROWS}


def _patch(scene: Scene, index: int, rng: np.random.Generator) -> Mask:
    """A random disc on a thing, clipped to the thing's pixels."""
    shapes = scene.shapes()
    shares = coverage(shapes, SIZE)
    own = sum(share for share, shape in zip(shares, shapes, strict=True) if shape.thing == index) > 0.5
    thing = scene.things[index]
    inner = ndimage.binary_erosion(own, iterations=2)
    rows, columns = np.nonzero(inner)
    at = int(rng.integers(len(rows)))
    radius = thing.radius * float(rng.uniform(0.34, 0.5))
    y, x = np.indices(own.shape)
    return own & ((y - rows[at]) ** 2 + (x - columns[at]) ** 2 <= radius**2)


def _changed(before: Pixels, after: Pixels) -> Mask:
    difference = np.abs(before.astype(np.int16) - after).max(axis=2) > VISIBLE
    closed = ndimage.binary_closing(np.pad(difference, 2), iterations=1)[2:-2, 2:-2]
    return closed | difference


def _region(kind: FlawKind, thing: Thing, part: str, mask: Mask) -> Region:
    box = box_of(mask)
    assert box is not None
    return Region(
        mask=mask,
        box=box,
        name=f"the {part} of the {thing.colour} {thing.kind}",
        location=location_words(box, Size(SIZE, SIZE)),
        explanation=kind.explanation.format(part=part),
        reasoning=kind.reasoning,
        category=kind.category,
        severity=kind.severity,
    )


def inject(scene: Scene, rng: np.random.Generator, count: int = 1, kinds: Sequence[str] | None = None) -> FlawedPicture:
    """Draw a scene with flaws.

    Args:
        scene: the scene to draw.
        rng: the only source of randomness.
        count: the number of things that get a flaw (one each), from 0 to the number of things in the scene.
        kinds: names of ``FLAWS`` to choose from; None means all. A thing that can have none of them gets no flaw.

    Raises:
        ConfigError: ``count`` is negative or larger than the number of things, or a kind is unknown.
    """
    if not 0 <= count <= len(scene.things):
        raise ConfigError(
            f"Expected 0 to {len(scene.things)} flaws for this scene, got {count}: ask for at most one for each thing."
        )
    if unknown := set(kinds or ()) - set(FLAWS):
        raise ConfigError(
            f"Expected flaw kinds among {', '.join(FLAWS)}, got {', '.join(sorted(unknown))}: use these names."
        )
    allowed = [FLAWS[name] for name in kinds or FLAWS]
    parts = [thing.parts(scene.ground) for thing in scene.things]
    pixels = _draw(scene, parts)
    regions: list[Region] = []
    names: list[str] = []
    touches: list[tuple[int, FlawKind]] = []
    for index in rng.permutation(len(scene.things))[:count].tolist():
        thing = scene.things[index]
        fitting = [kind for kind in allowed if thing.kind in kind.things]
        if not fitting:
            continue
        kind = fitting[int(rng.integers(len(fitting)))]
        if kind.edit is None:
            touches.append((index, kind))
            continue
        parts[index], part = kind.edit(parts[index], thing, scene.ground, rng)
        before, pixels = pixels, _draw(scene, parts)
        _note(regions, names, kind, thing, part, _changed(before, pixels))
    for index, kind in touches:
        assert kind.touch is not None
        patch = _patch(scene, index, rng)
        before, pixels = pixels, kind.touch(pixels, patch, rng)
        mask = _changed(before, pixels) & patch if kind.touch is _blur else patch
        _note(regions, names, kind, scene.things[index], "surface", mask)
    return FlawedPicture(scene=scene, image=Image.fromarray(pixels), regions=tuple(regions), kinds=tuple(names))


def _note(regions: list[Region], names: list[str], kind: FlawKind, thing: Thing, part: str, mask: Mask) -> None:
    if mask.sum() >= _LEAST_PIXELS:
        regions.append(_region(kind, thing, part, mask))
        names.append(kind.name)


def _draw(scene: Scene, parts: Sequence[Sequence[edits.Part]]) -> Pixels:
    shapes = [
        shape
        for index, (thing, own) in enumerate(zip(scene.things, parts, strict=True))
        for shape in thing.shapes(index, own)
    ]
    return np.asarray(rasterise(shapes, scene.ground, SIZE))
