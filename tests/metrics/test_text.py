"""ROUGE-L and BLEU-2: figures of the reference packages, and a slow reading of their rules."""

import math
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.errors import ConfigError
from refiner.metrics.text import bleu_2, longest_common_subsequence, rouge_l, split_words

words = st.lists(
    st.sampled_from(["the", "The", "left", "hand", "six", "a-b", "3.5", "é", "手", "_", "--", "it's"]), max_size=12
)
texts = words.map(" ".join)

SIX = "the left hand has six fingers and a shadow"
MAN = "The left hand of the man has six fingers."
# candidate, reference -> F of rouge-score 0.1.2 (RougeScorer(["rougeL"]).score(reference,
# candidate)), and nltk 3.10.4's sentence_bleu([reference], candidate, weights=(.5, .5), method1) of str.split words.
GOLDEN = [
    (SIX, MAN, 0.6666666666666666, 0.372677996249965),
    ("A hand", "Two cats on a mat", 0.28571428571428575, 0.0),
    ("", "Two cats", 0.0, 0.0),
    ("two cats", "two cats", 1.0, 1.0),
    ("one", "one", 1.0, 0.31622776601683794),
]


@pytest.mark.parametrize(("candidate", "reference", "f", "bleu"), GOLDEN)
def test_figures_of_the_reference_packages(candidate, reference, f, bleu):
    assert rouge_l(candidate, reference) == pytest.approx(f, abs=1e-12)
    assert bleu_2(candidate, reference, words="space") == pytest.approx(bleu, abs=1e-12)


def common_slowly(first, second):
    @cache
    def longest(left, right):
        if left == 0 or right == 0:
            return 0
        if first[left - 1] == second[right - 1]:
            return longest(left - 1, right - 1) + 1
        return max(longest(left - 1, right), longest(left, right - 1))

    return longest(len(first), len(second))


@given(words, words)
def test_the_longest_common_subsequence_is_the_tables(first, second):
    assert longest_common_subsequence(first, second) == common_slowly(tuple(first), tuple(second))


@given(texts, texts)
def test_rouge_l_follows_its_definition(candidate, reference):
    ours, theirs = (re.findall(r"[a-z0-9]+", text.lower()) for text in (candidate, reference))
    common = common_slowly(tuple(ours), tuple(theirs))
    found = rouge_l(candidate, reference)
    if not common:
        assert found == 0
        return
    precision, recall = common / len(ours), common / len(theirs)
    assert found == pytest.approx(2 * precision * recall / (precision + recall))


def bleu_slowly(candidate, reference):
    if not set(candidate) & set(reference):
        return 0.0
    scores = []
    for n in (1, 2):
        ours = [tuple(candidate[at : at + n]) for at in range(len(candidate) - n + 1)]
        theirs = [tuple(reference[at : at + n]) for at in range(len(reference) - n + 1)]
        matches = sum(min(ours.count(gram), theirs.count(gram)) for gram in set(ours))
        scores.append((matches or 0.1) / max(1, len(ours)))
    short = math.exp(1 - len(reference) / len(candidate)) if len(candidate) < len(reference) else 1.0
    return short * math.sqrt(scores[0] * scores[1])


@given(texts, texts)
def test_bleu_2_follows_its_definition(candidate, reference):
    wanted = bleu_slowly(candidate.split(), reference.split())
    assert bleu_2(candidate, reference, words="space") == pytest.approx(wanted, abs=1e-12)


@given(texts)
def test_a_text_is_like_itself(text):
    assert rouge_l(text, text) == (1.0 if split_words(text, "rouge") else 0.0)
    if len(split_words(text, "unicode")) > 1:
        assert bleu_2(text, text) == pytest.approx(1)


def test_words_are_cut_by_the_named_rule():
    text = "It's a 6-fingered naïve 手_x"
    assert split_words(text, "rouge") == ["it", "s", "a", "6", "fingered", "na", "ve", "x"]
    assert split_words(text, "unicode") == ["it", "s", "a", "6", "fingered", "naïve", "手", "x"]
    assert split_words(text, "space") == text.split()
    with pytest.raises(ConfigError, match="words of rouge"):
        split_words(text, "13a")


def test_perfect_and_shuffled():
    references = [f"{' '.join(f'w{at}n{number}' for at in range(8))}" for number in range(10)]
    for at, text in enumerate(references):
        assert (rouge_l(text, text), bleu_2(text, text)) == pytest.approx((1, 1))
        assert (rouge_l(references[at - 1], text), bleu_2(references[at - 1], text)) == (0, 0)
