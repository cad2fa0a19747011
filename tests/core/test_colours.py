"""Colour profiles: the pixels of a loaded image are sRGB, whatever profile its file has."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from support.profiles import cmyk_profile, grey_profile, rgb_profile

from refiner.colours import srgb_profile
from refiner.images import kept_from, load_image


def gradient() -> Image.Image:
    y, x = np.mgrid[:30, :40]
    return Image.fromarray(np.stack([x * 6, y * 8, np.full_like(x, 60)], axis=2).astype(np.uint8))


def pixels(image: Image.Image) -> NDArray[np.int_]:
    return np.asarray(image).astype(int)


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB, by Pillow alone."""
    mine, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, mine, srgb, outputMode="RGB")


@pytest.mark.parametrize("primaries", ["Adobe RGB", "Display P3"])
@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("RGB", "jpg"), ("RGB", "webp"), ("P", "png"), ("L", "tiff")]
)
def test_colours_become_srgb(tmp_path: Path, primaries: str, mode: str, suffix: str) -> None:
    profile, path = rgb_profile(primaries), tmp_path / f"a.{suffix}"
    gradient().convert(mode).save(path, icc_profile=profile, quality=98)
    with Image.open(path) as image:
        wanted = converted(image.convert("RGB"), profile)
        for source in (path, image):
            loaded = load_image(source)
            assert np.abs(pixels(loaded) - pixels(wanted)).max() <= 1
            assert kept_from(loaded).icc_profile == srgb_profile()
            assert loaded.info == {}


@pytest.mark.parametrize(("mode", "profile"), [("L", grey_profile(1.0)), ("CMYK", cmyk_profile())])
def test_grey_and_cmyk_are_read_by_their_profile(tmp_path: Path, mode: str, profile: bytes) -> None:
    image = gradient().convert(mode)
    image.save(tmp_path / "a.tiff", icc_profile=profile)
    loaded, plain = load_image(tmp_path / "a.tiff"), load_image(image)
    assert np.abs(pixels(loaded) - pixels(converted(image, profile))).max() <= 1
    assert np.abs(pixels(loaded) - pixels(plain)).max() > 20


def test_deep_grey_is_read_by_its_profile(tmp_path: Path) -> None:
    grey = np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    wanted = converted(Image.fromarray(grey), grey_profile(1.0))
    assert np.abs(pixels(load_image(tmp_path / "a.png")) - pixels(wanted)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_survives_the_conversion(tmp_path: Path, mode: str) -> None:
    image = gradient().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    profile = rgb_profile("Display P3") if mode == "RGBA" else grey_profile(1.0)
    image.save(tmp_path / "a.png", icc_profile=profile)
    rgba = kept_from(load_image(tmp_path / "a.png")).rgba
    assert np.array_equal(pixels(rgba.getchannel("A")), pixels(image.getchannel("A")))
    opaque = image.convert("RGB" if mode == "RGBA" else "L")
    assert np.abs(pixels(rgba.convert("RGB")) - pixels(converted(opaque, profile))).max() <= 1


def test_srgb_is_left_alone(tmp_path: Path) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gradient().save(tmp_path / "a.png", icc_profile=own)
    loaded = load_image(tmp_path / "a.png")
    assert np.array_equal(pixels(loaded), pixels(gradient()))
    assert kept_from(loaded).icc_profile == own


@pytest.mark.parametrize(
    "profile", [b"no profile", rgb_profile("Adobe RGB")[:200], bytes(128), grey_profile(1.0), cmyk_profile()]
)
def test_a_broken_profile_or_one_of_another_kind_is_ignored(tmp_path: Path, profile: bytes) -> None:
    gradient().save(tmp_path / "a.png", icc_profile=profile)
    loaded = load_image(tmp_path / "a.png")
    assert np.array_equal(pixels(loaded), pixels(gradient()))
    assert kept_from(loaded).icc_profile is None


def test_a_loaded_image_is_not_converted_again(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png", icc_profile=rgb_profile("Adobe RGB"))
    once = load_image(tmp_path / "a.png")
    twice = load_image(once)
    assert np.array_equal(pixels(once), pixels(twice))
    assert kept_from(twice) == kept_from(once)
