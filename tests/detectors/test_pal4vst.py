"""PAL4VST's signature: what goes into the network, regions from its mask, and files and answers that are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_pal4vst import Dark, save_pal4vst, save_torchscript
from torch import Tensor, nn

from refiner.cli.main import main
from refiner.detectors import load_detector
from refiner.detectors.pal4vst.detector import LEAST_SHARE, MEAN, NAME, SPECKS, STD, Pal4vstDetector
from refiner.detectors.registry import detector_needs
from refiner.errors import BadAnswerError, ConfigError, ModelError, ModelNotFoundError, UserError, WeightsError
from refiner.masks import union
from refiner.taxonomy import Category


def scene(width: int = 640, height: int = 384) -> Image.Image:
    """White, with a dark block, a dark stripe and a few dark specks."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[40:140, 50:200] = 0
    pixels[300:340, 400:480] = 0
    for x in (500, 540, 580):
        pixels[40:46, x : x + 6] = 0
    return Image.fromarray(pixels)


class Given(nn.Module):
    """Gives one map whatever the image is."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.values


class Kept(nn.Module):
    """Keeps its input."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        return torch.zeros(1, 1, 512, 512)


class Failing(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels @ torch.zeros(3, 5)


class Complex(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return torch.complex(pixels, pixels)[:, :1]


class Pair(nn.Module):
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels, pixels


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and ": " in message and len(message) < 700


@pytest.mark.parametrize("size", [(512, 512), (640, 384), (100, 900), (3, 2)])
def test_the_input_is_the_published_one(size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 80).convert("RGB")
    network = Kept()
    assert Pal4vstDetector(network, name="kept")(image).regions == ()
    scaled = np.asarray(image.resize((512, 512)), dtype=np.float64)
    wanted = ((scaled - MEAN) / STD).transpose(2, 0, 1)[None]
    assert network.seen[0].dtype == torch.float32
    assert np.abs(network.seen[0].numpy() - wanted).max() < 1e-5


@pytest.mark.parametrize(("output", "option"), [("mask", ""), ("probabilities", ""), ("logits", ",output=logits")])
def test_regions_are_the_connected_parts_and_cover_the_mask(tmp_path: Path, output: str, option: str) -> None:
    detector = load_detector(f"pal4vst:{save_pal4vst(tmp_path / 'net.pt', output)}{option}", device="cpu")
    image = scene()
    analysis = detector(image)
    assert [region.name for region in analysis.regions] == [NAME, NAME, SPECKS]
    assert [region.location for region in analysis.regions[:2]] == ["upper left", "lower right"]
    assert abs(np.array(analysis.regions[0].box) - (50, 40, 200, 140)).max() <= 2
    dark = np.asarray(image.convert("L")) < 128
    assert np.count_nonzero(analysis.mask != dark) < 0.01 * dark.size
    pixels = analysis.size.height * analysis.size.width
    areas = [np.count_nonzero(region.mask) for region in analysis.regions]
    assert areas[0] > areas[1] >= LEAST_SHARE * pixels
    assert sum(areas) == np.count_nonzero(analysis.mask)
    assert {(region.category, region.explanation, region.reasoning) for region in analysis.regions} == {
        (Category.TEXTURE, "", "")
    }
    assert analysis.fake_probability is None
    scores = [region.score for region in analysis.regions]
    if output == "mask":
        assert analysis.heatmap is None
        assert scores == [1, 1, 1]
    else:
        assert analysis.heatmap is not None
        for region, score in zip(analysis.regions, scores, strict=True):
            assert score == pytest.approx(analysis.heatmap[region.mask].mean(), abs=1e-6)
            assert 0.3 < score < 1


@pytest.mark.parametrize("size", [(512, 512), (257, 1031)])
def test_any_mask_is_covered_exactly_and_each_pixel_once(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((512, 512)) > 0.55
    truth[100:300, 100:300] = True
    detector = Pal4vstDetector(Given(torch.from_numpy(truth)[None, None]), name="given")
    analysis = detector(Image.new("RGB", size))
    masks = [region.mask for region in analysis.regions if region.mask is not None]
    assert len(masks) == len(analysis.regions) <= 1 / LEAST_SHARE + 1
    assert sum(map(np.count_nonzero, masks)) == np.count_nonzero(union(masks, analysis.size))
    if size == (512, 512):
        assert np.array_equal(analysis.mask, truth)


def test_a_file_a_folder_and_a_bare_folder_are_the_same_detector(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = save_pal4vst(tmp_path / "deep/end2end.pt")
    ids = [f"pal4vst:{file}", f"pal4vst:{tmp_path}", f"pal4vst:{tmp_path / 'deep'}", str(tmp_path / "deep")]
    loaded = [load_detector(each, device="cpu") for each in ids]
    assert len({each.name for each in loaded}) == 1
    assert loaded[0].name.startswith("pal4vst:end2end@")
    assert [list(detector_needs(each)) for each in ids[:3]] == [[file]] * 3
    save_torchscript(Dark("logits"), file)
    assert load_detector(ids[0], device="cpu").name != loaded[0].name, "the name tells the weights apart"


def test_half_precision_gives_the_same_regions(tmp_path: Path) -> None:
    file = save_pal4vst(tmp_path / "net.pt")
    whole, half = (load_detector(f"pal4vst:{file}", "cpu", dtype) for dtype in (None, torch.bfloat16))
    assert [region.box for region in half(scene()).regions] == [region.box for region in whole(scene()).regions]


def write_zip(path: Path, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a complete TorchScript file"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "not a complete"),
    "truncated": (lambda path: path.write_bytes(save_pal4vst(path).read_bytes()[:-300]), "not a complete"),
    "cut in the middle": (lambda path: path.write_bytes(save_pal4vst(path).read_bytes()[2000:]), "download it again"),
    "another zip": (lambda path: write_zip(path, ("a/b.txt",)), "not a complete TorchScript file"),
    "a zip with its names": (
        lambda path: write_zip(path, ("a/data.pkl", "a/constants.pkl", "a/version")),
        "cannot be loaded",
    ),
    "weights": (lambda path: torch.save(Dark().state_dict(), path), "pickled PyTorch object"),
    "a pickled network": (lambda path: torch.save(Dark(), path), "pickled PyTorch object"),
    "an old pickle": (
        lambda path: torch.save(Dark().state_dict(), path, _use_new_zipfile_serialization=False),
        "pickled PyTorch object",
    ),
    "a text": (lambda path: path.write_text("no network"), "not a complete"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_torchscript_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    damage, said = DAMAGED[kind]
    damage(tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=said) as caught:
        load_detector(f"pal4vst:{tmp_path / 'net.pt'}", device="cpu")
    assert one_sentence(str(caught.value))


def test_a_flipped_byte_never_ends_in_a_bare_error(tmp_path: Path) -> None:
    whole, bad = save_pal4vst(tmp_path / "net.pt").read_bytes(), tmp_path / "bad.pt"

    def refusal(place: int) -> str:
        bad.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            load_detector(f"pal4vst:{bad}", device="cpu")(scene())
        except (WeightsError, ModelError) as error:
            return str(error)
        return ""

    said = list(filter(None, map(refusal, range(0, len(whole), len(whole) // 40))))
    assert said
    assert all(map(one_sentence, said)), said


@pytest.mark.parametrize(
    ("model", "said"),
    [("", "TorchScript file"), ("nowhere.pt", "TorchScript file"), ("{}", "got none"), ("{}/two", "got a.pt, b.pt")],
)
def test_a_missing_file_is_said_in_one_sentence(tmp_path: Path, model: str, said: str) -> None:
    (tmp_path / "two").mkdir()
    if "two" in model:
        for name in ("a.pt", "b.pt"):
            save_pal4vst(tmp_path / "two" / name)
    for ask in (load_detector, detector_needs):
        with pytest.raises(ModelNotFoundError, match=said) as caught:
            ask(f"pal4vst:{model.format(tmp_path)}")
        assert one_sentence(str(caught.value))


@pytest.mark.parametrize("option", ["output=boxes", "output=", "grounder=box", "size=3"])
def test_options_that_there_are_not_are_refused(tmp_path: Path, option: str) -> None:
    file = save_pal4vst(tmp_path / "net.pt")
    with pytest.raises(ConfigError):
        load_detector(f"pal4vst:{file},{option}")
    with pytest.raises(ConfigError, match="leave the grounder out"):
        load_detector(f"pal4vst:{file}", grounder="box")


MAP = (1, 1, 512, 512)
ANSWERS: dict[str, tuple[nn.Module, str]] = {
    "another shape": (Given(torch.zeros(1, 2, 512, 512)), r"torch.float32 \(1, 2, 512, 512\)"),
    "no batch": (Given(torch.zeros(512, 512)), "of shape"),
    "complex": (Complex(), "complex64"),
    "a pair": (Pair(), "got tuple"),
    "NaN": (Given(torch.full(MAP, torch.nan)), "NaN or infinity"),
    "infinity": (Given(torch.full(MAP, -torch.inf)), "NaN or infinity"),
    "logits": (Given(torch.full(MAP, -3.0)), "output=logits"),
    "grey levels": (Given(torch.full(MAP, 255, dtype=torch.uint8)), "0 to 1"),
    "an error": (Failing(), "failed on an image"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_cannot_be_used_is_no_clean_picture(tmp_path: Path, kind: str) -> None:
    network, said = ANSWERS[kind]
    detector = load_detector(f"pal4vst:{save_torchscript(network, tmp_path / 'net.pt')}", device="cpu")
    with pytest.raises(ModelError, match=said) as caught:
        detector(scene())
    assert isinstance(caught.value, BadAnswerError) == (kind != "an error")
    assert one_sentence(str(caught.value))


def test_it_is_there_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene().save(tmp_path / "picture.png")
    file = save_pal4vst(tmp_path / "net.pt")
    assert main(["detect", str(tmp_path / "picture.png"), "--detector", f"pal4vst:{file}", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count(NAME) == 3
    (tmp_path / "net.pt").write_bytes(b"")
    assert main(["detect", str(tmp_path / "picture.png"), "--detector", f"pal4vst:{file}", "--device", "cpu"]) == 2
    assert issubclass(WeightsError, UserError)
