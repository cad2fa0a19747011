"""Where LEGION's network goes when it is loaded, and in which precision."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from refiner.detectors.base import first_line, placement
from refiner.detectors.legion.modeling import LegionModel
from refiner.errors import ConfigError, MissingExtraError
from refiner.machine import device_of

DeviceMap = str | Mapping[str, str | int | torch.device]

_PRECISIONS = ("8bit", "4bit")
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate computes; other texts are devices."""
_KEPT = (
    "llava.lm_head",
    "llava.model.vision_tower",
    "llava.model.multi_modal_projector",
    "sam",
    "text_hidden_fcs",
    "prediction_head",
)
"""Modules that are never quantised."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device and precision of the network."""

    device: torch.device
    dtype: torch.dtype | None
    """None: that of the weights."""
    quantize: str | None = None
    """"8bit", "4bit", or None."""
    device_map: DeviceMap | None = None

    @classmethod
    def choose(
        cls,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
        quantize: str | None,
        device_map: DeviceMap | None,
    ) -> Placement:
        """Check the arguments of ``LegionDetector.from_pretrained``, and raise its errors."""
        if isinstance(device_map, str) and device_map not in _MAPS:
            device, device_map = device_of(device_map), None
        place, precision = placement(device, dtype)
        if quantize is not None and quantize not in _PRECISIONS:
            raise ConfigError(f"Expected quantize=8bit or quantize=4bit, got {quantize!r}: choose one of these.")
        if quantize is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError(f"Loading in {quantize[0]} bits", "bitsandbytes", "quantized")
        return cls(device=place, dtype=precision, quantize=quantize, device_map=device_map)

    def load(self, folder: Path | None, **source: Any) -> tuple[LegionModel, Mapping[str, Any]]:
        """Load the network to its place, and return it with the loading info of ``from_pretrained``.

        Args:
            folder: of refiner's layout; None: the weights are in ``source``.
            source: further arguments of ``from_pretrained``.

        Raises:
            ConfigError: the ``device_map`` does not fit the network.
        """
        try:
            model, info = LegionModel.from_pretrained(folder, output_loading_info=True, **self._options(), **source)
        except (ValueError, RuntimeError, KeyError) as error:
            if not isinstance(self.device_map, Mapping):
                raise
            raise ConfigError(
                f"The device_map {dict(self.device_map)!r:.200} does not fit LEGION ({first_line(error)}): name a "
                "device for all parts, or use 'auto'."
            ) from error
        return model, info

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.quantize is not None:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=self.quantize == "8bit",
                load_in_4bit=self.quantize == "4bit",
                llm_int8_skip_modules=list(_KEPT),
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=self.dtype or torch.bfloat16,
            )
        if self.device_map is not None or self.quantize is not None:
            options["device_map"] = self.device_map if self.device_map is not None else {"": self.device}
        return options

    def settled(self, model: LegionModel) -> LegionModel:
        """Move a loaded network to the device, unless it is placed already; check that no part is offloaded.

        Raises:
            ConfigError: parts are offloaded to the CPU or the disk.
        """
        if not is_placed(model):
            moved: LegionModel = model.to(self.device)
            return moved
        kinds = {weight.device.type for weight in model.parameters()}
        if "meta" in kinds or len(kinds) > 1:
            raise ConfigError(
                "LEGION does not fit on the accelerators of this machine, or the device_map leaves parts of it out: "
                "use quantize=4bit, or another device_map."
            )
        return model


def is_placed(model: LegionModel) -> bool:
    """Whether the network was quantised or spread over devices when it was loaded, and stays there."""
    return bool(getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False))
