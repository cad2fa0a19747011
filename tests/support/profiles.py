"""Small ICC profiles, written by hand: RGB with other primaries, grey and CMYK."""

from __future__ import annotations

import itertools
import struct

D50 = (63190, 65536, 54061)
PRIMARIES = {
    "sRGB": ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
    "Adobe RGB": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)),
}
"""XYZ of red, green and blue, relative to D50."""


def profile(space: str, tags: dict[str, bytes], *, connection: str = "XYZ ") -> bytes:
    """An ICC profile (version 2) of a colour space, such as "GRAY", with the data of its tags."""
    tags = {"desc": struct.pack(">4s4xI", b"desc", 5) + b"test\0" + bytes(79), "wtpt": xyz(D50), **tags}
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kinds = [text.encode() for text in ("mntr" if space != "CMYK" else "prtr", space, connection)]
    head = struct.pack(">I4xI4s4s4s12x4s28x3i48xI", start + len(body), 0x02100000, *kinds, b"acsp", *D50, len(tags))
    return head + table + body


def xyz(values: tuple[int, ...]) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *values)


def gamma(value: float) -> bytes:
    return struct.pack(">4s4xIHxx", b"curv", 1, round(value * 256))


def rgb_profile(primaries: str, exponent: float = 2.2) -> bytes:
    """Primaries by name, with a tone curve that is a power."""
    columns = zip("rgb", PRIMARIES[primaries], strict=True)
    tags = {f"{name}XYZ": xyz(tuple(round(value * 65536) for value in column)) for name, column in columns}
    return profile("RGB ", tags | {f"{name}TRC": gamma(exponent) for name in "rgb"})


def grey_profile(exponent: float) -> bytes:
    return profile("GRAY", {"kTRC": gamma(exponent)})


def cmyk_profile() -> bytes:
    """All of its inks are black: the lightness falls with the strongest one. Pillow's own conversion differs."""
    corners = [(255 * (1 - max(inks)), 128, 128) for inks in itertools.product((0, 1), repeat=4)]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + identity + ramp * 4
    return profile("CMYK", {"A2B0": table + bytes(itertools.chain(*corners)) + ramp * 3}, connection="Lab ")
