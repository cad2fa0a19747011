"""Read the answer of a model by its profile. Nothing is guessed: an answer in another form is unreadable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from refiner.detectors.grounding.inside import inside
from refiner.detectors.reading.boxes import Corners, full_sides, read_boxes
from refiner.detectors.reading.loose_json import (
    LooseDict,
    LooseList,
    documents,
    is_strict,
    spoken,
    unfenced,
    unreadable,
)
from refiner.detectors.reading.nothing import is_bare
from refiner.detectors.reading.regions import MAX_NAME, MAX_REGIONS, MAX_WORDS, plain_text
from refiner.detectors.reading.shares import pixels_of
from refiner.detectors.reading.words import read_category
from refiner.detectors.vlm.profile import Profile
from refiner.taxonomy import Category
from refiner.types import Box, Claim, Size

WHOLE: Final = "the image as a whole"
"""The name of the flaw of an image that is called generated."""
_SENTENCE: Final = re.compile(r"[.!?\n]")
_WORD: Final = re.compile(r"[^\W\d_]+(?:'t)?")
_DENIALS: Final = frozenset({"not", "no", "never", "neither", "nor", "isn't", "doesn't", "cannot", "can't"})


class Told(NamedTuple):
    """The content of an answer."""

    claims: tuple[Claim, ...]
    fake: float | None
    """1 if the model calls the image generated, 0 if it calls it real; None if it gives no verdict."""


def read_answer(text: str, profile: Profile, size: Size, shown: Size) -> Told:
    """Read an answer.

    Args:
        text: what the model wrote.
        profile: its form.
        size: of the image; boxes are returned in its pixels.
        shown: size of the image as shown to the model, to which boxes in pixels refer.

    Raises:
        UnreadableOutputError: it is in another form; ``raw`` is the text.
    """
    inner = _block(text, profile.block)
    if profile.form == "verdict":
        return _verdict(text, inner, profile)
    entries = _entries(text, inner, profile)
    claims = [claim for entry in entries for claim in _claims(text, entry, profile, size, shown)]
    return Told(tuple(claims[:MAX_REGIONS]), None)


def _block(text: str, block: str) -> str:
    """The content of the last element ``block`` after the thinking, up to the end of the text if it is not closed.

    Without a ``block``, all of the text after the thinking.
    """
    bounded = spoken(text)
    if not block:
        return bounded
    opened = bounded.rfind(f"<{block}>")
    if opened < 0:
        raise unreadable(f"no element <{block}>", text)
    return bounded[opened + len(block) + 2 :].partition(f"</{block}>")[0]


def _entries(text: str, inner: str, profile: Profile) -> list[LooseDict]:
    """The complete entries of the list; empty only if the list is, and nothing in the answer is broken."""
    found = list(documents(inner))
    if len(found) != 1:
        raise unreadable("no list of flaws" if not found else "several documents", text)
    value = found[0].value
    listed = value if not profile.list else value.get(profile.list) if isinstance(value, LooseDict) else None
    if not isinstance(listed, LooseList):
        raise unreadable("no list of flaws", text)
    whole = [entry for entry in listed if not getattr(entry, "cut", False)]
    if not whole and not (not listed and not found[0].cut and is_strict(unfenced(inner))):
        raise unreadable("a list that breaks off before its first flaw", text)
    if not all(isinstance(entry, LooseDict) for entry in whole):
        raise unreadable("an entry that is no object", text)
    return whole


def _claims(text: str, entry: LooseDict, profile: Profile, size: Size, shown: Size) -> list[Claim]:
    """The flaw of an entry, once for each of its boxes."""
    given = {name: entry.get(key) for name, key in profile.fields.items()}
    explanation, reasoning = (plain_text(given.get(each), MAX_WORDS) for each in ("explanation", "reasoning"))
    name, location = (plain_text(given.get(each), MAX_NAME) for each in ("name", "location"))
    corners = read_boxes(given.get("box"), profile.boxes)
    if not corners and is_bare(name) and is_bare(explanation):
        raise unreadable("an entry without a name, a description or a box", text)
    boxes: list[Box | None] = [box for each in corners if (box := _placed(each, profile, size, shown))]
    return [
        Claim(
            name=name or plain_text(explanation, MAX_NAME) or "a flaw",
            location=location,
            explanation=explanation,
            reasoning=reasoning,
            category=_category(given.get("category"), explanation or name, profile),
            severity=_share(given.get("severity"), profile.none, profile.worst),
            score=_share(given.get("score"), 0.0, 1.0),
            box=box,
        )
        for box in boxes or [None]
    ]


def _placed(box: Corners, profile: Profile, size: Size, shown: Size) -> Box | None:
    width, height = full_sides(profile.boxes.scale, shown)
    clipped = inside(box, (width, height)) if box[0] < box[2] and box[1] < box[3] else None
    if clipped is None:
        return None
    x0, y0, x1, y1 = clipped
    return pixels_of((x0 / width, y0 / height, x1 / width, y1 / height), size)


def _category(label: Any, words: str, profile: Profile) -> Category | None:
    """The category of a label in the profile, else by its name, else by the words of the flaw."""
    told = plain_text(label, MAX_NAME)
    mapped = profile.categories.get(told.lower())
    if mapped:
        return Category(mapped)
    return (read_category(told) if mapped is None and told else None) or read_category(words)


def _share(value: Any, none: float, worst: float) -> float | None:
    """A number on a scale as a share of it; None if it is no number, or not on the scale."""
    if isinstance(value, str):
        try:
            value = float(value[:20])
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9:
        return None
    share = (value - none) / (worst - none)
    return round(share, 6) if 0 <= share <= 1 else None


def _verdict(text: str, inner: str, profile: Profile) -> Told:
    """The verdict is in the first sentence; the rest are its reasons."""
    first, _, reasons = _first_sentence(inner)
    words = [word.lower() for word in _WORD.findall(first)]
    fake, real = (any(word.lower() in words for word in said) for said in (profile.fake, profile.real))
    if fake == real or _DENIALS & {*words}:
        raise unreadable("no clear verdict in its first sentence", text)
    if real:
        return Told((), 0.0)
    explanation = plain_text(reasons, MAX_WORDS) or plain_text(first, MAX_WORDS)
    return Told((Claim(name=WHOLE, explanation=explanation, category=read_category(explanation)),), 1.0)


def _first_sentence(text: str) -> Sequence[str]:
    stripped = text.strip()
    end = _SENTENCE.search(stripped)
    return (stripped, "", "") if end is None else (stripped[: end.start()], end[0], stripped[end.end() :])
