"""HPS against its reference: golden scores that the package itself gave, and a plain reimplementation of its steps.

``GOLDEN`` came from hpsv2x 1.2.0 (torch 2.15.0, torchvision 0.29.2, CPU) by its own ``hpsv2.img_score.score``, with
``CONFIG`` in the place of its ViT-H-14 and the weights below: the same files that the tests build here.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from refiner.metrics.hps.scorer import CONFIG_FILE, MEAN, PUBLISHED_FILES, STD, HPSScorer, preprocess

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
LONG = "an over-long prompt that goes on and on about the temple by the lake, its roofs, its stairs and its trees, " * 6
PROMPTS = [
    "a temple by a lake",
    "A Dahlia, macro photograph!",
    "  café &amp; crème \U0001f33a ",
    LONG,
]
CROPS = {
    "china whole": ("china.jpg", (0, 0, 640, 427), 1),
    "china square": ("china.jpg", (100, 0, 524, 424), 1),
    "china of the right size": ("china.jpg", (100, 50, 324, 274), 1),
    "china tall": ("china.jpg", (300, 0, 355, 427), 1),
    "china wide": ("china.jpg", (0, 200, 640, 281), 1),
    "china nearly right": ("china.jpg", (5, 5, 230, 228), 1),
    "china small": ("china.jpg", (400, 100, 437, 119), 1),
    "china tiny": ("china.jpg", (320, 200, 336, 217), 1),
    "flower whole": ("flower.jpg", (0, 0, 640, 427), 1),
    "flower twice": ("flower.jpg", (0, 0, 640, 427), 2),
    "flower thrice, tall": ("flower.jpg", (200, 0, 520, 427), 3),
    "flower odd": ("flower.jpg", (11, 7, 612, 400), 1),
    "flower just above": ("flower.jpg", (100, 100, 325, 212), 1),
    "flower just below": ("flower.jpg", (100, 100, 323, 212), 1),
}
"""Real photographs of many sizes and ratios: source, crop, and how often each pixel is repeated."""
GOLDEN = {
    "china whole": 0.14297867,
    "china square": 0.01981931,
    "china of the right size": 0.07383588,
    "china tall": -0.06023597,
    "china wide": 0.04837045,
    "china nearly right": 0.02204100,
    "china small": 0.05191729,
    "china tiny": -0.20479245,
    "flower whole": 0.00679578,
    "flower twice": -0.15488437,
    "flower thrice, tall": -0.10584137,
    "flower odd": -0.08848951,
    "flower just above": 0.01526644,
    "flower just below": -0.16078350,
}


@functools.cache
def cases() -> dict[str, tuple[Image.Image, str]]:
    """The pictures with their prompts."""
    found = {}
    for number, (name, (source, (x0, y0, x1, y1), times)) in enumerate(CROPS.items()):
        pixels = load_sample_image(source)[y0:y1, x0:x1].repeat(times, axis=0).repeat(times, axis=1)
        found[name] = Image.fromarray(np.ascontiguousarray(pixels)), PROMPTS[number % len(PROMPTS)]
    return found


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """The same half-precision weights on every machine, large enough that scores differ from each other."""
    state = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        values = np.random.RandomState(number).standard_normal(tuple(shape)) * 0.15
        values += 1.0 if name.split(".")[-2:][0].startswith("ln_") and name.endswith("weight") else 0.0
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float16))
    return state


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> HPSScorer:
    folder = tmp_path_factory.mktemp("published")
    shapes = {name: tuple(value.shape) for name, value in open_clip.CLIP(**CONFIG).state_dict().items()}
    torch.save({"state_dict": weights(shapes)}, folder / PUBLISHED_FILES["v2.1"])
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": CONFIG}))
    return HPSScorer.from_pretrained(folder, device="cpu")


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys, 1981)."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resampling(old: int, new: int, antialias: bool) -> np.ndarray:
    """Float64 (new, old): what each new sample takes from each old one.

    Places are float32, as torch has them for float32 pictures. Whether a machine rounds before it subtracts the half
    changes a pixel by up to 3e-5, and float64 places by up to 1e-4.
    """
    scale = np.float32(old) / np.float32(new)
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = scale * np.float32(row + 0.5)
        if antialias:
            wide = max(scale, np.float32(1))
            first, last = max(int(centre - 2 * wide + 0.5), 0), min(int(centre + 2 * wide + 0.5), old)
            taps = np.arange(first, last)
            matrix[row, taps] = cubic((np.float32(taps) - centre + np.float32(0.5)) / wide, -0.5)
            matrix[row] /= matrix[row].sum()
        else:
            place = float(np.float32(float(scale) * (row + 0.5) - 0.5))
            for tap in range(math.floor(place) - 1, math.floor(place) + 3):
                matrix[row, min(max(tap, 0), old - 1)] += cubic(np.array(tap - place), -0.75)
    return matrix


def plain_preprocess(image: Image.Image, size: int, antialias: bool) -> np.ndarray:
    """The reference's steps written out, in float64 (3, size, size)."""
    pixels = np.asarray(image.convert("RGB")).astype(np.float64).transpose(2, 0, 1) / 255
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    if scale != 1:
        rows, columns = resampling(height, new_height, antialias), resampling(width, new_width, antialias)
        pixels = rows @ pixels @ columns.T
    canvas = np.zeros((3, size, size))
    top, left = (size - new_height) // 2, (size - new_width) // 2
    canvas[:, top : top + new_height, left : left + new_width] = pixels
    return (canvas - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("name", CROPS)
def test_preprocessing_of_photographs(name: str, antialias: bool) -> None:
    image, _ = cases()[name]
    wanted = plain_preprocess(image, 224, antialias)
    assert np.abs(preprocess(image, 224, antialias=antialias).numpy() - wanted).max() < 1e-4


@pytest.mark.parametrize("name", GOLDEN)
def test_scores_of_the_package(scorer: HPSScorer, tmp_path: Path, name: str) -> None:
    image, prompt = cases()[name]
    image.save(tmp_path / "picture.png")
    assert scorer.score([tmp_path / "picture.png"], [prompt]) == pytest.approx([GOLDEN[name]], abs=1e-6)


def test_scores_of_the_package_in_one_batch(scorer: HPSScorer) -> None:
    pairs = [cases()[name] for name in GOLDEN]
    scores = scorer.score(*zip(*pairs, strict=True))
    assert scores == pytest.approx(list(GOLDEN.values()), abs=1e-6)
    assert np.std(scores) > 0.01


def test_open_clips_own_transform_would_differ(scorer: HPSScorer) -> None:
    """It resizes 8-bit pictures; the difference is far above the tolerance of these tests."""
    image, prompt = cases()["china whole"]
    resized = image.resize((224, 149), Image.Resampling.BICUBIC)
    assert abs(scorer.score([resized], [prompt])[0] - GOLDEN["china whole"]) > 1e-5


def test_compat_is_the_packages_gpu_arithmetic(scorer: HPSScorer) -> None:
    """Its matmul under autocast: float16 features, float32 sums, a float16 result."""
    pairs = [cases()[name] for name in GOLDEN]
    images = torch.stack([preprocess(image, 224) for image, _ in pairs])
    tokens = scorer.tokenizer([prompt for _, prompt in pairs])
    with torch.no_grad():
        pictures = scorer.model.encode_image(images, normalize=True).numpy()
        texts = scorer.model.encode_text(tokens, normalize=True).numpy()
    products = pictures.astype(np.float16).astype(np.float32) @ texts.astype(np.float16).astype(np.float32).T
    wanted = np.diag(products).astype(np.float16).astype(np.float64)
    settings = {"model": scorer.model, "tokenizer": scorer.tokenizer, "config": CONFIG, "name": "small"}
    compat = HPSScorer(**settings, mode="compat").score(*zip(*pairs, strict=True))
    assert np.abs(np.array(compat) - wanted).max() <= 2**-11
    assert np.mean(np.array(compat) == wanted) > 0.8
    assert all(score == np.float16(score) for score in compat)
