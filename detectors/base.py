"""What detectors share: loading a folder, choosing a device, batches, one prompt for each image, narrow domains.

A detector that subclasses ``BaseDetector`` needs a name, ``_analyse(images, prompts)``, and a function that loads it.
"""

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
from refiner.types import Analysis

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class BaseDetector(ABC):
    """Checks images and prompts and cuts batches; satisfies ``refiner.protocols.Detector``.

    Args:
        name: id and revision.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    batch_size: int = 1
    """Images that go to ``_analyse`` at once."""

    def __init__(self, *, name: str, domain: str = "") -> None:
        self._name, self.domain = name, domain

    @property
    def name(self) -> str:
        """Id and revision."""
        return self._name

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        """What is wrong with one image.

        Args:
            image: any mode; read as RGB.
            prompt: what the image was to show; detectors that do not read it say so.

        Raises:
            OutOfDomainError: the model knows only the micro world, and this is no image of it.
            ModelError: the model's answer cannot be used.
        """
        return self.batch([image], None if prompt is None else [prompt])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        """The same answers as one call each, ``batch_size`` images at a time.

        Raises:
            ConfigError: the numbers of images and prompts differ.
        """
        asked = one_for_each(images, prompts)
        pictures = [image.convert("RGB") for image in images]
        for picture in pictures:
            check_domain(self.domain, picture)
        analyses: list[Analysis] = []
        for part in chunks(list(zip(pictures, asked, strict=True)), self.batch_size):
            analyses += self._analyse([picture for picture, _ in part], [prompt for _, prompt in part])
        return analyses

    @abstractmethod
    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        """One analysis for each RGB image; the prompt is empty where it is not known."""


def one_for_each(images: Sequence[Image.Image], prompts: Sequence[str] | None) -> Sequence[str]:
    """The prompt of each image; empty ones where there are none.

    Raises:
        ConfigError: the numbers of images and prompts differ.
    """
    if prompts is not None and len(prompts) != len(images):
        raise ConfigError(f"Expected one prompt for each of {len(images)} images, got {len(prompts)}.")
    return [""] * len(images) if prompts is None else prompts


def check_domain(domain: str, image: Image.Image) -> None:
    """Do nothing unless the domain is "micro" and the image is from elsewhere.

    Raises:
        OutOfDomainError: it is.
    """
    if domain == "micro":
        from refiner.micro.domain import check

        check(image)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, at most ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def placement(
    device: str | torch.device | None, dtype: torch.dtype | None = None
) -> tuple[torch.device, torch.dtype | None]:
    """Where a model goes, and in which precision: None for its checkpoint's own.

    Args:
        device: None takes CUDA where there is one.
        dtype: None takes float32 on a CPU, elsewhere the checkpoint's own.
    """
    import torch

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return place, torch.float32 if dtype is None and place.type == "cpu" else dtype


class Identity(NamedTuple):
    """What a detector calls itself, and the images it knows."""

    name: str
    domain: str


def identity(folder: Path, family: str) -> Identity:
    """Name and domain by a folder's card; without a card, family and folder name, and no domain.

    Raises:
        WeightsError: the card cannot be read.
    """
    if not (folder / "card.json").exists():
        return Identity(f"{family}:{folder.name}", "")
    card = read_card(folder)
    return Identity(card.name, card.domain)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"Expected a model config in {str(path)!r}, got {error!r}: fetch the folder again."
        ) from error
    if not isinstance(config, dict):
        raise WeightsError(f"Expected a JSON object in {str(path)!r}, got {config!r}: fetch the folder again.")
    return config


def load_folder(
    folder: Path, model_class: Any, processor_class: Any, kinds: Collection[str], dtype: torch.dtype | None
) -> tuple[Any, Any, str]:
    """Model, processor and ``model_type`` of a folder of transformers.

    Args:
        folder: what ``save_pretrained`` of model and processor wrote.
        model_class: an Auto class, and ``processor_class`` too.
        kinds: the model types that are wanted.
        dtype: None keeps the checkpoint's.

    Raises:
        WeightsError: the folder is of another kind, incomplete or damaged.
    """
    from transformers import AutoConfig

    with no_progress_bars():
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(
                f"Expected a transformers folder in {str(folder)!r}, got {_first_line(error)}: fetch it again."
            ) from error
        if kind not in kinds:
            raise WeightsError(
                f"Expected a model of type {', '.join(kinds)} in {str(folder)!r}, got {kind!r}: name another folder."
            )
        verify(folder)
        try:
            processor = processor_class.from_pretrained(folder)
            model, info = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise WeightsError(
                f"Expected a whole {kind} folder in {str(folder)!r}, got {_first_line(error)}: fetch it again."
            ) from error
    check_complete(folder, info)
    return model, processor, kind


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing them while weights are loaded."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_complete(path: Path, info: Mapping[str, Any]) -> None:
    """Refuse what ``from_pretrained`` would fill up with random weights.

    Raises:
        WeightsError: weights are missing, surplus or of another shape.
    """
    missing, surplus = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or surplus or info.get("mismatched_keys"):
        raise WeightsError(
            f"Expected all of the model's weights in {str(path)!r} and no others, got missing {missing[:3]} and "
            f"surplus {surplus[:3]}: fetch it again."
        )
