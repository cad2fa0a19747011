"""PNG files with long texts or large colour profiles are read, with bounded memory; damaged ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from refiner.colours import srgb_profile
from refiner.data.folders import read_mask
from refiner.data.parquet import decoded
from refiner.errors import InputError
from refiner.images import kept_from, load_image, open_image
from refiner.png_chunks import MOST_PROFILE, readable
from refiner.provenance import read
from refiner.types import Size
from tests.support.profiles import rgb_profile

PIXELS = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
LONG = '{"node": 1}' * 200_000


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, last: bool = False, image: Image.Image | None = None) -> bytes:
    """A PNG file with chunks before its pixels, or behind them."""
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, "PNG")
    data, place = buffer.getvalue(), -12 if last else 33
    return data[:place] + b"".join(chunks) + data[place:]


LATIN, TEXT = LONG.encode("latin-1"), LONG.encode()
PACKED = zlib.compress(TEXT)
CHUNKS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + PACKED),
    "iTXt": chunk(b"iTXt", b"workflow\0\x01\0en\0\0" + PACKED),
    "iTXt, not compressed": chunk(b"iTXt", b"workflow\0\0\0en\0\0" + TEXT),
    "tEXt": chunk(b"tEXt", b"workflow\0" + LATIN),
    "many": b"".join(chunk(b"tEXt", b"workflow\0" + LATIN) for _ in range(3)),
    "profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 * 2**20))),
    "profile beyond the limit": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(MOST_PROFILE + 1))),
}
TEXTS = [kind for kind in CHUNKS if not kind.startswith("profile")]
SHORT = chunk(b"tEXt", b"note\0kept")


@pytest.mark.parametrize(("kind", "last"), [*((kind, False) for kind in CHUNKS), *((kind, True) for kind in TEXTS)])
def test_long_texts_and_profiles_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, last: bool
) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", len(TEXT) * 5 // 2 if kind == "many" else len(TEXT) // 2)
    path = tmp_path / "a.png"
    path.write_bytes(png(SHORT, CHUNKS[kind], last=last))
    for image in (load_image(path), decoded(path.read_bytes(), "a cell")):
        assert (np.asarray(image) == PIXELS).all()
        assert kept_from(image).texts == {"note": "kept"}
    assert read(path).record is None
    path.write_bytes(png(CHUNKS[kind], last=last, image=Image.new("L", (30, 20), 255)))
    assert read_mask(path, Size(20, 30)).all()


def test_short_texts_leave_the_file_as_it_is(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "kept", zip=True)
    info.add_itxt("other", "caf\u00e9", zip=True)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=info, icc_profile=srgb_profile())
    buffer.seek(0)
    assert readable(buffer) == (buffer, None)
    assert buffer.tell() == 0
    assert kept_from(load_image(open_image(buffer))).texts == {"note": "kept", "other": "caf\u00e9"}


def test_a_large_profile_still_converts_the_colours(tmp_path: Path) -> None:
    profile = rgb_profile("Display P3")
    large = struct.pack(">I", 3 * 2**20) + profile[4:] + bytes(3 * 2**20 - len(profile))
    found = []
    for number, each in enumerate((profile, large)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(chunk(b"iCCP", b"p\0\0" + zlib.compress(each))))
        found.append(np.asarray(load_image(path)))
    assert (found[0] == found[1]).all()
    assert (found[0] != PIXELS).any()


@pytest.mark.parametrize(
    "data",
    [
        png(CHUNKS["zTXt"])[:2000], png(CHUNKS["zTXt"])[:-30], b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffzTXt",
        b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xfftEXt", png()[:33] + b"\xff\xff\xff\xffiCCP" + png()[41:],
    ],
)  # fmt: skip
def test_damage_is_still_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError):
        load_image(tmp_path / "a.png")
