"""The detector of wrong lettering: what an image says, against the words that its prompt asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from refiner.claims import region_of
from refiner.detectors.base import BaseDetector
from refiner.detectors.text.matching import Match, Matching, Span, match
from refiner.detectors.text.reader import Line, RapidReader, Reader, check_installed
from refiner.errors import ConfigError
from refiner.lettering import Found, Kind, folded, is_cut, to_steps, wanted_words
from refiner.metrics.edits import edit_share
from refiner.taxonomy import Category
from refiner.types import Analysis, Claim, Mask, Region, Size

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

CLEAR: Final = 0.8
"""Confidence of a line from which its letters count as well-formed."""
LEAST_LETTERS: Final = 3
"""Letters of a line that counts as lettering if no wanted word is meant by it; shorter ones are often mere shapes."""
_LEAST_WANTED: Final = 2
"""Letters of a line that may be meant as a wanted word that is found nowhere."""
_DOUBLED: Final = 0.5
"""Severity of a word that is there once too often."""
_UNREADABLE: Final = 0.5
"""Least severity of a wanted word that cannot be read."""


class TextDetector(BaseDetector):
    """Reads an image, and compares it with the words that the prompt asks for; a ``refiner.protocols.Detector``.

    ``refiner.lettering`` says which words a prompt asks for, and how they are compared. There are four kinds of flaws:

    - misspelt: the image has a word at an edit distance of at most half its length. ``severity`` is this share.
    - unreadable: the same, or any lettering of ``LEAST_LETTERS`` letters, read with a confidence below ``CLEAR``.
      Without a wanted word, ``severity`` is one minus the confidence. This kind needs no prompt.
    - doubled: a wanted word is there more often than wanted.
      Lettering upside down is of this kind, or missing.
    - missing: nothing similar is in the image. The flaw is unplaced, and a misalignment; the others are of the category
      text, with the polygon of the lettering as their mask.

    A name tells the wanted words, so that prompts for a repair do. ``trace`` has what is found of each wanted word. If
    the image or the prompt has more words than are compared, ``gaps`` has "unverified".
    ``fake_probability`` is None.

    Args:
        reader: reads the lettering.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(name=f"text by {reader.name}")
        self.reader = reader

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        wanted = [wanted_words(prompt) for prompt in prompts]
        return [self._analysis(*each) for each in zip(images, wanted, map(is_cut, prompts), strict=True)]

    def _analysis(self, image: Image.Image, wanted: Sequence[Sequence[str]], cut: bool) -> Analysis:
        lines, size = self.reader.read(image), Size(image.height, image.width)
        look = _look(lines, wanted, size)
        flaws, found = look.flaws()
        return Analysis(
            size=size,
            regions=tuple(flaws),
            tags=("text",),
            raw="\n".join(f"{line.text} ({line.score:.2f})" for line in lines),
            detector=self.name,
            trace=to_steps(found),
            gaps=("unverified",) if cut or (found and look.matching.cut) else (),
        )


def compare(lines: Sequence[Line], wanted: Sequence[Sequence[str]], size: Size) -> tuple[list[Region], list[Found]]:
    """Compare the lines of an image of ``size`` with the words of each wanted text.

    Returns:
        The flaws, in the order of the wanted texts, and what is found of each word.
    """
    return _look(lines, wanted, size).flaws()


def _look(lines: Sequence[Line], wanted: Sequence[Sequence[str]], size: Size) -> _Look:
    return _Look(lines=lines, wanted=wanted, matching=match(lines, wanted), size=size)


def load_text(
    model: str = "", *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> TextDetector:
    """Load a ``TextDetector`` with the weights in the wheel of RapidOCR.

    Args:
        model: must be empty.
        device, dtype: not used; the networks run on the CPU.

    Raises:
        ConfigError: a model is named.
        MissingExtraError, WeightsError: as ``check_installed``.
    """
    text_needs(model)
    return TextDetector(RapidReader())


def text_needs(model: str) -> Needs:
    """Nothing is read but the wheel of RapidOCR; raises the errors of ``load_text``."""
    if model:
        raise ConfigError(f"The detector of lettering has its own weights, so text:{model} is no id: write text.")
    check_installed()
    return []


@dataclass(kw_only=True)
class _Look:
    """The lines of one image, and the words that they should have."""

    lines: Sequence[Line]
    wanted: Sequence[Sequence[str]]
    matching: Matching
    size: Size

    def flaws(self) -> tuple[list[Region], list[Found]]:
        """The flaws in the order of the prompt, then what nobody asked for; and what is found of each wanted word."""
        regions: list[tuple[int, Span, Region]] = []
        found: dict[tuple[int, int], Found] = {}
        for each in self.matching.matches:
            kind, region = self._compared(each)
            regions += [(each.text, each.words, region)] if region else []
            self._note(found, each.text, each.words, kind, self._read(each.pieces))
        unclear = (at for at in self.matching.unmatched if self.lines[at].score < CLEAR)
        doubtful = [at for at in unclear if self._letters(at) >= _LEAST_WANTED]
        for text, words in self.matching.missing:
            line = doubtful.pop(0) if doubtful else None
            kind = "missing" if line is None else "unreadable"
            regions.append((text, words, self._lost(self._words(text, words), line)))
            self._note(found, text, words, kind, "" if line is None else self.lines[line].text)
        ordered = [region for _, _, region in sorted(regions, key=lambda each: each[:2])]
        unasked = [at for at in doubtful if self._letters(at) >= LEAST_LETTERS]
        others = [*map(self._twice, self.matching.doubled), *map(self._garbled, unasked)]
        return [*ordered, *others], [found[key] for key in sorted(found)]

    def _note(self, found: dict[tuple[int, int], Found], text: int, words: Span, kind: Kind, read: str) -> None:
        for at in range(*words):
            word = self.wanted[text][at]
            found[text, at] = Found(word, kind, word if kind == "read" else read)

    def _letters(self, line: int) -> int:
        """Number of letters of a line; 0 if it repeats a single one, as ornaments and windows are read."""
        form = folded(self.lines[line].text)
        return len(form) if len(set(form)) > 1 else 0

    def _compared(self, each: Match) -> tuple[Kind, Region | None]:
        """What is found of matched words, and the flaw if they are not read as wanted."""
        if each.share == 0:
            return "read", None
        wanted, read = self._words(each.text, each.words), self._read(each.pieces)
        sure = min(self.lines[piece.line].score for piece in self.matching.pieces[slice(*each.pieces)])
        if sure < CLEAR:
            return "unreadable", self._unreadable(wanted, read, self._mask(each.pieces))
        claim = Claim(
            name=_name(wanted),
            explanation=f"reads {read}; the prompt asks for {wanted}",
            reasoning="the letters are clear, and differ from the wanted ones",
            category=Category.TEXT,
            severity=round(each.share, 6),
            score=round(sure, 6),
        )
        return "misspelt", region_of(claim, self._mask(each.pieces), self.size)

    def _lost(self, wanted: str, line: int | None) -> Region:
        """Wanted words that were not matched: where something else cannot be read, they may be meant by it."""
        if line is not None:
            return self._unreadable(wanted, self.lines[line].text, self._polygon(line, 0.0, 1.0))
        claim = Claim(
            name=_name(wanted),
            explanation=f"is not there; the prompt asks for {wanted}",
            reasoning="nothing similar is written in the image",
            category=Category.MISALIGNMENT,
            severity=1.0,
        )
        return region_of(claim, None, self.size)

    def _unreadable(self, wanted: str, read: str, mask: Mask) -> Region:
        claim = Claim(
            name=_name(wanted),
            explanation=f"cannot be read, at best as {read}; the prompt asks for {wanted}",
            reasoning="its letters are malformed",
            category=Category.TEXT,
            severity=round(max(_UNREADABLE, edit_share(folded(read), folded(wanted))), 6),
        )
        return region_of(claim, mask, self.size)

    def _twice(self, pieces: Span) -> Region:
        read = self._read(pieces)
        claim = Claim(
            name=_name(read),
            explanation=f"{read} is there once too often",
            reasoning="the prompt asks for it fewer times",
            category=Category.TEXT,
            severity=_DOUBLED,
        )
        return region_of(claim, self._mask(pieces), self.size)

    def _garbled(self, number: int) -> Region:
        line = self.lines[number]
        claim = Claim(
            name="the lettering",
            explanation=f"cannot be read, at best as {line.text}",
            reasoning="its letters are malformed",
            category=Category.TEXT,
            severity=round(1 - line.score, 6),
        )
        return region_of(claim, self._polygon(number, 0.0, 1.0), self.size)

    def _words(self, text: int, words: Span) -> str:
        return " ".join(self.wanted[text][slice(*words)])

    def _read(self, pieces: Span) -> str:
        """What a run of pieces says, as it is written."""
        return " ".join(self.lines[line].text[start:end] for line, start, end in self._parts(pieces))

    def _parts(self, pieces: Span) -> Iterator[tuple[int, int, int]]:
        """The parts of lines that a run of pieces covers: number of the line, first character, end."""
        own = self.matching.pieces[slice(*pieces)]
        for line in dict.fromkeys(piece.line for piece in own):
            inside = [piece for piece in own if piece.line == line]
            yield line, inside[0].start, inside[-1].end

    def _mask(self, pieces: Span) -> Mask:
        masks = []
        for line, start, end in self._parts(pieces):
            length = len(self.lines[line].text)
            masks.append(self._polygon(line, start / length, end / length))
        union: Mask = np.logical_or.reduce(masks)
        return union

    def _polygon(self, number: int, start: float, end: float) -> Mask:
        """The part of a line between two shares of its length; bool (H, W), never empty."""
        corners = self.lines[number].corners
        left, right, low_right, low_left = corners
        upper, lower = right - left, low_right - low_left
        ends = (left + start * upper, left + end * upper, low_left + end * lower, low_left + start * lower)
        limit = np.array([self.size.width - 1, self.size.height - 1])
        points = [tuple(np.clip(point, 0, limit).tolist()) for point in ends]
        canvas = Image.new("1", (self.size.width, self.size.height))
        ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
        return np.asarray(canvas, dtype=np.bool_)


def _name(words: str) -> str:
    return f'the text "{words}"'
