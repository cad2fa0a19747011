"""The right answer about a sample of a data set: its verdict, its flaws with boxes, and its tags."""

from __future__ import annotations

from refiner.data.problems import UnusableError
from refiner.data.samples import Sample
from refiner.data.writing.entries import entry_of
from refiner.detectors.fakexplain.grammar import MAX_REGIONS, Answer, Flaw
from refiner.detectors.reading.shares import shares_of
from refiner.errors import InputError
from refiner.types import Size


def truth_of(sample: Sample) -> Answer:
    """The right answer about a sample.

    The tags are those of the truth. Without them, they are the categories of its flaws, if the data set gives them. A
    flaw whose place is not known is left out; of a joined mask, each connected part is a flaw. Misalignments are left
    out, because the model does not see the prompt.

    Raises:
        InputError: it is not known whether the image is generated, or which flaws a generated image has, or a real
            image has flaws.
    """
    sample, size = sample.perceptual, _size_of(sample)
    try:
        entry = entry_of(sample, "", size, lambda _kind, _detail: None)
    except UnusableError as error:
        raise InputError(f"The truth of the sample {sample.name!r} cannot be used ({error}): correct it.") from error
    if entry.fake and sample.truth is None:
        raise InputError(f"The flaws of the sample {sample.name!r} are not known: leave it out.")
    categories = {str(flaw.category) for flaw in entry.flaws if flaw.category is not None}
    flaws = [Flaw(_described(flaw.name, flaw.description), shares_of(flaw.box, size)) for flaw in entry.flaws]
    return Answer(
        flaws=tuple(flaws[:MAX_REGIONS]), tags=entry.tags or tuple(sorted(categories)), fake=entry.fake is True
    )


def _size_of(sample: Sample) -> Size:
    if sample.truth is not None:
        return sample.truth.size
    return Size(1, 1) if sample.image is None else Size(sample.image.height, sample.image.width)


def _described(name: str, words: str) -> str:
    """What is wrong, in words, with the name of the region before it if there is one."""
    return f"{name}: {words}" if name and name != words else words
