"""Losses of the micro judge: CLIP's, HPS v2's, and those of auxiliary heads for training from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.transforms.functional import normalize

from refiner.metrics.hps.scorer import MEAN, STD, HPSScorer
from refiner.micro.flaws import FLAWS
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import parse_caption
from refiner.training.preference.data import ATTRIBUTES
from refiner.training.preference.pool import Labels
from refiner.training.world.labels import PART_NAMES

_LARGEST_SCALE = 100.0
_NO_FLAW = 0.05  # weight of a patch without a flaw
_PLACES = 4  # largest number of things (objects) in a caption: two rows of two


def contrastive_loss(images: Tensor, texts: Tensor, captions: list[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric loss with extra texts.

    Args:
        images: unit features, float (N, D).
        texts: unit features, float (M, D), M >= N. The first N belong to the images, the others to none.
        captions: the M texts. A text that equals an image's own caption is not a wrong text for this image.
        scale: factor on the cosines.
    """
    count = len(images)
    place = images.device
    target = torch.arange(count, device=place)
    numbers = {caption: number for number, caption in enumerate(captions)}
    own = torch.tensor([numbers[caption] for caption in captions], device=place)
    same = (own[:count, None] == own[None]) & ~torch.eye(count, len(captions), dtype=torch.bool, device=place)
    logits = (scale * images @ texts.T).masked_fill(same, -torch.inf)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :count].T, target)) / 2


def duel_scores(images: Tensor, texts: Tensor, pairs: Tensor) -> Tensor:
    """Cosines of the better and the worse image of each pair with the caption of the better one, float (P, 2).

    ``images`` and ``texts`` are unit features of images and their own captions, float (N, D); ``pairs`` holds indices
    of the better and the worse image, int (P, 2).
    """
    return (images[pairs] * texts[pairs[:, :1]]).sum(2)


def preference_loss(better: Tensor, worse: Tensor, scale: Tensor) -> Tensor:
    """HPS v2's loss of each pair, float (N,): cross-entropy over two scaled cosines. The target is the better image."""
    return functional.softplus(scale * (worse - better))


@lru_cache(maxsize=100_000)
def _said(caption: str) -> tuple[int, ...]:
    """The content of a caption as classes: kind, colour and attribute at each place, then the background.

    At an empty place the kind is the last class, and colour and attribute are -1. No attribute is -1.
    """
    scene = parse_caption(caption)
    answers: list[int] = []
    things = iter(scene.things)
    for row in (*scene.rows, 0)[:2]:
        for column in range(2):
            if column >= row:
                answers += [len(KINDS), -1, -1]
                continue
            thing = next(things)
            key = (thing.kind, thing.attribute)
            attribute = ATTRIBUTES.index(key) if key in ATTRIBUTES else -1
            answers += [list(KINDS).index(thing.kind), list(COLOURS).index(thing.colour), attribute]
    return *answers, list(BACKGROUNDS).index(scene.background)


@contextmanager
def _fast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Use plain attention under autocast. In bfloat16 on a CPU it is faster than the fused kernel."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # despite its name, it also affects the CPU
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


class Seen(NamedTuple):
    """Output of the image tower for N images."""

    features: Tensor  # unit features, float (N, D)
    tokens: Tensor  # tokens of the last block, float (N, 1 + patches, width), CLS first


class Trainee(nn.Module):
    """The judge's network and the heads that only training uses."""

    def __init__(self, scorer: HPSScorer, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype
        self.clip, self.tokenizer = scorer.model, scorer.tokenizer
        width, features = self.clip.visual.proj.shape
        self.things = [len(KINDS) + 1, len(COLOURS) + len(BACKGROUNDS), len(ATTRIBUTES)]
        self.patch_sizes = [*self.things, len(PART_NAMES), 2 + len(FLAWS)]
        self.patch_head = nn.Linear(width, sum(self.patch_sizes))
        self.flawless_head = nn.Linear(width, 1)
        self.said_sizes = [len(KINDS) + 1, len(COLOURS), len(ATTRIBUTES)] * _PLACES + [len(BACKGROUNDS)]
        self.said_head = nn.Linear(features, sum(self.said_sizes))
        at = sum(self.things)
        nn.init.constant_(self.patch_head.bias[at : at + len(PART_NAMES)], -4.0)  # parts are rare in a patch
        self._tokens = torch.empty(0)
        self.clip.visual.transformer.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._tokens = output

    def see(self, pictures: Tensor) -> Seen:
        """Encode images, float (N, 3, 96, 96) in [0, 1]."""
        pixels = normalize(pictures, list(MEAN), list(STD))
        with _fast(pixels.device.type, self.dtype):
            features = self.clip.encode_image(pixels)
        return Seen(functional.normalize(features.float(), dim=-1), self._tokens.float())

    def read(self, texts: list[str]) -> Tensor:
        """Unit features of texts, float (N, D)."""
        place = self.clip.logit_scale.device
        with _fast(place.type, self.dtype):
            features = self.clip.encode_text(self.tokenizer(texts).to(place))
        return functional.normalize(features.float(), dim=-1)

    def patch_losses(self, tokens: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Losses of the image tower's heads, by name.

        ``things``: what each patch shows. ``parts``: the parts that should be in it. ``flaws``: the kind of flaw in it.
        ``verdict``: whether the whole image has no flaw.
        """
        split = self.patch_head(tokens[:, 1:]).split(self.patch_sizes, dim=2)
        *things, parts, flaws = split
        truth = labels.things.flatten(2)
        rare = torch.ones(flaws.shape[2], device=flaws.device)
        rare[0] = _NO_FLAW
        shown = labels.parts.flatten(1, 2)
        part = functional.binary_cross_entropy_with_logits(parts, shown, reduction="sum") / shown.sum().clamp(min=1)
        flawless = (labels.flaws == 0).flatten(1).all(1).float()
        return {
            "things": torch.stack([_classes(rows, truth[:, at]) for at, rows in enumerate(things)]).sum(),
            "parts": part,
            "flaws": functional.cross_entropy(flaws.flatten(0, 1), labels.flaws.flatten(), rare),
            "verdict": functional.binary_cross_entropy_with_logits(self.flawless_head(tokens[:, 0])[:, 0], flawless),
        }

    def said_loss(self, features: Tensor, captions: list[str]) -> Tensor:
        """Loss of predicting the content of captions from features, float (N, D), of texts or images."""
        logits = self.said_head(features * features.shape[1] ** 0.5).split(self.said_sizes, dim=1)
        truth = torch.tensor([_said(caption) for caption in captions], device=features.device)
        return torch.stack([_classes(rows, truth[:, at]) for at, rows in enumerate(logits)]).mean()

    @property
    def scale(self) -> Tensor:
        """Factor on the cosines."""
        return self.clip.logit_scale.exp().clamp(max=_LARGEST_SCALE)


def _classes(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy without the rows whose class is -1; logits (..., classes). 0 if there are no other rows."""
    rows, answers = logits.reshape(-1, logits.shape[-1]), truth.reshape(-1)
    told = answers >= 0
    if not told.any():
        return rows.sum() * 0
    return functional.cross_entropy(rows[told], answers[told])
