"""How often a judge prefers the better image or the right caption, on held-out pairs of the micro world.

A judge is a model that scores an image against its prompt.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from PIL import Image

from refiner.micro.flaws import FLAWS, inject
from refiner.micro.world import place, render, sample_scene
from refiner.protocols import Judge
from refiner.training.preference.data import RIVALS, Retouch, flawed_pair, natural_sample
from refiner.training.world.flaws import ImperfectGenerator
from refiner.training.world.paintings import VIEWS, paint

_CHUNK = 64  # pairs that are scored in one batch
_PAINTED = 20  # scenes that are generated in one batch


class _Votes:
    """Pairs that wait to be scored, and the results by kind of pair."""

    def __init__(self, judge: Judge, retouch: Retouch | None) -> None:
        self.judge, self.retouch = judge, retouch
        self.images: list[Image.Image] = []
        self.prompts: list[str] = []
        self.sorts: list[tuple[str, ...]] = []
        self.right: dict[str, list[bool]] = defaultdict(list)

    def add(self, better: tuple[Image.Image, str], worse: tuple[Image.Image, str], *sorts: str) -> None:
        """Add a pair of (image, prompt) that counts for each kind in ``sorts``."""
        for image, prompt in (better, worse):
            self.images.append(image)
            self.prompts.append(prompt)
        self.sorts.append(sorts)
        if len(self.sorts) >= _CHUNK:
            self.count()

    def count(self) -> None:
        """Score the pairs that wait."""
        images = self.images
        if self.retouch:
            images = list(map(Image.fromarray, self.retouch(np.stack([np.asarray(image) for image in images]))))
        scores = self.judge.score(images, self.prompts)
        for sorts, better, worse in zip(self.sorts, scores[::2], scores[1::2], strict=True):
            for sort in sorts:
                self.right[sort].append(better > worse)
        self.images, self.prompts, self.sorts = [], [], []


def evaluate(judge: Judge, seed: int, pairs: int, retouch: Retouch | None = None) -> dict[str, float]:
    """Share of held-out pairs in which the judge prefers the right one. Ties count as wrong.

    Args:
        judge: scores images against prompts.
        seed: seed of the pairs, not used in training.
        pairs: number of pairs of each sort. They cycle through the kinds of flaws and of wrong captions.
        retouch: applied to every image first, such as a round trip through an autoencoder.

    Returns:
        Shares in [0, 1] by sort of pair:

        * ``flaw``: a clean image and the same with one flaw; also ``flaw/KIND`` for each kind of flaw;
        * ``flaw_elsewhere``: a flawed image and another clean image of the same caption;
        * ``more_flaws``: k and k + 1 flaws;
        * ``caption``: one image with the right and a wrong caption; also ``caption/KIND`` for each kind of change;
        * ``picture``: one caption with the right and a wrong image; also ``picture/KIND`` for each kind of change.
    """
    votes = _Votes(judge, retouch)
    for index in range(pairs):
        rng = np.random.default_rng([seed, index])
        kind = list(FLAWS)[index % len(FLAWS)]
        while not (bad := inject(sample_scene(rng), rng, count=1, kinds=[kind])).kinds:
            pass
        text = bad.scene.caption
        votes.add((render(bad.scene), text), (bad.image, text), "flaw", f"flaw/{kind}")
        votes.add((render(place(bad.scene, rng)), text), (bad.image, text), "flaw_elsewhere")
        scene = sample_scene(rng, count=int(rng.integers(2, 5)))
        fewer, more = flawed_pair(scene, rng)
        if len(more.kinds) > len(fewer.kinds):
            votes.add((fewer.image, scene.caption), (more.image, scene.caption), "more_flaws")
        change = list(RIVALS)[index % len(RIVALS)]
        while (other := RIVALS[change](scene := sample_scene(rng), rng)) is None:
            pass
        image = render(scene)
        votes.add((image, scene.caption), (image, other.caption), "caption", f"caption/{change}")
        votes.add((image, scene.caption), (render(other), scene.caption), "picture", f"picture/{change}")
    votes.count()
    return {sort: float(np.mean(right)) for sort, right in sorted(votes.right.items())}


def evaluate_natural(judge: Judge, seed: int, scenes: int, imperfect: ImperfectGenerator) -> dict[str, float]:
    """The same as ``evaluate``, on the generator's own flaws in ``scenes`` held-out scenes.

    Returns:
        Shares in [0, 1] by sort of pair. ``natural``: a decoded clean image and one with flaws. ``fewer``: fewer and
        more flaws. ``repainted``: an image and the same with one region inpainted again; either can be better.
    """
    votes, rng = _Votes(judge, None), np.random.default_rng([seed, scenes])
    names = {"returned": "natural", "better": "fewer", "repainted": "repainted"}
    for _ in range(scenes // _PAINTED):
        for sample in map(natural_sample, paint(rng, _PAINTED, imperfect)):
            shown = [(Image.fromarray(picture), sample.captions[0]) for picture in sample.pictures]
            poorer = VIEWS.index("poorer")
            for name, sort in names.items():
                place = VIEWS.index(name)
                if sample.better[place, poorer]:
                    votes.add(shown[place], shown[poorer], sort)
                elif sample.better[poorer, place]:
                    votes.add(shown[poorer], shown[place], sort)
    votes.count()
    return {sort: float(np.mean(right)) for sort, right in sorted(votes.right.items())}


def measure(judge: Judge, seed: int, pairs: int, imperfect: ImperfectGenerator) -> dict[str, float]:
    """All held-out scores of a judge. ``seed`` is that of its training, ``pairs`` the number of pairs of each sort.

    Returns:
        The scores on exact renders; under ``decoded/`` those after a round trip through the autoencoder; under
        ``generator/`` those on the generator's own flaws.
    """
    scores = evaluate(judge, seed=seed + 1, pairs=pairs)
    decoded = evaluate(judge, seed=seed + 2, pairs=pairs, retouch=imperfect.round_trip)
    natural = evaluate_natural(judge, seed + 3, pairs, imperfect)
    own = {f"generator/{name}": value for name, value in natural.items()}
    return scores | {f"decoded/{name}": value for name, value in decoded.items()} | own
