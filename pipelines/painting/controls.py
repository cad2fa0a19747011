"""Control images of ControlNets and masks of IP-Adapters, cropped to match the crops that are inpainted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from refiner.errors import ConfigError
from refiner.images import from_unit
from refiner.pipelines.painting.crops import Crop, Pixels


def control_in(options: Mapping[str, Any], name: str | None) -> Any:
    """Return ``control_image`` of a call, or the argument under the generator's ``name`` for it, or None."""
    own = None if name is None else options.get(name)
    return options.get("control_image", own)


def cut_out(control: Any, crops: Sequence[Crop], *, several: bool) -> Pixels | list[Pixels]:
    """Cut a control image as each crop was cut from its image.

    Args:
        control: Pillow image, array (H, W, 3) (uint8, or floats in [0, 1]) or tensor (3, H, W) with values in [0, 1],
            with or without a batch dimension of 1; of any size. A list of one for each of several ControlNets or modes.
        crops: N crops of one size.
        several: whether there are several ControlNets, or one with modes.

    Returns:
        Float32 (N, H, W, 3) in [0, 1]; with several ControlNets or modes, a list of one array for each.

    Raises:
        ConfigError: the control image has another type or shape.
    """
    given = control if several and isinstance(control, list | tuple) else [control]
    pictures = map(_picture, given)
    parts = [np.stack([_part(picture, crop) for crop in crops]) for picture in pictures]
    return parts if several else parts[0]


def cut_out_masks(masks: Any, crop: Crop) -> Any:
    """Cut the masks of IP-Adapters, tensors (..., H, W) or a list of these, as a crop was cut from its image."""
    if isinstance(masks, list | tuple):
        return [cut_out_masks(mask, crop) for mask in masks]
    if crop.place is None:
        return masks
    from torch.nn.functional import interpolate

    (x0, y0, x1, y1), size = crop.place
    part = interpolate(masks.float(), size=tuple(size), mode="nearest")[..., y0:y1, x0:x1]
    return interpolate(part, size=crop.image.size[::-1], mode="nearest").to(masks.dtype)


def _part(picture: Image.Image, crop: Crop) -> Pixels:
    if crop.place is not None:
        box, size = crop.place
        if picture.size != (size.width, size.height):
            picture = picture.resize((size.width, size.height), Image.Resampling.LANCZOS)
        picture = picture.crop(box)
    resized = picture.resize(crop.image.size, Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.float32) / np.float32(255)


def _picture(control: Any) -> Image.Image:
    if isinstance(control, list | tuple) and len(control) == 1:
        control = control[0]
    if isinstance(control, Image.Image):
        return control.convert("RGB")
    channels_first = hasattr(control, "detach")
    pixels = np.asarray(control.detach().cpu().float() if channels_first else control)
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if channels_first and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.kind not in "fu":
        raise ConfigError(
            f"Expected a control image as a Pillow image, an array (H, W, 3) or a tensor (3, H, W), got "
            f"{type(control).__name__} of shape {tuple(getattr(control, 'shape', ()))}: pass one for each ControlNet."
        )
    return Image.fromarray(pixels) if pixels.dtype == np.uint8 else from_unit(pixels.astype(np.float32))
