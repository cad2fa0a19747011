"""Texts that are one token each in the bundled model: what its questions and answers have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from PIL import Image

from refiner.detectors.anomreason import requests
from refiner.detectors.anomreason.grammar import FORMATS, NOTHING, Anomaly, write
from refiner.detectors.anomreason.question import IS_IT_GENERATED, asking, questions
from refiner.detectors.anomreason.severity import score_of
from refiner.detectors.anomreason.work import ATTRIBUTES, RELATIONS, Issue, Thing
from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import box_key
from refiner.micro.flaws import FLAWS
from refiner.micro.world import SIZE
from refiner.training.world.words import FRAME, VERDICTS

REALISM = "Each thing has all of its parts, and nothing contradicts the rest of the picture."
"""What makes an image without flaws look real."""
FORM = BoxFormat()  # how Qwen3-VL writes boxes
PICTURE = Image.new("RGB", (SIZE, SIZE))  # a placeholder for any image: questions do not depend on pixels
LIKELY, UNLIKELY = 0.9, 0.1  # probability of a flaw in the answer if the claim is true, and if it is false
_MARK, _NUMBER = "@@", 7777777  # in the places of words and of item numbers
_VARYING = re.compile(rf"{_MARK}|{_NUMBER}|(?:\d+, ){{3}}\d+\]")
_MOST = 6  # things, and flaws in a list; longer lists need more tokens for each entry


def tokens() -> tuple[str, ...]:
    """All texts. The questions are those about an image of 96 x 96 pixels."""
    fixed = [IS_IT_GENERATED, "Yes", "No", NOTHING, REALISM]
    fixed += [asking(PICTURE, form, FORM, variant) for form in FORMATS for variant in range(len(questions()))]
    for request in _requests():
        fixed += [request.system, *_VARYING.split(request.text)]
    for answer in _answers():
        fixed += _VARYING.split(answer)
    return tuple(dict.fromkeys(text for text in fixed if len(text) > 1))


def _requests() -> Iterator[ChatRequest]:
    thing = Thing(_MARK, _MARK)
    yield requests.perceiving(PICTURE, 0)
    for others in range(4):
        yield requests.identifying(PICTURE, ATTRIBUTES, thing, [thing] * others, [])
        for findings in range(2):
            yield requests.identifying(PICTURE, RELATIONS, thing, [thing] * others, _issues(findings))
    for count in range(1, requests.MOST_ISSUES + 1):
        yield requests.verifying(PICTURE, thing, _issues(count))
        yield requests.integrating(PICTURE, _issues(count))
        yield requests.formatting(PICTURE, _issues(count), FORM)


def _issues(count: int) -> Sequence[Issue]:
    return [Issue(thing=_MARK, name=_MARK, phenomenon=_MARK, reasoning=_MARK)] * count


def _answers() -> Iterator[str]:
    words = dict.fromkeys(("name", "observed_phenomenon", "reasoning"), _MARK)
    for count in range(_MOST + 1):
        yield json.dumps({"objects": [{"name": _MARK, "description": _MARK}] * count})
        yield json.dumps({"issues": [words] * count})
        kept, removed = [{"items": [_NUMBER] * 2, **words}] * count, {"item": _NUMBER, "reason": _MARK}
        for rejected in ([], [removed], [removed] * 2):
            yield json.dumps({"kept": kept, "removed": rejected})
        for verdict, probability in zip(VERDICTS, (LIKELY, UNLIKELY), strict=True):
            said = {"evidence": _MARK, "verdict": verdict, "probability_of_flaw": probability}
            yield json.dumps({"verdicts": [{"item": number, **said} for number in range(1, count + 1)]})
        for severity in sorted({flaw.severity for flaw in FLAWS.values()}):
            rated = {**words, "severity_score": score_of(severity), box_key(FORM): [0, 0, 0, 0]}
            yield json.dumps({"anomalies": [{"item": number, **rated} for number in range(1, count + 1)]})
            anomaly = Anomaly(_MARK, _MARK, _MARK, severity, (0.0, 0.0, 1.0, 1.0))
            yield write([anomaly] * count, form=FORM, shown=FRAME)
