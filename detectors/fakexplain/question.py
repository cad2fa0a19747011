"""The request to a model that is tuned with, or asked for, the answers of FakeXplain.

The authors' instruction is not public. This one names the elements and shows an example, so that models that were not
tuned can follow it, too.
"""

from __future__ import annotations

from PIL import Image

from refiner.detectors.chat.backend import ChatRequest, Choice
from refiner.detectors.fakexplain.grammar import Answer, Dialect, Flaw, write
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_words
from refiner.types import Size

MAX_TOKENS = 1024
"""First limit of the answer's tokens."""
_EXAMPLE = Answer(
    flaws=(Flaw("the left hand has six fingers", (0.12, 0.4, 0.31, 0.62)),), tags=("attribute correctness",), fake=True
)


def asking(picture: Image.Image, dialect: Dialect, form: BoxFormat) -> ChatRequest:
    """Make the request about an image, which is as the model sees it.

    The prompt of the image is not part of it: the paper judges the image alone.
    """
    shown = Size(picture.height, picture.width)
    example = write(_EXAMPLE, dialect, form=form, shown=shown)
    clean = write(Answer((), (), False), dialect, form=form, shown=shown)
    text = (
        "Is this image real or generated? Look at each part of it. In <think>, describe each flaw that gives a "
        "generated image away, with a box around it. In <tag>, name the flaws of the image as a whole. In <verdict>, "
        f"write {dialect.fake} or real.\nA box is {box_words(form, picture)}.\n"
        f"Answer exactly in this form:\n{example}\nIf the image is real, answer:\n{clean}"
    )
    words = (dialect.fake, "real")
    return ChatRequest(
        user=text,
        images=(picture,),
        max_tokens=MAX_TOKENS,
        marks=bool(dialect.opening),
        thoughts=True,
        choice=Choice("<verdict>", words),
    )
