"""The tool that repairs a flaw: inpainting, editing or regenerating; see ``RefineConfig.tools``."""

from __future__ import annotations

from collections.abc import Sequence

from refiner.errors import ConfigError
from refiner.masks import iou
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.selection import Choice
from refiner.pipelines.strategies import SAME_PLACE, Patch, grown, is_local
from refiner.repairs import Repair, Tool, lower_bound
from refiner.taxonomy import Category
from refiner.types import Analysis, Mask, Region, Size


class Toolbox:
    """Chooses the tool for each flaw; the same flaws and failures always give the same tools.

    Args:
        config: settings of the run.
        local: the tools that can repair a region of the image, in the order in which they are tried without
            ``config.tools``.
        failed: masks of patches that did not become better, one for each try; the run adds to them.
        given: whether the run started from an image of the user, which is not regenerated.

    Raises:
        ConfigError: an image of the user is to be regenerated only.
    """

    def __init__(
        self, config: RefineConfig, local: Sequence[Tool], failed: Sequence[Mask] = (), *, given: bool = False
    ) -> None:
        self._config, self._failed = config, failed
        wanted = [tool for tool in config.tools if not (given and tool == "regenerate")]
        if config.tools and not wanted:
            raise ConfigError("An image of yours is not regenerated: add inpaint or edit to tools.")
        self._tools = tuple(wanted or local)

    def order(self, category: Category) -> tuple[Tool, ...]:
        """Return the tools in the order in which they are tried at a flaw of this category."""
        if self._config.policy == "fixed":
            return self._tools
        return tuple(sorted(self._tools, key=lambda tool: -lower_bound(self._config.tool_table, category, tool)))

    def choose(self, region: Region, size: Size) -> Tool:
        """Return the tool for a region of an image of this size: the next one after each failure at the same place."""
        order = self.order(region.category)
        if len(order) == 1 or not region.placed:
            return order[0]
        mask = grown(region, size, self._config)
        tries = sum(iou(mask, other) >= SAME_PLACE for other in self._failed)
        return order[min(tries, len(order) - 1)]

    def is_local(self, region: Region, size: Size) -> bool:
        """Whether a flaw is repaired in its place, without changing the rest of the image."""
        if not self._config.tools:
            return is_local(region, size, self._config)
        return region.placed and self.choose(region, size) != "regenerate"

    def tried(self, patches: Sequence[Patch], size: Size, kept: Choice) -> tuple[Repair, ...]:
        """List what was tried in one round, before its failures are added; ``kept`` as in ``Settled.choice``."""
        return tuple(
            Repair(
                tool=self.choose(patch.region, size),
                category=patch.region.category,
                name=patch.region.name,
                better=shown is not None,
            )
            for patch, shown in zip(patches, kept, strict=True)
        )


def regenerated(analysis: Analysis | None, *, better: bool) -> tuple[Repair, ...]:
    """List what a new image tried to repair: all flaws of the image before it."""
    regions = () if analysis is None else analysis.regions
    return tuple(
        Repair(tool="regenerate", category=region.category, name=region.name, better=better) for region in regions
    )
