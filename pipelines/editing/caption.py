"""A stand-in for an edit model: an image-to-image pipeline that is told what the edited image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from refiner.pipelines.editing.editors import Editor
from refiner.pipelines.editing.instructions import shown_in
from refiner.pipelines.painting.families import native_side

STRENGTH = 0.7
"""Share of the noise schedule that is run; the rest is the given image (SDEdit, Meng et al. 2021)."""


class CaptionEditPipeline(StableDiffusionImg2ImgPipeline):
    """Edits images with the weights of a text-to-image pipeline, by the part of an instruction that says what to show.

    It is for models that know captions alone, such as those of the micro world.
    """

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline) -> CaptionEditPipeline:
        """Make one of a text-to-image pipeline; the weights are shared."""
        made = cls(**pipe.components, requires_safety_checker=False)
        made.scheduler = pipe.scheduler  # constructors of pipelines replace schedulers with an outdated config
        made.editor = Editor(batched=True, multiple=8, native=native_side(pipe))
        made.set_progress_bar_config(disable=True)
        return made

    def __call__(
        self,
        prompt: Sequence[str],
        image: Sequence[Any],
        negative_prompt: Sequence[str] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: Any = None,
        output_type: str = "np",
        callback_on_step_end: Any = None,
    ) -> Any:
        """Edit images of one size; see the call of ``StableDiffusionImg2ImgPipeline``."""
        return super().__call__(
            prompt=[shown_in(text) for text in prompt], image=list(image), strength=STRENGTH,
            negative_prompt=None if negative_prompt is None else list(negative_prompt),
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, generator=generator,
            output_type=output_type, callback_on_step_end=callback_on_step_end,
        )  # fmt: skip
