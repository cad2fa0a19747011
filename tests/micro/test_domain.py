"""Images of the micro world are accepted, also flawed and blurry ones; all others are refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from refiner.errors import OutOfDomainError
from refiner.micro.domain import check
from refiner.micro.flaws import inject
from refiner.micro.things import BACKGROUNDS, COLOURS
from refiner.micro.world import SIZE, sample_scene


def photographs() -> list[Image.Image]:
    datasets = pytest.importorskip("sklearn.datasets")
    return [Image.fromarray(pixels) for pixels in datasets.load_sample_images().images]


def passes(image: Image.Image) -> bool:
    try:
        check(image)
    except OutOfDomainError:
        return False
    return True


def test_photographs_are_refused_whole_resized_and_cropped() -> None:
    rng = np.random.default_rng(0)
    for photograph in photographs():
        assert not passes(photograph)
        assert not passes(photograph.resize((SIZE, SIZE)))
        assert not passes(photograph.convert("L"))
        assert not passes(photograph.filter(ImageFilter.GaussianBlur(12)))
        for _ in range(12):
            side = int(rng.integers(24, 400))
            x, y = int(rng.integers(photograph.width - side)), int(rng.integers(photograph.height - side))
            assert not passes(photograph.crop((x, y, x + side, y + side)))


@pytest.mark.parametrize("name", [*BACKGROUNDS, *COLOURS])
def test_plain_colours_are_refused(name: str) -> None:
    assert not passes(Image.new("RGB", (SIZE, SIZE), (BACKGROUNDS | COLOURS)[name]))


def test_noise_is_refused() -> None:
    rng = np.random.default_rng(0)
    for spread in (10, 40, 90, 200):
        pixels = (128 + rng.normal(0, spread, (SIZE, SIZE, 3))).clip(0, 255)
        assert not passes(Image.fromarray(pixels.astype(np.uint8)))
        speckled = (np.array(BACKGROUNDS["sky"]) + rng.normal(0, spread, (SIZE, SIZE, 3))).clip(0, 255)
        assert not passes(Image.fromarray(speckled.astype(np.uint8)))


def test_gradients_are_refused() -> None:
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    ends = [BACKGROUNDS["sky"], BACKGROUNDS["snow"], COLOURS["red"], COLOURS["yellow"], (0, 0, 0), (255, 255, 255)]
    for first in ends:
        for second in ends:
            pixels = np.array(first) * (1 - ramp) + np.array(second) * ramp
            whole = np.broadcast_to(pixels, (SIZE, SIZE, 3)).astype(np.uint8)
            assert not passes(Image.fromarray(whole))
            assert not passes(Image.fromarray(whole.transpose(1, 0, 2).copy()))


def test_black_text_on_white_is_refused() -> None:
    page = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(page).multiline_text((20, 20), "A page of a book,\nnothing but words.\n" * 12, fill="black")
    assert not passes(page)


def test_pictures_of_the_world_pass_flawed_soft_and_tinted() -> None:
    rng = np.random.default_rng(1)
    for index in range(90):
        scene = sample_scene(rng)
        image = inject(scene, rng, int(rng.integers(len(scene.things) + 1))).image
        if index % 2:
            blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.4)))), dtype=float)
            noisy = blurred + rng.normal(0, 5, blurred.shape) + rng.uniform(-8, 8, 3)
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        if index % 3 == 0:
            image = image.resize((384, 384), Image.Resampling.LANCZOS)
        check(image)


def test_the_refusal_says_what_was_expected_what_came_and_what_to_use() -> None:
    with pytest.raises(OutOfDomainError) as caught:
        check(photographs()[0])
    message = str(caught.value)
    assert "micro world" in message
    assert "640x427 image is not one" in message
    assert "full-size" in message
    assert message.count(".") <= 1 or "\n" not in message
