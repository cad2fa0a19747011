"""Example prompts of README, docs, help and demo, with seeds at which the bundled models visibly repair the image.

They were chosen from the runs that ``tests/benchmarks/examples.py`` lists (12 prompts, seeds 0 to 7; of 79 flawed start
images, 50 get better), so they are not typical: ``refiner micro bench`` and the gallery show what is.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A prompt, and the seed of the refinement."""

    prompt: str
    seed: int


EXAMPLES: Final = (
    Example("a green tree with the sun on the right above a red hand with five fingers on a snow background", 5),
    Example("a yellow house by a pond above a blue clock showing six o'clock on a sand background", 6),
    Example("a blue cat with four legs facing left above a yellow face with two eyes sad on a snow background", 0),
)
