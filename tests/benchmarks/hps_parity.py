"""HPS at full size against the package ``hpsv2``: the same random ViT-H-14 weights, on real photographs.

The package is called as its users call it: ``hpsv2.img_score.score(picture, prompt, cp=checkpoint)``, one image and
prompt at a time. Ours scores all of them in batches. The photographs are the two of scikit-learn in many crops, sizes
and ratios. ``hpsv2x`` is hpsv2 with the files that the wheel of that name lacks:
``pip install --no-deps hpsv2x==1.2.0 clint args``. If it is not installed, its recorded scores (``RECORDED``) are used.

Needs 10 GB of memory, 2 GB of disk and some minutes. Run with ``python tests/benchmarks/hps_parity.py [--json]``. It
fails if two scores differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from refiner.metrics.hps.scorer import HPSScorer
from refiner.metrics.hps.weights import PUBLISHED_FILES

TOLERANCE = 1e-6
PICTURES = (
    ("china.jpg", (0, 0, 640, 427), 1, "a temple by a lake"),
    ("china.jpg", (100, 50, 324, 274), 1, "  café &amp; crème \U0001f33a "),
    ("china.jpg", (300, 0, 355, 427), 1, "the temple, its roofs, its stairs and its trees, on and on, " * 9),
    ("china.jpg", (0, 200, 640, 281), 1, "A lake!"),
    ("china.jpg", (320, 200, 336, 217), 1, "a very small picture"),
    ("flower.jpg", (200, 0, 520, 427), 3, "a tall dahlia"),
    ("flower.jpg", (11, 7, 612, 400), 1, "petals"),
    ("flower.jpg", (100, 100, 323, 212), 1, "yellow"),
)
"""Source, crop, how often each pixel is repeated, and prompt of each image."""
RECORDED = (
    -0.056658484,
    -0.077079117,
    -0.018077357,
    -0.073573023,
    -0.072989747,
    -0.057454143,
    -0.084560841,
    -0.059845909,
)
"""Scores of hpsv2x 1.2.0 with torch 2.15.0 and torchvision 0.29.2 on a CPU, one for each of ``PICTURES``."""


def photographs() -> list[Image.Image]:
    """The images of ``PICTURES``."""
    found = []
    for source, (x0, y0, x1, y1), times, _ in PICTURES:
        pixels = load_sample_image(source)[y0:y1, x0:x1].repeat(times, axis=0).repeat(times, axis=1)
        found.append(Image.fromarray(np.ascontiguousarray(pixels)))
    return found


def write_checkpoint(path: Path) -> None:
    """Write random weights with the scale of CLIP's initialization, in the published layout."""
    with torch.device("meta"):
        shapes = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14")).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in sorted(shapes.items()):
        values = torch.empty(shape.shape).normal_(0, 0.02, generator=generator)
        state[name] = (values + float(".ln_" in f".{name}" and name.endswith("weight"))).half()
    torch.save({"state_dict": state}, path)


def package_scores(checkpoint: Path, images: Sequence[Image.Image]) -> list[float]:
    """Scores by the package. Its own download is skipped, because the checkpoint replaces these weights anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hpsv2 import img_score
        from hpsv2.src.open_clip import create_model_and_transforms

        model, _, transform = create_model_and_transforms(
            "ViT-H-14", None, precision="amp", device="cpu", light_augmentation=True, aug_cfg={}, output_dict=True
        )
        img_score.model_dict.update(model=model, preprocess_val=transform)
        scores = []
        for number, (image, (*_, prompt)) in enumerate(zip(images, PICTURES, strict=True), 1):
            scores.append(float(img_score.score(image, prompt, cp=str(checkpoint))[0]))
            print(f"package: {number} of {len(images)}: {scores[-1]:.9f}", file=sys.stderr, flush=True)
        img_score.model_dict.clear()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    images, installed = photographs(), find_spec("hpsv2") is not None
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Path(name) / PUBLISHED_FILES["v2.1"]
        write_checkpoint(checkpoint)
        theirs = package_scores(checkpoint, images) if installed else list(RECORDED)
        scorer = HPSScorer.from_pretrained(Path(name), device="cpu", batch_size=4)
        ours = scorer.score(images, [prompt for *_, prompt in PICTURES])
    apart = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    found = {
        "package": "installed" if installed else "recorded",
        "pictures": len(images),
        "largest difference": max(apart),
        "standard deviation of the scores": float(np.std(theirs)),
        "theirs": theirs,
        "signature": scorer.signature,
    }
    print(json.dumps(found, indent=None if given.json else 2))
    if max(apart) > TOLERANCE:
        sys.exit(f"The scores differ by up to {max(apart)}, which is more than {TOLERANCE}.")


if __name__ == "__main__":
    main()
