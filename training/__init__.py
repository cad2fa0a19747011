"""Training: one folder for each recipe, and one training loop (``fit.py``) for all of them.

``RECIPES`` is the table that ``refiner train`` and ``refiner micro build`` read. To add a recipe, add one row. This
module imports nothing heavy: a recipe is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Row:
    """One recipe, as ``refiner train --list`` shows it."""

    target: str
    """"module:attribute" of the ``Recipe``."""
    help: str
    """What the recipe trains."""
    budget: str
    """About how long the training takes with the recipe's own settings, and on what."""
    data: str = ""
    """The samples of ``--data`` that it learns from; "" if it takes none."""
    data_optional: bool = False
    """Whether it generates its own data if it takes samples and there is no ``--data``."""


RECIPES: Mapping[str, Row] = MappingProxyType(
    {
        "generator": Row(
            target="refiner.training.generator.recipe:RECIPE",
            help="the micro world's Stable Diffusion pipeline, autoencoder included",
            budget="hours on one core",
        ),
        "inpainter": Row(
            target="refiner.training.inpainter.recipe:RECIPE",
            help="the micro world's inpainter, from the generator's UNet",
            budget="hours on one core",
        ),
        "preference": Row(
            target="refiner.training.preference.recipe:RECIPE",
            help="the judge: a CLIP in HPS v2's format at the micro world's size",
            budget="hours on one core, including the images that the generator makes first",
        ),
        "legion": Row(
            target="refiner.training.legion.recipe:RECIPE",
            help="LEGION: the bundled detector at the micro world's size, or any LEGION on your data",
            budget="about an hour on one core, after hours of generating images; with --data as its config says",
            data="generated images whose flaws are outlined and explained (stage 2: real and generated images)",
            data_optional=True,
        ),
        "probe": Row(
            target="refiner.training.probe.recipe:RECIPE",
            help="a detector on the generator's own denoiser features",
            budget="minutes on one core, after hours of generating images",
        ),
        "vlm": Row(
            target="refiner.training.vlm.recipe:RECIPE",
            help="the detector that reads prompts: Qwen3-VL at the micro world's size",
            budget="hours on one core, including the images that the generator makes first",
        ),
        "fakexplain": Row(
            target="refiner.training.fakexplain.recipe:RECIPE",
            help="FakeXplain: an adapter for the bundled chat model, or for any chat model on your data",
            budget="about an hour on one core; with --data as its config says",
            data="generated images whose flaws have boxes and descriptions, and real images",
            data_optional=True,
        ),
        "anomreason": Row(
            target="refiner.training.anomreason.recipe:RECIPE",
            help="AnomReasonor: an adapter for the bundled chat model, or for any chat model on your data",
            budget="about an hour on one core; with --data as its config says",
            data="generated images whose anomalies are described, and real images",
            data_optional=True,
        ),
        "xaigd": Row(
            target="refiner.training.xaigd.recipe:RECIPE",
            help="X-AIGD: a verdict, masks of seven categories, and a heat map that is aligned to the artifacts",
            budget="about two hours on one core; with --data as its config says",
            data="generated images whose flaws are outlined, and real images",
            data_optional=True,
        ),
        "aligngemini": Row(
            target="refiner.training.aligngemini.recipe:RECIPE",
            help="AlignGemini: a semantic and a pixel branch for the micro world, or on your data",
            budget="about an hour and a half on one core; with --data as its config says",
            data="images with a verdict (semantic branch), and pairs from refiner data reconstruct (pixel branch)",
            data_optional=True,
        ),
        "instruct": Row(
            target="refiner.training.instruct.recipe:RECIPE",
            help="the chat model that revises prompts: a tiny Qwen2",
            budget="about 20 minutes on one core",
        ),
    }
)
"""The recipes by name, in the order in which ``refiner micro build`` needs them."""
