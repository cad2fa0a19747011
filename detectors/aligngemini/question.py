"""The request to the semantic branch, in the detector and in training."""

from __future__ import annotations

from PIL import Image

from refiner.detectors.aligngemini.grammar import FAKE, REAL, write
from refiner.detectors.chat.backend import ChatRequest, Choice
from refiner.detectors.fakexplain.grammar import Answer, Flaw
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_words
from refiner.types import Size

MAX_TOKENS = 512
"""First limit of the answer's tokens."""
_EXAMPLE = Answer(flaws=(Flaw("the left hand: it has six fingers", (0.12, 0.4, 0.31, 0.62)),), tags=(), fake=True)


def asking(picture: Image.Image, form: BoxFormat) -> ChatRequest:
    """Make the request about an image, which is as the model sees it; the prompt of the image is not part of it."""
    shown = Size(picture.height, picture.width)
    text = (
        "Is this image real or fake? Judge only what it shows: bodies and things with wrong parts, garbled writing, "
        "light, space, physics and common sense. Ignore noise, blur and compression.\n"
        f"Begin with the word {FAKE} or {REAL}. If it is {FAKE}, write one line for each reason: what, why, and a box "
        f"around it. A box is {box_words(form, picture)}.\nAn example:\n{write(_EXAMPLE, form=form, shown=shown)}"
    )
    return ChatRequest(user=text, images=(picture,), max_tokens=MAX_TOKENS, choice=Choice("", (FAKE, REAL)))
