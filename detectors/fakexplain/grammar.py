"""The answers of FakeXplain (papers/fakexplain.md): flaws with boxes in ``think``, tags of the image, and a verdict.

Three dialects write the same content:

* ``official``: as the authors' code has it. The marks are special tokens of Qwen-VL; many servers leave them out, so
  answers without them are read, too. Tags are elements inside ``think``; a real image has none.
* ``internvl``: the same with InternVL's marks, and boxes in thousandths.
* ``paper``: the paper's text names ``think``, ``tag`` and ``verdict`` and no marks. A flaw is one line with its box.

::

    <think>
    - the left hand has six fingers [120, 40, 310, 220]
    </think>
    <tag>anatomy</tag>
    <verdict>fake</verdict>

``read`` accepts any text around the flaws inside ``think``, and raises ``UnreadableOutputError`` if the elements are
not exactly those of the dialect. ``is_well_formed`` asks for more: it is the format reward of the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.nothing import is_bare, says_nothing
from refiner.detectors.reading.regions import MAX_NAME, MAX_REGIONS, MAX_WORDS, plain_text
from refiner.detectors.reading.shares import Shares, pixels_of, read_shares, told_box
from refiner.detectors.reading.words import read_category
from refiner.errors import ConfigError, UnreadableOutputError
from refiner.types import Claim, Size

MAX_TEXT = 100_000
"""Longest answer that is read, in characters."""
MAX_TAGS = 20
NOTHING = "no flaws"
"""What ``think`` holds if there are no flaws."""
A_FLAW = "a flaw"
"""The description of a flaw whose description is not known."""
WHOLE = "the image as a whole"
"""What ``think`` holds for a generated image without flaws that are listed."""
NO_TAG = "none"
"""The tag of an image without tags, in the dialect ``paper``."""

_PLAIN = str.maketrans({"<": "(", ">": ")", "[": "(", "]": ")", "|": "/"})
_ELEMENT = re.compile(r"<(/?(?:think|tag|verdict))>")
_NUMBER = r"-?\d{1,6}(?:\.\d{1,6})?"
_BOX = re.compile(rf"\[\[?\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*\]\]?")
_BULLET = re.compile(r"\s*(?:[-*\u2022]|\d{1,3}[.)])\s+")
"""Begins a line of a list; only matched at the start of a line, where its time is linear."""
_TRIMMED = " :-"
"""Signs that are not part of a description at its start and end."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How answers are written."""

    name: str
    fake: str = "generated"
    """The verdict about a generated image; that about a real one is ``real``."""
    opening: str = ""
    """Mark before a description; "" if a flaw is a line."""
    middle: str = ""
    """Marks between a description and its box."""
    closing: str = ""
    """Mark after a box."""
    tags_inside: bool = True
    """Whether tags are elements inside ``think``, one for each tag; else one element after it."""
    boxes: BoxFormat | None = None
    """How boxes are written; None: as the family of the model does."""


_ROWS = (
    Dialect(
        name="official",
        opening="<|object_ref_start|>",
        middle="<|object_ref_end|><|box_start|>",
        closing="<|box_end|>",
    ),
    Dialect(name="internvl", opening="<ref>", middle="</ref><box>", closing="</box>", boxes=BoxFormat()),
    Dialect(name="paper", fake="fake", tags_inside=False),
)
DIALECTS: Mapping[str, Dialect] = MappingProxyType({row.name: row for row in _ROWS})
"""Name -> dialect."""
_MARKS = re.compile(
    "|".join(
        re.escape(mark) for row in _ROWS for mark in re.findall(r"<[^<>]+>", row.opening + row.middle + row.closing)
    )
)


class Flaw(NamedTuple):
    """One flaw of an answer."""

    description: str
    box: Shares | None
    """None if the answer gives no usable box."""


class Answer(NamedTuple):
    """The content of an answer."""

    flaws: tuple[Flaw, ...]
    tags: tuple[str, ...]
    """Flaws of the image as a whole."""
    fake: bool
    """The verdict."""

    @property
    def boxes(self) -> list[Shares]:
        """The boxes of all flaws that have one."""
        return [flaw.box for flaw in self.flaws if flaw.box is not None]

    def claims(self, size: Size) -> list[Claim]:
        """The flaws as claims with boxes in pixels of an image of ``size``, rounded to the nearest pixels.

        The name is the text before the first colon of the description, if there is one, else the description. The
        category is that of the first known word in it, None if there is none.
        """
        return [
            Claim(
                name=plain_text(flaw.description.partition(": ")[0], MAX_NAME) or A_FLAW,
                explanation=flaw.description,
                category=read_category(flaw.description),
                box=None if flaw.box is None else pixels_of(flaw.box, size),
            )
            for flaw in self.flaws
        ]


class Content(NamedTuple):
    """What answers tell besides the verdict. The paper's ablation leaves out one of these, or all."""

    boxes: bool = True
    captions: bool = True
    """Descriptions of flaws; without them, each is called ``A_FLAW``."""
    tags: bool = True

    def of(self, answer: Answer) -> Answer:
        """The answer without what this leaves out."""
        flaws = tuple(
            Flaw(flaw.description if self.captions else A_FLAW, flaw.box if self.boxes else None)
            for flaw in answer.flaws
            if self.boxes or self.captions
        )
        return Answer(flaws=flaws, tags=answer.tags if self.tags else (), fake=answer.fake)


EVERYTHING = Content()


def find_dialect(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        ConfigError: there is no such dialect.
    """
    if name not in DIALECTS:
        raise ConfigError(f"There is no dialect {name!r} of FakeXplain: choose from {', '.join(DIALECTS)}.")
    return DIALECTS[name]


def write(answer: Answer, dialect: Dialect, *, form: BoxFormat, shown: Size) -> str:
    """Write an answer. ``read`` returns the same content, with boxes rounded to the steps of ``form``.

    Signs of the grammar in texts are replaced by others. Empty tags are left out. A box is at least one step wide and
    high.

    Args:
        answer: what to write.
        dialect: how.
        form: how the model writes boxes.
        shown: size of the image as the model sees it, to which boxes in pixels refer.
    """
    lines = [_line(plain(flaw.description) or A_FLAW, flaw.box, dialect, form, shown) for flaw in answer.flaws]
    tags = [tag for told in answer.tags if _is_tag(tag := _tag(told))]
    word = dialect.fake if answer.fake else "real"
    thoughts = lines or [WHOLE if answer.fake else NOTHING]
    if dialect.tags_inside:
        thoughts += [f"<tag>{tag}</tag>" for tag in tags]
        return "<think>{}</think><verdict>{}</verdict>".format("\n".join(thoughts), word)
    told = ", ".join(tags) or NO_TAG
    return "<think>\n{}\n</think>\n<tag>{}</tag>\n<verdict>{}</verdict>".format("\n".join(thoughts), told, word)


def plain(text: str) -> str:
    """A description without signs of the grammar, on one line, as ``write`` writes it and ``read`` returns it.

    It is empty if the text says that there is no flaw.
    """
    words = _described(text.translate(_PLAIN))
    return "" if is_bare(words) or says_nothing(words) else words


def _line(description: str, box: Shares | None, dialect: Dialect, form: BoxFormat, shown: Size) -> str:
    told = "" if box is None else told_box(box, form, shown)
    if not dialect.opening:
        return f"- {description} {told}".rstrip()
    end = dialect.middle + told + dialect.closing if told else dialect.middle[: dialect.middle.index(">") + 1]
    return f"{dialect.opening}{description}{end}"


def _tag(text: str) -> str:
    return plain_text(text.translate(_PLAIN).replace(",", ";"), MAX_NAME)


def _is_tag(tag: str) -> bool:
    return bool(tag) and tag.lower() != NO_TAG


def read(text: str, dialect: Dialect, *, form: BoxFormat, shown: Size) -> Answer:
    """Read an answer.

    Args:
        text: what the model wrote.
        dialect: how it was asked to write.
        form: how it writes boxes.
        shown: size of the image as the model saw it.

    Returns:
        At most ``MAX_REGIONS`` flaws, in their order; equal ones are returned once. A box that lies outside the image
        or is empty is None. A box without a description has the description before it.

    Raises:
        UnreadableOutputError: the elements are not those of the dialect, each once, in order, closed and not empty, or
            there is text outside them, or the verdict is another word; ``raw`` is the text.
    """
    thoughts, tags, verdict = _elements(text, dialect)
    word = verdict.strip().strip(".!").lower()
    if word not in (dialect.fake, "real"):
        raise _unreadable(f"the verdict {plain_text(verdict, MAX_NAME)!r}, not {dialect.fake} or real", text)
    fake = word == dialect.fake
    found = _marked(thoughts, dialect) if dialect.opening else read_lines(thoughts, fake)
    return Answer(flaws=flaws_of(found, form, shown), tags=_tags(tags), fake=fake)


def flaws_of(found: Sequence[tuple[str, str | None]], form: BoxFormat, shown: Size) -> tuple[Flaw, ...]:
    """The flaws of pairs of description and box: each once, at most ``MAX_REGIONS``.

    A pair that says that there is no flaw, or has neither a description nor a usable box, is none.
    """
    flaws = [Flaw(words, None if box is None else read_shares(box, form, shown)) for words, box in found]
    kept = (
        flaw for flaw in flaws if not says_nothing(flaw.description) and (flaw.box or not is_bare(flaw.description))
    )
    return tuple(dict.fromkeys(kept))[:MAX_REGIONS]


def _unreadable(what: str, text: str) -> UnreadableOutputError:
    return UnreadableOutputError(
        f"Expected an answer of think, tag and verdict, got {what}: use a model that is tuned for it.", text
    )


def _elements(text: str, dialect: Dialect) -> tuple[str, list[str], str]:
    """The texts of think, of the tags, and of the verdict."""
    if len(text) > MAX_TEXT:
        raise _unreadable(f"more than {MAX_TEXT:,} characters", text)
    pieces = _ELEMENT.split(text)  # text, name of an element, text, name, ..., text
    names, between = pieces[1::2], pieces[2::2]
    tags = names.count("tag")
    inside = ["tag", "/tag"] * tags
    wanted = (
        ["think", *inside, "/think", "verdict", "/verdict"]
        if dialect.tags_inside
        else ["think", "/think", *inside, "verdict", "/verdict"]
    )
    if names != wanted or (tags > 1 and not dialect.tags_inside):
        raise _unreadable(f"the elements {' '.join(names[:12]) or 'none'}", text)
    held = [between[place] for place, name in enumerate(names) if name == "tag"]
    if dialect.tags_inside:
        thoughts = "\n".join(between[0 : 2 * tags + 1 : 2])
        outside = [pieces[0], between[2 * tags + 1], between[-1]]
    else:
        thoughts = between[0]
        outside = [pieces[0], *between[1 : 2 * tags + 2 : 2], between[-1]]
    if any(piece.strip() for piece in outside):
        raise _unreadable("text outside the elements", text)
    if not thoughts.strip() or not all(tag.strip() for tag in held):
        raise _unreadable("an empty element", text)
    return thoughts, held, between[-2]


def _tags(held: Sequence[str]) -> tuple[str, ...]:
    words = [plain_text(word, MAX_NAME) for text in held[:MAX_TAGS] for word in text.split(",")[:MAX_TAGS]]
    return tuple(dict.fromkeys(filter(_is_tag, words)))[:MAX_TAGS]


def _marked(thoughts: str, dialect: Dialect) -> list[tuple[str, str | None]]:
    """Pairs of description and box in dialects with marks, or of the same text after a server removed the marks."""
    items = thoughts.split(dialect.opening)
    if len(items) > 1:
        return [pair for item in items[1:] for pair in _pairs(item, dialect)]
    found: list[tuple[str, str | None]] = []
    end = 0
    for match in _BOX.finditer(thoughts):
        words = _described(thoughts[end : match.start()])
        found.append((words or (found[-1][0] if found else ""), match[1]))
        end = match.end()
    return found


def _pairs(item: str, dialect: Dialect) -> list[tuple[str, str | None]]:
    """The description after an opening mark with each of the boxes behind the mark that ends it."""
    words, _, rest = item.partition(dialect.middle[: dialect.middle.index(">") + 1])
    boxes = [match[1] for match in _BOX.finditer(rest)]
    return [(_described(words), box) for box in boxes] or [(_described(words), None)]


def read_lines(thoughts: str, fake: bool) -> list[tuple[str, str | None]]:
    """Pairs of description and box (the numbers, not read): lines with a box, and, in fake images, also listed lines.

    The description is the text before the boxes of the line, else the text after them.
    """
    found: list[tuple[str, str | None]] = []
    for line in thoughts.split("\n"):
        bullet = _BULLET.match(line)
        text = line[bullet.end() :] if bullet else line
        boxes = list(_BOX.finditer(text))
        if boxes:
            words = _described(text[: boxes[0].start()]) or _described(text[boxes[-1].end() :])
            found += [(words, match[1]) for match in boxes]
        elif fake and bullet:
            found.append((_described(text), None))
    return found


def _described(words: str) -> str:
    return plain_text(_MARKS.sub(" ", words).strip(), MAX_WORDS).strip(_TRIMMED)


def thoughts(text: str) -> str:
    """The words of ``think`` in a readable answer, on one line, without marks and tags.

    They are empty for ``WHOLE`` and for words that say that there is no flaw.
    """
    inside = text.partition("<think>")[2].partition("</think>")[0]
    told = _described(" ".join(_ELEMENT.split(inside)[::4]))
    return "" if told.lower() == WHOLE or says_nothing(told) else told


def is_well_formed(answer: Answer, content: Content = EVERYTHING) -> bool:
    """Whether an answer is complete: flaws and tags exactly for a generated image, each flaw with text and own box.

    What ``content`` leaves out must be missing.
    """
    if not answer.fake:
        return not answer.flaws and not answer.tags
    boxes = answer.boxes
    return (
        bool(answer.flaws) == (content.boxes or content.captions)
        and len(boxes) == len(set(boxes)) == (len(answer.flaws) if content.boxes else 0)
        and all(flaw.description for flaw in answer.flaws)
        and bool(answer.tags) == content.tags
    )


def pattern(dialect: Dialect, *, form: BoxFormat, shown: Size) -> str:
    """A regular expression for constrained decoding, without look-around. It matches all well-formed answers.

    All texts it matches are well-formed if their boxes are different, inside the image and in order, if descriptions
    and tags have a visible character, and if ``none`` is not the only tag.
    """
    number = r"(?:0\.\d{1,3}|1\.0)"
    if form.scale == "thousand":
        number = r"(?:\d{1,3}|1000)"
    elif form.scale == "pixels":
        number = rf"\d{{1,{len(str(max(shown)))}}}"
    words = r"[^<>\[\]|\s:\-][^<>\[\]|\n\r]*"
    box = rf"\[{number}, {number}, {number}, {number}\]"
    line = f"- {words} {box}"
    if dialect.opening:
        opening, middle, closing = map(re.escape, (dialect.opening, dialect.middle, dialect.closing))
        line = f"{opening}{words}{middle}{box}{closing}"
    tag = r"[^<>\[\]|,\s][^<>\[\]|,\n\r]*"
    if dialect.tags_inside:
        flawed = f"<think>{line}(?:\n{line})*(?:\n<tag>{tag}</tag>)+</think><verdict>{dialect.fake}</verdict>"
        return f"(?:{flawed}|<think>{NOTHING}</think><verdict>real</verdict>)"
    flawed = f"<think>\n{line}(?:\n{line})*\n</think>\n<tag>{tag}(?:, {tag})*</tag>\n<verdict>{dialect.fake}</verdict>"
    return f"(?:{flawed}|<think>\n{NOTHING}\n</think>\n<tag>{NO_TAG}</tag>\n<verdict>real</verdict>)"
