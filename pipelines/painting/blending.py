"""Inpainting with the call of a text-to-image pipeline itself.

The method is Blended Latent Diffusion (arXiv 2206.02779, section 4.1): after every step, the latents outside the masks
are replaced by those of the known image at the noise level of the step. The pipeline's own call runs, so that regions
get everything that whole images get: its defaults, overridden methods, guidance, callbacks, caches and adapters. The
blending happens in the scheduler and not in the step callback, for three reasons: the callback belongs to the user,
older classes have none, and only in the scheduler can a strength below 1 skip the first steps for every class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from refiner.pipelines.painting.borrowing import as_it_was, own_scheduler, wrap, wrapped
from refiner.pipelines.painting.latents import Layout
from refiner.pipelines.painting.staggering import Shares, Stagger

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@contextmanager
def blended(
    pipe: DiffusionPipeline, images: Sequence[Image.Image], shares: Shares, *, strength: float, layout: Layout
) -> Iterator[None]:
    """Let the next call of a pipeline inpaint images where their shares are above 0; afterwards it is as before.

    Args:
        pipe: text-to-image pipeline.
        images: N RGB images of one size, the size of the call.
        shares: float (N, h, w), the strength with which each latent cell is inpainted.
        strength: the largest of the shares, in (0, 1]: the share of the noise schedule that is run, at least one step.
        layout: the layout of the pipeline's latents.
    """
    with own_scheduler(pipe) as scheduler:
        blend = _Blend(pipe, images, Stagger(shares, strength=strength), layout)
        # Pipelines inspect the parameters of these methods, so their signatures must stay.
        wrap(scheduler, "set_timesteps", blend.set_timesteps)
        wrap(scheduler, "step", blend.step)
        if hasattr(scheduler, "set_begin_index"):
            wrap(scheduler, "set_begin_index", blend.set_begin_index)
        with wrapped(pipe, "prepare_latents", blend.prepare_latents):
            yield


class _Blend:
    """Wrappers for a method of a pipeline and three methods of its scheduler.

    Between ``set_timesteps`` and the first step, the scheduler shows only the timesteps that are run, so that the
    pipeline makes no others. After that it has its whole schedule again, as in the inpainting classes of diffusers.
    """

    def __init__(
        self, pipe: DiffusionPipeline, images: Sequence[Image.Image], stagger: Stagger, layout: Layout
    ) -> None:
        self.pipe, self.scheduler, self.images = pipe, pipe.scheduler, images
        self.stagger, self.layout = stagger, layout
        self.first = 0  # the first entry of the schedule that is run
        self.whole: torch.Tensor | None = None  # the timesteps of the whole schedule
        self.start: torch.Tensor | None = None  # the latents that the pipeline starts from

    def set_timesteps(self, inner: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Set the schedule and skip its first steps, as the inpainting classes of diffusers do."""
        inner(*args, **kwargs)
        self.whole = whole = self.scheduler.timesteps
        self.stagger.schedule(lambda strength: len(whole) - self._first(strength))
        self.first = self._first(self.stagger.strength)
        self.scheduler.timesteps = whole[self.first :]
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        self._begin()

    def set_begin_index(self, inner: Callable[[int], None], begin_index: int = 0) -> None:
        """Set the entry to begin at; pipelines count from the first entry that is run."""
        inner(self.first + begin_index)

    def _first(self, strength: float) -> int:
        """Return the index in the full schedule at which a strength starts; at least one step remains."""
        steps = self.scheduler.num_inference_steps or len(self.scheduler.timesteps)
        return min(int(steps - steps * strength), steps - 1) * int(self.scheduler.order)

    def prepare_latents(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Prepare the start latents. If the schedule is not set yet, ``set_timesteps`` fills them in later."""
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        given = inspect.signature(inner).bind(*args, **kwargs).arguments
        device, dtype = given["device"], given.get("dtype", torch.float32)
        known = _encode(self.pipe, self.images, self.layout).to(device, dtype)
        codes = torch.from_numpy(self.stagger.codes[:, None]).to(device).expand(-1, known.shape[1], -1, -1)
        self.codes = self.layout.pack(self.pipe, codes)
        self.known = self.layout.pack(self.pipe, known)
        if self.layout.scales_noise:
            given["latents"] = randn_tensor(known.shape, generator=given["generator"], device=device, dtype=dtype)
        made = inner(**given)
        self.start = start = (made[0] if isinstance(made, tuple) else made).clone()
        self.noise = given["latents"] if self.layout.scales_noise else start.clone()
        self._begin()
        return (start, *made[1:]) if isinstance(made, tuple) else start

    def _begin(self) -> None:
        if self.start is not None and self.whole is not None and self.first:
            self.start.copy_(self._noised(self.whole[self.first : self.first + 1]))

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one step, then restore the known latents where the image must not change."""
        import torch

        assert self.whole is not None
        self.scheduler.timesteps = self.whole
        inside = self.codes >= self.stagger.least
        output = self.stagger.step(self.scheduler, inner, *args, **kwargs)
        following = self.first + self.stagger.done
        level = self.whole[following : following + 1]
        known = self._noised(level) if len(level) else self.known
        latents = torch.where(inside, output[0], known.to(output[0].dtype))
        if isinstance(output, tuple):
            return (latents, *output[1:])
        output.prev_sample = latents
        return output

    def _noised(self, level: torch.Tensor) -> torch.Tensor:
        """Return the known latents at a noise level (a timestep of the schedule)."""
        if self.scheduler.config.get("invert_sigmas"):  # a sigma is the share of the image, and not of the noise
            return self.scheduler.scale_noise(self.noise, level, self.known)
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(self.known, level, self.noise)
        return self.scheduler.add_noise(self.known, self.noise, level)


def _encode(pipe: DiffusionPipeline, images: Sequence[Image.Image], layout: Layout) -> torch.Tensor:
    """Encode images to latents (N, C, h, w), scaled as the pipeline's decoding expects them."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    with as_it_was(pipe):
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.get("force_upcast"):  # it overflows; diffusers does so
            pipe.vae.to(torch.float32)
        # Some classes replace the method by one for images to edit.
        pixels = VaeImageProcessor.preprocess(pipe.image_processor, list(images))
        pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)
        return layout.encode(pipe, pixels)
