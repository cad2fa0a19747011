"""The options of ``RefinedPipeline.from_pretrained``: which ones there are, and their checks before a download."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from refiner.errors import ConfigError

Types = tuple[type, ...]

ACCESS = ("token", "cache_dir", "local_files_only", "force_download")
"""Options that say how files of the hub are reached."""
_COMMON: dict[str, Types] = {
    "cache_dir": (str, Path),
    "disable_mmap": (bool,),
    "dtype": (object,),
    "force_download": (bool,),
    "local_files_only": (bool,),
    "proxies": (Mapping,),
    "revision": (str,),
    "token": (str, bool),
    "torch_dtype": (object,),
}
PRETRAINED: Mapping[str, Types] = MappingProxyType(
    {
        **_COMMON,
        "custom_pipeline": (str, Path),
        "custom_revision": (str,),
        "device_map": (str,),
        "load_connected_pipeline": (bool,),
        "low_cpu_mem_usage": (bool,),
        "max_memory": (Mapping,),
        "offload_folder": (str, Path),
        "offload_state_dict": (bool,),
        "provider": (object,),
        "provider_options": (object,),
        "quantization_config": (object,),
        "sess_options": (object,),
        "trust_remote_code": (bool,),
        "use_flashpack": (bool,),
        "use_onnx": (bool,),
        "use_safetensors": (bool,),
        "variant": (str,),
    }
)
"""Arguments of diffusers' ``DiffusionPipeline.from_pretrained``, and their types."""
SINGLE_FILE: Mapping[str, Types] = MappingProxyType(
    {
        **_COMMON,
        "config": (str, Path),
        "original_config": (str, Path),
        "prediction_type": (str,),
        "scheduler_type": (str,),
    }
)
"""Arguments of ``from_single_file`` of diffusers' pipelines, and their types."""
_OWN = (
    *("detector", "judge", "reviser", "config", "call", "inpainter", "inpaint_call", "second_stage", "editor"),
    *("edit_call", "native"),
)
_ALIKE = 0.8
"""From this similarity on, an unknown name is taken for a misspelt option, even if it may name a component."""


def read_options(options: Mapping[str, Any], known: Mapping[str, Types]) -> dict[str, Any]:
    """Check the options as far as possible without the pipeline; ``torch_dtype`` becomes ``dtype``.

    Options that are not in ``known`` may name components of the pipeline; see ``check_names``. None is the default of
    an option in ``known``.

    Raises:
        ConfigError: an option is misspelt, of the wrong type, or contradicts another one.
    """
    check_names(options, known, None)
    read = {name: value for name, value in options.items() if name not in known or value is not None}
    for name, value in read.items():
        if name in known and not isinstance(value, known[name]):
            kinds = " or ".join(kind.__name__ for kind in known[name])
            raise ConfigError(
                f"Expected {name}= of type {kinds}, got {value!r:.80}: pass such a value, or leave it out."
            )
    dtypes = {name: _dtype(name, read.pop(name)) for name in ("dtype", "torch_dtype") if name in read}
    if len(dtypes) == 2 and dtypes["dtype"] != dtypes["torch_dtype"]:
        raise ConfigError(
            f"dtype={dtypes['dtype']} and torch_dtype={dtypes['torch_dtype']} contradict each other: pass only dtype=."
        )
    _check_device_map(read.get("device_map"))
    if read.get("force_download") and read.get("local_files_only"):
        raise ConfigError("force_download= and local_files_only= contradict each other: pass only one of them.")
    if dtypes:
        read["dtype"] = next(iter(dtypes.values()))
    return read


def check_names(options: Mapping[str, Any], known: Collection[str], components: Collection[str] | None) -> None:
    """Refuse options that are neither in ``known`` nor components of the pipeline.

    ``components`` is None if they are not known yet: then only names that look like a misspelt option are refused.

    Raises:
        ConfigError: an option is unknown; the message names the most similar one.
    """
    names = sorted({*known, *_OWN, *(components or ())})
    for name in options:
        if name in known or name in (components or ()):
            continue
        near = get_close_matches(name, names, n=1, cutoff=_ALIKE if components is None else 0.6)
        if near:
            raise ConfigError(
                f"There is no option {name}= for loading this pipeline: write {near[0]}=, or leave it out."
            )
        if components is not None:
            raise ConfigError(
                f"There is no option {name}= for loading this pipeline: leave it out, or name one of its components "
                f"({', '.join(sorted(components))})."
            )


def merged_revision(model: str, revision: str | None, given: str | None) -> str | None:
    """Return the revision of a model: that in its id or URL, or the option ``revision``.

    Raises:
        ConfigError: they differ.
    """
    if revision is not None and given is not None and revision != given:
        raise ConfigError(
            f"{model!r} names the revision {revision!r}, but revision= is {given!r}: name the revision only once."
        )
    return revision if given is None else given


def _dtype(name: str, value: Any) -> Any:
    """Read a dtype: a torch.dtype of floats, its name, "auto", or a dict of these by component."""
    import torch

    if isinstance(value, Mapping):
        return {part: _dtype(name, one) for part, one in value.items()}
    if value == "auto":
        return value
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    raise ConfigError(
        f"Expected {name}= as a torch.dtype of floats, such as torch.float16, as its name, or as a dict of these by "
        f"component, got {value!r:.80}: pass such a value, or leave it out."
    )


def _check_device_map(device_map: str | None) -> None:
    if device_map is None:
        return
    from diffusers.pipelines.pipeline_utils import SUPPORTED_DEVICE_MAP

    if device_map not in SUPPORTED_DEVICE_MAP:
        raise ConfigError(
            f"Expected device_map= {' or '.join(map(repr, dict.fromkeys(SUPPORTED_DEVICE_MAP)))} on this machine, got "
            f"{device_map!r}: pass one of these, or call to() afterwards."
        )
