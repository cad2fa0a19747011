"""Prompt embeddings are cached during a call, on tiny random weights of every family."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline  # noqa: E402
from support.repairs import NOISE, PROMPT, mended, pictures, refined, relenting  # noqa: E402
from support.tiny_pipelines import TINY, stable_diffusion  # noqa: E402

from refiner.pipelines.painting.caches import PromptCache  # noqa: E402

pytestmark = NOISE


def listened(pipe: DiffusionPipeline) -> list[str]:
    """Record each later run of a text encoder."""
    heard: list[str] = []
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.register_forward_pre_hook(lambda *_, name=name: heard.append(name))
    return heard


@pytest.mark.parametrize("name", TINY)
def test_pictures_of_a_call_share_what_the_text_encoders_said(name: str) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=32)
    alone = []
    for index in range(2):
        pipe.detector = relenting()
        attempts = pipe.stream(PROMPT, seed=1, index=index, max_rounds=0)
        alone.append(next(attempts).image.tobytes())
    heard = listened(pipe.pipe)
    pipe.detector = relenting()
    once, runs = pipe(PROMPT, seed=1, max_rounds=0).results[0], len(heard)
    assert runs > 0
    heard.clear()
    pipe.detector = relenting()
    twice = pipe(PROMPT, seed=1, max_rounds=0, num_images_per_prompt=2, batch_images=1)
    assert [image.tobytes() for image in twice.images] == alone
    assert pictures(once) == alone[:1]
    assert len(heard) == runs
    assert "encode_prompt" not in vars(pipe.pipe)


def test_the_next_call_asks_anew() -> None:
    pipe = refined(stable_diffusion())
    before = pictures(mended(pipe))
    with torch.no_grad():
        next(pipe.text_encoder.parameters()).mul_(2)
    after = pictures(mended(pipe))
    assert before[0] != after[0]


class Speaker:
    """A stand-in for a pipeline: ``encode_prompt`` returns how often it was called."""

    def __init__(self) -> None:
        self.asked = 0
        self.components: dict[str, Any] = {"text_encoder": object()}

    def encode_prompt(self, prompt: Any, **_options: Any) -> tuple[Any, ...]:
        self.asked += 1
        return torch.full((1, 2), self.asked), None, [torch.zeros(1)]


def said(cache: PromptCache, pipe: Any, *args: Any, **options: Any) -> int:
    with cache.on(pipe):
        return int(pipe.encode_prompt(*args, **options)[0][0, 0])


def test_all_arguments_tell_prompts_apart() -> None:
    cache, pipe = PromptCache(), Speaker()
    asked = [
        (("a",), {}),
        (("b",), {}),
        ((["a"],), {}),
        ((["a", "b"],), {}),
        (("a",), {"clip_skip": 1}),
        (("a",), {"clip_skip": True}),
        (("a",), {"dtype": torch.float16}),
        (("a",), {"device": torch.device("cpu")}),
    ]
    for _ in range(2):
        assert [said(cache, pipe, *args, **options) for args, options in asked] == list(range(1, 9))
    assert said(cache, Speaker(), "a") == 1  # of other encoders
    pipe.components["text_encoder"] = object()
    assert said(cache, pipe, "a") == 9


def test_given_embeddings_are_not_kept() -> None:
    cache, pipe = PromptCache(), Speaker()
    assert [said(cache, pipe, None, prompt_embeds=torch.zeros(1)) for _ in range(2)] == [1, 2]


def test_the_oldest_are_forgotten() -> None:
    cache, pipe = PromptCache(limit=2), Speaker()
    assert [said(cache, pipe, text) for text in "abacab"] == [1, 2, 1, 3, 1, 4]


def test_what_is_kept_cannot_be_changed_from_outside() -> None:
    cache, pipe = PromptCache(), Speaker()
    with cache.on(pipe):
        first = pipe.encode_prompt("a")
        first[0].zero_()
        first[2].append(None)
        assert pipe.encode_prompt("a")[0].tolist() == [[1, 1]]
        assert len(pipe.encode_prompt("a")[2]) == 1


def test_a_users_own_method_is_put_back_even_after_an_error() -> None:
    cache, pipe = PromptCache(), Speaker()
    own = pipe.encode_prompt
    pipe.encode_prompt = own  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), cache.on(pipe):  # type: ignore[arg-type]
        raise ZeroDivisionError
    assert vars(pipe)["encode_prompt"] is own


def test_a_pipeline_that_encodes_elsewhere_goes_on_as_it_is() -> None:
    with PromptCache().on(object()):  # type: ignore[arg-type]
        pass
