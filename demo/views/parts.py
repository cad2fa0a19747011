"""Parts of the page: images with their regions, and lists of flaws. All text from users and models is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from refiner.demo.views.outlines import svg_path
from refiner.reports.overlays import badge_points, by_stage, enlarged, fitted, flaw_words, place_words, trace_words
from refiner.types import Analysis, Region, Step

SIDE = 720
"""Longer side of an image on the page, in pixels."""


LONGEST = 4000
"""Most characters that are shown of any text."""


def words(text: str) -> str:
    """Escape a text from users or models, and cut it to ``LONGEST`` characters."""
    return escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def web_image(image: Image.Image, side: int = SIDE) -> str:
    """A data URL of the image as WebP; its longer side has between half of ``side`` and ``side`` pixels."""
    shown = fitted(image, side) if max(image.size) > side else enlarged(image, side // 2)
    return _data(shown.convert("RGB"), "WEBP", quality=90)


def _data(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def stage(image: Image.Image, analysis: Analysis | None, alt: str) -> str:
    """An image with the outlines of its regions. Each region can be hovered, clicked or reached by the tab key.

    Args:
        image: RGB.
        analysis: of that image; None: no outlines.
        alt: plain text that describes the image.
    """
    said = f"{alt}: {flaw_words(analysis)}" if analysis is not None else alt
    picture = f'<img src="{web_image(image)}" alt="{words(said)}">'
    if analysis is None:
        return f'<div class="rf-stage">{picture}</div>'
    heat = f'<img class="rf-heat" src="{_heat(analysis)}" alt="">' if analysis.heatmap is not None else ""
    height, width = analysis.size
    numbered = [(number, region) for number, region in enumerate(analysis.regions, start=1) if region.placed]
    # The largest region is drawn first, so that a small one inside it can still be hovered.
    drawn = sorted(numbered, key=lambda item: -int(item[1].pixels(analysis.size).sum()))
    shapes = "".join(_shape(number, region, analysis) for number, region in drawn)
    svg = f'<svg viewBox="0 0 {width} {height}" role="group" aria-label="Regions">{shapes}</svg>' if numbered else ""
    badges = "".join(_badge(number, region, analysis) for number, region in numbered)
    tips = "".join(_tip(number, region, analysis) for number, region in numbered)
    return f'<div class="rf-stage">{picture}{heat}{svg}{badges}{tips}</div>'


def _shape(number: int, region: Region, analysis: Analysis) -> str:
    label = f"{number}: {region.name}, {_kind(region)}, severity {region.severity:.2f}. {region.explanation}"
    path = svg_path(region.pixels(analysis.size))
    return (
        f'<path class="rf-dark" d="{path}"/><path class="rf-light" d="{path}"/>'
        f'<path class="rf-region {_colour(region)}" data-region="{number}" tabindex="0" role="button" '
        f'aria-pressed="false" aria-label="{words(label)}" d="{path}"/>'
    )


def _badge(number: int, region: Region, analysis: Analysis) -> str:
    points = badge_points(region, analysis.size)
    if not points:
        return ""
    x, y = points[0]
    place = f"left:{100 * x:.1f}%;top:{100 * y:.1f}%"
    return (
        f'<span class="rf-badge {_colour(region)}" data-region="{number}" style="{place}" aria-hidden="true">'
        f"{number}</span>"
    )


def _tip(number: int, region: Region, analysis: Analysis) -> str:
    """A tooltip below the region, or above it in the lower half; at its left edge, or its right in the right half."""
    assert region.box is not None
    x0, y0, x1, y1 = region.box
    height, width = analysis.size
    across = f"left:{100 * x0 / width:.1f}%" if x0 + x1 <= width else f"right:{100 - 100 * x1 / width:.1f}%"
    down = f"top:{100 * y1 / height:.1f}%" if y0 + y1 <= height else f"bottom:{100 - 100 * y0 / height:.1f}%"
    return (
        f'<div class="rf-tip" data-region="{number}" style="{across};{down}" aria-hidden="true">'
        f"<strong>{words(region.name)}</strong><span>{words(region.explanation)}</span>"
        f"<span>{_kind(region)} · severity {region.severity:.2f}</span></div>"
    )


def _colour(region: Region) -> str:
    """The class that colours a region by the kind of its flaw."""
    return f"rf-{region.category.legion or region.category}"


def _kind(region: Region) -> str:
    return str(region.category).replace("_", " ")


def notes(analysis: Analysis | None) -> str:
    """The flaws of an analysis as a list, one entry for each region; empty if there is none."""
    if analysis is None or not analysis.regions:
        return ""
    rows = "".join(_note(number, region) for number, region in enumerate(analysis.regions, start=1))
    return f'<ol class="rf-notes">{rows}</ol>'


def _note(number: int, region: Region) -> str:
    where = place_words(region)
    place = f' <span class="rf-faint">{words(where)}</span>' if where else ""
    why = f'<p class="rf-faint">{words(region.reasoning)}</p>' if region.reasoning else ""
    return (
        f'<li data-region="{number}"><span class="rf-number {_colour(region)}">{number}</span><div>'
        f"<p><strong>{words(region.name)}</strong>{place}</p><p>{words(region.explanation)}</p>{why}"
        f'<p class="rf-facts"><span>{_kind(region)}</span>'
        f'<span>severity {region.severity:.2f} <i class="rf-meter"><i style="width:{100 * region.severity:.0f}%"></i>'
        f"</i></span><span>confidence {region.score:.0%}</span></p></div></li>"
    )


def explained(terms: Mapping[str, str]) -> str:
    """Terms and what they mean, as a list."""
    rows = "".join(f"<div><dt>{words(term)}</dt> <dd>{words(meaning)}.</dd></div>" for term, meaning in terms.items())
    return f'<dl class="rf-terms">{rows}</dl>'


def how_found(analysis: Analysis | None) -> str:
    """The steps that led to the regions, folded; empty if the detector gives none."""
    if analysis is None or not analysis.trace:
        return ""
    stages = "".join(
        f"<h4>{words(stage)}</h4><ul>{''.join(map(_step, steps))}</ul>" for stage, steps in by_stage(analysis.trace)
    )
    said = words(trace_words(analysis.trace))
    return f'<details class="rf-trace"><summary>How it was found ({said})</summary>{stages}</details>'


def _step(step: Step) -> str:
    why = f'<p class="rf-faint">{words(step.reason)}</p>' if step.reason else ""
    return (
        f'<li><span class="rf-outcome rf-{step.outcome}">{step.outcome}</span><div>'
        f"<p><strong>{words(step.subject)}</strong> {words(step.text)}</p>{why}</div></li>"
    )


def _heat(analysis: Analysis) -> str:
    """The heat map as an image layer: 0 is transparent, 0.5 is red, 1 is yellow."""
    assert analysis.heatmap is not None
    values = np.nan_to_num(np.clip(analysis.heatmap, 0.0, 1.0))
    layer = np.zeros((*values.shape, 4), dtype=np.uint8)
    layer[..., 0] = 255
    layer[..., 1] = (255 * np.clip(2 * values - 1, 0, 1)).astype(np.uint8)
    layer[..., 3] = (220 * np.sqrt(values)).astype(np.uint8)
    image = Image.fromarray(layer)
    return _data(fitted(image, SIDE // 2) if max(image.size) > SIDE // 2 else image, "PNG")
