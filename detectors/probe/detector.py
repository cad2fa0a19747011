"""A detector that finds flaws in the features of the generator's denoiser, with a small network (the probe).

A little noise is added to the image, and the denoiser runs on it with the image's prompt. The change that the denoiser
predicts, and its features, show where the image does not fit the prompt. These are diffusion features (Tang et al.
2023, "Emergent Correspondence from Image Diffusion"); the probe has three 3x3 convolutions. An image costs a few
denoiser rows (images times denoiser passes). Unlike LEGION, the probe uses the prompt.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from refiner.claims import region_of
from refiner.detectors.base import BaseDetector, identity, placement
from refiner.detectors.probe.config import MODEL_TYPE, ProbeConfig
from refiner.errors import ConfigError, WeightsError
from refiner.files import atomic_write
from refiner.hub import resolve
from refiner.locks import exclusive
from refiner.taxonomy import Category
from refiner.types import Analysis, Calls, Claim, Mask, Region, Size

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

EXPLANATION = "the {part} is malformed"
REASONS: Final[Mapping[Category, str]] = {
    Category.TEXT: "its strokes are broken, so that it cannot be read",
    Category.SHAPE: "its outline is broken or bent",
    Category.ANATOMY: "it is incomplete, bent or in a wrong place",
    Category.OPTICS: "it does not match the thing that casts or mirrors it",
}
"""Why a part is malformed, by the category of its flaw."""
_OTHER = "it does not look like the {part} of a {kind}"
_SEVERITIES = ((0.008, 0.5), (0.02, 0.7), (1.0, 0.9))
"""(share of the image, severity): a region gets the severity of the first row whose share it does not exceed."""


class DenoiserFeatures:
    """Computes features of images with the denoiser of a Stable Diffusion pipeline.

    Args:
        pipe: diffusers' ``StableDiffusionPipeline`` or a subclass.
        timestep: noise level of the images.
        draws: number of noise samples; they are the same for each image.
    """

    def __init__(self, pipe: DiffusionPipeline, timestep: int, draws: int) -> None:
        self.pipe, self.timestep, self.draws = pipe, timestep, draws

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], prompt: str) -> Tensor:
        """Compute the features of images of one size and one prompt: float32 (N, C, h, w), one column per latent cell.

        The channels are, in this order: the change that the denoiser predicts, its absolute value, the latents, and the
        outputs of the denoiser's up blocks. Other threads wait until the denoiser is free.
        """
        parts = {name: part for name, part in self.pipe.components.items() if part is not None}
        # Padding is a state of tokenizers.
        used = [part for name, part in parts.items() if isinstance(part, nn.Module) or name.startswith("tokenizer")]
        with exclusive(used):
            return self._computed(images, prompt)

    def _computed(self, images: Sequence[Image.Image], prompt: str) -> Tensor:
        pipe: Any = self.pipe
        device, unet = pipe._execution_device, pipe.unet
        states, _ = pipe.encode_prompt(prompt, device, 1, False)
        pixels = pipe.image_processor.preprocess(list(images)).to(device, pipe.vae.dtype)
        clean = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
        clean = clean.to(unet.dtype).repeat_interleave(self.draws, dim=0)
        shape = (self.draws, *clean.shape[1:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).repeat(len(images), 1, 1, 1)
        signal = pipe.scheduler.alphas_cumprod[self.timestep].to(device, unet.dtype)
        noised = signal.sqrt() * clean + (1 - signal).sqrt() * noise.to(clean)
        seen: list[Tensor] = []
        thread = threading.get_ident()

        def note(_block: nn.Module, _args: object, out: Tensor) -> None:
            if threading.get_ident() == thread:
                seen.append(out)

        hooks = [block.register_forward_hook(note) for block in unet.up_blocks]
        try:
            rows = states.expand(len(clean), -1, -1)
            said = unet(noised, noised.new_full((len(clean),), self.timestep), encoder_hidden_states=rows).sample
        finally:
            for hook in hooks:
                hook.remove()
        change = self._denoised(noised, said, signal) - clean
        scaled = [functional.interpolate(each, size=clean.shape[2:]) for each in seen]
        features = torch.cat([change, change.abs(), clean, *scaled], dim=1).float()
        return features.unflatten(0, (len(images), self.draws)).mean(dim=1)

    def _denoised(self, noised: Tensor, said: Tensor, signal: Tensor) -> Tensor:
        if self.pipe.scheduler.config.prediction_type == "v_prediction":
            return signal.sqrt() * noised - (1 - signal).sqrt() * said
        return (noised - (1 - signal).sqrt() * said) / signal.sqrt()


class Probe(nn.Module):
    """Convolutions over features (N, C, h, w); returns logits (N, 1 + parts + colours, h, w), the flaw logit first."""

    mean: Tensor
    spread: Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        width = config.width
        self.register_buffer("mean", torch.zeros(config.channels, 1, 1))
        self.register_buffer("spread", torch.ones(config.channels, 1, 1))
        self.drop = nn.Dropout2d(0.1)
        self.enter = nn.Conv2d(config.channels, width, 1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.far = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.whole = nn.Linear(2 * width, width)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 1 + len(config.parts) + len(config.colours), 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.gelu(self.enter(self.drop((features - self.mean) / self.spread)))
        hidden = hidden + functional.gelu(self.near(hidden))
        hidden = hidden + functional.gelu(self.far(hidden))
        pooled = torch.cat([hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))], dim=1)
        hidden = hidden + self.whole(pooled)[:, :, None, None]
        logits: Tensor = self.leave(hidden + functional.gelu(self.last(hidden)))
        return logits


class ProbeDetector(BaseDetector):
    """A probe as a detector; a ``refiner.protocols.Detector``.

    ``bind`` gives it the generating pipeline, so that no weights are loaded twice. Without ``bind``, it loads the
    pipeline that it was trained on. A region's ``score`` is the mean probability of its pixels. Without a prompt, an
    empty prompt is used.

    Args:
        probe: the network.
        config: its settings.
        name: id and revision.
        domain: "micro" for a probe that knows only the micro world and must refuse other images; else "".
    """

    def __init__(self, probe: Probe, config: ProbeConfig, *, name: str, domain: str = "") -> None:
        super().__init__(name=name, domain=domain)
        self.model, self.config = probe.eval(), config
        self._pipe: DiffusionPipeline | None = None
        self._own: DiffusionPipeline | None = None
        self._rows = 0
        self._turn = threading.Lock()  # padding is a state of tokenizers: two threads would encode prompts wrongly

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> ProbeDetector:
        """Load a folder of ``save_pretrained``. The probe runs in float32 for each ``dtype``.

        Raises:
            WeightsError: the folder is of another kind, incomplete or damaged.
        """
        root = Path(folder)
        try:
            values: dict[str, Any] = json.loads((root / "config.json").read_text(encoding="utf-8"))
            values.pop("model_type")
            for name in ("parts", "categories", "colours"):
                values[name] = tuple(values[name])
            config = ProbeConfig(**values)
            probe = Probe(config)
            probe.load_state_dict(load_file(root / "model.safetensors"))
        except Exception as error:  # damaged files may raise anything
            raise WeightsError(
                f"The probe {str(root)!r} cannot be loaded ({error}): install or train it again."
            ) from error
        place, _ = placement(device)
        return cls(probe.to(place), config, **identity(root, "probe")._asdict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Save config and weights (safetensors); ``from_pretrained`` loads them."""
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        save_file(self.model.state_dict(), root / "model.safetensors")
        atomic_write(
            root / "config.json", json.dumps({"model_type": MODEL_TYPE, **asdict(self.config)}, indent=1) + "\n"
        )

    def to(self, device: str | torch.device) -> ProbeDetector:
        """Move the probe, and the pipeline if the probe has loaded it by itself."""
        self.model.to(device)
        if self._own is not None:
            self._own.to(device)
        return self

    def bind(self, pipe: DiffusionPipeline) -> None:
        """Use the denoiser of this pipeline from now on.

        Raises:
            ConfigError: the number of its features differs from that in training.
        """
        channels = _feature_channels(pipe)
        if channels != self.config.channels:
            raise ConfigError(
                f"Expected a denoiser with {self.config.channels} channels of features, such as that of "
                f"{self.config.generator!r}, got {channels} from {type(pipe).__name__}: use a probe trained on it, or "
                "another detector."
            )
        self._pipe, self._own = pipe, None

    def spent(self) -> Calls:
        """Denoiser rows (images times denoiser passes) so far."""
        return Calls(denoiser_rows=self._rows)

    def _analyse(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        pairs = zip(images, prompts, strict=True)
        return [self._analysis(image, self._logits(image, prompt)) for image, prompt in pairs]

    @torch.inference_mode()
    def _logits(self, picture: Image.Image, prompt: str) -> Tensor:
        with self._turn:
            look = DenoiserFeatures(self._generator(), self.config.timestep, self.config.draws)
            features = look([picture], prompt)
            self._rows += self.config.draws
        logits: Tensor = self.model(features.to(self.model.mean.device))
        return logits[0].cpu()

    def _generator(self) -> DiffusionPipeline:
        if self._pipe is None:
            from diffusers import DiffusionPipeline

            pipe = DiffusionPipeline.from_pretrained(resolve(self.config.generator, "generator"))
            self.bind(pipe.to(self.model.mean.device))
            self._own = pipe
        assert self._pipe is not None
        return self._pipe

    def _analysis(self, picture: Image.Image, logits: Tensor) -> Analysis:
        size = Size(picture.height, picture.width)
        large = functional.interpolate(logits[None, :1].sigmoid(), size=size, mode="bilinear")[0, 0].numpy()
        heat = np.clip(large, 0, 1).astype(np.float32)
        cell = size.height * size.width / (logits.shape[1] * logits.shape[2])
        patches, count = ndimage.label(heat >= self.config.threshold)
        masks = [patches == number for number in range(1, count + 1)]
        words = functional.interpolate(logits[None, 1:], size=size)[0]
        kept = [mask for mask in masks if mask.sum() >= self.config.least_cells * cell]
        return Analysis(
            size=size,
            regions=tuple(self._region(mask, heat, words, size) for mask in kept),
            fake_probability=float(heat.max()),
            heatmap=heat,
            detector=self.name,
        )

    def _region(self, mask: Mask, heat: np.ndarray[Any, np.dtype[np.float32]], words: Tensor, size: Size) -> Region:
        config, inside = self.config, torch.from_numpy(mask)
        parts, colours = words[:, inside].split([len(config.parts), len(config.colours)])
        place = int(parts.softmax(0).mean(1).argmax())
        kind, _, part = config.parts[place].partition(": ")
        colour = config.colours[int(colours.softmax(0).mean(1).argmax())]
        share = float(mask.mean())
        category = Category(config.categories[place])
        claim = Claim(
            name=f"the {part} of the {colour} {kind}",
            explanation=EXPLANATION.format(part=part),
            reasoning=REASONS.get(category, _OTHER.format(part=part, kind=kind)),
            category=category,
            severity=next(severity for most, severity in _SEVERITIES if share <= most),
            score=float(heat[mask].mean()),
        )
        return region_of(claim, mask, size)


def _feature_channels(pipe: Any) -> int | None:
    """Count the channels of the features of a pipeline's denoiser; None if the pipeline does not fit."""
    config = getattr(getattr(pipe, "unet", None), "config", None)
    if config is None or not hasattr(pipe.scheduler, "alphas_cumprod") or "block_out_channels" not in config:
        return None
    return int(3 * config.in_channels + sum(config.block_out_channels))
