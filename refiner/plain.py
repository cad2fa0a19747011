"""Functions and objects that lack something of a ``Detector`` or a ``Judge``, as detectors and judges.

What they lack is added: the name, ``batch``, the prompt that they do not take. What they answer is read by
``refiner.answers``. The optional abilities of ``refiner.protocols``, such as ``to``, are those of the wrapped object.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image

from refiner.answers import blaming, read_analyses, read_analysis, read_scores
from refiner.errors import ConfigError
from refiner.protocols import Detector, Judge
from refiner.types import Analysis


@runtime_checkable
class Scorer(Protocol):
    """An object that scores several images at once."""

    @property
    def score(self) -> Callable[..., Any]: ...


DetectorLike = Detector | Callable[..., Any]
"""A detector, or a function of an image that finds its flaws."""
JudgeLike = Judge | Scorer | Callable[..., Any]
"""A judge, an object with ``score(images, prompts)``, or a function of an image and its prompt."""

ABILITIES = (
    "bind", "concurrency", "ledgers", "model", "remarks", "save_pretrained", "signature", "spent", "stream", "to",
)  # fmt: skip
"""Members of the optional protocols of parts."""
_PROMPTS = ("prompt", "prompts")

T = TypeVar("T")
Ask = Callable[[Any, Any], Any]


class PlainDetector:
    """A ``Detector`` made of a function or object; see ``as_detector``."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner
        self.name = name_of(inner)
        self._ask = asking(inner, f"detector {self.name}")
        batch = getattr(inner, "batch", None)
        self._batch = asking(batch, f"batch of the detector {self.name}") if callable(batch) else None

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Find the flaws in one image of any mode; it is converted to RGB.

        Raises:
            BadAnswerError: the answer cannot be used.
        """
        with blaming(self.name):
            answer = self._ask(image.convert("RGB"), prompt)
        return read_analysis(answer, image, self.name)

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse several images, one after the other if the wrapped object has no ``batch``."""
        if self._batch is None:
            return [self(image, prompt) for image, prompt in zip(images, _each(prompts, images), strict=True)]
        with blaming(self.name):
            answers = self._batch([image.convert("RGB") for image in images], prompts)
        return read_analyses(answers, images, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return as_detector, (self.inner,)


class PlainJudge:
    """A ``Judge`` made of a function, or of an object with ``score``; see ``as_judge``."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name = name_of(inner)
        score = getattr(inner, "score", None)
        self._one_by_one = score is None
        self._ask = asking(inner if score is None else score, f"judge {self.name}")

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Return the score of each image; higher is better.

        Raises:
            BadAnswerError: there is not one number for each image.
        """
        if self._one_by_one:
            answer = [self._ask(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        else:
            answer = self._ask(images, prompts)
        return read_scores(answer, images, self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return as_judge, (self.inner,)


def as_detector(detector: DetectorLike) -> Detector:
    """Make a detector of a function or object; a complete ``Detector`` is returned unchanged.

    Args:
        detector: anything that can be called with an RGB image, or with an image and its prompt (None if it is not
            known), and answers as ``refiner.answers`` says: a function, a partial, a method, an object with
            ``__call__``, a network. The prompt is passed as ``prompt``, or as the second argument without a default.
            If it has a ``batch(images, prompts)``, this is used for several images. Without a ``name``, the name is
            that of the function or class.

    Raises:
        ConfigError: it cannot be called with an image; the message says why.
    """
    _check_instance(detector, "__call__", "detector", "a function of an image")
    if isinstance(detector, Detector) and _is_named(detector) and _takes_two(detector) and _takes_two(detector.batch):
        return detector
    return _wrapped(PlainDetector, detector)


def as_judge(judge: JudgeLike) -> Judge:
    """Make a judge of a function or object; a complete ``Judge`` is returned unchanged.

    Args:
        judge: an object with ``score(images, prompts)``, which returns one number for each image, as a list, array or
            tensor; or a function of an image, or of an image and its prompt, which returns one number. Without a
            ``name``, the name is that of the function or class.

    Raises:
        ConfigError: it has no ``score`` and cannot be called with an image; the message says why.
    """
    member = "score" if isinstance(judge, Scorer) else "__call__"
    _check_instance(judge, member, "judge", "an object with score(images, prompts)")
    if isinstance(judge, Judge) and _is_named(judge) and _takes_two(judge.score):
        return judge
    return _wrapped(PlainJudge, judge)


def name_of(part: Any) -> str:
    """Return the name of a part: its ``name``, else that of the function or class."""
    if _is_named(part):
        return str(part.name)
    if isinstance(part, functools.partial):
        return name_of(part.func)
    return str(getattr(part, "__name__", type(part).__name__)).strip("<>")


def asking(function: Callable[..., Any], what: str) -> Ask:
    """Make a function of image and prompt (or of several of both) from one that may not take the prompt.

    Raises:
        ConfigError: it cannot be called so; ``what`` names it in the message.
    """
    if _is_coroutine(function):
        raise ConfigError(f"The {what} is a coroutine function: pass one that returns its answer at once.")
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except (TypeError, ValueError):  # some functions written in C
        parameters = [inspect.Parameter("image", inspect.Parameter.POSITIONAL_ONLY)]
    prompt = _prompt_of(parameters, what)
    if prompt is None:
        return lambda image, _prompt: function(image)
    if prompt.kind is inspect.Parameter.POSITIONAL_ONLY:
        return lambda image, given: function(image, given)
    keyword = prompt.name
    return lambda image, given: function(image, **{keyword: given})


def _prompt_of(parameters: Sequence[inspect.Parameter], what: str) -> inspect.Parameter | None:
    """Return the parameter for the prompt, None if there is none, after checking that nothing else is missing."""
    kind = inspect.Parameter
    places = [each for each in parameters if each.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)]
    if not places and not any(each.kind is kind.VAR_POSITIONAL for each in parameters):
        raise ConfigError(f"The {what} takes no image: make the image its first argument.")
    if places and places[0].name in _PROMPTS:
        raise ConfigError(f"The {what} takes the prompt first: make the image its first argument.")
    rest = [*places[1:], *(each for each in parameters if each.kind is kind.KEYWORD_ONLY)]
    needed = [each for each in rest if each.default is kind.empty]
    prompt = next((each for each in rest if each.name in _PROMPTS), needed[0] if needed else None)
    missing = [each.name for each in needed if each is not prompt]
    if missing:
        raise ConfigError(
            f"The {what} needs {', '.join(missing)} beside image and prompt: set it with functools.partial."
        )
    return prompt


def held_by(part: Any) -> Mapping[str, Any]:
    """Return what a part holds, by name: its attributes, or the variables that a function uses."""
    if isinstance(part, PlainDetector | PlainJudge):
        return {"inner": part.inner, **held_by(part.inner)}
    if isinstance(part, functools.partial):
        return {"arguments": part.args, **part.keywords, **held_by(part.func)}
    if inspect.ismethod(part):
        return {"self": part.__self__, **held_by(part.__self__)}
    if inspect.isfunction(part):
        used = inspect.getclosurevars(part)
        return {**used.globals, **used.nonlocals}
    return getattr(part, "__dict__", {})


def _check_instance(part: Any, member: str, role: str, wanted: str) -> None:
    if isinstance(part, type):
        raise ConfigError(f"Expected a {role}, got the class {part.__name__}: pass an instance, {part.__name__}(...).")
    if not callable(getattr(part, member, None)):
        raise ConfigError(f"Expected a {role}, got {part!r:.60}: pass {wanted}, or what load_{role} returns.")


def _is_named(part: Any) -> bool:
    name = getattr(part, "name", None)
    return isinstance(name, str) and bool(name.strip())


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # some functions written in C
        return True
    return not _is_coroutine(function)


def _is_coroutine(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _each(prompts: Sequence[str] | None, images: Sequence[Image.Image]) -> Sequence[str | None]:
    return [None] * len(images) if prompts is None else prompts


def _wrapped(wrapper: type[T], inner: object) -> T:
    """Wrap an object, with those of ``ABILITIES`` that it has.

    They are properties of a class, because ``isinstance`` of a protocol does not see what ``__getattr__`` returns.
    """
    found = {name: property(operator.attrgetter(f"inner.{name}")) for name in ABILITIES if hasattr(inner, name)}
    kind: Callable[[object], T] = type(wrapper.__name__, (wrapper,), found)
    return kind(inner)
