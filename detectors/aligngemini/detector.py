"""AlignGemini: a semantic branch and a pixel branch, whose verdicts are fused (papers/aligngemini.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from refiner.calibration import abstained
from refiner.coverage import joined_gaps
from refiner.detectors.aligngemini.config import BRANCHES
from refiner.detectors.aligngemini.fusion import Fusion
from refiner.detectors.base import check_domain
from refiner.detectors.composed import ComposedDetector
from refiner.errors import ConfigError, RefinerError
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Deciding, Detector
from refiner.types import Analysis, Region, Step


class AlignGeminiDetector(ComposedDetector):
    """Two detectors that see different things; a ``refiner.protocols.Detector``.

    The semantic branch looks at what an image shows, the pixel branch at the traces of a generator in its pixels. The
    verdict is that of both (``Fusion``). All regions of both branches are kept; the reasoning of each names its branch,
    and so does a step in ``trace``. ``tags`` give the verdict of each branch. ``heatmap`` is that of the pixel branch,
    ``raw`` is the answer of the semantic branch. If a branch raises an error, the whole call raises it, so that an
    answer that cannot be read never counts as real.

    Args:
        semantic, pixel: detectors, or functions of an image (see ``refiner.plain.as_detector``).
        fusion: how the verdicts become one.
        name: id and revision; None: made of the names of the branches.
        domain: "micro" for branches that know only the micro world and must refuse other images; else "".

    Raises:
        ConfigError: a branch is known to give no ``fake_probability``, which the fusion needs.
    """

    def __init__(
        self,
        semantic: DetectorLike,
        pixel: DetectorLike,
        *,
        fusion: Fusion | None = None,
        name: str | None = None,
        domain: str = "",
    ) -> None:
        self.semantic, self.pixel = as_detector(semantic), as_detector(pixel)
        self.fusion = fusion or Fusion()
        self.name = name or f"aligngemini of {self.semantic.name} and {self.pixel.name}, fusion {self.fusion.name}"
        self.domain = domain
        for part in self.parts:
            if self.fusion.needs_probabilities and isinstance(part, Deciding) and not part.decides:
                raise ConfigError(
                    f"The branch {part.name!r} gives no fake_probability, which the fusion {self.fusion.name} needs: "
                    "use the fusion or, or another detector."
                )

    @property
    def parts(self) -> tuple[Detector, Detector]:
        """The semantic and the pixel branch."""
        return self.semantic, self.pixel

    @property
    def decides(self) -> bool:
        """True: each analysis has a ``fake_probability``."""
        return True

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        """Like ``batch``, but with the error of each image that failed instead of its analysis.

        Raises:
            OutOfDomainError: the branches know only the micro world, and an image is not of it.
        """
        for image in images:
            check_domain(self.domain, image)
        return super().outcomes(images, prompts)

    def _combined(self, found: Sequence[Analysis]) -> Analysis:
        semantic, pixel = found
        both = dict(zip(BRANCHES, (semantic, pixel), strict=True))
        return Analysis(
            size=semantic.size,
            regions=tuple(_named(region, branch) for branch, one in both.items() for region in one.regions),
            fake_probability=self.fusion.of(semantic, pixel),
            heatmap=pixel.heatmap,
            tags=tuple(tag for branch, one in both.items() for tag in _tags(branch, one)),
            raw=semantic.raw,
            detector=self.name,
            trace=tuple(step for branch, one in both.items() for step in (*one.trace, *_steps(branch, one))),
            gaps=joined_gaps(both.values()),
        )


def _named(region: Region, branch: str) -> Region:
    return replace(region, reasoning=f"{region.reasoning} ({branch} branch)".lstrip())


def _tags(branch: str, analysis: Analysis) -> tuple[str, ...]:
    chance = analysis.fake_probability
    if chance is None and abstained(analysis.tags):
        return (f"{branch} branch: open", *analysis.tags)
    fake = bool(analysis.regions) if chance is None else chance > 0.5
    told = "" if chance is None else f" (probability {chance:.3f})"
    return (f"{branch} branch: {'generated' if fake else 'real'}{told}", *analysis.tags)


def _steps(branch: str, analysis: Analysis) -> list[Step]:
    return [
        Step(stage=f"{branch} branch", subject=region.name, outcome="found", text=region.explanation)
        for region in analysis.regions
    ]
