"""Refuse prompts with words that the bundled models do not know.

The bundled models were trained on the captions of the micro world (see ``refiner.micro.world``), which have few words.
Their tokenizers spell any other word letter by letter, and the models then paint something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from refiner.errors import InputError
from refiner.locks import exclusive
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import caption_words
from refiner.pipelines.painting.families import reads_free_text, tokenizers_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_WORD = re.compile(r"[^\s!-&(-/:-@\[-`{-~]+")
"""A run of characters other than spaces and ASCII punctuation; the apostrophe is part of a word."""
_KNOWN = frozenset(caption_words())
_MOST_NAMED = 8
_EXAMPLE = "a red hand with five fingers left of a green clock showing three o'clock on a sky background"


def check_words(pipelines: Iterable[DiffusionPipeline | None], texts: Iterable[str]) -> None:
    """Check that the pipelines know all words of the texts; only pipelines of the micro world know few words.

    Raises:
        InputError: a pipeline of the micro world does not know a word; the message names the words.
    """
    found = (word.strip("'") for text in texts for word in _WORD.findall(text.replace("’", "'").casefold()))
    strange = dict.fromkeys(word for word in found if word and word not in _KNOWN)
    if not strange:
        return
    limited = [pipe for pipe in pipelines if pipe is not None and knows_captions_only(pipe)]
    added = {token for pipe in limited for part in tokenizers_of(pipe) for token in part.get_added_vocab()}
    learned = {word for token in added for word in _WORD.findall(token.casefold())}
    unknown = [word for word in strange if limited and word not in learned]
    if unknown:
        named = ", ".join(repr(word[:40]) for word in unknown[:_MOST_NAMED])
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        raise InputError(
            f"The bundled models know only the few words of their drawn world, not {named}{more}: write a prompt like "
            f"{_EXAMPLE!r}, with the things {', '.join(KINDS)}, the colours {', '.join(COLOURS)} and the backgrounds "
            f"{', '.join(BACKGROUNDS)}, or use another model."
        )


def knows_captions_only(pipe: DiffusionPipeline) -> bool:
    """Whether the text encoders were trained on the captions of the micro world alone: each word is one token."""
    if reads_free_text(pipe):
        return False
    words = [word for word in _KNOWN if "'" not in word]
    with exclusive(tokenizers_of(pipe)):
        return all(len(tokenizer.tokenize(" ".join(words))) == len(words) for tokenizer in tokenizers_of(pipe))
