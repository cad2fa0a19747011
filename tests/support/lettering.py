"""Images like photographs with lettering whose truth is known: right, misspelt, doubled, missing or garbled."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from refiner.lettering import of_steps
from refiner.types import Analysis

KINDS = ("right", "misspelt", "unreadable", "doubled", "missing")
WORDS = {
    "latin": ["OPEN", "Bakery", "COFFEE", "Museum", "STATION", "Welcome", "LIBRARY", "Summer", "GALLERY", "Fresh Fish"],
    "chinese": ["欢迎光临", "生日快乐", "咖啡馆", "图书馆", "火车站", "新年好", "面包店", "今日特价", "博物馆", "出口"],
    "japanese": ["ラーメン", "いらっしゃいませ", "コーヒー", "さくら", "カラオケ", "おはよう", "ようこそ", "たこやき"],
}
SIZE = (512, 384)
_FOLDERS = Path("/usr/share/fonts/truetype")
_FONTS = {
    "latin": [_FOLDERS / "liberation/LiberationSans-Regular.ttf", _FOLDERS / "liberation/LiberationSerif-Bold.ttf"],
    "chinese": [_FOLDERS / "wqy/wqy-microhei.ttc"],
    "japanese": [_FOLDERS / "wqy/wqy-microhei.ttc"],
}


@dataclass(frozen=True)
class Lettered:
    """An image with its prompt, and what is wrong with the first of its two texts."""

    image: Image.Image
    prompt: str
    script: str
    kind: str
    words: tuple[str, ...]
    """Of the first text."""
    wrong: frozenset[str]
    """The words that are not as wanted, or there once too often."""


def lettered(seed: int, kind: str, script: str, least: int = 24) -> Lettered:
    """Draw two signs, the first with this kind of flaw, the second as wanted; letters have ``least`` pixels or more."""
    rng = np.random.default_rng([77, seed])
    first, second = rng.choice(WORDS[script], 2, replace=False).tolist()
    shown, wrong = first, set()
    if kind == "misspelt":
        shown, word = misspelt(first, script, rng)
        wrong = {word}
    elif kind == "doubled":
        last = first.split()[-1]
        shown, wrong = f"{first} {last}", {last}
    elif kind in ("missing", "unreadable"):
        wrong = set(first.split())
    image = _ground(rng)
    texts = ["" if kind == "missing" else shown, second]
    for row, text in enumerate(texts):
        if text:
            _sign(image, text, script, row, rng, least, garbled=kind == "unreadable" and row == 0)
    prompt = f'a street with a sign that says "{first}" above a board that says "{second}"'
    return Lettered(_photographed(image, rng), prompt, script, kind, tuple(first.split()), frozenset(wrong))


def misspelt(text: str, script: str, rng: np.random.Generator) -> tuple[str, str]:
    """Replace or swap letters of one word; returns the text, and the word as it should be."""
    words = text.split()
    at = int(rng.integers(len(words)))
    word, letters = words[at], list(words[at])
    place = int(rng.integers(len(letters) - 1))
    if len(letters) > 2 and letters[place].lower() != letters[place + 1].lower() and rng.random() < 0.5:
        letters[place : place + 2] = letters[place + 1], letters[place]
    else:
        others = sorted({each for each in "".join(WORDS[script]).lower() if each.isalpha()} - {*word.lower()})
        other = str(rng.choice(others))
        letters[place] = other.upper() if word.isupper() else other
    words[at] = "".join(letters)
    return " ".join(words), word


def flagged(analysis: Analysis) -> set[str]:
    """The words, in capitals, that are not as wanted, or there once too often."""
    wrong = {each.word for each in of_steps(analysis.trace) if each.kind != "read"}
    twice = {region.name.split('"')[1] for region in analysis.regions if "too often" in region.explanation}
    return {word.upper() for word in wrong | twice}


def _ground(rng: np.random.Generator) -> Image.Image:
    layers = np.zeros((SIZE[1], SIZE[0], 3))
    for cells, weight in ((3, 60), (9, 30), (40, 14)):
        small = rng.normal(0, weight, (cells, cells + 1, 3)) * 0.5 + rng.normal(0, weight, (cells, cells + 1, 1)) * 0.5
        image = [
            Image.fromarray(small[:, :, channel].astype(np.float32)).resize(SIZE, Image.BICUBIC) for channel in range(3)
        ]
        layers += np.stack([np.asarray(each) for each in image], axis=2)
    return Image.fromarray((layers + 120).clip(0, 255).astype(np.uint8))


def _sign(
    image: Image.Image, text: str, script: str, row: int, rng: np.random.Generator, least: int, *, garbled: bool
) -> None:
    """Paste a board with lettering onto the image, slightly turned."""
    file = _FONTS[script][int(rng.integers(len(_FONTS[script])))]
    font = ImageFont.truetype(file, int(rng.integers(least, 52)))
    left, top, right, bottom = font.getbbox(text)
    size = (round(right - left) + 40, round(bottom - top) + 30)
    dark, light = rng.integers(10, 80, 3), rng.integers(180, 250, 3)
    board, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
    strokes = Image.new("L", size)
    ImageDraw.Draw(strokes).text((20 - left, 15 - top), text, fill=255, font=font)
    if garbled:
        strokes = _warped(strokes, rng)
    sign = Image.composite(
        Image.new("RGB", size, tuple(ink.tolist())), Image.new("RGB", size, tuple(board.tolist())), strokes
    )
    angle = float(rng.uniform(-5, 5))
    turned = sign.rotate(angle, Image.BICUBIC, expand=True)
    cover = Image.new("L", size, 255).rotate(angle, Image.BICUBIC, expand=True)
    if turned.width > SIZE[0] - 8:
        scale = (SIZE[0] - 8) / turned.width
        turned, cover = (
            each.resize((SIZE[0] - 8, round(each.height * scale)), Image.BICUBIC) for each in (turned, cover)
        )
    x = int(rng.integers(0, SIZE[0] - turned.width))
    image.paste(turned, (x, 30 + 180 * row + int(rng.integers(0, 40))), cover)


def _warped(strokes: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Letters as weak generators paint them: parts of their strokes are moved, mirrored and lost."""
    pixels = np.asarray(strokes).copy()
    rows, columns = np.indices(pixels.shape)
    shift = [
        np.asarray(
            Image.fromarray(rng.normal(0, 9, (4, max(4, strokes.width // 14))).astype(np.float32)).resize(
                strokes.size, Image.BICUBIC
            )
        )
        for _ in range(2)
    ]
    pixels = pixels[
        (rows + shift[0]).round().astype(int).clip(0, pixels.shape[0] - 1),
        (columns + shift[1]).round().astype(int).clip(0, pixels.shape[1] - 1),
    ]
    for start in range(0, strokes.width - 24, 24):
        part = pixels[:, start : start + 24]
        if rng.random() < 0.6:
            pixels[:, start : start + 24] = part[::-1] if rng.random() < 0.5 else part[:, ::-1]
    return Image.fromarray(pixels)


def _photographed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Soft focus, grain and the losses of JPEG."""
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9)))), dtype=np.float32)
    grainy = Image.fromarray((soft + rng.normal(0, 5, soft.shape)).clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    grainy.save(file, "JPEG", quality=int(rng.integers(60, 92)))
    return Image.open(file).convert("RGB")
