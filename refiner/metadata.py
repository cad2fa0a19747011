"""The metadata of images: what ``load_image`` reads besides the colours, and what is kept of it in saved images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image

XMP = "XML:com.adobe.xmp"
"""The PNG text key of an XMP packet."""
MOST_KEPT = 20_000
"""Largest XMP packet that is kept, in bytes."""
MOST_EXIF = 60_000
"""Largest EXIF block that is kept, in bytes; it must fit into one JPEG segment."""
MOST_TEXT = 1_000_000
"""Longest text that is kept, in characters."""

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NO_TEXTS = ("Raw profile type", "compression", XMP)
"""Starts of the keys of Pillow's ``info`` that hold text but are not texts of the image."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The metadata that is kept from an image that the user gave."""

    xmp: str = ""
    """Its XMP packet; "" if it has none, or one that cannot be read or is longer than ``MOST_KEPT``."""
    icc_profile: bytes | None = None
    """The ICC colour profile of its pixels, as ``load_image`` returns them; None: none, which means sRGB."""
    exif: bytes = b""
    """Its EXIF block without orientation and thumbnail; empty if it has none, or one longer than ``MOST_EXIF``."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Its texts by key: the text chunks of a PNG, or "Comment" for the comment of a JPEG."""
    rgba: Image.Image | None = None
    """Its upright pixels in RGBA, in the colours of ``icc_profile``; None if it has no transparency."""

    @property
    def source_type(self) -> str | None:
        """IPTC's digital source type, such as "trainedAlgorithmicMedia"; None if it has none."""
        return source_type_in(self.xmp)

    def for_other_pixels(self) -> Kept:
        """Return what is kept in an image of other contents, such as a regenerated one: XMP and colour profile."""
        return Kept(xmp=self.xmp, icc_profile=self.icc_profile)


def read_metadata(image: Image.Image, *, icc_profile: bytes | None, rgba: Image.Image | None) -> Kept:
    """Read the metadata of an image that is open and upright; unreadable metadata counts as missing."""
    packet = image.info.get(XMP) or image.info.get("xmp") or ""
    xmp = packet.decode("utf-8", errors="replace") if isinstance(packet, bytes) else str(packet)
    usable = len(xmp.encode(errors="replace")) <= MOST_KEPT and xmp_tree(xmp) is not None
    return Kept(xmp=xmp if usable else "", icc_profile=icc_profile, exif=_exif(image), texts=_texts(image), rgba=rgba)


def _exif(image: Image.Image) -> bytes:
    if "exif" not in image.info:
        return b""
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        data = exif.tobytes() if exif else b""
    except Exception:  # a parser of damaged data may raise any exception
        return b""
    return data if len(data) <= MOST_EXIF else b""


def _texts(image: Image.Image) -> dict[str, str]:
    """The texts of a PNG file or of a copy of its image, and the comment of a JPEG file."""
    found: dict[str, str] = {}
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment and image.format in (None, "JPEG", "MPO"):
        found["Comment"] = comment.decode("utf-8", errors="replace")
    if image.format not in (None, "PNG"):
        return found
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str) and not key.startswith(_NO_TEXTS):
            writable = 1 <= len(key) <= 79 and key.isprintable() and max(map(ord, key)) < 256
            if writable and "\0" not in value and len(value) <= MOST_TEXT:
                found[key] = value
    return found


def over_white(rgba: Image.Image) -> Image.Image:
    """Blend an RGBA image with white, to RGB."""
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def with_transparency(image: Image.Image, rgba: Image.Image | None) -> Image.Image:
    """Give an image made from ``over_white(rgba)`` the transparency of ``rgba``.

    Returns:
        RGBA; over white it looks like ``image``, where it is not fully transparent. Pixels that were not changed are
        those of ``rgba``. The image itself if there is no ``rgba``, or one of another size.
    """
    if rgba is None or rgba.size != image.size:
        return image
    new, result = np.asarray(image), np.array(rgba)
    changed = (new != np.asarray(over_white(rgba))).any(axis=2)
    share = result[changed][:, 3:].astype(np.float32) / 255
    colours = (new[changed] - 255 * (1 - share)) / np.maximum(share, 1 / 255)
    result[changed, :3] = np.rint(np.clip(colours, 0, 255)).astype(np.uint8)
    return Image.fromarray(result)


def xmp_tree(packet: str) -> ElementTree.Element | None:
    """The packet's root element; None if it cannot be read, or defines entities, which could expand without limit."""
    if "<!DOCTYPE" in packet:
        return None
    try:
        return ElementTree.fromstring(packet.strip("\ufeff\x00 \t\r\n"))
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def source_type_in(packet: str) -> str | None:
    """IPTC's digital source type in an XMP packet; None if it has none."""
    value = xmp_attribute(packet, f"{{{_IPTC}}}DigitalSourceType")
    return value.strip().rpartition("/")[2] or None if value else None


def xmp_attribute(packet: str, name: str) -> str | None:
    """The value of a simple property in an XMP packet, in any of the three forms of RDF; None if it is missing."""
    root = xmp_tree(packet) if packet else None
    for element in () if root is None else root.iter():
        if name in element.attrib:
            return element.attrib[name]
        if element.tag == name:
            return element.attrib.get(f"{{{_RDF}}}resource") or element.text
    return None
