"""HPS v2: how well a picture fits a prompt, by a CLIP trained on human preferences (Wu et al., arXiv 2306.09341).

The score is the cosine between the picture's and the prompt's features, about 0.1 to 0.4 for the published weights;
published tables show it times 100. Scores compare pictures of one prompt; those of versions 2.0 and 2.1 do not compare.
Prompts and weights go through open_clip. The preprocessing is our own, because HPS resizes float tensors where
open_clip resizes 8-bit pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from refiner.errors import ConfigError, WeightsError
from refiner.hub import checksum, read_card, resolve, verify

Version = Literal["v2.0", "v2.1"]

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
PUBLISHED_FILES: dict[str, str] = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
"""Weights of the published versions: pickled dictionaries with the weights under ``state_dict``."""
ARCHITECTURE = "ViT-H-14"
"""What the published weights fit; a folder with an open_clip config names its own."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(image: Image.Image, size: int, *, antialias: bool = True) -> Tensor:
    """A picture as HPS sees it: to a tensor, longest side to ``size`` (bicubic), zero padding, normalisation.

    Departs from the reference in two places where that one crashes: every mode becomes RGB first, and a picture whose
    longest side has the right length already is still padded to a square.

    Args:
        image: any size and mode.
        size: side of the model's input, in pixels.
        antialias: of the resize. On with torchvision from 0.17, off before (as in LEGION's set-up); never compare
            scores across the two.

    Returns:
        float32 (3, size, size); not clamped, so that the resize may overshoot.
    """
    tensor = transforms.to_tensor(image.convert("RGB"))
    height, width = tensor.shape[1:]
    if max(height, width) != size:
        scale = size / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        bicubic = transforms.InterpolationMode.BICUBIC
        tensor = transforms.resize(tensor, [height, width], interpolation=bicubic, antialias=antialias)
    left, top = (size - width) // 2, (size - height) // 2
    padded = functional.pad(tensor, (left, size - width - left, top, size - height - top))
    return transforms.normalize(padded, list(MEAN), list(STD))


class HPSScorer:
    """Scores pictures against prompts; a ``refiner.protocols.Judge``.

    Args:
        model: open_clip's CLIP; it is set to evaluation.
        tokenizer: open_clip tokenizer that fits it.
        config: open_clip's ``model_cfg`` of the model.
        name: id and revision.
        antialias: see ``preprocess``.
        batch_size: pictures per forward pass; it does not change the scores.
    """

    def __init__(
        self,
        *,
        model: open_clip.CLIP,
        tokenizer: Any,
        config: dict[str, Any],
        name: str,
        antialias: bool = True,
        batch_size: int = 16,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.antialias = antialias
        self.batch_size = batch_size
        self._name = name

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        version: Version = "v2.1",
        device: str | torch.device | None = None,
        antialias: bool = True,
        batch_size: int = 16,
    ) -> HPSScorer:
        """Load weights, in float32.

        Args:
            model: ``micro``, ``micro:hps``, hub id, published ``.pt`` file, or folder with either a published file or
                open_clip's ``open_clip_config.json`` and ``open_clip_model.safetensors``.
            version: which of the published weights; a folder in open_clip's format has but one.
            device: None means CUDA where there is one.
            antialias: of the resize, see ``preprocess``.
            batch_size: pictures per forward pass.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: the weights are missing, damaged or of another kind.
        """
        if version not in get_args(Version):
            raise ConfigError(f"Expected version 'v2.0' or 'v2.1', got {version!r}: name one of these.")
        if batch_size < 1:
            raise ConfigError(f"Expected a batch_size of at least 1, got {batch_size}: name a larger one.")
        path = Path(model) if Path(model).is_file() else resolve(model, "judge")
        folder = path if path.is_dir() else path.parent
        weights = _weights_file(path, version)
        config = _read_config(folder)
        clip = _build(config, folder)
        _load(clip, weights)
        clip.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        name = _name_of(str(model), weights, version) + ("" if antialias else " antialias=off")
        tokenizer = _tokenizer(folder)
        return cls(
            model=clip, tokenizer=tokenizer, config=config, name=name, antialias=antialias, batch_size=batch_size
        )

    @property
    def name(self) -> str:
        """Id and revision."""
        return self._name

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Cosine of each picture with its prompt, in [-1, 1]; higher is better.

        Args:
            images: of any size and mode.
            prompts: one for each image; each different one is encoded once.
        """
        if len(images) != len(prompts):
            raise ConfigError(f"Expected one prompt for each of {len(images)} images, got {len(prompts)} prompts.")
        if not images:
            return []
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts])
        texts = torch.cat([self._encode_texts(unique[at : at + self.batch_size]) for at in self._starts(unique)])
        pictures = torch.cat([self._encode_images(images[at : at + self.batch_size]) for at in self._starts(images)])
        scores: list[float] = (pictures * texts[rows]).sum(1).tolist()
        return scores

    def _starts(self, items: Sequence[Any]) -> range:
        return range(0, len(items), self.batch_size)

    @torch.inference_mode()
    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(list(texts)).to(self.model.logit_scale.device)
        return self.model.encode_text(tokens, normalize=True).float().cpu()

    @torch.inference_mode()
    def _encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        size = self.config["vision_cfg"]["image_size"]
        pixels = torch.stack([preprocess(image, size, antialias=self.antialias) for image in images])
        return self.model.encode_image(pixels.to(self.model.logit_scale.device), normalize=True).float().cpu()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder in open_clip's format: config, weights (float16, statistics float32) and tokenizer files.

        The tokenizer's files are written only where the model has its own; CLIP's comes with open_clip.
        """
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        cfg = {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "longest"}
        body = {"model_cfg": self.config, "preprocess_cfg": cfg}
        (root / CONFIG_FILE).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        statistics = dict(self.model.named_buffers())
        state = {
            name: (tensor if name in statistics else tensor.half()).contiguous().cpu()
            for name, tensor in self.model.state_dict().items()
        }
        save_file(state, root / WEIGHTS_FILE, metadata={"format": "pt"})
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(root)


def _weights_file(path: Path, version: Version) -> Path:
    if path.is_file():
        return path
    names = [WEIGHTS_FILE, PUBLISHED_FILES[version]]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise WeightsError(
        f"Expected HPS weights ({' or '.join(names)}) in {str(path)!r}, got neither: fetch the folder again."
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        config: dict[str, Any] = open_clip.get_model_config(ARCHITECTURE)
        config["vision_cfg"].setdefault("image_size", 224)
        return config
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        config["vision_cfg"].setdefault("image_size", 224)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"Expected an open_clip config in {str(path)!r}, got {error!r}: fetch it again.") from error
    return config


def _build(config: dict[str, Any], folder: Path) -> open_clip.CLIP:
    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    try:
        return open_clip.CLIP(**{name: config[name] for name in names if name in config})
    except Exception as error:  # open_clip does not check what a config asks for
        raise WeightsError(
            f"Expected the config of a CLIP in {str(folder / CONFIG_FILE)!r}, got one that fails with {error!r}: "
            "fetch it again."
        ) from error


def _tokenizer(folder: Path) -> Any:
    own = (folder / CONFIG_FILE).is_file()
    try:
        return open_clip.get_tokenizer(f"local-dir:{folder}" if own else ARCHITECTURE)
    except Exception as error:  # whatever transformers makes of damaged tokenizer files
        raise WeightsError(
            f"Expected a tokenizer in {str(folder)!r}, got one that fails with {error!r}: fetch the folder again."
        ) from error


def _load(model: open_clip.CLIP, weights: Path) -> None:
    if weights.name == WEIGHTS_FILE:
        verify(weights.parent)
        state = load_file(weights)
    else:
        state = _read_pickle(weights)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"Expected weights of the CLIP that the config describes, got others in {str(weights)!r}: "
            "fetch the folder again."
        ) from error


def _read_pickle(weights: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # unpickling damaged bytes may raise anything
        raise WeightsError(
            f"Expected a checkpoint with a 'state_dict' of tensors, got {str(weights)!r}, which fails with "
            f"{type(error).__name__}: fetch it again."
        ) from error
    return state


def _name_of(model: str, weights: Path, version: Version) -> str:
    if (weights.parent / "card.json").is_file():
        return read_card(weights.parent).name
    digest = checksum(weights)[:12]
    return f"hps:{Path(model).name}@{digest}" + (f" {version}" if weights.name in PUBLISHED_FILES.values() else "")
