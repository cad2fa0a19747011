"""The tokenizers of the micro world's models. They need few tokens for the words of the micro world."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, Qwen2TokenizerFast

from refiner.micro.world import caption_words

TOKENS = 64  # length of a tokenized caption, with its start and end tokens
CONTEXT_LENGTH = 44  # Tokens of a prompt for the judge, with its start and end tokens. The longest caption just fits.
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<im_start>", "<im_end>", "[SEG]", "<p>", "</p>", "<image>")
"""Control tokens of a detector that answers in text."""


def caption_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer with one token for each word of the captions. It encodes other texts as bytes."""
    suffix = "</w>"
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trained.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix=suffix, show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(letter + suffix for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {
        piece: index for index, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS, pad_token="<|endoftext|>")


def answer_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words and signs of ``texts``. It decodes them exactly."""
    split = pre_tokenizers.Split(Regex(r" ?[\w'-]+|[^\w\s]|\s"), behavior="isolated")
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    known = list(_SPECIAL[:4]) + sorted(words)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    marks = [AddedToken(token, lstrip=True, special=True, normalized=False) for token in _SPECIAL[4:]]
    fast.add_tokens(marks, special_tokens=True)
    return fast


def judge_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words. The end token has the largest id, because CLIP's text tower pools there."""
    names = ["<pad>", "<unk>", *caption_words(), "<start>", "<end>"]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^a-z0-9']+"), "removed")
    special = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT_LENGTH,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    )


def chat_tokenizer(texts: Sequence[str], chat: str, special: Sequence[str]) -> Qwen2TokenizerFast:
    """A Qwen2 tokenizer in which each of ``texts`` is one token. Other text has one token for each byte.

    ``chat`` is the chat template, ``special`` its control tokens. The second one ends a turn.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = Qwen2TokenizerFast(
        tokenizer_object=core, unk_token=None, eos_token=special[1], pad_token="<|endoftext|>",
        additional_special_tokens=list(special), chat_template=chat,
        chat_control_tokens=[],  # only the special ones: the template also holds words that are tokens
    )  # fmt: skip
    fast.add_tokens([AddedToken(text, normalized=False) for text in dict.fromkeys(texts)])
    return fast


def padded(
    questions: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int, step: int
) -> tuple[Tensor, Tensor]:
    """Put the tokens of B questions and their answers into one batch, with ``pad`` on the right.

    Returns:
        The tokens of questions and answers, int (B, L), L a multiple of ``step``; and those of the answers, with -100
        elsewhere, int (B, L).
    """
    longest = max(len(question) + len(answer) for question, answer in zip(questions, answers, strict=True))
    ids = torch.full((len(questions), -(-longest // step) * step), pad)
    labels = torch.full_like(ids, -100)
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        start, stop = len(question), len(question) + len(answer)
        ids[row, :stop] = torch.tensor([*question, *answer])
        labels[row, start:stop] = torch.tensor(answer)
    return ids, labels
