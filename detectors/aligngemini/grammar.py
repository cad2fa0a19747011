"""The answers of the semantic branch: a verdict, then one line for each reason, with a box where the model gives one.

::

    fake
    - the left hand: it has six fingers [120, 40, 310, 220]

The paper does not show answers. The verdict stands first, so that its probability does not depend on the reasons.
"""

from __future__ import annotations

import re
from typing import Final

from refiner.detectors.fakexplain.grammar import A_FLAW, MAX_TEXT, Answer, Flaw, flaws_of, plain, read_lines
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import MAX_NAME, MAX_WORDS, plain_text
from refiner.detectors.reading.shares import told_box
from refiner.errors import UnreadableOutputError
from refiner.types import Size

FAKE, REAL = "fake", "real"
BULLET: Final = "\n- "
"""Stands before each reason."""
_VERDICT = re.compile(r"""[\s*_#"'`]{0,20}(?:verdict[\s*_:"'`]{1,20})?(fake|real)\b[*_.,:;!"'`]{0,20}""", re.IGNORECASE)


def write(answer: Answer, *, form: BoxFormat, shown: Size) -> str:
    """Write an answer. ``read`` returns the same content, with boxes rounded to the steps of ``form``.

    Args:
        answer: what to write; its tags are left out.
        form: how the model writes boxes.
        shown: size of the image as the model sees it, to which boxes in pixels refer.
    """
    if not answer.fake:
        return REAL
    lines = [f"{plain(flaw.description) or A_FLAW} {_told(flaw, form, shown)}".rstrip() for flaw in answer.flaws]
    return "".join([FAKE, *(f"{BULLET}{line}" for line in lines)])


def _told(flaw: Flaw, form: BoxFormat, shown: Size) -> str:
    return "" if flaw.box is None else told_box(flaw.box, form, shown)


def read(text: str, *, form: BoxFormat, shown: Size) -> Answer:
    """Read an answer.

    Args:
        text: what the model wrote.
        form: how it writes boxes.
        shown: size of the image as the model saw it.

    Returns:
        The verdict and at most ``MAX_REGIONS`` reasons, in their order; equal ones are returned once. A box that lies
        outside the image or is empty is None. Without listed reasons, the text behind the verdict "fake" is one.

    Raises:
        UnreadableOutputError: the text does not begin with a verdict, or is too long; ``raw`` is the text.
    """
    match = _VERDICT.match(text)
    if match is None or len(text) > MAX_TEXT:
        begin = plain_text(text, MAX_NAME)
        raise UnreadableOutputError(
            f"Expected an answer that begins with {FAKE} or {REAL}, got {begin!r}: the model may not be tuned for "
            "these answers; use another one, or more tokens.",
            text,
        )
    fake, rest = match[1].lower() == FAKE, text[match.end() :]
    lines = read_lines(rest, fake)
    if fake and not lines:
        lines = [(plain_text(rest, MAX_WORDS), None)]
    return Answer(flaws=flaws_of(lines, form, shown), tags=(), fake=fake)
