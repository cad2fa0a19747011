"""Arguments that a user writes as text: read as the type that they have, and checked before any weights are loaded."""

from __future__ import annotations

import ast
import builtins
import contextlib
import difflib
import importlib.util
import inspect
import json
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from refiner.errors import ConfigError, WeightsError
from refiner.hub import resolve
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.painting.families import takes
from refiner.pipelines.saving.settings import SETTINGS_FILE

NOT_HERE: Final = frozenset(
    {"self", "prompt", "image", "generator", "output_type", "return_dict", "num_images_per_prompt", "callback_steps"}
)
"""Arguments of a pipeline's call that ``RefinedPipeline`` sets itself."""
INDEX: Final = "model_index.json"
_LEAST: Final[Mapping[str, int]] = {"num_inference_steps": 1, "height": 1, "width": 1}
_PLAIN: Final = (bool, int, float, str)


def readings(text: str) -> tuple[Any, ...]:
    """Read a text as JSON if possible (``4``, ``true``, ``[0.5, 1]``; not NaN), and as it is."""
    try:
        return json.loads(text, parse_constant=str), text
    except (ValueError, RecursionError):
        return (text,)


def fitted(value: Any, hint: Any) -> Any:
    """Convert a JSON value to the type of an argument; lists become tuples where a tuple is expected.

    Raises:
        TypeError: the value is of another type.
    """
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return value
    if origin in (Union, UnionType):
        for each in inner:
            with contextlib.suppress(TypeError):
                return fitted(value, each)
    elif origin is Literal:
        if value in inner:
            return value
    elif origin in (list, Sequence) and isinstance(value, list):
        return [fitted(item, inner[0]) for item in value] if inner else value
    elif origin is tuple and isinstance(value, list):
        open_ended = len(inner) < 2 or inner[1] is Ellipsis
        hints = (inner[:1] or (Any,)) * len(value) if open_ended else inner
        return tuple(fitted(item, each) for item, each in _pairs(value, hints))
    elif origin is Mapping and isinstance(value, dict):
        return {name: fitted(item, inner[1]) for name, item in value.items()}
    elif _is(value, origin):
        return value
    raise TypeError(f"{value!r} is not of type {hint}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type that JSON has. A whole number is a float too, and infinity is not."""
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return kind in (bool, int, str, dict, NoneType) and type(value) is kind


def _pairs(values: list[Any], hints: tuple[Any, ...]) -> Iterable[tuple[Any, Any]]:
    if len(values) != len(hints):
        raise TypeError(f"expected {len(hints)} values, got {len(values)}")
    return zip(values, hints, strict=True)


def _writable(hint: Any) -> bool:
    """Whether a value of this type can be written as JSON; tensors and images cannot."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(_writable(each) for each in inner if each is not NoneType)
    if origin in (list, tuple, dict, Mapping, Sequence):
        return all(_writable(each) for each in inner if each is not Ellipsis)
    return origin in (*_PLAIN, Literal, Any, inspect.Parameter.empty)


def config_hints() -> dict[str, Any]:
    """Return the type of each field of ``RefineConfig``."""
    return get_type_hints(RefineConfig)


def call_hints(cls: type) -> dict[str, Any]:
    """Return the type of each argument of a pipeline's call that can be written as text."""
    evaluated: dict[str, Any] = {}
    with contextlib.suppress(NameError):  # of an import for type checkers alone
        evaluated = inspect.get_annotations(vars(cls).get("__call__", cls.__call__), eval_str=True)
    found = {}
    for name, parameter in takes(cls).items():
        hint = evaluated.get(name, parameter.annotation)
        several = parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        if name not in NOT_HERE and not several and not name.startswith("callback"):
            found[name] = Any if isinstance(hint, str) else hint
    return {name: hint for name, hint in found.items() if _writable(hint)}


def source_hints(cls: str) -> dict[str, Any]:
    """``call_hints`` of a class of diffusers by its name, read from the source: diffusers is not imported.

    An argument whose type needs more than Python's own names has the type Any. Empty: no file defines the class.
    """
    spec = importlib.util.find_spec("diffusers")
    root = Path(((spec and spec.submodule_search_locations) or [""])[0], "pipelines")
    found = _source_hints(cls, root)
    return {name: hint for name, hint in found.items() if name not in NOT_HERE and not name.startswith("callback")}


def _source_hints(cls: str, root: Path) -> dict[str, Any]:
    texts = (file.read_text("utf-8") for file in root.rglob("*.py"))
    source = next((text for text in texts if f"\nclass {cls}(" in text), "")
    kind = next((node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == cls), None)
    if kind is None:
        return {}
    call = next((node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__call__"), None)
    own = [] if call is None else [*call.args.posonlyargs, *call.args.args, *call.args.kwonlyargs]
    found = {each.arg: _hint(each.annotation) for each in own}
    if call is None or call.args.kwarg is not None:  # see ``takes``
        for base in map(ast.unparse, kind.bases):
            found = (_source_hints(base, root) if base.endswith("Pipeline") else {}) | found
    return found


def _hint(annotation: ast.expr | None) -> Any:
    """A type as the source names it; Any if that takes more than the names of Python and typing."""
    try:
        return Any if annotation is None else _type(annotation)
    except (AttributeError, TypeError, ValueError):
        return Any


def _type(node: ast.expr) -> Any:
    """Read an annotation such as ``list[int] | None``.

    Raises:
        AttributeError: a name is neither Python's nor one of typing.
        TypeError, ValueError: the types cannot be put together, or it is no annotation.
    """
    match node:
        case ast.Constant(value=None):
            return NoneType
        case ast.Name(id=name):
            return getattr(builtins, name) if hasattr(builtins, name) else getattr(typing, name)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left), _type(right)]  # noqa: UP007 (of values, not of names)
        case ast.Subscript(value=value, slice=inner):
            origin = _type(value)
            if origin is Literal:
                return Literal[ast.literal_eval(inner)]
            return origin[tuple(map(_type, inner.elts)) if isinstance(inner, ast.Tuple) else _type(inner)]
        case ast.List(elts=inner):  # the arguments of a Callable
            return list(map(_type, inner))
        case ast.Constant(value=value) if value is Ellipsis:
            return value
    raise TypeError(f"{ast.unparse(node)} is no annotation of plain types")


def read_argument(name: str, values: Sequence[Any], hint: Any) -> Any:
    """Convert the value of an argument to its type.

    Args:
        name: of the argument.
        values: possible readings of the value, one or more; the first one that fits is used.
        hint: the type.

    Raises:
        ConfigError: the value is of another type, or too small.
    """
    least = _LEAST.get(name)
    wanted = f"{_told(hint)}{'' if least is None else f' of at least {least}'}"
    for value in values:
        with contextlib.suppress(TypeError):
            found = fitted(value, hint)
            if least is None or not isinstance(found, int) or found >= least:
                return found
    raise ConfigError(f"Expected {name} of type {wanted}, got {values[0]!r}: change it.")


def _told(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that are most like ``name``, joined by "or"; all of them if none is."""
    names = sorted(known)
    return " or ".join(difflib.get_close_matches(name, names, 3, 0.3) or names)


def index_of(model: str) -> Path | None:
    """Return a folder with ``model_index.json`` and ``refiner.json`` of a pipeline, without a download of its weights.

    None: the model is unknown, or has no such file; loading it says what is wrong.
    """
    if model == "micro" or model.startswith("micro:") or Path(model).expanduser().is_dir():
        folder = resolve(model, "generator")
        return folder if (folder / INDEX).is_file() else None
    from huggingface_hub import errors, hf_hub_download

    repository, _, revision = model.partition("@")
    try:
        found = hf_hub_download(repository, INDEX, revision=revision or None)
    except (OSError, ValueError, errors.HTTPError):
        return None
    with contextlib.suppress(OSError, ValueError, errors.HTTPError):
        hf_hub_download(repository, SETTINGS_FILE, revision=revision or None)
    return Path(found).parent


def class_name(folder: Path) -> str:
    """Return the name of the class of the pipeline in a folder.

    Raises:
        WeightsError: ``model_index.json`` is missing or damaged.
    """
    try:
        return str(json.loads((folder / INDEX).read_text("utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The pipeline in {str(folder)!r} cannot be read, its model_index.json fails with {str(error)!r}: "
            "download or save it again."
        ) from error


def class_named(name: str) -> type | None:
    """Return the class of diffusers with this name; None if there is none."""
    import diffusers

    found = getattr(diffusers, name, None)
    return found if isinstance(found, type) else None
