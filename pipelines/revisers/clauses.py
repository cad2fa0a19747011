"""The clauses of a prompt: which of them name things, and which describe the whole image.

Prompts are lists of tags ("masterpiece, 1girl, detailed hands, soft light"), sentences, or both. There is no language
model here, only these rules:

1. Commas, semicolons, line breaks, ``BREAK`` and the ends of sentences separate clauses. Inside brackets they do not,
   so that weights such as "(red dress, long sleeves:1.2)" stay whole.
2. A clause names a thing (an object) only if it begins with an article or a number, and its noun is not a word for
   style, light or time: "a green clock" and "two dogs" name things, "a soft light" and "red dress" do not. Tags that
   count people ("1girl") and the nouns after "a photo of" name things too.
3. A relation ("left of", "behind") or "and" before another thing separates two things of a clause.
4. The medium before the first thing ("a photo of", "watercolor painting of") describes the whole image, and so does an
   ending such as "at night" or "in the style of Monet". A place at the end ("in a garden") belongs to all things of the
   clause, unless one of them has another place.
5. A clause that continues another ("wearing a hat", "with a dog", "her dog") belongs to the thing before it.
6. All other clauses are taken to describe the whole image: style, quality, light, LoRAs and their trigger words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from refiner.pipelines.revisers.prompt_checks import FILLER, words
from refiner.pipelines.revisers.scene_words import ATTACHED, MEDIA, is_scene, plain

_DETERMINER = (
    r"(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|\d{1,2}|some|several|many|another|his|her|its|their|my"
    r"|our)\s+(?=\S)"
)
_RELATIONS = r"(?:(?:to|on|at) the )?(?:left of|right of|next to|in front of)"
_PREPOSITIONS = "above|below|under|beside|near|behind"
_JOINT = re.compile(
    rf"(?<!\bfrom)(?<!\bfrom the)\s+(?:{_RELATIONS}\s+|(?:{_PREPOSITIONS}|and|&)\s+(?={_DETERMINER}))", re.IGNORECASE
)
"""Separates two things of a clause; not in "seen from above"."""
_OPENING = re.compile(rf"(?:(?:and|or)\s+)?(?:{_RELATIONS}\s+|(?:{_PREPOSITIONS})\s+(?={_DETERMINER}))?", re.IGNORECASE)
"""How a clause is joined to the one before it: "and", "next to"."""
_BREAK = re.compile(
    r"\s*(?:[;，、；。\n]|,(?!(?<=\d,)\d)|(?<!\w)BREAK(?!\w)"
    r"|(?<=\w\w)(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)[.!?]+(?=\s|$))\s*"
)
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}
_MEDIUM = re.compile(
    rf"(?:(?!(?:of|with|in|on|at|by|from)\b)[\w'&-]+\s+){{0,6}}?(?:{MEDIA})(?:\s+by\s+[\w.-]+(?:\s+[\w.-]+){{0,2}}?)?"
    r"\s+(?:of|showing|depicting|featuring)\s+",
    re.IGNORECASE,
)
_COUNT = re.compile(r"\d+\+?(?:girl|boy|woman|women|man|men|person|people|other)s?\b", re.IGNORECASE)
_POSITION = re.compile(
    r"(?:in|on|to|at)\s+the\s+(?:far\s+)?(?:left|right|middle|cent(?:er|re)|top|bottom|foreground|background|distance)"
    r"(?:\s+side)?(?:\s+of\s+the\s+\w+)?",
    re.IGNORECASE,
)
_THERE = re.compile(rf"(?:{_POSITION.pattern}\s*,?\s*)?(?:there\s+)?(?:(?:is|are|stands|sits)\s+)?", re.IGNORECASE)
"""What may come before the thing of a sentence: "on the left there is"."""
_CONTINUES = re.compile(
    r"(?:with|who|that|which|whose|he|she|it|they|his|her|its|their|dressed|surrounded|covered)\b\s*"
    r"|(?!building|clothing|ceiling|wedding|string|spring|thing|trending)\w{2,}ing\b",
    re.IGNORECASE,
)
_ENDING = re.compile(r"\s+(?=(?:in|on|at|against|under|with|during|inside|outside|by|from)\s)", re.IGNORECASE)
_PLACE = re.compile(r"(?:in|on|at|against|inside|outside|under)\s+(?:an?|the)\s+(\S.*)", re.IGNORECASE | re.DOTALL)


class Kept(NamedTuple):
    """A piece of a region's prompt."""

    at: int
    """Number of the clause that it comes from; pieces are joined in this order."""
    before: str
    """What separates that clause from the one before it, such as ", "."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Clause:
    """A clause of a prompt."""

    before: str
    medium: str = ""
    """What the image is, up to its first thing, such as "a photo of "."""
    parts: tuple[str, ...]
    """The things, each with its own words; a single part if the clause describes the whole image."""
    place: str = ""
    """The place that all parts share, such as " in a garden"."""
    ending: str = ""
    """What the end of the clause says about the whole image, such as " at night"."""
    more: str = ""
    """Clauses that continue the last part, with their separators."""
    source: str
    """The clause as it stands in the prompt, without ``more``."""
    thing: bool
    """Whether it clearly names a thing."""
    counts: bool = False
    """Whether it is a tag that counts people, such as "1girl"."""

    def names(self, part: int) -> frozenset[str]:
        """The words by which a part names something, in the form of ``words``."""
        if not self.thing and is_scene(self.source):
            return frozenset()
        text = self.parts[part]
        if part == len(self.parts) - 1:
            text += self.place * (part == 0 or not self.shares_place) + self.more
        return _naming(text)

    def about(self, part: int) -> str:
        """The clause without its other parts."""
        if part == len(self.parts) - 1:
            return self.medium + self.parts[part] + self.place + self.ending + self.more
        return self.medium + self.parts[part] + self.place * self.shares_place + self.ending

    @property
    def shares_place(self) -> bool:
        """Whether the place belongs to all parts, because the others have none."""
        return not any(_PLACE.search(part) for part in self.parts[:-1])

    @property
    def whole(self) -> str:
        """All of the clause."""
        return self.source + self.more

    def shared(self) -> Iterator[str]:
        """What stays of the clause if all its things are left out."""
        if self.medium:
            yield re.sub(r"\s+\w+\s*$", "", self.medium)
        ending = self.place * (len(self.parts) > 1 and self.shares_place) + self.ending
        if ending:
            yield ending.strip()


def choose(prompt: str, name: str) -> tuple[list[Kept], list[Kept]] | None:
    """Choose the clauses of a prompt that a region with this name is inpainted with, in two lists.

    The first list has the clauses about the named thing: the one that shares most words with ``name``, and what it
    describes if it is only a tag ("an old man, wrinkled hands": the man too). The second list has all clauses that
    name no other thing.

    Returns:
        None if no clause shares words with the name, or if several things share equally many.
    """
    clauses = clauses_of(prompt)
    wanted = _naming(name)
    shared = {
        (at, part): len(wanted & clause.names(part))
        for at, clause in enumerate(clauses)
        for part in range(len(clause.parts))
    }
    most = max(shared.values(), default=0)
    best = [place for place, count in shared.items() if count == most]
    things = [place for place in best if clauses[place[0]].thing]
    if most == 0 or len(things) > 1:
        return None
    about = {at: clauses[at].about(part) for at, part in things}
    if not things:
        about = {at: clauses[at].whole for at in (*_owners(clauses, best[0][0]), *(at for at, _ in best))}
    others = [
        Kept(at, clause.before if number == 0 else ", ", text)
        for at, clause in enumerate(clauses)
        if at not in about
        for number, text in enumerate(clause.shared() if clause.thing else [clause.whole])
    ]
    return [Kept(at, clauses[at].before, text) for at, text in sorted(about.items())], others


def joined(pieces: Sequence[Kept], prompt: str = "") -> str:
    """Join pieces in the order of their clauses; ``prompt`` itself is returned if they are all of its clauses."""
    ordered = sorted(pieces, key=lambda piece: piece.at)
    if prompt and [piece.text for piece in ordered] == [clause.whole for clause in clauses_of(prompt)]:
        return prompt
    return "".join(piece.before * (number > 0) + piece.text for number, piece in enumerate(ordered))


def clauses_of(prompt: str) -> list[Clause]:
    """Split a prompt into its clauses."""
    found: list[Clause] = []
    for before, text in _segments(re.sub(r"[^\S\n]+", " ", prompt)):
        continues = _CONTINUES.match(plain(text))
        if continues and found and found[-1].thing and not (is_scene(text) or is_scene(plain(text)[continues.end() :])):
            found[-1] = replace(found[-1], more=found[-1].more + before + text)
        else:
            found.append(_clause(before, text))
    return found


def _naming(text: str) -> frozenset[str]:
    """The words of a text that name something; "1girl" counts as "girl"."""
    return frozenset(word.lstrip("0123456789") or word for word in words(plain(text))) - FILLER


def _owners(clauses: Sequence[Clause], tag: int) -> list[int]:
    """Find what a tag describes: the people that are counted, or else the thing named last before it."""
    counted = [at for at, clause in enumerate(clauses) if clause.counts]
    return counted or [at for at, clause in enumerate(clauses[:tag]) if clause.thing][-1:]


def _segments(prompt: str) -> Iterator[tuple[str, str]]:
    """Yield the texts between separators outside brackets, each with the separator before it."""
    before, start = "", 0
    for separator, end, following in [*_outside(_BREAK, prompt), ("", len(prompt), len(prompt))]:
        text = prompt[start:end].strip()
        if separator.strip() == "," != before.strip() and _POSITION.fullmatch(text):
            continue  # "On the left, a red hand" is one clause
        if text:
            yield before, text
        before, start = separator if text else before, following


def _outside(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int, int]]:
    """Yield text, start and end of the matches that are not inside pairs of brackets."""
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    for place, letter in enumerate(text):
        if text[place - 1 : place] == "\\":
            continue
        if letter in _BRACKETS.values():
            opened.append(place)
        elif letter in _BRACKETS and any(text[start] == _BRACKETS[letter] for start in opened):
            while text[(start := opened.pop())] != _BRACKETS[letter]:
                pass
            spans.append((start, place))
    for match in pattern.finditer(text):
        if not any(start < match.start() < end for start, end in spans):
            yield match[0], match.start(), match.end()


def _clause(before: str, text: str) -> Clause:
    opening = _OPENING.match(text)
    if opening and opening[0] and _names_thing(text[opening.end() :]):
        text = text[opening.end() :]
    medium = _MEDIUM.match(text)
    start = medium.end() if medium and not is_scene(text[medium.end() :]) else 0
    parts, last = [], start
    for _, end, following in _outside(_JOINT, text):
        if end > last and not is_scene(text[following:]):
            parts.append(text[last:end])
            last = following
    if not (parts or _names_thing(text)):
        return Clause(before=before, parts=(text,), source=text, thing=False)
    thing, place, ending = _endings(text[last:])
    return Clause(
        before=before, medium=text[:start], parts=(*parts, thing), place=place, ending=ending, source=text, thing=True,
        counts=_COUNT.match(plain(text)) is not None,
    )  # fmt: skip


def _names_thing(text: str) -> bool:
    text = plain(text)
    there = _THERE.match(text)
    text = text[there.end() :] if there else text
    medium = _MEDIUM.match(text)
    if medium:
        return not is_scene(text[medium.end() :])
    if _COUNT.match(text):
        return True
    return re.match(_DETERMINER, text, re.IGNORECASE) is not None and not is_scene(text)


def _endings(text: str) -> tuple[str, str, str]:
    """Split the last thing of a clause into the thing, its place, and what is said about the whole image."""
    starts = [start for _, start, _ in _outside(_ENDING, text)]
    end = len(text)
    while starts and is_scene(text[starts[-1] : end]):
        end = starts.pop()
    thing, ending = text[:end], text[end:]
    if starts and not (len(starts) > 1 and text[starts[-2] :].lstrip().startswith("with ")):
        place = _PLACE.fullmatch(thing[starts[-1] :].strip())
        if place and not ATTACHED & set(words(place[1])):
            return thing[: starts[-1]], thing[starts[-1] :], ending
    return thing, "", ending
