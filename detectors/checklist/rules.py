"""Statements of a prompt by rules, without a model, for the patterns of English that benchmarks of prompts use.

A clause is read from left to right::

    clause   = row, { "above" | "below", row }
    row      = thing, { "left of" | "next to" | ... | "and", thing }
    thing    = noun phrase, { "on" | "by" | ..., noun phrase | "with", noun phrase | "riding", noun phrase
                            | "smiling" | "saying", words | "on the left" | "red" }
    noun phrase = "a" | "the" | "three" | "3" | "several", { word for a colour, size, material ... }, noun

The rules know no other English. They read a clause up to the first word that does not fit, and name the rest as unread.
What a prompt denies ("no clouds", "without a hat") or leaves open ("a cat or a dog") never becomes a statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from refiner.checklist import MAX_STATEMENTS, Checklist, Kind, Statement, Unread
from refiner.detectors.checklist import words
from refiner.lettering import MAX_PROMPT, QUOTED, SAYING, straight

DENIED = "it denies something"
OPEN = "it leaves open what is to be seen"
UNKNOWN = "no rule reads it"
STYLE = "it is about the style or the scene as a whole"
SURPLUS = "the prompt has too many statements"
_MAX_NOUN = 5

_QUOTE = re.compile(r'"(\d+)"')
_BREAK = re.compile(r"\s*(?:[,;\n]|[.:!?]+(?=\s|$))\s*")
_PLAIN = re.compile(r"""[\w'"-]+""")
_BACKGROUND = re.compile(r"\s+(?:on|against|with|in)\s+an?\s+((?:[\w-]+\s+){1,3})background$", re.IGNORECASE)
_ANY_MEDIUM = "|".join(sorted(words.MEDIA | words.STYLED_MEDIA))
_MEDIUM = re.compile(rf"(?:an?\s+|the\s+)?((?:[\w-]+\s+){{0,3}}?)({_ANY_MEDIUM})\s+(?:of|showing)\s+", re.IGNORECASE)
_OPENING = re.compile(r"(?:and\s+)?(?:there\s+(?:is|are)\s+)?", re.IGNORECASE)
_JOINED = (
    (re.compile(r"\b(?:(?:to|on|at) the )?(left|right)(?: side)? of\b", re.IGNORECASE), r"\1_of"),
    (re.compile(r"\b(next) to\b|\bin (front) of\b|\bon (top) of\b", re.IGNORECASE), ""),
    (re.compile(r"\b(?:on|in|at) the (left|right|top|bottom|middle|cent(?:er|re))\b(?! \w+ of\b)", re.IGNORECASE), ""),
    (re.compile(r"\b(?:that|which|who)\s+(?=(?:says?|reads?|is|are|was|were)\b(?!\s+not\b))", re.IGNORECASE), "-"),
    (re.compile(r"\bwith the (?:words?|text)\s+(?=\")", re.IGNORECASE), "saying "),
)
"""Phrases -> the single words that stand for them; "" joins the phrase by underscores, "-" leaves it out."""


def parse_rules(prompt: str) -> Checklist:
    """Read the statements of a prompt, in its order; what cannot be read is in ``unread``, with the reason."""
    text = straight(prompt[:MAX_PROMPT])
    quotes: list[str] = []

    def mask(match: re.Match[str]) -> str:
        quotes.append(" ".join((match[1] or match[2]).split()))
        return f' "{len(quotes) - 1}" '

    draft = _Draft(quotes)
    for clause in filter(None, _BREAK.split(QUOTED.sub(mask, text).strip())):
        draft.read(" ".join(clause.split()))
    if prompt[MAX_PROMPT:].strip():
        draft.leave(f"{prompt[MAX_PROMPT : MAX_PROMPT + 80].strip()} ...", SURPLUS)
    return draft.checklist()


@dataclass(kw_only=True)
class _Thing:
    """A noun phrase."""

    article: str
    """As it is written: "a", "the", "three", "several"."""
    attributes: list[str]
    noun: str
    extra: str = ""
    """The place that belongs to it, such as "on the left"."""
    written: str = ""
    """What stands before the noun in quotation marks: a "STOP" sign."""
    at: int = -1
    """Number of the statement that it is there; -1 if there is none."""

    @property
    def number(self) -> str:
        """How many there are, as it is written; "" if the prompt leaves it open."""
        known = self.article.isdecimal() or self.article.lower() in words.NUMBERS
        return self.article if known else ""

    @property
    def plural(self) -> bool:
        if self.number or self.article.lower() in words.SINGULAR:
            return self.number.lower() not in ("", "one", "1")
        return self.article.lower() in words.PLURAL or _ends_in_s(self.noun.partition(" of ")[0])

    @property
    def be(self) -> str:
        return "are" if self.plural else "is"

    @property
    def phrase(self) -> str:
        """The noun with its attributes."""
        return " ".join([*self.attributes, self.noun])

    @property
    def name(self) -> str:
        """How other statements name it."""
        return " ".join(filter(None, ["the", self.number, self.phrase]))

    @property
    def whole(self) -> str:
        """It with its article and place."""
        return " ".join(filter(None, [self.article, self.phrase, self.extra]))

    def shown(self, phrase: str) -> str:
        """Say that it is there."""
        article = "" if self.plural else "the" if self.article.lower() == "the" else _article(phrase)
        return " ".join(filter(None, ["there", self.be, article, phrase]))


def _ends_in_s(word: str) -> bool:
    """Whether a word looks like a plural, or like a verb after "a dog"."""
    return word.lower().endswith("s") and not word.lower().endswith(("ss", "us", "is"))


def _article(phrase: str) -> str:
    return "an" if phrase[:1].lower() in "aeiou" else "a"


class _StopError(Exception):
    """The next word fits no rule."""


@dataclass
class _Draft:
    """The statements so far, and the words of the clause that are left."""

    quotes: Sequence[str]
    statements: list[Statement] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    things: list[_Thing] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    place: int = 0

    def checklist(self) -> Checklist:
        return Checklist(statements=tuple(self.statements), unread=tuple(self.unread))

    def leave(self, text: str, reason: str) -> None:
        """Name a part of the prompt as unread."""
        plain = _QUOTE.sub(lambda match: f'"{self.quotes[int(match[1])]}"', text.replace("_", " "))
        self.unread.append(Unread(plain.strip(), reason))

    def read(self, clause: str) -> None:
        """Read one clause as far as it can be read."""
        parts = clause.lower().split()
        if not _PLAIN.fullmatch(clause.replace(" ", "")):
            return self.leave(clause, UNKNOWN)
        if words.OPEN & set(parts):
            return self.leave(clause, OPEN)
        rest = self._without_medium(clause[len(_OPENING.match(clause)[0]) :])  # type: ignore[index]
        ground = _BACKGROUND.search(rest)
        rest = rest if ground is None else rest[: ground.start()]
        for pattern, word in _JOINED:
            rest = pattern.sub(partial(_joined, word=word), rest)
        self.tokens, self.place = [each for each in rest.split() if each.lower() not in words.COPULAS], 0
        if rest and not self.tokens:
            self.leave(rest, UNKNOWN)
        before = len(self.statements)
        with suppress(_StopError):
            self._clause()
        if len(self.statements) > MAX_STATEMENTS:
            del self.statements[before:]
            return self.leave(clause, SURPLUS)
        if self.place < len(self.tokens):
            self.leave(" ".join(self.tokens[self.place :]), _reason(self.tokens[self.place :]))
        if ground is not None:
            kind = ground[1].strip()
            self._add("attribute", f"the background shows {kind}", f"the {kind} background")
        return None

    def _without_medium(self, clause: str) -> str:
        found = _MEDIUM.match(clause)
        if found is None:
            return clause
        if found[1].strip() or found[2].lower() not in words.MEDIA:
            self.leave(found[0], STYLE)
        return clause[found.end() :]

    def _add(self, kind: Kind, text: str, subject: str, *needs: int) -> int:
        """Add a statement, once; returns its number."""
        for number, statement in enumerate(self.statements):
            if statement.text == text:
                return number
        known = tuple(sorted({each for each in needs if each >= 0}))
        self.statements.append(Statement(kind=kind, text=text, subject=subject, needs=known))
        return len(self.statements) - 1

    def _next(self, ahead: int = 0) -> str:
        at = self.place + ahead
        return self.tokens[at].lower() if at < len(self.tokens) else ""

    def _take(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1]

    def _clause(self) -> None:
        upper = self._row()
        while self._next() in words.LOOSE and _begins_thing(self._next(1)):
            relation = self._take()
            lower = self._row()
            self._relate(upper, relation, lower)
            upper = lower

    def _row(self) -> list[_Thing]:
        """Read a row; returns all its things."""
        group = [self._thing()]
        row = [*group]
        while self._next() in words.SPATIAL | {"and"} and _begins_thing(self._next(1)):
            start, link = self.place, self._take()
            try:
                thing = self._thing()
            except _StopError:
                self.place = start
                raise
            row.append(thing)
            if link.lower() == "and":
                group.append(thing)
            else:
                self._relate(group, link, [thing])
                group = [thing]
        return row

    def _relate(self, left: Sequence[_Thing], relation: str, right: Sequence[_Thing]) -> None:
        first, second = (" and ".join(thing.name for thing in side) for side in (left, right))
        be = "are" if len(left) > 1 else left[0].be
        told = _in_words(relation)
        self._add("relation", f"{first} {be} {told} {second}", first, *(thing.at for thing in (*left, *right)))

    def _thing(self) -> _Thing:
        """Read a thing with all that belongs to it."""
        thing = self._noun_phrase()
        self._introduce(thing)
        while self.place < len(self.tokens) and self._attached(thing):
            pass
        return thing

    def _introduce(self, thing: _Thing) -> None:
        """Add the statements that a noun phrase makes."""
        if thing.noun.lower() in ("word", "words", "text") and _QUOTE.fullmatch(self._next()):
            return  # what is written is checked by itself
        same = [each for each in self.things if each.noun == thing.noun and {*thing.attributes} <= {*each.attributes}]
        if same and thing.article.lower() == "the":
            thing.article, thing.attributes, thing.at = same[-1].article, same[-1].attributes, same[-1].at
            return
        self.things.append(thing)
        thing.at = self._add("object", thing.shown(thing.noun), thing.name)
        for attribute in thing.attributes:
            self._add("attribute", thing.shown(f"{attribute} {thing.noun}"), thing.name, thing.at)
        if thing.number:
            text = f"there {thing.be} exactly {thing.number} {thing.phrase}"
            self._add("count", text, thing.name, thing.at)
        if thing.written:
            self._say(thing, thing.written)

    def _noun_phrase(self, *, bare: bool = False) -> _Thing:
        """Read article or number, attributes and noun; without the article if ``bare``."""
        start = self.place
        if not bare and not _begins_thing(self._next()):
            raise _StopError
        article = self._take() if _begins_thing(self._next()) else ""
        attributes: list[str] = []
        while self._is_attribute() and self._noun_follows():
            attributes.append(self._take())
            if self._next() == "and" and self._next(1) in words.ATTRIBUTES:
                self._take()
        written = self._quote() or ""
        if written:
            self._take()
        noun: list[str] = []
        while self._goes_on(article, noun):
            noun.append(self._take())
        known = len(noun) == 1 and noun[0].lower() in words.ATTRIBUTES - words.MATERIALS - {"orange"}
        if known or not 0 < len(noun) <= _MAX_NOUN or noun[-1].lower() in words.SCENE | {"of", "and", "o'clock"}:
            self.place = start
            raise _StopError
        return _Thing(article=article, attributes=attributes, noun=" ".join(noun), written=written)

    def _is_attribute(self) -> bool:
        return self._next() in words.ATTRIBUTES or _is_participle(self._next())

    def _noun_follows(self) -> bool:
        """Whether a word comes after the next one that may be a noun, or another attribute before it."""
        after = self._next(1)
        if after == "and" and self._next(2) in words.ATTRIBUTES:
            return True
        return bool(after) and after != "of" and (not self._ends_noun(1) or bool(_QUOTE.fullmatch(after)))

    def _ends_noun(self, ahead: int = 0) -> bool:
        word, after = self._next(ahead), self._next(ahead + 1)
        if word == "and":
            return _begins_thing(after) or _is_participle(after)
        return (
            not word
            or word in words.PREPOSITIONS | words.NEGATIONS | words.STOPS | SAYING
            or "_" in word
            or bool(_QUOTE.fullmatch(word))
            or _begins_thing(word)
        )

    def _goes_on(self, article: str, noun: Sequence[str]) -> bool:
        """Whether the next word belongs to the noun."""
        word = self._next()
        if noun and noun[-1] == "of" and _begins_thing(word):
            return True
        if self._ends_noun():
            return False
        if not noun:
            return True
        if "of" in noun:
            return not _is_participle(word)
        verb = article.lower() in words.SINGULAR and _ends_in_s(word)
        ends = word in words.ATTRIBUTES - words.MATERIALS or _is_participle(word)
        return not (verb or ends)

    def _attached(self, thing: _Thing) -> bool:
        """Read one more part of the description of a thing; False if none follows."""
        word, after, start = self._next(), self._next(1), self.place
        try:
            if word == "and" and _is_participle(after):
                self._take()
            elif _QUOTE.fullmatch(word) or (word in SAYING and self._says(after)):
                self._written(thing)
            elif word == "with" and (_begins_thing(after) or after in words.ATTRIBUTES):
                self._part(thing)
            elif word in words.ATTACHED and _begins_thing(after):
                self._take()
                self._inner(thing, word)
            elif _is_participle(word):
                self._doing(thing)
            elif word in words.ATTRIBUTES:
                self._add("attribute", f"{thing.name} {thing.be} {self._take()}", thing.name, thing.at)
            elif word.startswith("on_the_"):
                told = _in_words(self._take())
                self._add("relation", f"{thing.name} {thing.be} {told}", thing.name, thing.at)
            else:
                return False
        except _StopError:
            self.place = start
            raise
        return True

    def _says(self, after: str) -> bool:
        return (bool(after) and not _begins_thing(after) and not self._ends_noun(1)) or bool(_QUOTE.fullmatch(after))

    def _written(self, thing: _Thing) -> None:
        """Read what is written on a thing: in quotation marks, else up to the next relation."""
        if self._next() in SAYING:
            self._take()
        text = self._quote()
        if text is not None:
            self._take()
        self._say(thing, " ".join(self._until_relation()) if text is None else text)

    def _say(self, thing: _Thing, text: str) -> None:
        if thing.at < 0:
            thing.noun = f'text "{text}"'
            self._add("text", f"the {thing.noun} can be read", thing.name)
            return
        says = "say" if thing.plural else "says"
        self._add("text", f'{thing.name} {says} "{text}"', thing.name, thing.at)

    def _quote(self, ahead: int = 0) -> str | None:
        """What is quoted at a place; None if nothing is."""
        found = _QUOTE.fullmatch(self._next(ahead))
        return None if found is None else self.quotes[int(found[1])]

    def _until_relation(self) -> list[str]:
        found = []
        while self.place < len(self.tokens) and not self._ends_noun():
            found.append(self._take())
        return found

    def _part(self, thing: _Thing) -> None:
        """Read what a thing has: "with five fingers"."""
        self._take()
        part = self._noun_phrase(bare=True)
        if self._next().startswith("on_the_"):
            part.extra = _in_words(self._take())
        have = "have" if thing.plural else "has"
        exactly = "exactly " if part.number else ""
        kind: Kind = "count" if part.number else "attribute"
        self._add(kind, f"{thing.name} {have} {exactly}{part.whole}", thing.name, thing.at)

    def _doing(self, thing: _Thing) -> None:
        """Read what a thing does: "smiling", "facing left", "riding a horse", "looking at a cat"."""
        verb = [self._take()]
        if self._next() in words.ATTACHED and _begins_thing(self._next(1)):
            verb.append(self._take())
        if _begins_thing(self._next()) and not self._next(1).endswith("o'clock"):
            self._inner(thing, " ".join(verb))
            return
        while self.place < len(self.tokens) and (not self._ends_noun() or self._next(1).endswith("o'clock")):
            verb.append(self._take())
        self._add("attribute", f"{thing.name} {thing.be} {' '.join(verb)}", thing.name, thing.at)

    def _inner(self, thing: _Thing, relation: str) -> None:
        """Read the thing that another one is related to within its description."""
        inner = self._noun_phrase()
        self._introduce(inner)
        self._relate([thing], relation, [inner])


def _begins_thing(word: str) -> bool:
    plain = word.lower()
    return plain in words.SINGULAR | words.PLURAL | words.NUMBERS | {"the"} or (
        plain.isdecimal() and 0 < len(plain) <= 3
    )


def _is_participle(word: str) -> bool:
    known = words.NOUNS_IN_ING | SAYING | words.NEGATIONS
    return len(word) > 5 and word.endswith("ing") and word not in known


def _in_words(joined: str) -> str:
    """A relation as it is said of things: "left_of" is "left of"."""
    plain = joined.lower().replace("_", " ")
    return f"to the {plain}" if plain in ("left of", "right of") else plain


def _joined(match: re.Match[str], word: str) -> str:
    if word == "-":
        return ""
    return match.expand(word) if word else match[0].lower().replace(" ", "_")


def _reason(rest: Sequence[str]) -> str:
    plain = {word.lower() for word in rest}
    if plain & words.NEGATIONS:
        return DENIED
    return STYLE if plain & words.SCENE else UNKNOWN
