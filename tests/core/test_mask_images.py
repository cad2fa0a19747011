"""Masks as people and tools export them: each way to write a shape gives the same mask, or is refused by name."""

import numpy as np
import pytest
from PIL import Image

from refiner.errors import InputError
from refiner.mask_images import mask_of

SHAPE = np.zeros((24, 40), dtype=bool)
SHAPE[4:9, 6:31] = True
ONES = SHAPE.astype(np.uint8)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def coloured(inside, outside=(0, 0, 0)):
    return Image.fromarray(np.where(SHAPE[..., None], inside, outside).astype(np.uint8))


def with_alpha(inside, outside, opaque=255):
    return Image.merge("RGBA", [*coloured(inside, outside).split(), Image.fromarray(ONES * np.uint8(opaque))])


def palette(*colours, transparency=None):
    image = Image.fromarray(ONES).convert("P")
    image.putpalette([value for colour in colours for value in colour] + [0] * (768 - 3 * len(colours)))
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def grey(inside, outside=0, kind=np.uint8):
    return Image.fromarray(np.where(SHAPE, inside, outside).astype(kind))


WAYS = {
    "bits": Image.fromarray(SHAPE),
    "0 and 1": grey(1),
    "0 and 255": grey(255),
    "soft": grey(200, 60),
    "rgb": coloured(WHITE),
    "rgb of 0 and 1": coloured((1, 1, 1)),
    "almost grey": coloured((250, 255, 247), (0, 4, 2)),
    "red on black": coloured(RED),
    "dark red on black": coloured((128, 0, 0)),
    "cmyk": coloured(WHITE).convert("CMYK"),
    "a palette of greys": palette((0, 0, 0), WHITE),
    "a palette as VOC has it": palette((0, 0, 0), (128, 0, 0)),
    "a palette of a dark grey": palette((0, 0, 0), (90, 90, 90)),
    "a palette with transparency": palette(RED, RED, transparency=0),
    "white, shape in alpha": with_alpha(WHITE, WHITE),
    "black, shape in alpha": with_alpha((0, 0, 0), (0, 0, 0)),
    "white, noise where nothing is visible": with_alpha(WHITE, (9, 200, 31)),
    "shape in an alpha of 1": with_alpha(WHITE, WHITE, opaque=1),
    "grey with alpha": Image.merge("LA", [grey(255, 255), grey(255)]),
    "opaque": coloured(WHITE).convert("RGBA"),
    "half-transparent everywhere": Image.merge("RGBA", [*coloured(RED).split(), Image.new("L", (40, 24), 128)]),
    "16 bits": grey(65535, kind=np.uint16),
    "16 bits of 0 and 1": grey(1, kind=np.uint16),
    "16 bits of 0 and 255": grey(255, kind=np.uint16),
    "32 bits of 0 and 1": grey(1, kind=np.int32),
    "32 bits of 0 and 65535": grey(65535, kind=np.int32),
    "32 bits, full": grey(2**31 - 1, kind=np.int32),
    "floats": grey(1, kind=np.float32),
    "floats of 0 to 255": grey(255, kind=np.float32),
    "soft floats": grey(0.75, 0.25, kind=np.float32),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_shape_is_the_same_however_it_is_written(way):
    assert np.array_equal(mask_of(WAYS[way], "m"), SHAPE)


GREY_AROUND = {"soft", "almost grey", "soft floats"}


@pytest.mark.parametrize("way", sorted(WAYS.keys() - GREY_AROUND))
def test_a_mask_without_a_shape_is_empty_however_it_is_written(way):
    """The pixels around the shape alone."""
    assert not mask_of(WAYS[way].crop((0, 10, 40, 24)), "m").any()


def multicoloured():
    pixels = np.array(coloured(RED))
    pixels[5, 7:20] = (0, 255, 0)
    return Image.fromarray(pixels)


REFUSED = {
    "numbers of classes": (grey(7), "values up to 7"),
    "dark grey": (grey(100), "values up to 100"),
    "1 and 255": (grey(1, 255), "both 1 and 255"),
    "several colours": (multicoloured(), "several colours"),
    "red on white": (coloured(RED, WHITE), "several colours"),
    "a palette of several colours": (palette(WHITE, RED), "several colours"),
    "a picture with a shape in alpha": (
        Image.merge("RGBA", [*multicoloured().split(), grey(255)]),
        "both colours and transparency",
    ),
    "32-bit numbers of objects": (grey(70_000, kind=np.int32), "values up to 70000"),
    "negative": (grey(-1, kind=np.int32), "negative or not finite"),
    "not a number": (grey(np.nan, kind=np.float32), "negative or not finite"),
    "greys without a shape": (WAYS["soft"].crop((0, 10, 40, 24)), "values up to 60"),
    "faint floats": (grey(0.4, kind=np.float32), "values up to 0.4"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_may_mean_anything_is_refused_by_name(way):
    image, said = REFUSED[way]
    with pytest.raises(InputError, match=f"0 and 1, or 0 and 255, got .*{said}.* in 'm.png': export it"):
        mask_of(image, "'m.png'")


def test_the_numbers_of_a_palette_count_on_request():
    image = palette(WHITE, (0, 0, 0))
    assert np.array_equal(mask_of(image, "m", indices=True), SHAPE)
