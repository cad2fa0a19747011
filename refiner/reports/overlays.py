"""Pictures about pictures: regions marked on an image, before beside after, and a sheet of all attempts."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from refiner.taxonomy import LegionKind
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size

PAPER, CARD, INK, FAINT, RULE = "#f6f5f1", "#ffffff", "#1b1b1a", "#6d6b66", "#dedbd3"
GOOD, BAD = "#1f7a4d", "#b3362b"

KIND_COLOURS = {LegionKind.STRUCTURE: "#e0342b", LegionKind.DISTORTION: "#8b2fd6", LegionKind.PHYSICS: "#2563eb"}
"""The colour of a region's outline and number, by the kind of its flaw."""

_VIEW = 480
_MARGIN = 28


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def enlarged(image: Image.Image, side: int = _VIEW) -> Image.Image:
    """The image, scaled up by a whole factor where its longer side is below ``side`` pixels."""
    factor = max(1, math.ceil(side / max(image.size)))
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image with its longer side scaled to ``side`` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def marks(analysis: Analysis, size: tuple[int, int], *, fill: bool = True) -> Image.Image:
    """Outlines and numbers (from 1) of the regions on a transparent RGBA layer of ``size`` (width, height)."""
    layer = Image.new("RGBA", size)
    line = max(2, round(max(size) / 240))
    for region in analysis.regions:
        colour = KIND_COLOURS[region.category.legion]
        inside = Image.fromarray(region.pixels(analysis.size).astype(np.uint8) * 255)
        inside = inside.resize(size, Image.Resampling.BICUBIC).point(lambda value: 255 if value > 127 else 0)
        edge = inside.filter(ImageFilter.MaxFilter(2 * line + 1))
        halo = edge.filter(ImageFilter.MaxFilter(3))
        layer.paste("#ffffffd0", mask=ImageChops.subtract(halo, edge))
        layer.paste(colour, mask=ImageChops.subtract(edge, inside))
        if fill:
            layer.paste(f"{colour}2c", mask=inside)
    _number(layer, analysis)
    return layer


def _number(layer: Image.Image, analysis: Analysis) -> None:
    draw = ImageDraw.Draw(layer)
    radius = max(9, round(max(layer.size) / 42))
    taken: list[tuple[float, float]] = []
    for index, region in enumerate(analysis.regions, start=1):
        x, y = _badge_place(region, analysis.size, layer.size, radius, taken)
        taken.append((x, y))
        circle = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(circle, fill=KIND_COLOURS[region.category.legion], outline="white", width=max(1, radius // 6))
        draw.text((x, y), str(index), font=_font(round(radius * 1.25)), fill="white", anchor="mm")


def _badge_place(
    region: Region, size: Size, view: tuple[int, int], radius: int, taken: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """A corner of the region's box that no other number covers, inside the picture."""
    across, down = view[0] / size.width, view[1] / size.height
    x0, y0, x1, y1 = region.box
    corners = [(x0, y0), (x1, y0), (x0, y1), (x1, y1)]
    places = [
        (min(max(x * across, radius), view[0] - radius - 1), min(max(y * down, radius), view[1] - radius - 1))
        for x, y in corners
    ]
    free = [place for place in places if all(math.dist(place, other) > 2 * radius for other in taken)]
    return (free or places)[0]


def overlay(
    image: Image.Image, analysis: Analysis | None, side: int | None = None, *, fill: bool = True
) -> Image.Image:
    """The image with its regions outlined and numbered; RGB, scaled to ``side`` or enlarged where it is small."""
    view = (enlarged(image) if side is None else fitted(image, side)).convert("RGB")
    if analysis is not None:
        layer = marks(analysis, view.size, fill=fill)
        view.paste(layer, mask=layer.getchannel("A"))
    return view


def flaw_words(analysis: Analysis | None) -> str:
    """How much is wrong, in words: "2 flaws, 3.1 % of the picture"."""
    if analysis is None:
        return "not analysed"
    count = len(analysis.regions)
    if not count:
        return "no flaws found"
    return f"{count} flaw{'s' if count > 1 else ''}, {100 * analysis.artifact_ratio:.1f} % of the picture"


def before_after(result: RefinementResult) -> Image.Image | None:
    """The start image beside the one that was kept, with captions; None where nothing was painted."""
    painted = [attempt for attempt in result.attempts if attempt.image is not None]
    best = result.attempts[result.best]
    if not painted or best.image is None:
        return None
    panels = [("Before", painted[0]), ("After", best)]
    pictures = [overlay(attempt.image, attempt.analysis, _VIEW, fill=False) for _, attempt in panels if attempt.image]
    width = 2 * _VIEW + 3 * _MARGIN
    title = _wrap(result.prompt, _font(22), width - 2 * _MARGIN, lines=3)
    top = _MARGIN + 30 * len(title) + 14
    height = top + 34 + max(picture.height for picture in pictures) + 46 + 8
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(title):
        draw.text((_MARGIN, _MARGIN + 30 * row), text, font=_font(22), fill=INK)
    for column, ((name, attempt), picture) in enumerate(zip(panels, pictures, strict=True)):
        x = _MARGIN + column * (_VIEW + _MARGIN)
        draw.text((x, top), name.upper(), font=_font(13), fill=FAINT)
        draw.text((x + _VIEW, top), f"attempt {attempt.index}", font=_font(13), fill=FAINT, anchor="ra")
        canvas.paste(picture, (x, top + 24))
        draw.text((x, top + 24 + picture.height + 10), flaw_words(attempt.analysis), font=_font(16), fill=INK)
    return canvas


def sheet(result: RefinementResult) -> Image.Image:
    """All attempts as cards: the picture with its regions, and whether and why it was kept."""
    side, pad, text_height = 300, 14, 128
    columns = min(4, len(result.attempts))
    rows = math.ceil(len(result.attempts) / columns)
    width = columns * (side + 2 * pad) + (columns + 1) * pad
    title = _wrap(result.prompt, _font(20), width - 2 * pad, lines=2)
    top = pad + 28 * len(title) + 10
    card_height = side + 2 * pad + text_height
    canvas = Image.new("RGB", (width, top + rows * (card_height + pad)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(title):
        draw.text((pad, pad + 28 * row), text, font=_font(20), fill=INK)
    for place, attempt in enumerate(result.attempts):
        x = pad + (place % columns) * (side + 3 * pad)
        y = top + (place // columns) * (card_height + pad)
        kept = place == result.best
        frame = (x, y, x + side + 2 * pad, y + card_height)
        draw.rounded_rectangle(frame, radius=8, fill=CARD, outline=GOOD if kept else RULE, width=3 if kept else 1)
        _card(canvas, attempt, (x + pad, y + pad), side, kept=kept)
    return canvas


def _card(canvas: Image.Image, attempt: Attempt, corner: tuple[int, int], side: int, *, kept: bool) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    if attempt.image is None:
        draw.rectangle((x, y, x + side, y + side), fill=PAPER, outline=RULE)
        draw.text((x + side / 2, y + side / 2), "no picture", font=_font(16), fill=FAINT, anchor="mm")
    else:
        picture = overlay(attempt.image, attempt.analysis, side)
        canvas.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    y += side + 12
    _tick(draw, (x + 9, y + 9), accepted=attempt.accepted)
    verdict = "kept" if kept else "accepted" if attempt.accepted else "rejected"
    draw.text((x + 26, y), f"{attempt.index}  {attempt.action}", font=_font(17), fill=INK)
    draw.text((x + side, y + 2), verdict, font=_font(14), fill=GOOD if attempt.accepted else BAD, anchor="ra")
    lines = [flaw_words(attempt.analysis)]
    lines += ["  ".join(f"{score.name}: {score.value:.4g}" for score in attempt.scores)] if attempt.scores else []
    y += 28
    for text in lines:
        draw.text((x, y), _cut(text, _font(14), side), font=_font(14), fill=INK)
        y += 20
    for text in _wrap(attempt.error or attempt.reason, _font(13), side, lines=3):
        draw.text((x, y), text, font=_font(13), fill=FAINT)
        y += 18


def _tick(draw: ImageDraw.ImageDraw, centre: tuple[int, int], *, accepted: bool) -> None:
    x, y = centre
    draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=GOOD if accepted else BAD)
    if accepted:
        draw.line([(x - 4, y), (x - 1, y + 4), (x + 5, y - 4)], fill="white", width=2)
    else:
        draw.line([(x - 4, y - 4), (x + 4, y + 4)], fill="white", width=2)
        draw.line([(x - 4, y + 4), (x + 4, y - 4)], fill="white", width=2)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    text = text[: int(width)]  # no letter is narrower than a pixel
    if font.getlength(text) <= width:
        return text
    fits = bisect.bisect(range(len(text)), width, key=lambda count: font.getlength(text[:count] + "..."))
    return text[: max(0, fits - 1)].rstrip() + "..."


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, *, lines: int) -> list[str]:
    """Break at spaces into at most ``lines`` lines; what does not fit is cut."""
    words = text.split()
    rows: list[str] = []
    while words and len(rows) < lines - 1:
        row = words.pop(0)
        while words and font.getlength(f"{row} {words[0]}") <= width:
            row += f" {words.pop(0)}"
        rows.append(_cut(row, font, width))
    return rows + [_cut(" ".join(words), font, width)] if words else rows
