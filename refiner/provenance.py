"""Provenance metadata of saved images: the label "AI-generated" and the run record.

A saved image carries an XMP packet with IPTC's digital source type. It also carries its run record, without masks and
times: as JSON in a PNG (key ``refiner`` of an iTXt chunk), compressed in the XMP packet of a JPEG. ``read`` returns
both. The record must fit into the one XMP segment of a JPEG. A longer record is shortened, in a PNG too: first the
analyses are dropped, then the attempts, and last the whole record.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from refiner.errors import ConfigError, InputError, MissingImageError
from refiner.files import Json, atomic_write, check_writable
from refiner.images import MAX_PIXELS, Source, kept_from, load_image, open_image
from refiner.metadata import XMP, Kept, source_type_in, with_transparency, xmp_attribute, xmp_tree
from refiner.reading import check_path
from refiner.records import to_record
from refiner.types import RefinementResult

KEY = "refiner"
"""The PNG key of the run record."""
MOST_RECORD = 44_000
"""Largest compressed record, in characters; it must fit into one JPEG segment together with the rest of the packet."""
_MOST_TEXT = 4_000_000
_MOST_COMMENT = 60_000
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_OURS = "urn:refiner:provenance"

_STALE = re.compile(
    r"""<rdf:Description\b[^>]*xmlns:refiner="urn:refiner:provenance"[^>]*/>"""
    r"""|\s[\w.-]+:DigitalSourceType\s*=\s*(?:"[^"]*"|'[^']*')"""
    r"""|<([\w.-]+):DigitalSourceType\b[^>]*(?:/>|>.*?</\1:DigitalSourceType\s*>)""",
    re.DOTALL,
)
"""The source type, and our own run record, in the XMP packet of the original file; they are replaced."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The provenance metadata of one image."""

    source_type: str | None
    """IPTC's digital source type, such as "trainedAlgorithmicMedia"; None if it has none."""
    record: Json | None
    """The run record, shortened by ``slim``; None if there is none. Its ``attempt`` is the index of this image."""


def ai_label(*, from_given_image: bool) -> dict[str, str]:
    """Build PNG metadata that labels an image as wholly or partly made by a model (IPTC digital source type)."""
    kind = "compositeWithTrainedAlgorithmicMedia" if from_given_image else "trainedAlgorithmicMedia"
    return {XMP: _packet(kind, None, ""), "Source": "AI-generated"}


def png(image: Image.Image, provenance: Provenance, kept: Kept | None = None) -> bytes:
    """Encode the RGB image as a PNG file with the provenance and the metadata that is kept from the given image."""
    kept = kept or Kept()
    info = PngInfo()
    if provenance.source_type or kept.xmp:
        info.add_itxt(XMP, _packet(provenance.source_type, None, kept.xmp))
    texts = {key: text for key, text in kept.texts.items() if key != KEY}
    texts |= {"Source": "AI-generated"} if provenance.source_type else {}
    for key, text in texts.items():
        info.add_text(key, text)
    if (record := _fitting(provenance.record)) is not None:
        info.add_itxt(KEY, _compact(record), zip=True)
    buffer = io.BytesIO()
    transparent = with_transparency(image, kept.rgba)
    transparent.save(buffer, format="PNG", pnginfo=info, icc_profile=kept.icc_profile, exif=kept.exif)
    return buffer.getvalue()


def jpeg(image: Image.Image, provenance: Provenance, kept: Kept | None = None, quality: int = 95) -> bytes:
    """Encode the RGB image as a JPEG file with the provenance and the metadata that is kept from the given image.

    Of its texts, only the comment is kept; transparency is not.
    """
    kept = kept or Kept()
    packet = _packet(provenance.source_type, _fitting(provenance.record), kept.xmp)
    buffer = io.BytesIO()
    image.save(
        buffer,
        format="JPEG",
        quality=quality,
        subsampling=0,
        xmp=packet.encode(),
        icc_profile=kept.icc_profile,
        exif=kept.exif,
        comment=kept.texts.get("Comment", "").encode()[:_MOST_COMMENT],
    )
    return buffer.getvalue()


def of_attempt(result: RefinementResult, index: int, record: Json | None, kept: Kept | None = None) -> Provenance:
    """Build the provenance of an attempt's image. An image that the user gave keeps its own label, or gets none."""
    action = result.attempts[index].action
    kind: str | None = "trainedAlgorithmicMedia"
    if action == "given":
        kind = (kept or Kept()).source_type
    elif shows_given(result, index) and (kept or Kept()).source_type != kind:
        kind = "compositeWithTrainedAlgorithmicMedia"
    return Provenance(source_type=kind, record=None if record is None else {**record, "attempt": index})


def shows_given(result: RefinementResult, index: int) -> bool:
    """Whether an attempt's image is the user's image, or that image with some parts inpainted."""
    attempt = result.attempts[index]
    if attempt.action != "inpaint":
        return attempt.action == "given"
    sources = [other.index for other in result.attempts[:index] if other.accepted]
    return bool(sources) and shows_given(result, sources[-1])


def metadata_of_given(result: RefinementResult, made_from: str | Path | None = None) -> Kept:
    """Return the metadata of the image that the user gave; empty if the user gave none.

    Args:
        result: of the loop.
        made_from: the file of the given image; None: what ``load_image`` read with the image is returned.
    """
    given = (attempt.image for attempt in result.attempts if attempt.action == "given" and attempt.image is not None)
    source = made_from if made_from is not None else next(given, None)
    return Kept() if source is None else kept_of(source)


def save(
    result: RefinementResult,
    path: str | Path,
    config: Mapping[str, object] | None = None,
    *,
    made_from: str | Path | None = None,
    quality: int = 95,
) -> Path:
    """Write the best image of a result as one PNG or JPEG file, with its label and run record.

    Args:
        result: what the loop returned.
        path: the file; its extension decides the format.
        config: more settings of the run for the record; plain JSON values.
        made_from: the file of the given image that the run started from, whose metadata is kept; None: the metadata
            that ``load_image`` read with the image is kept.
        quality: JPEG quality, in [1, 100].

    Raises:
        ConfigError: the extension is not .png, .jpg or .jpeg, or ``config`` holds a value that JSON cannot store.
        OutputError: the file cannot be written.
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"Expected a file name that ends in .png or .jpg, got {target.name!r}: rename it.")
    given = metadata_of_given(result, made_from)
    kept = given if shows_given(result, result.best) else given.for_other_pixels()
    provenance = of_attempt(result, result.best, slim(to_record(result, config, {})), kept)
    check_writable(target.parent)
    if ending == ".png":
        return atomic_write(target, png(result.image, provenance, kept))
    return atomic_write(target, jpeg(result.image, provenance, kept, quality))


def read(path: str | Path) -> Provenance:
    """Read the provenance of a PNG or JPEG file, whichever program wrote it.

    Raises:
        InputError: the file is missing, damaged, or not a PNG or JPEG file. Unreadable metadata counts as missing.
    """
    texts = _texts_of(path)
    packet = texts.get(XMP, "")
    text = texts.get(KEY)
    if text is None and (packed := xmp_attribute(packet, f"{{{_OURS}}}Record")) is not None:
        text = _unpacked(packed)
    record = None
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(text or "null")
    return Provenance(source_type=source_type_in(packet), record=record if isinstance(record, dict) else None)


def kept_of(source: Source) -> Kept:
    """Read the metadata to keep from an image that the user gave; empty if it cannot be read."""
    try:
        return kept_from(load_image(source))
    except InputError:
        return Kept()


def slim(record: Mapping[str, object]) -> Json:
    """Shorten a run record: without masks, heat maps, traces, times, and the folder names of the machine it ran on.

    The rest depends only on prompt, settings, weights, seed and versions.
    """
    small = json.loads(json.dumps(record, allow_nan=False))
    for attempt in small["attempts"]:
        attempt.pop("painted", None)
        attempt.pop("candidates", None)
        analysis = attempt["analysis"]
        for name in ("heatmap", "raw", "trace") if analysis else ():
            analysis.pop(name, None)
        for region in analysis["regions"] if analysis else ():
            region.pop("mask", None)
    environment = small["environment"]
    small["environment"] = {name: environment[name] for name in ("versions", "python")}
    small.pop("files", None)
    cleaned: Json = _without_folders(small)
    return cleaned


def _without_folders(value: Any) -> Any:
    """Replace every absolute path in a JSON document, also after the prefix of an id, by its last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    family, colon, rest = value.partition(":")
    for start, path in (("", value), (f"{family}{colon}", rest)):
        for kind in (PurePath, PureWindowsPath):
            if "\n" not in path and kind(path).is_absolute() and kind(path).name:
                return f"{start}{kind(path).name}"
    return value


def _fitting(record: Json | None) -> Json | None:
    """The most complete version of the record that is short enough to embed; None if there is none."""
    if record is None:
        return None
    return next((smaller for smaller in _smaller(record) if len(_packed(smaller)) <= MOST_RECORD), None)


def _smaller(record: Json) -> Iterator[Json]:
    yield record
    attempts = record.get("attempts", [])
    yield {**record, "attempts": [{**attempt, "analysis": None} for attempt in attempts]}
    kept = {record.get("best"), record.get("attempt")}
    yield {**record, "attempts": [{**a, "analysis": None} for a in attempts if a["index"] in kept]}
    yield {name: value for name, value in record.items() if name != "attempts"}


def _compact(record: Json) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _packed(record: Json) -> str:
    return base64.b64encode(zlib.compress(_compact(record).encode(), 9)).decode("ascii")


def _unpacked(text: str) -> str | None:
    try:
        return zlib.decompressobj().decompress(base64.b64decode(text), _MOST_TEXT).decode()
    except (ValueError, zlib.error):
        return None


def _packet(source_type: str | None, record: Json | None, kept: str) -> str:
    """An XMP packet with our properties, merged into the kept packet; ours replace the same properties in it."""
    said = f' Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPES}{source_type}"' if source_type else ""
    said += f' refiner:Record="{_packed(record)}"' if record is not None else ""
    ours = f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:refiner="{_OURS}"{said}/>'
    others = _STALE.sub("", kept)
    head, end, tail = others.rpartition("</rdf:RDF>")
    if end and xmp_tree(merged := f"{head}{ours}{end}{tail}") is not None:
        return merged
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">{ours}</rdf:RDF></x:xmpmeta>'


def _texts_of(path: str | Path) -> dict[str, str]:
    """Read the text metadata of a PNG or JPEG file, by PNG key."""
    file = Path(path)
    check_path(file)
    if not file.exists():
        raise MissingImageError(f"The image file {str(path)!r} does not exist: check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(file, ("PNG", "JPEG")) as image:
                whole = image.width * image.height <= MAX_PIXELS
                texts = dict(image.text if whole and isinstance(image, PngImageFile) else image.info)
                packet = image.info.get("xmp", b"")
    except Exception as error:  # a decoder may raise any exception for damaged data
        raise InputError(f"{str(path)!r} cannot be read as a PNG or JPEG file: use another file.") from error
    if XMP not in texts and isinstance(packet, bytes):
        texts[XMP] = packet.decode("utf-8", errors="replace")
    return {str(key): str(value) for key, value in texts.items() if isinstance(value, str)}
