"""The prompt of a region: the clause that names it, and all that names no other thing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refiner.micro.world import sample_scene
from refiner.pipelines import TemplateReviser
from refiner.pipelines.revisers.clauses import choose, joined
from refiner.pipelines.revisers.prompt_checks import words
from refiner.pipelines.revisers.template import clause_of
from refiner.taxonomy import Category
from refiner.types import Region

TAGS = "masterpiece, best quality, 1girl, red dress, detailed hands, soft light, <lora:x:1>, sks style"
KNIGHT = "A knight in a hat holds a sword. A dragon flies above a castle. The lighting is dramatic. Oil on canvas."
PLACED = "On the left, a red hand; on the right, a green clock; in the background there is a mountain; 35mm film photo"

TABLE = [
    # lists of tags
    (TAGS, "the left hand", TAGS),
    ("1girl, an old clock, red dress, soft light", "clock", "an old clock, red dress, soft light"),
    (
        "watercolor painting, 1girl, detailed hands, soft light",
        "hand",
        "watercolor painting, 1girl, detailed hands, soft light",
    ),
    ("a cat, a dog, watercolor, trending on artstation", "dog", "a dog, watercolor, trending on artstation"),
    ("two dogs, three cats, kodak portra 400, 8k", "the dogs", "two dogs, kodak portra 400, 8k"),
    ("3 apples, a bowl, 3d render, octane", "bowl", "a bowl, 3d render, octane"),
    ("perfect hands, detailed hands, a woman, a man, 8k", "hands", "perfect hands, detailed hands, 8k"),
    (
        "an old man, wrinkled hands, a green clock, with dramatic lighting",
        "hand",
        "an old man, wrinkled hands, with dramatic lighting",
    ),
    ("a man, wearing a hat, a woman, holding a cup, oil painting", "the cup", "a woman, holding a cup, oil painting"),
    ("a man, wearing a hat, a woman, holding a cup, oil painting", "man", "a man, wearing a hat, oil painting"),
    ("an anime girl, waving hand, sks style", "hand", "an anime girl, waving hand, sks style"),
    # weights, brackets, BREAK
    (
        "(best quality, 8k:1.2), (a red hand:1.3), a green clock, (soft light:0.8)",
        "hand",
        "(best quality, 8k:1.2), (a red hand:1.3), (soft light:0.8)",
    ),
    ("((a red car)), [a tree], {film grain}", "car", "((a red car)), {film grain}"),
    (
        "1girl, red dress BREAK a castle on a hill BREAK cinematic lighting",
        "castle",
        "red dress BREAK a castle on a hill BREAK cinematic lighting",
    ),
    ("a hand :), a clock, (soft light", "hand", "a hand :), (soft light"),
    # sentences
    (
        "A photo of an old man with wrinkled hands sitting on a bench, black and white, film grain",
        "the left hand",
        "A photo of an old man with wrinkled hands sitting on a bench, black and white, film grain",
    ),
    (
        "A man. He has wrinkled hands. The room is dark. Film grain.",
        "hands",
        "A man. He has wrinkled hands. Film grain",
    ),
    (KNIGHT, "dragon", "A dragon flies. The lighting is dramatic. Oil on canvas"),
    (KNIGHT, "the sword", "A knight in a hat holds a sword. The lighting is dramatic. Oil on canvas"),
    (PLACED, "clock", "on the right, a green clock; 35mm film photo"),
    (PLACED, "the red hand", "On the left, a red hand; 35mm film photo"),
    (
        "A woman holds 5,000 coins. Dr. Brown looks at her. Soft light.",
        "coins",
        "A woman holds 5,000 coins. Dr. Brown looks at her. Soft light.",
    ),
    # things side by side
    (
        "a woman's hand under soft light, seen from above, a dark moody atmosphere, a chair",
        "hand",
        "a woman's hand under soft light, seen from above, a dark moody atmosphere",
    ),
    ("a red vase on a table next to a lamp, still life, by Cezanne", "lamp", "a lamp, still life, by Cezanne"),
    (
        "a red vase on a table next to a lamp, still life, by Cezanne",
        "vase",
        "a red vase on a table, still life, by Cezanne",
    ),
    ("a hand on the left of a clock, macro shot", "clock", "a clock, macro shot"),
    ("a girl and her dog, studio ghibli style", "dog", "her dog, studio ghibli style"),
    (
        "a teacup on a saucer, a silver spoon, and a slice of cake, food photography",
        "cake",
        "a slice of cake, food photography",
    ),
    ("a cat and a dog & a bird", "bird", "a bird"),
    # what is shared: medium, place, time, style
    ("watercolor painting of a cat and a dog", "dog", "watercolor painting of a dog"),
    (
        "watercolor painting of a cat and a dog in a garden at night, soft light",
        "the cat's tail",
        "watercolor painting of a cat in a garden at night, soft light",
    ),
    ("a cat on a mat and a dog in a basket in the style of Monet", "cat", "a cat on a mat in the style of Monet"),
    ("a boy and a girl in a red hat at sunset", "boy", "a boy at sunset"),
    (
        "a black and white photograph of a boxer and a referee in a ring, dramatic shadows",
        "boxer",
        "a black and white photograph of a boxer in a ring, dramatic shadows",
    ),
    (
        "a cat in the style of Van Gogh, a dog, highly detailed",
        "dog",
        "in the style of Van Gogh, a dog, highly detailed",
    ),
    ("a photo of a man, a woman, film grain", "woman", "a photo, a woman, film grain"),
    ("an extreme close-up of an eye, a reflection of a city, 4k, hdr", "eye", "an extreme close-up of an eye, 4k, hdr"),
    ("In a garden, a cat and a dog", "dog", "In a garden, a dog"),
    # nothing or too much is named
    ("1girl, red dress, soft light", "the hand", None),
    ("a cat, a cat, film grain", "the cat", None),
    ("a red vase, soft light", "the light reflection", None),
    ("(((", "hand", None),
]


@pytest.mark.parametrize(("prompt", "name", "wanted"), TABLE)
def test_the_prompt_of_a_region(prompt: str, name: str, wanted: str | None) -> None:
    assert clause_of(prompt, name) == wanted


STYLES = [
    "masterpiece", "best quality", "(masterpiece, best quality:1.2)", "watercolor", "oil painting", "an oil painting",
    "film grain", "black and white", "soft light", "a dark moody atmosphere", "in the style of Monet", "by Cezanne",
    "<lora:x:1>", "sks style", "shallow depth of field", "85mm lens", "trending on artstation", "cinematic lighting",
    "with dramatic shadows", "seen from above", "highly detailed", "8k", "the golden hour", "at night",
    "1990s vhs look",
]  # fmt: skip
THINGS = [
    "a red hand", "a green clock", "two dogs", "the old house", "an apple on a table", "a man with a beard",
    "a photo of a bird", "a boat next to a bridge", "(a tall tree:1.3)",
]  # fmt: skip
prompts = st.lists(st.sampled_from(STYLES + THINGS), min_size=1, max_size=14, unique=True)
separators = st.sampled_from([", ", "; ", " BREAK ", ",", "\n"])


@given(prompts, separators, st.sampled_from(["hand", "the clock", "dogs", "house", "table", "beard", "bridge", "tree"]))
def test_styles_stay_other_things_go_and_nothing_is_made_up(pieces: list[str], separator: str, name: str) -> None:
    prompt = separator.join(pieces)
    part = clause_of(prompt, name)
    naming = [piece for piece in pieces if set(words(name)) & set(words(piece)) - {"the"}]
    assert (part is None) == (not naming)
    if part is None:
        return
    assert set(words(part)) <= set(words(prompt))
    kept = [piece for piece in pieces if piece in STYLES or piece in naming]
    rest = part
    for piece in kept:
        _, found, rest = rest.partition("a bridge" if piece == "a boat next to a bridge" else piece)
        assert found
    for piece in set(pieces) & set(THINGS) - set(naming):
        assert piece not in part
    assert clause_of(part, name) == part


def flaw(name: str) -> Region:
    return Region(
        mask=None, box=(0, 0, 4, 4), name=name, explanation="six fingers", category=Category.ANATOMY, severity=1.0
    )


@given(st.lists(st.sampled_from(STYLES + THINGS[1:]), max_size=14, unique=True), st.integers(1, 60))
def test_styles_are_kept_before_additions_and_the_limit_holds(pieces: list[str], limit: int) -> None:
    prompt = "; ".join(["a red hand", *pieces])
    reviser = TemplateReviser(limit=limit)
    whole, part = clause_of(prompt, "hand"), reviser.part_for(prompt, "hand")
    assert whole is not None
    revised = reviser.for_region(prompt, flaw("the hand")).prompt
    assert revised.startswith(part)
    assert reviser.count(revised) <= max(limit, 3)
    assert "a red hand" in part
    if reviser.count(whole) <= limit:
        assert part == whole
    else:
        assert set(part.split("; ")) <= set(whole.split("; "))
        left = [piece for piece in whole.split("; ") if piece not in part]
        assert all(reviser.count(f"{part}; {piece}") > limit for piece in left)


def test_a_region_of_the_micro_world_gets_its_phrase_and_the_background() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        scene = sample_scene(rng)
        for thing in scene.things:
            alone = f"{thing.phrase} on a {scene.background} background"
            assert clause_of(scene.caption, f"the {thing.colour} {thing.kind}") == alone


@given(st.text(max_size=80), st.text(max_size=20))
def test_no_text_is_too_strange(prompt: str, name: str) -> None:
    chosen = choose(prompt, name)
    if chosen is not None:
        assert set(words(joined([*chosen[0], *chosen[1]]))) <= set(words(prompt))


@pytest.mark.parametrize("piece", [" ", "a ", "(a, ", "(a, b) ", "photo by ", "a hand, ", "in a ", " and a", "\n \t"])
@pytest.mark.timeout(20)
def test_long_prompts_are_split_in_little_time(piece: str) -> None:
    clause_of(piece * 3000 + "x", "the hand")
