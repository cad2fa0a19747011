"""Images of one call that are refined together, and the services that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from refiner.pipelines.judges import JointJudge, judges_of
from refiner.pipelines.painting.arguments import alike
from refiner.pipelines.parts import Parts
from refiner.pipelines.together.parts import Seat, SharedDetector, SharedJudge, SharedPainter, SharedReviser
from refiner.pipelines.together.scheduler import Scheduler
from refiner.pipelines.together.services import Images, Patches, Revisions, Steps, looks_of, scores_of
from refiner.protocols import Detector, Judge, Reviser
from refiner.repairs import LocalTool

T = TypeVar("T")


class _Painting(NamedTuple):
    images: Images
    patches: Patches
    negatives: bool
    tools: tuple[LocalTool, ...]


class Group:
    """The services of images that are refined together.

    Args:
        detector, judge, reviser: the parts that all images share.
        most: images in one call of detector and judge, at least 1.
    """

    def __init__(self, detector: Detector, judge: Judge | None, reviser: Reviser, *, most: int) -> None:
        self._scheduler = Scheduler()
        self.starts, self.callbacks = Steps(0), Steps(1)
        self._revisions = Revisions(reviser)
        self._looks = looks_of(detector, most)
        self._scores = [scores_of(each, most) for each in judges_of(judge)]
        self._painting: list[tuple[Mapping[str, Any], _Painting]] = []

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Run the refinements of the images; see ``Scheduler.run``."""
        return self._scheduler.run(tasks)

    def member(self) -> Member:
        """One more image of the group."""
        return Member(self, Seat(self._scheduler))

    def parts(self, seat: Seat, options: Mapping[str, Any], own: Callable[[], Parts]) -> Parts:
        """See ``Member.parts``."""
        painting = next((each for known, each in self._painting if alike(known, options)), None)
        if painting is None:
            parts = own()
            painting = _Painting(
                Images(parts.generator), Patches(parts.inpainter, parts.generator), parts.negatives, parts.tools
            )
            self._painting.append((options, painting))
        painter = SharedPainter(seat, painting.images, painting.patches)
        return Parts(
            generator=painter,
            inpainter=painter,
            negatives=painting.negatives,
            tools=painting.tools,
            detector=SharedDetector(seat, self._looks),
            judge=JointJudge([SharedJudge(seat, each) for each in self._scores]) if self._scores else None,
            reviser=SharedReviser(seat, self._revisions),
            clock=seat.clock,
        )


class Member:
    """One image of a group."""

    def __init__(self, group: Group, seat: Seat) -> None:
        self._group, self._seat = group, seat

    def start(self, work: Callable[[], T]) -> T:
        """Make a start image. Its own record says how long that took, so the clock of the image stands still."""
        return self._seat.call(self._group.starts, work)

    def callback(self, work: Callable[[], T]) -> T:
        """Call the user's callback."""
        return self._seat.call(self._group.callbacks, work)

    def parts(self, options: Mapping[str, Any], own: Callable[[], Parts]) -> Parts:
        """The parts of the image.

        Args:
            options: arguments of the image's call; images whose options are alike share generator and inpainter.
            own: makes the parts of an image that is refined by itself.
        """
        return self._group.parts(self._seat, options, own)
