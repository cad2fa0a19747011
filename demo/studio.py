"""The work of the demo without a web server: load each model once, refine and analyse images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from refiner.answers import read_analysis
from refiner.demo.jobs import Desk, Job, Loading, Tell, Waiting
from refiner.demo.line import StoppedError
from refiner.demo.messages import for_browsers, public_message, public_text
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
    """A user's request to refine an image."""

    prompt: str
    model: str
    """A label of ``DemoSettings.models``."""
    detector: str
    """A label of ``DemoSettings.detectors``."""
    strategy: Strategy = "auto"
    rounds: int = RefineConfig.max_rounds
    seed: int = 0
    image: Image.Image | None = None
    """An image to refine instead of a generated one, RGB."""


@dataclass(frozen=True, kw_only=True)
class AttemptProgress:
    """The progress of one attempt."""

    attempt: int
    """Number of the attempt, from 0."""
    step: int = 0
    """Denoiser step, from 1; 0: not started, or the detector is running."""
    steps: int | None = None
    """Number of denoiser steps; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The result so far."""

    result: RefinementResult
    over: bool
    """Whether the result is final."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """The answers of the detectors for one image so far."""

    answers: Mapping[str, Analysis | str]
    """Label of the detector -> its analysis, or an error message."""
    over: bool
    """Whether all detectors have answered."""


_MOST_PICKS = 8
"""Visitors whose candidates are kept, with all their images; the one who refined first goes first."""

RefineEvent = Waiting | Loading | AttemptProgress | Refined
DetectEvent = Waiting | Loading | Looked


class Studio:
    """The models and the jobs of a demo.

    Models are loaded when they are first used and stay loaded. All users share them and use them in turn.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        self.desk = Desk(settings.running, settings.waiting)
        self._refiners: dict[tuple[str, str], RefinedPipeline] = {}
        self._detectors: dict[str, Detector] = {}
        self._lock = threading.Lock()
        self._latest: dict[str, RefinementResult] = {}

    def warm(self) -> None:
        """Load the first model and the first detector, so that errors show at once and no user waits for the loading.

        Raises:
            RefinerError: one of them cannot be loaded.
        """
        model, detector = next(iter(self.settings.models)), next(iter(self.settings.detectors))
        self.refiner(model, detector, Job(session=""), lambda _event: None)

    def refine(self, session: str, request: RefineRequest) -> Iterator[RefineEvent]:
        """Refine an image and yield events after each step and attempt.

        The last event is a ``Refined`` whose ``over`` is true, if there is any image. A stopped job keeps the best
        image so far.

        Raises:
            InputError: an empty or too long prompt, or an image that the detector cannot analyse.
            ConfigError: a setting out of its range, or an unknown label.
            BusyError: too many jobs are running or waiting.
            RefinerError: a model cannot be loaded.
        """
        self._check(request)
        self.forget(session)
        return self.desk.run(session, lambda job, tell: self._refine(request, job, tell))

    def pick(self, session: str, region: int, candidate: int) -> Iterator[RefineEvent]:
        """Put a candidate of the user's last refinement into the kept image, and yield the result as ``refine`` does.

        Args:
            session: id of the user's browser tab or client.
            region: index in the ``candidates`` of the result.
            candidate: index of one of its images.

        Raises:
            InputError: there is no finished refinement of this user, or it is not kept any more.
            ConfigError: there is no such region or candidate.
            BusyError: too many jobs are running or waiting.
        """
        return self.desk.run(session, lambda job, tell: self._pick(job, region, candidate, tell))

    def _pick(self, job: Job, region: int, candidate: int, tell: Tell) -> None:
        result = self.latest(job.session)
        if result is None:
            raise InputError("There is no refined image with candidates any more: refine an image again.")
        tell(AttemptProgress(attempt=len(result.attempts)))
        with self.desk.turn(job):
            picked = result.with_choice({region: candidate})
        self._keep(job.session, picked)
        tell(Refined(result=_public_result(picked), over=True))

    def latest(self, session: str) -> RefinementResult | None:
        """The user's last finished refinement, with its candidates; None if there is none."""
        with self._lock:
            return self._latest.get(session)

    def forget(self, session: str) -> None:
        """Drop the candidates of a user."""
        with self._lock:
            self._latest.pop(session, None)

    def _keep(self, session: str, result: RefinementResult) -> None:
        with self._lock:
            self._latest.pop(session, None)
            self._latest[session] = result
            for old in list(self._latest)[:-_MOST_PICKS]:
                del self._latest[old]

    def _check(self, request: RefineRequest) -> None:
        _chosen(self.settings.models, request.model, "model")
        _chosen(self.settings.detectors, request.detector, "detector")
        if not request.prompt.strip():
            raise InputError("Write a prompt first: a few words that say what the image shows.")
        self._check_length(request.prompt)
        if not 0 <= request.rounds <= self.settings.max_rounds:
            raise ConfigError(f"Choose 0 to {self.settings.max_rounds} rounds instead of {request.rounds}.")
        if not 0 <= request.seed < 2**63:
            raise ConfigError(f"Choose a seed from 0 to {2**63 - 1} instead of {request.seed}.")

    def _check_length(self, prompt: str) -> None:
        most = self.settings.max_prompt
        if len(prompt) > most:
            raise InputError(f"Choose a shorter prompt: at most {most} characters, this one has {len(prompt)}.")

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
                start_image=request.image,
                strategy=request.strategy,
                max_rounds=request.rounds,
                seed=request.seed,
                keep_candidates=True,
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
            self._keep(job.session, run.so_far)
            tell(Refined(result=_public_result(run.so_far), over=True))

    def detect(
        self, session: str, image: Image.Image, detectors: Sequence[str], prompt: str = ""
    ) -> Iterator[DetectEvent]:
        """Analyse an image with one detector after the other; each ``Looked`` event holds one more answer.

        Args:
            session: id of the user's browser tab or client.
            image: RGB.
            detectors: labels of ``DemoSettings.detectors``.
            prompt: of the image; empty if it is not known.

        Raises:
            InputError: a too long prompt.
            ConfigError: no detector, or an unknown label.
            BusyError: too many jobs are running or waiting.
        """
        if not detectors:
            raise ConfigError("Choose at least one detector.")
        for name in detectors:
            _chosen(self.settings.detectors, name, "detector")
        self._check_length(prompt)
        return self.desk.run(session, lambda job, tell: self._detect(image, detectors, prompt.strip(), job, tell))

    def _detect(self, image: Image.Image, detectors: Sequence[str], prompt: str, job: Job, tell: Tell) -> None:
        answers: dict[str, Analysis | str] = {}
        for name in detectors:
            try:
                detector = self.detector(name, job, tell)
                with self.desk.turn(job):
                    answers[name] = _public(read_analysis(detector(image, prompt or None), image, detector.name))
            except RefinerError as error:
                answers[name] = public_message(error)
            tell(Looked(answers=dict(answers), over=len(answers) == len(detectors)))

    def detector(self, label: str, job: Job, tell: Tell) -> Detector:
        """Return the detector with this label, and load it at the first use.

        Raises:
            RefinerError: it cannot be loaded.
        """
        if label in self._detectors:
            return self._detectors[label]
        with self.desk.turn(job):
            if label not in self._detectors:
                from refiner.detectors import load_detector

                tell(Loading())
                self._detectors[label] = load_detector(self.settings.detectors[label], self.settings.machine.device)
            return self._detectors[label]

    def refiner(self, model: str, detector: str, job: Job, tell: Tell) -> RefinedPipeline:
        """Return the pipeline of a model and a detector, by their labels.

        The model is loaded at the first use.

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
        from refiner.pipelines.loading.placing import load_refined

        for (other, _), loaded in self._refiners.items():
            if other == model:
                return loaded.with_parts(detector=detector)
        return load_refined(self.settings.models[model], self.settings.machine, detector=detector)


def _chosen(choices: Choices, label: str, what: str) -> None:
    if label not in choices:
        raise ConfigError(f"There is no {what} {label!r} here: choose one of {', '.join(choices)}.")


def _public_result(result: RefinementResult) -> RefinementResult:
    """The result with texts that visitors may read."""
    attempts = tuple(map(_public_attempt, result.attempts))
    return replace(result, attempts=attempts, settings=_told(result.settings))


def _public_attempt(attempt: Attempt) -> Attempt:
    error = None if attempt.error is None else for_browsers(public_text(attempt.error))
    analysis = None if attempt.analysis is None else _public(attempt.analysis)
    reason, note = public_text(attempt.reason), public_text(attempt.note)
    return replace(attempt, error=error, analysis=analysis, reason=reason, note=note)


def _told(value: Any) -> Any:
    """Settings with texts that visitors may read."""
    if isinstance(value, Mapping):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    return public_text(value) if isinstance(value, str) else value


def _public(analysis: Analysis) -> Analysis:
    """The analysis with a detector name that shows no path."""
    return replace(analysis, detector=public_text(analysis.detector))
