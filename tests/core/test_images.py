import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from refiner.errors import InputError
from refiner.images import XMP, load_image, save_png
from refiner.provenance import ai_label


def gradient(width=40, height=30):
    """An image whose red grows to the right and whose green grows downwards."""
    y, x = np.mgrid[:height, :width]
    blue = np.full_like(x, 60)
    return Image.fromarray(np.stack([x * 255 // (width - 1), y * 255 // (height - 1), blue], axis=2).astype(np.uint8))


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "tga", "webp", "avif", "jp2", "jpg", "gif"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 98}, "avif": {"quality": 98}}.get(suffix, {})
    gradient().save(path, **options)
    image = load_image(path)
    assert image.mode == "RGB"
    assert image.size == (40, 30)
    tolerance = {"jpg": 4, "avif": 4, "gif": 16}.get(suffix, 0)
    assert abs(pixels(image) - pixels(gradient())).mean() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """The stored image is rotated as its tag says, and is upright again."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = gradient() if undo is None else gradient().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    stored.save(path, exif=exif)
    assert np.array_equal(pixels(load_image(path)), pixels(gradient()))


def test_unreadable_exif_loses_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    gradient().save(path, exif=b"Exif\x00\x00garbage that is no TIFF header")
    assert np.array_equal(pixels(load_image(path)), pixels(gradient()))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_lies_over_white(mode):
    rgba = gradient().convert("RGBA")
    rgba.putalpha(Image.new("L", rgba.size, 0))
    image = rgba.convert("LA" if mode in ("LA", "La") else "PA" if mode == "PA" else "RGBA").convert(mode)
    assert image.mode == mode
    assert (pixels(load_image(image)) == 255).all()


def test_half_transparency_mixes_with_white():
    image = Image.new("RGBA", (20, 20), (0, 0, 200, 128))
    assert load_image(image).getpixel((3, 3)) == pytest.approx((127, 127, 227), abs=1)


def test_palette_with_transparent_colour(tmp_path):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 10, 20))
    image.save(tmp_path / "a.png", transparency=0)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.getpixel((2, 2)) == (0, 0, 255)
    assert loaded.getpixel((15, 2)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode):
    grey = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (20, 10)))
    source = grey.convert("RGB").convert(mode) if mode not in ("1", "L") else grey.convert(mode)
    loaded = load_image(source)
    assert loaded.mode == "RGB"
    assert abs(pixels(loaded) - pixels(grey)[:, :, None]).max() <= 2


def test_lab_becomes_rgb():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.applyTransform(gradient(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert abs(pixels(load_image(lab)) - pixels(gradient())).mean() < 2


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint16, 65535), (">u2", 65535), (np.int32, 65535), (np.int32, 255), (np.float32, 1.0)]
)
def test_deep_greys_keep_their_whole_range(dtype, top):
    ramp = np.tile(np.linspace(0, top, 256), (40, 1)).astype(dtype)
    image = Image.frombytes("I;16B", (256, 40), ramp.tobytes()) if dtype == ">u2" else Image.fromarray(ramp)
    assert np.abs(pixels(load_image(image))[0, :, 0] - np.arange(256)).max() <= 1


def test_dark_16_bit_picture_stays_dark(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 20), 200, dtype=np.uint16)).save(path)
    assert load_image(path).getpixel((0, 0)) == (1, 1, 1)


def test_nan_is_refused():
    with pytest.raises(InputError, match="NaN"):
        load_image(Image.fromarray(np.full((20, 20), np.nan, dtype=np.float32)))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert load_image(path).getpixel((5, 5)) == (255, 0, 0)


def test_loading_leaves_the_source_alone():
    source = gradient()
    loaded = load_image(source)
    loaded.putpixel((0, 0), (9, 9, 9))
    assert source.getpixel((0, 0)) == (0, 0, 60)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 3), (30, 40, 4)])
@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(shape, dtype):
    top = {np.bool_: True, np.uint8: 255, np.uint16: 65535}.get(dtype, 1.0)
    assert (pixels(load_image(np.full(shape, top, dtype=dtype))) == 255).all()


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((3, 30, 40)), "channels last"),
        (np.zeros((1, 30, 40, 3)), "one image at a time"),
        (np.full((30, 40), 2.0), "from 2.0 to 2.0"),
        (np.zeros((30, 40), dtype=np.int64), "int64"),
        (np.zeros(5), "channels last"),
        (np.zeros((5, 40)), "at least 16"),
        (np.full((30, 40), np.nan), "floats in"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array, match):
    with pytest.raises(InputError, match=match):
        load_image(array)


def test_missing_empty_and_other_files_are_refused_by_name(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "vector.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n")
    for name, match in [
        ("missing.png", "does not exist"),
        ("empty.png", "0 bytes"),
        ("text.png", "is not a supported image format"),
        ("vector.eps", "is not a supported image format"),
        (".", "not a file"),
        ("a\0b", "check the path"),
    ]:
        with pytest.raises(InputError, match=match):
            load_image(tmp_path / name)


@pytest.mark.parametrize(
    ("size", "match"), [((1, 1), "at least 16"), ((5, 4000), "at least 16"), ((16, 129), "ratio"), ((300, 15), "least")]
)
def test_slivers_are_refused(tmp_path, size, match):
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=match):
        load_image(tmp_path / "a.png")
    with pytest.raises(InputError, match=match):
        load_image(Image.new("RGB", size))


def bomb(width, height):
    """A PNG of a few bytes whose header claims the size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 12_000, 60_000])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(InputError, match=r"at most 64 megapixels.*bomb\.png"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.05, 0.95))
def test_truncated_files_are_refused_by_name(tmp_path_factory, suffix, share):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=suffix)
    data = buffer.getvalue()
    path = tmp_path_factory.mktemp("cut") / "cut.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.img"):
        load_image(path)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)))
)
def test_damaged_files_load_or_are_refused_but_never_crash(tmp_path_factory, suffix, changes):
    buffer = io.BytesIO()
    gradient().save(buffer, format=suffix)
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path_factory.mktemp("bad") / "bad.img"
    path.write_bytes(data)
    try:
        assert load_image(path).mode == "RGB"
    except InputError as error:
        named = str(error)
    else:
        named = path.name
    assert "bad.img" in named


def test_png_carries_pixels_text_and_label(tmp_path):
    text = ai_label(from_given_image=False) | {"prompt": "a clock, 日本語 & <b>"}
    path = save_png(gradient(), tmp_path / "a.png", text)
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(pixels(image), pixels(gradient()))
        assert image.text["prompt"] == "a clock, 日本語 & <b>"
        assert '/digitalsourcetype/trainedAlgorithmicMedia"' in image.text[XMP]
    assert "compositeWith" in ai_label(from_given_image=True)[XMP]
