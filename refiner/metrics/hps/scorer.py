"""HPS v2: how well an image fits a prompt, by a CLIP trained on human preferences (Wu et al., arXiv 2306.09341).

The score is the cosine of the features of image and prompt, about 0.1 to 0.4 for the published weights; published
tables show it times 100. Scores are comparable for images of one prompt and one version (2.0 or 2.1). open_clip reads
prompts and weights. The preprocessing is our own, because HPS resizes float tensors and open_clip 8-bit images.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as transforms

from refiner.errors import ConfigError, InputError, ModelError, RefinerError
from refiner.images import Source
from refiner.machine import device_of
from refiner.metrics.hps import weights as hps_weights
from refiner.metrics.hps.inputs import READING, check_prompt, describe, paired, read
from refiner.metrics.hps.texts import Captions
from refiner.metrics.hps.weights import CONFIG_FILE, PUBLISHED_FILES, WEIGHTS_FILE, Version

__all__ = ["CONFIG_FILE", "MEAN", "PUBLISHED_FILES", "STD", "WEIGHTS_FILE", "HPSScorer", "Scored", "preprocess"]

Mode = Literal["fp32", "compat"]
Backend = Literal["open_clip", "hpsv2"]
Transform = Callable[[Image.Image], Tensor]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Scored(NamedTuple):
    """The outcome for one image."""

    score: float | None
    """Cosine in [-1, 1], a float32; None if there is an error."""
    error: RefinerError | None = None
    """InputError: an image or prompt that cannot be used; ModelError: the network returned no finite score."""
    notes: tuple[str, ...] = ()
    """What was changed to make the image or prompt usable, in words."""


class _Ready(NamedTuple):
    """An image ready for the network, or its error."""

    called: str
    prompt: str
    pixels: Tensor | None = None
    """float32 (3, size, size)."""
    error: RefinerError | None = None
    notes: tuple[str, ...] = ()


def preprocess(image: Image.Image, size: int, *, antialias: bool = True) -> Tensor:
    """The preprocessing of HPS: to a tensor, longest side to ``size`` (bicubic), zero padding, normalisation.

    Departs from the reference in two places where that one crashes: each mode becomes RGB first, and an image whose
    longest side already has the right length is still padded to a square.

    Args:
        image: any size and mode.
        size: side of the model's input, in pixels.
        antialias: of the resize. On with torchvision from 0.17, off before (as in LEGION's set-up). Scores of the two
            are not comparable.

    Returns:
        float32 (3, size, size); not clamped after the resize.
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
    """Scores images against prompts; a ``refiner.protocols.Judge``. See ``from_pretrained`` for other arguments.

    Args:
        model: open_clip's CLIP; it is set to evaluation.
        tokenizer: the open_clip tokenizer of the model.
        config: open_clip's ``model_cfg`` of the model.
        name: id and revision.
        version: the published version of the weights, or "own".
        backend: the origin of network, tokenizer and ``transform``; named in the signature.
        transform: RGB image to float32 (3, size, size); None means ``preprocess``.
    """

    def __init__(
        self,
        *,
        model: open_clip.CLIP,
        tokenizer: Any,
        config: dict[str, Any],
        name: str,
        version: str = "own",
        antialias: bool = True,
        batch_size: int = 16,
        mode: Mode = "fp32",
        workers: int | None = None,
        backend: Backend = "open_clip",
        transform: Transform | None = None,
    ) -> None:
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, config
        self.antialias, self.batch_size, self.mode, self.workers = antialias, batch_size, mode, workers
        self._name, self._version, self._backend = name, version, backend
        size = config["vision_cfg"]["image_size"]
        self._transform = transform or partial(preprocess, size=size, antialias=antialias)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        version: Version = "v2.1",
        device: str | torch.device | None = None,
        antialias: bool = True,
        batch_size: int = 16,
        mode: Mode = "fp32",
        workers: int | None = None,
        backend: Backend = "open_clip",
    ) -> HPSScorer:
        """Load weights once, in float32.

        Args:
            model: ``micro``, ``micro:hps``, hub id (``xswu/HPSv2`` has the published weights), published ``.pt``
                file, or folder with either a published file, open_clip's ``open_clip_config.json`` and
                ``open_clip_model.safetensors``, or transformers' ``CLIPModel`` (as ``adams-story/HPSv2-hf``).
            version: of the published weights; folders in the other formats have only one.
            device: None means CUDA or MPS if there is one.
            antialias: of the resize, see ``preprocess``.
            batch_size: images per forward pass; it does not change the scores.
            mode: ``fp32`` computes in float32. ``compat`` rounds like the reference on a GPU: float16 autocast in the
                towers on CUDA, and a float16 product on each device, in steps of 2**-12 from 0.25 to 0.5.
            workers: threads that read and resize images while the network runs. None means 0 on a CPU, which the
                network uses fully, and up to 8 with a GPU.
            backend: ``hpsv2`` uses network, tokenizer and preprocessing of that package, if it is installed.

        Raises:
            ModelNotFoundError: there is no such model.
            WeightsError: the weights are missing, damaged or of another kind.
            ConfigError: an option out of its range, or a backend that is not installed or does not work.
        """
        for name, value, kind in (("version", version, Version), ("mode", mode, Mode), ("backend", backend, Backend)):
            if value not in get_args(kind):
                known = " or ".join(map(repr, get_args(kind)))
                raise ConfigError(f"Expected {name} {known}, got {value!r}: name one of these.")
        if batch_size < 1:
            raise ConfigError(f"Expected a batch_size of at least 1, got {batch_size}: name a larger one.")
        if workers is not None and workers < 0:
            raise ConfigError(f"Expected workers of at least 0, got {workers}: name 0 for none.")
        checkpoint = hps_weights.find(model, version)
        transform: Transform | None = None
        if backend == "hpsv2":
            from refiner.metrics.hps import package as hps_package

            clip, tokenizer, transform = hps_package.load(checkpoint, antialias=antialias)
        else:
            clip, tokenizer = hps_weights.load(checkpoint), hps_weights.tokenizer_of(checkpoint)
        return cls(
            model=clip.to(device or device_of(None)),
            tokenizer=tokenizer,
            config=checkpoint.config,
            name=checkpoint.name,
            version=checkpoint.version,
            antialias=antialias,
            batch_size=batch_size,
            mode=mode,
            workers=workers,
            backend=backend,
            transform=transform,
        )

    @property
    def name(self) -> str:
        """Id and revision, and each setting that is not the default."""
        odd = {
            self._version: self._version != "own",
            "antialias=off": not self.antialias,
            "mode=compat": self.mode == "compat",
            "backend=hpsv2": self._backend == "hpsv2",
        }
        return " ".join([self._name, *(word for word, true in odd.items() if true)])

    @property
    def signature(self) -> str:
        """All that the scores depend on; scores are comparable only with equal signatures.

        ``reading`` names where images are read in another way than by the authors' code.
        """
        facts = {
            "version": self._version,
            "model": self._name,
            "backend": self._backend,
            "mode": self.mode,
            "antialias": "on" if self.antialias else "off",
            "size": self.config["vision_cfg"]["image_size"],
            "reading": READING,
            "score": "cosine",
        }
        return "|".join(["hps", *(f"{name}:{value}" for name, value in facts.items())])

    def to(self, device: str | torch.device) -> HPSScorer:
        """Move the network."""
        self.model.to(device)
        return self

    def score(self, images: Iterable[Source], prompts: Iterable[str] | str) -> list[float]:
        """Cosine of each image with its prompt, in [-1, 1], float32 values; higher is better.

        Args:
            images: paths, Pillow images, arrays or tensors, as for ``refiner.load_image``. An iterator is read step
                by step, and its images are not kept.
            prompts: one for each image, or one for all. Each distinct prompt among the last 4,096 is encoded once.

        Raises:
            ConfigError: not as many prompts as images.
            InputError: the first image or prompt that cannot be used; ``stream`` continues after such.
            ModelError: the network returned no finite score.
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            raise ConfigError(f"Expected a list of images, got just {describe(images, 0)}: put it into a list.")
        counts = [len(given) for given in (images, prompts) if isinstance(given, Sized)]
        if not isinstance(prompts, str) and len(set(counts)) == 2:
            raise ConfigError(
                f"Expected one prompt for each of {counts[0]} images, got {counts[1]} prompts: pass as many."
            )
        scores = []
        with closing(self.stream(images, prompts)) as outcomes:
            for outcome in outcomes:
                if outcome.score is None:
                    assert outcome.error is not None
                    raise outcome.error
                scores.append(outcome.score)
        return scores

    def stream(self, images: Iterable[Source], prompts: Iterable[str] | str) -> Generator[Scored, None, None]:
        """Like ``score``, but returns one outcome for each image, in order, and continues after errors.

        At most a few batches of images are in memory at a time.

        Raises:
            ConfigError: not as many prompts as images.
        """
        texts = Captions(self.model, self.tokenizer, self._precision())
        ready = self._prepared(paired(images, prompts))
        before: Iterable[Scored] = ()
        while batch := list(itertools.islice(ready, self.batch_size)):
            launched = self._launch(batch, texts)  # before waiting for the earlier results, so that a GPU never idles
            yield from before
            before = launched
        yield from before

    def _prepared(self, pairs: Iterator[tuple[Source, str]]) -> Iterator[_Ready]:
        """Images ready for the network, in order; read ahead by threads if there are any."""
        numbered = enumerate(pairs)
        workers = self.workers
        if workers is None:
            workers = min(8, os.cpu_count() or 1) if self._device.type == "cuda" else 0
        if not workers:
            yield from (self._prepare(number, *pair) for number, pair in numbered)
            return
        threads, waiting = torch.get_num_threads(), deque[Future[_Ready]]()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for number, pair in numbered:
                    waiting.append(pool.submit(self._prepare, number, *pair))
                    if len(waiting) >= 2 * self.batch_size:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device

    def _prepare(self, number: int, source: Source, prompt: str) -> _Ready:
        called = describe(source, number)
        try:
            check_prompt(prompt, called)
            image, notes = read(source)
            return _Ready(called, prompt, self._transform(image), notes=notes)
        except InputError as error:
            message = str(error) if called in str(error) else f"{called}: {error}"
            return _Ready(called, prompt, error=InputError(message))  # a raised error would keep the image in memory

    @torch.inference_mode()
    def _launch(self, batch: Sequence[_Ready], texts: Captions) -> Iterator[Scored]:
        """Start a batch on its device; only the returned iterator waits for it."""
        usable = [item for item in batch if item.pixels is not None]
        if not usable:
            return (Scored(None, item.error) for item in batch)
        captions = texts.of([item.prompt for item in usable])
        pixels = torch.stack([item.pixels for item in usable if item.pixels is not None])
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        with self._precision():
            features = self.model.encode_image(pixels, normalize=True)
        cosines = _cosines(features, torch.stack([caption.features for caption in captions]), self.mode)
        return _outcomes(
            [item._replace(pixels=None) for item in batch], cosines, [caption.notes for caption in captions]
        )

    def _precision(self) -> AbstractContextManager[Any]:
        if self.mode == "compat" and self._device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.float16)
        return nullcontext()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder in open_clip's format: config, weights (float16, buffers float32) and tokenizer files.

        Tokenizer files are written only if the model has its own; CLIP's comes with open_clip.
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


def _cosines(pictures: Tensor, texts: Tensor, mode: Mode) -> Tensor:
    """One cosine for each row, float32 (n,); in ``compat`` the product of float16 features, rounded to float16."""
    if mode == "fp32":
        return (pictures.float() * texts.float()).sum(1)
    return (pictures.half().float() * texts.half().float()).sum(1).half().float()


def _outcomes(batch: Sequence[_Ready], cosines: Tensor, notes: Sequence[tuple[str, ...]]) -> Iterator[Scored]:
    found = zip(cosines.tolist(), notes, strict=True)
    for item in batch:
        if item.error:
            yield Scored(None, item.error)
            continue
        score, note = next(found)
        if math.isfinite(score):
            yield Scored(score, notes=item.notes + note)
        else:
            message = f"The network returned no finite score for {item.called} ({score}): check the weights."
            yield Scored(None, ModelError(message))
