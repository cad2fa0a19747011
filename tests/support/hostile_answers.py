"""Parsers of what models and servers say, each with valid texts that hostile ones are made from."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from refiner.detectors.aligngemini import grammar as aligngemini
from refiner.detectors.anomreason import answers as agent
from refiner.detectors.anomreason import grammar as anomreason
from refiner.detectors.anomreason.severity import read_severity
from refiner.detectors.anomreason.work import Issue
from refiner.detectors.chat.choices import Choice
from refiner.detectors.chat.wire import FaultError, Wanted, read_body
from refiner.detectors.checklist.questions import read_answers, read_listing
from refiner.detectors.checklist.rules import parse_rules
from refiner.detectors.fakexplain import grammar as fakexplain
from refiner.detectors.grounding.text import clean_phrase
from refiner.detectors.legion import grammar as legion
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.reading.loose_json import read_document
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.answering import read_answer
from refiner.detectors.vlm.profile import read_profile
from refiner.detectors.vlm.questions import read_verdicts
from refiner.lettering import wanted_words
from refiner.types import Claim, Size
from tests.support.hostile import hostile_json, hostile_text, hostile_value

SHOWN = Size(448, 616)
FORMS = [BoxFormat(scale=scale, order=order) for scale in ("unit", "thousand", "pixels") for order in ("xyxy", "yxyx")]
FLAW = Claim(name="the left hand", explanation="six fingers", reasoning="five are usual", severity=0.7, marks=(0,))
BOX = (0.1, 0.2, 0.4, 0.5)
ANSWER = fakexplain.Answer(
    (fakexplain.Flaw("six fingers", BOX), fakexplain.Flaw("melted clock", None)), ("blur",), True
)
ISSUES = [Issue(thing="hand", name="six fingers", phenomenon="a sixth finger", reasoning="five are usual")] * 2
REGION = {
    "name": "hand", "location": "left", "explanation": "six fingers", "reasoning": "five are usual",
    "category": "anatomy", "severity": 0.7, "confidence": 0.9, "bbox_2d": [10, 20, 300, 400],
}  # fmt: skip
VERDICT = {"item": 1, "evidence": "seen", "verdict": "present", "probability_of_flaw": 0.9}
TOKEN = {"token": "fake", "logprob": -0.1, "top_logprobs": [{"token": "real", "logprob": -2.5}]}
COMPLETION = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "<verdict>fake</verdict>", "reasoning_content": "hm"},
            "finish_reason": "stop",
            "logprobs": {"content": [TOKEN | {"token": "<verdict>"}, TOKEN]},
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}
LISTED, VERDICTS = read_profile("refiner"), read_profile("fakeclue")
STATEMENT = {"kind": "object", "text": "there is a cup", "subject": "a cup", "needs": []}
CHECKED = {"item": 1, "evidence": "seen", "answer": "no", "bbox_2d": [10, 20, 300, 400]}
PROMPTS = ('two red apples left of a cup and a sign that says "OPEN"', "a woman without a hat, no cups, 3 blue cars")
DOCUMENTS: dict[str, tuple[Any, Callable[[str, BoxFormat], object]]] = {
    "regions": (
        {"regions": [REGION, REGION | {"bbox_2d": [[1, 2, 3, 4], [5, 6, 70, 80]]}]},
        lambda text, form: read_regions(text, SHOWN, boxes=form, shown=SHOWN),
    ),
    "verdicts": ({"verdicts": [VERDICT, VERDICT | {"item": 2}]}, lambda text, _: read_verdicts(text, [FLAW, FLAW])),
    "things": ({"objects": [{"name": "hand", "description": "left"}]}, lambda text, _: agent.read_things(text)),
    "issues": (
        {"issues": [{"name": "six", "phenomenon": "six fingers", "reasoning": "five are usual"}]},
        lambda text, _: agent.read_issues(text, "hand"),
    ),
    "verification": (
        {"verdicts": [VERDICT, VERDICT | {"item": 2, "verdict": "absent"}]},
        lambda text, _: agent.read_verification(text, ISSUES),
    ),
    "merging": (
        {"kept": [{"items": [1, 2], "name": "six"}], "removed": [{"item": 2, "reason": "noise"}]},
        lambda text, _: agent.read_merging(text, 2),
    ),
    "final list": (
        {"anomalies": [{"item": 1, "name": "six", "severity_score": "25/100", "bbox_2d": [1, 2, 300, 400]}]},
        lambda text, form: agent.read_final(text, ISSUES, size=SHOWN, form=form, shown=SHOWN),
    ),
    "statements": (
        {"statements": [STATEMENT, STATEMENT | {"kind": "count", "needs": [1]}]},
        lambda text, _: read_listing(text),
    ),
    "answers to statements": (
        {"answers": [CHECKED, CHECKED | {"item": 2, "answer": "yes", "bbox_2d": None}]},
        lambda text, form: read_answers(text, 2, SHOWN, form=form, shown=SHOWN),
    ),
    "flaws in the form of a profile": (
        {"regions": [REGION | {"box": [10, 20, 300, 400]}]},
        lambda text, form: read_answer(text, replace(LISTED, boxes=form), SHOWN, SHOWN),
    ),
    "loose JSON": ({"a": [1, {"b": "c"}], "d": None}, lambda text, _: read_document(text)),
}
"""Parsers of JSON, with a valid document each."""


def _anomalies(form: BoxFormat) -> str:
    flaw = anomreason.Anomaly("six fingers", "a sixth finger", "five are usual", 0.9, BOX)
    return anomreason.write([flaw, flaw._replace(name="lamp", box=None)], form=form, shown=SHOWN)


TEXTS: dict[str, tuple[Callable[[BoxFormat], str], Callable[[str, BoxFormat], object]]] = {
    **{
        f"FakeXplain, {name}": (
            lambda form, dialect=dialect: fakexplain.write(ANSWER, dialect, form=form, shown=SHOWN),
            lambda text, form, dialect=dialect: fakexplain.read(text, dialect, form=form, shown=SHOWN).claims(SHOWN),
        )
        for name, dialect in fakexplain.DIALECTS.items()
    },
    "AlignGemini": (
        lambda form: aligngemini.write(ANSWER, form=form, shown=SHOWN),
        lambda text, form: aligngemini.read(text, form=form, shown=SHOWN).claims(SHOWN),
    ),
    "AnomReason": (
        _anomalies,
        lambda text, form: [each.claim(SHOWN) for each in anomreason.read(text, form=form, shown=SHOWN)],
    ),
    "AnomReason's verdict": (lambda _: "Yes.", lambda text, _: anomreason.read_verdict(text)),
    "AnomReason's reasons": (
        _anomalies,
        lambda text, form: anomreason.read_reasons(text, fake=True, form=form, shown=SHOWN),
    ),
    "severity score": (lambda _: "25/100 (moderately unrealistic)", lambda text, _: read_severity(text)),
    "verdict in the form of a profile": (
        lambda _: "The image is fake, because the hand has six fingers.",
        lambda text, _: read_answer(text, VERDICTS, SHOWN, SHOWN),
    ),
    "flaws in an element": (
        lambda _: f"<think>Hm.</think><answer>{json.dumps({'regions': [REGION]})}</answer>",
        lambda text, form: read_answer(text, replace(LISTED, boxes=form, block="answer"), SHOWN, SHOWN),
    ),
    "prompt of a checklist": (lambda _: PROMPTS[0], lambda text, _: parse_rules(text)),
    "prompt of negations": (lambda _: PROMPTS[1], lambda text, _: parse_rules(text)),
    "words that a prompt asks for": (lambda _: PROMPTS[0], lambda text, _: wanted_words(text)),
    "LEGION": (lambda _: legion.compose([FLAW, FLAW]), lambda text, _: legion.parse(text)),
    "phrase to locate": (lambda _: "the left hand of the man.", lambda text, _: clean_phrase(text)),
}
"""Parsers of texts, with what writes a valid one."""


def _read_document(name: str) -> Callable[[random.Random], object]:
    valid, read = DOCUMENTS[name]

    def feed(rng: random.Random) -> object:
        value = hostile_value(rng, valid) if rng.random() < 0.6 else valid
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
        text = rng.choice((text, f"```json\n{text}\n```", f"<think>hm</think>{text}"))
        return read(hostile_text(rng, text) if rng.random() < 0.6 else text, rng.choice(FORMS))

    return feed


def _read_text(name: str) -> Callable[[random.Random], object]:
    write, read = TEXTS[name]

    def feed(rng: random.Random) -> object:
        form = rng.choice(FORMS)
        return read(hostile_text(rng, write(form)), form)

    return feed


def _read_completion(rng: random.Random) -> object:
    wanted = Wanted(Choice("<verdict>", ("fake", "real")), thoughts=rng.random() < 0.5)
    try:
        return read_body(hostile_json(rng, COMPLETION), str, wanted)
    except FaultError:
        return None


ANSWERS: Mapping[str, Callable[[random.Random], object]] = {
    **{f"answer: {name}": _read_document(name) for name in DOCUMENTS},
    **{f"answer: {name}": _read_text(name) for name in TEXTS},
    "answer: completion of a server": _read_completion,
}
"""Name -> makes a hostile text and gives it to the parser."""
