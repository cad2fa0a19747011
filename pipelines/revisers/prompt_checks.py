"""Whether a prompt that a model wrote may be painted: pure functions over text.

A revised prompt must be the user's with something added: all its words that mean something, in their order. What is
added must describe a picture: no denials (a text encoder reads "no sixth finger" as a sixth finger), nothing that is
said to a model, no other script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_MARKS = "',.-"
"""Marks that no prompt syntax gives a meaning."""
_SIGNS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts that put no spaces between words: each sign counts as one."""
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+(?:'[^\W_]+)*")
_EAST = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC"})


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without the ending of a plural; of Chinese or Japanese its characters."""
    line = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return [word.removesuffix("'s").removesuffix("s") or word for word in _WORD.findall(line)]


FILLER = frozenset(words("a an the of on in at with and its his her their one to"))
"""Words that name nothing, as ``words`` gives them; so are the others here."""
_DENIALS = "no not without never none nor neither nothing avoid except instead lacking missing removed don't isn't"
_ASIDES = "ignore disregard instruction instructions assistant prompt json http https www sorry cannot"
_UNWANTED = frozenset(words(f"{_DENIALS} {_ASIDES}"))


def cleaned(text: str, prompt: str = "") -> str:
    """A model's text as prompt text: one line, without control characters and the marks of prompt syntaxes.

    Marks that the user's prompt has itself stay.
    """
    allowed = {*_MARKS, *filter(str.isprintable, prompt)}
    line = unicodedata.normalize("NFKC", text).replace("’", "'")
    kept = (letter if letter in allowed or unicodedata.category(letter)[0] in "LMN" else " " for letter in line)
    joined = " ".join("".join(kept).split())
    return re.sub(r" (?=[,.])", "", joined).strip(" ,-").removesuffix(".")


def objection(text: str, prompt: str, *, free_text: bool = True) -> str | None:
    """Why a revised prompt must not be painted, as the end of a sentence about it; None where it may be.

    Args:
        text: the revised prompt, cleaned.
        prompt: the user's.
        free_text: False: it may have no words but the user's.
    """
    if not text:
        return "says nothing"
    own, known = words(text), set(words(prompt))
    lost = next(_lost(own, prompt), None)
    if lost is not None:
        return f"leaves out {lost!r}, or has it out of its order"
    added = [word for word in own if word not in known]
    strange = [word for word in added if not free_text or word in _UNWANTED]
    if strange:
        return f"has the word {strange[0][:40]!r}"
    scripts = _scripts(text) - _scripts(prompt) - {"LATIN"}
    return f"has letters of another script ({', '.join(sorted(scripts)).lower()})" if scripts else None


def negative_phrases(text: str, prompt: str) -> list[str]:
    """The parts of a model's negative prompt that may be used: none that names only what the user wants."""
    known = set(words(prompt)) | FILLER
    phrases = []
    for part in re.split(r"[,;]|\. ", text):
        phrase = cleaned(part)
        own = set(words(phrase))
        if own - known and not own & _UNWANTED and _scripts(phrase) <= _scripts(prompt) | {"LATIN"}:
            phrases.append(phrase)
    return phrases


def _lost(own: list[str], prompt: str) -> Iterator[str]:
    """The words of the prompt that do not follow each other in ``own``."""
    rest = iter(own)
    for word in words(prompt):
        if word not in FILLER and word not in rest:  # reads on behind the word before
            yield word


def _scripts(text: str) -> set[str]:
    names = {unicodedata.name(letter, "unnamed").split()[0] for letter in text if letter.isalpha()}
    return {"CJK" if name in _EAST else name for name in names}
