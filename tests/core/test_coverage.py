"""Coverage: each image is counted once, gaps beside it, and the sums do not depend on the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.coverage import COLUMNS, Coverage
from refiner.records import analysis_to_dict
from tests.core.test_records import analyses

counts = st.builds(Coverage, **{name: st.integers(0, 99) for name in COLUMNS})


@given(analyses())
def test_an_analysis_and_its_json_have_the_same_coverage(analysis):
    """Of a region without a mask in the JSON, the box still tells whether it has a place."""
    coverage = Coverage.of(analysis)
    assert coverage.images == coverage.answered == 1
    assert coverage.unplaced == any(region.mask is None and region.box is None for region in analysis.regions)
    assert (coverage.cut_short, coverage.unverified) == ("cut_short" in analysis.gaps, "unverified" in analysis.gaps)
    assert Coverage.of_stored(analysis_to_dict(analysis)) == coverage
    assert Coverage.of_stored(None, analysis_to_dict(analysis), analysis_to_dict(analysis)) == coverage


@given(st.lists(counts, max_size=5))
def test_a_total_adds_every_column(parts):
    total = Coverage.total(parts)
    assert total.row() == {name: sum(part.row()[name] for part in parts) for name in COLUMNS}
    assert total.images == sum(part.images for part in parts)


@pytest.mark.parametrize(
    ("kind", "column"),
    [("UnreadableOutputError", "unreadable"), ("BadAnswerError", "unreadable"), ("InputError", "failed")],
)
def test_an_image_without_an_answer_is_unreadable_or_failed(kind, column):
    assert Coverage.of_error(kind).row() == {name: int(name == column) for name in COLUMNS}


def test_the_words_name_only_what_is_missing():
    assert Coverage(answered=3).words() == "3 of 3 images answered"
    every = Coverage(answered=95, unreadable=3, failed=2, cut_short=4, unverified=1, unplaced=7)
    assert every.words() == (
        "95 of 100 images answered (3 unreadable, 2 failed), 4 cut short, 1 unverified, 7 with unplaced flaws"
    )
