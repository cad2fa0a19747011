"""A detector with any vision-language model: the model lists flaws with boxes, verifies each, then masks are made.

The model is a ``ChatBackend``, on this machine or behind an endpoint. The masks come from a ``Grounder``. The texts of
the requests are in ``refiner.detectors.vlm.questions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from refiner.answers import value_of
from refiner.detectors.chat.backend import ChatBackend, ChatReply
from refiner.detectors.chat.loading import chat_id, chat_needs, chat_part, load_chat
from refiner.detectors.grounded import DEFAULT_GROUNDER, Case, GroundedDetector, boxes_of, domain_of
from refiner.detectors.grounding import grounder_needs, load_grounder
from refiner.detectors.grounding.base import Grounder
from refiner.detectors.ids import ModelId
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.profile import Profile, read_profile
from refiner.detectors.vlm.profiled import ProfiledDetector
from refiner.detectors.vlm.questions import are_all_judged, finding, read_verdicts, verifying
from refiner.errors import ConfigError, RefinerError

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"


class VlmDetector(GroundedDetector):
    """A vision-language model and a grounder; a ``refiner.protocols.Detector``.

    Two-step: the model lists all possible flaws. Then it gets its own list, and verifies all items in one request for
    each image. A region is dropped only if the model clearly denies it. Its ``score`` is the probability in the second
    answer. If this answer fails or cannot be read, the regions stay as they are, and ``raw`` and ``gaps`` say so.

    One-step: ``score`` is the confidence in the first answer.

    A region with a missing or unreliable box is kept as an unplaced region (mask and box None). ``raw`` holds the
    model's answers and the source of each mask. ``fake_probability`` is None.

    Args:
        backend: the model.
        grounder: makes masks from boxes; it gets each image once, and only images with boxes.
        boxes: how the model writes boxes; None: as its type or name says (``boxes_of``).
        two_step: whether the model verifies its list of flaws.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    def __init__(
        self,
        backend: ChatBackend,
        *,
        grounder: Grounder,
        boxes: BoxFormat | None = None,
        two_step: bool = True,
        domain: str = "",
    ) -> None:
        super().__init__(backend, grounder=grounder, boxes=boxes or boxes_of(backend), domain=domain)
        self.two_step = two_step

    @property
    def name(self) -> str:
        """Model, number of steps, and grounder; a fallback grounder is named as such."""
        return f"vlm:{self.model_name}, {'two-step' if self.two_step else 'one-step'}, masks by {self.grounder.name}"

    def _find(self, cases: Sequence[Case]) -> None:
        self._ask(
            cases, lambda case: finding(case.shown, case.prompt, self.boxes, thorough=self.two_step), self._take_list
        )
        if self.two_step:
            self._verify([case for case in cases if case.outcome is None and case.found])

    def _take_list(self, case: Case, reply: ChatReply) -> None:
        case.raw = reply.text
        case.found = read_regions(reply.text, case.size, boxes=self.boxes, shown=case.shown_size)

    def _verify(self, cases: Sequence[Case]) -> None:
        """Ask the model to verify the regions, drop the denied ones, and add the answers to ``raw``."""
        outcomes = self._complete(
            cases, lambda case: verifying(case.shown, case.found, case.size, self.boxes, case.prompt)
        )
        for case, outcome in zip(cases, outcomes, strict=True):
            try:
                answer = value_of(outcome)
                verdicts = read_verdicts(answer.text, case.found)
            except RefinerError as error:
                case.raw += f"\n\nNot verified: {error}"
                case.gaps.append("unverified")
                continue
            case.raw += f"\n\nVerified:\n{answer.text}"
            case.gaps += [] if are_all_judged(answer.text, len(case.found)) else ["unverified"]
            case.gaps += ["cut_short"] if answer.finish == "length" else []
            case.found = [
                replace(region, score=round(score, 6))
                for region, score in zip(case.found, verdicts, strict=True)
                if score is not None
            ]


def load_vlm(
    model: str | Path = DEFAULT_MODEL,
    *,
    base_url: str | None = None,
    grounder: str | Path = DEFAULT_GROUNDER,
    profile: str | Path | None = None,
    instruction: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **options: str | Path | None,
) -> VlmDetector | ProfiledDetector:
    """Load a two-step ``VlmDetector``, or a ``ProfiledDetector`` if there is a profile.

    Args:
        model: folder or hub id with an optional ``@revision``; with ``base_url``, the server's name of the model; ""
            selects ``DEFAULT_MODEL``.
        base_url: address of an OpenAI-compatible endpoint, whose key is in ``OPENAI_API_KEY``; None: the model runs on
            this machine.
        grounder: id for ``load_grounder``.
        profile: name of a bundled profile, or path of a TOML file, that says how the model is asked and how it answers
            (``refiner.detectors.vlm.profile``).
        instruction: path of a text with which the model is asked instead of the profile's own.
        device, dtype: of the grounder and of a model on this machine, as for ``load_detector``.
        options: of the chat model, as in an id (``refiner.detectors.chat.options``), such as ``cache="answers"``.

    Raises:
        ConfigError: the profile cannot be used, or contradicts other options.
        RefinerError: the errors of ``load_chat`` and ``load_grounder``.
    """
    chosen = _profile_of(profile, instruction, options.get("boxes"))
    chat = load_chat(chat_id(str(model) or DEFAULT_MODEL, base_url, options), device=device, dtype=dtype)
    masks = load_grounder(grounder, device=device, dtype=dtype)
    if chosen is not None:
        return ProfiledDetector(chat, grounder=masks, profile=chosen, domain=domain_of(chat))
    return VlmDetector(chat, grounder=masks, boxes=boxes_of(chat, options.get("boxes")), domain=domain_of(chat))


def vlm_needs(model: ModelId) -> Needs:
    """List the folders and hub models that ``load_vlm`` reads; raises its errors that are known without a download."""
    options = model.options
    _profile_of(options.get("profile"), options.get("instruction"), options.get("boxes"))
    grounder = options.get("grounder", DEFAULT_GROUNDER)
    return [*chat_needs(chat_part(model, DEFAULT_MODEL)), *grounder_needs(grounder)]


def _profile_of(profile: str | Path | None, instruction: str | Path | None, boxes: str | Path | None) -> Profile | None:
    """The profile of an id, if it has one."""
    if profile is None:
        if instruction is not None:
            raise ConfigError(
                f"The instruction {str(instruction)!r} belongs to a profile: add profile=NAME or remove it."
            )
        return None
    if boxes is not None:
        raise ConfigError(f"The profile {str(profile)!r} says how boxes are written: remove boxes={boxes}.")
    return read_profile(profile, instruction)
