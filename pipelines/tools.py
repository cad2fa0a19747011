"""The tool that repairs a flaw: inpainting, editing or regenerating; see ``RefineConfig.tools``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from refiner.errors import ConfigError, ModelError
from refiner.ledger import Ledger, ledgers_of
from refiner.masks import iou
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.instructions import as_edit
from refiner.pipelines.selection import Choice
from refiner.pipelines.strategies import SAME_PLACE, Patch, Step, choose, grown, is_local
from refiner.protocols import Grouping, Inpainted, InpaintJob, Remarking
from refiner.repairs import LOCAL_TOOLS, LocalTool, Repair, Tool, lower_bound
from refiner.taxonomy import Category
from refiner.types import Action, Analysis, Mask, Region, Size


class Toolbox:
    """Chooses the tool for each flaw of one image, and notes what was tried.

    The choice depends only on the settings, the flaw, and the places where a local tool failed before. So the same run
    always uses the same tools.

    Args:
        config: settings of the run.
        local: the tools that can repair a part of the image, in the order in which they are tried without
            ``config.tools``.
        given: whether the run started from an image of the user, which is not regenerated.

    Raises:
        ConfigError: ``config.tools`` has a tool that there is no model for, or none for an image of the user.
    """

    def __init__(self, config: RefineConfig, local: Sequence[LocalTool], *, given: bool = False) -> None:
        missing = [tool for tool in config.tools if tool in LOCAL_TOOLS and tool not in local]
        if missing:
            what = (
                "inpaints: pass the edit model as editor=" if missing == ["inpaint"] else "edits: pass one as editor="
            )
            raise ConfigError(
                f"tools names {missing[0]!r}, but there is no model that {what}, or leave it out of tools."
            )
        wanted = [tool for tool in config.tools if not (given and tool == "regenerate")]
        if config.tools and not wanted:
            raise ConfigError("An image of yours is not regenerated: add inpaint or edit to tools.")
        self._config, self._given = config, given
        self._tools: tuple[Tool, ...] = tuple(wanted or local)
        self.failed: list[Mask] = []
        """Masks of patches that did not become better, one for each try."""
        self._tried: tuple[Repair, ...] = ()

    def order(self, category: Category) -> tuple[Tool, ...]:
        """Return the tools in the order in which they are tried at a flaw of this category."""
        if self._config.policy == "fixed":
            return self._tools
        table = self._config.tool_table
        return tuple(sorted(self._tools, key=lambda tool: -lower_bound(table, category, tool)))

    def choose(self, region: Region, size: Size) -> Tool:
        """Return the tool for a region of an image of this size: the next one after each failure at the same place."""
        order = self.order(region.category)
        if len(order) == 1 or not region.placed:
            return order[0]
        mask = grown(region, size, self._config)
        tries = sum(iou(mask, other) >= SAME_PLACE for other in self.failed)
        return order[min(tries, len(order) - 1)]

    def is_local(self, region: Region, size: Size) -> bool:
        """Whether a flaw is repaired in its place, without changing the rest of the image."""
        if not self._config.tools:
            return is_local(region, size, self._config)
        return region.placed and self.choose(region, size) != "regenerate"

    def steps(self, analysis: Analysis | None, *, repainted_in_vain: bool) -> tuple[Step, ...]:
        """Choose the steps of the next round, as ``choose`` does without ``RefineConfig.tools``; maybe none."""
        if not self._config.tools or (self._given and analysis is not None):
            return choose(analysis, self._config, given=self._given, repainted_in_vain=repainted_in_vain)
        again: tuple[Step, ...] = ("regenerate",) if "regenerate" in self._tools else ()
        if analysis is None:
            return again
        local = sum(self.is_local(region, analysis.size) for region in analysis.regions)
        return (*(again if local < len(analysis.regions) else ()), *(("inpaint",) if local else ()))

    def told(self, jobs: list[InpaintJob], group: Sequence[Patch], *, own: bool) -> list[InpaintJob]:
        """Return jobs, which repair a group of patches, for the tool that is used.

        Args:
            jobs: inpainting jobs.
            group: the patches; those that are repaired together use the tool of the first one.
            own: whether the jobs' prompt is the user's own text.
        """
        if self._local(group[0]) == "inpaint":
            return jobs
        return [as_edit(job, [patch.region for patch in group], self._config, own=own) for job in jobs]

    def _local(self, patch: Patch) -> LocalTool:
        chosen = self.choose(patch.region, Size(*patch.mask.shape))
        return next(tool for tool in (chosen, *self._tools) if tool != "regenerate")

    def settle(self, patches: Sequence[Patch], kept: Choice) -> None:
        """Note what became of the patches of a round; ``kept`` as in ``Settled.choice``."""
        self._tried = tuple(
            Repair(
                tool=self._local(patches[0] if self._config.together else patch),
                category=patch.region.category,
                name=patch.region.name,
                better=shown is not None,
            )
            for patch, shown in zip(patches, kept, strict=True)
        )
        self.failed += [patch.mask for patch, shown in zip(patches, kept, strict=True) if shown is None]

    def tried(self, action: Action, analysis: Analysis | None, *, better: bool) -> tuple[Repair, ...]:
        """Return what an attempt tried to repair; a new image tries to repair all flaws of the image before it."""
        tried, self._tried = self._tried, ()
        if action != "regenerate" or analysis is None:
            return tried
        return tuple(
            Repair(tool="regenerate", category=region.category, name=region.name, better=better)
            for region in analysis.regions
        )


class ToolInpainter:
    """Passes each job on to the inpainter of its tool.

    If an inpainter fails and another one does not, the images of its jobs are not changed, and a remark says why.

    Args:
        inpainters: for each tool.
    """

    def __init__(self, inpainters: Mapping[LocalTool, Grouping]) -> None:
        self._inpainters = inpainters
        self._remarks = list[str]()

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        """See ``Inpainter``.

        Raises:
            ModelError: all inpainters that were asked failed.
        """
        made = self.inpaint_each([jobs])[0]
        if made.error is not None:
            raise made.error
        self._remarks += made.remarks
        return [*made.images]

    def inpaint_each(self, groups: Sequence[Sequence[InpaintJob]]) -> list[Inpainted]:
        """See ``Grouping``."""
        made = [_Made([job.image for job in jobs]) for jobs in groups]
        for tool in dict.fromkeys(job.tool for jobs in groups for job in jobs):
            places = [[place for place, job in enumerate(jobs) if job.tool == tool] for jobs in groups]
            mine = [[jobs[place] for place in own] for jobs, own in zip(groups, places, strict=True)]
            for image, own, answer in zip(made, places, self._asked(tool, mine), strict=True):
                image.add(answer, own)
        return [image.answer() for image in made]

    def _asked(self, tool: LocalTool, groups: Sequence[Sequence[InpaintJob]]) -> Sequence[Inpainted]:
        try:
            return self._inpainters[tool].inpaint_each(groups)
        except ModelError as error:
            return [Inpainted(error=error)] * len(groups)

    def remarks(self) -> list[str]:
        """Return the notes for the user since the last call."""
        said, self._remarks = self._remarks, []
        parts = [part for part in self._inpainters.values() if isinstance(part, Remarking)]
        return [*said, *(remark for part in parts for remark in part.remarks())]

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs of hosted models, by the name of the model."""
        return ledgers_of(self._inpainters.values())


@dataclass
class _Made:
    """What the tools made for one image."""

    images: list[Image.Image]
    failures: list[Exception] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    used: int = 0
    rows: int = 0

    def add(self, answer: Inpainted, places: Sequence[int]) -> None:
        """Add the answer of a tool to the jobs at some places."""
        if not places:
            return
        self.used, self.rows = self.used + 1, self.rows + answer.rows
        self.remarks += answer.remarks
        if answer.error is not None:
            self.failures.append(answer.error)
            self.remarks.append(f"{len(places)} of {len(self.images)} regions are unchanged. {answer.error}")
        for place, image in zip(places, answer.images, strict=False):
            self.images[place] = image

    def answer(self) -> Inpainted:
        """The images; the first error if all tools failed."""
        if self.failures and len(self.failures) == self.used:
            return Inpainted(error=self.failures[0], rows=self.rows)
        return Inpainted(images=self.images, remarks=self.remarks, rows=self.rows)
