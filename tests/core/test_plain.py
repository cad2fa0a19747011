"""Any callable is a detector, anything with ``score`` is a judge; what cannot be one is refused when it is wrapped."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner import protocols
from refiner.answers import analyses, scores
from refiner.errors import BadAnswerError, ConfigError
from refiner.ledger import Paying
from refiner.plain import ABILITIES, PlainDetector, PlainJudge, as_detector, as_judge, held_by
from refiner.types import Calls

torch = pytest.importorskip("torch")

IMAGES = [Image.new("RGB", (8, 6), (0, 0, shade)) for shade in (0, 100, 200)]
PROMPTS = ["none", "some", "much"]


def told(image: Image.Image, prompt: str | None) -> list[dict[str, Any]]:
    """The answer that all detectors here give: what they were asked."""
    assert image.mode == "RGB"
    shade = np.asarray(image)[0, 0, 2] / 255
    return [{"name": f"{prompt}", "severity": shade, "box": (0, 0, 8, 6)}]


def image_only(image):
    return told(image, None)


def with_prompt(image, prompt):
    return told(image, prompt)


def with_optional_prompt(image, prompt=None):
    return told(image, prompt)


def with_caption(picture, caption):
    return told(picture, caption)


def with_keyword(image, *, prompt=""):
    return told(image, prompt)


def with_settings(image, threshold=0.5, *, size=3):
    assert (threshold, size) == (0.5, 3)
    return told(image, None)


def with_settings_and_prompt(image, threshold=0.5, prompt=None):
    assert threshold == 0.5
    return told(image, prompt)


def by_place(image, prompt, /):
    return told(image, prompt)


def any_arguments(*images):
    (image,) = images
    return told(image, None)


def needs_more(image, prompt, threshold):
    assert threshold == 0.5
    return told(image, prompt)


def generating(image, prompt):
    yield from told(image, prompt)


class Called:
    def __call__(self, image: Image.Image, prompt: str) -> Any:
        return told(image, prompt)

    def look(self, image: Image.Image, prompt: str) -> Any:
        return told(image, prompt)

    @staticmethod
    def see(image: Image.Image) -> Any:
        return told(image, None)


class Named(Called):
    name = "a name"


class Batched(Called):
    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> Any:
        return [told(image, prompt) for image, prompt in zip(images, prompts or [None] * len(images), strict=True)]


class NamedBatchOfImages(Called):
    name = "a name"

    def batch(self, images: Sequence[Image.Image]) -> Any:
        return (told(image, None) for image in images)

    def __call__(self, image: Image.Image) -> Any:  # type: ignore[override]
        return told(image, None)


class Network(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, image: Image.Image, prompt: str) -> Any:
        return told(image, prompt)


DETECTORS: dict[str, tuple[Any, str, bool]] = {
    "a function": (image_only, "image_only", False),
    "one with the prompt": (with_prompt, "with_prompt", True),
    "one with an optional prompt": (with_optional_prompt, "with_optional_prompt", True),
    "one with another word for it": (with_caption, "with_caption", True),
    "one with a keyword": (with_keyword, "with_keyword", True),
    "one with settings": (with_settings, "with_settings", False),
    "one with settings and prompt": (with_settings_and_prompt, "with_settings_and_prompt", True),
    "one by place": (by_place, "by_place", True),
    "one with any arguments": (any_arguments, "any_arguments", False),
    "a generator": (generating, "generating", True),
    "a lambda": (lambda image, prompt: told(image, prompt), "lambda", True),
    "a partial": (functools.partial(needs_more, threshold=0.5), "needs_more", True),
    "a partial of a partial": (functools.partial(functools.partial(needs_more), threshold=0.5), "needs_more", True),
    "a method": (Called().look, "look", True),
    "a static method": (Called.see, "see", False),
    "an object": (Called(), "Called", True),
    "one with a name": (Named(), "a name", True),
    "one with a batch": (Batched(), "Batched", True),
    "one whose batch takes no prompts": (NamedBatchOfImages(), "a name", False),
    "a network": (Network(), "Network", True),
}
"""Detector, its name, and whether it gets the prompt."""


@pytest.mark.parametrize(("thing", "name", "prompted"), DETECTORS.values(), ids=list(DETECTORS))
def test_anything_that_takes_an_image_is_a_detector(thing: Any, name: str, prompted: bool) -> None:
    detector = as_detector(thing)
    assert isinstance(detector, protocols.Detector)
    assert detector.name == name
    assert as_detector(detector) is detector
    single = [detector(image, prompt) for image, prompt in zip(IMAGES, PROMPTS, strict=True)]
    for found in (single, detector.batch(IMAGES, PROMPTS), analyses(detector, IMAGES, PROMPTS)):
        assert [analysis.regions[0].name for analysis in found] == (PROMPTS if prompted else ["None"] * 3)
        assert [analysis.burden for analysis in found] == pytest.approx([0, 100 / 255, 200 / 255])
        assert {analysis.detector for analysis in found} == {name}
    assert [analysis.regions[0].name for analysis in detector.batch(IMAGES)] == ["None"] * 3
    assert detector.batch([]) == []
    assert detector(IMAGES[0].convert("RGBA"), "none").regions


def rate(image, prompt):
    return np.asarray(image)[0, 0, 2] + len(prompt)


class Scorer:
    def score(self, images, prompts):
        return np.asarray([rate(image, prompt) for image, prompt in zip(images, prompts, strict=True)])


class TensorScorer:
    name = "a name"

    def score(self, images, prompts):
        return torch.tensor([float(rate(image, prompt)) for image, prompt in zip(images, prompts, strict=True)])


class Static:
    @staticmethod
    def score(images, prompts):
        return (rate(image, prompt) for image, prompt in zip(images, prompts, strict=True))


JUDGES: dict[str, tuple[Any, str]] = {
    "an object": (Scorer(), "Scorer"),
    "one with a name": (TensorScorer(), "a name"),
    "one with a static method": (Static(), "Static"),
    "a function": (rate, "rate"),
    "a partial": (functools.partial(rate), "rate"),
    "a lambda": (lambda image, prompt: rate(image, prompt), "lambda"),
}


@pytest.mark.parametrize(("thing", "name"), JUDGES.values(), ids=list(JUDGES))
def test_anything_that_scores_is_a_judge(thing: Any, name: str) -> None:
    judge = as_judge(thing)
    assert isinstance(judge, protocols.Judge)
    assert judge.name == name
    assert as_judge(judge) is judge
    assert scores(judge, IMAGES, PROMPTS) == [4.0, 104.0, 204.0]


class Class:
    def __call__(self, image: Image.Image) -> Any:
        raise AssertionError

    def score(self, images: Any, prompts: Any) -> Any:
        raise AssertionError


class Asynchronous:
    name = "late"

    async def __call__(self, image: Any, prompt: Any = None) -> Any:
        raise AssertionError

    async def batch(self, images: Any, prompts: Any = None) -> Any:
        raise AssertionError

    async def score(self, images: Any, prompts: Any) -> Any:
        raise AssertionError


class WrongBatch:
    def __call__(self, image: Any) -> Any:
        raise AssertionError

    def batch(self) -> Any:
        raise AssertionError


async def late(image: Any, prompt: Any) -> Any:
    raise AssertionError


NEITHER: dict[str, tuple[Any, str]] = {
    "nothing": (None, "got None: pass"),
    "a number": (3, "got 3: pass"),
    "an object": (object(), "got <object object"),
    "a class": (Class, r"got the class Class: pass an instance, Class\(\.\.\.\)"),
    "a coroutine function": (late, "late is a coroutine function"),
    "a partial of one": (functools.partial(late, prompt=""), "late is a coroutine function"),
    "an object with one": (Asynchronous(), "late is a coroutine function"),
    "a function without arguments": (lambda: None, "lambda takes no image"),
    "a function of keywords": (lambda *, image: image, "lambda takes no image"),
    "the prompt first": (lambda prompt, image: image, "takes the prompt first"),
    "too many arguments": (lambda image, prompt, size: image, "lambda needs size beside image and prompt"),
    "a keyword that is missing": (lambda image, prompt, *, size: image, "lambda needs size beside"),
}


@pytest.mark.parametrize("wrap", [as_detector, as_judge])
@pytest.mark.parametrize(("thing", "said"), NEITHER.values(), ids=list(NEITHER))
def test_what_cannot_be_called_is_refused_when_it_is_wrapped(wrap: Callable[[Any], Any], thing: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        wrap(thing)
    assert wrap.__name__.removeprefix("as_") in str(raised.value)


def test_a_batch_or_score_that_cannot_be_called_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="The batch of the detector WrongBatch takes no image"):
        as_detector(WrongBatch())
    judge = Scorer()
    judge.score = 3
    with pytest.raises(ConfigError, match="Expected a judge"):
        as_judge(judge)


class Able:
    """A nameless part with all optional abilities."""

    def __init__(self) -> None:
        self.model, self.signature, self.asked, self.concurrency = "weights", "v1", [], 2

    def __call__(self, image: Image.Image) -> list[Any]:
        return []

    def score(self, images: Any, prompts: Any) -> list[float]:
        return [0.0] * len(images)

    def to(self, device: str) -> None:
        self.asked.append(device)

    def bind(self, pipe: object) -> None:
        self.asked.append(pipe)

    def spent(self) -> Calls:
        return Calls(denoiser_rows=7)

    def remarks(self) -> list[str]:
        return []

    def stream(self, images: Any, prompts: Any) -> list[Any]:
        return []

    def save_pretrained(self, folder: Path) -> None:
        self.asked.append(folder)


ABLE = ("Movable", "Borrower", "Concurrent", "Remarking", "Streaming", "Signed", "Saveable", "Networked", "Spender")


@pytest.mark.parametrize("wrap", [as_detector, as_judge])
@pytest.mark.parametrize("protocol", ABLE)
def test_a_wrapper_has_the_abilities_of_what_it_wraps_and_no_others(wrap: Callable[[Any], Any], protocol: str) -> None:
    kind = getattr(protocols, protocol)
    assert isinstance(wrap(Able()), kind)
    assert not isinstance(wrap(image_only), kind)
    assert not isinstance(wrap(Scorer()) if wrap is as_judge else wrap(Called()), kind)


def test_every_optional_ability_is_known() -> None:
    kinds = [*(getattr(protocols, each) for each in ABLE), Paying]
    members = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    assert members == set(ABILITIES)


def test_abilities_are_those_of_the_wrapped_object_at_any_time() -> None:
    able = Able()
    detector: Any = as_detector(able)
    detector.to("cuda:1")
    detector.bind("pipe")
    able.model, able.signature = "others", "v2"
    assert able.asked == ["cuda:1", "pipe"]
    assert detector.spent().denoiser_rows == 7
    assert (detector.model, detector.signature) == ("others", "v2")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_wrapped_parts_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    detector, judge = again(as_detector(image_only)), again(as_judge(rate))
    assert isinstance(detector, PlainDetector)
    assert isinstance(judge, PlainJudge)
    assert detector(IMAGES[1]).burden == pytest.approx(100 / 255)
    assert judge.score(IMAGES, PROMPTS) == [4.0, 104.0, 204.0]


GLOBAL = torch.nn.Linear(2, 2)


def uses_a_global(image: Image.Image) -> Any:
    return GLOBAL(image)


def closing_over(network: Any) -> Callable[..., Any]:
    return lambda image: network(image)


class Holder(Called):
    def __init__(self, network: Any) -> None:
        self.network = network


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "the network itself": lambda network: network,
    "an object": Holder,
    "a closure": closing_over,
    "a partial": lambda network: functools.partial(needs_more, threshold=network),
    "a partial by place": lambda network: functools.partial(lambda net, image: net, network),
    "a method": lambda network: Holder(network).look,
    "a method of the network": lambda network: network.forward,
}


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=list(HOLDERS))
def test_networks_are_found_in_what_is_wrapped(holder: Callable[[Any], Any]) -> None:
    network = Network()
    held = held_by(as_detector(holder(network)))
    assert any(network is each for value in held.values() for each in (value if isinstance(value, tuple) else (value,)))


def test_networks_that_a_function_names_are_found() -> None:
    assert held_by(as_detector(uses_a_global))["GLOBAL"] is GLOBAL


def test_a_function_without_a_signature_gets_the_image_alone() -> None:
    detector = as_detector(vars)
    assert detector.name == "vars"
    with pytest.raises(BadAnswerError, match=r"detector vars cannot be used.*got dict"):
        detector(IMAGES[0])
