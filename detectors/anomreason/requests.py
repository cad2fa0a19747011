"""The requests of AnomAgent's steps. What earlier steps answered is inserted as quoted JSON, so that it is data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from refiner.detectors.anomreason.prompts import prompt
from refiner.detectors.anomreason.work import ATTRIBUTES, PERCEIVER, Issue, Thing
from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import VERDICTS, box_field, box_key, box_words, list_schema, quoted
from refiner.records import derive_seed, picture_digest

MOST_ISSUES = 6
"""Number of issues that are asked for in one step, and kept of its answer."""
TEMPERATURE = 0.3
"""Of the drafts, as in the released code. All other steps select the most probable tokens."""
_WORDS = {"type": "string"}
_ISSUE = dict.fromkeys(("name", "observed_phenomenon", "reasoning"), _WORDS)
_ITEM = {"type": "integer"}


def perceiving(picture: Image.Image, draft: int) -> ChatRequest:
    """Ask for all objects. The answer is sampled, with a seed that depends on the image and the draft."""
    seed = derive_seed(picture_digest(picture), PERCEIVER, draft) >> 32  # some servers take only 31 bits
    schema = list_schema("objects", {"name": _WORDS, "description": _WORDS})
    return _request(picture, prompt("perceive"), schema, 1024, temperature=TEMPERATURE, seed=seed)


def identifying(
    picture: Image.Image, stage: str, thing: Thing, others: Sequence[Thing], findings: Sequence[Issue]
) -> ChatRequest:
    """Ask for all possible issues of an object: in itself, or in its relations to the other objects.

    ``findings`` are its known issues in itself; only the relations need them.
    """
    values: dict[str, object] = {"object": quoted(thing._asdict()), "most": MOST_ISSUES}
    if stage == ATTRIBUTES:
        text = prompt("attributes", **values)
    else:
        known = quoted([issue.told for issue in findings])
        text = prompt("relations", others=quoted([other.name for other in others]), findings=known, **values)
    return _request(picture, text, list_schema("issues", _ISSUE), 1024)


def verifying(picture: Image.Image, thing: Thing, issues: Sequence[Issue]) -> ChatRequest:
    """Ask whether each issue is really there."""
    text = prompt("verify", object=quoted(thing.name), issues=_listed(issues))
    return _request(picture, text, list_schema("verdicts", VERDICTS), 256 + 128 * len(issues))


def integrating(picture: Image.Image, issues: Sequence[Issue]) -> ChatRequest:
    """Ask which issues are the same anomaly, and which are noise."""
    kept = list_schema("kept", {"items": {"type": "array", "items": _ITEM}, **_ISSUE})
    removed = list_schema("removed", {"item": _ITEM, "reason": _WORDS})
    both = {**kept["properties"], **removed["properties"]}
    schema = {**kept, "properties": both, "required": list(both)}
    return _request(picture, prompt("integrate", issues=_listed(issues)), schema, 256 + 256 * len(issues))


def formatting(picture: Image.Image, issues: Sequence[Issue], form: BoxFormat) -> ChatRequest:
    """Ask for the final list, with scores of severity and boxes."""
    text = prompt("format", issues=_listed(issues), key=box_key(form), box=box_words(form, picture))
    fields = {"item": _ITEM, **_ISSUE, "severity_score": _ITEM, **box_field(form)}
    return _request(picture, text, list_schema("anomalies", fields), 256 + 256 * len(issues))


def _listed(issues: Sequence[Issue]) -> str:
    return quoted([{"item": number, **issue.told} for number, issue in enumerate(issues, start=1)])


def _request(
    picture: Image.Image, text: str, schema: Mapping[str, Any], max_tokens: int, **sampling: Any
) -> ChatRequest:
    return ChatRequest(
        user=text, system=prompt("system"), images=(picture,), schema=schema, max_tokens=max_tokens, **sampling
    )
