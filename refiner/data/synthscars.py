"""SynthScars: generated images with outlined artifacts, phrases and explanations (LEGION, section 3).

``FOLDER`` is one split, such as ``SynthScars/test``: images in ``images/``, records in ``annotations/test.json``. The
file is a list of objects with one key each::

    {"17": {"img_file_name": "a.jpg", "caption": "Upon examining the image. I have found: ... artifacts. The left hand
            :It has six fingers.", "refs": [{"sentence": "The left hand", "segmentation": [[x1, y1, x2, y2, ...]],
            "bbox": null, "explanation": "It has six fingers.", "type": "structure"}]}}

The key of LEGION's kind of artifact is not documented, nor that of the content (human, object, animal, scene): the keys
``KIND_KEYS`` and ``CONTENT_KEYS`` are tried. If no record gives the content, it is read from ``content_types.json``
(image -> content) or ``content_types.csv`` (columns image, content_type) in the split's folder, if there is one.

Each annotation is a sample. The second one of an image is called ``IMAGE#KEY``; its caption and its outlines belong
together, so that they are not joined with those of the first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from refiner.data.contents import CONTENTS, read_contents
from refiner.data.fields import image_name, is_finite, list_of, text_of
from refiner.data.folders import SUFFIXES, find_images
from refiner.data.json_stream import Place, Places, read_again, stream_list
from refiner.data.names import find_file, same
from refiner.data.problems import Problem, UnusableError, usable_records
from refiner.data.raster import fill_polygons
from refiner.data.samples import Sample
from refiner.errors import InputError
from refiner.images import load_image
from refiner.masks import box_of
from refiner.reading import reason_of
from refiner.taxonomy import FROM_LEGION, Category, LegionKind
from refiner.types import Analysis, Claim, Mask, Region, Size

KIND_KEYS: Final = ("type", "artifact_type", "category", "label", "artifact", "kind", "class")
"""Fields of a ref that may hold the kind of artifact."""
CONTENT_KEYS: Final = ("content_type", "content", "scene_type", "class", "category", "type", "label")
"""Fields of a record that may hold the content of its image."""
_KINDS: Final = {"phys": LegionKind.PHYSICS, "struct": LegionKind.STRUCTURE, "distor": LegionKind.DISTORTION}
_FARTHEST: Final = 1e6
"""Pixels; a corner farther out is an error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthscarsRef:
    """One artifact."""

    phrase: str
    """Where it is, as the caption says it; "" if the record has none."""
    explanation: str
    """May be empty."""
    kind: LegionKind | None
    """None if unknown."""
    outlines: tuple[NDArray[np.float64], ...]
    """Each float (N, 2), N >= 1: x and y in pixels of the image."""

    def mask(self, size: Size) -> Mask:
        """The artifact as LEGION's evaluation draws it: bool (H, W) of ``size``."""
        return fill_polygons([outline.astype(np.float32) for outline in self.outlines], size, clip=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthscarsImage:
    """One annotation of one image."""

    name: str
    """``image``, or ``image#key`` of a second annotation; unique in the split."""
    image: str
    """Path of the image below ``images/``."""
    key: str
    caption: str
    content: str
    """One of ``CONTENTS``; "" if unknown."""
    refs: tuple[SynthscarsRef, ...]
    place: Place
    """Of the record; ``read_record`` reads it again."""
    remarks: tuple[tuple[str, str], ...] = field(default=())
    """Kind and detail of what is missing; the record can be used."""


def find_split(folder: str | Path) -> tuple[Path, Path]:
    """The file of records of a split, and the folder of its images.

    The records of a split may lie in the folder ``annotations`` of another one.

    Raises:
        InputError: no such folder, no split in it, several splits to choose from, or no records.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"Expected a folder of SynthScars, but {str(root)!r} is not a folder: check the path.")
    if not ((root / "images").is_dir() or (root / "annotations").is_dir()):
        splits = sorted(each.name for each in root.iterdir() if (each / "images").is_dir())
        if len(splits) != 1:
            raise InputError(
                f"Expected one split of SynthScars, such as SynthScars/test, got {str(root)!r} with "
                f"{' and '.join(splits) or 'no split'}: name the folder that holds images and annotations."
            )
        root /= splits[0]
    name = f"{root.resolve().name}.json"
    beside = sorted(root.parent.glob(f"*/annotations/{name}")) if root.resolve().parent != root.resolve() else []
    for found in ([root / "annotations" / name], sorted((root / "annotations").glob("*.json")), beside):
        files = [file for file in found if file.is_file()]
        if len(files) == 1:
            return files[0], root / "images"
    raise InputError(
        f"Expected the records of SynthScars in {str(root / 'annotations' / name)!r}, got none: download the data set "
        "again, or put the file there."
    )


def read_images(file: Path, problems: list[Problem], keys: dict[str, str] | None = None) -> Iterator[SynthscarsImage]:
    """Each annotation once, in the order of the records; what cannot be used is added to ``problems``.

    Kinds of problems: ``bad_record``, ``bad_ref`` and ``bad_polygon`` (the record is left out), ``duplicate_image`` (a
    record that repeats image and key; the first one counts). The record is kept for ``repeated_image`` (another
    annotation of an image), ``thin_polygon`` (one or two points), ``no_outline``, ``unknown_kind``, ``empty_text``
    (no explanation), ``no_caption`` and ``phrase_not_in_caption``.

    Args:
        file: the records.
        problems: gets the problems.
        keys: gets each image, in the form of ``names.same``, with the key of its first annotation.

    Raises:
        InputError: the file is damaged as a whole.
    """
    first = {} if keys is None else keys

    def read(value: Any, place: Place) -> SynthscarsImage:
        found = _read(value, place)
        image = same(found.image)
        if image not in first:
            first[image] = found.key
            return found
        if first[image] == found.key:
            raise UnusableError("duplicate_image", "an earlier record has the same image and key; the first one counts")
        name = f"{found.image}#{found.key}"
        remark = ("repeated_image", f"another annotation of its image; the sample is called {name!r:.200}")
        return replace(found, name=name, remarks=(remark, *found.remarks))

    try:
        records = ((f"record {number}", item.value, item.place) for number, item in enumerate(stream_list(file)))
        for image in usable_records(records, read, str(file), problems, set()):
            problems.extend(Problem(kind, str(file), image.name, detail) for kind, detail in image.remarks)
            yield image
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Cannot read the records in {str(file)!r} ({reason_of(error)}): download the file again."
        ) from error


def read_record(place: Place) -> SynthscarsImage:
    """Read a record again; its name is that of the image.

    Raises:
        InputError: the file has changed since the data set was opened.
    """
    return read_again(place, _read)


def _read(value: Any, place: Place) -> SynthscarsImage:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise UnusableError("bad_record", f"expected an object with one key, got {value!r:.60}")
    [(key, record)] = value.items()
    try:
        return _parse(key, record, place)
    except UnusableError as error:
        error.where = f", {key!r:.60}{error.where}"
        raise


def _parse(key: str, record: Any, place: Place) -> SynthscarsImage:
    if not isinstance(record, Mapping):
        raise UnusableError("bad_record", f"expected an object, got {record!r:.60}")
    image = image_name(record.get("img_file_name"))
    text_of({"key": key}, "key")
    caption = text_of(record, "caption").strip('"').strip()
    remarks = [] if caption else [("no_caption", "no text to learn from")]
    refs = [_ref(ref, number, caption, remarks) for number, ref in enumerate(list_of(record, "refs"))]
    contents = (_content(record.get(name)) for name in CONTENT_KEYS)
    return SynthscarsImage(
        name=image,
        image=image,
        key=key,
        caption=caption,
        content=next(filter(None, contents), ""),
        refs=tuple(refs),
        place=place,
        remarks=tuple(remarks),
    )


def _content(value: Any) -> str:
    """One of ``CONTENTS``, whatever its case; "" for all else."""
    return CONTENTS.get(value.strip().lower(), "") if isinstance(value, str) else ""


def _ref(ref: Any, number: int, caption: str, remarks: list[tuple[str, str]]) -> SynthscarsRef:
    where = f", ref {number}"
    if not isinstance(ref, Mapping):
        raise UnusableError("bad_ref", f"expected an object, got {ref!r:.60}", where)
    try:
        sentence, explanation = text_of(ref, "sentence"), text_of(ref, "explanation")
        parts = list_of(ref, "segmentation")
    except UnusableError as error:
        raise UnusableError("bad_ref", str(error), where) from error
    outlines = tuple(outline for part in parts if len(outline := _outline(part, where)))
    phrase = _phrase(sentence, caption)
    kind, told = _kind(ref)
    found = {
        "no_outline": not outlines and "no outline, so it has no place in the image",
        "thin_polygon": any(len(outline) < 3 for outline in outlines) and "an outline of fewer than three points",
        "unknown_kind": told is not None
        and kind is None
        and f"expected a kind of artifact of LEGION, got {told!r:.60}",
        "empty_text": not explanation and "no explanation",
        "phrase_not_in_caption": bool(caption) and phrase is None and f"the caption does not say {sentence!r:.60}",
    }
    remarks.extend((name, f"ref {number}: {detail}") for name, detail in found.items() if isinstance(detail, str))
    return SynthscarsRef(phrase=phrase or sentence, explanation=explanation, kind=kind, outlines=outlines)


def _outline(part: Any, where: str) -> NDArray[np.float64]:
    """Corners float (N, 2) of a list x1, y1, x2, y2 and so on."""
    if not isinstance(part, list) or len(part) % 2 or not all(map(is_finite, part)):
        raise UnusableError("bad_polygon", f"expected pairs of finite numbers, got {part!r:.60}", where)
    points = np.asarray(part, dtype=np.float64).reshape(-1, 2)
    if np.abs(points).max(initial=0) > _FARTHEST:
        raise UnusableError("bad_polygon", f"expected corners within {_FARTHEST:g} pixels, got {part!r:.60}", where)
    return points


def _phrase(sentence: str, caption: str) -> str | None:
    """A phrase as the caption spells it; None if it does not occur there."""
    if not sentence or sentence in caption:
        return sentence or None
    loose = r"\s+".join(re.escape(word) for word in sentence.split())
    match = re.search(loose, caption, re.IGNORECASE)
    return match.group() if match else None


def _kind(ref: Mapping[str, Any]) -> tuple[LegionKind | None, str | None]:
    """The kind of an artifact; and the first text in a field that should hold it."""
    told = [value for key in KIND_KEYS if isinstance(value := ref.get(key), str) and value.strip()]
    for value in told:
        for start, kind in _KINDS.items():
            if value.strip().lower().startswith(start):
                return kind, value
    return None, told[0] if told else None


class SynthscarsData:
    """A split of SynthScars as a data set; every image is generated.

    Name and explanation of a region are the phrase and the explanation of a ref, its mask is drawn as in LEGION's
    evaluation, and its category is the most typical one of LEGION's kind. A ref without a pixel in the image is an
    unplaced region. Group is the content of the image. An image without a record is counted as ``missing_record``, an
    image with the same name and another suffix as ``twin_image``; twins with records are both used. A record without an
    image is a sample with an error (``MissingImageError``).
    """

    polygons: Final = "unclipped"
    """How the masks are drawn: points outside the image are not moved to its border."""

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        file, self.root = find_split(folder)
        self.places = Places([file])
        names, keys, known = list[str](), dict[str, str](), False
        for image in read_images(file, self.problems, keys):
            names.append(image.name)
            known = known or bool(image.content)
            self.places.append(image.place)
        self.names = tuple(names)
        self.contents = {} if known else read_contents(self.root.parent, keys, self.problems)
        self.problems += _strays(self.root, keys)

    def load(self, index: int) -> Sample:
        """Read one sample."""
        item = read_record(self.places[index])
        image = load_image(find_file(self.root, item.image))
        size = Size(image.height, image.width)
        return Sample(
            name=self.names[index],
            group=item.content or self.contents.get(same(item.image), ""),
            image=image,
            fake=True,
            truth=Analysis(size=size, regions=tuple(_region(ref, size) for ref in item.refs), detector="synthscars"),
            categorised=all(ref.kind for ref in item.refs),
            anomalies=tuple(
                Claim(name=ref.phrase, explanation=ref.explanation, category=_category(ref) if ref.kind else None)
                for ref in item.refs
            ),
            caption=item.caption,
        )


def _region(ref: SynthscarsRef, size: Size) -> Region:
    mask = ref.mask(size)
    box, category = box_of(mask), _category(ref)
    known = None if box is None else mask
    return Region(mask=known, box=box, name=ref.phrase, explanation=ref.explanation, category=category)


def _category(ref: SynthscarsRef) -> Category:
    """The most typical category of a kind; of an unknown one any, as no figure of the truth uses it then."""
    return FROM_LEGION[ref.kind] if ref.kind else Category.TEXTURE


def _strays(root: Path, images: Collection[str]) -> Iterator[Problem]:
    """The images without a record, and those that differ from one with a record only in the suffix."""
    for path in find_images(root, deep=True):
        found = same(path)
        if found not in images:
            yield Problem("missing_record", str(root), path, "no record names it; left out")
        stem = found.rpartition(".")[0]
        first = next((name for suffix in sorted(SUFFIXES) if (name := f"{stem}{suffix}") in images), found)
        if first != found:
            yield Problem("twin_image", str(root), path, f"may show the same as {first!r:.200}")
