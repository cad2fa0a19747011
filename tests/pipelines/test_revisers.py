"""The template reviser and the memory bank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.pipelines import TemplateReviser
from refiner.pipelines.revisers.memory_bank import remember
from refiner.pipelines.revisers.template import clause_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Region, Size

PROMPT = (
    "a red hand with five fingers left of a green clock showing three o'clock above a blue sign on a sky background"
)


def flaw(name: str, explanation: str = "", severity: float = 1.0, category: Category = Category.ANATOMY) -> Region:
    return Region(mask=None, box=(0, 0, 4, 4), name=name, explanation=explanation, severity=severity, category=category)


def attempt(*regions: Region, accepted: bool = True, readable: bool = True) -> Attempt:
    return Attempt(
        index=0,
        action="generate",
        prompt=PROMPT,
        seed=0,
        image=Image.new("RGB", (8, 8)),
        analysis=Analysis(size=Size(8, 8), regions=regions, detector="x") if readable else None,
        accepted=accepted,
        reason="",
    )


@pytest.mark.parametrize(
    ("prompt", "name", "clause"),
    [
        (PROMPT, "the finger of the red hand", "a red hand with five fingers on a sky background"),
        (PROMPT, "clock", "a green clock showing three o'clock on a sky background"),
        (PROMPT, "the signs", "a blue sign on a sky background"),
        (PROMPT, "the horizon", None),
        ("a black and white cat and a dog", "the cat's tail", "a black and white cat"),
        ("a man, a woman; a child", "the woman", "a woman"),
        ("a cat next to a cat", "the cat", None),
        ("a cat facing left left of a dog", "dog", "a dog"),
        ("", "dog", None),
    ],
)
def test_a_region_gets_the_clause_that_speaks_of_it(prompt: str, name: str, clause: str | None) -> None:
    assert clause_of(prompt, name) == clause


def test_a_revised_prompt_does_not_say_the_same_twice() -> None:
    """LEGION's controller revises the prompt of the round before."""
    reviser, history = TemplateReviser(limit=100), [attempt(flaw("the hand"), flaw("the clock"))]
    once = reviser.revise(PROMPT, history).prompt
    assert once != PROMPT
    assert reviser.revise(once, [*history, *history]).prompt == once


def test_a_region_of_no_clause_gets_the_whole_prompt() -> None:
    revision = TemplateReviser(free_text=False).for_region(PROMPT, flaw("the horizon"))
    assert (revision.prompt, revision.whole) == (PROMPT, True)


def test_a_prompt_of_one_thing_is_painted_whole_unless_it_can_name_the_part() -> None:
    prompt, thumb = "a red hand on a sky background", flaw("the thumb of the red hand")
    assert TemplateReviser(free_text=False).for_region(prompt, thumb).whole
    assert not TemplateReviser(free_text=True).for_region(prompt, thumb).whole
    assert not TemplateReviser(free_text=False).for_region(f"a green clock, {prompt}", thumb).whole


def test_what_should_be_there_is_positive_and_defects_are_negative() -> None:
    revision = TemplateReviser().for_region("a dog", flaw("the left paw", "six toes\nfused"))
    assert revision.prompt == "a dog, a complete, well-formed left paw"
    assert revision.negative_prompt == "six toes fused"


@pytest.mark.parametrize("category", list(Category))
def test_every_category_has_its_wording(category: Category) -> None:
    assert "paw" in TemplateReviser().for_region("a dog", flaw("the paw", category=category)).prompt


def test_memory_holds_accepted_and_rejected_attempts_worst_first() -> None:
    history = [
        attempt(flaw("the paw", "mild", 0.3)),
        attempt(flaw("the eye", severity=0.5), flaw("The paw", "strong", 0.9), accepted=False),
        attempt(readable=False),
    ]
    memories = remember(history)
    assert [(memory.name, memory.explanation) for memory in memories] == [("The paw", "strong"), ("the eye", "")]
    assert memories[0].burden == pytest.approx(1.2)
    assert remember(history) == memories


def test_few_words_mean_repeating_the_worst_clause_alone() -> None:
    history = [attempt(flaw("the clock", "melted"), flaw("the hand", severity=0.5))]
    revision = TemplateReviser(free_text=False).revise(PROMPT, history)
    assert revision.prompt == f"{PROMPT} a green clock showing three o'clock on a sky background"
    assert revision.negative_prompt == ""


@given(names=st.lists(st.text(max_size=30), max_size=8), limit=st.integers(1, 60))
def test_the_limit_holds_and_the_users_prompt_stays_whole(names: list[str], limit: int) -> None:
    revision = TemplateReviser(limit=limit).revise("a dog", [attempt(*(flaw(name, name) for name in names))])
    assert revision.prompt.startswith("a dog")
    assert len(revision.prompt.split()) <= max(limit, 2)
    assert len(revision.negative_prompt.split()) <= limit
    assert "\n" not in revision.prompt
    assert not set("()[]{}<>|\\") & set(revision.prompt + revision.negative_prompt)


BUDGETS = {
    "sd": 77, "sd-inpaint": 77, "sdxl": 77, "sd3": 256, "flux": 512, "flux-klein": 496, "qwen-image": 496,
    "z-image": 496, "chroma": 512, "pixart-sigma": 300, "sana": 300, "kolors": 256, "hunyuan-dit": 256,
    "aura-flow": 256, "lumina2": 256, "cogview4": 256,
}  # fmt: skip
"""Number of tokens read by the text encoder that reads most; chat templates use up to 16 of them."""


@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # in diffusers
@pytest.mark.parametrize("name", BUDGETS)
def test_prompts_may_be_as_long_as_the_text_encoder_that_reads_most_reads(name: str) -> None:
    pytest.importorskip("torch")
    from support.tiny_pipelines import TINY

    from refiner.pipelines.loading.parts import fitting_reviser
    from refiner.pipelines.painting.families import count_tokens

    assert BUDGETS.keys() == TINY.keys()
    pipe = TINY[name].build()
    reviser = fitting_reviser("template", pipe)
    assert isinstance(reviser, TemplateReviser)
    assert reviser.limit == BUDGETS[name]
    free = TemplateReviser(limit=reviser.limit, count=reviser.count)  # the tiny tokenizers have few words
    history = [attempt(*(flaw(f"paw number {number}", "six toes") for number in range(40)))]
    length = free.count(free.revise("a dog", history).prompt)
    assert reviser.limit - 60 < length <= reviser.limit
    if "max_sequence_length" in TINY[name].call:
        assert count_tokens(pipe, {"max_sequence_length": 60})[1] == 60 - (16 if BUDGETS[name] == 496 else 0)


@pytest.mark.parametrize("name", ["flux", "sd3", "hunyuan-dit"])
def test_what_is_beyond_clips_reach_is_read(name: str) -> None:
    torch = pytest.importorskip("torch")
    from support.tiny_pipelines import TINY

    from refiner.pipelines.painting.families import count_tokens

    pipe = TINY[name].build()
    count, limit = count_tokens(pipe)
    call = {key: value for key, value in TINY[name].call.items() if key != "max_sequence_length"}
    call |= {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "np"}
    pictures = {}
    for end in ("ab", "ba"):
        text = "x" * (limit - count("ab") - 1) + end
        assert 77 < count(text) <= limit
        seed = torch.Generator().manual_seed(0)
        pictures[end] = pipe(text, generator=seed, **call).images[0].tobytes()
    assert pictures["ab"] != pictures["ba"]


def test_without_memories_the_prompt_is_the_users() -> None:
    assert TemplateReviser().revise(PROMPT, [attempt(readable=False)]).prompt == PROMPT
