"""The edit models of diffusers: they change a given image as an instruction says. A new one is a row of ``EDITORS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refiner.errors import ConfigError
from refiner.pipelines.config import RefineConfig


@dataclass(frozen=True, kw_only=True)
class Editor:
    """How the call of an edit model is made."""

    masked: bool = False
    """Whether the call also takes a mask; then it is called as other inpainting classes are."""
    image: str = "image"
    """The argument that takes the image to edit."""
    batched: bool = False
    """Whether one call edits several images, each by an instruction of its own."""
    listed: bool = False
    """Whether the image to edit must be in a list even if the call edits only one."""
    form: str = "{}"
    """The prompt, with ``{}`` in place of the instruction."""
    reads: int | None = None
    """Most tokens of a prompt, if the call fails with more; None: longer prompts are cut by the pipeline."""
    multiple: int = 16
    """Heights and widths are multiples of this many pixels."""
    native: int = 1024
    """Side of the square images that suit the model, in pixels."""
    fixed: Callable[[int, int], Mapping[str, Any]] = lambda _height, _width: {}
    """Maps height and width, in pixels, to arguments that keep the call from resizing its images."""

    @property
    def set(self) -> frozenset[str]:
        """The arguments that refiner sets, so that the user cannot."""
        return frozenset({self.image, *self.fixed(1, 1)})


def size_as_asked(height: int, width: int) -> Mapping[str, Any]:
    """The arguments that keep FLUX Kontext from choosing another size."""
    return {"max_area": height * width, "_auto_resize": False}


EDITORS: Mapping[str, Editor] = {
    "QwenImageEditPipeline": Editor(multiple=32, batched=True),
    "QwenImageEditPlusPipeline": Editor(multiple=32),
    "QwenImageEditInpaintPipeline": Editor(multiple=32, masked=True),
    "FluxKontextPipeline": Editor(batched=True, fixed=size_as_asked),
    "FluxKontextInpaintPipeline": Editor(masked=True),
    "Flux2Pipeline": Editor(),
    "Flux2KleinPipeline": Editor(),
    # Its call shrinks images that are larger than about a million pixels, and fails with more than 512 tokens.
    "LongCatImageEditPipeline": Editor(reads=512),
    # It encodes the image with torch's global random numbers, so that each image needs a call of its own.
    "OmniGenPipeline": Editor(image="input_images", listed=True, form="<img><|image_1|></img> {}"),
}
"""Edit models by the name of a class in diffusers; a subclass is called as its nearest ancestor is.

The classes of FLUX.2 also generate images from text. As ``inpainter=`` they edit, with the crop as
reference image.
"""


def editor_of(pipe: object) -> Editor | None:
    """Return how a pipeline, or a class of pipelines, edits images; None if it does not.

    An edit model that is no pipeline says it in its attribute ``editor``.
    """
    own = getattr(pipe, "editor", None)
    if isinstance(own, Editor):
        return own
    cls = pipe if isinstance(pipe, type) else type(pipe)
    return next((EDITORS[each.__name__] for each in cls.__mro__ if each.__name__ in EDITORS), None)


def edits(pipe: object) -> bool:
    """Whether a pipeline edits images without a mask."""
    editor = editor_of(pipe)
    return editor is not None and not editor.masked


def check_editor(editor: object, inpainter: object) -> None:
    """Check what is passed as ``editor=`` beside an ``inpainter=``; None: there is none.

    Raises:
        ConfigError: it is no edit model, or the inpainter is one, too.
    """
    if editor is None:
        return
    if editor_of(editor) is None:
        raise ConfigError(
            f"Expected an edit model as editor=, got {type(editor).__name__}: pass one of {', '.join(EDITORS)}, or the "
            "id of a hosted one."
        )
    if editor_of(inpainter) is not None:
        raise ConfigError(
            f"{type(inpainter).__name__} as inpainter= is an edit model, as is {type(editor).__name__} as editor=: "
            "pass only one of them."
        )


_OF_NOISE = ("strengths", "severity_strength", "area_strength", "soft_edge")
"""Settings that say how much noise an inpainting model adds to a region."""


def check_settings(inpainter: object, config: RefineConfig) -> None:
    """Refuse settings that an edit model without a mask has no use for.

    Raises:
        ConfigError: one of them differs from its default.
    """
    usual = RefineConfig()
    changed = next((name for name in _OF_NOISE if getattr(config, name) != getattr(usual, name)), None)
    if changed is not None and edits(inpainter):
        raise ConfigError(
            f"{changed} has no effect with {type(inpainter).__name__}, which edits a region by an instruction and adds "
            "no noise to the image: leave it out."
        )
