"""Inpainting with a text-to-image pipeline that has no inpainting class.

The method is Blended Latent Diffusion (arXiv 2206.02779, section 4.1): after every step, the latents outside the masks
are replaced by those of the known image at the noise level of the step. This happens in the scheduler and not in the
step callback, for three reasons: the callback belongs to the user, older classes have none, and only in the scheduler
can a strength below 1 skip the first steps for every class. The user's pipeline is not changed.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from refiner.pipelines.painting.borrowing import as_it_was, wrap
from refiner.pipelines.painting.staggering import Shares, Stagger

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_PER_STEP = ("timesteps", "sigmas", "sigmas_interpol", "order_list")
"""Attributes of schedulers that have one entry for each step, in the order of steps."""


def blended(
    pipe: DiffusionPipeline, images: Sequence[Image.Image], shares: Shares, *, strength: float
) -> DiffusionPipeline:
    """Build a pipeline with the same components whose next call inpaints images where their shares are above 0.

    Args:
        pipe: text-to-image pipeline whose latents are (N, C, h, w).
        images: N RGB images of one size, the size of the call.
        shares: float (N, h, w), the strength with which each latent cell is inpainted.
        strength: the largest of the shares, in (0, 1]: the share of the noise schedule that is run, at least one step.
    """
    twin = copy.copy(pipe)
    twin.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    blend = _Blend(twin, images, Stagger(shares, strength=strength))
    wrap(twin, "prepare_latents", blend.prepare_latents)
    # Pipelines inspect the parameters of these methods, so their signatures must stay.
    wrap(twin.scheduler, "set_timesteps", blend.set_timesteps)
    wrap(twin.scheduler, "step", blend.step)
    return twin


class _Blend:
    """Wrappers for a method of a pipeline and two methods of its scheduler."""

    def __init__(self, pipe: DiffusionPipeline, images: Sequence[Image.Image], stagger: Stagger) -> None:
        self.pipe, self.scheduler, self.images, self.stagger = pipe, pipe.scheduler, images, stagger
        self.skipped = False  # whether the first steps of the schedule are skipped
        self.scheduled = False
        self.start: torch.Tensor | None = None  # the latents that the pipeline starts from

    def set_timesteps(self, inner: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Set the schedule and skip its first steps, as the inpainting classes of diffusers do."""
        inner(*args, **kwargs)
        self.stagger.schedule(lambda strength: len(self.scheduler.timesteps) - self._first(strength))
        first = self._first(self.stagger.strength)
        for name in _PER_STEP:
            if getattr(self.scheduler, name, None) is not None:
                setattr(self.scheduler, name, getattr(self.scheduler, name)[first:])
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        self.skipped, self.scheduled = first > 0, True
        self._begin()

    def _first(self, strength: float) -> int:
        """Return the index in the full schedule at which a strength starts; at least one step remains."""
        steps = self.scheduler.num_inference_steps or len(self.scheduler.timesteps)
        return min(int(steps - steps * strength), steps - 1) * int(self.scheduler.order)

    def prepare_latents(self, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Prepare the start latents. If the schedule is not set yet, ``set_timesteps`` fills them in later."""
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        device, dtype = given["device"], given["dtype"]
        self.known = _encode(self.pipe, self.images).to(device, dtype)
        self.codes = torch.from_numpy(self.stagger.codes[:, None]).to(device)
        self.noise = randn_tensor(self.known.shape, generator=given["generator"], device=device, dtype=dtype)
        self.start = inner(**{**given, "latents": self.noise}).clone()
        self._begin()
        return self.start

    def _begin(self) -> None:
        if self.start is not None and self.scheduled and self.skipped:
            self.start.copy_(self._noised(self.scheduler.timesteps[:1]))

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one step, then restore the known latents where the image must not change."""
        import torch

        inside = self.codes >= self.stagger.least
        output = self.stagger.step(self.scheduler, inner, *args, **kwargs)
        level = self.scheduler.timesteps[self.stagger.done : self.stagger.done + 1]
        known = self._noised(level) if len(level) else self.known
        latents = torch.where(inside, output[0], known.to(output[0].dtype))
        if isinstance(output, tuple):
            return (latents, *output[1:])
        output.prev_sample = latents
        return output

    def _noised(self, level: torch.Tensor) -> torch.Tensor:
        """Return the known latents at a noise level (a timestep of the schedule)."""
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(self.known, level, self.noise)
        return self.scheduler.add_noise(self.known, self.noise, level)


def _encode(pipe: DiffusionPipeline, images: Sequence[Image.Image]) -> torch.Tensor:
    """Encode images to latents (N, C, h, w), scaled as the pipeline's decoding expects them."""
    import torch

    config = pipe.vae.config
    with as_it_was(pipe):
        if pipe.vae.dtype == torch.float16 and config.get("force_upcast"):  # it overflows, so diffusers does the same
            pipe.vae.to(torch.float32)
        pixels = pipe.image_processor.preprocess(list(images)).to(pipe._execution_device, pipe.vae.dtype)
        encoded = pipe.vae.encode(pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return (latents - (config.get("shift_factor") or 0)) * config.scaling_factor
