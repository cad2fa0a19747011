"""The whole micro world on one page, and its kinds of flaws. A thing is one object of that world."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from refiner.micro.flaws import FLAWS, FlawKind, inject
from refiner.micro.things import KINDS
from refiner.micro.world import SIZE, Scene, render, sample_scene
from refiner.reports.overlays import CARD, FAINT, INK, KIND_COLOURS, PAPER, RULE, fitted, font
from refiner.types import Mask, Size

_PAD = 24
_LARGE, _SMALL = 2 * SIZE, SIZE + SIZE // 2
_WIDTH = 7 * _LARGE + 8 * _PAD
_FLAW_COLUMNS = 3
_CARD = (_WIDTH - (_FLAW_COLUMNS + 1) * _PAD) // _FLAW_COLUMNS
_CARD_HEIGHT = _SMALL + 94


def contact_sheet(seed: int = 0) -> Image.Image:
    """All kinds of things, scenes of two to four things with captions, and all kinds of flaws; an RGB image.

    Args:
        seed: the same seed gives the same sheet.
    """
    rng = np.random.default_rng(seed)
    rows = -(-len(FLAWS) // _FLAW_COLUMNS)
    kinds_top, scenes_top = 150, 150 + 56 + _LARGE + 70
    flaws_top = scenes_top + 56 + _LARGE + 150
    canvas = Image.new("RGB", (_WIDTH, flaws_top + 56 + rows * (_CARD_HEIGHT + _PAD)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_PAD, 34), "The micro world", font=font(44), fill=INK)
    draw.text((_PAD, 94), "small images whose ground truth is known exactly", font=font(20), fill=FAINT)
    single = [_scene_with(name, rng) for name in KINDS]
    several = [sample_scene(rng, count) for count in (2, 2, 3, 3, 4, 4, 4)]
    for top, heading, scenes in (
        (kinds_top, f"{len(KINDS)} kinds of things", single),
        (scenes_top, "Scenes of two to four things", several),
    ):
        _heading(draw, top, heading)
        for column, scene in enumerate(scenes):
            x, y = _PAD + column * (_LARGE + _PAD), top + 56
            _framed(canvas, fitted(render(scene), _LARGE), (x, y))
            caption = "\n".join(textwrap.wrap(scene.caption, 30))
            draw.multiline_text((x, y + _LARGE + 8), caption, font=font(12), fill=FAINT, spacing=3)
    _flaws(canvas, flaws_top, rng)
    return canvas


def flaw_sheet(seed: int = 0) -> Image.Image:
    """All kinds of flaws, with what is wrong and why; an RGB image.

    Args:
        seed: the same seed gives the same sheet.
    """
    rows = -(-len(FLAWS) // _FLAW_COLUMNS)
    canvas = Image.new("RGB", (_WIDTH, 56 + _PAD + rows * (_CARD_HEIGHT + _PAD)), PAPER)
    _flaws(canvas, _PAD, np.random.default_rng(seed))
    return canvas


def _flaws(canvas: Image.Image, top: int, rng: np.random.Generator) -> None:
    _heading(ImageDraw.Draw(canvas), top, f"{len(FLAWS)} kinds of flaws: without the flaw, with it, and its mask")
    for place, kind in enumerate(FLAWS.values()):
        row, column = divmod(place, _FLAW_COLUMNS)
        corner = (_PAD + column * (_CARD + _PAD), top + 56 + row * (_CARD_HEIGHT + _PAD))
        _flaw_card(canvas, corner, kind, rng)


def _scene_with(kind: str, rng: np.random.Generator) -> Scene:
    while True:
        scene = sample_scene(rng, 1)
        if scene.things[0].kind == kind:
            return scene


def _heading(draw: ImageDraw.ImageDraw, y: int, text: str) -> None:
    draw.line((_PAD, y, _WIDTH - _PAD, y), fill=RULE, width=2)
    draw.text((_PAD, y + 14), text, font=font(24), fill=INK)


def _framed(canvas: Image.Image, view: Image.Image, corner: tuple[int, int]) -> None:
    x, y = corner
    canvas.paste(view, corner)
    ImageDraw.Draw(canvas).rectangle((x - 1, y - 1, x + view.width, y + view.height), outline=RULE)


def _masked(image: Image.Image, mask: Mask, colour: str) -> Image.Image:
    """The faded image, with the pixels of the mask in a colour."""
    faded = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, CARD), 0.7)
    faded.paste(colour, mask=Image.fromarray(mask.astype(np.uint8) * 255))
    return faded


def _flaw_card(canvas: Image.Image, corner: tuple[int, int], kind: FlawKind, rng: np.random.Generator) -> None:
    x, y = corner
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((x, y, x + _CARD, y + _CARD_HEIGHT), radius=10, fill=CARD, outline=RULE)
    flawed = inject(_scene_with(kind.things[int(rng.integers(len(kind.things)))], rng), rng, 1, [kind.name])
    while not flawed.regions:
        flawed = inject(_scene_with(kind.things[0], rng), rng, 1, [kind.name])
    region = flawed.regions[0]
    colour = KIND_COLOURS[kind.category.legion]
    views = (render(flawed.scene), flawed.image, _masked(flawed.image, region.pixels(Size(SIZE, SIZE)), colour))
    gap = (_CARD - 3 * _SMALL) // 4
    for column, view in enumerate(views):
        _framed(canvas, fitted(view, _SMALL), (x + gap + column * (_SMALL + gap), y + gap))
    draw.text((x + gap, y + _SMALL + 24), kind.name.replace("_", " "), font=font(18), fill=INK)
    label = f"{kind.category.legion} / {kind.category.xaigd}"
    draw.text((x + _CARD - gap, y + _SMALL + 27), label, font=font(13), fill=colour, anchor="ra")
    draw.text((x + gap, y + _SMALL + 50), region.explanation, font=font(14), fill=INK)
    draw.text((x + gap, y + _SMALL + 70), region.reasoning, font=font(14), fill=FAINT)
