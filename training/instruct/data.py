"""Training data of the instruct model: questions to a prompt reviser about the micro world, and the right answers.

No image is generated for it. A history is a caption and a list of attempts. Each attempt has random flaws, in the words
of injected flaws and of the referee's annotations (the referee is the program that knows the truth of the micro world,
``micro/oracle.py``). The right answer is the prompt that names the flawed things of the last attempt again, the worst
first, in the words of the user's prompt. A thing is one object of the micro world.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from transformers import Qwen2TokenizerFast

from refiner.detectors.chat.backend import ChatReply, ChatRequest, Ledger, Outcome
from refiner.errors import ModelError
from refiner.masks import location_words
from refiner.micro.flaws import FLAWS
from refiner.micro.world import SIZE, Scene, sample_scene
from refiner.pipelines.revisers.chat import ChatReviser
from refiner.pipelines.revisers.template import TemplateReviser, clause_of
from refiner.taxonomy import PERCEPTUAL, Category
from refiner.training.world.flaws import EXPLANATION
from refiner.training.world.labels import PART_NAMES
from refiner.training.world.tokenizers import chat_tokenizer, padded
from refiner.training.world.words import FRAME, words
from refiner.types import Action, Analysis, Attempt, Region

MOST_ATTEMPTS = 3  # largest number of attempts in a history
MOST_FLAWS = 4  # largest number of flaws of an attempt
MOST_NAMED = 2  # largest number of things that a revised prompt names again
BECAUSE, NOTHING = "named again because of ", "nothing can be named again"
"""The beginning of a reason, and the reason if no flaw belongs to a thing of the prompt."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat template, for text without images."""
_WHY = (
    "better: burden {:.3f} -> {:.3f}, score {:.4f} -> {:.4f}",
    "no better: burden {:.3f} -> {:.3f}, score {:.4f} -> {:.4f}",
    "worse for the judge: burden {:.3f} -> {:.3f}, score {:.4f} -> {:.4f}",
    "worse for the detector: burden {:.3f} -> {:.3f}, score {:.4f} -> {:.4f}",
)
_FIRST = "the first picture that could be analysed"
_LENGTH_STEP = 32  # texts are padded to multiples of this, because kernels are prepared again for every new shape


_WRONG = 0.2  # share of questions that are asked again because an answer was rejected


class Listener:
    """A chat backend that records its requests. It returns ``said``, if not empty, once, and then only errors."""

    name, max_side, ledger = "listener", 1, Ledger()

    def __init__(self, said: str = "") -> None:
        self.heard: list[ChatRequest] = []
        self.said = said

    def complete(self, requests: Sequence[ChatRequest]) -> list[Outcome]:
        """Record the requests. Returns ``said`` for a first single request, else errors."""
        self.heard += requests
        if self.said and len(self.heard) == 1:
            return [ChatReply(text=self.said, finish="stop", prompt_tokens=0, completion_tokens=0)]
        return [ModelError("silence") for _ in requests]


class Exchange(NamedTuple):
    """A prompt and its history, the question about them, and the right answer."""

    prompt: str
    history: tuple[Attempt, ...]
    question: ChatRequest
    answer: str


def draw(rng: np.random.Generator, template: TemplateReviser, attempts: int) -> Exchange:
    """A random prompt with a history of ``attempts`` attempts. ``template`` knows which prompts the generator reads."""
    scene = sample_scene(rng)
    prompt = painted = scene.caption
    history: list[Attempt] = []
    for _ in range(attempts):
        history.append(_attempt(len(history), painted, scene, rng))
        painted = revised(prompt, history, template)[0] if rng.random() < 0.6 else prompt
    right, reason = revised(prompt, history, template)
    wrong = answer(_slipped(right, rng), reason) if rng.random() < _WRONG else ""
    return Exchange(prompt, tuple(history), question(prompt, history, template, wrong), answer(right, reason))


def question(prompt: str, history: Sequence[Attempt], template: TemplateReviser, wrong: str = "") -> ChatRequest:
    """The question that ``ChatReviser`` asks. With ``wrong``: the question that follows this rejected answer."""
    listener = Listener(wrong)
    ChatReviser(listener, template=template).revise(prompt, history)
    return listener.heard[-1]


def _slipped(prompt: str, rng: np.random.Generator) -> str:
    """A prompt in which one word is replaced by a word of another caption."""
    said, others = prompt.split(" "), sample_scene(rng).caption.split(" ")
    said[int(rng.integers(len(said)))] = str(rng.choice(others))
    return " ".join(said)


def revised(prompt: str, history: Sequence[Attempt], template: TemplateReviser) -> tuple[str, str]:
    """The right prompt, and the right reason."""
    looked = [attempt.analysis for attempt in history if attempt.analysis]
    regions = looked[-1].regions if looked else ()
    clauses: dict[str, str] = {}
    for region in sorted(regions, key=lambda region: -region.severity * region.score):
        clause = clause_of(prompt, region.name)
        if clause:
            clauses.setdefault(clause, region.name)
    named = list(clauses)[:MOST_NAMED]
    reason = BECAUSE + " and ".join(clauses[clause] for clause in named) if named else NOTHING
    return template.fill(prompt, named, " "), reason


def answer(prompt: str, reason: str) -> str:
    """The text of an answer."""
    return json.dumps({"reason": reason, "prompt": prompt, "negative_prompt": ""})


def _attempt(index: int, prompt: str, scene: Scene, rng: np.random.Generator) -> Attempt:
    regions = [_region(scene, rng) for _ in range(int(rng.integers(1, MOST_FLAWS + 1)))]
    action: Action = "regenerate" if index else "generate"
    why = str(rng.choice(_WHY)).format(*rng.uniform(0, 1, 2), *rng.uniform(0, 1, 2)) if index else _FIRST
    return Attempt(
        index=index, action=action, prompt=prompt, seed=0, image=None,
        analysis=Analysis(size=FRAME, regions=tuple(regions), detector="none"),
        accepted=index == 0 or why.startswith("better"), reason=why,
    )  # fmt: skip


def _region(scene: Scene, rng: np.random.Generator) -> Region:
    thing = scene.things[int(rng.integers(len(scene.things)))]
    whole = f"the {thing.colour} {thing.kind}"
    own = [name.partition(": ")[2] for name in PART_NAMES if name.startswith(f"{thing.kind}: ")]
    part = str(rng.choice([*own, "surface"]))
    kinds = [kind for kind in FLAWS.values() if thing.kind in kind.things]
    kind = kinds[int(rng.integers(len(kinds)))]
    place = np.clip(np.array([thing.x, thing.y]) + rng.uniform(-thing.radius, thing.radius, 2), 1, SIZE - 2).astype(int)
    box = (int(place[0]), int(place[1]), int(place[0]) + 1, int(place[1]) + 1)
    malformed = rng.random() < 0.5
    return Region(
        mask=None,
        box=box,
        name=whole if rng.random() < 0.1 else f"the {part} of {whole}",
        location=location_words(box, FRAME),
        explanation=(EXPLANATION if malformed else kind.explanation).format(part=part),
        category=PERCEPTUAL[int(rng.integers(len(PERCEPTUAL)))] if malformed else kind.category,
        severity=float(rng.integers(1, 11)) / 10,
        score=float(rng.uniform(0.5, 1)),
    )


def build_tokenizer(template: TemplateReviser) -> Qwen2TokenizerFast:
    """A Qwen2 tokenizer. The fixed texts of the questions and the words of the micro world are one token each."""
    return chat_tokenizer([*told(template), *_CONNECTIVES, *words()], CHAT, ("<|im_start|>", "<|im_end|>"))


def told(template: TemplateReviser) -> list[str]:
    """The fixed texts, which are the same in all questions."""
    mark = "@@"
    region = Region(mask=None, box=(0, 0, 1, 1), name=mark, category=Category.SHAPE, severity=0.5)
    analysis = Analysis(size=FRAME, regions=(region,), detector="none")
    attempt = Attempt(
        index=0, action="generate", prompt=mark, seed=0, image=None, analysis=analysis, accepted=True, reason=_FIRST
    )
    asked = question(mark, [attempt], template)
    begin, _, rest = asked.text.partition(mark)
    first = rest.partition('{"attempt"')[0]
    last = rest.partition("}]}]")[2]
    before, _, after = last.partition("Add at most ")
    schema = asked.text.removeprefix(asked.user)
    return [asked.system, begin, first, f"{before}Add at most ", after[after.index(" ") :].removesuffix(schema), schema]


_AGAIN = "\nAn earlier answer of yours"
_CONNECTIVES = (
    "system\n", "user\n", "assistant\n", '{"attempt": ', ', "prompt": "', '", "kept": ', "true", "false",
    ', "why": "', '", "flaws": [', '{"name": "', '", "where": "', '", "kind": "', '", "what": "', '", "severity": ',
    "}, ", "}]}, ", "}]}]", '{"reason": "', '", "prompt": "', '", "negative_prompt": ""}', BECAUSE, NOTHING, " and ",
    *(why.partition("burden")[0] + "burden " for why in _WHY), " -> ", ", score ", _FIRST,
    f"{_AGAIN} has a prompt that leaves out '", "', or has it out of its order: write another.",
    f"{_AGAIN} has a prompt that has the word '", "': write another.",
    f"{_AGAIN} is not the JSON document that was asked for: write another.",
)  # fmt: skip


class ChatBatch(NamedTuple):
    """A batch of questions with answers."""

    ids: Tensor  # int (B, L), padded on the right
    labels: Tensor  # int (B, L): the answer's tokens, else -100


def collate(exchanges: Sequence[Exchange], tokenizer: Qwen2TokenizerFast) -> ChatBatch:
    """Tokenize questions and answers and put them into one batch."""
    questions = [rendered(exchange.question, tokenizer) for exchange in exchanges]
    answers = [
        [*tokenizer.encode(exchange.answer, add_special_tokens=False), tokenizer.eos_token_id] for exchange in exchanges
    ]
    return ChatBatch(*padded(questions, answers, tokenizer.pad_token_id, _LENGTH_STEP))


def rendered(request: ChatRequest, tokenizer: Qwen2TokenizerFast) -> list[int]:
    """The tokens of a question, up to the beginning of the answer."""
    turns = [{"role": "system", "content": request.system}, {"role": "user", "content": request.text}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return list(tokenizer.encode(text, add_special_tokens=False))
