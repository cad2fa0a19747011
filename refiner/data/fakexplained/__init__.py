"""FakeXplained: generated images with boxes and descriptions of their flaws, and real images (FakeXplain, ICLR 2026).

``FOLDER/annotations.jsonl`` holds a record a line, or ``FOLDER/annotations.json`` a list of records. There are two
kinds of records. A file may mix them, because each record is read by what it is.

**ms-swift's training records**, from which the authors train: ``refiner.data.fakexplained.swift``. The published
archive was never at hand. Known from the authors' code are the names ``annotations.jsonl`` and ``images/`` with the
folders ``batch_a``, ``batch_b``, ``batch_c``, ``real_batch`` and ``real_batch_a``; the keys ``messages``, ``images``
and ``objects`` with ``ref`` and ``bbox``; the placeholders; and the elements ``think``, ``tag`` and ``verdict`` of an
answer. Guesses are that the archive's file has these records, that paths start at the folder or at ``images/``, and
that boxes are in pixels.

**Our own records**, which can hold more about a region: ``refiner.data.fakexplained.own``.
"""

from refiner.data.fakexplained.dataset import FakexplainedData, FakexplainedFile
from refiner.data.fakexplained.images import FakexplainedImage, FakexplainedRegion
from refiner.data.fakexplained.records import find_records, read_images, read_record

__all__ = [
    "FakexplainedData",
    "FakexplainedFile",
    "FakexplainedImage",
    "FakexplainedRegion",
    "find_records",
    "read_images",
    "read_record",
]
