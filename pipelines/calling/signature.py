"""The signature of a RefinedPipeline's call: the arguments of the wrapped pipeline's call, and those of refiner."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from refiner.pipelines.config import RefineConfig
from refiner.pipelines.painting import families

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_OPEN = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def signature_of(pipe: DiffusionPipeline, call: Callable[..., Any]) -> inspect.Signature:
    """Join the parameters of a wrapped pipeline's call, those of refiner's own call, and the settings of the loop.

    Programs and completion read it to learn which arguments a pipeline takes.
    """
    taken = {name: each for name, each in families.takes(pipe).items() if name != "self" and each.kind not in _OPEN}
    own = inspect.signature(call).parameters
    for name, each in own.items():
        if name != "self" and each.kind not in _OPEN and name not in taken:
            taken[name] = each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for field in fields(RefineConfig):
        if field.name not in taken:
            taken[field.name] = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None)
    return inspect.Signature(sorted(taken.values(), key=lambda each: each.kind))


def described_call(owner: Any, pipe: DiffusionPipeline) -> Callable[..., Any]:
    """Return the call of a RefinedPipeline as a function with its own signature."""
    call = type(owner).__call__

    def described(*args: Any, **options: Any) -> Any:
        return call(owner, *args, **options)

    described.__doc__ = call.__doc__
    described.__name__ = described.__qualname__ = "__call__"
    described.__signature__ = signature_of(pipe, call)  # type: ignore[attr-defined]
    return described
