"""COCO's instance annotations (Microsoft COCO, ECCV 2014; the format of pycocotools)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from typing import Final, TextIO

import numpy as np

from refiner.data.writing.entries import Entry, Flaw
from refiner.files import Json, dumps
from refiner.masks import rle_encode
from refiner.taxonomy import PERCEPTUAL, Category

UNKNOWN: Final = "flaw"
"""The category of a flaw without one."""
IDS: Final = {str(name): number for number, name in enumerate((*PERCEPTUAL, UNKNOWN, Category.MISALIGNMENT), start=1)}
"""Category -> its id."""
_IN_MEMORY: Final = 2**22
"""Bytes of records of images; more of them wait in a temporary file."""


def write_coco(entries: Iterable[Entry], stream: TextIO, *, info: Json | None = None) -> None:
    """Write one JSON object with ``categories``, ``annotations`` and ``images``.

    An annotation has ``bbox`` as [x, y, width, height] in pixels, ``area`` in pixels and the ``description``. If the
    mask is known, ``segmentation`` has its uncompressed run lengths; else the area is that of the box. ``file_name`` of
    an image is its path below ``images/``. ``label`` of an image is ``fake`` or ``real``, if that is known.
    ``unplaced`` lists its flaws whose place is not known, if there are any. ``info``, if given, is written as it is.
    """
    categories = [{"id": number, "name": name, "supercategory": UNKNOWN} for name, number in IDS.items()]
    about = "" if info is None else f'"info": {dumps(info, indent=None)},\n'
    stream.write(f'{{{about}"categories": {dumps(categories, indent=None)},\n"annotations": [')
    count = 0
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as images:
        for number, entry in enumerate(entries, start=1):
            images.write(_separator(number) + dumps(_image(entry, number), indent=None))
            for flaw in entry.flaws:
                count += 1
                stream.write(_separator(count) + dumps(_annotation(flaw, count, number), indent=None))
        stream.write('\n],\n"images": [')
        images.seek(0)
        shutil.copyfileobj(images, stream)
    stream.write("\n]}\n")


def _separator(number: int) -> str:
    """Before the record of this number."""
    return ",\n" if number > 1 else "\n"


def _image(entry: Entry, number: int) -> Json:
    facts: Json = {"id": number, "file_name": entry.image, "width": entry.size.width, "height": entry.size.height}
    if entry.fake is not None:
        facts["label"] = "fake" if entry.fake else "real"
    return facts | ({"unplaced": list(entry.unplaced)} if entry.unplaced else {})


def _annotation(flaw: Flaw, number: int, image: int) -> Json:
    x0, y0, x1, y1 = flaw.box
    annotation: Json = {
        "id": number,
        "image_id": image,
        "category_id": IDS[str(flaw.category or UNKNOWN)],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
        "description": flaw.description,
    }
    if flaw.mask is None:
        return annotation
    mask = flaw.mask()
    return annotation | {"area": int(np.count_nonzero(mask)), "segmentation": rle_encode(mask)}
