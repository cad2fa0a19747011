"""Auxiliary labels for images of the micro world (kinds of flaws, parts of things), and an imitated decoder.

A thing is one object of the micro world.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from refiner.micro.flaws import FLAWS
from refiner.micro.things import KINDS
from refiner.micro.world import SIZE, Scene, Thing
from refiner.training.world.flaws import Pixels

KIND_NAMES = (*FLAWS, "malformed")  # the kinds of injected flaws, and "malformed" for the generator's own flaws
LABEL_SIDE = SIZE // 2  # side of a part map, which has every second pixel


PART_NAMES = tuple(
    dict.fromkeys(
        f"{kind.name}: {part.name}"
        for kind in KINDS.values()
        for word in kind.attributes
        for part in Thing(kind=kind.name, colour="red", attribute=word).parts((0, 0, 0))
    )
)
"""Every part of every kind of thing."""


def part_map(scene: Scene) -> Pixels:
    """The part that every second pixel of a scene without flaws shows.

    Uint8 (48, 48): 1 + index into ``PART_NAMES``, 0 for none.
    """
    canvas = Image.new("L", (LABEL_SIDE, LABEL_SIDE))
    pen = ImageDraw.Draw(canvas)
    for shape in sorted(scene.shapes(), key=lambda shape: (shape.thing, shape.layer)):
        label = 1 + PART_NAMES.index(f"{scene.things[shape.thing].kind}: {shape.part}")
        pen.polygon([(x / 2 - 0.5, y / 2 - 0.5) for x, y in shape.points], fill=label, outline=label)
    return np.asarray(canvas)


def decoder_like(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Imitate what an autoencoder does to an image: soft edges, lost resolution, weak noise, a shift of tone.

    Half of the images stay unchanged. The labels stay the same: a detector must not report a decoder's traces as flaws.
    """
    if rng.random() < 0.5:
        return image
    picture = Image.fromarray(image)
    choice = rng.random()
    if choice < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    elif choice < 0.7:
        side = int(rng.integers(60, 90))
        resample = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)[int(rng.integers(3))]
        picture = picture.resize((side, side), resample).resize((SIZE, SIZE), resample)
    elif choice < 0.9:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=int(rng.integers(55, 96)))
        picture = Image.open(buffer).convert("RGB")
    values = np.asarray(picture, dtype=np.float32) * rng.uniform(0.97, 1.03) + rng.uniform(-5, 5, 3)
    values = values + rng.normal(0, rng.uniform(0, 3), values.shape)
    return values.clip(0, 255).astype(np.uint8)
