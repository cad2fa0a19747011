"""Masks from models of the SAM family: ``.pth`` files of segment-anything, and transformers folders.

One adapter runs all models of transformers' ``AutoModelForMaskGeneration``: SAM, SAM-HQ, SAM 2, EdgeTAM and the tracker
of SAM 3. The weights of a ``.pth`` file are renamed for transformers' SAM, so the package segment-anything is not
needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoImageProcessor, AutoModelForMaskGeneration, SamConfig, SamImageProcessor, SamModel

from refiner.detectors.base import check_complete, chunks, load_folder, no_progress_bars, placement
from refiner.detectors.grounding.base import Grounder, Prompt, Segment, thickened, to_segment
from refiner.detectors.legion.conversion import rename_key, sam_config
from refiner.errors import BadAnswerError, ModelNotFoundError, WeightsError
from refiner.hub import resolve
from refiner.types import Mask, Size

CHUNK = 32
"""Number of things in one call of the mask decoder."""
KEPT = 8
"""Number of images whose embeddings are kept."""
_THINNEST = 64
"""Largest ratio of an image's sides that needs no padding."""

MODEL_TYPES: Mapping[str, str] = {
    "sam": "sam",
    "sam_hq": "sam",
    "sam2": "sam2",
    "sam2_video": "sam2",
    "edgetam": "sam2",
    "edgetam_video": "sam2",
    "sam3_tracker": "sam3",
    "sam3_video": "sam3",
}
"""``model_type`` in a folder's ``config.json`` -> family."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """The encoded image, and how it is placed in the model's input."""

    embeddings: dict[str, Any]
    """Keyword arguments of the model's forward pass."""
    canvas: tuple[int, int] | None
    """Height and width of the model's input if the image fills only a part of it, else None."""
    filled: tuple[int, int]
    """Height and width of the part of the model's input that the image fills, from the upper left."""
    size: Size
    """Size of the image; for thin images, the size after padding."""


class SamGrounder(Grounder):
    """A grounder with SAM or one of its successors.

    Each image is encoded once for all its things. The embeddings of the last ``KEPT`` images are kept.

    The decoder's mask with the highest predicted IoU is used. It is resized to the image; pixels with a logit above 0
    inside the slightly grown box are the mask.

    Args:
        model: a model with ``get_image_embeddings``, in eval mode.
        processor: of the model.
        name: id and revision.
    """

    def __init__(self, model: Any, processor: Any, *, name: str) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self._views: LRUCache[str, _View] = LRUCache(KEPT)
        self._lock = Lock()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        family: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> SamGrounder:
        """Load a ``.pth`` file, a folder or a hub id.

        Args:
            path: a state dict of segment-anything (``sam_vit_b_01ec64.pth`` and so on; the model's size is read from
                the shapes), a transformers folder, or a hub id with an optional ``@revision``.
            family: "sam", "sam2" or "sam3" to refuse models of another family; None accepts all.
            device, dtype: as for ``load_detector``.

        Raises:
            ModelNotFoundError: there is no such file, folder or hub model.
            WeightsError: the model is damaged, incomplete or of another kind.
        """
        place, wanted = placement(device, dtype)
        if Path(path).suffix in (".pth", ".pt"):
            model, processor, kind = *_load_file(Path(path).expanduser(), wanted), "sam"
        else:
            folder = resolve(path, "detector")
            model, processor, kind = load_folder(
                folder, AutoModelForMaskGeneration, AutoImageProcessor, MODEL_TYPES, wanted
            )
        found = MODEL_TYPES[kind]
        if family not in (None, found):
            raise WeightsError(
                f"Expected a model of the {family} family in {str(path)!r}, got one of {found}: write {found}:<path>."
            )
        return cls(model.to(place), processor, name=f"{found}:{Path(path).name}")

    def to(self, device: str | torch.device) -> SamGrounder:
        """Move the network; the kept embeddings are dropped."""
        with self._lock:
            self.model.to(device)
            self._views.clear()
        return self

    @torch.inference_mode()
    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        with self._lock:
            view = self._look(image)
            drawn: dict[Prompt, Segment] = {}
            for chunk in _by_kind(prompts):
                masks, scores = self._decode(view, chunk)
                patches = _patches(masks, view, chunk)
                for prompt, patch, score in zip(chunk, patches, scores, strict=True):
                    drawn[prompt] = to_segment(prompt, patch, score, "model")
        return [drawn[prompt] for prompt in prompts]

    def _look(self, image: Image.Image) -> _View:
        key = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        if key not in self._views:
            self._views[key] = self._encode(thickened(image, _THINNEST))
        return self._views[key]

    def _encode(self, image: Image.Image) -> _View:
        inputs = self.processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        found = self.model.get_image_embeddings(pixels)
        self.encoded += 1
        embeddings = {"image_embeddings": found}
        if isinstance(found, tuple):  # SAM-HQ's decoder also reads the encoder's inner layers
            embeddings = dict(zip(("image_embeddings", "intermediate_embeddings"), found, strict=True))
        height, width = pixels.shape[-2:]
        padded = "reshaped_input_sizes" in inputs
        filled = inputs["reshaped_input_sizes"][0].tolist() if padded else (height, width)
        return _View(
            embeddings=embeddings,
            canvas=(height, width) if padded else None,
            filled=(filled[0], filled[1]),
            size=Size(image.height, image.width),
        )

    def _decode(self, view: _View, prompts: Sequence[Prompt]) -> tuple[Tensor, list[float]]:
        """Return the best mask of each prompt as logits (N, h, w) over the model's canvas, and its predicted IoU."""
        output = self.model(**view.embeddings, **self._asked(view, prompts), multimask_output=True)
        masks, scores = output.pred_masks[0].float(), output.iou_scores[0].float()
        if not (torch.isfinite(masks).all() and torch.isfinite(scores).all()):
            raise BadAnswerError(
                f"{self.name} returned NaN or infinite masks or scores: check its weights, or load it in float32."
            )
        best = scores.argmax(1)
        rows = torch.arange(len(best), device=best.device)
        return masks[rows, best], scores[rows, best].clamp(0, 1).tolist()

    def _asked(self, view: _View, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        down, right = view.filled[0] / view.size.height, view.filled[1] / view.size.width
        asked: dict[str, Tensor] = {}
        if prompts[0].box is not None:
            boxes = torch.tensor([prompt.box for prompt in prompts], dtype=torch.float32)
            asked["input_boxes"] = boxes * torch.tensor([right, down, right, down])
        if prompts[0].points:
            points = torch.tensor([[point[:2] for point in prompt.points] for prompt in prompts], dtype=torch.float32)
            asked["input_points"] = points * torch.tensor([right, down])
            asked["input_labels"] = torch.tensor([[int(point[2]) for point in prompt.points] for prompt in prompts])
        return {key: value[None].to(self.model.device) for key, value in asked.items()}


def _by_kind(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Group prompts that need no padding: all or none have a box, and all have equally many points."""
    groups: dict[tuple[bool, int], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.box is None, len(prompt.points)), []).append(prompt)
    for group in groups.values():
        yield from chunks(group, CHUNK)


def _patches(masks: Tensor, view: _View, prompts: Sequence[Prompt]) -> Iterator[Mask]:
    """Convert the decoder's logits (N, h, w) to bool masks of the prompts' windows in the image."""
    rows, columns = (_resampling(masks.shape[1 + axis], view, axis).to(masks.device) for axis in (0, 1))
    for logits, prompt in zip(masks, prompts, strict=True):
        x0, y0, x1, y1 = prompt.window
        yield (rows[y0:y1] @ logits @ columns[x0:x1].T > 0).cpu().numpy()


def _resampling(side: int, view: _View, axis: int) -> Tensor:
    """Make the matrix of bilinear resampling along one axis, from the ``side`` pixels of a mask to those of the image.

    If the image fills only a part of the canvas, the mask is first resized to the canvas and cropped to that part.
    """
    basis = torch.eye(side)[None]
    if view.canvas is not None:
        basis = interpolate(basis, view.canvas[axis], mode="linear", align_corners=False)[..., : view.filled[axis]]
    return interpolate(basis, view.size[axis], mode="linear", align_corners=False)[0].T


def _load_file(path: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """Load a state dict of segment-anything as transformers' model and processor."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no weight file {str(path)!r} of segment-anything: check the path.")
    try:
        original = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"The weight file {str(path)!r} cannot be read ({type(error).__name__}): download it again."
        ) from error
    try:
        renamed = ((rename_key(f"model.grounding_encoder.{key}"), tensor) for key, tensor in original.items())
        state = {key: tensor for key, tensor in renamed if key}
        shared = state["sam.prompt_encoder.shared_embedding.positional_embedding"]
        state["sam.shared_image_embedding.positional_embedding"] = shared
        config = SamConfig(**sam_config(state))
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"Expected the weights of segment-anything's SAM in {str(path)!r}, got those of another model ({error!r}): "
            "choose a sam_vit_*.pth file."
        ) from error
    named = {key.removeprefix("sam."): tensor for key, tensor in state.items()}
    with no_progress_bars():
        model, info = SamModel.from_pretrained(
            None, config=config, state_dict=named, dtype=dtype or shared.dtype, output_loading_info=True
        )
    check_complete(path, info)
    side = config.vision_config.image_size
    return model, SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side})
