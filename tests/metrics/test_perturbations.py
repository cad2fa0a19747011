"""Perturbations: OpenCV's blur of float images, noise by its seed alone, JPEG by its quality."""

import zlib

import numpy as np
import pytest
from PIL import Image

from refiner.errors import ConfigError
from refiner.metrics.perturbations import PERTURBATIONS, Perturbation, gaussian_kernel, perturb, relative_change


def numbers(seed):
    while True:
        seed = (seed * 1103515245 + 12345) % 2**31
        yield seed >> 8


def picture(height=24, width=31):
    draw = numbers(5)
    values = [next(draw) % 256 for _ in range(height * width * 3)]
    return Image.fromarray(np.array(values, dtype=np.uint8).reshape(height, width, 3))


def smooth(size=64):
    ramp = np.linspace(60, 190, size)
    return Image.fromarray(np.stack([np.add.outer(ramp, -ramp) / 2 + 128] * 3, axis=2).astype(np.uint8))


# crc32 of cv2.GaussianBlur(np.float32(picture), (k, k), sigmaX=0), rounded; opencv-python-headless 5.0.0.
@pytest.mark.parametrize(
    ("name", "checksum"), [("blur-5", 1562180422), ("blur-9", 2863260977), ("blur-15", 2570745856)]
)
def test_blur_is_opencvs(name, checksum):
    assert zlib.crc32(perturb(picture(), name, image_id="a").tobytes()) == checksum


@pytest.mark.parametrize("side", range(1, 40, 2))
def test_kernels_are_symmetric_and_sum_to_one(side):
    kernel = gaussian_kernel(side)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(kernel[: side // 2 + 1]) > 0).all()
    assert np.array_equal(kernel, kernel[::-1])
    assert len(kernel) == side


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (5, 40)])
def test_blur_keeps_a_plain_picture_of_any_size(size):
    plain = Image.new("RGB", size, (10, 200, 77))
    assert perturb(plain, "blur-15", image_id="a").tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_results_depend_on_picture_id_and_seed_alone(name):
    once, again = (perturb(picture(), name, image_id="a", seed=3) for _ in range(2))
    assert once.tobytes() == again.tobytes()
    assert once.size == picture().size
    assert once.mode == "RGB"
    changed = [perturb(picture(), name, image_id="b", seed=3), perturb(picture(), name, image_id="a", seed=4)]
    assert all((other.tobytes() != once.tobytes()) == name.startswith("noise") for other in changed)


@pytest.mark.parametrize("kind", ["jpeg", "noise", "blur"])
def test_later_levels_spoil_more(kind):
    clean = np.asarray(picture(96, 96)).astype(float)
    losses = [
        abs(np.asarray(perturb(picture(96, 96), name, image_id="a")) - clean).mean()
        for name in PERTURBATIONS
        if name.startswith(kind)
    ]
    assert len(losses) == 3
    assert 0 < losses[0] < losses[1] < losses[2]


def test_noise_has_its_standard_deviation():
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    noisy = np.asarray(perturb(grey, "noise-0.1", image_id="a")).astype(float) / 255
    assert noisy.std() == pytest.approx(0.1, abs=0.005)
    assert noisy.mean() == pytest.approx(128 / 255, abs=0.005)
    assert perturb(smooth(), Perturbation(kind="noise", level=0), image_id="a").tobytes() == smooth().tobytes()


def test_other_modes_become_rgb():
    assert perturb(picture().convert("LA"), "jpeg-50", image_id="a").mode == "RGB"


@pytest.mark.parametrize(
    ("kind", "level"),
    [("jpeg", 0), ("jpeg", 96), ("jpeg", 50.5), ("noise", -0.1), ("noise", float("nan")), ("noise", float("inf"))]
    + [("blur", 4), ("blur", 0), ("blur", -3), ("blur", 2.5), ("rain", 1)],
)
def test_perturbations_that_are_none_are_refused(kind, level):
    with pytest.raises(ConfigError, match="Expected jpeg"):
        Perturbation(kind=kind, level=level)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="jpeg-50"):
        perturb(picture(), "jpeg-60", image_id="a")


# cv2.getGaussianKernel(15, 0).
def test_large_kernels_are_opencvs():
    half = [0.00410725, 0.01074341, 0.02423753, 0.04716174, 0.07914918, 0.11456666, 0.14302942, 0.15400960]
    assert gaussian_kernel(15)[:8] == pytest.approx(half, abs=2e-8)


def test_labels_and_ranks_are_those_of_the_paper():
    assert sorted(PERTURBATIONS.values(), key=lambda each: each.rank) == list(PERTURBATIONS.values())
    labels = [each.label for each in PERTURBATIONS.values()]
    assert labels[2:4] == ["JPEG Comp. (QF = 20)", "Gaussian Noise (σ = 0.1)"]
    assert labels[-1] == "Gaussian Blur (Ksize = 15)"


def test_signatures_and_changes():
    assert "legion=kornia" in PERTURBATIONS["jpeg-50"].signature
    assert "|float32," in PERTURBATIONS["blur-5"].signature
    assert len({each.signature for each in PERTURBATIONS.values()}) == len(PERTURBATIONS) == 9
    assert relative_change(50.0, 40.0) == -20
    assert relative_change(0.0, 1.0) is None


@pytest.mark.parametrize(
    "text", ["", "jpeg", "jpeg:", ":5", "jpeg:0", "jpeg:50.5", "noise:-1", "noise:nan", "noise:inf", "blur:4", "JPEG:5"]
)
def test_what_is_no_perturbation_is_said_in_one_sentence(text):
    with pytest.raises(ConfigError, match="name one such as jpeg:50"):
        Perturbation.parse(text)


def test_perturbations_are_read_by_kind_and_level():
    assert Perturbation.parse("jpeg:50") == PERTURBATIONS["jpeg-50"]
    assert Perturbation.parse("noise:0.1") == PERTURBATIONS["noise-0.1"]
    assert Perturbation.parse("blur:5").name == "blur-5"
