"""What the demo does, without any web: models that are loaded once, and pictures that are refined and looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from refiner.demo.jobs import Desk, Job, Loading, Tell, Waiting
from refiner.demo.line import StoppedError
from refiner.demo.messages import public_message, public_text
from refiner.demo.settings import Choices, DemoSettings
from refiner.errors import ConfigError, InputError, RefinerError
from refiner.pipelines.config import RefineConfig, Strategy
from refiner.types import Analysis, Attempt, RefinementResult

if TYPE_CHECKING:
    from refiner.pipelines import RefinedPipeline
    from refiner.pipelines.run import RefinementRun
    from refiner.protocols import Detector


@dataclass(frozen=True, kw_only=True)
class RefineRequest:
    """What a user wants refined."""

    prompt: str
    model: str
    """A label of ``DemoSettings.models``."""
    detector: str
    """A label of ``DemoSettings.detectors``."""
    strategy: Strategy = "auto"
    rounds: int = RefineConfig.max_rounds
    seed: int = 0
    image: Image.Image | None = None
    """A picture to refine instead of painting one."""


@dataclass(frozen=True, kw_only=True)
class AttemptProgress:
    """An attempt is being made."""

    attempt: int
    step: int = 0
    """Of the denoiser; 0: not begun, or looking at what was painted."""
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What is there so far."""

    result: RefinementResult
    over: bool
    """Whether nothing more will come."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What detectors said of one picture so far; a text where one could not say anything."""

    answers: Mapping[str, Analysis | str]
    over: bool


RefineEvent = Waiting | Loading | AttemptProgress | Refined
DetectEvent = Waiting | Loading | Looked


class Studio:
    """The models of a demo, and its jobs.

    Models are loaded when they are first wanted, and stay loaded; all users share them and take turns.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        self.desk = Desk(settings.running, settings.waiting)
        self._refiners: dict[tuple[str, str], RefinedPipeline] = {}
        self._detectors: dict[str, Detector] = {}

    def warm(self) -> None:
        """Load the first model and the first detector, so that mistakes show at once and no user waits for them.

        Raises:
            RefinerError: one of them cannot be loaded.
        """
        model, detector = next(iter(self.settings.models)), next(iter(self.settings.detectors))
        self.refiner(model, detector, Job(session=""), lambda _event: None)

    def refine(self, session: str, request: RefineRequest) -> Iterator[RefineEvent]:
        """Refine a picture, attempt by attempt; ends with a ``Refined`` that is over, if anything was painted.

        A job that is stopped keeps the best picture so far.

        Raises:
            InputError: an empty or over-long prompt, or a picture that the detector cannot serve.
            ConfigError: a setting out of its range, or a label that is not offered.
            BusyError: too many jobs are running or waiting.
            RefinerError: a model cannot be loaded.
        """
        self._check(request)
        return self.desk.run(session, lambda job, tell: self._refine(request, job, tell))

    def _check(self, request: RefineRequest) -> None:
        _chosen(self.settings.models, request.model, "model")
        _chosen(self.settings.detectors, request.detector, "detector")
        if not request.prompt.strip():
            raise InputError("Expected a prompt that says what the picture shows, got an empty one: write a few words.")
        if len(request.prompt) > self.settings.max_prompt:
            raise InputError(
                f"Expected a prompt of at most {self.settings.max_prompt} letters, got {len(request.prompt)}: "
                "shorten it."
            )
        if not 0 <= request.rounds <= self.settings.max_rounds:
            raise ConfigError(f"Expected 0 to {self.settings.max_rounds} rounds, got {request.rounds}: choose fewer.")
        if not 0 <= request.seed < 2**63:
            raise ConfigError(f"Expected a seed from 0 to {2**63 - 1}, got {request.seed}: choose another.")

    def _refine(self, request: RefineRequest, job: Job, tell: Tell) -> None:
        run: RefinementRun | None = None
        made = 0

        def on_step(pipe: Any, step: int, _timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
            job.check()
            tell(AttemptProgress(attempt=made, step=step + 1, steps=getattr(pipe, "num_timesteps", None)))
            return tensors

        try:
            pipe = self.refiner(request.model, request.detector, job, tell)
            run = pipe.stream(
                request.prompt,
                image=request.image,
                strategy=request.strategy,
                max_rounds=request.rounds,
                seed=request.seed,
                callback_on_step_end=on_step,
            )
            while True:
                tell(AttemptProgress(attempt=made))
                with self.desk.turn(job):
                    if next(run, None) is None:
                        break
                made += 1
                tell(Refined(result=_public_result(run.so_far), over=False))
                job.check()
        except StoppedError:
            pass
        if run is not None and made:
            tell(Refined(result=_public_result(run.so_far), over=True))

    def detect(self, session: str, image: Image.Image, detectors: Sequence[str]) -> Iterator[DetectEvent]:
        """Ask detectors about a picture, one after the other; each ``Looked`` has one answer more.

        Raises:
            ConfigError: no detector, or a label that is not offered.
            BusyError: too many jobs are running or waiting.
        """
        if not detectors:
            raise ConfigError("Expected at least one detector, got none: tick one.")
        for name in detectors:
            _chosen(self.settings.detectors, name, "detector")
        return self.desk.run(session, lambda job, tell: self._detect(image, detectors, job, tell))

    def _detect(self, image: Image.Image, detectors: Sequence[str], job: Job, tell: Tell) -> None:
        answers: dict[str, Analysis | str] = {}
        for name in detectors:
            try:
                detector = self.detector(name, job, tell)
                with self.desk.turn(job):
                    answers[name] = _public(detector(image))
            except RefinerError as error:
                answers[name] = public_message(error)
            tell(Looked(answers=dict(answers), over=len(answers) == len(detectors)))

    def detector(self, label: str, job: Job, tell: Tell) -> Detector:
        """A detector by its label; loaded once.

        Raises:
            RefinerError: it cannot be loaded.
        """
        if label in self._detectors:
            return self._detectors[label]
        with self.desk.turn(job):
            if label not in self._detectors:
                from refiner.detectors import load_detector

                tell(Loading())
                self._detectors[label] = load_detector(self.settings.detectors[label])
            return self._detectors[label]

    def refiner(self, model: str, detector: str, job: Job, tell: Tell) -> RefinedPipeline:
        """A model behind a detector, by their labels; the model is loaded once, and onto the GPU where there is one.

        Raises:
            RefinerError: one of them cannot be loaded.
        """
        if (model, detector) in self._refiners:
            return self._refiners[model, detector]
        looker = self.detector(detector, job, tell)
        with self.desk.turn(job):
            if (model, detector) not in self._refiners:
                tell(Loading())
                self._refiners[model, detector] = self._load(model, looker)
            return self._refiners[model, detector]

    def _load(self, model: str, detector: Detector) -> RefinedPipeline:
        import torch

        from refiner.pipelines import RefinedPipeline

        for (other, _), loaded in self._refiners.items():
            if other == model:
                return loaded.with_parts(detector=detector)
        refiner = RefinedPipeline.from_pretrained(self.settings.models[model], detector=detector)
        refiner.set_progress_bar_config(disable=True)
        return refiner.to("cuda" if torch.cuda.is_available() else "cpu")


def _chosen(choices: Choices, label: str, what: str) -> None:
    if label not in choices:
        raise ConfigError(f"Expected one of the {what}s {', '.join(choices)}, got {label!r}: choose one of them.")


def _public_result(result: RefinementResult) -> RefinementResult:
    """The same, as strangers may read it."""
    attempts = tuple(map(_public_attempt, result.attempts))
    return replace(result, attempts=attempts, settings=_told(result.settings))


def _public_attempt(attempt: Attempt) -> Attempt:
    error = None if attempt.error is None else public_text(attempt.error)
    analysis = None if attempt.analysis is None else _public(attempt.analysis)
    reason, note = public_text(attempt.reason), public_text(attempt.note)
    return replace(attempt, error=error, analysis=analysis, reason=reason, note=note)


def _told(value: Any) -> Any:
    """Settings as strangers may read them."""
    if isinstance(value, Mapping):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    return public_text(value) if isinstance(value, str) else value


def _public(analysis: Analysis) -> Analysis:
    """The same; where the detector is known by its folder, without the way there."""
    return replace(analysis, detector=public_text(analysis.detector))
