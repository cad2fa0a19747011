"""A scripted chat model for AnomAgent, which answers each of its steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refiner.detectors.anomreason import requests
from refiner.detectors.anomreason.work import ATTRIBUTES, RELATIONS, Issue, Thing
from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Outcome
from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import RefinerError
from refiner.micro.world import render, sample_scene

STAGES = {"objects": "perceive", "issues": "identify", "verdicts": "verify", "kept": "integrate", "anomalies": "format"}
"""First field of a request's schema -> the step."""

BROKEN = [
    " ", "The image looks fine.", "[]", "{", '{"result": "fine"}', '{"objects": {}, "issues": 3, "verdicts": "all"}',
    '{"objects": ["hand"], "issues": ["six"], "verdicts": [1], "kept": [2], "removed": [], "anomalies": [0]}',
    '{"objects": [], "verdicts": [], "kept": null, "anomalies": [], "issues": [{"reasoning": "none"}]}',
    '{"issues": []} {"issues": [{"name": "six', '{"issues": [],}', "<think>{}",
]  # fmt: skip
"""Answers that no step can read."""


class Asked:
    """The text of a request, as the model understands it."""

    def __init__(self, text: str, request: ChatRequest | None = None) -> None:
        self.text = text
        self._request = request
        schema = json.loads(text.rpartition("by this schema:\n")[2])
        self.stage = STAGES[next(iter(schema["properties"]))]
        if self.stage == "identify":
            self.stage = "relations" if "The other objects are" in text else "attributes"
        self.again = "Your answer to this was not what is asked for" in text
        self.thing = ""
        if self.stage in ("attributes", "relations"):
            self.thing = json.loads(text.split("in the image: ", 1)[1].splitlines()[0])["name"]
        elif self.stage == "verify":
            self.thing = json.JSONDecoder().raw_decode(text.split("in the image, ", 1)[1])[0]

    @property
    def request(self) -> ChatRequest:
        assert self._request is not None
        return self._request

    @property
    def colour(self) -> Any:
        """Of the image's first pixel."""
        return self.request.images[0].getpixel((0, 0))

    @property
    def items(self) -> list[dict[str, Any]]:
        """The numbered list in the request."""
        line = next(line for line in self.text.splitlines() if line.startswith('[{"item"'))
        return list(json.loads(line))


Script = Callable[[Asked], Any]


class Scripted:
    """A chat model that answers by a script: a text, JSON, or an error."""

    name, max_side = "scripted", 1000

    def __init__(self, script: Script) -> None:
        self.script, self.rounds, self.ledger = script, list[list[Asked]](), Ledger()

    @property
    def asked(self) -> list[Asked]:
        return [each for sent in self.rounds for each in sent]

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        self.rounds.append([Asked(request.text, request) for request in requests])
        return [self._answer(self.script(each)) for each in self.rounds[-1]]

    def _answer(self, answer: Any) -> Outcome:
        if isinstance(answer, RefinerError):
            return answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return ChatReply(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)


def save_agent(folder: str | Path) -> str:
    """Folder of a tiny network of Qwen3-VL's architecture; each of its three answers fits all steps.

    Which answer it gives depends on image and step. With one of them, an object has no issue.
    """
    from support.tiny_chat_models import save_teller

    answers = [json.dumps(_universal(number)) for number in range(3)]
    rng = np.random.default_rng(1)
    scenes = [render(sample_scene(rng)) for _ in range(4)]
    things, issues = [Thing("a hand", "red")], [Issue(thing="a hand", name="n", phenomenon="p", reasoning="r")]
    questions = [
        request
        for scene in scenes
        for request in (
            requests.perceiving(scene, 0),
            requests.identifying(scene, ATTRIBUTES, things[0], [], []),
            requests.identifying(scene, RELATIONS, things[0], [], issues),
            requests.verifying(scene, things[0], issues),
            requests.integrating(scene, issues),
            requests.formatting(scene, issues, BoxFormat()),
        )
    ]
    return str(save_teller(folder, answers, questions))


def _universal(number: int) -> dict[str, Any]:
    words = issue(f"anomaly {number}")
    return {
        "objects": [{"name": f"thing {number}", "description": "red"}],
        "issues": [words] if number else [],
        **verdicts(("present", 0.9)),
        "kept": [{"items": [1, 2], **words}],
        "removed": [],
        "anomalies": [
            {"item": item, **words, "severity_score": 20 * number, "bbox_2d": [90 * number, 9, 400, 600]}
            for item in (1, 2)
        ],
    }


def issue(name: str, **more: str) -> dict[str, str]:
    return {"name": name, "observed_phenomenon": f"{name} is to be seen", "reasoning": f"{name} cannot be", **more}


def good(asked: Asked) -> Any:
    """Two objects, of which the hand has an anomaly in itself, and both have one anomaly with each other."""
    match asked.stage:
        case "perceive":
            return {"objects": [{"name": "the hand", "description": "left"}, {"name": "a cup", "description": ""}]}
        case "attributes":
            return {"issues": [issue("six fingers")] if asked.thing == "the hand" else []}
        case "relations":
            return {"issues": [issue("the hand goes through the cup")]}
        case "verify":
            return verdicts(*[("present", 0.9)] * len(asked.items))
        case "integrate":
            same = [item["item"] for item in asked.items if "cup" in item["name"]]
            others = [item["item"] for item in asked.items if "cup" not in item["name"]]
            kept = [{"items": [number], **issue("six fingers")} for number in others]
            return {"kept": [*kept, {"items": same, **issue("the hand goes through the cup")}], "removed": []}
        case _:
            return final(asked)


def final(asked: Asked, **more: Any) -> dict[str, Any]:
    fields = {"severity_score": 25, "bbox_2d": [250, 500, 750, 1000], **more}
    words = ("item", "name", "observed_phenomenon", "reasoning")
    return {"anomalies": [{**{word: item[word] for word in words}, **fields} for item in asked.items]}


def verdicts(*pairs: tuple[str, float | None]) -> dict[str, Any]:
    return {
        "verdicts": [
            {"item": number, "evidence": f"evidence {number}", "verdict": verdict, "probability_of_flaw": share}
            for number, (verdict, share) in enumerate(pairs, start=1)
        ]
    }


def many(count: int) -> Script:
    """Objects in each draft, an issue of each, and its other steps as in ``good``."""

    def script(asked: Asked) -> Any:
        if asked.stage == "perceive":
            return {"objects": [{"name": f"thing {number}", "description": "d"} for number in range(count)]}
        if asked.stage in ("attributes", "relations"):
            return {"issues": [issue(f"{asked.stage} of {asked.thing}")]}
        if asked.stage == "integrate":
            return {"kept": [{"items": [item["item"]], **issue(item["name"])} for item in asked.items], "removed": []}
        return good(asked)

    return script
