"""A detector with a vision-language model that is asked and read by a profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from refiner.detectors.chat.backend import ChatBackend, ChatReply, ChatRequest
from refiner.detectors.grounded import Case, GroundedDetector
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.reading.regions import plain_text
from refiner.detectors.vlm.answering import read_answer
from refiner.detectors.vlm.profile import Profile
from refiner.detectors.vlm.questions import MAX_PROMPT
from refiner.errors import InputError

_UNKNOWN = "(not known)"
"""Stands in the instruction for a prompt that is not known."""


class ProfiledDetector(GroundedDetector):
    """A model that answers in the form of a profile, and a grounder; a ``refiner.protocols.Detector``.

    One request for each image. ``raw`` is the answer and the source of each mask. ``fake_probability`` is 1 or 0 if the
    profile is that of a verdict, which then is no estimate; else None. An image that is called generated has one
    unplaced region, whose explanation are the model's reasons.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        profile: how the model is asked, and how it answers.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    def __init__(self, backend: ChatBackend, *, grounder: Grounder, profile: Profile, domain: str = "") -> None:
        super().__init__(backend, grounder=grounder, boxes=profile.boxes, domain=domain)
        self.profile = profile

    @property
    def name(self) -> str:
        """Model, profile with its checksum, and grounder; a fallback grounder is named as such."""
        return f"vlm:{self.model_name}, profile {self.profile.version}, masks by {self.grounder.name}"

    @property
    def decides(self) -> bool:
        """Whether each analysis has a ``fake_probability``."""
        return self.profile.form == "verdict"

    def _find(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if self.profile.needs_prompt and not case.prompt.strip():
                case.outcome = InputError(
                    f"The profile {self.profile.name!r} needs the prompt of each image, and there is none: give it."
                )
        self._ask([case for case in cases if case.outcome is None], self._request, self._take)

    def _request(self, case: Case) -> ChatRequest:
        told = plain_text(case.prompt, MAX_PROMPT) or _UNKNOWN
        text = self.profile.instruction.replace(self.profile.prompt_mark, told)
        return ChatRequest(user=text, images=(case.shown,), max_tokens=self.profile.max_tokens)

    def _take(self, case: Case, reply: ChatReply) -> None:
        case.raw = reply.text
        told = read_answer(reply.text, self.profile, case.size, case.shown_size)
        case.fake, case.found = told.fake, list(told.claims)

    def _shown(self, case: Case, side: int) -> Image.Image:
        return within_pixels(super()._shown(case, side), self.profile, side)


def within_pixels(image: Image.Image, profile: Profile, max_side: int) -> Image.Image:
    """Scale an image into the limits of a profile, but not beyond ``max_side`` pixels; the proportions stay."""
    area = image.width * image.height
    growth = math.sqrt(min(max(area, profile.least_pixels), profile.most_pixels) / area)
    growth = min(growth, max_side / max(image.size)) if growth > 1 else growth
    if growth == 1:
        return image
    round_ = math.floor if growth < 1 else math.ceil
    sides = (min(max_side, max(1, round_(side * growth))) for side in image.size)
    width, height = sides
    return image.resize((width, height), Image.Resampling.BICUBIC)
