"""Statements that there is no flaw, which models write in place of one: "No flaws detected", "the image looks clean".

They are no regions. Whether an answer as a whole means "no flaws" is decided by the reader of each grammar.
"""

from __future__ import annotations

import re
from typing import Final

_BARE: Final = frozenset({"none", "na", "nan", "nil", "null", "nothing", "no", "notapplicable"})
"""Texts, only letters and digits, that say nothing by themselves."""
_NOUN = (
    r"(?:flaw|artifact|artefact|anomal(?:y|ie)|defect|issue|problem|error|mistake|inconsistenc(?:y|ie)|fault|glitche?"
    r"|imperfection|distortion|abnormalit(?:y|ie)|irregularit(?:y|ie)|deformit(?:y|ie)|region|finding)s?"
)
_WRONG = r"(?:wrong|unusual|suspicious|odd|strange|abnormal|out of place|amiss|of note)"
_KIND = (
    r"(?:visible|obvious|apparent|clear|evident|major|minor|notable|noticeable|significant|severe|serious|discernible"
    r"|perceptible|detectable|identifiable|observable|particular|specific|other|further|more|additional|such|real|true"
    r"|visual|semantic|structural|physical|logical|anatomical|generative|generation|image|ai|flawed|known|any)"
)
_NOUNS = rf"(?:{_KIND} )*{_NOUN}(?: (?:and|or|nor) (?:{_KIND} )*{_NOUN})*"
_FRAME = r"(?:image|picture|photo|photograph|scene)"
_PICTURE = rf"(?:the|this|its|my|a)?(?: ?(?:entire|whole|given|generated|provided))* ?{_FRAME}"
_EVERYTHING = r"(?:everything|all|it|this)"
_LISTED = r"(?:detected|found|observed|identified|noticed|noted|reported|discovered|spotted|listed)"
_TOLD = rf"(?:{_LISTED}|seen|visible|present|apparent|evident|perceived)"
_WHERE = (
    rf"(?: (?:(?:in|on|within|throughout|across|of|with) {_PICTURE}|here|anywhere|at all|to report|to be {_TOLD}))*"
)
_BEEN = r"(?: (?:is|are|was|were|has been|have been|can be|could be|to be|is to be))?"
_WELL = (
    r"(?:clean|flawless|fine|normal|natural|ok|okay|good|correct|realistic|perfect|plausible|intact|consistent"
    rf"|authentic|unremarkable|(?:flaw|artifact|artefact|defect|error) ?free|(?:free (?:of|from)|without) {_NOUNS})"
)
_VERY = r"(?:completely|entirely|perfectly|very|quite|overall|otherwise|totally|all|generally|to be|and)"
_SEEN = (
    r"(?:(?:i|we) (?:see|saw|find|found|detect|detected|notice|noticed|observe|observed|could find|can see|could see)"
    rf"|there (?:is|are|was|were)|{_PICTURE} (?:has|shows|contains|have)|(?:it|this) (?:has|shows|contains))"
)
_NOTHING = (
    rf"(?:{_SEEN} )?(?:(?:no|zero|not any|without|free (?:of|from)) {_NOUNS}(?:{_BEEN} {_TOLD})?"
    rf"|nothing{_BEEN}(?: {_KIND})? {_WRONG}(?:{_BEEN} {_TOLD})?|(?:nothing|none){_BEEN} {_LISTED}|nothing to report)"
    rf"{_WHERE}"
)
_FINE = (
    rf"(?:overall )?(?:{_PICTURE}|{_EVERYTHING}) (?:is|looks|appears|seems|are|look|appear|seem)(?: {_VERY})* {_WELL}"
    rf"(?: and {_WELL})?{_WHERE}|(?:a |the )?(?:{_VERY} )*{_WELL} {_FRAME}|all (?:clear|good|fine)|clean|flawless"
)
_STATEMENT = re.compile(rf"(?:{_NOTHING}|{_FINE})")
_SENTENCE = re.compile(r"[.!;:,\n]+")
_LONGEST: Final = 300
"""A longer text is a description."""


def is_bare(text: str) -> bool:
    """Whether a field is empty or filled with a word such as "none", which says nothing by itself."""
    return not text or "".join(letter for letter in text[:_LONGEST].lower() if letter.isalnum()) in _BARE


def says_nothing(text: str) -> bool:
    """Whether a text says in all its parts that the image has no flaw; that a thing is missing is a flaw.

    "No artifacts, the image looks clean." says so; "no thumb on the left hand" and "no flaws except the hand" do not.
    """
    if len(text) > _LONGEST:
        return False
    parts = filter(None, map(_words, _SENTENCE.split(text.lower())))
    stated = [bool(_STATEMENT.fullmatch(part)) for part in parts if not is_bare(part)]
    return bool(stated) and all(stated)


def _words(text: str) -> str:
    """The words of a text, with one space between them."""
    return " ".join("".join(letter if letter.isalnum() or letter == "'" else " " for letter in text).split())
