"""The calls of edit models for crops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from refiner.errors import BadImageError
from refiner.pipelines.editing.editors import Editor, editor_of
from refiner.pipelines.editing.instructions import avoiding
from refiner.pipelines.editing.registration import registered
from refiner.pipelines.painting.arguments import embeddings_in, for_regions, is_open
from refiner.pipelines.painting.crops import Crop, Painted, Pixels
from refiner.pipelines.painting.families import takes, tokenizers_of, tokens_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EditCall = Callable[[Mapping[str, Any], Sequence[int]], Sequence[Pixels]]
"""Calls an edit model: its arguments, and a seed for each image -> float (H, W, 3) in [0, 1] for each image."""


def edited(pipe: DiffusionPipeline, crops: Sequence[Crop], options: Mapping[str, Any], call: EditCall) -> list[Painted]:
    """Edit crops of one size, each as its prompt says.

    Args:
        pipe: an edit model.
        crops: their prompts are instructions. Their masks only say what may change.
        options: further arguments of the call, for one image.
        call: calls the pipeline.

    Returns:
        For each crop the edited one, fitted to it: float (H, W, 3) in [0, 1]. An answer that does not show the crop is
        replaced by its error.

    Raises:
        BadImageError: the pipeline returned more or fewer images than it was given.
    """
    editor = editor_of(pipe)
    assert editor is not None
    painted: list[Painted] = []
    for batch in [list(crops)] if editor.batched else [[crop] for crop in crops]:
        answers = call(_request(pipe, editor, batch, options), [crop.seed for crop in batch])
        if len(answers) != len(batch):
            raise BadImageError(
                f"{type(pipe).__name__} returned {len(answers)} images for {len(batch)} crops: check the model."
            )
        painted += map(fitted, answers, batch)
    return painted


def fitted(answer: Pixels, crop: Crop) -> Painted:
    """Fit an answer, float (h, w, 3) in [0, 1], to its crop; an answer that does not show the crop gives its error."""
    try:
        return registered(answer, crop.image, crop.mask)
    except BadImageError as error:
        return error


def _request(
    pipe: DiffusionPipeline, editor: Editor, crops: Sequence[Crop], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the arguments of a call for crops of one size, without the generators of random numbers."""
    width, height = crops[0].image.size
    known = takes(pipe)
    texts = [
        crop.prompt if "negative_prompt" in known else avoiding(crop.prompt, crop.negative_prompt) for crop in crops
    ]
    texts = [_cut(pipe, editor.form.format(text), editor.reads) for text in texts]
    images, negatives = [crop.image for crop in crops], [crop.negative_prompt for crop in crops]
    request = {**for_regions(pipe, options, crops), "prompt": texts, editor.image: images}
    taken = embeddings_in(options, "negative_") is None
    if taken and (any(negatives) or options.get("negative_prompt") is not None):
        request["negative_prompt"] = negatives
    if not editor.batched:
        alone = {"prompt", "negative_prompt"} | (set() if editor.listed else {editor.image})
        request |= {name: value[0] for name, value in request.items() if name in alone}
    request |= {"height": height, "width": width, "output_type": "np", **editor.fixed(height, width)}
    return request if is_open(pipe) else {name: value for name, value in request.items() if name in known}


def _cut(pipe: DiffusionPipeline, text: str, most: int | None) -> str:
    """Leave out words at the end of a text that has more tokens than a pipeline reads."""
    words = text.split(" ")
    while most is not None and len(words) > 1 and tokens_of(tokenizers_of(pipe)[0], " ".join(words)) > most:
        words.pop()
    return " ".join(words)
