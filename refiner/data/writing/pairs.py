"""Write preference pairs: image and mask files, and a file of pairs in a layout of ``refiner.data.pairs``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from refiner.data.pairs import FILES, Judgement, Pair, record_of
from refiner.data.problems import Problem, UnusableError
from refiner.data.writing.entries import plain
from refiner.data.writing.resuming import open_target
from refiner.errors import InputError
from refiner.files import Json, atomic_stream, check_writable, dumps
from refiner.images import load_image, save_png
from refiner.patches import difference
from refiner.provenance import ai_label, read
from refiner.records import picture_digest
from refiner.types import Analysis, Claim, Mask, Region, Size

RECORD: Final = "pairs.json"
"""File in the folder that says what it is written from; a run is continued only with the same settings."""
_FOLDERS: Final = ("images", "masks")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """One image of a refinement, as the detector and the judges saw it."""

    index: int
    """Number of the attempt."""
    action: str
    """What made it, such as ``inpaint``."""
    picture: Path
    analysis: Analysis
    scores: Mapping[str, float] = field(default_factory=dict)
    """Judge -> score; higher is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Two images of one prompt, of which the detector and the judges prefer one."""

    prompt: str
    run: str
    """Name of the run, for people."""
    action: str
    """What made the later of the two."""
    chosen: Tried
    rejected: Tried

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """What the detector says, then what each judge says."""
        detector, burdens = (
            self.rejected.analysis.detector,
            (self.chosen.analysis.burden, self.rejected.analysis.burden),
        )
        return (
            Judgement(by=plain(detector), measure="burden", chosen=burdens[0], rejected=burdens[1]),
            *(
                Judgement(by=plain(name), measure="score", chosen=score, rejected=self.rejected.scores[name])
                for name, score in self.chosen.scores.items()
            ),
        )


class Paired(NamedTuple):
    """What a run wrote."""

    file: Path
    """The file of pairs."""
    pairs: int
    written: int
    """Images and masks that this run wrote."""
    kept: int
    """Images and masks that were there before."""
    left_out: int
    """Pairs whose images cannot be used."""


def write_pairs(
    comparisons: Iterable[Comparison],
    folder: str | Path,
    to: str,
    problems: list[Problem],
    *,
    sources: Iterable[str] = (),
) -> Paired:
    """Write pairs one by one. Each image is written once, under the digest of its pixels.

    The file of pairs gets its name last. A run that was stopped is continued: what is there is not written again.

    Args:
        comparisons: the pairs.
        folder: new, empty, or of an earlier run with the same ``to`` and ``sources``.
        to: the layout, ``trl`` or ``ms-swift``.
        problems: gets the pairs that cannot be used: ``unreadable_image``, ``wrong_size`` and ``equal_images``.
        sources: names of what the pairs come from.

    Raises:
        InputError: there is no pair.
        ConfigError: the folder was written with other settings.
        OutputError: the folder holds other files, or cannot be written.
    """
    root, rest = Path(folder), iter(comparisons)
    first = next(rest, None)
    if first is None:
        raise InputError(
            "Expected verified repairs of which one is better, got none: name runs with several attempts, whose images "
            "are still there."
        )
    open_target(root, RECORD, {"to": to, "sources": list(sources)})
    for name in _FOLDERS:
        check_writable(root / name)
    writer = _Writer(root)
    pairs = left_out = 0
    with atomic_stream(root / FILES[to]) as stream:
        for comparison in chain([first], rest):
            try:
                pair = writer.pair(comparison)
            except (InputError, UnusableError) as error:
                kind = error.kind if isinstance(error, UnusableError) else "unreadable_image"
                where = f"attempts {comparison.chosen.index} and {comparison.rejected.index}"
                problems.append(Problem(kind, comparison.run, where, str(error)))
                left_out += 1
                continue
            stream.write(dumps(record_of(pair, to), indent=None) + "\n")
            pairs += 1
        if not pairs:
            raise InputError(f"None of {left_out} pairs can be used: fix the problems listed above.")
    return Paired(root / FILES[to], pairs, writer.written, writer.kept, left_out)


class _Writer:
    """Writes the images and masks of pairs, each once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written = self.kept = 0
        self._done: set[Path] = set()

    def pair(self, comparison: Comparison) -> Pair:
        """A pair with the paths of its files below the folder."""
        chosen, rejected = load_image(comparison.chosen.picture), load_image(comparison.rejected.picture)
        size = comparison.rejected.analysis.size
        if not chosen.size == rejected.size == (size.width, size.height):
            raise UnusableError("wrong_size", f"{chosen.size} and {rejected.size} pixels, not {size[::-1]}; left out")
        mask = difference(chosen, rejected)
        if not mask.any():
            raise UnusableError("equal_images", "both images have the same pixels; left out")
        white = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
        return Pair(
            prompt=plain(comparison.prompt),
            chosen=self._image(chosen, comparison.chosen.picture),
            rejected=self._image(rejected, comparison.rejected.picture),
            mask=self._save(white, "masks", {}),
            action=plain(comparison.action),
            flaws=tuple(map(_claim, _within(comparison.rejected.analysis, mask, size))),
            judgements=comparison.judgements,
            run=plain(comparison.run),
            attempts=(comparison.chosen.index, comparison.rejected.index),
        )

    def _image(self, image: Image.Image, source: Path) -> Path:
        kind = read(source).source_type
        label = {} if kind is None else ai_label(from_given_image=kind.startswith("composite"))
        return self._save(image, "images", label)

    def _save(self, image: Image.Image, folder: str, text: Mapping[str, str]) -> Path:
        path = Path(folder) / f"{picture_digest(image)}.png"
        if path not in self._done:
            self._done.add(path)
            if (self.root / path).is_file():
                self.kept += 1
            else:
                save_png(image, self.root / path, text)
                self.written += 1
        return path


def _within(analysis: Analysis, mask: Mask, size: Size) -> list[Region]:
    """The flaws that touch a mask, the worst first."""
    touched = [region for region in analysis.regions if (region.pixels(size) & mask).any()]
    return sorted(touched, key=lambda region: -region.severity * region.score)


def _claim(region: Region) -> Claim:
    texts: Json = {name: plain(getattr(region, name)) for name in ("name", "location", "explanation", "reasoning")}
    known = Claim(category=region.category, severity=region.severity, score=region.score, box=region.box)
    return replace(known, **texts)
