"""Marked images: regions on an image, before beside after, and a sheet of all attempts."""

from __future__ import annotations

import bisect
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import get_args

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from refiner.reports.wording import judge_words
from refiner.taxonomy import LegionKind
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size, Step, StepOutcome

PAPER, CARD, INK, FAINT, RULE = "#f6f5f1", "#ffffff", "#1b1b1a", "#6d6b66", "#dedbd3"
GOOD, BAD = "#1f7a4d", "#b3362b"

KIND_COLOURS: Mapping[LegionKind | None, str] = {
    LegionKind.STRUCTURE: "#e0342b",
    LegionKind.DISTORTION: "#8b2fd6",
    LegionKind.PHYSICS: "#2563eb",
    None: "#b45309",
}
"""Colours of outline and number of a region, by the kind of its flaw; None is that of misalignments."""

_DIRECTIONS = ((-1, -1), (1, -1), (-1, 1), (1, 1), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Of the places for a region's number: across, down."""
_VIEW = 480
_MARGIN = 28


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int) -> Font:
    """The font of all texts on images."""
    return ImageFont.load_default(size)


def enlarged(image: Image.Image, side: int = _VIEW) -> Image.Image:
    """The image, scaled up by a whole factor if its longer side is below ``side`` pixels."""
    factor = max(1, math.ceil(side / max(image.size)))
    return image if factor == 1 else fitted(image, factor * max(image.size))


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image with its longer side scaled to ``side`` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def marks(analysis: Analysis, size: tuple[int, int], *, fill: bool = True) -> Image.Image:
    """Outlines and numbers (from 1) of the regions, on a transparent RGBA layer of ``size`` (width, height).

    An outline has a coloured, a light and a dark line, so that it contrasts with any image.
    """
    layer = Image.new("RGBA", size)
    line = max(2, round(max(size) / 240))
    for region in (region for region in analysis.regions if region.placed):
        colour = KIND_COLOURS[region.category.legion]
        inside = Image.fromarray(region.pixels(analysis.size).astype(np.uint8) * 255)
        inside = inside.resize(size, Image.Resampling.BICUBIC).point(lambda value: 255 if value > 127 else 0)
        reached = inside
        for ink, width in ((colour, line), ("#ffffff", (line + 1) // 2), (INK, (line + 1) // 2)):
            wider = reached.filter(ImageFilter.MaxFilter(2 * width + 1))
            layer.paste(ink, mask=ImageChops.subtract(wider, reached))
            reached = wider
        if fill:
            layer.paste(f"{colour}2c", mask=inside)
    _badges(layer, analysis)
    return layer


def _badges(layer: Image.Image, analysis: Analysis) -> None:
    """Draw the numbers of the regions, each on the edge of its region and, where there is room, beside the others."""
    draw = ImageDraw.Draw(layer)
    width, height = layer.size
    radius = max(9, round(max(layer.size) / 42))
    taken: list[tuple[float, float]] = []
    for index, region in enumerate(analysis.regions, start=1):
        places = [
            (min(max(x * width, radius), width - radius - 1), min(max(y * height, radius), height - radius - 1))
            for x, y in badge_points(region, analysis.size)
        ]
        free = [place for place in places if all(math.dist(place, other) > 2 * radius for other in taken)]
        if not places:
            continue
        x, y = (free or places)[0]
        taken.append((x, y))
        circle = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(circle, fill=KIND_COLOURS[region.category.legion], outline="white", width=max(1, radius // 6))
        draw.text((x, y), str(index), font=font(round(radius * 1.25)), fill="white", anchor="mm")


def badge_points(region: Region, size: Size) -> list[tuple[float, float]]:
    """Points of a region for its number: its outermost pixels in eight directions, the best first; empty if unplaced.

    Args:
        region: of an image of ``size``.

    Returns:
        (x, y) in shares of width and height.
    """
    rows, columns = np.nonzero(region.pixels(size)) if region.placed else ((), ())
    if not len(rows):
        return []
    found = [int(np.argmax(right * columns + down * rows)) for right, down in _DIRECTIONS]
    return [((columns[at] + 0.5) / size.width, (rows[at] + 0.5) / size.height) for at in found]


def overlay(
    image: Image.Image, analysis: Analysis | None, side: int | None = None, *, fill: bool = True
) -> Image.Image:
    """The image with its regions outlined and numbered; RGB, scaled to ``side``, or enlarged if that is None."""
    view = (enlarged(image) if side is None else fitted(image, side)).convert("RGB")
    if analysis is not None:
        layer = marks(analysis, view.size, fill=fill)
        view.paste(layer, mask=layer.getchannel("A"))
    return view


def flaw_words(analysis: Analysis | None) -> str:
    """The analysis in words, such as "2 flaws, 3.1 % of the image"."""
    if analysis is None:
        return "not analysed"
    count, unplaced = len(analysis.regions), sum(not region.placed for region in analysis.regions)
    if not count:
        return "no flaws found"
    flaws = f"{count} flaw{'s' if count > 1 else ''}"
    if unplaced == count:
        return f"{flaws}, place not known"
    area = f"{100 * analysis.artifact_ratio:.1f} % of the image"
    return f"{flaws}, {area}" + (f", place of {unplaced} not known" if unplaced else "")


def trace_words(trace: Sequence[Step]) -> str:
    """How many steps had which outcome, such as "5 found, 3 confirmed, 2 rejected"."""
    counts = Counter(step.outcome for step in trace)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in get_args(StepOutcome) if counts[outcome])


def by_stage(trace: Sequence[Step]) -> list[tuple[str, list[Step]]]:
    """The steps of a trace in order, those of one stage together under its name."""
    return [(stage, list(steps)) for stage, steps in groupby(trace, attrgetter("stage"))]


def place_words(region: Region) -> str:
    """The location of a region in words; says so if its place is not known; may be empty."""
    return region.location or ("" if region.placed else "place not known")


def before_after(result: RefinementResult) -> Image.Image | None:
    """The start image beside the best one, with captions; None if there is no image."""
    generated = [attempt for attempt in result.attempts if attempt.image is not None]
    best = result.attempts[result.best]
    if not generated or best.image is None:
        return None
    panels = [("BEFORE", generated[0]), ("AFTER", best)]
    views = [overlay(attempt.image, attempt.analysis, _VIEW, fill=False) for _, attempt in panels if attempt.image]
    width = 2 * _VIEW + 3 * _MARGIN
    title = _wrap(result.prompt, font(22), width - 2 * _MARGIN, lines=3)
    top = _MARGIN + 30 * len(title) + 14
    height = top + 34 + max(view.height for view in views) + 46 + 8
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    _lines(draw, (_MARGIN, _MARGIN), title, font(22), INK, 30)
    for column, ((name, attempt), view) in enumerate(zip(panels, views, strict=True)):
        x = _MARGIN + column * (_VIEW + _MARGIN)
        draw.text((x, top), name, font=font(13), fill=FAINT)
        draw.text((x + _VIEW, top), f"attempt {attempt.index}", font=font(13), fill=FAINT, anchor="ra")
        canvas.paste(view, (x, top + 24))
        draw.text((x, top + 24 + view.height + 10), flaw_words(attempt.analysis), font=font(16), fill=INK)
    return canvas


def sheet(result: RefinementResult) -> Image.Image:
    """All attempts as cards: the image with its regions, whether it was kept, and why."""
    side, pad = 300, 14
    text_height = 108 + 20 * max(len(attempt.scores) for attempt in result.attempts)
    columns = min(4, len(result.attempts))
    rows = math.ceil(len(result.attempts) / columns)
    width = columns * (side + 2 * pad) + (columns + 1) * pad
    title = _wrap(result.prompt, font(20), width - 2 * pad, lines=2)
    top = pad + 28 * len(title) + 10
    card_height = side + 2 * pad + text_height
    canvas = Image.new("RGB", (width, top + rows * (card_height + pad)), PAPER)
    draw = ImageDraw.Draw(canvas)
    _lines(draw, (pad, pad), title, font(20), INK, 28)
    for place, attempt in enumerate(result.attempts):
        x = pad + (place % columns) * (side + 3 * pad)
        y = top + (place // columns) * (card_height + pad)
        kept = place == result.best
        frame = (x, y, x + side + 2 * pad, y + card_height)
        draw.rounded_rectangle(frame, radius=8, fill=CARD, outline=GOOD if kept else RULE, width=3 if kept else 1)
        _card(canvas, attempt, (x + pad, y + pad), side, kept=kept)
    return canvas


def overview(results: Sequence[RefinementResult]) -> Image.Image:
    """The kept images of several results, each with its number and with its flaws before and after."""
    side, pad, text_height = 300, 14, 90
    columns = min(4, len(results))
    rows = math.ceil(len(results) / columns)
    width = columns * (side + pad) + pad
    title = _wrap(results[0].prompt, font(20), width - 2 * pad, lines=2)
    top = pad + 28 * len(title) + 10
    canvas = Image.new("RGB", (width, top + rows * (side + text_height)), PAPER)
    draw = ImageDraw.Draw(canvas)
    _lines(draw, (pad, pad), title, font(20), INK, 28)
    for place, result in enumerate(results):
        start, best = result.attempts[0], result.attempts[result.best]
        x, y = pad + (place % columns) * (side + pad), top + (place // columns) * (side + text_height)
        if best.image is None:
            draw.rectangle((x, y, x + side, y + side), outline=RULE)
            draw.text((x + side / 2, y + side / 2), "no image", font=font(16), fill=FAINT, anchor="mm")
        else:
            view = fitted(best.image, side)
            canvas.paste(view, (x + (side - view.width) // 2, y + (side - view.height) // 2))
        facts = [f"image-{place:02d}", f"start: {flaw_words(start.analysis)}", f"kept: {flaw_words(best.analysis)}"]
        _lines(draw, (x, y + side + 8), [_cut(text, font(14), side) for text in facts], font(14), INK, 20)
    return canvas


def _card(canvas: Image.Image, attempt: Attempt, corner: tuple[int, int], side: int, *, kept: bool) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    if attempt.image is None:
        draw.rectangle((x, y, x + side, y + side), fill=PAPER, outline=RULE)
        draw.text((x + side / 2, y + side / 2), "no image", font=font(16), fill=FAINT, anchor="mm")
    else:
        view = overlay(attempt.image, attempt.analysis, side)
        canvas.paste(view, (x + (side - view.width) // 2, y + (side - view.height) // 2))
    y += side + 12
    colour = GOOD if attempt.accepted else BAD
    draw.ellipse((x, y, x + 18, y + 18), fill=colour)
    tick, cross = [[(5, 9), (8, 13), (14, 5)]], [[(5, 5), (13, 13)], [(5, 13), (13, 5)]]
    for stroke in tick if attempt.accepted else cross:
        draw.line([(x + across, y + down) for across, down in stroke], fill="white", width=2)
    verdict = "kept" if kept else "accepted" if attempt.accepted else "rejected"
    draw.text((x + 26, y), f"{attempt.index}  {attempt.action}", font=font(17), fill=INK)
    draw.text((x + side, y + 2), verdict, font=font(14), fill=colour, anchor="ra")
    facts = [flaw_words(attempt.analysis)]
    facts += [f"{judge_words(score.name)}: {score.value:.4g}" for score in attempt.scores]
    y = _lines(draw, (x, y + 28), [_cut(text, font(14), side) for text in facts], font(14), INK, 20)
    _lines(draw, (x, y), _wrap(attempt.error or attempt.reason, font(13), side, lines=3), font(13), FAINT, 18)


def _lines(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], face: Font, colour: str, step: int
) -> int:
    """Draw lines of text, ``step`` pixels apart; returns the y of the line after the last."""
    x, y = corner
    for text in lines:
        draw.text((x, y), text, font=face, fill=colour)
        y += step
    return y


def _cut(text: str, face: Font, width: float) -> str:
    text = text[: int(width)]  # no letter is narrower than a pixel
    if face.getlength(text) <= width:
        return text
    fits = bisect.bisect(range(len(text)), width, key=lambda count: face.getlength(text[:count] + "..."))
    return text[: max(0, fits - 1)].rstrip() + "..."


def _wrap(text: str, face: Font, width: float, *, lines: int) -> list[str]:
    """Break at spaces into at most ``lines`` lines, and cut off the rest."""
    words = text.split()
    rows: list[str] = []
    while words and len(rows) < lines - 1:
        row = words.pop(0)
        while words and face.getlength(f"{row} {words[0]}") <= width:
            row += f" {words.pop(0)}"
        rows.append(_cut(row, face, width))
    return rows + [_cut(" ".join(words), face, width)] if words else rows
