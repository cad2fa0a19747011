"""ms-swift's training records, in the grammar of FakeXplain's answers::

    {"messages": [{"role": "user", "content": "<image>..."},
                  {"role": "assistant", "content": "<think><ref-object><bbox>...<tag>a, b</tag></think>
                                                    <verdict>generated</verdict>"}],
     "images": ["images/batch_a/1.png"],
     "objects": {"ref": ["The flamingo has three legs."], "bbox": [[12, 40, 96.5, 128]]}}

There is one image and one answer. ``images`` holds its path from the folder of the file, or from ``images/`` there; an
absolute path must lie in that folder. ``ref`` and ``bbox`` are equally long: a description and a box (x0, y0, x1, y1)
of each region, half-open. ``bbox_type`` in ``objects`` is ``real`` (pixels of the image, the default), ``norm1000`` or
``norm1`` (fractions of width and height, times 1000 or not). Tags stand in any number of ``<tag>`` elements of the
answer, separated by commas. The verdict is ``real``, ``generated`` or ``fake``. A real image has no objects. Other
fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from refiner.data.fakexplained.images import IMAGES, FakexplainedImage, FakexplainedRegion, read_corners
from refiner.data.fields import list_of, path_inside
from refiner.data.json_stream import Place
from refiner.data.names import with_slashes
from refiner.data.problems import UnusableError
from refiner.data.texts import is_unicode

VERDICTS: Final = {"real": False, "generated": True, "fake": True}
"""Word of the verdict -> whether the image is generated."""
EXTENTS: Final = {"real": None, "norm1000": 1000.0, "norm1": 1.0}
"""``bbox_type`` -> width and height of the image in the unit of the boxes; None for pixels."""
PLACEHOLDERS: Final = ("<ref-object>", "<bbox>")
"""ms-swift replaces them with the texts of ``ref`` and the boxes of ``bbox``, in order."""
_SPELT_OUT: Final = ("<|box_start|>", "<box>")
"""Begin a box that is written in the answer itself, in the unit of some model."""
_SMALLEST: Final = 1.0
"""Pixels of a side of a box."""


def is_swift(value: Mapping[str, Any]) -> bool:
    """Whether a record is one of ms-swift."""
    return "messages" in value


def read_swift(value: Mapping[str, Any], place: Place) -> FakexplainedImage:
    """Read a record of ms-swift.

    Raises:
        UnusableError: it cannot be used (``bad_record``, ``bad_region``).
    """
    path = _path(value, place.file.parent)
    texts = list(_texts(value))
    answer = _answer(texts)
    [*verdicts] = (word.strip().lower() for word in _elements(answer, "verdict"))
    if len(verdicts) != 1 or verdicts[0] not in VERDICTS:
        wanted = " or ".join(f"<verdict>{word}</verdict>" for word in VERDICTS)
        raise UnusableError("bad_record", f"expected one of {wanted} in the answer, got {verdicts!r:.60}")
    fake = VERDICTS[verdicts[0]]
    regions, extent = _objects(value)
    if regions and not fake:
        raise UnusableError("bad_record", f"expected no regions for a real image, got {len(regions)}")
    _check_placeholders([text for _, text in texts], answer, len(regions))
    tags = (tag.strip() for element in _elements(answer, "tag") for tag in element.split(","))
    name = path.removeprefix(f"{IMAGES}/")
    return FakexplainedImage(
        name=name,
        paths=(path, f"{IMAGES}/{path}"),
        fake=fake,
        regions=regions,
        tags=tuple(filter(None, tags)),
        extent=extent,
        place=place,
    )


def first_path(value: Mapping[str, Any]) -> str | None:
    """The first of ``images`` as the record has it; None if that is no text."""
    images = value.get("images")
    first = images[0] if isinstance(images, list) and images else None
    return first if isinstance(first, str) else None


def _path(value: Mapping[str, Any], folder: Path) -> str:
    """The path of the image from the folder of the file of records."""
    images, path = list_of(value, "images"), first_path(value)
    if len(images) != 1 or path is None:
        raise UnusableError("bad_record", f"expected the path of one image in images, got {images!r:.60}")
    given = PurePosixPath(with_slashes(path))
    if given.is_absolute():
        roots = (PurePosixPath(root.as_posix()) for root in (folder.absolute(), folder.resolve()))
        given = next((given.relative_to(root) for root in roots if given.is_relative_to(root)), given)
    return path_inside(path if path.endswith(("/", "\\")) else str(given), "image")


def _texts(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Role and content of each message."""
    for message in list_of(value, "messages"):
        role, content = (message.get(key) if isinstance(message, Mapping) else None for key in ("role", "content"))
        if not (isinstance(role, str) and isinstance(content, str) and is_unicode(content)):
            raise UnusableError("bad_record", f"expected messages with a role and a content, got {message!r:.60}")
        yield role, content


def _answer(texts: list[tuple[str, str]]) -> str:
    answers = [text for role, text in texts if role == "assistant"]
    if len(answers) != 1:
        raise UnusableError("bad_record", f"expected one message of the assistant, got {len(answers)}")
    return answers[0]


def _elements(text: str, name: str) -> list[str]:
    """The contents of all elements of a name, which must not be nested.

    Raises:
        UnusableError: one is not closed or not opened (``bad_record``).
    """
    first, *rest = text.split(f"<{name}>")
    parts = [part.split(f"</{name}>") for part in rest]
    if f"</{name}>" in first or any(len(part) != 2 for part in parts):
        raise UnusableError("bad_record", f"expected each <{name}> to be closed once, got {text!r:.60}")
    return [part[0] for part in parts]


def _objects(value: Mapping[str, Any]) -> tuple[tuple[FakexplainedRegion, ...], float | None]:
    """The regions, and the extent of the image in the unit of their boxes."""
    objects = value.get("objects")
    if objects is None:
        return (), None
    if not isinstance(objects, Mapping):
        raise UnusableError("bad_record", f"expected objects as an object, got {objects!r:.60}")
    kind = objects.get("bbox_type")
    if kind is not None and not (isinstance(kind, str) and kind in EXTENTS):
        raise UnusableError("bad_record", f"expected a bbox_type of {', '.join(EXTENTS)}, got {kind!r:.60}")
    extent = EXTENTS[kind or "real"]
    texts, boxes = list_of(objects, "ref"), list_of(objects, "bbox")
    if len(texts) != len(boxes):
        detail = f"expected a ref for each bbox, got {len(texts)} and {len(boxes)}"
        raise UnusableError("bad_record", detail)
    pairs = enumerate(zip(texts, boxes, strict=True))
    return tuple(_region(text, box, number, extent) for number, (text, box) in pairs), extent


def _region(text: Any, box: Any, number: int, extent: float | None) -> FakexplainedRegion:
    if not isinstance(text, str) or not is_unicode(text):
        raise UnusableError("bad_region", f"region {number}: expected a description in words, got {text!r:.60}")
    try:
        return FakexplainedRegion(read_corners(box, _SMALLEST if extent is None else 0.0), text.strip())
    except UnusableError as error:
        raise UnusableError("bad_region", f"region {number}: {error}") from error


def _check_placeholders(texts: list[str], answer: str, regions: int) -> None:
    """Check that no box of the texts is missing from ``objects``, where it would be passed over as no flaw."""
    for placeholder in PLACEHOLDERS:
        count = sum(text.count(placeholder) for text in texts)
        if count > regions:
            raise UnusableError("bad_record", f"expected objects for {count} {placeholder}, got {regions}")
    if not regions and any(start in answer for start in _SPELT_OUT):
        raise UnusableError("bad_record", f"expected the boxes of the answer in objects, got {answer!r:.60}")
