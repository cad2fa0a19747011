"""Repainting with a text-to-image pipeline that has no inpainting class of its own.

As in Blended Latent Diffusion (arXiv 2206.02779, section 4.1): after every step the latents outside the masks are those
of the known picture, brought to the step's noise level. It is done in the scheduler, not in the step callback: that one
is the user's, older classes have none, and only the scheduler sees every class's schedule, so that a strength below 1
can leave out its first steps. Nothing here touches the user's pipeline.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refiner.types import Mask

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_PER_STEP = ("timesteps", "sigmas", "sigmas_interpol", "order_list")
"""What schedulers hold with one entry for each step, in the order of steps."""


def blended(
    pipe: DiffusionPipeline, images: Sequence[Image.Image], masks: Sequence[Mask], *, strength: float
) -> DiffusionPipeline:
    """A pipeline over the very same components, whose next call repaints pictures inside their masks.

    Args:
        pipe: text-to-image pipeline whose latents are (N, C, h, w).
        images: N RGB pictures of one size, that of the call.
        masks: bool (H, W) each, True = repaint; of whole latent cells.
        strength: share of the noise schedule that is run, in (0, 1]; at least one step is.
    """
    twin = copy.copy(pipe)
    twin.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    blend = _Blend(twin, images, masks, strength)
    for owner, name, wrapper in (
        (twin, "prepare_latents", blend.prepare_latents),
        (twin.scheduler, "set_timesteps", blend.set_timesteps),
        (twin.scheduler, "step", blend.step),
    ):
        inner = getattr(owner, name)
        # Pipelines ask for the parameters of these methods: wraps keeps them.
        setattr(owner, name, functools.wraps(inner)(functools.partial(wrapper, inner)))
    return twin


class _Blend:
    """What happens in the three methods of a pipeline and its scheduler that are wrapped."""

    def __init__(
        self, pipe: DiffusionPipeline, images: Sequence[Image.Image], masks: Sequence[Mask], strength: float
    ) -> None:
        self.pipe, self.scheduler, self.images, self.masks = pipe, pipe.scheduler, images, masks
        self.strength = strength
        self.skipped = False  # whether the schedule has lost its first steps
        self.scheduled = False
        self.start: torch.Tensor | None = None  # what the pipeline starts from
        self.done = 0  # steps

    def set_timesteps(self, inner: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Set the schedule and leave out its first steps, as the families' own inpainting classes do."""
        inner(*args, **kwargs)
        steps = self.scheduler.num_inference_steps or len(self.scheduler.timesteps)
        first = min(int(steps - steps * self.strength), steps - 1) * self.scheduler.order
        for name in _PER_STEP:
            if getattr(self.scheduler, name, None) is not None:
                setattr(self.scheduler, name, getattr(self.scheduler, name)[first:])
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        self.skipped, self.scheduled = first > 0, True
        self._begin()

    def prepare_latents(self, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The latents to start from. Where the schedule is not yet set, they are filled in once it is."""
        from diffusers.utils.torch_utils import randn_tensor

        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        device, dtype = given["device"], given["dtype"]
        self.known = _encode(self.pipe, self.images).to(device, dtype)
        cell = self.pipe.vae_scale_factor
        masks = np.stack([mask[::cell, ::cell] for mask in self.masks])[:, None]
        self.inside = _tensor(masks).to(device)
        self.noise = randn_tensor(self.known.shape, generator=given["generator"], device=device, dtype=dtype)
        self.start = inner(**{**given, "latents": self.noise}).clone()
        self._begin()
        return self.start

    def _begin(self) -> None:
        if self.start is not None and self.scheduled and self.skipped:
            self.start.copy_(self._noised(self.scheduler.timesteps[:1]))

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One step, after which the known pixels are laid over what must not change."""
        import torch

        output = inner(*args, **kwargs)
        self.done += 1
        level = self.scheduler.timesteps[self.done : self.done + 1]
        known = self._noised(level) if len(level) else self.known
        latents = torch.where(self.inside, output[0], known.to(output[0].dtype))
        if isinstance(output, tuple):
            return (latents, *output[1:])
        output.prev_sample = latents
        return output

    def _noised(self, level: torch.Tensor) -> torch.Tensor:
        """The known latents at a noise level, one of the schedule's."""
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(self.known, level, self.noise)
        return self.scheduler.add_noise(self.known, self.noise, level)


def _encode(pipe: DiffusionPipeline, images: Sequence[Image.Image]) -> torch.Tensor:
    """Latents (N, C, h, w) of pictures, as the pipeline's own decoding expects them."""
    config = pipe.vae.config
    with _precise(pipe.vae):
        pixels = pipe.image_processor.preprocess(list(images)).to(pipe._execution_device, pipe.vae.dtype)
        encoded = pipe.vae.encode(pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return (latents - (config.get("shift_factor") or 0)) * config.scaling_factor


@contextmanager
def _precise(vae: Any) -> Iterator[None]:
    """Autoencoders that overflow in half precision work in single precision for a while, as when they decode."""
    import torch

    overflows = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if overflows:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(torch.float16)


def _tensor(masks: Mask) -> torch.Tensor:
    import torch

    return torch.from_numpy(masks)
