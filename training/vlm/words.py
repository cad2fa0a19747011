"""Questions and answers of the bundled vision-language model, and a tokenizer that needs few tokens for them.

The questions are exactly those of ``refiner.detectors.vlm.questions``. The answers follow their schemas. Each of these
is one token: a text that is the same in all questions, a fixed text between two facts of an answer, a word of the micro
world, a coordinate. Any other text is encoded as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers import Qwen2TokenizerFast

from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import finding, verifying
from refiner.micro.world import SIZE
from refiner.training.world.tokenizers import chat_tokenizer
from refiner.training.world.words import FRAME, NOTHING, VERDICTS, words
from refiner.types import Box, Claim

FORM = BoxFormat()  # how Qwen3-VL writes boxes
PICTURE = Image.new("RGB", (SIZE, SIZE))  # a placeholder for any image: questions do not depend on pixels
WHERE = "Where?"  # The question where parts are. Only the training asks it.
LIKELY, UNLIKELY = 0.9, 0.1  # probability of a flaw in the answer if the claim is true, and if it is false
MOST_ITEMS = 12  # claim numbers up to this one are one token each
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's chat template."""
_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_MARK = "@@"

FOUND, CLEAN = '{"regions": [{"name": "', '{"regions": []}'
"""The beginning of an answer with flaws, and the answer without flaws."""
NEXT, LAST = '}, {"name": "', "}]}"
"""The text after a region: the beginning of the next region, or the end of the answer."""
_BETWEEN = (
    '", "location": "', '", "explanation": "', '", "reasoning": "', '", "category": "', '", "severity": ',
    ', "confidence": ', ', "bbox_2d": [', '", "bbox_2d": [', '{"verdicts": [', '"evidence": "', '", "verdict": "',
    '", "probability_of_flaw": ', "}, ",
)  # fmt: skip


def find_answer(found: Sequence[Claim]) -> str:
    """The answer to the question for all flaws, which must have boxes."""
    regions = [
        {
            "name": region.name,
            "location": region.location,
            "explanation": region.explanation,
            "reasoning": region.reasoning,
            "category": str(region.category),
            "severity": region.severity,
            "confidence": region.score,
            "bbox_2d": [thousandths(side) for side in region.box],
        }
        for region in found
        if region.box is not None
    ]
    return json.dumps({"regions": regions})


def verify_answer(claims: Sequence[tuple[Claim, bool]]) -> str:
    """The answer to the question whether claims are true. Each claim comes with the truth."""
    verdicts: list[dict[str, Any]] = [
        {
            "item": number,
            "evidence": region.explanation if true else NOTHING,
            "verdict": VERDICTS[not true],
            "probability_of_flaw": LIKELY if true else UNLIKELY,
        }
        for number, (region, true) in enumerate(claims, start=1)
    ]
    return json.dumps({"verdicts": verdicts})


def places_answer(places: Sequence[tuple[str, Box]]) -> str:
    """The answer to the question where things (objects of the micro world) and their parts are."""
    regions = [{"name": name, "bbox_2d": [thousandths(side) for side in box]} for name, box in places]
    return json.dumps({"regions": regions})


def thousandths(pixels: int) -> int:
    """A coordinate in thousandths of the image's side, as Qwen3-VL writes it."""
    return round(pixels * 1000 / SIZE)


def rendered(request: ChatRequest, tokenizer: Qwen2TokenizerFast, picture_tokens: int) -> str:
    """The text of a question, up to the beginning of the answer, with ``picture_tokens`` tokens for its image."""
    turns = [
        {"role": "system", "content": [{"type": "text", "text": request.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.text}]},
    ]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return text.replace("<|image_pad|>", "<|image_pad|>" * picture_tokens)


def build_tokenizer() -> Qwen2TokenizerFast:
    """A Qwen2 tokenizer. It decodes every text exactly."""
    return chat_tokenizer(vocabulary(), CHAT, _SPECIAL)


def vocabulary() -> list[str]:
    """All texts that are one token."""
    return list(dict.fromkeys([*told(), *connectives(), *words(), *coordinates(", "), *coordinates("]")]))


def told() -> tuple[str, ...]:
    """The texts before and after a user's prompt in a question, then the other texts that are the same in all
    questions."""
    request = finding(PICTURE, _MARK, FORM, thorough=True)
    bare = {thorough: finding(PICTURE, "", FORM, thorough=thorough).user for thorough in (True, False)}
    before, _, after = request.text.removeprefix(bare[True]).partition(_MARK)
    check = verifying(PICTURE, [Claim(box=(0, 0, 1, 1))], FRAME, FORM)
    claimed, _, rest = check.text.partition("[{")
    return before, after, request.system, *bare.values(), after.removeprefix('"'), claimed, rest.partition("}]")[2]


def connectives() -> list[str]:
    """The fixed texts between two facts of an answer.

    Most of them follow from the text before them. Those around a region decide whether another region follows.
    """
    numbered = [f'{{"item": {number}, ' for number in range(1, MOST_ITEMS + 1)]
    ends = [FOUND, CLEAN, NEXT, LAST, "]}", '"name": "', "[", "}]", "system\n", "user\n", "assistant\n"]
    return [*_BETWEEN, *numbered, *ends]


def coordinates(end: str) -> list[str]:
    """Tokens of the coordinates from 0 to 96 pixels, each followed by ``end``."""
    return [f"{thousandths(pixels)}{end}" for pixels in range(SIZE + 1)]
