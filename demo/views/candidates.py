"""All that was painted for the regions of a kept image, to pick from by hand: as HTML, and as choices."""

from __future__ import annotations

import numpy as np
from PIL import Image

from refiner.demo.views.parts import web_image, words
from refiner.patches import Candidates
from refiner.types import RefinementResult

_SIDE = 240
"""Longer side of a candidate on the page, in pixels."""


def candidates(result: RefinementResult) -> str:
    """Each inpainted region of the kept image, as it is now and with each of its candidates; empty without any."""
    patches = [_patch(number, patch, result.image) for number, patch in enumerate(result.candidates)]
    return f'<div class="rf-patches">{"".join(patches)}</div>' if patches else ""


def candidate_choices(result: RefinementResult) -> list[tuple[str, str]]:
    """A label and a value for each candidate; ``read_choice`` reads the value."""
    return [
        (f"{_number(region, candidate)} {patch.name}", f"{region}:{candidate}")
        for region, patch in enumerate(result.candidates)
        for candidate in range(len(patch.images))
    ]


def read_choice(value: object) -> tuple[int, int] | None:
    """The region and the candidate of a value of ``candidate_choices``; None if it is none."""
    region, _, candidate = str(value).partition(":")
    known = all(part.isdecimal() and len(part) < 6 for part in (region, candidate))
    return (int(region), int(candidate)) if known else None


def _number(region: int, candidate: int) -> str:
    return f"{region + 1}.{candidate + 1}"


def _patch(number: int, patch: Candidates, image: Image.Image) -> str:
    now = image.crop(patch.box)
    x0, y0, x1, y1 = patch.box
    mask = patch.mask[y0:y1, x0:x1]
    shown = [np.array_equal(np.asarray(one)[mask], np.asarray(now)[mask]) for one in patch.images]
    figures = [_figure("now", f"{patch.name} as it is now", now, chosen=False)]
    for candidate, one in enumerate(patch.images):
        label = _number(number, candidate)
        used = shown[candidate]
        figures.append(_figure(f"{label}{', in use' if used else ''}", f"{patch.name}, {label}", one, chosen=used))
    return f'<div><h3>{number + 1} {words(patch.name)}</h3><div class="rf-options">{"".join(figures)}</div></div>'


def _figure(caption: str, alt: str, image: Image.Image, *, chosen: bool) -> str:
    kind = ' class="rf-chosen"' if chosen else ""
    return f'<figure{kind}><img src="{web_image(image, _SIDE)}" alt="{words(alt)}"><p>{words(caption)}</p></figure>'
