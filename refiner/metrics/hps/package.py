"""Network, tokenizer and preprocessing of the ``hpsv2`` package, if it is installed; it is not a dependency.

Its wheel lacks the tokenizer's vocabulary and pins old versions of other packages. The repackaged ``hpsv2x`` installs
with ``pip install --no-deps hpsv2x clint args``. Unlike the package, we load weights once and batch images.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

from PIL import Image
from torch import Tensor

from refiner.errors import ConfigError, InputError
from refiner.metrics.hps import weights as hps_weights
from refiner.metrics.hps.weights import ARCHITECTURE, Checkpoint


def load(checkpoint: Checkpoint, *, antialias: bool) -> tuple[Any, Any, Any]:
    """The package's CLIP with the checkpoint's weights (float32), its tokenizer and its preprocessing.

    Raises:
        ConfigError: the package is missing or does not work, or an option that it does not have.
        WeightsError: the weights are damaged, or not of a ViT-H-14.
    """
    if not antialias:
        raise ConfigError(
            "Expected antialias=True with backend='hpsv2', which uses torchvision's default, got False: "
            "use backend='open_clip'."
        )
    if find_spec("hpsv2") is None:
        raise ConfigError(
            "backend='hpsv2' needs the package 'hpsv2', which is not installed: use backend='open_clip', which gives "
            "the same scores, or pip install --no-deps hpsv2x clint args."
        )
    model, tokenizer, transform = _build()
    hps_weights.fill(model, checkpoint)

    def square(image: Image.Image) -> Tensor:
        pixels: Tensor = transform(image)
        if pixels.shape[1] != pixels.shape[2]:  # it neither resizes nor pads if the longest side already fits
            raise InputError(
                f"The package 'hpsv2' cannot score images of {image.width}x{image.height} pixels: "
                "use backend='open_clip'."
            )
        return pixels

    return model, tokenizer, square


def _build() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from hpsv2.src.open_clip import create_model_and_transforms, get_tokenizer

            model, _, transform = create_model_and_transforms(
                ARCHITECTURE,
                None,
                precision="amp",
                device="cpu",
                light_augmentation=True,
                aug_cfg={},
                output_dict=True,
                with_score_predictor=False,
                with_region_predictor=False,
            )
            return model, get_tokenizer(ARCHITECTURE), transform
    except Exception as error:  # its wheel lacks files, and it imports packages that may be missing
        raise ConfigError(
            f"The package 'hpsv2' fails with {error!r}: use backend='open_clip', which gives the same scores, or "
            "install hpsv2x instead."
        ) from error
