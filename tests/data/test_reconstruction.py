"""``refiner data reconstruct``: pairs that depend on each image alone, resumed runs, and images that cannot be used."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from refiner.cli import main
from refiner.data.problems import Problem
from refiner.data.samples import pairs_of
from refiner.data.writing.reconstruction import (
    Autoencoder,
    Reconstructed,
    ReconstructionSettings,
    compressed,
    jpeg_quality,
    reconstruct,
    stored_quality,
)
from refiner.errors import ConfigError, InputError, ModelError, WeightsError
from refiner.images import load_image

SIZES = [(64, 48), (61, 51), (64, 48), (40, 40), (64, 48), (49, 33)]


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with an autoencoder of random weights, which needs sides in multiples of 4."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    network = AutoencoderKL(
        **blocks, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False
    )
    network.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def autoencoder(vae: Path) -> Autoencoder:
    return Autoencoder.from_pretrained(vae, "cpu")


def images(folder: Path) -> Path:
    """Images of several sizes: PNG files, and JPEG files in a folder below."""
    (folder / "deep").mkdir(parents=True)
    for number, (width, height) in enumerate(SIZES):
        smooth = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        if number % 2:
            image.save(folder / "deep" / f"{number}.jpg", quality=40 + 10 * number)
        else:
            image.save(folder / f"{number}.png")
    return folder


def settings(vae: Path, **changes: Any) -> ReconstructionSettings:
    return ReconstructionSettings(**{"vae": str(vae), "batch": 2, **changes})


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_pairs_have_equal_names_and_sizes_and_the_original_is_its_image_s_centre(
    tmp_path: Path, vae: Path, autoencoder: Autoencoder
) -> None:
    source, problems = images(tmp_path / "in"), list[Problem]()
    done = reconstruct(source, tmp_path / "out", settings(vae), autoencoder, problems)
    assert (done, problems) == (Reconstructed(6, 0, 0), [])
    for number, (width, height) in enumerate(SIZES):
        name = f"deep/{number}" if number % 2 else str(number)
        real, fake = (load_image(tmp_path / "out" / kind / f"{name}.png") for kind in ("0_real", "1_fake"))
        assert real.size == fake.size == (width - width % 4, height - height % 4)
        pixels = np.asarray(load_image(source / f"{name}.{'jpg' if number % 2 else 'png'}"))
        top, left = height % 4 // 2, width % 4 // 2
        assert np.array_equal(np.asarray(real), pixels[top : top + real.height, left : left + real.width])
        assert stored_quality(real) == (40 + 10 * number if number % 2 else None)
        assert real.tobytes() != fake.tobytes()


def test_a_reconstruction_is_diffusers_own_with_its_seed(vae: Path, autoencoder: Autoencoder) -> None:
    network = AutoencoderKL.from_pretrained(vae / "vae").eval()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = network.encode(values).latent_dist.sample(torch.Generator().manual_seed(7))
        wanted = ((network.decode(latents).sample.clamp(-1, 1) + 1) * 127.5).round()[0].permute(1, 2, 0)
    [found] = autoencoder([pixels], [7])
    assert np.abs(found - wanted.numpy()).max() <= 1
    assert not np.array_equal(found, autoencoder([pixels], [8])[0])


def test_batches_and_stops_change_nothing(tmp_path: Path, vae: Path, autoencoder: Autoencoder) -> None:
    source = images(tmp_path / "in")
    reconstruct(source, tmp_path / "one", settings(vae, batch=1), autoencoder, [])
    reconstruct(source, tmp_path / "many", settings(vae, batch=8), autoencoder, [])
    assert files(tmp_path / "one").keys() == files(tmp_path / "many").keys()
    for name in files(tmp_path / "one"):
        one, many = (np.asarray(load_image(tmp_path / kind / name), dtype=int) for kind in ("one", "many"))
        assert np.abs(one - many).max() <= 1

    def stopped(names: Any) -> Any:
        yield from names[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(source, tmp_path / "again", settings(vae, batch=1), autoencoder, [], stopped)
    before = files(tmp_path / "again")
    assert 0 < len(before) < 12
    done = reconstruct(source, tmp_path / "again", settings(vae, batch=1), autoencoder, [])
    assert (done.made, done.kept) == (6 - len(before) // 2, len(before) // 2)
    assert files(tmp_path / "again") == files(tmp_path / "one")
    for other in (settings(vae, seed=1), settings(vae, jpeg=True), settings(vae.parent)):
        with pytest.raises(ConfigError, match="choose another folder"):
            reconstruct(source, tmp_path / "again", other, autoencoder, [])


def test_a_bad_image_does_not_lose_the_others(tmp_path: Path, vae: Path, autoencoder: Autoencoder) -> None:
    source = images(tmp_path / "in")
    (source / "bad.png").write_bytes(b"nothing")
    (source / "cut.jpg").write_bytes((source / "deep" / "1.jpg").read_bytes()[:300])
    Image.new("RGB", (9, 9)).save(source / "small.png")
    (source / "0.jpg").write_bytes((source / "deep" / "1.jpg").read_bytes())
    problems: list[Problem] = []
    done = reconstruct(source, tmp_path / "out", settings(vae), autoencoder, problems)
    kinds = sorted((problem.kind, problem.where) for problem in problems)
    assert kinds == [
        ("duplicate_basename", "0.png"), ("unreadable_image", "bad.png"), ("unreadable_image", "cut.jpg"),
        ("unreadable_image", "small.png"),
    ]  # fmt: skip
    assert (done.made, done.left_out) == (6, 4)


def test_a_failure_of_the_network_is_named_and_the_run_goes_on(
    tmp_path: Path, vae: Path, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = Autoencoder._passed

    def short(self: Autoencoder, pixels: torch.Tensor, seeds: Any) -> torch.Tensor:
        if len(pixels) > 1 or pixels.shape[2:] == (40, 40):
            raise torch.OutOfMemoryError
        return passed(self, pixels, seeds)

    source, problems = images(tmp_path / "in"), list[Problem]()
    reconstruct(source, tmp_path / "whole", settings(vae, batch=1), autoencoder, [])
    monkeypatch.setattr(Autoencoder, "_passed", short)
    done = reconstruct(source, tmp_path / "out", settings(vae, batch=3), autoencoder, problems)
    assert done.made == 5
    assert [(problem.kind, problem.where) for problem in problems] == [("failed", "deep/3.png")]
    assert files(tmp_path / "out").items() <= files(tmp_path / "whole").items()


def test_half_precision_that_overflows_is_computed_again(vae: Path) -> None:
    network = AutoencoderKL.from_pretrained(vae / "vae").to(torch.bfloat16)
    wide = Autoencoder.from_pretrained(vae, "cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    half = Autoencoder(network)
    passed = half._passed
    half._passed = lambda values, seeds: (  # type: ignore[method-assign]
        passed(values, seeds) * (torch.nan if half.vae.dtype == torch.bfloat16 else 1)
    )
    assert np.abs(half([pixels], [0])[0].astype(int) - wide([pixels], [0])[0]).max() <= 3
    assert half.vae.dtype == torch.bfloat16
    broken = Autoencoder.from_pretrained(vae, "cpu")
    broken._passed = lambda values, seeds: values * torch.nan  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="finite"):
        broken([pixels], [0])


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(tmp_path: Path, quality: int) -> None:
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    image.save(tmp_path / "a.jpg", quality=quality)
    assert jpeg_quality(tmp_path / "a.jpg") == quality
    image.save(tmp_path / "a.png")
    assert jpeg_quality(tmp_path / "a.png") is None
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    assert compressed(image, quality).tobytes() == Image.open(buffer).convert("RGB").tobytes()


def test_with_jpeg_the_reconstruction_is_compressed_as_its_original_was(
    tmp_path: Path, vae: Path, autoencoder: Autoencoder
) -> None:
    source = images(tmp_path / "in")
    reconstruct(source, tmp_path / "plain", settings(vae, batch=1), autoencoder, [])
    reconstruct(source, tmp_path / "jpeg", settings(vae, batch=1, jpeg=True), autoencoder, [])
    plain, jpeg = files(tmp_path / "plain"), files(tmp_path / "jpeg")
    assert plain["1_fake/0.png"] == jpeg["1_fake/0.png"]
    wanted = compressed(load_image(tmp_path / "plain/1_fake/deep/1.png"), 50)
    assert load_image(tmp_path / "jpeg/1_fake/deep/1.png").tobytes() == wanted.tobytes()
    assert stored_quality(load_image(tmp_path / "jpeg/0_real/deep/1.png")) is None, "it is aligned already"


@pytest.mark.parametrize("kind", ["nowhere", "empty", "file"])
def test_what_is_no_folder_of_images_is_refused(tmp_path: Path, vae: Path, autoencoder: Autoencoder, kind: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        reconstruct(tmp_path / kind, tmp_path / "out", settings(vae), autoencoder, [])


def test_what_is_no_autoencoder_is_refused_in_one_sentence(tmp_path: Path, vae: Path) -> None:
    bad = tmp_path / "bad" / "vae"
    bad.mkdir(parents=True)
    for text in ("{", '{"_class_name": "UNet2DConditionModel"}', '{"_class_name": "AutoencoderKL"}'):
        (bad / "config.json").write_text(text)
        with pytest.raises(WeightsError) as caught:
            Autoencoder.from_pretrained(bad.parent, "cpu")
        assert "\n" not in str(caught.value)


def test_the_command_prints_what_it_did(tmp_path: Path, vae: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = images(tmp_path / "in")
    arguments = [
        "data",
        "reconstruct",
        str(source),
        "--vae",
        str(vae),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 6
    assert main(arguments) == 0
    assert "6 there before" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1"]) == 2
    assert main([*arguments[:2], str(tmp_path / "nowhere"), *arguments[3:]]) == 2


def test_pairs_are_read_from_the_data_set_or_from_its_samples() -> None:
    class Known:
        names, pairs, problems = ("a", "b"), ["x", ""], list[Problem]()

        def load(self, index: int) -> Any:
            raise AssertionError

    assert pairs_of(Known()) == ["x", ""]
