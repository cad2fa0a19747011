"""The gallery of README and docs: images of the bundled models before and after refinement, not selected by hand.

``gallery.png`` shows the first held-out prompts of the benchmark, at its first seed, for which the detector finds a
flaw in the start image. Images that did not get better are included. Below each image are the counts of detector and
referee (the program that knows the truth of a scene, ``refiner.micro.oracle``), and what the detector says about the
start image. ``flaws.png`` has all kinds of flaws that the detector learned from.

Run with ``make gallery`` or ``python tests/benchmarks/gallery.py [--pairs N] [--out DIR]``.
"""

from __future__ import annotations

import argparse
import functools
import textwrap
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from refiner import RefinedPipeline
from refiner.micro.oracle import inspect
from refiner.pipelines.bench import cases
from refiner.reports.contact_sheet import flaw_sheet
from refiner.reports.overlays import BAD, FAINT, GOOD, INK, PAPER, RULE, fitted, overlay
from refiner.types import Analysis, RefinementResult

SIDE, GAP, COLUMNS = 320, 12, 2
MARGIN, TITLE, NOTES, LINE, LINES = 26, 40, 28, 18, 3
_font = functools.cache(ImageFont.load_default)


class Pair(NamedTuple):
    """A refinement, and the referee's flaws of its start image and of its kept image."""

    result: RefinementResult
    before: int
    after: int


def pairs_of(pipe: RefinedPipeline, count: int) -> tuple[list[Pair], int]:
    """The first pairs, and the number of prompts that were skipped because their start image has no detected flaw."""
    pairs: list[Pair] = []
    clean = 0
    for case in cases(50 * count, 1):
        if len(pairs) == count:
            break
        result = pipe.stream(case.scene.caption, seed=case.seed, index=case.number).result
        start = result.attempts[0]
        if start.analysis is None or not start.analysis.regions or start.image is None:
            clean += 1
            continue
        found = [inspect(image, case.scene).count for image in (start.image, result.image)]
        pairs.append(Pair(result, *found))
    return pairs, clean


def drawn(pairs: list[Pair]) -> Image.Image:
    """All pairs on one RGB image: captions above, counts below."""
    wide, high = 2 * SIDE + GAP, TITLE + SIDE + NOTES + LINE * LINES
    rows = -(-len(pairs) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (wide + MARGIN) + MARGIN, rows * (high + MARGIN) + MARGIN), PAPER)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, COLUMNS)
        _draw(canvas, pair, MARGIN + column * (wide + MARGIN), MARGIN + row * (high + MARGIN))
    return canvas


def _draw(canvas: Image.Image, pair: Pair, x: int, y: int) -> None:
    draw = ImageDraw.Draw(canvas)
    result, start, best = pair.result, pair.result.attempts[0], pair.result.attempts[pair.result.best]
    lines = textwrap.wrap(result.prompt, 100, max_lines=2, placeholder=" ...")
    draw.multiline_text((x, y), "\n".join(lines), font=_font(13), fill=INK, spacing=3)
    better = pair.after < pair.before
    colour = GOOD if better else BAD if pair.after > pair.before else FAINT
    accepted = {attempt.action for attempt in result.attempts if attempt.accepted}
    kept = "regenerated" if "regenerate" in accepted else "inpainted" if "inpaint" in accepted else "unchanged"
    sides = (
        (start.image, start.analysis, "start", pair.before, FAINT),
        (best.image, best.analysis, kept, pair.after, colour),
    )
    y += TITLE
    for number, (image, analysis, name, flaws, ink) in enumerate(sides):
        assert image is not None
        left = x + number * (SIDE + GAP)
        picture = overlay(image, analysis, SIDE, fill=False) if number == 0 else fitted(image, SIDE)
        canvas.paste(picture, (left, y))
        draw.rectangle((left - 1, y - 1, left + SIDE, y + SIDE), outline=RULE)
        draw.text((left, y + SIDE + 6), name, font=_font(13), fill=INK)
        words = f"detector {_count(analysis)}, referee {flaws}"
        draw.text((left + SIDE, y + SIDE + 6), words, font=_font(13), fill=ink, anchor="ra")
    for row, text in enumerate(_said(start.analysis)):
        draw.text((x, y + SIDE + NOTES + row * LINE), text, font=_font(13), fill=FAINT)


def _said(analysis: Analysis | None) -> list[str]:
    """What is wrong and why, a line for each region; the last line says how many more there are."""
    regions = () if analysis is None else analysis.regions
    lines = [
        f"{number}  {region.explanation}: {region.reasoning} ({region.category}, severity {region.severity:.1f})"
        for number, region in enumerate(regions, start=1)
    ]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"and {len(lines) - LINES + 1} more"]


def _count(analysis: Analysis | None) -> str:
    return "?" if analysis is None else str(len(analysis.regions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs")
    options = parser.parse_args()
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    pairs, clean = pairs_of(pipe, options.pairs)
    drawn(pairs).quantize(256).save(options.out / "gallery.png", optimize=True)
    flaw_sheet().quantize(256).save(options.out / "flaws.png", optimize=True)
    before, after = sum(pair.before for pair in pairs), sum(pair.after for pair in pairs)
    print(f"{len(pairs)} pairs, {clean} starts without flaws skipped; referee's flaws {before} -> {after}")


if __name__ == "__main__":
    main()
