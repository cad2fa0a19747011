"""The HPS v2 benchmark: its prompts, its folders of images, and its table (HPDv2, Wu et al., arXiv 2306.09341).

Prompts are in ``<style>.json``, a list of strings. The image of prompt 17 of a style is ``<images>/<style>/00017.jpg``.
The published figures are cosines times 100. That of a style is the mean over the means of consecutive chunks of 80
images, with the standard deviation of those means (ddof 0). The average is over all images, not over styles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refiner.errors import InputError
from refiner.metrics.hps.scorer import HPSScorer, Scored

STYLES = {"anime": "Animation", "concept-art": "Concept-art", "paintings": "Painting", "photo": "Photo"}
"""Style -> its name in the published table, in the table's order."""
CHUNK = 80
SIGNATURE = f"hps-benchmark|version=1|times=100|style=mean_of_chunks_of_{CHUNK}|deviation=ddof_0|average=images"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt of the benchmark and the image generated from it."""

    style: str
    index: int
    prompt: str
    path: Path | None
    """None if there is no image."""

    @property
    def name(self) -> str:
        """Style and number, such as ``anime/00017``."""
        return f"{self.style}/{self.index:05d}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table."""

    style: str
    mean: float | None
    """Times 100; None if nothing was scored."""
    deviation: float | None
    """Standard deviation of the chunks' means, ddof 0, times 100; None for the average."""
    images: int
    """Images that were scored."""
    missing: int
    """Prompts without a score: there is no image, or there was an error."""


def read_prompts(folder: str | Path) -> dict[str, list[str]]:
    """The prompts of each style, from ``<style>.json`` in the folder.

    Raises:
        InputError: a file is missing, or is not a list of prompts.
    """
    return {style: _read_list(Path(folder) / f"{style}.json") for style in STYLES}


def _read_list(path: Path) -> list[str]:
    try:
        prompts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"The benchmark's prompts {str(path)!r} do not exist: download HPDv2's benchmark folder."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"Cannot read the prompts in {str(path)!r} ({error}): download the file again.") from error
    if not isinstance(prompts, list) or not prompts:
        raise InputError(f"{str(path)!r} is not a JSON list of prompts: download the file again.")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"{prompt!r} at place {number} of {str(path)!r} is not a prompt: download the file again.")
    return prompts


def find_images(root: str | Path, prompts: Mapping[str, Sequence[str]]) -> list[Item]:
    """The image of each prompt, ``<root>/<style>/<index, five digits>`` with one of ``SUFFIXES``.

    Raises:
        InputError: no folder of a style, images without a prompt, or two images of one prompt.
    """
    return [item for style, texts in prompts.items() for item in _style_items(Path(root) / style, style, texts)]


def _style_items(folder: Path, style: str, prompts: Sequence[str]) -> Iterator[Item]:
    if not folder.is_dir():
        raise InputError(f"The folder {str(folder)!r} of the style {style!r} does not exist: generate its images.")
    names = [f"{index:05d}" for index in range(len(prompts))]
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES:
            continue
        if path.stem in found:
            raise InputError(
                f"Expected one image of each prompt, got {found[path.stem].name} and {path.name} in {str(folder)!r}: "
                "remove one."
            )
        found[path.stem] = path
    stray = sorted(found.keys() - set(names))
    if stray:
        raise InputError(
            f"Expected images named {names[0]} to {names[-1]} in {str(folder)!r}, got {found[stray[0]].name} and "
            f"{len(stray) - 1} more without a prompt: remove or rename them."
        )
    for index, prompt in enumerate(prompts):
        yield Item(style=style, index=index, prompt=prompt, path=found.get(names[index]))


def score_items(scorer: HPSScorer, items: Sequence[Item]) -> Iterator[Scored | None]:
    """One outcome for each item, in order; None if there is no image."""
    paths = {item: item.path for item in items if item.path is not None}
    outcomes = scorer.stream(paths.values(), [item.prompt for item in paths])
    yield from (next(outcomes) if item in paths else None for item in items)


def table(scores: Iterable[tuple[str, float | None]], *, compat: bool = False) -> tuple[Row, ...]:
    """A row for each style, in order of appearance, then one named "average".

    As in the reference, chunks are made of the images that exist.

    Args:
        scores: style and raw cosine of each prompt; None if there is none.
        compat: multiply by 100 in float16, as the reference does on a GPU.
    """
    by_style: dict[str, list[float | None]] = {}
    for style, score in scores:
        if score is not None:
            score = float(np.float16(score) * np.float16(100)) if compat else 100.0 * score
        by_style.setdefault(style, []).append(score)
    rows = [_row(style, values) for style, values in by_style.items()]
    every = [value for values in by_style.values() for value in values if value is not None]
    average = float(np.mean(every)) if every else None
    missing = sum(row.missing for row in rows)
    return *rows, Row(style="average", mean=average, deviation=None, images=len(every), missing=missing)


def _row(style: str, values: Sequence[float | None]) -> Row:
    scored = [value for value in values if value is not None]
    missing = len(values) - len(scored)
    if not scored:
        return Row(style=style, mean=None, deviation=None, images=0, missing=missing)
    chunks = [float(np.mean(scored[at : at + CHUNK])) for at in range(0, len(scored), CHUNK)]
    mean, deviation = float(np.mean(chunks)), float(np.std(chunks))
    return Row(style=style, mean=mean, deviation=deviation, images=len(scored), missing=missing)
