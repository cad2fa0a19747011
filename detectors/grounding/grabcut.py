"""Masks from only the colours of the image, if no SAM is available (after GrabCut, Rother et al., SIGGRAPH 2004).

The pixels around the box show the colours of the background. Two fits alternate: the frequency of each colour on the
thing and in the background, and a smooth labelling of the pixels in the box. There are three departures from the paper,
which keep the code small. A common palette replaces the two mixtures of Gaussians. The labelling is the mean field of
GrabCut's energy, not its minimum cut, and starts from the middle of the box. Large boxes are scaled down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors.grounding.base import Grounder, Prompt, Segment, box_segment, grow, to_segment
from refiner.types import Box

_Floats = NDArray[np.float64]

MAX_SIDE = 128
"""Longest side of the crop around a box, in pixels; larger crops are scaled down."""
SURROUND = 0.2
"""Width of the background around the box that is used, as a share of the box's sides."""
ROUNDS = 3
"""Number of rounds; each fits the colours and then the labelling."""
SWEEPS = 5
"""Mean-field sweeps in each round."""
COLOURS = 12
"""Maximum number of colours in the palette."""
SMOOTHNESS = 3.0
"""Weight of a neighbouring pixel of the same colour, relative to log-likelihoods in nats."""
NOISE = 0.05
"""Standard deviation of a colour, in units of the full range."""
POINT_WEIGHT = 2.0
"""Weight of the colour under a point, as a multiple of the number of the box's pixels."""
_TRUST = 6.0
"""Bound on the log-likelihood ratio of a colour, in nats, so that a rare colour does not outvote all neighbours."""
_SAMPLE = 4096
"""Maximum number of pixels from which the palette is made."""
_LEAST_SURROUND = 16
"""Required pixels of background; with fewer, the mask is the filled box."""


class GrabCutGrounder(Grounder):
    """Makes masks from colours; deterministic, needs only numpy and scipy.

    Holes of a thing belong to its mask. For a box that fills the image, the mask is the filled box.
    """

    name = "grabcut 1 (fallback without a model)"

    def _draw(self, image: Image.Image, prompts: Sequence[Prompt]) -> list[Segment]:
        return [_cut(image, prompt) for prompt in prompts]


def _cut(image: Image.Image, prompt: Prompt) -> Segment:
    from scipy import ndimage

    frame = grow(prompt.stand_in, prompt.size, SURROUND)
    crop = image.crop(frame)
    scale = min(1.0, MAX_SIDE / max(crop.size))
    small = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    pixels = np.asarray(crop.resize(small, Image.Resampling.BOX), dtype=np.float64) / 255
    inside, fixed = _trimap(prompt, frame, small)
    if np.count_nonzero(~inside) < _LEAST_SURROUND:
        return box_segment(prompt)
    share = _label(pixels, inside, fixed)
    whole = Image.fromarray(share.astype(np.float32)).resize(crop.size, Image.Resampling.BILINEAR)
    x0, y0, x1, y1 = prompt.window if prompt.box is not None else prompt.stand_in
    likely = np.asarray(whole)[y0 - frame[1] : y1 - frame[1], x0 - frame[0] : x1 - frame[0]]
    filled = np.asarray(ndimage.binary_fill_holes(likely > 0.5), dtype=np.bool_)
    score = float(likely[filled].mean()) if filled.any() else None
    if prompt.box is None:  # the window is the whole image
        inner, filled = filled, np.zeros(tuple(prompt.size), dtype=np.bool_)
        filled[y0:y1, x0:x1] = inner
    return to_segment(prompt, filled, score, "grabcut")


def _trimap(prompt: Prompt, frame: Box, small: tuple[int, int]) -> tuple[NDArray[np.bool_], _Floats]:
    """Return which pixels may be on the thing, and which are known to be on it (1) or not (0), NaN elsewhere.

    Both arrays are (h, w) of ``small``. A pixel on the box's edge counts as outside, because it is mostly background.
    """
    x0, y0, x1, y1 = prompt.stand_in
    across, down = small[0] / (frame[2] - frame[0]), small[1] / (frame[3] - frame[1])
    columns, rows = np.arange(small[0]) + 0.5, np.arange(small[1]) + 0.5
    inside = ((rows > (y0 - frame[1]) * down) & (rows < (y1 - frame[1]) * down))[:, None] & (
        (columns > (x0 - frame[0]) * across) & (columns < (x1 - frame[0]) * across)
    )
    fixed = np.where(inside, np.nan, 0.0)
    for x, y, on_it in prompt.points:
        row, column = int((y - frame[1]) * down), int((x - frame[0]) * across)
        if 0 <= row < small[1] and 0 <= column < small[0]:
            fixed[row, column] = float(on_it)
    return inside, fixed


def _label(pixels: _Floats, inside: NDArray[np.bool_], fixed: _Floats) -> _Floats:
    """Compute the probability (h, w) that each pixel of (h, w, 3) is on the thing."""
    weights, colours = _neighbours(pixels), _colours(pixels)
    share = np.where(np.isnan(fixed), _central(inside), fixed)
    said = inside & ~np.isnan(fixed)
    colours_seen = colours * np.where(said, POINT_WEIGHT * inside.sum(), 1.0)[..., None]
    for _ in range(ROUNDS):
        evidence = colours @ _evidence(colours_seen, share)
        share = _settled(evidence, fixed)
        for _ in range(SWEEPS):
            share = _settled(evidence + SMOOTHNESS * _pull(2 * share - 1, weights), fixed)
    return share


def _central(inside: NDArray[np.bool_]) -> _Floats:
    """Make the initial probabilities (h, w) for a box: 1 in its middle, decreasing to 0 at its sides."""
    guess = np.ones(inside.shape)
    for axis in (0, 1):
        within = np.asarray(inside.any(1 - axis))
        count = int(within.sum())
        line = np.zeros(len(within))
        line[within] = np.minimum(1.0, 2 - 2 * np.abs(2 * (np.arange(count) + 0.5) / max(1, count) - 1))
        guess *= line[:, None] if axis == 0 else line[None]
    return guess


def _evidence(seen: _Floats, share: _Floats) -> _Floats:
    """Compute the log-likelihood ratio (k,) of each colour, thing against background.

    ``seen``, (h, w, k), weights the colours of each pixel; ``share``, (h, w), is its probability to be on the thing.
    """
    front = np.einsum("hwk,hw->k", seen, share) + 1e-3
    back = np.einsum("hwk,hw->k", seen, 1 - share) + 1e-3
    ratio: _Floats = np.log(front / front.sum()) - np.log(back / back.sum())
    return np.clip(ratio, -_TRUST, _TRUST)


def _settled(logits: _Floats, fixed: _Floats) -> _Floats:
    """Convert logits (h, w) to probabilities, and set the pixels that are known."""
    share: _Floats = np.where(np.isnan(fixed), 1 / (1 + np.exp(-logits)), fixed)
    return share


def _neighbours(pixels: _Floats) -> tuple[_Floats, _Floats]:
    """Compute the similarity of each pixel to the one below, (h - 1, w), and to the one on its right, (h, w - 1).

    The values are in (0, 1]. As in GrabCut, differences are relative to their mean over the image.
    """
    squares = [(np.diff(pixels, axis=axis) ** 2).sum(-1) for axis in (0, 1)]
    mean = np.concatenate([square.ravel() for square in squares]).mean() if pixels[..., 0].size > 1 else 1.0
    down, right = (np.exp(-square / (2 * mean + NOISE**2)) for square in squares)
    return down, right


def _pull(sign: _Floats, weights: tuple[_Floats, _Floats]) -> _Floats:
    """Compute the weighted mean of the four neighbours' signs for each pixel: (h, w), in [-1, 1]."""
    down, right = weights
    pull = np.zeros_like(sign)
    pull[:-1] += down * sign[1:]
    pull[1:] += down * sign[:-1]
    pull[:, :-1] += right * sign[:, 1:]
    pull[:, 1:] += right * sign[:, :-1]
    return pull / 4


def _colours(pixels: _Floats) -> _Floats:
    """Compute the membership (h, w, k) of each pixel of (h, w, 3) in at most ``COLOURS`` colours; sums to 1 over k.

    The colours come from k-means, which starts from the pixels with the largest differences.
    """
    sample = pixels.reshape(-1, 3)
    sample = sample[:: -(-len(sample) // _SAMPLE)]
    centres = [sample.mean(0)]
    for _ in range(COLOURS):
        far = np.min([((sample - centre) ** 2).sum(1) for centre in centres], axis=0)
        if far.max() < NOISE**2:
            break
        centres.append(sample[int(far.argmax())])
    middles = np.stack(centres[1:] or centres)
    for _ in range(5):
        owner = ((sample[:, None] - middles) ** 2).sum(-1).argmin(1)
        counts = np.bincount(owner, minlength=len(middles))
        sums = np.stack([np.bincount(owner, sample[:, axis], len(middles)) for axis in range(3)], axis=1)
        middles = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], middles)
    nearness = -((pixels[:, :, None] - middles) ** 2).sum(-1) / (2 * NOISE**2)
    memberships = np.exp(nearness - nearness.max(-1, keepdims=True))
    return memberships / memberships.sum(-1, keepdims=True)
