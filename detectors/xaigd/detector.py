"""X-AIGD's detector: a verdict with a heat map, and artifacts of seven categories (papers/x-aigd.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from refiner.detectors.base import BaseDetector, first_line, identity, placement, read_config
from refiner.detectors.xaigd.config import MODEL_TYPE, XaigdConfig
from refiner.detectors.xaigd.fitting import Floats, pixels_of, placed
from refiner.detectors.xaigd.heatmaps import class_map
from refiner.detectors.xaigd.modeling import XaigdModel, XaigdOutput
from refiner.detectors.xaigd.regions import artifact_regions, heat_regions, whole_image
from refiner.errors import BadAnswerError, ConfigError, WeightsError
from refiner.files import atomic_write_all, check_writable, dumps
from refiner.hub import verify
from refiner.types import Analysis, Region, Size


class XaigdDetector(BaseDetector):
    """A network of X-AIGD's tasks; a ``refiner.protocols.Detector``. The user's prompt is not used.

    ``fake_probability`` is that of the verdict; None without this head. ``heatmap`` shows what the verdict rests on;
    without a verdict, it is the largest probability of any category. The map of a verdict is divided by its own largest
    value, because the paper binarises maps at 0.5 and raw values are near 0.01. So it says where the evidence is, not
    how much there is: that of a clean image has a hot place, too. Read it beside ``fake_probability``; evaluations
    compare only the maps of generated images.

    Regions come from the segmentation head: the connected parts of each category. Parts of two categories may overlap,
    as X-AIGD's masks do. Without this head, they are the connected parts of the heat map, only of images that are
    called generated. Names, explanations and severities are derived from category and size: the network gives no words.
    An image that is called generated and has no other region has one unplaced region named ``WHOLE``.

    Args:
        model: the network.
        name: id and revision.
        domain: "micro" for a model that knows only the micro world and must refuse other images; else "".
    """

    batch_size = 8

    def __init__(self, model: XaigdModel, *, name: str, domain: str = "") -> None:
        super().__init__(name=name, domain=domain)
        self.model = model.eval().requires_grad_(False)

    @property
    def config(self) -> XaigdConfig:
        """The settings."""
        return self.model.config

    @property
    def decides(self) -> bool:
        """Whether each analysis has a ``fake_probability``."""
        return self.config.verdict

    def to(self, device: str | torch.device) -> XaigdDetector:
        """Move the network."""
        self.model.to(device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Save config and weights (safetensors); ``load_xaigd`` loads them.

        Raises:
            OutputError: the folder cannot be written.
        """
        save_xaigd(self.model, folder)

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        weight = next(self.model.parameters())
        pixels = torch.from_numpy(np.stack([pixels_of(image, self.config) for image in images]))
        output, heat = self._seen(pixels.to(weight.device, weight.dtype))
        count = len(images)
        verdicts = self._each(None if output.verdict is None else output.verdict.sigmoid(), count)
        maps = self._each(None if output.artifacts is None else output.artifacts.sigmoid(), count)
        rows = zip(images, verdicts, maps, self._each(heat, count), strict=True)
        return [self._analysis(*row) for row in rows]

    def _each(self, values: Tensor | None, count: int) -> Sequence[Any]:
        """The values of each image as float32, or None for each."""
        if values is None:
            return [None] * count
        found: Floats = values.detach().float().cpu().numpy()
        if not np.isfinite(found).all():
            raise BadAnswerError(f"Expected finite numbers from {self.name!r}, got NaN or infinity: try float32.")
        return list(found)

    def _seen(self, pixels: Tensor) -> tuple[XaigdOutput, Tensor | None]:
        """The network's answer, and the heat map of its verdict."""
        if not self.config.verdict:
            with torch.no_grad():
                return self.model(pixels), None
        with torch.inference_mode(False), torch.enable_grad():
            output = self.model(pixels.clone(), self.config.layers)
            return output, class_map(self.config, output, self.config.heatmap)

    def _analysis(
        self, image: Image.Image, verdict: np.float32 | None, maps: Floats | None, heat: Floats | None
    ) -> Analysis:
        config, size = self.config, Size(image.height, image.width)
        fake = None if verdict is None else float(verdict)
        generated = fake is not None and fake > config.threshold
        large = None if maps is None else placed(maps, config, size)
        shown = placed(heat[None], config, size)[0] if heat is not None else None
        if shown is None and large is not None:
            shown = large.max(axis=0)
        regions: tuple[Region, ...] = ()
        if large is not None and (generated or fake is None or config.regions == "all"):
            regions = artifact_regions(large, config, size)
        elif large is None and generated and shown is not None:
            regions = heat_regions(shown, config, size)
        if generated and not regions and fake is not None:
            regions = (whole_image(fake, size),)
        return Analysis(size=size, regions=regions, fake_probability=fake, heatmap=shown, detector=self.name)


def save_xaigd(model: XaigdModel, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``.

    Raises:
        OutputError: the folder cannot be written.
    """
    weights = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    text = dumps(model.config.to_dict()) + "\n"
    atomic_write_all(check_writable(folder), {"model.safetensors": weights, "config.json": text.encode("utf-8")})


def load_network(folder: Path) -> XaigdModel:
    """Load the network of a folder in float32, on the CPU.

    Raises:
        WeightsError: the folder is of another kind, incomplete or damaged.
    """
    values = read_config(folder)
    if values.get("model_type") != MODEL_TYPE:
        raise WeightsError(
            f"Expected a model of type {MODEL_TYPE} in {str(folder)!r}, got {values.get('model_type')!r}: choose "
            "another folder."
        )
    verify(folder)
    try:
        model = XaigdModel(XaigdConfig.from_dict(values))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # damaged files may raise anything
        raise WeightsError(
            f"The X-AIGD detector {str(folder)!r} cannot be loaded ({first_line(error)}): download or train it again."
        ) from error
    return model


def load_xaigd(
    model: str | Path,
    *,
    heatmap: str | None = None,
    regions: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> XaigdDetector:
    """Load a folder of ``save_pretrained``.

    Args:
        model: the folder.
        heatmap, regions: replace the fields of ``XaigdConfig``; None: the folder's own.
        device: None selects CUDA or MPS if available, else the CPU.
        dtype: None selects float32.

    Raises:
        WeightsError: the folder is of another kind, incomplete or damaged.
        ConfigError: an option has an unknown value, or does not fit the backbone.
    """
    root = Path(model)
    network = load_network(root)
    given: dict[str, Any] = {
        name: value for name, value in (("heatmap", heatmap), ("regions", regions)) if value is not None
    }
    if "heatmap" in given and not network.config.verdict:
        raise ConfigError(f"The detector {str(root)!r} has no verdict, and so no heat map of it: leave heatmap out.")
    network.config = dataclasses.replace(network.config, **given)
    place, kind = placement(device, dtype)
    return XaigdDetector(network.to(place, kind or torch.float32), **identity(root, "xaigd")._asdict())
