"""Models that do not see the prompt never learn misalignments with it."""

from __future__ import annotations

import pytest
from PIL import Image

from refiner.data.samples import Sample
from refiner.taxonomy import Category
from refiner.training.anomreason.lessons import claims_of
from refiner.training.fakexplain.lessons import truth_of
from refiner.training.legion.answers import answer_of
from refiner.types import Analysis, Claim, Region, Size

SIZE = Size(40, 60)
KINDS = (Category.ANATOMY, Category.MISALIGNMENT, Category.TEXT)
WORDS = ("six toes", "a blue cat", "a garbled sign")


def drawn(*kinds: Category, worded: bool = True) -> Sample:
    """A sample with a flaw of each kind, in words as well if ``worded``."""
    texts = dict(zip(KINDS, WORDS, strict=True))
    regions = tuple(
        Region(mask=None, box=(5 * at, 5, 5 * at + 4, 20), name="it", explanation=texts[kind], category=kind)
        for at, kind in enumerate(kinds)
    )
    claims = tuple(Claim(name="it", explanation=texts[kind], category=kind) for kind in kinds)
    return Sample(
        name="a",
        image=Image.new("RGB", (60, 40)),
        fake=True,
        truth=Analysis(size=SIZE, regions=regions, detector="truth"),
        misalignments=True,
        anomalies=claims if worded else None,
    )


@pytest.mark.parametrize("worded", [True, False])
def test_misalignments_are_not_taught(worded: bool) -> None:
    sample = drawn(*KINDS, worded=worded)
    answer = answer_of(sample)
    assert [region.explanation for region in answer.regions] == [WORDS[0], WORDS[2]]
    assert WORDS[1] not in answer.text
    claims = claims_of(sample)
    assert claims is not None
    assert [(claim.explanation, claim.box) for claim in claims] == [
        (WORDS[0], (0, 5, 4, 20)),
        (WORDS[2], (10, 5, 14, 20)),
    ]
    taught = truth_of(sample)
    assert len(taught.flaws) == 2
    assert "misalignment" not in taught.tags


def test_an_image_that_only_misses_its_prompt_looks_clean() -> None:
    sample = drawn(Category.MISALIGNMENT)
    assert answer_of(sample) == answer_of(drawn())
    assert claims_of(sample) == ()
    assert truth_of(sample).flaws == ()


def test_what_a_sample_shows_without_its_prompt() -> None:
    sample = drawn(*KINDS)
    once = sample.perceptual
    assert once.truth is not None
    assert [region.category for region in once.truth.regions] == [Category.ANATOMY, Category.TEXT]
    assert sample.truth is not None
    assert len(sample.truth.regions) == 3
    unknown = Sample(name="u").perceptual
    assert (unknown.truth, unknown.anomalies) == (None, None)
