"""TFRecord files of ``tf.train.Example``, read without TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4). The data is a
protobuf message: a map from names to lists of byte strings, floats or integers. Integers are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from refiner.data.json_stream import Place

LARGEST: Final = 64 * 2**20
"""Bytes of a record."""
_HEAD: Final = struct.Struct("<QI")
_SUM: Final = struct.Struct("<I")
Feature = tuple[bytes, ...] | tuple[float, ...]
"""The byte strings or the floats of a name."""


def _table() -> tuple[int, ...]:
    """CRC-32C of each byte."""
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_TABLE: Final = _table()


def masked_checksum(data: bytes) -> int:
    """The checksum that TFRecord files hold: CRC-32C, rotated by 15 bits, plus a constant."""
    total, table = 0xFFFFFFFF, _TABLE
    for value in data:
        total = table[(total ^ value) & 0xFF] ^ total >> 8
    total ^= 0xFFFFFFFF
    return ((total >> 15 | total << 17) + 0xA282EAD8) & 0xFFFFFFFF


def stream_tfrecord(path: Path) -> Iterator[tuple[Place, bytes]]:
    """The place and the data of each record. The checksum of the data is left to ``read_tfrecord``.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is cut off, or a length is wrong; what follows cannot be found.
    """
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            start = file.tell()
            if len(head) < _HEAD.size:
                raise ValueError(f"the file ends within a record, at byte {start}")
            length, checksum = _HEAD.unpack(head)
            if masked_checksum(head[:8]) != checksum or length > LARGEST:
                raise ValueError(f"no valid length of a record at byte {start - _HEAD.size}")
            data = file.read(length)
            if len(data) < length or len(file.read(_SUM.size)) < _SUM.size:
                raise ValueError(f"the file ends within the record at byte {start}")
            yield Place(path, start, length), data


def read_tfrecord(place: Place) -> bytes:
    """The data of a record.

    Raises:
        OSError: the file cannot be read.
        ValueError: the data does not have its checksum.
    """
    with place.file.open("rb") as file:
        file.seek(place.start)
        data, checksum = file.read(place.length), file.read(_SUM.size)
    if len(data) < place.length or checksum != _SUM.pack(masked_checksum(data)):
        raise ValueError(f"the record at byte {place.start} does not have its checksum")
    return data


def parse_example(data: bytes) -> Mapping[str, Feature]:
    """The features of a ``tf.train.Example`` by name; of a repeated name the last one counts.

    Raises:
        ValueError: no such message.
    """
    found: dict[str, Feature] = {}
    for features in _messages(memoryview(data), 1):
        for entry in _messages(features, 1):
            names, values = list(_messages(entry, 1)), list(_messages(entry, 2))
            if names:
                found[bytes(names[-1]).decode("utf-8")] = _feature(values[-1]) if values else ()
    return found


def _feature(data: memoryview) -> Feature:
    """Byte strings (field 1) or floats (field 2), each in a list of its own."""
    texts = tuple(bytes(text) for part in _messages(data, 1) for text in _messages(part, 1))
    if texts:
        return texts
    floats: list[float] = []
    for part in _messages(data, 2):
        for number, wire, value in _fields(part):
            if number == 1 and wire in (2, 5):
                if len(value) % 4:
                    raise ValueError("floats that are not a multiple of four bytes")
                floats.extend(np.frombuffer(value, dtype="<f4").tolist())
    return tuple(floats)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The values of a field that has a length."""
    return (value for number, wire, value in _fields(data) if number == wanted and wire == 2)


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and bytes of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire, begin = key & 7, at
        if wire == 0:
            _, at = _varint(data, at)
        elif wire == 2:
            length, begin = _varint(data, at)
            at = begin + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"no protobuf message: wire type {wire}")
        if at > len(data):
            raise ValueError("no protobuf message: a field is longer than the message")
        yield key >> 3, wire, data[begin:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and the place behind it."""
    value = 0
    for shift in range(10):
        if at + shift >= len(data):
            raise ValueError("no protobuf message: it ends within a number")
        part = data[at + shift]
        value |= (part & 0x7F) << 7 * shift
        if part < 0x80:
            return value, at + shift + 1
    raise ValueError("no protobuf message: a number of more than ten bytes")
