"""Pictures and captions for the micro judge, drawn ahead into shards, and what is done to them on the way.

A sample is one caption with six pictures: two clean renders of it (other places and sizes), one with flaws, one with
one flaw more, one of a rival caption that differs in a single thing, and (made on the way) one with local damage such
as a generator's: parts melted, bent, doubled or taken from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from refiner.micro.flaws import VISIBLE, FlawedPicture, inject
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE, Scene, Thing, place, render, sample_scene
from refiner.runs import atomic_write

PICTURES = ("clean", "again", "flawed", "worse", "rival")
"""What a drawn sample's pictures are, in order."""
TEXT_RIVALS = 3
"""Wrong captions of a sample beyond that of its rival picture."""
CELLS = 6
"""Dense labels come on a grid of CELLS x CELLS."""
ATTRIBUTES = [
    (kind.name, attribute) for kind in KINDS.values() if len(kind.attributes) > 1 for attribute in kind.attributes
]

Retouch = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Pictures (N, 96, 96, 3) to pictures."""
Rival = Callable[[Scene, np.random.Generator], Scene | None]


def _other(rng: np.random.Generator, names: list[str], *used: str) -> str:
    left = [name for name in names if name not in used]
    return left[int(rng.integers(len(left)))]


def _with_thing(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=(*scene.things[:index], thing, *scene.things[index + 1 :]))


def _other_colour(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    return _with_thing(scene, index, replace(thing, colour=_other(rng, list(COLOURS), thing.colour)))


def _two(scene: Scene, rng: np.random.Generator) -> tuple[int, int] | None:
    if len(scene.things) < 2:
        return None
    first, second = rng.permutation(len(scene.things))[:2].tolist()
    return first, second


def _swapped_colours(scene: Scene, rng: np.random.Generator) -> Scene | None:
    pair = _two(scene, rng)
    if pair is None or scene.things[pair[0]].colour == scene.things[pair[1]].colour:
        return None
    first, second = (scene.things[index] for index in pair)
    scene = _with_thing(scene, pair[0], replace(first, colour=second.colour))
    return _with_thing(scene, pair[1], replace(second, colour=first.colour))


def _swapped_places(scene: Scene, rng: np.random.Generator) -> Scene | None:
    pair = _two(scene, rng)
    if pair is None:
        return None
    first, second = (scene.things[index] for index in pair)
    at = {"x": first.x, "y": first.y, "radius": first.radius}
    moved = replace(first, x=second.x, y=second.y, radius=second.radius)
    return _with_thing(_with_thing(scene, pair[0], replace(second, **at)), pair[1], moved)  # type: ignore[arg-type]


def _other_attribute(scene: Scene, rng: np.random.Generator) -> Scene | None:
    open_to_change = [i for i, thing in enumerate(scene.things) if len(KINDS[thing.kind].attributes) > 1]
    if not open_to_change:
        return None
    index = open_to_change[int(rng.integers(len(open_to_change)))]
    thing = scene.things[index]
    attribute = _other(rng, list(KINDS[thing.kind].attributes), thing.attribute)
    return _with_thing(scene, index, replace(thing, attribute=attribute))


def _other_kind(scene: Scene, rng: np.random.Generator) -> Scene:
    index = int(rng.integers(len(scene.things)))
    kind = KINDS[_other(rng, list(KINDS), *(thing.kind for thing in scene.things))]
    attribute = kind.attributes[int(rng.integers(len(kind.attributes)))]
    return _with_thing(scene, index, replace(scene.things[index], kind=kind.name, attribute=attribute))


def _missing_thing(scene: Scene, rng: np.random.Generator) -> Scene | None:
    if len(scene.things) < 2:
        return None
    index = int(rng.integers(len(scene.things)))
    row = 0 if index < scene.rows[0] else 1
    rows = tuple(count - (number == row) for number, count in enumerate(scene.rows))
    things = scene.things[:index] + scene.things[index + 1 :]
    return replace(scene, things=things, rows=tuple(count for count in rows if count))


def _other_background(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, background=_other(rng, list(BACKGROUNDS), scene.background))


RIVALS: dict[str, Rival] = {
    "other_attribute": _other_attribute,
    "other_colour": _other_colour,
    "swapped_colours": _swapped_colours,
    "swapped_places": _swapped_places,
    "other_kind": _other_kind,
    "missing_thing": _missing_thing,
    "other_background": _other_background,
}
"""Ways in which a scene can be nearly, but not quite, what the caption says."""


def rival(scene: Scene, rng: np.random.Generator, kinds: tuple[str, ...] = tuple(RIVALS)) -> Scene:
    """The scene with one thing about it changed, in a way drawn from ``kinds`` until one applies."""
    while True:
        changed = RIVALS[kinds[int(rng.integers(len(kinds)))]](scene, rng)
        if changed is not None:
            return changed


def flawed_pair(scene: Scene, rng: np.random.Generator) -> tuple[FlawedPicture, FlawedPicture]:
    """A picture with at least one flaw and another with one more of them where the scene has a thing left for it."""
    things = len(scene.things)
    while True:
        seed, count = int(rng.integers(2**62)), int(rng.integers(1, max(2, things)))
        flawed = inject(scene, np.random.default_rng(seed), count=count)
        again = seed if things > 1 else seed + 1
        worse = inject(scene, np.random.default_rng(again), count=min(count + 1, things))
        if flawed.kinds and worse.kinds:
            return flawed, worse


def thing_labels(scene: Scene) -> NDArray[np.int64]:
    """What stands in each cell of a scene's picture, as classes (3, CELLS, CELLS).

    Kind (the last class is none), colour (the things' first, then the backgrounds'), attribute (-1 is none).
    """
    labels = np.empty((3, CELLS, CELLS), dtype=np.int64)
    labels[0] = len(KINDS)
    labels[1] = len(COLOURS) + list(BACKGROUNDS).index(scene.background)
    labels[2] = -1
    y, x = (np.indices((CELLS, CELLS)) + 0.5) * (SIZE / CELLS)
    for thing in scene.things:
        inside = (abs(x - thing.x) < thing.radius) & (abs(y - thing.y) < thing.radius)
        labels[0, inside] = list(KINDS).index(thing.kind)
        labels[1, inside] = list(COLOURS).index(thing.colour)
        key = (thing.kind, thing.attribute)
        labels[2, inside] = ATTRIBUTES.index(key) if key in ATTRIBUTES else -1
    return labels


class Sample(NamedTuple):
    """One caption's pictures."""

    pictures: NDArray[np.uint8]
    """(5, 96, 96, 3), in the order of ``PICTURES``."""
    labels: NDArray[np.int64]
    """(5, 3, CELLS, CELLS), as in ``thing_labels``."""
    more: bool
    """Whether ``worse`` has more flaws than ``flawed``."""
    captions: list[str]
    """The caption, that of the rival picture, and ``TEXT_RIVALS`` other wrong ones."""


def draw_sample(rng: np.random.Generator) -> Sample:
    """A sample at random."""
    scene = sample_scene(rng)
    again, other = place(scene, rng), rival(scene, rng)
    flawed, worse = flawed_pair(scene, rng)
    pictures = [render(scene), render(again), flawed.image, worse.image, render(other)]
    labels = [thing_labels(each) for each in (scene, again, scene, scene, other)]
    captions = [scene.caption, other.caption, *(rival(scene, rng).caption for _ in range(TEXT_RIVALS))]
    return Sample(
        np.stack([np.asarray(picture) for picture in pictures]),
        np.stack(labels),
        len(worse.kinds) > len(flawed.kinds),
        captions,
    )


class Pool:
    """Samples that were drawn ahead; the pictures stay on disk."""

    def __init__(self, folder: Path, shards: int) -> None:
        stems = [folder / f"{index:03d}" for index in range(shards)]
        self.pictures = [np.load(stem.with_suffix(".npy"), mmap_mode="r") for stem in stems]
        texts = [json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")) for stem in stems]
        self.captions: list[list[str]] = [row for text in texts for row in text["captions"]]
        self.more = torch.tensor([flag for text in texts for flag in text["more"]])
        self.labels = torch.cat([torch.tensor(text["labels"], dtype=torch.int8) for text in texts])
        self.shard_size = len(self.pictures[0])

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, indices: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Named pictures of some samples: name by name, float (N, 3, 96, 96) in [0, 1], and labels (N, 3, 6, 6)."""
        rows = [self.pictures[index // self.shard_size][index % self.shard_size] for index in indices.tolist()]
        places = [PICTURES.index(name) for name in names]
        pictures = np.concatenate([np.stack([row[place] for row in rows]) for place in places])
        labels = torch.cat([self.labels[indices, place] for place in places]).long()
        return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, labels


def build_pool(folder: Path, shards: int, size: int, seed: int, retouch: Retouch | None = None) -> Pool:
    """Draw the shards that are not there yet, ``size`` samples each, and open them all.

    ``retouch`` is done to every other shard, such as a round trip through the generator's autoencoder: what the judge
    will see has come out of one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        stem = folder / f"{index:03d}"
        if stem.with_suffix(".json").exists():
            continue
        samples = [draw_sample(np.random.default_rng([seed, index, number])) for number in range(size)]
        pictures = np.stack([sample.pictures for sample in samples])
        if retouch and index % 2:
            pictures = retouch(pictures.reshape(-1, *pictures.shape[2:])).reshape(pictures.shape)
        np.save(stem.with_suffix(".npy"), pictures)
        body = {
            "captions": [sample.captions for sample in samples],
            "more": [sample.more for sample in samples],
            "labels": [sample.labels.tolist() for sample in samples],
        }
        atomic_write(stem.with_suffix(".json"), json.dumps(body))
    return Pool(folder, shards)


def round_trip(autoencoder: Path) -> Retouch:
    """What comes back from a diffusers autoencoder for pictures of the micro world."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(autoencoder).eval()

    @torch.inference_mode()
    def retouch(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        decoded = []
        for chunk in torch.from_numpy(pictures).split(8):
            pixels = chunk.permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                out = model.decode(model.encode(pixels).latent_dist.mean).sample.float()
            decoded.append(((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1))
        result: NDArray[np.uint8] = torch.cat(decoded).numpy()
        return result

    return retouch


def decoder_look(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as a decoder might give them: a little soft, noisy and off in colour.

    Each picture gets its own amounts, so that they say nothing about which one is flawed. Draws from torch's generator.
    """
    count = len(pictures)
    softness = torch.rand(count, 1, 1, 1) ** 2
    soft = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = torch.lerp(pictures, soft, 0.6 * softness)
    gain = 1 + 0.04 * torch.randn(count, 1, 1, 1)
    out = (out - 0.5) * gain + 0.5 + 0.012 * torch.randn(count, 3, 1, 1)
    return (out + 0.025 * torch.rand(count, 1, 1, 1) ** 2 * torch.randn_like(out)).clamp(0, 1)


def _blobs(pictures: Tensor) -> Tensor:
    """One soft disc (B, 1, H, W) on an edge of each picture."""
    count, _, height, width = pictures.shape
    edges = (functional.max_pool2d(pictures, 3, 1, 1) - pictures).amax(1).flatten(1) + 1e-6
    centre = torch.multinomial(edges, 1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = (centre // width)[..., None], (centre % width)[..., None]
    distance = ((y - rows) ** 2 + (x - columns) ** 2).float().sqrt()
    return torch.sigmoid((4 + 10 * torch.rand(count, 1, 1) - distance) / 1.2)[:, None]


def _warp(pictures: Tensor, blobs: Tensor) -> Tensor:
    count, _, height, width = pictures.shape
    field = functional.interpolate(torch.randn(count, 2, 12, 12), (height, width), mode="bicubic", align_corners=False)
    shift = (field * blobs * 3.5 * 2 / width).permute(0, 2, 3, 1)
    grid = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid + shift, padding_mode="border", align_corners=False)


def damage(pictures: Tensor, again: Tensor) -> Tensor:
    """Local damage of a generator's kind: bent, doubled, melted, or taken from another picture.

    Args:
        pictures: clean, float (B, 3, H, W) in [0, 1].
        again: other clean pictures of the same captions.

    Returns:
        The damaged pictures; on flat ground the damage may be invisible. Draws from torch's generator.
    """
    blobs = _blobs(pictures)
    wide = functional.avg_pool2d(functional.pad(pictures, (4, 4, 4, 4), mode="replicate"), 9, 1)
    sources = torch.stack([_warp(pictures, blobs), again, wide, pictures.roll(1, 0)])
    chosen = sources[torch.randint(len(sources), (len(pictures),)), torch.arange(len(pictures))]
    return torch.lerp(pictures, chosen, blobs)


def changed_cells(pictures: Tensor, clean: Tensor) -> Tensor:
    """Where pictures visibly differ from the clean ones of the same places; bool (B, 2 * CELLS, 2 * CELLS)."""
    side = SIZE // (2 * CELLS)
    changed = ((pictures - clean).abs().amax(1, keepdim=True) > VISIBLE / 255).float()
    return functional.avg_pool2d(changed, side)[:, 0] * side**2 >= 3
