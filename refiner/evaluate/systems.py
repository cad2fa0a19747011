"""What is evaluated: a detector, a judge and a text encoder that look at pictures, and a refiner that makes them.

Both answer with plain JSON: what the models said, not what it is worth. ``refiner.evaluate.tasks`` makes figures of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image

from refiner.data.anomreason import from_regions
from refiner.data.problems import Problem
from refiner.data.samples import Sample, digest, joined_text
from refiner.errors import ConfigError, ModelError, RefinerError
from refiner.files import Json, atomic_write
from refiner.images import png_bytes
from refiner.protocols import Detector, Judge, PaintJob, Signed, Streaming
from refiner.provenance import ai_label
from refiner.records import analysis_to_dict, derive_seed
from refiner.types import Analysis, Attempt, Claim, RefinementResult

PICTURES: Final = "pictures"
"""The sub-folder of a run that a model's pictures go to."""
_PLAIN: Final = re.compile(r"[\w][\w .+()@-]{0,99}")

if TYPE_CHECKING:
    from refiner.metrics.bertscore import BertScore
    from refiner.metrics.css import SentenceEncoder


@dataclass(kw_only=True)
class Looker:
    """Looks at pictures: what is wrong with them, how well they fit their prompts, what the words are worth.

    Raises:
        ConfigError: there is nothing to look with.
    """

    detector: Detector | None = None
    judge: Judge | None = None
    """Scores pictures that have a prompt."""
    encoder: BertScore | None = None
    """Compares what the detector says with the truth in words, where there is any."""
    sentences: SentenceEncoder | None = None
    """The same of whole texts (CSS)."""
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.detector is None and self.judge is None:
            raise ConfigError("Expected a detector or a judge, got neither: name one of them.")
        if self.batch_size < 1:
            raise ConfigError(f"Expected a batch size of at least 1, got {self.batch_size}: name a larger one.")

    def identity(self) -> Json:
        """Detector, judge, and encoders of words and of whole texts."""
        return {
            "detector": self.detector and self.detector.name,
            "judge": self.judge and (self.judge.signature if isinstance(self.judge, Signed) else self.judge.name),
            "encoder": self.encoder and self.encoder.signature,
            "sentences": self.sentences and self.sentences.signature,
        }

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """``analysis``, ``score``, ``similarity``, ``css`` (None where there is none) and ``notes`` of each sample.

        Raises:
            ConfigError: a sample without a picture.
        """
        images = [_picture(sample) for sample in samples]
        analyses: Sequence[Analysis | None] = [None] * len(samples)
        if self.detector is not None:
            prompts = [sample.prompt for sample in samples]
            analyses = self.detector.batch(images, prompts if all(prompts) else None)
        return self.answers(samples, images, analyses)

    def answers(
        self, samples: Sequence[Sample], images: Sequence[Image.Image], analyses: Sequence[Analysis | None]
    ) -> list[Json]:
        """The answers where the detector has looked already."""
        rows = []
        for sample, analysis, scored in zip(samples, analyses, self._scores(samples, images), strict=True):
            row: Json = {"analysis": None, "score": scored.score, "similarity": None, "css": None}
            notes = [[note_kind(note), f"{sample.name}: {note}"] for note in scored.notes]
            if analysis is not None:
                analysis = _sound(sample.name, analysis, notes)
                row["analysis"] = analysis_to_dict(analysis, arrays=True)
                row |= self._compared(sample, from_regions(analysis.regions), notes)
            rows.append(row | {"notes": notes})
        return rows

    def _scores(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[_Judged]:
        """The judge's scores of the samples that have a prompt."""
        scores = [_Judged(None)] * len(samples)
        prompted = [at for at, sample in enumerate(samples) if sample.prompt]
        if self.judge is None or not prompted:
            return scores
        pictures, prompts = [images[at] for at in prompted], [samples[at].prompt for at in prompted]
        if isinstance(self.judge, Streaming):
            outcomes = self.judge.stream(pictures, prompts)
        else:
            outcomes = map(_Judged, self.judge.score(pictures, prompts))
        for at, outcome in zip(prompted, outcomes, strict=True):
            if outcome.error is not None:
                raise outcome.error
            if outcome.score is None or not math.isfinite(outcome.score):
                raise ModelError(
                    f"Expected a finite score from {self.judge.name}, got {outcome.score}: look at the picture."
                )
            scores[at] = _Judged(float(outcome.score), notes=outcome.notes)
        return scores

    def _compared(self, sample: Sample, said: tuple[Claim, ...], notes: list[list[str]]) -> Json:
        """How similar what was said is to the truth; ``notes`` gets what the encoders could not read of both."""
        found: Json = {}
        if sample.anomalies is None:
            return found
        if self.encoder is not None:
            found["similarity"] = _similarity(sample.name, said, sample.anomalies, self.encoder, notes)
        if self.sentences is not None and sample.anomalies:
            from refiner.metrics.css import css_scores

            scores = css_scores([joined_text(said)], [joined_text(sample.anomalies)], self.sentences)
            found["css"] = scores["css"]
            notes += [["long_text", f"{sample.name}: longer than the sentence encoder reads"]] * scores["cut"]
            notes += [["empty_text", f"{sample.name}: nothing said, or nothing true; CSS 0"]] * scores["empty"]
        return found


def _sound(name: str, analysis: Analysis, notes: list[list[str]]) -> Analysis:
    """The analysis, without a heat map that is none; ``notes`` says so."""
    values = analysis.heatmap
    if values is None or (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        return analysis
    notes.append(["bad_heatmap", f"{name}: expected a heat map in [0, 1], got {values.min()} to {values.max()}"])
    return replace(analysis, heatmap=None)


def note_kind(note: str) -> str:
    """The kind under which a judge's note is counted."""
    return "long_text" if "cut to" in note else "note"


class _Judged(NamedTuple):
    """What a judge says of a picture; the part of ``HPSScorer.stream``'s outcomes that is used here."""

    score: float | None
    error: RefinerError | None = None
    notes: tuple[str, ...] = ()


def _similarity(
    name: str, said: tuple[Claim, ...], true: tuple[Claim, ...], encoder: BertScore, notes: list[list[str]]
) -> Json:
    from refiner.metrics.semap import Match, similarities

    problems: list[Problem] = []
    found = next(similarities([Match(name, said, true)], encoder, ("prediction", "reference"), problems), None)
    if found is None:
        reasons = [str(each) for each in problems if each.kind == "not_finite"]
        raise ModelError(
            f"Expected finite features from the text encoder, got others ({reasons[0]}): look at the text."
        )
    notes += [[each.kind, str(each)] for each in problems]
    return found.to_dict()


def _picture(sample: Sample) -> Image.Image:
    if sample.image is None:
        raise ConfigError(
            f"Expected pictures to look at, got the prompt {sample.name!r} alone: name a folder of pictures as --data."
        )
    return sample.image


@dataclass(kw_only=True)
class Refining:
    """Refines samples one by one, and looks at the start, at the last picture and at the one that was kept.

    What the detector says is what the loop's own detector said; the judge scores against the sample's own prompt.
    """

    refine: Callable[[Sample], RefinementResult]
    settings: Json
    """All that it depends on: models and settings."""
    looker: Looker
    """Its judge and encoder are used."""
    pictures: Path
    """Folder of the run; pictures go to ``pictures/`` in it."""
    batch_size: int = 1

    def identity(self) -> Json:
        """Settings, judge and encoder."""
        looker = self.looker.identity()
        return {"refiner": self.settings, "judge": looker["judge"], "encoder": looker["encoder"]}

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """``stop``, ``calls``, ``rounds``, ``notes`` and for ``before``, ``last`` and ``best`` a look as of ``Looker``.

        Raises:
            ModelError: no picture could be painted or looked at.
        """
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Json:
        if not sample.prompt:
            raise ConfigError(f"Expected a prompt of every picture, got none of {sample.name!r}: pass --prompts.")
        result = self.refine(sample)
        seen = [attempt for attempt in result.attempts if attempt.image is not None and attempt.analysis is not None]
        if not seen:
            raise ModelError(
                f"Expected a picture that the detector can read, got none in {len(result.attempts)} attempts: "
                f"{result.attempts[-1].error or result.attempts[-1].reason}."
            )
        best = result.attempts[result.best]
        chosen = {"before": seen[0], "last": seen[-1], "best": best if best in seen else seen[0]}
        looks = self._looks(sample, list(dict.fromkeys(chosen.values())))
        calls = result.calls
        return {
            "stop": result.stop,
            "calls": {"denoiser_rows": calls.denoiser_rows, "detector_calls": calls.detector_calls},
            "rounds": len(result.attempts) - 1,
            "accepted": sum(attempt.accepted for attempt in result.attempts[1:]),
            "failed": sum(attempt.error is not None for attempt in result.attempts),
            "notes": [note for look in looks.values() for note in look["notes"]],
            **{name: looks[attempt.index] for name, attempt in chosen.items()},
        }

    def _looks(self, sample: Sample, attempts: Sequence[Attempt]) -> dict[int, Json]:
        images = [attempt.image for attempt in attempts if attempt.image is not None]
        analyses = [attempt.analysis for attempt in attempts]
        answers = self.looker.answers([sample] * len(images), images, analyses)
        looks = {}
        for attempt, image, look in zip(attempts, images, answers, strict=True):
            file = f"pictures/{_file_name(sample.name)}-{attempt.index:02d}.png"
            (self.pictures / "pictures").mkdir(parents=True, exist_ok=True)
            atomic_write(self.pictures / file, png_bytes(image, _label(attempt, sample)))
            looks[attempt.index] = look | {"attempt": attempt.index, "picture": file}
        return looks


def _label(attempt: Attempt, sample: Sample) -> dict[str, str]:
    if attempt.action == "given":
        return {}
    return ai_label(from_given_image=attempt.action == "inpaint" and sample.image is not None)


def _file_name(name: str) -> str:
    """A file name that no other sample's name gives."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    return f"{plain[:80]}-{digest([name])[:8]}"


@dataclass(kw_only=True)
class Generating:
    """Paints samples, and looks at what it painted: a system of the harness.

    A picture depends on the seed, its name and the model's settings: not on the batch, the order or other generators,
    and all generators paint a picture from the same seed.
    """

    paint: Callable[[Sequence[PaintJob]], list[Image.Image]]
    settings: Json
    """All that the pictures depend on: model, weights, arguments of its call."""
    looker: Looker
    folder: Path
    """Of the run; pictures go to ``pictures/`` in it."""
    seed: int
    negative_prompt: str = ""
    batch_size: int = 8

    def identity(self) -> Json:
        """Model, seed and what looks at the pictures."""
        return {**self.settings, "seed": self.seed, **self.looker.identity()}

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """What the looker says, with the ``picture`` and its ``seed``.

        Raises:
            ModelError: the model cannot paint one of them, or the looker fails on it.
        """
        jobs = [
            PaintJob(
                prompt=sample.prompt, negative_prompt=self.negative_prompt, seed=derive_seed(self.seed, sample.name)
            )
            for sample in samples
        ]
        painted = []
        for sample, image in zip(samples, self.paint(jobs), strict=True):
            path = picture_file(self.folder, sample.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, png_bytes(image, ai_label(from_given_image=False)))
            painted.append(replace(sample, image=image))
        answers = self.looker(painted)
        return [answer | {"seed": job.seed} for answer, job in zip(answers, jobs, strict=True)]


def picture_file(folder: Path, name: str) -> Path:
    """Where a model's picture goes: ``pictures/NAME.png`` in the run's folder, if that is a plain path.

    Such a folder can be ranked as one of pictures later.
    """
    parts = name.split("/")
    if not all(_PLAIN.fullmatch(part) and part == part.strip(" .") for part in parts):
        parts = [f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{digest([name])[:8]}"]
    return folder.joinpath(PICTURES, *parts[:-1], f"{parts[-1]}.png")
