import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from refiner.errors import InputError
from refiner.images import load_image, load_images, save_png
from refiner.metadata import XMP
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


# Tensors, several images, and what is no image


def as_tensor(image, kind):
    """The image as a tensor (3, H, W) of one kind of values."""
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    return {
        "uint8": lambda: values,
        "float32": lambda: values / 255,
        "float64": lambda: values.double() / 255,
        "bfloat16": lambda: (values / 255).bfloat16(),
        "float16": lambda: (values / 255).half().requires_grad_(),
        "strided": lambda: (values / 255).flip(1).flip(1).transpose(1, 2).contiguous().transpose(1, 2),
    }[kind]()


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "bfloat16", "float16", "strided"])
@pytest.mark.parametrize("batch", [False, True])
def test_tensors(kind, batch):
    tensor = as_tensor(gradient(), kind)
    loaded = load_image(tensor[None] if batch else tensor)
    assert abs(pixels(loaded) - pixels(gradient())).max() <= (1 if kind == "bfloat16" else 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tensors_of_grey_and_with_alpha(channels):
    torch = pytest.importorskip("torch")
    assert (pixels(load_image(torch.ones(channels, 30, 40))) == 255).all()
    assert load_image(torch.zeros(30, 40)).size == (40, 30)


def test_tensors_with_values_below_0_are_read_as_minus_1_to_1_and_it_is_said():
    with pytest.warns(UserWarning, match=r"read as floats in \[-1, 1\], because some are below 0"):
        loaded = load_image(as_tensor(gradient(), "float32") * 2 - 1)
    assert np.array_equal(pixels(loaded), pixels(gradient()))


@pytest.mark.parametrize(("low", "high", "tensor"), [(0.0, 2.0, r"\[0, 1\], got"), (-2.0, 1.0, r"\[-1, 1\], because")])
def test_values_out_of_range_are_refused_with_the_range_that_was_assumed(low, high, tensor):
    torch = pytest.importorskip("torch")
    values = np.linspace(low, high, 1200, dtype=np.float32).reshape(30, 40)
    with pytest.raises(InputError, match=rf"floats in {tensor}"):
        load_image(torch.from_numpy(values))
    with pytest.raises(InputError, match=r"floats in \[0, 1\], got"):
        load_image(values)


def test_rounding_errors_do_not_change_the_range():
    values = np.asarray(gradient(), dtype=np.float32) / 255
    values[0, 0], values[0, 1] = -1e-6, 1 + 1e-6
    loaded = pixels(load_image(values))
    assert loaded[0, 0].tolist() == [0, 0, 0]
    assert np.array_equal(loaded[1:], pixels(gradient())[1:])


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([gradient()], "list of 1.*load_images"),
        ((gradient(), gradient()), "tuple of 2.*load_images"),
        (None, "NoneType"),
        (b"\x89PNG", "bytes"),
        (7, "int"),
        ("https://example.org/cat.png", "address.*download it first"),
        ("s3://bucket/cat.png", "address"),
        ("data:image/png;base64,AAAA", "address"),
    ],
)
def test_what_is_no_image_is_refused_in_words(source, match):
    with pytest.raises(InputError, match=match):
        load_image(source)


def test_tensors_of_other_shapes_are_refused():
    torch = pytest.importorskip("torch")
    for shape in ((30, 40, 3), (2, 3, 30, 40), (1, 1, 3, 30, 40), (2, 30, 40)):
        with pytest.raises(InputError, match=rf"got shape \({', '.join(map(str, shape))}\)"):
            load_image(torch.zeros(shape))


def several(kind, tmp_path):
    images = [gradient(), gradient(64, 48).resize((40, 30)), Image.new("RGB", (40, 30), "white")]
    if kind == "array":
        return images, np.stack([np.asarray(image) for image in images])
    if kind == "tensor":
        torch = pytest.importorskip("torch")
        return images, torch.stack([as_tensor(image, "float32") for image in images])
    if kind == "mixed":
        return images, (save_png(images[0], tmp_path / "a.png"), np.asarray(images[1]), as_tensor(images[2], "uint8"))
    return images, images


@pytest.mark.parametrize("kind", ["list", "mixed", "array", "tensor"])
def test_several_images(kind, tmp_path):
    images, source = several(kind, tmp_path)
    loaded = load_images(source)
    assert [np.array_equal(pixels(one), pixels(other)) for one, other in zip(loaded, images, strict=True)] == [True] * 3


def test_the_range_is_that_of_the_whole_batch():
    """The white image alone would not show that its values begin at -1."""
    images, tensor = several("tensor", None)
    with pytest.warns(UserWarning, match="the batch are read as floats in"):
        loaded = load_images(tensor * 2 - 1)
    assert all(np.array_equal(pixels(one), pixels(other)) for one, other in zip(loaded, images, strict=True))


def test_one_image_is_a_list_of_one():
    for source in (gradient(), np.asarray(gradient()), as_tensor(gradient(), "uint8"), [gradient()]):
        assert [image.size for image in load_images(source)] == [(40, 30)]


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([], "empty list"),
        ([gradient(), None], "NoneType as image 2 of the list"),
        ([gradient(), [gradient()]], "list of 1 as image 2"),
        (np.zeros((2, 5, 5, 3), dtype=np.uint8), "at least 16.*image 1 of the batch"),
        ("https://example.org/cat.png", "address"),
    ],
)
def test_the_image_that_cannot_be_read_is_named(source, match):
    with pytest.raises(InputError, match=match):
        load_images(source)


def test_images_are_read_without_torch():
    code = """
import sys
sys.modules["torch"] = None
import numpy
from refiner.images import load_image, load_images
assert load_image(numpy.zeros((20, 20, 3))).size == (20, 20) and len(load_images(numpy.zeros((2, 20, 20, 3)))) == 2
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
