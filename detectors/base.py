"""Code that detectors share: load a folder, choose a device, make batches, match prompts, check the domain."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from PIL import Image

from refiner.errors import ConfigError, WeightsError
from refiner.hub import read_card, verify
from refiner.machine import device_of
from refiner.reading import reason_of
from refiner.types import Analysis

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class BaseDetector(ABC):
    """Base class of detectors: checks images and prompts, and makes batches. A ``refiner.protocols.Detector``.

    Args:
        name: id and revision.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    batch_size: int = 1
    """Number of images in one call of ``_analyse``."""

    def __init__(self, *, name: str, domain: str = "") -> None:
        self.name, self.domain = name, domain

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """Find the flaws in one image.

        Args:
            image: any mode; converted to RGB.
            prompt: the prompt of the image; detectors that do not use it say so.

        Raises:
            OutOfDomainError: the model knows only the micro world, and this is not an image of it.
            ModelError: the model's answer cannot be used.
        """
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """Analyse several images, ``batch_size`` at a time; the results are the same as with one call for each image.

        Raises:
            ConfigError: the numbers of images and prompts differ.
        """
        asked = one_for_each(images, prompts)
        pictures = [image.convert("RGB") for image in images]
        for picture in pictures:
            check_domain(self.domain, picture)
        parts = zip(chunks(pictures, self.batch_size), chunks(asked, self.batch_size), strict=True)
        return [analysis for part in parts for analysis in self._analyse(*part)]

    @abstractmethod
    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        """Return one analysis for each RGB image; a prompt that is not known is empty."""


def one_for_each(images: Sequence[Image.Image], prompts: Sequence[str] | None) -> Sequence[str]:
    """Return the prompt of each image, empty if ``prompts`` is None; raises ``ConfigError`` if the numbers differ."""
    if prompts is not None and len(prompts) != len(images):
        raise ConfigError(
            f"Expected one prompt for each of {len(images)} images, got {len(prompts)}: pass as many prompts as images."
        )
    return [""] * len(images) if prompts is None else prompts


def check_domain(domain: str, image: Image.Image) -> None:
    """Raise ``OutOfDomainError`` if the domain is "micro", and the image is not from the micro world."""
    if domain == "micro":
        from refiner.micro.domain import check

        check(image)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, at most ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def placement(
    device: str | torch.device | None, dtype: torch.dtype | None = None
) -> tuple[torch.device, torch.dtype | None]:
    """Choose the device and the dtype of a model, as for ``load_detector``; None means the checkpoint's dtype."""
    import torch

    place = device_of(None) if device is None else torch.device(device)
    return place, torch.float32 if dtype is None and place.type == "cpu" else dtype


class Identity(NamedTuple):
    """The name of a detector, and the domain of its images."""

    name: str
    domain: str


def identity(folder: Path, family: str) -> Identity:
    """Return the name and domain in a folder's card; without a card, family and folder name, and no domain."""
    if not (folder / "card.json").exists():
        return Identity(f"{family}:{folder.name}", "")
    card = read_card(folder)
    return Identity(card.name, card.domain)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a folder; raises ``WeightsError`` if it is missing or cannot be read."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"expected a JSON object, got {config!r:.80}")
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The model config {str(path)!r} cannot be read ({reason_of(error)}): download the folder again."
        ) from error
    return config


def load_folder(
    folder: Path, model_class: Any, processor_class: Any, kinds: Collection[str], dtype: torch.dtype | None
) -> tuple[Any, Any, str]:
    """Load model, processor and ``model_type`` from a transformers folder, with two Auto classes of transformers.

    Args:
        kinds: the accepted model types.
        dtype: None keeps the checkpoint's dtype.

    Raises:
        WeightsError: the folder holds another model type, is incomplete or damaged.
    """
    from transformers import AutoConfig

    with no_progress_bars():
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(
                f"{str(folder)!r} is not a transformers folder ({first_line(error)}): download it again."
            ) from error
        if kind not in kinds:
            raise WeightsError(
                f"Expected a model of type {', '.join(kinds)} in {str(folder)!r}, got {kind!r}: choose another folder."
            )
        verify(folder)
        try:
            processor = processor_class.from_pretrained(folder)
            model, info = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(
                f"The {kind} folder {str(folder)!r} cannot be loaded ({first_line(error)}): download it again."
            ) from error
    check_complete(folder, info)
    return model, processor, kind


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; its type if there is no text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of transformers while weights are loaded."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_complete(path: Path, info: Mapping[str, Any]) -> None:
    """Refuse a checkpoint for which ``from_pretrained``, which returns ``info``, would use random weights.

    Raises:
        WeightsError: weights are missing, unexpected or of another shape.
    """
    missing, surplus = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or surplus or info.get("mismatched_keys"):
        raise WeightsError(
            f"The weights in {str(path)!r} do not fit the model (missing {missing[:3]}, unexpected {surplus[:3]}): "
            "download them again."
        )
