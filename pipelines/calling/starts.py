"""The start images of a call: made by one call of the wrapped pipeline, with the arguments that the user passed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from refiner.errors import BadImageError
from refiner.pipelines.calling.request import Request
from refiner.pipelines.calling.seeding import Seeding, default_generator
from refiner.pipelines.painting.arguments import Kind, kind_of, of_image, one_list_each
from refiner.pipelines.painting.families import family_of
from refiner.pipelines.painting.painter import DiffusersPainter
from refiner.pipelines.parts import DROPPED, Start

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One call of the wrapped pipeline, for one image or several."""

    arguments: Mapping[str, Any]
    """Arguments of the call, without the generator."""
    prompts: int
    """Number of prompts of the call."""
    count: int
    """Images for each prompt."""
    generators: tuple[torch.Generator, ...] = ()
    """One for each image, or a single one for all; empty: the default one."""
    seed: int | None = None
    """Seeds torch's global random numbers for the call, for models that use no generator; None: they are not seeded."""

    @property
    def total(self) -> int:
        return self.prompts * self.count

    def of_image(self, pipe: DiffusionPipeline, number: int) -> dict[str, Any]:
        """Select the arguments of one image."""
        chosen = of_image(pipe, self.arguments, prompt=number // self.count, prompts=self.prompts)
        return {name: value for name, value in chosen.items() if name not in ("prompt", "num_images_per_prompt")}


def batches_of(pipe: DiffusionPipeline, request: Request, seeding: Seeding, native: int | None) -> list[Batch]:
    """Split a call into calls of ``RefineConfig.batch_images`` images; without it, there is one."""
    arguments = dict(request.arguments)
    if native is not None and arguments.get("height") is None and arguments.get("width") is None:
        arguments |= {"height": native, "width": native}
    control = "control_image" in arguments and _control_name(pipe)
    if control:
        arguments[control] = arguments.pop("control_image")
    generators = () if seeding.default else seeding.generators
    seed = seeding.first[0] if seeding.ours else None
    whole = Batch(
        arguments=arguments, prompts=len(request.prompts), count=request.count, generators=generators, seed=seed
    )
    size = request.config.batch_images or request.total
    if size >= request.total:
        return [whole]
    return [_part(pipe, whole, range(start, min(start + size, whole.total))) for start in range(0, whole.total, size)]


def _control_name(pipe: DiffusionPipeline) -> str | None:
    return family_of(pipe).control


def _part(pipe: DiffusionPipeline, whole: Batch, numbers: range) -> Batch:
    """Build the call for some images of a call: one prompt, one row of embeddings, one row of latents for each."""
    generators = whole.generators if len(whole.generators) < 2 else whole.generators[numbers.start : numbers.stop]
    if family_of(pipe).single:
        arguments = {**whole.arguments, "num_images_per_prompt": len(numbers)}
        return replace(whole, arguments=arguments, count=len(numbers), generators=generators)
    picks = [number // whole.count for number in numbers]
    arguments = {
        name: value[numbers.start : numbers.stop]
        if name == "latents" and value is not None
        else _picked(kind_of(name, pipe), name, value, whole.prompts, picks)
        for name, value in whole.arguments.items()
        if name != "num_images_per_prompt"
    }
    return replace(whole, arguments=arguments, prompts=len(numbers), count=1, generators=generators)


def _picked(kind: Kind | None, name: str, value: Any, prompts: int, picks: list[int]) -> Any:
    """Select what an argument has for some prompts of a call, which may come several times."""
    listed = isinstance(value, list | tuple) and len(value) == prompts
    if name == "prompt":
        texts = [value] if isinstance(value, str) else value
        return [texts[pick] for pick in picks]
    if value is None:
        return None
    rows = kind == "row" and len(value) == prompts
    lists = kind == "images" and one_list_each(value, prompts)
    if (kind == "text" and listed) or rows or lists:
        return [value[pick] for pick in picks] if isinstance(value, list | tuple) else value[picks]
    if kind == "layers":
        return value[:, picks]
    return [value] * len(picks) if kind in ("text", "images") else value


def painted(
    painter: DiffusersPainter,
    pipe: DiffusionPipeline,
    batch: Batch,
    *,
    output_type: str = "np",
    interrupted: Callable[[], bool],
    record: bool = True,
) -> list[Start]:
    """Make the start images of a batch with one call.

    If the call fails and ``record`` is true, each image is tried by itself, with the random numbers as they were
    before. Only the images that fail again are missing.
    """
    generators = batch.generators or (default_generator(pipe),)
    before = [generator.get_state() for generator in generators]
    try:
        return _called(painter, batch, output_type, interrupted)
    except Exception as error:
        if interrupted():
            return [Start(error=BadImageError(DROPPED))] * batch.total
        if not record:
            raise
        if batch.total == 1:
            return [Start(error=error)]
    for generator, state in zip(generators, before, strict=True):
        generator.set_state(state)
    singly = [_part(pipe, batch, range(number, number + 1)) for number in range(batch.total)]
    again = partial(painted, painter, pipe, output_type=output_type, interrupted=interrupted)
    return [start for part in singly for start in again(part)]


def _called(painter: DiffusersPainter, batch: Batch, output_type: str, interrupted: Callable[[], bool]) -> list[Start]:
    began, before = time.monotonic(), painter.spent().denoiser_rows
    # Some pipelines change the lists that they are given.
    arguments = {name: list(value) if isinstance(value, list) else value for name, value in batch.arguments.items()}
    if batch.generators:
        arguments["generator"] = batch.generators[0] if len(batch.generators) == 1 else list(batch.generators)
    output = painter.call(arguments, output_type, seed=batch.seed)
    if interrupted():
        raise BadImageError(DROPPED)
    if len(output) != batch.total:
        raise BadImageError(f"The pipeline returned {len(output)} images instead of {batch.total}: check its call.")
    rows, seconds = painter.spent().denoiser_rows - before, time.monotonic() - began
    starts = []
    for number, pixels in enumerate(output):
        share = rows // batch.total + (number < rows % batch.total)
        starts.append(_start(painter, pixels, output_type)._replace(rows=share, seconds=seconds / batch.total))
    return starts


def _start(painter: DiffusersPainter, pixels: Any, output_type: str) -> Start:
    if output_type == "latent":
        return Start(pixels=pixels)
    try:
        return Start(image=painter.picture(pixels if output_type == "np" else _as_array(pixels)), pixels=pixels)
    except BadImageError as error:
        return Start(error=error)


def _as_array(pixels: Any) -> Any:
    """Convert a tensor (3, H, W) to an array (H, W, 3); everything else is returned unchanged."""
    if not hasattr(pixels, "permute") or pixels.ndim != 3:
        return pixels
    return np.asarray(pixels.detach().float().cpu().permute(1, 2, 0).numpy())
