"""What a saved picture says about itself: that a model made it, and how.

A picture carries an XMP packet with IPTC's digital source type, and its run record without masks and times: as JSON in
a PNG (key ``refiner`` of an iTXt chunk), packed in the XMP packet of a JPEG. ``read`` gives both back. A record too
long for a JPEG's one segment loses its details first, then its attempts, and its settings last.
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
from typing import Any, Literal
from xml.etree import ElementTree

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from refiner.errors import ConfigError, InputError, MissingImageError
from refiner.files import Json, atomic_write, check_writable
from refiner.images import MAX_PIXELS, XMP
from refiner.records import to_record
from refiner.types import RefinementResult

SourceType = Literal["trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"]

KEY = "refiner"
"""The PNG key of the run record."""
MOST_RECORD = 44_000
"""Characters of a packed record, at most; it must fit into a JPEG's segment beside what else the packet holds."""
MOST_KEPT = 20_000
"""Bytes of another packet that is kept, at most."""
_MOST_TEXT = 4_000_000
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
"""What an earlier packet says of its source type and of a run of ours."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is taken over from the file that a picture was made from."""

    xmp: str = ""
    """Its XMP packet; "" where it has none that can be read, or a longer one than ``MOST_KEPT``."""
    icc_profile: bytes | None = None
    """Its colours' meaning; the pixels are never converted."""

    @property
    def source_type(self) -> str | None:
        """IPTC's digital source type, such as "trainedAlgorithmicMedia"; None where it has none."""
        return _source_type(self.xmp)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a picture says about itself."""

    source_type: str | None
    """IPTC's digital source type, such as "trainedAlgorithmicMedia"; None where it has none."""
    record: Json | None
    """The run record, as ``slim`` leaves it; None where there is none. ``attempt`` in it numbers the picture."""


def ai_label(*, from_given_image: bool) -> dict[str, str]:
    """PNG metadata that says the picture was made, or partly made, by a trained model (IPTC digital source type)."""
    kind: SourceType = "compositeWithTrainedAlgorithmicMedia" if from_given_image else "trainedAlgorithmicMedia"
    return {XMP: _packet(kind, None, ""), "Source": "AI-generated"}


def png(image: Image.Image, provenance: Provenance, kept: Kept | None = None) -> bytes:
    """The image as a PNG file that says what ``provenance`` holds, beside what is kept of another file."""
    kept = kept or Kept()
    info = PngInfo()
    if provenance.source_type or kept.xmp:
        info.add_itxt(XMP, _packet(provenance.source_type, None, kept.xmp))
    if provenance.source_type:
        info.add_text("Source", "AI-generated")
    if (record := _fitting(provenance.record)) is not None:
        info.add_itxt(KEY, _compact(record), zip=True)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info, icc_profile=kept.icc_profile)
    return buffer.getvalue()


def jpeg(image: Image.Image, provenance: Provenance, kept: Kept | None = None, quality: int = 95) -> bytes:
    """The RGB image as a JPEG file that says what ``provenance`` holds, beside what is kept of another file."""
    kept = kept or Kept()
    packet = _packet(provenance.source_type, _fitting(provenance.record), kept.xmp)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling=0, xmp=packet.encode(), icc_profile=kept.icc_profile)
    return buffer.getvalue()


def of_attempt(result: RefinementResult, index: int, record: Json | None, kept: Kept | None = None) -> Provenance:
    """What the picture of an attempt is to say about itself: one that the user gave has no label of ours."""
    attempt = result.attempts[index]
    given = any(other.action == "given" for other in result.attempts)
    kind: str | None = "trainedAlgorithmicMedia"
    if given and attempt.action == "inpaint":
        painted = (kept or Kept()).source_type == kind
        kind = kind if painted else "compositeWithTrainedAlgorithmicMedia"
    if attempt.action == "given":
        kind = (kept or Kept()).source_type
    return Provenance(source_type=kind, record=None if record is None else {**record, "attempt": index})


def save(
    result: RefinementResult,
    path: str | Path,
    config: Mapping[str, object] | None = None,
    *,
    made_from: str | Path | None = None,
    quality: int = 95,
) -> Path:
    """Write the kept picture of a result as one PNG or JPEG file, with its label and run record.

    Args:
        result: what the loop returned.
        path: of the file; its ending tells the format.
        config: further settings of the run, plain JSON values, for the record.
        made_from: the file that the run started from, whose XMP packet and colour profile are kept.
        quality: of a JPEG, in [1, 100].

    Raises:
        ConfigError: another ending than .png, .jpg or .jpeg, or a ``config`` that JSON cannot carry.
        OutputError: the folder or disk cannot be written.
    """
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"Expected a file name that ends in .png or .jpg, got {target.name!r}: rename it.")
    kept = kept_of(made_from) if made_from is not None else Kept()
    provenance = of_attempt(result, result.best, slim(to_record(result, config, {})), kept)
    check_writable(target.parent)
    if ending == ".png":
        return atomic_write(target, png(result.image, provenance, kept))
    return atomic_write(target, jpeg(result.image, provenance, kept, quality))


def read(path: str | Path) -> Provenance:
    """What a PNG or JPEG file says about itself, whoever wrote it.

    Raises:
        InputError: missing, damaged, or no PNG or JPEG file. Metadata that cannot be read counts as none.
    """
    texts, _ = _metadata(path)
    packet = texts.get(XMP, "")
    text = texts.get(KEY)
    if text is None and (packed := _attribute(packet, f"{{{_OURS}}}Record")) is not None:
        text = _unpacked(packed)
    record = None
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(text or "null")
    return Provenance(source_type=_source_type(packet), record=record if isinstance(record, dict) else None)


def kept_of(path: str | Path) -> Kept:
    """What is taken over from the file that a picture was made from; nothing where it cannot be read.

    Only the XMP packet and the colour profile: EXIF may turn the picture, which is upright by now.
    """
    try:
        texts, icc_profile = _metadata(path)
    except InputError:
        return Kept()
    packet = texts.get(XMP, "")
    usable = len(packet.encode()) <= MOST_KEPT and _tree(packet) is not None
    return Kept(xmp=packet if usable else "", icc_profile=icc_profile)


def slim(record: Mapping[str, object]) -> Json:
    """A run record without its masks, heat maps and times, and without the folders of the machine it ran on.

    What is left depends on prompt, settings, weights, seed and versions alone.
    """
    small = json.loads(json.dumps(record, allow_nan=False))
    for attempt in small["attempts"]:
        attempt.pop("painted", None)
        analysis = attempt["analysis"]
        for name in ("heatmap", "raw") if analysis else ():
            analysis.pop(name, None)
        for region in analysis["regions"] if analysis else ():
            region.pop("mask", None)
    environment = small["environment"]
    small["environment"] = {name: environment[name] for name in ("versions", "python")}
    small.pop("files", None)
    cleaned: Json = _without_folders(small)
    return cleaned


def _without_folders(value: Any) -> Any:
    """Whole paths in a JSON document, also behind the family of an id, by their last part alone."""
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
    """The record with as much of it as may be embedded."""
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
    """An XMP packet with our statements, after those of another packet that do not speak of the same."""
    said = f' Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPES}{source_type}"' if source_type else ""
    said += f' refiner:Record="{_packed(record)}"' if record is not None else ""
    ours = f'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:refiner="{_OURS}"{said}/>'
    others = _STALE.sub("", kept)
    head, end, tail = others.rpartition("</rdf:RDF>")
    if end and _tree(merged := f"{head}{ours}{end}{tail}") is not None:
        return merged
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">{ours}</rdf:RDF></x:xmpmeta>'


def _tree(packet: str) -> ElementTree.Element | None:
    """The packet's root; None where it cannot be read, or defines entities, which may grow without bound."""
    if "<!DOCTYPE" in packet:
        return None
    try:
        return ElementTree.fromstring(packet.strip("\ufeff\x00 \t\r\n"))
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _source_type(packet: str) -> str | None:
    value = _attribute(packet, f"{{{_IPTC}}}DigitalSourceType")
    return value.strip().rpartition("/")[2] or None if value else None


def _attribute(packet: str, name: str) -> str | None:
    """A simple property of an XMP packet, in any of the three ways that RDF writes one."""
    root = _tree(packet) if packet else None
    for element in () if root is None else root.iter():
        if name in element.attrib:
            return element.attrib[name]
        if element.tag == name:
            return element.attrib.get(f"{{{_RDF}}}resource") or element.text
    return None


def _metadata(path: str | Path) -> tuple[dict[str, str], bytes | None]:
    """Texts of a PNG or JPEG file by their PNG keys, and its colour profile."""
    file = Path(path)
    if not file.exists():
        raise MissingImageError(f"Expected an image file, got {str(path)!r}, which does not exist: check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                whole = image.width * image.height <= MAX_PIXELS
                texts = dict(image.text if whole and isinstance(image, PngImageFile) else image.info)
                packet, profile = image.info.get("xmp", b""), image.info.get("icc_profile")
    except Exception as error:  # a decoder fed with damaged data may raise anything
        raise InputError(
            f"Expected a whole PNG or JPEG file, got {str(path)!r}, which cannot be read as one: name another file."
        ) from error
    if XMP not in texts and isinstance(packet, bytes):
        texts[XMP] = packet.decode("utf-8", errors="replace")
    return {str(key): str(value) for key, value in texts.items() if isinstance(value, str)}, profile
