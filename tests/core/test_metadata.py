"""What a given image says besides its colours is in what is saved of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from support.profiles import rgb_profile

from refiner.colours import srgb_profile
from refiner.images import kept_from, load_image
from refiner.metadata import MOST_EXIF, MOST_TEXT, Kept
from refiner.provenance import read, save
from refiner.records import picture_digest
from refiner.reports.result import save_result
from refiner.types import Action, Analysis, Attempt, RefinementResult, Size

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' \
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"{more}><dc:title>Zoë</dc:title>' \
    "</rdf:Description></rdf:RDF></x:xmpmeta>"  # fmt: skip


def gradient(mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[:30, :40]
    image = Image.fromarray(np.stack([x * 6, y * 8, np.full_like(x, 60)], axis=2).astype(np.uint8))
    if mode != "RGB":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def exif(orientation: int = 1) -> Image.Exif:
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = orientation
    made[ExifTags.Base.Model] = "camera"
    made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "lens"
    made.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] = 7.0
    return made


def texts() -> PngInfo:
    info = PngInfo()
    info.add_text("parameters", "a cat, Steps: 20")
    info.add_itxt("Title", "die Hand 手", "de", "Titel")
    info.add_text("Source", "a painter")
    return info


def pixels(image: Image.Image) -> NDArray[np.int_]:
    return np.asarray(image).astype(int)


def inpainted(image: Image.Image, value: int = 9) -> Image.Image:
    """The image with another colour in a corner."""
    new = image.copy()
    new.paste((value, value, value), (0, 0, 12, 30))
    return new


def result(given: Image.Image, *others: tuple[Action, Image.Image]) -> RefinementResult:
    steps: list[tuple[Action, Image.Image]] = [("given", given), *others]
    attempts = tuple(
        Attempt(
            index=index, action=action, prompt="a hand", seed=0, image=image, accepted=True, reason="better",
            analysis=Analysis(size=Size(image.height, image.width), detector="none"),
        )
        for index, (action, image) in enumerate(steps)
    )  # fmt: skip
    return RefinementResult(prompt="a hand", attempts=attempts, best=len(attempts) - 1, stop="rounds")


def refined(source: Any) -> RefinementResult:
    given = load_image(source)
    return result(given, ("inpaint", inpainted(given)))


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


WAYS: dict[str, Callable[[RefinementResult, Path], str | Path]] = {
    "result.save": lambda made, folder: made.save(str(folder))["best"],
    "save_result": lambda made, folder: save_result(made, folder)["best"],
    "save png": lambda made, folder: save(made, folder / "b.png"),
    "save jpeg": lambda made, folder: save(made, folder / "b.jpg"),
}


@pytest.fixture(params=WAYS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[RefinementResult], Image.Image]:
    (tmp_path / "out").mkdir()
    return lambda made: opened(WAYS[request.param](made, tmp_path / "out"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
@pytest.mark.parametrize("given", ["path", "image", "copy"])
def test_exif_is_kept_and_its_orientation_reset(
    tmp_path: Path, saved: Callable[[RefinementResult], Image.Image], suffix: str, given: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    gradient().save(path, exif=exif(6))
    source = {"path": lambda: path, "image": lambda: opened(path), "copy": lambda: opened(path).copy()}[given]()
    found = saved(refined(source))
    assert found.size == (30, 40)
    said = found.getexif()
    assert said.get(ExifTags.Base.Orientation, 1) == 1
    assert said[ExifTags.Base.Model] == "camera"
    assert said.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "lens"
    assert said.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAltitude] == 7.0


def test_an_orientation_in_xmp_is_not_applied_twice(tmp_path: Path, saved: Callable[..., Image.Image]) -> None:
    packet = XMP.format(more=' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"')
    gradient().save(tmp_path / "a.jpg", xmp=packet.encode())
    found = saved(refined(tmp_path / "a.jpg"))
    assert found.size == load_image(found).size == (30, 40)
    assert "Zoë" in kept_from(load_image(found)).xmp


@pytest.mark.parametrize("given", ["path", "image", "copy"])
@pytest.mark.parametrize("way", ["result.save", "save png"])
def test_text_chunks_are_kept(tmp_path: Path, given: str, way: str) -> None:
    path = tmp_path / "a.png"
    gradient().save(path, pnginfo=texts())
    source = {"path": lambda: path, "image": lambda: opened(path), "copy": lambda: opened(path).copy()}[given]()
    found = opened(WAYS[way](refined(source), tmp_path))
    assert found.text["parameters"] == "a cat, Steps: 20"
    assert found.text["Title"] == "die Hand 手"
    assert found.text["Title"].lang == "de"
    assert found.text["Source"] == "AI-generated"
    assert opened(save(result(load_image(path)), tmp_path / "same.png")).text["Source"] == "a painter"


def test_the_comment_of_a_jpeg_is_kept(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", comment="für Zoë".encode())
    made = refined(tmp_path / "a.jpg")
    assert opened(save(made, tmp_path / "b.jpg")).info["comment"].decode() == "für Zoë"
    assert opened(save(made, tmp_path / "b.png")).text["Comment"] == "für Zoë"


def test_an_old_run_record_gives_way_to_the_new_one(tmp_path: Path) -> None:
    first = save(refined(gradient()), tmp_path / "first.png", {"model": "one"})
    again = save(refined(first), tmp_path / "again.png", {"model": "two"})
    assert read(again).record["config"] == {"model": "two"}


@pytest.mark.parametrize("way", ["result.save", "save png"])
@pytest.mark.parametrize("given", ["path", "image", "array", "tensor"])
def test_alpha_comes_back(tmp_path: Path, way: str, given: str) -> None:
    image = gradient("RGBA")
    image.save(tmp_path / "a.png")
    made = refined(
        {
            "path": lambda: tmp_path / "a.png",
            "image": lambda: image,
            "array": lambda: np.asarray(image),
            "tensor": lambda: pytest.importorskip("torch").from_numpy(np.array(image)).permute(2, 0, 1),
        }[given]()
    )
    found = opened(WAYS[way](made, tmp_path))
    assert found.mode == "RGBA"
    assert np.array_equal(pixels(found)[..., 3], pixels(image)[..., 3])
    assert np.array_equal(pixels(found)[:, 12:], pixels(image)[:, 12:]), "pixels that were not inpainted"
    opaque = pixels(image)[..., 3] == 255
    assert np.array_equal(pixels(found)[opaque][:, :3], pixels(made.image)[opaque])


def test_over_white_a_saved_image_looks_like_the_refined_one(tmp_path: Path) -> None:
    given = load_image(gradient("RGBA"))
    white = pixels(given).min()
    made = result(given, ("inpaint", inpainted(given, 255)))
    seen = load_image(save(made, tmp_path / "b.png"))
    assert white < 255
    assert np.abs(pixels(seen) - pixels(made.image)).max() <= 1


def test_a_saved_start_image_is_the_one_that_was_given(tmp_path: Path) -> None:
    """So a run can be made again from its folder."""
    gradient("RGBA").save(tmp_path / "a.png", icc_profile=rgb_profile("Display P3"), exif=exif(6))
    made = refined(tmp_path / "a.png")
    start = save_result(made, tmp_path / "out")["start"]
    assert picture_digest(load_image(start)) == picture_digest(made.attempts[0].image)


def test_a_jpeg_has_no_alpha(tmp_path: Path) -> None:
    made = refined(gradient("RGBA"))
    found = opened(save(made, tmp_path / "b.jpg", quality=100))
    assert found.mode == "RGB"
    assert np.abs(pixels(found) - pixels(made.image)).mean() < 3


def test_the_profile_is_that_of_the_pixels(tmp_path: Path, saved: Callable[..., Image.Image]) -> None:
    gradient().save(tmp_path / "a.png", icc_profile=rgb_profile("Display P3"))
    assert saved(refined(tmp_path / "a.png")).info["icc_profile"] == srgb_profile()


def test_only_what_shows_the_given_image_says_what_it_said(tmp_path: Path) -> None:
    """Sheets and regenerated images have neither its transparency nor its camera and texts."""
    gradient("RGBA").save(tmp_path / "a.png", exif=exif(), pnginfo=texts())
    given = load_image(tmp_path / "a.png")
    new = Image.new("RGB", given.size, "green")
    made = result(given, ("inpaint", inpainted(given)), ("regenerate", new), ("inpaint", inpainted(new)))
    files = save_result(made, tmp_path / "out")
    shows = {name for name, path in files.items() if path.endswith("png") and "parameters" in opened(path).text}
    assert shows == {"start", "attempt-00", "attempt-01"}
    for name in shows:
        assert opened(files[name]).mode == "RGBA"
        assert opened(files[name]).getexif()[ExifTags.Base.Model] == "camera"
    for name in {name for name, path in files.items() if path.endswith("png")} - shows:
        assert opened(files[name]).mode == "RGB"
        assert not opened(files[name]).getexif()
    assert read(files["best"]).source_type == "trainedAlgorithmicMedia"


@pytest.mark.parametrize("data", [b"Exif\0\0garbage", b"", b"Exif\0\0MM\0*" + bytes(9)])
def test_exif_that_cannot_be_read_is_left_out(tmp_path: Path, data: bytes) -> None:
    gradient().save(tmp_path / "a.png", exif=data)
    assert kept_from(load_image(tmp_path / "a.png")).exif == b""


def test_too_much_is_left_out(tmp_path: Path) -> None:
    long = exif()
    long[ExifTags.Base.ImageDescription] = "x" * MOST_EXIF
    info = texts()
    info.add_text("workflow", "x" * (MOST_TEXT + 1), zip=True)
    image = gradient()
    image.save(tmp_path / "a.png", exif=long)
    assert kept_from(load_image(tmp_path / "a.png")).exif == b""
    image.info["workflow"] = "x" * (MOST_TEXT + 1)
    image.info["key\n"] = "no key of a PNG"
    assert kept_from(load_image(image)) == Kept()


def test_an_image_that_was_generated_has_nothing_to_keep(tmp_path: Path) -> None:
    made = result(gradient())
    files = save_result(made, tmp_path)
    assert set(opened(files["best"]).text) == {"refiner"}
