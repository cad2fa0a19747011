"""What people said about the candidates, in numbers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from refiner.errors import InputError
from refiner.files import Json
from refiner.metrics.agreement import Kappa, cohen_kappa, fleiss_kappa
from refiner.verify.judgements import Answer, is_accepted
from refiner.verify.listing import Row
from refiner.verify.verification import Verification

SUMMARY_FILE = "summary.json"
UNKNOWN = "unknown"
"""The category of candidates without one."""

Answers = Mapping[str, Mapping[str, Answer]]
"""Candidate -> annotator -> answer; candidates without an answer are left out."""


def accepted_rows(verification: Verification, by: str | None = None) -> list[Row]:
    """The accepted candidates, in the order of the list.

    Args:
        verification: candidates and judgements.
        by: the annotator whose word counts; None for the majority of all (``is_accepted``).

    Raises:
        InputError: there is no judgement by this annotator.
    """
    answers = _answers(verification, by)
    return [row for row in verification.listing.rows if row.id in answers and is_accepted(answers[row.id])]


def _answers(verification: Verification, by: str | None) -> Answers:
    names = verification.judgements.annotators()
    if by is not None and by not in names:
        known = ", ".join(names) or "nobody yet"
        raise InputError(f"Expected an annotator who has judged ({known}), got {by!r}: choose one of these.")
    found: dict[str, dict[str, Answer]] = {}
    for name in names if by is None else (by,):
        for candidate, answer in verification.judgements.of(name).items():
            if candidate in verification.rows:
                found.setdefault(candidate, {})[name] = answer
    return found


def summarise(verification: Verification, by: str | None = None) -> Json:
    """Counts, severities before and after, and agreement, ready for JSON.

    Args:
        verification: candidates and judgements.
        by: as for ``accepted_rows``. Counts by annotator and agreement are of all annotators in any case.

    Returns:
        ``candidates``, ``images``, ``duplicates`` and ``problems`` as in ``Listing``; ``by``; ``judged`` and
        ``accepted``: numbers of candidates; ``answers``; ``annotators``: name -> answers, and candidates that are
        ``left``; ``categories``: category -> ``candidates``, ``judged``, ``accepted``; ``per_image``: ``before`` and
        ``after``, candidates and accepted candidates per image; ``severity``: ``before`` and ``after``, each with
        ``count`` and ``mean`` of the known severities; ``agreement``: ``cohen``, a list with a kappa for each pair of
        annotators, and ``fleiss`` of all annotators, None for fewer than three; ``ignored``: lines of the file of
        judgements that are ``unreadable``, and judgements about ``other`` candidates.

    Raises:
        InputError: as for ``accepted_rows``.
    """
    rows, images = verification.listing.rows, verification.listing.images
    answers = _answers(verification, by)
    accepted = accepted_rows(verification, by)
    counts = Counter(answer for said in answers.values() for answer in said.values())
    return {
        "candidates": len(rows),
        "images": images,
        "duplicates": verification.listing.duplicates,
        "problems": dict(verification.listing.problems),
        "by": by,
        "judged": len(answers),
        "accepted": len(accepted),
        "answers": _counted(counts),
        "annotators": _annotators(verification),
        "categories": _categories(rows, answers, accepted),
        "per_image": {"before": len(rows) / images, "after": len(accepted) / images},
        "severity": {"before": _severity(rows), "after": _severity(accepted)},
        "agreement": _agreement(_answers(verification, None), verification.judgements.annotators()),
        "ignored": _ignored(verification),
    }


def severities(rows: Iterable[Row]) -> list[float]:
    """The known severities of candidates, in [0, 1], 1 = worst."""
    return [row.severity for row in rows if row.severity is not None]


def _severity(rows: Iterable[Row]) -> Json:
    known = severities(rows)
    return {"count": len(known), "mean": math.fsum(known) / len(known) if known else None}


def _counted(counts: Mapping[Answer, int]) -> Json:
    return {str(answer): counts.get(answer, 0) for answer in Answer}


def _annotators(verification: Verification) -> Json:
    found: Json = {}
    for name in verification.judgements.annotators():
        said = [answer for id_, answer in verification.judgements.of(name).items() if id_ in verification.rows]
        found[name] = _counted(Counter(said)) | {"left": len(verification.rows) - len(said)}
    return found


def _categories(rows: Sequence[Row], answers: Answers, accepted: Sequence[Row]) -> Json:
    kinds = {
        "candidates": Counter(map(_category, rows)),
        "judged": Counter(_category(row) for row in rows if row.id in answers),
        "accepted": Counter(map(_category, accepted)),
    }
    return {name: {kind: count[name] for kind, count in kinds.items()} for name in sorted(kinds["candidates"])}


def _category(row: Row) -> str:
    return row.category or UNKNOWN


def _ignored(verification: Verification) -> Json:
    judgements = verification.judgements
    other = sum(id_ not in verification.rows for name in judgements.annotators() for id_ in judgements.of(name))
    return {"unreadable": judgements.unreadable, "other": other}


def _agreement(answers: Answers, names: Sequence[str]) -> Json:
    """Cohen's kappa of each pair, and Fleiss' kappa of all."""
    pairs = []
    for one, other in itertools.combinations(names, 2):
        both = [said for said in answers.values() if one in said and other in said]
        kappa = cohen_kappa([said[one] for said in both], [said[other] for said in both])
        pairs.append({"annotators": [one, other], **_kappa(kappa)})
    if len(names) < 3:
        return {"cohen": pairs, "fleiss": None}
    whole = [Counter(said.values()) for said in answers.values() if len(said) == len(names)]
    table = np.array([[said[answer] for answer in Answer] for said in whole], dtype=np.int64)
    kappa = fleiss_kappa(table.reshape(-1, len(Answer)))
    return {"cohen": pairs, "fleiss": {"annotators": list(names), **_kappa(kappa)}}


def _kappa(kappa: Kappa) -> Json:
    return kappa._asdict()
