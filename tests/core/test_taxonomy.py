import pytest

from refiner.taxonomy import FROM_LEGION, FROM_XAIGD, PERCEPTUAL, Category, LegionKind, XaigdCategory


def test_every_leaf_has_its_place_in_both_vocabularies():
    assert {leaf.legion for leaf in PERCEPTUAL} == set(LegionKind)
    assert {leaf.xaigd for leaf in PERCEPTUAL} == set(XaigdCategory)


def test_misalignment_is_in_neither_vocabulary():
    assert set(Category) - set(PERCEPTUAL) == {Category.MISALIGNMENT}
    assert (Category.MISALIGNMENT.legion, Category.MISALIGNMENT.xaigd) == (None, None)


def test_the_typical_leaf_of_a_category_belongs_to_it():
    assert {kind: leaf.legion for kind, leaf in FROM_LEGION.items()} == {kind: kind for kind in LegionKind}
    assert {name: leaf.xaigd for name, leaf in FROM_XAIGD.items()} == {name: name for name in XaigdCategory}


@pytest.mark.parametrize("leaf", Category)
def test_parsing_is_the_inverse_of_naming(leaf):
    for spelling in (leaf.value, leaf.value.upper(), leaf.value.replace("_", " "), leaf.value.replace("_", "-")):
        assert Category.parse(spelling) is leaf


@pytest.mark.parametrize("name", XaigdCategory)
def test_xaigd_names_are_read_and_keep_their_level(name):
    assert Category.parse(name.value).xaigd is name
    assert name.value.startswith(name.level)
    assert name.level in ("low-level", "high-level", "cognitive-level")


@pytest.mark.parametrize("kind", LegionKind)
def test_legion_names_are_read(kind):
    assert Category.parse(f" {kind.value.title()} ").legion is kind


@pytest.mark.parametrize("word", ["", "beauty", "low-level", "anatomy2"])
def test_other_words_are_refused(word):
    with pytest.raises(ValueError, match=r"^Expected a flaw category"):
        Category.parse(word)
