"""Checks of prompts that a language model wrote.

A revised prompt must be the user's prompt with additions: it must contain all words of the user's prompt that carry
meaning, in their order. The additions must describe an image. So they must not contain negations (a text encoder reads
"no sixth finger" as a sixth finger), instructions to a model, or letters of another script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_MARKS = "',.-"
"""Punctuation that has no meaning in any prompt syntax."""
_SIGNS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Scripts without spaces between words: each character counts as a word."""
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+(?:'[^\W_]+)*")
_EAST = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "IDEOGRAPHIC"})


def words(text: str) -> list[str]:
    """Split a text into words, in lower case and without plural endings; Chinese and Japanese into characters."""
    line = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    return [word.removesuffix("'s").removesuffix("s") or word for word in _WORD.findall(line)]


FILLER = frozenset(words("a an the of on in at with and its his her their one to"))
"""Words that carry no meaning, in the form that ``words`` returns, as are the other sets here."""
_DENIALS = "no not without never none nor neither nothing avoid except instead lacking missing removed don't isn't"
_ASIDES = "ignore disregard instruction instructions assistant prompt json http https www sorry cannot"
_UNWANTED = frozenset(words(f"{_DENIALS} {_ASIDES}"))


def cleaned(text: str, prompt: str = "") -> str:
    """Make one line of a model's text, without control characters and without syntax marks that ``prompt`` lacks."""
    allowed = {*_MARKS, *filter(str.isprintable, prompt)}
    line = unicodedata.normalize("NFKC", text).replace("’", "'")
    kept = (letter if letter in allowed or unicodedata.category(letter)[0] in "LMN" else " " for letter in line)
    joined = " ".join("".join(kept).split())
    return re.sub(r" (?=[,.])", "", joined).strip(" ,-").removesuffix(".")


def objection(text: str, prompt: str, *, free_text: bool = True) -> str | None:
    """Say why a revised prompt must not be used, as the end of a sentence about it; None if it may be used.

    The answer is also sent back to the model; keep its wording. ``text`` is the revised prompt, after ``cleaned``;
    ``free_text`` says whether it may contain other words than those of the user's ``prompt``.
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
    """Select the usable parts of a model's negative prompt; parts with only words of the user's prompt are dropped."""
    known = set(words(prompt)) | FILLER
    phrases = []
    for part in re.split(r"[,;]|\. ", text):
        phrase = cleaned(part)
        own = set(words(phrase))
        if own - known and not own & _UNWANTED and _scripts(phrase) <= _scripts(prompt) | {"LATIN"}:
            phrases.append(phrase)
    return phrases


def _lost(own: list[str], prompt: str) -> Iterator[str]:
    """Yield the words of the prompt that are not in ``own`` in this order."""
    rest = iter(own)
    for word in words(prompt):
        if word not in FILLER and word not in rest:  # continues after the previous word
            yield word


def _scripts(text: str) -> set[str]:
    names = {unicodedata.name(letter, "unnamed").split()[0] for letter in text if letter.isalpha()}
    return {"CJK" if name in _EAST else name for name in names}
