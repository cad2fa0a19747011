"""SemAP and SemF1: how well predicted anomalies agree with the references (AnomReason, arXiv 2510.10231).

The default, ``protocol="official"``, computes what the authors' evaluator computes. This is not an average precision in
the usual sense. A pair's score is the BERTScore F1 of the phenomena, of the reasonings, or the mean of both (views
``phe``, ``rea``, ``full``). Within an image the best pair is matched first, one to one, down to scores of 0. At each
threshold the pairs that reach it are true positives. Precision and F1 are averaged over thresholds, then over images.
An image without anomalies on both sides scores 0. ``protocol="ranked"`` is our reading of the paper's precision-recall
curves: predictions are sorted by severity, the worst first, and SemAP is the area under the interpolated curve.

CSemAP and CSemF1 are the same figures after ``gate``: explanations count only if the image was called generated.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from refiner.data.anomreason import (
    AnomalySet,
    Answers,
    basename,
    label_of,
    read_anomalies,
    read_answers,
    read_subset,
)
from refiner.data.names import same
from refiner.data.problems import Problem
from refiner.errors import InputError, WeightsError
from refiner.metrics.bertscore import BertScore, Tokens, compare
from refiner.metrics.semap_scoring import SemapConfig, SemapResult, Similarity, score
from refiner.types import Claim

_TEXTS_AT_A_TIME = 512


class Match(NamedTuple):
    """An image that both files have."""

    image: str
    predictions: tuple[Claim, ...]
    references: tuple[Claim, ...]


def match_images(
    predictions: AnomalySet, references: AnomalySet, missing: Literal["dropped", "empty"] = "dropped"
) -> tuple[list[Match], list[Problem]]:
    """Match the images of two files, in the order of their names.

    Images are matched by file name, regardless of their folders. If a file has several images of one name, these are
    matched by their whole path (the official evaluator stops there). Unreadable predictions count as predicted without
    anomalies; unreadable references are left out.

    Returns:
        The images that both files have, and the problems ``duplicate_basename``, ``unknown_image``, ``missing_image``.
    """
    matches: list[Match] = []
    problems: list[Problem] = []
    for image, predicted, referred in _same_image(predictions, references, problems):
        if referred is None:
            detail = "predicted, but not in the references; left out"
            problems.append(Problem("unknown_image", predictions.file, image, detail))
            continue
        if predicted is None:
            fate = "left out" if missing == "dropped" else "counted as predicted without anomalies"
            problems.append(Problem("missing_image", references.file, image, f"without a prediction; {fate}"))
        if referred not in references.unreadable and (predicted is not None or missing == "empty"):
            found = predictions.images[predicted] if predicted is not None else ()
            matches.append(Match(image, found, references.images[referred]))
    return matches, problems


def _same_image(
    predictions: AnomalySet, references: AnomalySet, problems: list[Problem]
) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, key among the predictions and key among the references of each image."""
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, part in enumerate((predictions, references)):
        for key in part.images:
            groups[basename(key)][side].append(key)
    for name, keys in sorted(groups.items()):
        for part, own in zip((predictions, references), keys, strict=True):
            if len(own) > 1:
                detail = f"{len(own)} images have this name ({', '.join(sorted(own)[:3])}); matched by their whole path"
                problems.append(Problem("duplicate_basename", part.file, name, detail))
        if max(map(len, keys)) == 1:
            yield name, next(iter(keys[0]), None), next(iter(keys[1]), None)
        else:
            predicted, referred = ({same(key): key for key in own} for own in keys)
            for path in sorted({*predicted, *referred}):
                yield path, predicted.get(path), referred.get(path)


def similarities(
    matches: Sequence[Match], encoder: BertScore, files: tuple[str, str], problems: list[Problem]
) -> Iterator[Similarity]:
    """Compare the anomalies of each image. About 512 texts are encoded at a time, each distinct text once.

    Args:
        matches: the images.
        encoder: compares texts.
        files: names of the files of predictions and references, for problems.
        problems: gets ``long_text`` and ``empty_text`` if the encoder does not read the whole text, and ``not_finite``
            if it returns NaN or infinity; such an image is left out.
    """
    for chunk in _chunks(matches):
        sides = [anomalies for each in chunk for anomalies in (each.predictions, each.references)]
        texts = [text for side in sides for one in side for text in (one.explanation, one.reasoning)]
        tokens = iter(encoder.encode(texts))
        for each in chunk:
            read = [
                _read(each.image, part, tokens, file, encoder, problems)
                for part, file in zip(each[1:], files, strict=True)
            ]
            (phenomena, reasonings), (wanted_phenomena, wanted_reasonings) = read
            if not all(one.finite for side in read for field in side for one in field):
                continue
            yield Similarity(
                image=each.image,
                phenomenon=compare(phenomena, wanted_phenomena).f1,
                reasoning=compare(reasonings, wanted_reasonings).f1,
                confidence=tuple(anomaly.severity for anomaly in each.predictions),
            )


def _read(
    image: str,
    anomalies: Sequence[Claim],
    tokens: Iterator[Tokens],
    file: str,
    encoder: BertScore,
    problems: list[Problem],
) -> tuple[list[Tokens], list[Tokens]]:
    """The tokens of the phenomena and of the reasonings of one side of an image."""
    fields: tuple[list[Tokens], list[Tokens]] = ([], [])
    for at, anomaly in enumerate(anomalies):
        texts = {"phenomenon": anomaly.explanation, "reasoning": anomaly.reasoning}
        for (name, text), field in zip(texts.items(), fields, strict=True):
            field.append(next(tokens))
            where = f"{image}, anomaly {at}"
            if not field[-1].finite:
                detail = f"the encoder's features of the {name} are not finite numbers; the image is left out"
                problems.append(Problem("not_finite", file, where, detail))
            if field[-1].cut:
                detail = f"the {name} is longer than the encoder's {encoder.max_length} tokens; its end is ignored"
                problems.append(Problem("long_text", file, where, detail))
            elif field[-1].empty and text:
                problems.append(Problem("empty_text", file, where, f"the encoder reads nothing in the {name}"))
    return fields


def _chunks(matches: Sequence[Match]) -> Iterator[list[Match]]:
    chunk: list[Match] = []
    texts = 0
    for each in matches:
        chunk.append(each)
        texts += 2 * (len(each.predictions) + len(each.references))
        if texts >= _TEXTS_AT_A_TIME:
            yield chunk
            chunk, texts = [], 0
    if chunk:
        yield chunk


def evaluate(
    predictions: AnomalySet, references: AnomalySet, encoder: BertScore, config: SemapConfig | None = None
) -> SemapResult:
    """SemAP and SemF1 of predictions against references.

    Raises:
        InputError: the two have no image in common.
        WeightsError: the encoder returns finite numbers for no image.
    """
    config = config or SemapConfig()
    matches, problems = match_images(predictions, references, config.missing)
    if not matches:
        names = [next(iter(part.images), "none") for part in (predictions, references)]
        raise InputError(
            f"{references.file!r} (such as {names[1]!r}) and {predictions.file!r} (such as {names[0]!r}) have no image "
            "in common: give two files of the same images."
        )
    problems = [*predictions.problems, *references.problems, *problems]
    compared = similarities(matches, encoder, (predictions.file, references.file), problems)
    first = next(compared, None)
    if first is None:
        raise WeightsError(
            f"The encoder {encoder.name!r} returns NaN or infinity for each of {len(matches)} images: download its "
            "weights again."
        )
    official = dataclasses.replace(config, view="full") == SemapConfig()
    comparable = "yes" if encoder.published and official else "no"
    result = score(chain([first], compared), config, f"{encoder.signature}|comparable_with_published={comparable}")
    return dataclasses.replace(result, problems=tuple(problems))


def score_files(
    predictions: str | Path,
    references: str | Path,
    *,
    encoder: str | Path | BertScore | None = None,
    layer: int | None = None,
    device: str | None = None,
    config: SemapConfig | None = None,
    answers: str | Path | None = None,
    subset: str | Path | None = None,
) -> SemapResult:
    """SemAP and SemF1 of a file of predictions against a file of references.

    Args:
        predictions: JSON of image name -> list of anomalies.
        references: the same.
        encoder: a loaded encoder, or see ``BertScore.from_pretrained``.
        layer: of the encoder.
        device: of the encoder, see ``BertScore.from_pretrained``.
        config: what is counted.
        answers: JSON of image name -> yes or no, for CSemAP and CSemF1.
        subset: JSON of the images to score, see ``refiner.data.anomreason.read_subset``; None for all.

    Raises:
        InputError: a file cannot be read, or they have no image in common.
        ModelNotFoundError: there is no such encoder.
        WeightsError: the encoder cannot be used.
        ConfigError: it has no such layer.
    """
    predicted, referred = read_anomalies(predictions), read_anomalies(references)
    chosen = None if subset is None else read_subset(subset)
    if chosen is not None:
        problems = (*predicted.problems, *chosen.problems)
        predicted, referred = chosen.of(dataclasses.replace(predicted, problems=problems)), chosen.of(referred)
    gated = predicted if answers is None else gate(predicted, read_answers(answers))
    if not isinstance(encoder, BertScore):
        encoder = BertScore.from_pretrained(encoder, layer=layer, device=device)
    result = evaluate(gated, referred, encoder, config)
    signature = result.signature if chosen is None else f"{result.signature}|{chosen.signature}"
    return dataclasses.replace(result, signature=signature if answers is None else f"c{signature}")


def gate(predictions: AnomalySet, answers: Answers) -> AnomalySet:
    """The predictions that CSemAP and CSemF1 count: none for an image that was not called generated.

    An answer is looked up by the image's whole path, then by its file name if no other image has that name. Images that
    are real by their path (``0_real``) are left out. Problems: ``missing_answer``, ``real_image``.
    """
    by_name: dict[str, list[bool | None]] = defaultdict(list)
    for key, answer in answers.fake.items():
        by_name[basename(key)].append(answer)
    images: dict[str, tuple[Claim, ...]] = {}
    problems = [*predictions.problems, *answers.problems]
    for key, anomalies in predictions.images.items():
        if label_of(key) is False:
            problems.append(Problem("real_image", predictions.file, key, "not a generated image; left out"))
            continue
        found = [answers.fake[key]] if key in answers.fake else by_name[basename(key)]
        if len(found) != 1:
            detail = f"expected one answer in {answers.file}, got {len(found)}; counted as not called generated"
            problems.append(Problem("missing_answer", predictions.file, key, detail))
        images[key] = anomalies if found == [True] else ()
    return dataclasses.replace(predictions, images=images, problems=tuple(problems))
