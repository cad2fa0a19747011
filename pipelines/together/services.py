"""Models that several images ask together.

A service shares its costs among the images that asked: seconds and the costs of chat models by the number of their
requests, so that the sums are exact; denoiser rows as each image caused them, where the model tells that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from PIL import Image

from refiner import answers, protocols
from refiner.ledger import Ledger, added, ledgers_of, since
from refiner.pipelines.painting.out_of_memory import NoMemoryError, with_memory
from refiner.protocols import InpaintJob, Judge, PaintJob, Reviser, Revision


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a service answers to an image: a value or an exception, and the share of the costs."""

    value: Any = None
    error: Exception | None = None
    remarks: tuple[str, ...] = ()
    rows: int = 0
    """Denoiser rows."""
    seconds: float = 0.0
    costs: Mapping[str, Ledger] = field(default_factory=dict)


class Asked(Protocol):
    """A service of a ``Scheduler`` that images ask."""

    @property
    def rank(self) -> int: ...

    def serve(self, items: Sequence[Any]) -> list[Answer]: ...


class Steps:
    """Calls functions one after the other, such as the one that makes the start images. Their time is nobody's."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def serve(self, items: Sequence[Callable[[], Any]]) -> list[Answer]:
        """Call each function."""
        return [_tried(item) for item in items]


class Revisions:
    """A reviser; one that waits for a server gets several requests at the same time."""

    rank = 2

    def __init__(self, reviser: Reviser) -> None:
        self.reviser = reviser

    def serve(self, items: Sequence[Callable[[Reviser], Revision]]) -> list[Answer]:
        """Ask the reviser for each image."""
        together = self.reviser.concurrency if isinstance(self.reviser, protocols.Concurrent) else 1
        with _Costs(self.reviser) as costs:
            if min(together, len(items)) == 1:
                answered = [_tried(item, self.reviser) for item in items]
            else:
                with ThreadPoolExecutor(min(together, len(items))) as pool:
                    answered = list(pool.map(_tried, items, [self.reviser] * len(items)))
        return costs.shared(answered, [1] * len(items))


Ask = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[Any]]


class Looks:
    """A detector or a judge, asked about several images at a time.

    Args:
        part: the detector or judge.
        ask: returns its answer, or an error, for each of some pictures.
        rank: see ``Service``.
        most: pictures in one call of it; halved if memory runs out. A part that waits for a server gets all.
    """

    def __init__(self, part: protocols.Detector | Judge, ask: Ask, *, rank: int, most: int) -> None:
        self.name, self.rank = part.name, rank
        self._part, self._ask = part, ask
        self._most = None if isinstance(part, protocols.Concurrent) else most

    def serve(self, items: Sequence[tuple[Sequence[Image.Image], Sequence[str]]]) -> list[Answer]:
        """Return an answer or an error for each picture of each image."""
        with _Costs(self._part) as costs:
            answered = self._answers(items)
        return costs.shared(answered, [len(pictures) for pictures, _ in items])

    def _answers(self, items: Sequence[tuple[Sequence[Image.Image], Sequence[str]]]) -> list[Answer]:
        """Ask about all pictures; if that fails, about those of each image."""
        pictures = [picture for shown, _ in items for picture in shown]
        prompts = [prompt for _, asked in items for prompt in asked]
        try:
            found = iter(self._all(pictures, prompts))
        except Exception as error:
            if len(items) == 1:
                return [Answer(error=error)]
            return [answer for item in items for answer in self._answers([item])]
        return [Answer(value=[next(found) for _ in shown]) for shown, _ in items]

    def _all(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        while len(found) < len(pictures):
            part = slice(len(found), None if self._most is None else len(found) + self._most)
            try:
                found += with_memory(self._ask, pictures[part], prompts[part])
            except NoMemoryError:
                count = len(pictures[part])
                if count == 1:
                    raise
                self._most = count // 2
        return found


def looks_of(detector: protocols.Detector, most: int) -> Looks:
    """The service of a detector."""
    return Looks(detector, partial(answers.outcomes, detector), rank=3, most=most)


def scores_of(judge: Judge, most: int) -> Looks:
    """The service of a judge."""
    return Looks(judge, partial(answers.score_outcomes, judge), rank=4, most=most)


class Images:
    """A generator. If it can, it generates several images in one call."""

    rank = 5

    def __init__(self, generator: protocols.Generator) -> None:
        self.generator = generator

    def serve(self, items: Sequence[Sequence[PaintJob]]) -> list[Answer]:
        """Return the images of the jobs of each image."""
        if not isinstance(self.generator, protocols.Batching) or len(items) == 1:
            return [self._alone(jobs) for jobs in items]
        with _Costs(self.generator) as costs:
            made = self._together(self.generator, items)
        answered = [self._alone(jobs) for jobs in items] if made is None else made
        return costs.shared(answered, [len(jobs) for jobs in items])

    def _alone(self, jobs: Sequence[PaintJob]) -> Answer:
        with _Costs(self.generator) as costs:
            made = _tried(self.generator.generate, jobs)
        return costs.shared([made], [1])[0]

    def _together(self, generator: protocols.Batching, items: Sequence[Sequence[PaintJob]]) -> list[Answer] | None:
        """Generate for several images together; None if that fails, so that only those fail whose fault it is."""
        try:
            made = iter(generator.generate_together([job for jobs in items for job in jobs]))
        except Exception:
            return None
        return [_answer([next(made) for _ in jobs]) for jobs in items]


class Patches:
    """An inpainter. If it can, it inpaints the regions of several images in the same batches."""

    rank = 6

    def __init__(self, inpainter: protocols.Inpainter, generator: protocols.Generator) -> None:
        self.inpainter, self.generator = inpainter, generator

    def serve(self, items: Sequence[Sequence[InpaintJob]]) -> list[Answer]:
        """Return the inpainted images of the jobs of each image."""
        if not isinstance(self.inpainter, protocols.Grouping) or len(items) == 1:
            return [self._alone(jobs) for jobs in items]
        with _Costs(self.inpainter, self.generator) as costs:
            made = self._grouped(self.inpainter, items)
        if made is None:
            made = [self._alone(jobs) for jobs in items]
        else:
            costs.rows = 0  # each answer has its own
        return costs.shared(made, [len(jobs) for jobs in items])

    def _grouped(self, inpainter: protocols.Grouping, items: Sequence[Sequence[InpaintJob]]) -> list[Answer] | None:
        """Inpaint for several images together; None if that fails, so that only those fail whose fault it is."""
        try:
            made = inpainter.inpaint_each(items)
        except Exception:
            return None
        said = _remarks(inpainter)
        return [
            Answer(value=each.images, error=each.error, remarks=(*said, *each.remarks), rows=each.rows) for each in made
        ]

    def _alone(self, jobs: Sequence[InpaintJob]) -> Answer:
        with _Costs(self.inpainter, self.generator) as costs:
            made = _tried(self.inpainter.inpaint, jobs)
        return costs.shared([replace(made, remarks=_remarks(self.inpainter))], [1])[0]


class _Costs:
    """Measures what parts cost inside a ``with`` block."""

    def __init__(self, *parts: object) -> None:
        self._parts = parts

    def __enter__(self) -> _Costs:
        self._began, self._rows, self._ledgers = time.monotonic(), _rows(self._parts), ledgers_of(self._parts)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.rows = time.monotonic() - self._began, _rows(self._parts) - self._rows
        self.costs = since(self._ledgers, ledgers_of(self._parts))

    def shared(self, made: Sequence[Answer], weights: Sequence[int]) -> list[Answer]:
        """Add the costs to the answers, by weights that sum to more than 0."""
        total, before = sum(weights), 0
        found = []
        for answer, weight in zip(made, weights, strict=True):
            parts = (before, before + weight, total)
            costs = added(answer.costs, {name: _part_of(ledger, *parts) for name, ledger in self.costs.items()})
            rows, seconds = answer.rows + _whole(self.rows, *parts), answer.seconds + self.seconds * weight / total
            found.append(replace(answer, rows=rows, costs=costs, seconds=seconds))
            before += weight
        return found


def _part_of(ledger: Ledger, first: int, last: int, total: int) -> Ledger:
    counts = {name: value for name, value in vars(ledger).items() if isinstance(value, int)}
    shares = {name: _whole(value, first, last, total) for name, value in counts.items()}
    return Ledger(**shares, seconds=ledger.seconds * (last - first) / total)


def _whole(count: int, first: int, last: int, total: int) -> int:
    """The share of a count, as a whole number; the shares of all parts sum to the count."""
    return count * last // total - count * first // total


def _rows(parts: Sequence[object]) -> int:
    return sum(part.spent().denoiser_rows for part in parts if isinstance(part, protocols.Spender))


def _answer(images: Sequence[Image.Image | Exception]) -> Answer:
    """The images, or the first error among them."""
    errors = [image for image in images if isinstance(image, Exception)]
    return Answer(error=errors[0]) if errors else Answer(value=list(images))


def _remarks(inpainter: object) -> tuple[str, ...]:
    return tuple(inpainter.remarks()) if isinstance(inpainter, protocols.Remarking) else ()


def _tried(work: Callable[..., Any], *args: Any) -> Answer:
    try:
        return Answer(value=work(*args))
    except Exception as error:
        return Answer(error=error)
