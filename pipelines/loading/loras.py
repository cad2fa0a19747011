"""LoRAs that are named as text: where each one is, and how strong it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import is_hub_id


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA.

    Args:
        place: a folder, a file, a hub id with an optional ``@revision``, or a hub id with a file in it, such as
            ``org/name/file.safetensors``.
        weight: how much of it is added to the weights of the pipeline; 1 is the trained strength.
    """

    place: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Lora:
        """Read ``PLACE`` or ``PLACE=WEIGHT``.

        Raises:
            ConfigError: the place is empty, or the weight is not a finite number.
        """
        place, equals, weight = text.rpartition("=")
        if not equals or Path(text).expanduser().exists():
            place, weight = text, "1"
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not place.strip() or not math.isfinite(value):
            raise ConfigError(f"Expected a LoRA as ID or ID=WEIGHT, such as folder=0.8, got {text!r}: change it.")
        return cls(place=place, weight=value)

    def __str__(self) -> str:
        return f"{self.place}={self.weight:g}"

    def source(self) -> tuple[str, dict[str, str]]:
        """Return the first argument of ``load_lora_weights``, and its further arguments."""
        path = Path(self.place).expanduser()
        if path.exists():
            return str(path), {}
        repository, _, revision = self.place.partition("@")
        options = {"revision": revision} if revision else {}
        parts = repository.split("/")
        if len(parts) > 2 and not path.is_absolute():
            repository, options["weight_name"] = "/".join(parts[:2]), "/".join(parts[2:])
        return repository, options


def find_loras(loras: Sequence[Lora]) -> None:
    """Check that each LoRA is a file, a folder, or may be on the hub, with no more than its name.

    Raises:
        ModelNotFoundError: one is none of these.
    """
    for lora in loras:
        place, _ = lora.source()
        if not (Path(place).exists() or is_hub_id(place)):
            raise ModelNotFoundError(
                f"There is no LoRA {lora.place!r}: check the path, or name one of the hub as owner/name."
            )


def check_loras(cls: type, loras: Sequence[Lora]) -> None:
    """Read the files of LoRAs, so that errors show before the weights of a pipeline of this class are loaded.

    Raises:
        ConfigError: pipelines of this class take no LoRA.
        ModelNotFoundError, WeightsError: there is no such LoRA, or its file cannot be read.
    """
    for lora in loras:
        if not hasattr(cls, "lora_state_dict"):
            raise ConfigError(f"Pipelines of class {cls.__name__} take no LoRA: leave {lora.place!r} out.")
        place, options = lora.source()
        _tried(lora, cls.lora_state_dict, place, **options)


def load_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Load LoRAs into a pipeline, each with its weight.

    Raises:
        WeightsError: a LoRA does not fit the pipeline.
    """
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        place, options = lora.source()
        _tried(lora, pipe.load_lora_weights, place, adapter_name=name, **options)
        if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
            raise WeightsError(
                f"The LoRA {lora.place!r} has no weights for this pipeline: choose one that was trained for its model."
            )
    if names:
        pipe.set_adapters(names, [lora.weight for lora in loras])


def _tried(lora: Lora, load: Any, *arguments: Any, **options: Any) -> None:
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    try:
        load(*arguments, **options)
    except (OSError, ValueError, KeyError, RuntimeError, HTTPError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        if not Path(lora.place).expanduser().exists():
            raise ModelNotFoundError(f"There is no LoRA {lora.place!r} ({reason}): check the path or id.") from error
        raise WeightsError(
            f"The LoRA {lora.place!r} does not fit this pipeline or is damaged ({reason}): choose another."
        ) from error
