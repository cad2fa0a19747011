"""Gradient attention rollout as a plain program."""

from __future__ import annotations

import numpy as np


def plain_rollout(attention: list[np.ndarray], gradients: list[np.ndarray], prefix: int, cls: bool) -> np.ndarray:
    """Gradient attention rollout, image by image and entry by entry."""
    tokens = attention[0].shape[-1]
    rows = []
    for image in range(len(attention[0])):
        joined = np.eye(tokens)
        for layer, slopes in zip(attention, gradients, strict=True):
            step = np.zeros((tokens, tokens))
            for i in range(tokens):
                for j in range(tokens):
                    products = [layer[image, head, i, j] * slopes[image, head, i, j] for head in range(layer.shape[1])]
                    step[i, j] = (max(0.0, sum(products) / len(products)) + (i == j)) / 2
                step[i] /= step[i].sum()
            joined = step @ joined
        if cls:
            rows.append(joined[0, prefix:])
        else:
            own = range(prefix, tokens)
            rows.append(np.array([sum(joined[i, j] for i in own if i != j) / len(own) for j in own]))
    return np.stack(rows)
