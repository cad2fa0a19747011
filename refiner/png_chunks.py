"""PNG files with long texts or colour profiles, which Pillow refuses as a whole because they could fill the memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO, Final, NamedTuple

from PIL import PngImagePlugin

MOST_PROFILE: Final = 16 * 2**20
"""Bytes of the largest colour profile that is read."""
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEAD: Final = struct.Struct(">I4s")
_SUM: Final = 4
"""Bytes of the checksum of a chunk."""
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_PROFILE: Final = b"iCCP"


class Readable(NamedTuple):
    """A file that Pillow reads."""

    file: BinaryIO
    profile: bytes | None
    """The colour profile that was left out of the file; None if there is none."""


def readable(file: BinaryIO) -> Readable:
    """Leave out of a PNG file the texts and the profile that are longer than Pillow allows.

    Args:
        file: any file, at its start.

    Returns:
        The file itself at its start if nothing is left out, else a copy without these chunks, with the profile if it
        has at most ``MOST_PROFILE`` bytes.
    """
    left_out, profile, end = [], None, 0
    total = 0
    if file.read(len(_SIGNATURE)) == _SIGNATURE:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            start = file.tell() - _HEAD.size
            length, kind = _HEAD.unpack(head)
            end = start + _HEAD.size + length + _SUM
            if kind in _TEXTS:
                size = _text_size(kind, length, file)
                total += 0 if size is None else size
                if size is None or total > PngImagePlugin.MAX_TEXT_MEMORY:
                    left_out.append((start, end))
            elif kind == _PROFILE and length <= MOST_PROFILE:
                data = file.read(length)
                if _inflated(_packed_profile(data), PngImagePlugin.MAX_TEXT_CHUNK) is None:
                    left_out.append((start, end))
                    profile = _inflated(_packed_profile(data), MOST_PROFILE)
            elif kind == b"IEND":
                break
            file.seek(end)
    file.seek(0)
    return Readable(_without(file, left_out), profile) if left_out else Readable(file, None)


def _without(file: BinaryIO, parts: list[tuple[int, int]]) -> BinaryIO:
    copy = io.BytesIO()
    for start, end in parts:
        copy.write(file.read(start - file.tell()))
        file.seek(end)
    copy.write(file.read())
    copy.seek(0)
    return copy


def _text_size(kind: bytes, length: int, file: BinaryIO) -> int | None:
    """The length of a text in bytes; None if Pillow refuses it, or would if it could be read."""
    if kind == b"tEXt":
        return length
    if length > PngImagePlugin.MAX_TEXT_MEMORY:
        return None
    data = file.read(length)
    _, _, rest = data.partition(b"\0")
    if kind == b"zTXt":
        packed = rest[1:]
    elif rest[:1] in (b"", b"\0"):  # not compressed
        return length
    else:
        packed = rest[2:].split(b"\0", 2)[-1]
    text = _inflated(packed, PngImagePlugin.MAX_TEXT_CHUNK)
    return None if text is None else len(text)


def _packed_profile(data: bytes) -> bytes:
    """The compressed bytes of a chunk with a profile, after its name and its method."""
    return data.partition(b"\0")[2][1:]


def _inflated(data: bytes, most: int) -> bytes | None:
    """Decompressed data; empty if it is damaged, None if it has more than ``most`` bytes."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, most)
    except zlib.error:
        return b""
    return None if stream.unconsumed_tail else found
