"""Judges: CLIP similarity, HPS, what a detector says (burden, realness, checklist, text), or several of these together.

A judge scores images against their prompts: it is any object with ``score(images, prompts)`` (see
``refiner.plain.as_judge``). With several judges, an image is accepted only if it is not worse for any of them, and
better for one of them or for the detector. So scores in different units need no weights, and each judge has a veto.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cachetools import LRUCache
from PIL import Image

from refiner.answers import analyses, outcomes, value_of
from refiner.calibration import abstained
from refiner.checklist import of_trace, share_that_holds
from refiner.detectors.base import load_folder, one_for_each, placement
from refiner.errors import BadAnswerError, ConfigError, InputError, ModelError, ModelNotFoundError, RefinerError
from refiner.hub import locate, resolve
from refiner.ledger import Ledger, ledgers_of
from refiner.lettering import of_steps, share_read
from refiner.plain import DetectorLike, JudgeLike, as_detector, as_judge
from refiner.protocols import Deciding, Judge, Movable
from refiner.types import Analysis

if TYPE_CHECKING:
    import torch

    from refiner.detectors.family import Needs

_PROMPTS = 256
"""Number of prompts whose text features are cached."""


class Opinion(NamedTuple):
    """What a judge that asks a detector says about one image."""

    score: float | None
    """None if there is an error."""
    error: RefinerError | None = None
    notes: tuple[str, ...] = ()


class _DetectorJudge(ABC):
    """What the judges that ask a detector have in common. An image that fails makes no further calls for the others."""

    def __init__(self, detector: DetectorLike) -> None:
        self.detector = as_detector(detector)

    @property
    def name(self) -> str:
        return self.detector.name

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Return the score of each image; higher is better.

        Raises:
            RefinerError: the error of the first image that failed: those of the detector, and those of the judge, which
                its class lists.
        """
        return [value_of(each) for each in self._scores(analyses(self.detector, images, prompts), prompts)]

    def stream(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Opinion]:
        """Like ``score``, but with the error of each image that failed instead of its score."""
        scores = self._scores(outcomes(self.detector, images, prompts), prompts)
        return [Opinion(None, each) if isinstance(each, RefinerError) else Opinion(each) for each in scores]

    def _scores(self, found: Sequence[Analysis | RefinerError], prompts: Sequence[str]) -> list[float | RefinerError]:
        scores: list[float | RefinerError] = []
        for outcome, prompt in zip(found, prompts, strict=True):
            try:
                scores.append(self._of(value_of(outcome), prompt))
            except (ModelError, InputError) as error:
                scores.append(error)
        return scores

    @abstractmethod
    def _of(self, analysis: Analysis, prompt: str) -> float:
        """The score of an analysis."""

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of the detector, by model."""
        return ledgers_of([self.detector])

    def to(self, device: str | torch.device) -> Self:
        """Move the detector, if it has a method ``to``."""
        if isinstance(self.detector, Movable):
            self.detector.to(device)
        return self


class BurdenJudge(_DetectorJudge):
    """Scores an image by a detector: minus the burden (sum of severity times confidence over the regions); 0 is best.

    Use another detector than the one of the loop.
    """

    @property
    def name(self) -> str:
        return f"burden:{self.detector.name}"

    def _of(self, analysis: Analysis, prompt: str) -> float:
        return -analysis.burden


class RealnessJudge(_DetectorJudge):
    """Scores an image by the verdict of a detector: 1 - ``fake_probability``, the probability that it is real.

    Use another detector than the one of the loop.

    Raises:
        ConfigError: the detector gives no ``fake_probability``; known at once or with the first score.
        BadAnswerError: with a score: a calibrated detector leaves its verdict open.
    """

    def __init__(self, detector: DetectorLike) -> None:
        super().__init__(detector)
        if isinstance(self.detector, Deciding) and not self.detector.decides:
            raise _undecided(self.detector.name)

    @property
    def name(self) -> str:
        return f"realness:{self.detector.name}"

    def _of(self, analysis: Analysis, prompt: str) -> float:
        if analysis.fake_probability is None and abstained(analysis.tags):
            raise BadAnswerError(
                f"The judge {self.name} has no score, because the detector leaves its verdict open: judge by the "
                "detector without its calibration."
            )
        if analysis.fake_probability is None:
            raise _undecided(self.detector.name)
        return 1.0 - analysis.fake_probability


class ChecklistJudge(_DetectorJudge):
    """Scores an image by the share of the prompt's statements that hold, in [0, 1].

    Statements for which the model cannot tell are left out.

    Args:
        detector: one that checks the statements of the prompt, such as ``checklist:<model>``.

    Raises:
        BadAnswerError: with a score: the answer to a statement could not be read, or no statement is decided.
    """

    def _of(self, analysis: Analysis, prompt: str) -> float:
        answers = of_trace(analysis.trace)
        lost = sum(each.reply == "unreadable" for each in answers)
        if lost:
            raise BadAnswerError(
                f"The judge {self.name} has no score, because {lost} of {len(answers)} answers could not be read: ask "
                "again, or use another model."
            )
        share = share_that_holds(answers)
        if share is None:
            raise BadAnswerError(
                f"The judge {self.name} has no score, because the detector decides no statement of the prompt: use a "
                "detector such as checklist:MODEL."
            )
        return share


class TextJudge(_DetectorJudge):
    """Scores an image by the share of the words in the prompt that can be read in it, in [0, 1].

    Args:
        detector: one that reads lettering, such as ``text``.

    Raises:
        InputError: with a score: a prompt asks for no words.
    """

    def _of(self, analysis: Analysis, prompt: str) -> float:
        share = share_read(of_steps(analysis.trace))
        if share is None:
            raise InputError(
                f"The judge {self.name} has no score, because the prompt {prompt!r:.120} asks for no words: put the "
                "wanted words in quotation marks, or use another judge."
            )
        return share


def _undecided(detector: str) -> ConfigError:
    return ConfigError(
        f"The judge realness:{detector} has no score, because this detector gives no fake_probability: use a detector "
        "with a real/fake verdict, such as micro."
    )


class ClipJudge:
    """Scores how well an image fits its prompt: the cosine of CLIP's features (Radford et al., arXiv 2103.00020).

    Images are resized and cropped by the model's processor. By default it keeps only the central square of an image. A
    prompt is cut to the model's maximum number of tokens, 77 for the published weights.

    Args:
        model: a ``CLIPModel`` of transformers; it is set to evaluation mode.
        processor: the ``CLIPProcessor`` of the model.
        name: id and revision of the model.
        batch_size: images per forward pass.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, batch_size: int = 16) -> None:
        self.model = model.eval()
        self.processor = processor
        self.batch_size = batch_size
        self._name = name
        self._texts: LRUCache[str, torch.Tensor] = LRUCache(_PROMPTS)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> ClipJudge:
        """Load a transformers folder of a CLIP model, or a hub id with an optional ``@revision``.

        Args:
            model: the folder or id.
            device: None: CUDA or MPS if available, otherwise the CPU.
            dtype: None: float32.

        Raises:
            ModelNotFoundError, WeightsError: there is no such model, or it is damaged or of the wrong kind.
        """
        import torch
        from transformers import CLIPModel, CLIPProcessor

        folder = resolve(model, "judge")
        network, processor, _ = load_folder(folder, CLIPModel, CLIPProcessor, ("clip",), dtype or torch.float32)
        place, _ = placement(device)
        return cls(network.to(place), processor, name=Path(model).name)

    @property
    def name(self) -> str:
        return f"clip:{self._name}"

    @property
    def signature(self) -> str:
        """Everything that the scores depend on; only scores with the same signature can be compared."""
        config, dtype = self.model.config, str(self.model.dtype).removeprefix("torch.")
        size, tokens = config.vision_config.image_size, config.text_config.max_position_embeddings
        return f"clip|model:{self._name}|size:{size}|tokens:{tokens}|dtype:{dtype}|score:cosine"

    def to(self, device: str | torch.device) -> ClipJudge:
        self.model.to(device)
        self._texts.clear()
        return self

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Return the cosine of each image and its prompt, in [-1, 1]; higher is better. Prompts are encoded once.

        Raises:
            ConfigError: the number of prompts is not the number of images.
            ModelError: a score is not finite.
        """
        import torch

        one_for_each(images, prompts)
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                texts = torch.stack([self._text(text) for text in prompts[start : start + self.batch_size]])
                pictures = self._pictures(images[start : start + self.batch_size])
                scores += (pictures * texts).sum(dim=1).tolist()
        if not all(map(math.isfinite, scores)):
            raise ModelError(f"The judge {self.name} did not return finite scores: check its weights and dtype.")
        return scores

    def _pictures(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.processor(images=[image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        seen = self.model.vision_model(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return _unit(self.model.visual_projection(seen.pooler_output))

    def _text(self, prompt: str) -> torch.Tensor:
        """Encode a prompt by itself, so that other prompts have no effect."""
        if prompt not in self._texts:
            room = self.model.config.text_config.max_position_embeddings
            tokens = self.processor(text=[prompt], return_tensors="pt", truncation=True, max_length=room)
            read = self.model.text_model(input_ids=tokens.input_ids.to(self.model.device))
            self._texts[prompt] = _unit(self.model.text_projection(read.pooler_output))[0]
        return self._texts[prompt]


def _unit(features: torch.Tensor) -> torch.Tensor:
    """Normalise features, float32 (N, D)."""
    wide = features.float()
    return wide / wide.norm(dim=-1, keepdim=True)


class JointJudge:
    """One or more judges; an accepted image is not worse for any of them.

    The loop uses the scores of all judges. ``score`` returns only those of the first. No judges are a ConfigError.
    """

    def __init__(self, judges: Sequence[JudgeLike]) -> None:
        if not judges:
            raise ConfigError("JointJudge needs at least one judge: pass one, or use None for no judge.")
        self.judges = tuple(as_judge(judge) for judge in judges)

    @property
    def name(self) -> str:
        return " & ".join(judge.name for judge in self.judges)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return self.judges[0].score(images, prompts)

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of all judges, by model."""
        return ledgers_of(self.judges)


_BY_DETECTOR: Mapping[str, Callable[[DetectorLike], Judge]] = MappingProxyType(
    {"burden": BurdenJudge, "checklist": ChecklistJudge, "realness": RealnessJudge, "text": TextJudge}
)
"""Prefix of ids -> judge made of a detector."""


def _parts(judge: str | Path) -> tuple[str, str, str]:
    """Kind, colon and rest of an id; the colon of ``text`` may be left out."""
    return ("text", ":", "") if str(judge) == "text" else str(judge).partition(":")


def _detector_of(kind: str, rest: str) -> str:
    """The id of the detector in that of a judge; checklists and ``text`` are detectors by the same id."""
    return f"{kind}:{rest}" if kind in ("checklist", "text") else rest


def load_judge(judge: str | Path, device: str | torch.device | None = None) -> Judge:
    """Load a judge by its id.

    Args:
        judge: ``clip:<folder or hub id>``, ``burden:<id of a detector>``, ``realness:<id of a detector>``,
            ``checklist:<id of a chat model>`` as for ``load_detector``, ``text``, or for HPS
            ``hps:<...>``, ``micro``, or anything else that ``HPSScorer.from_pretrained`` reads.
        device: None: CUDA or MPS if available, otherwise the CPU.

    Raises:
        ModelNotFoundError, WeightsError: there is no such model, or it is damaged or of the wrong kind.
    """
    kind, colon, rest = _parts(judge)
    if colon and kind == "clip":
        return ClipJudge.from_pretrained(rest, device=device)
    if colon and kind in _BY_DETECTOR:
        from refiner.detectors import load_detector

        return _BY_DETECTOR[kind](load_detector(_detector_of(kind, rest), device=device))
    from refiner.metrics.hps.scorer import HPSScorer

    scorer: Judge = HPSScorer.from_pretrained(rest if colon and kind == "hps" else judge, device=device)
    return scorer


def judge_needs(judge: str | Path) -> Needs:
    """List the folders and hub models that loading a judge reads; nothing is downloaded.

    Raises:
        UserError: the errors of ``load_judge`` that are known without a download.
    """
    kind, colon, rest = _parts(judge)
    if colon and kind in _BY_DETECTOR:
        from refiner.detectors.registry import detector_needs

        return detector_needs(_detector_of(kind, rest))
    model = rest if colon and kind in ("clip", "hps") else str(judge)
    if kind != "clip" and Path(model).is_file():
        return [Path(model)]
    try:
        return [locate(model, "judge")]
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{error} Known judges: micro, clip:<folder or hub id>, burden:<detector>, "
            "realness:<detector>, checklist:<model>, text, hps:<folder, file or hub id>."
        ) from error


def judges_of(judge: Judge | None) -> tuple[Judge, ...]:
    """Return one judge, several judges or none as a tuple."""
    if judge is None:
        return ()
    return judge.judges if isinstance(judge, JointJudge) else (judge,)
