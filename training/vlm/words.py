"""What the bundled vision-language model is asked and answers, and the tokenizer that makes few tokens of it.

Questions are those of ``refiner.detectors.vlm.questions``, word for word, and answers keep to their schemas. All that
is the same in every question, and every stretch between two facts of an answer, is one token; so are the world's
words, and coordinates. Any other text is written in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2TokenizerFast

from refiner.detectors.chat.backend import ChatRequest
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import finding, verifying
from refiner.masks import location_words
from refiner.micro.flaws import FLAWS, inject
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE, sample_scene
from refiner.taxonomy import Category
from refiner.training.legion.data import PART_NAMES
from refiner.training.world.flaws import EXPLANATION, REASONING
from refiner.types import Box, Claim, Size

FORM = BoxFormat()
"""How Qwen3-VL writes boxes."""
FRAME = Size(SIZE, SIZE)
PICTURE = Image.new("RGB", (SIZE, SIZE))
"""Stands for any picture: what is asked about one does not depend on its pixels."""
INSTEAD, WANTED = "this is {seen} instead of {wanted}", "the picture was to show {phrase}"
"""Explanation and reasoning of what differs from the caption."""
WHERE = "Where?"
"""The question for the places of parts, which only training asks."""
NOTHING = "nothing is wrong there"
"""Evidence for a claim that is wrong."""
LIKELY, UNLIKELY = 0.9, 0.1
"""Probability of a flaw that is there, and of one that is not."""
MOST_ITEMS = 12
"""Claims of one question whose numbers are one token each."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's way to write down a conversation."""
_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_MARK = "@@"

FOUND, CLEAN = '{"regions": [{"name": "', '{"regions": []}'
"""How an answer begins that names flaws, and the answer that there are none."""
NEXT, LAST = '}, {"name": "', "}]}"
"""What stands behind a region: the beginning of another, or the end of all."""
VERDICTS = ("present", "absent")
_BETWEEN = (
    '", "location": "', '", "explanation": "', '", "reasoning": "', '", "category": "', '", "severity": ',
    ', "confidence": ', ', "bbox_2d": [', '", "bbox_2d": [', '{"verdicts": [', '"evidence": "', '", "verdict": "',
    '", "probability_of_flaw": ', "}, ",
)  # fmt: skip


def find_answer(found: Sequence[Claim]) -> str:
    """The answer to the question for all flaws."""
    regions = [
        {
            "name": region.name,
            "location": region.location,
            "explanation": region.explanation,
            "reasoning": region.reasoning,
            "category": str(region.category),
            "severity": region.severity,
            "confidence": region.score,
            "bbox_2d": [thousandths(side) for side in region.box or (0, 0, SIZE, SIZE)],
        }
        for region in found
    ]
    return json.dumps({"regions": regions})


def verify_answer(claims: Sequence[tuple[Claim, bool]]) -> str:
    """The answer to the question whether claims are true, which each comes with."""
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
    """The answer to the question where things and parts of them are."""
    regions = [{"name": name, "bbox_2d": [thousandths(side) for side in box]} for name, box in places]
    return json.dumps({"regions": regions})


def thousandths(pixels: int) -> int:
    """A coordinate as Qwen3-VL writes it."""
    return round(pixels * 1000 / SIZE)


def rendered(request: ChatRequest, tokenizer: Qwen2TokenizerFast, picture_tokens: int) -> str:
    """A question as the model is given it, up to its answer, with so many tokens for its one picture."""
    turns = [
        {"role": "system", "content": [{"type": "text", "text": request.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request.text}]},
    ]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return text.replace("<|image_pad|>", "<|image_pad|>" * picture_tokens)


def build_tokenizer() -> Qwen2TokenizerFast:
    """Of Qwen's class; it gives every text back exactly."""
    return tokenizer_of(vocabulary(), CHAT, _SPECIAL)


def tokenizer_of(texts: Sequence[str], chat: str, special: Sequence[str]) -> Qwen2TokenizerFast:
    """A tokenizer of Qwen's class to which each of ``texts`` is one token, and each byte elsewhere.

    Args:
        texts: as they stand in questions and answers.
        chat: template of a conversation.
        special: its control tokens; the second ends a turn.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = Qwen2TokenizerFast(
        tokenizer_object=core, unk_token=None, eos_token=special[1], pad_token="<|endoftext|>",
        additional_special_tokens=list(special), chat_template=chat,
        chat_control_tokens=[],  # none but the special ones: the template itself has words that are tokens
    )  # fmt: skip
    fast.add_tokens([AddedToken(text, normalized=False) for text in dict.fromkeys(texts)])
    return fast


def vocabulary() -> list[str]:
    """All texts that are one token."""
    return list(dict.fromkeys([*told(), *connectives(), *words(), *coordinates(", "), *coordinates("]")]))


def told() -> tuple[str, ...]:
    """What a user's prompt stands behind and before in a question; then the rest of what is the same in all."""
    request = finding(PICTURE, _MARK, FORM, thorough=True)
    bare = {thorough: finding(PICTURE, "", FORM, thorough=thorough).user for thorough in (True, False)}
    before, _, after = request.text.removeprefix(bare[True]).partition(_MARK)
    check = verifying(PICTURE, [Claim(box=(0, 0, 1, 1))], FRAME, FORM)
    claimed, _, rest = check.text.partition("[{")
    return before, after, request.system, *bare.values(), after.removeprefix('"'), claimed, rest.partition("}]")[2]


def connectives() -> list[str]:
    """What stands between two facts; it follows from what came before, or, at the two ends of a region, decides."""
    numbered = [f'{{"item": {number}, ' for number in range(1, MOST_ITEMS + 1)]
    ends = [FOUND, CLEAN, NEXT, LAST, "]}", '"name": "', "[", "}]", "system\n", "user\n", "assistant\n"]
    return [*_BETWEEN, *numbered, *ends]


def coordinates(end: str) -> list[str]:
    """Tokens of the coordinates 0 to 96 in pixels that ``end`` follows."""
    return [f"{thousandths(pixels)}{end}" for pixels in range(SIZE + 1)]


def words() -> list[str]:
    """The world's words, and the phrases of explanations that stay together."""
    found = [*VERDICTS, NOTHING, *map(str, Category), *(str(tenths / 10) for tenths in range(11))]
    found += [location_words((x, y, x + 1, y + 1), FRAME) for y in _MIDDLES for x in _MIDDLES]
    found += [f"the {part}" for part in sorted({name.partition(": ")[2] for name in PART_NAMES} | set(_wrong_parts()))]
    found += [piece for kind in FLAWS.values() for piece in _pieces(kind.explanation)]
    found += [kind.reasoning for kind in FLAWS.values()]
    found += [piece for text in (EXPLANATION, REASONING, INSTEAD, WANTED) for piece in _pieces(text)]
    found += ["the", " the", "the letters", " of the", " a", "a", " an", "an", " left of", " above", " on a"]
    found += [" background", "o'clock", " o'clock", "facing", "with the sun on the"]
    found += [f" {word}" for word in (*COLOURS, *KINDS, *BACKGROUNDS)]
    found += [*COLOURS, *KINDS]
    for kind in KINDS.values():
        found += [f"{space}{word}" for word in kind.attributes if word for space in ("", " ")]
        found += [piece for piece in _after_the_thing(kind.phrase, kind.name) if piece.strip()]
    return found


_MIDDLES = (1, SIZE // 2, SIZE - 2)


def _after_the_thing(phrase: str, kind: str) -> list[str]:
    """What a caption says behind the word for a thing, apart from its attribute: " with two eyes"."""
    rest = phrase.partition(kind)[2]
    return [piece.rstrip() for piece in rest.split("{attribute}")]


def _pieces(text: str) -> Iterator[str]:
    """What a template of a sentence has between its places."""
    for place in ("the {part}", "{part}", "{kind}", "{seen}", "{wanted}", "{phrase}"):
        text = text.replace(place, "\0")
    return (piece.rstrip() if piece.endswith(" a ") else piece for piece in text.split("\0") if piece.strip())


def _wrong_parts() -> Iterator[str]:
    """Names of parts that injected flaws speak of."""
    rng = np.random.default_rng(0)
    for kind in FLAWS.values():
        if kind.edit is None:
            yield "surface"
        for thing in kind.things:
            while (scene := sample_scene(rng, 1)).things[0].kind != thing:
                pass
            for region in inject(scene, rng, 1, [kind.name]).regions:
                yield region.name.removeprefix("the ").partition(" of the ")[0]
