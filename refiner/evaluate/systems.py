"""What is evaluated: models that analyse images (detector, judge, text encoder), refiners and generators.

They answer with plain JSON: the raw answers of the models. ``refiner.evaluate.tasks`` computes figures from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import numpy as np
from PIL import Image

from refiner.answers import prompted_outcomes, read_scores, value_of
from refiner.data.anomreason import from_regions
from refiner.data.captions import caption_of
from refiner.data.problems import Problem
from refiner.data.samples import Sample, digest, joined_text
from refiner.errors import ConfigError, InputError, ModelError, RefinerError
from refiner.evaluate.harness import Answer
from refiner.files import Json, atomic_write
from refiner.images import png_bytes
from refiner.ledger import Ledger, ledgers_of
from refiner.metrics.hps.inputs import DIFFERENCES
from refiner.metrics.sdg import description_cosines
from refiner.plain import DetectorLike, JudgeLike, Scorer, as_detector, as_judge
from refiner.protocols import Judge, PaintJob, Signed, Streaming
from refiner.provenance import ai_label
from refiner.records import analysis_to_dict, derive_seed
from refiner.types import Analysis, Attempt, Claim, RefinementResult

PICTURES: Final = "pictures"
"""The sub-folder of a run for generated images."""
_PLAIN: Final = re.compile(r"[\w][\w .+()@-]{0,99}")

if TYPE_CHECKING:
    from refiner.metrics.bertscore import BertScore
    from refiner.metrics.css import SentenceEncoder


@dataclass(kw_only=True)
class Looker:
    """Analyses images with a detector, scores them with a judge, and compares explanations with the true ones.

    Raises:
        ConfigError: there is neither a detector nor a judge, or one of them cannot be called as such.
    """

    detector: DetectorLike | None = None
    """Finds the flaws of images; also a function of an image (see ``refiner.plain.as_detector``)."""
    judge: JudgeLike | None = None
    """Scores images against their prompts; images without a prompt have no score. See ``refiner.plain.as_judge``."""
    encoder: BertScore | None = None
    """Compares the explanations of the detector with the true ones, if they are known."""
    sentences: SentenceEncoder | None = None
    """The same for whole texts (CSS)."""
    descriptions: SentenceEncoder | None = None
    """Compares each found defect with each true one of its type (DescCos)."""
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.detector is None and self.judge is None:
            raise ConfigError("Expected a detector or a judge, got neither: name one of them.")
        if self.batch_size < 1:
            raise ConfigError(f"Expected a batch size of at least 1, got {self.batch_size}: choose a larger one.")
        self._detector = None if self.detector is None else as_detector(self.detector)
        judge = self.judge
        streams = isinstance(judge, Streaming) and not isinstance(judge, Scorer)  # then ``score`` is not needed
        self._judge = None if judge is None else cast(Judge, judge) if streams else as_judge(judge)

    def identity(self) -> Json:
        """Detector, judge and encoders."""
        return {
            "detector": self._detector and self._detector.name,
            "judge": self._judge and (self._judge.signature if isinstance(self._judge, Signed) else self._judge.name),
            "encoder": self.encoder and self.encoder.signature,
            "sentences": self.sentences and self.sentences.signature,
            **({"descriptions": f"desccos|{self.descriptions.encoding}"} if self.descriptions else {}),
        }

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """``analysis``, ``score``, ``similarity``, ``css`` (each may be None) and ``notes`` of each sample.

        With an encoder of descriptions also ``descriptions``: the cosines by type of defect, if the truth is known. If
        a model fails on a sample, the error comes instead, and no model is asked again about the others.

        Raises:
            ConfigError: a sample without an image.
            UserError: a model cannot be used at all, for example because its key is missing.
        """
        images = []
        for sample in samples:
            if sample.image is None:
                raise ConfigError(
                    f"The data holds only prompts, such as {sample.name!r}: name a folder of images as --data."
                )
            images.append(sample.image)
        found: Sequence[Analysis | RefinerError | None] = [None] * len(samples)
        if self._detector is not None:
            found = prompted_outcomes(self._detector, images, [sample.prompt for sample in samples])
        return self.answers(samples, images, found)

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of detector and judge, by model."""
        return ledgers_of([self._detector, self._judge])

    def answers(
        self,
        samples: Sequence[Sample],
        images: Sequence[Image.Image],
        analyses: Sequence[Analysis | RefinerError | None],
    ) -> list[Answer]:
        """The answers, given those of the detector, or its errors."""
        errors = {place: _of_sample(each) for place, each in enumerate(analyses) if isinstance(each, RefinerError)}
        left = [place for place in range(len(samples)) if place not in errors]
        scores = self._scores([samples[place] for place in left], [images[place] for place in left])
        rows: dict[int, Answer] = {**errors}
        for place, scored in zip(left, scores, strict=True):
            analysis = analyses[place]
            assert not isinstance(analysis, RefinerError)
            try:
                rows[place] = self._answer(samples[place], analysis, scored)
            except (ModelError, InputError) as error:
                rows[place] = error
        return [rows[place] for place in range(len(samples))]

    def _answer(self, sample: Sample, analysis: Analysis | None, scored: _Judged) -> Json:
        if scored.error is not None:
            raise scored.error
        row: Json = {"analysis": None, "score": scored.score, "similarity": None, "css": None}
        notes = [[note_kind(note), f"{sample.name}: {note}"] for note in scored.notes]
        if analysis is not None:
            analysis = _sound(sample.name, analysis, notes)
            row["analysis"] = analysis_to_dict(analysis, arrays=True)
            row |= self._compared(sample, analysis, notes)
            if self.descriptions is not None and sample.truth is not None:
                row["descriptions"] = description_cosines(analysis, sample.truth, self.descriptions)
                notes += _unread(sample.name, (analysis, sample.truth), self.descriptions)
        return row | {"notes": notes}

    def _scores(self, samples: Sequence[Sample], images: Sequence[Image.Image]) -> list[_Judged]:
        """The scores of the judge, or its errors; none for samples without a prompt."""
        scores, judge = [_Judged(None)] * len(samples), self._judge
        prompted = [at for at, sample in enumerate(samples) if sample.prompt]
        if judge is None or not prompted:
            return scores
        scored, prompts = [images[at] for at in prompted], [samples[at].prompt for at in prompted]
        opinions = judge.stream(scored, prompts) if isinstance(judge, Streaming) else _opinions(judge, scored, prompts)
        for at, opinion in zip(prompted, opinions, strict=True):
            error, score = opinion.error, opinion.score
            if error is None and (score is None or not math.isfinite(score)):
                words = f"gave the score {score}, which is not a finite number: check the image."
                error = ModelError(f"{judge.name} {words}")
            scores[at] = _Judged(None, _of_sample(error)) if error else _Judged(score, notes=opinion.notes)
        return scores

    def _compared(self, sample: Sample, analysis: Analysis, notes: list[list[str]]) -> Json:
        """``similarity`` and ``css`` of an answer; ``notes`` gets the texts that an encoder could not read in full."""
        found: Json = {}
        sample, analysis = sample.perceptual, analysis.perceptual
        said = from_regions(analysis.regions)
        if sample.anomalies is None:
            return found
        if self.encoder is not None:
            found["similarity"] = _similarity(sample.name, said, sample.anomalies, self.encoder, notes)
        if self.sentences is not None and sample.anomalies:
            from refiner.metrics.css import css_scores

            texts = (joined_text(said), joined_text(sample.anomalies))
            if sample.caption:
                texts = (caption_of(analysis), sample.caption)
            scores = css_scores(texts[:1], texts[1:], self.sentences)
            found["css"] = scores["css"]
            notes += [["long_text", f"{sample.name}: longer than the sentence encoder reads"]] * scores["cut"]
            notes += [["empty_text", f"{sample.name}: no explanation, or no true one; CSS 0"]] * scores["empty"]
        return found


def _unread(name: str, sides: Sequence[Analysis], encoder: SentenceEncoder) -> list[list[str]]:
    """Notes on descriptions that are longer than the encoder reads."""
    texts = {region.explanation for side in sides for region in side.regions}
    cut = sum(encoder.is_cut(text) for text in texts)
    return [["long_text", f"{name}: a description is longer than the sentence encoder reads"]] * cut


def _sound(name: str, analysis: Analysis, notes: list[list[str]]) -> Analysis:
    """The analysis without a heat map that is out of range; ``notes`` gets a note about it."""
    values = analysis.heatmap
    if values is None or (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        return analysis
    notes.append(["bad_heatmap", f"{name}: expected a heat map in [0, 1], got {values.min()} to {values.max()}"])
    return replace(analysis, heatmap=None)


def note_kind(note: str) -> str:
    """The kind under which a note of a judge is counted."""
    return DIFFERENCES.get(note, "long_text" if "cut to" in note else "note")


class _Judged(NamedTuple):
    """The answer of a judge; the part of the outcomes of ``HPSScorer.stream`` that is used here."""

    score: float | None
    error: RefinerError | None = None
    notes: tuple[str, ...] = ()


def _opinions(judge: Judge, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[_Judged]:
    """The scores of a judge; if it fails on several images, it gets them one by one."""
    try:
        return [_Judged(float(score)) for score in read_scores(judge.score(images, prompts), images, judge.name)]
    except (ModelError, InputError) as error:
        if len(images) == 1:
            return [_Judged(None, error)]
    return [
        opinion
        for image, prompt in zip(images, prompts, strict=True)
        for opinion in _opinions(judge, [image], [prompt])
    ]


def _of_sample(error: RefinerError) -> ModelError | InputError:
    """The error of a sample; any other ends the run."""
    if isinstance(error, ModelError | InputError):
        return error
    raise error


def _similarity(
    name: str, said: tuple[Claim, ...], true: tuple[Claim, ...], encoder: BertScore, notes: list[list[str]]
) -> Json:
    from refiner.metrics.semap import Match, similarities

    problems: list[Problem] = []
    found = next(similarities([Match(name, said, true)], encoder, ("prediction", "reference"), problems), None)
    if found is None:
        reasons = [str(each) for each in problems if each.kind == "not_finite"]
        raise ModelError(f"The text encoder gave features that are not finite ({reasons[0]}): check the text.")
    notes += [[each.kind, str(each)] for each in problems]
    return found.to_dict()


@dataclass(kw_only=True)
class Refining:
    """Refines samples one by one, and evaluates the start, the last and the best image of each.

    The analyses are those of the detector of the loop; the judge scores against the prompt of the sample.
    """

    refine: Callable[[Sample], RefinementResult]
    settings: Json
    """Everything that it depends on: models and settings."""
    looker: Looker
    """Only its judge and encoder are used."""
    pictures: Path
    """Folder of the run; images go to ``pictures/`` in it."""
    parts: Sequence[object] = ()
    """The detector, the reviser and others that may ask chat models, whose costs are counted."""
    batch_size: int = 1

    def identity(self) -> Json:
        """Settings, judge and encoder."""
        looker = self.looker.identity()
        return {"refiner": self.settings, "judge": looker["judge"], "encoder": looker["encoder"]}

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the chat models of all parts, by model."""
        return ledgers_of(self.parts)

    def __call__(self, samples: Sequence[Sample]) -> list[Json]:
        """``stop``, ``verified``, ``calls``, ``rounds``, ``notes``; ``before``, ``last``, ``best``: of ``Looker``.

        Raises:
            ModelError: no image could be generated and analysed.
        """
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Json:
        if not sample.prompt:
            raise ConfigError(f"Expected a prompt for every image, got none for {sample.name!r}: pass --prompts.")
        result = self.refine(sample)
        seen = [attempt for attempt in result.attempts if attempt.image is not None and attempt.analysis is not None]
        if not seen:
            last = result.attempts[-1]
            raise ModelError(f"None of {len(result.attempts)} attempts could be analysed: {last.error or last.reason}.")
        best = result.attempts[result.best]
        if not result.verified and best not in seen:
            raise ModelError(f"The image that was kept could not be analysed: {best.error or best.reason}.")
        chosen = {"before": seen[0], "last": seen[-1], "best": best if best in seen else seen[0]}
        looks = self._looks(sample, list(dict.fromkeys(chosen.values())))
        calls = result.calls
        return {
            "stop": result.stop,
            "verified": result.verified,
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
        answers = map(value_of, self.looker.answers([sample] * len(images), images, analyses))
        looks = {}
        for attempt, image, look in zip(attempts, images, answers, strict=True):
            plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in sample.name)
            file = f"{PICTURES}/{plain[:80]}-{digest([sample.name])[:8]}-{attempt.index:02d}.png"
            given = attempt.action == "inpaint" and sample.image is not None
            label = {} if attempt.action == "given" else ai_label(from_given_image=given)
            (self.pictures / PICTURES).mkdir(parents=True, exist_ok=True)
            atomic_write(self.pictures / file, png_bytes(image, label))
            facts = {"attempt": attempt.index, "action": attempt.action, "error": attempt.error}
            looks[attempt.index] = look | facts | {"picture": file}
        return looks


@dataclass(kw_only=True)
class Painting:
    """Generates images and writes them to files, and evaluates nothing: a system of the harness.

    An image depends only on the seed, its name and the settings of the model, not on the batch, the order or other
    generators. All generators use the same seed for an image of the same name.
    """

    paint: Callable[[Sequence[PaintJob]], list[Image.Image]]
    settings: Json
    """Everything that the images depend on: model, weights, arguments of its call."""
    folder: Path
    """Of the run; images go to ``pictures/`` in it."""
    seed: int
    negative_prompt: str = ""
    batch_size: int = 8

    def identity(self) -> Json:
        """Model and seed."""
        return {**self.settings, "seed": self.seed}

    def seed_of(self, sample: Sample) -> int:
        """The seed of an image."""
        return derive_seed(self.seed, sample.name)

    def painted(self, samples: Sequence[Sample]) -> list[Sample]:
        """Generate the images of samples, and write them.

        Raises:
            ModelError: the model cannot generate an image.
        """
        jobs = [
            PaintJob(prompt=sample.prompt, negative_prompt=self.negative_prompt, seed=self.seed_of(sample))
            for sample in samples
        ]
        generated = []
        for sample, image in zip(samples, self.paint(jobs), strict=True):
            path = picture_file(self.folder, sample.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, png_bytes(image, ai_label(from_given_image=False)))
            generated.append(replace(sample, image=image))
        return generated

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """``picture`` (path from the folder), ``seed`` and ``notes`` (none) of each image.

        Raises:
            ModelError: the model cannot generate an image.
        """
        files = [picture_file(self.folder, sample.name) for sample in self.painted(samples)]
        return [
            {"picture": file.relative_to(self.folder).as_posix(), "seed": self.seed_of(sample), "notes": []}
            for sample, file in zip(samples, files, strict=True)
        ]


@dataclass(kw_only=True)
class Generating(Painting):
    """Generates images as ``Painting`` does, and evaluates them."""

    looker: Looker

    def identity(self) -> Json:
        """Model, seed, detector, judge and encoders."""
        return {**super().identity(), **self.looker.identity()}

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the looker."""
        return self.looker.ledgers()

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """The answers of the looker, each with the ``seed`` of its image.

        Raises:
            ModelError: the model cannot generate an image.
        """
        return _inspected(self.looker, self, self.painted(samples))


@dataclass(kw_only=True)
class Inspecting:
    """Evaluates images that a ``Painting`` has written before; identity and answers are those of ``Generating``."""

    painting: Painting
    looker: Looker
    batch_size: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size = self.looker.batch_size

    def identity(self) -> Json:
        """Model, seed, detector, judge and encoders."""
        return {**self.painting.identity(), **self.looker.identity()}

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of the looker."""
        return self.looker.ledgers()

    def __call__(self, samples: Sequence[Sample]) -> list[Answer]:
        """The answers of the looker, each with the ``seed`` of its image."""
        return _inspected(self.looker, self.painting, samples)


def _inspected(looker: Looker, painting: Painting, samples: Sequence[Sample]) -> list[Answer]:
    return [
        answer if isinstance(answer, RefinerError) else answer | {"seed": painting.seed_of(sample)}
        for sample, answer in zip(samples, looker(samples), strict=True)
    ]


def picture_file(folder: Path, name: str) -> Path:
    """File of a generated image: ``pictures/NAME.png`` in the folder of the run, if that is a plain path.

    So the folder of images can be ranked later.
    """
    parts = name.split("/")
    if not all(_PLAIN.fullmatch(part) and part == part.strip(" .") for part in parts):
        parts = [f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}-{digest([name])[:8]}"]
    return folder.joinpath(PICTURES, *parts[:-1], f"{parts[-1]}.png")
