"""The words that a prompt asks an image to show, and what a reader of lettering finds of them.

A prompt asks for words by quotation marks (straight, curly, angular or East Asian), or without them after a phrase such
as "that says", "titled" or "with the words". Without quotation marks, the words end where their capitals end; words
without capitals are taken only where something that carries writing is named before them ("a sign saying open"), so
that a man saying hello asks for no lettering.

Words are compared in the form of ``folded``. What is found of each word is a step of ``Analysis.trace``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, get_args

from refiner.errors import InputError
from refiner.types import Step


def _set(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


Kind = Literal["read", "misspelt", "unreadable", "missing"]
"""What is found of a word: it is read as wanted, with other letters, only with doubt, or nowhere."""

QUOTED: Final = re.compile(r'(?<!\d)"([^"]{1,200})"|(?<!\w)\'([^\']{1,200})\'(?!\w)')
"""A text in quotation marks, after ``straight``; a mark after a digit is an inch."""
SAYING: Final = frozenset({"saying", "says", "say", "reading", "reads", "labeled", "labelled", "titled", "spelling"})
"""Words before what is written on a thing."""
SCRIPTS: Final = ("Latin", "Chinese", "Japanese")
"""The scripts that the weights in the wheel of RapidOCR read."""
MAX_PROMPT: Final = 2000
"""Characters of a prompt that are read."""
MAX_WORDS: Final = 60
"""Words that are looked for; the rest of them is left out."""
STAGE: Final = "text"
"""Stage of the steps of the wanted words."""

_MARKS = str.maketrans("“”„‟«»「」『』＂‘’‚‛‹›", '"""""""""""\'\'\'\'\'\'')
_BEFORE = re.compile(
    r"\b(?:(?P<verb>says|saying|reads|reading|entitled|titled|labell?ed|spelling)"
    r"|(?:with|bearing|showing) the (?:words?|text|letters|name|title|inscription|caption|slogan))[:,]?\s+(?=[^\s\"'])",
    re.IGNORECASE,
)
_WRITTEN_ON = re.compile(
    r"\b(?:sign|signboard|board|billboard|banner|poster|label|sticker|plate|plaque|placard|screen|neon|shirt|t-shirt|mug|cup"
    r"|cap|hat|book|cover|card|note|letter|newspaper|magazine|flag|wall|window|door|logo|badge|cake|bottle|box|graffiti"
    r"|chalkboard|blackboard|whiteboard|text|words?|title|caption)s?(?:\s+(?:that|which))?\s*$",
    re.IGNORECASE,
)
_ENDS = _set(
    "a an the on in at by of with and or above below left right next near behind under over to from for against that",
    "which who is are was were",
)
_JOINING = _set("of the and in on a an to for at by with from & -")
_LONGEST_PLAIN = 4
"""Words without capitals that are taken at most."""
_TOKEN = re.compile(r"\s*([^\s,;:.!?()\[\]\"']+(?:['.][^\s,;:.!?()\[\]\"']+)*)")
_READABLE = frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"})
_UNSPACED = _READABLE - {"LATIN"}
_KANA = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"})
_VOICED = "\u3099\u309a"
"""Combining marks that make another letter of a kana."""
_ALIKE = str.maketrans("01l|一―カニロエヘベペトタハリ", "oiiiーー力二口工へべぺ卜夕八り")


class Found(NamedTuple):
    """What is found of one word."""

    word: str
    """As the prompt has it."""
    kind: Kind
    read: str
    """What the image says instead, or as wanted; empty if it is missing."""


def straight(text: str) -> str:
    """Replace quotation marks of all kinds by straight ones; the length stays the same."""
    return text.translate(_MARKS)


def wanted_texts(prompt: str) -> list[str]:
    """The texts that a prompt asks the image to show, in its order; each is as often there as in the prompt."""
    text = straight(prompt[:MAX_PROMPT])
    quoted = [(match.start(), match.end(), match[1] or match[2]) for match in QUOTED.finditer(text)]
    plain = [
        (match.start(), match.end(), words)
        for match in _BEFORE.finditer(text)
        if not any(start <= match.start() < end for start, end, _ in quoted) and (words := _unquoted(text, match))
    ]
    found = [" ".join(words.split()) for _, _, words in sorted(quoted + plain)]
    return [each for each in found if folded(each)]


def wanted_words(prompt: str) -> list[list[str]]:
    """The same, as the words of each text, at most ``MAX_WORDS`` in all. Scripts without spaces have long words.

    Raises:
        InputError: a word has letters of a script that cannot be read; the message names the script.
    """
    found, left = [], MAX_WORDS
    for text in wanted_texts(prompt):
        words = [word for word in text.split() if folded(word)][:left]
        left -= len(words)
        for word in words:
            if (script := strange_script(word)) is not None:
                raise InputError(
                    f"The prompt asks for the word {word!r:.80} in the script {script}, and only "
                    f"{', '.join(SCRIPTS)} can be read: leave the word out, or use another detector."
                )
        found += [words] if words else []
    return found


def is_cut(prompt: str) -> bool:
    """Whether a prompt is longer, or asks for more words, than ``wanted_words`` reads."""
    words = [word for text in wanted_texts(prompt) for word in text.split() if folded(word)]
    return len(words) > MAX_WORDS or bool(prompt[MAX_PROMPT:].strip())


def strange_script(text: str) -> str | None:
    """The first script of a text that is not in ``SCRIPTS``; None if all its letters and digits can be read."""
    for letter in unicodedata.normalize("NFKC", text):
        if letter.isalnum() and not letter.isascii():
            script = unicodedata.name(letter, "unknown").split()[0]
            if script not in _READABLE:
                return script.capitalize()
    return None


def script_of(word: str) -> str:
    """The script of a word, one of ``SCRIPTS``: kana make it Japanese, else Chinese signs make it Chinese."""
    names = {unicodedata.name(letter, "unknown").split()[0] for letter in unicodedata.normalize("NFKC", word)}
    if names & _KANA:
        return "Japanese"
    return "Chinese" if names & _UNSPACED else "Latin"


def is_unspaced(letter: str) -> bool:
    """Whether a letter belongs to a script without spaces between words."""
    return unicodedata.name(letter, "unknown").split()[0] in _UNSPACED


def folded(text: str) -> str:
    """The form in which texts are compared: letters and digits alone, without case and the accents of Latin letters.

    Letters that have one shape in many typefaces, such as 0 and O, or the kana and the Chinese sign of one form, are
    one letter.
    """
    apart = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(letter for letter in apart if letter in _VOICED or not unicodedata.combining(letter))
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", bare).translate(_ALIKE)))


def to_steps(found: Sequence[Found]) -> tuple[Step, ...]:
    """One step for each word, for ``Analysis.trace``."""
    return tuple(
        Step(
            stage=STAGE,
            subject=each.word,
            outcome="confirmed" if each.kind == "read" else "rejected",
            text=each.read,
            reason=each.kind,
        )
        for each in found
    )


def of_steps(trace: Sequence[Step]) -> list[Found]:
    """Read the words back; steps of other stages are left out."""
    kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    return [
        Found(step.subject, kinds[step.reason], step.text)
        for step in trace
        if step.stage == STAGE and step.reason in kinds
    ]


def share_read(found: Sequence[Found]) -> float | None:
    """The share of the words that are read as wanted, in [0, 1]; None without words."""
    return sum(each.kind == "read" for each in found) / len(found) if found else None


def _unquoted(text: str, before: re.Match[str]) -> str:
    """The text after a phrase such as "that says", which has no quotation marks; "" if there is none."""
    tokens = list(_tokens(text, before.end()))
    if not tokens or not _is_capital(tokens[0]):
        known = before["verb"] is None or _WRITTEN_ON.search(text[: before.start()]) is not None
        return " ".join(_plain_run(tokens)) if known else ""
    kept = 1
    for number, token in enumerate(tokens[1:], start=1):
        if _is_capital(token):
            kept = number + 1
        elif token.lower() not in _JOINING:
            break
    return " ".join(tokens[:kept])


def _tokens(text: str, start: int) -> Iterator[str]:
    """The words up to the next mark of punctuation."""
    while match := _TOKEN.match(text, start):
        yield match[1]
        start = match.end()


def _plain_run(tokens: Sequence[str]) -> Iterator[str]:
    for token in tokens[:_LONGEST_PLAIN]:
        if token.lower() in _ENDS:
            return
        yield token


def _is_capital(token: str) -> bool:
    """Whether a word begins like a name: with a capital or a digit, or in a script without capitals."""
    first = token[0]
    return first.isdigit() or (first.isalpha() and not first.islower())
