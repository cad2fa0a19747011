"""Properties of the loop, with parts that are plain functions: no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import BadImageError, ConfigError, InputError, ModelError, OutOfDomainError, UnreadableOutputError
from refiner.pipelines import Parts, RefineConfig, TemplateReviser, refine
from refiner.protocols import InpaintJob, PaintJob, Revision
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Calls, RefinementResult, Region, Size

SIZE = Size(32, 48)
PROMPT = "a red hand left of a green clock"
GREY, RED, GREEN = (128, 128, 128), (255, 0, 0), (0, 255, 0)
SPOTS = ((4, 4, 10, 10), (30, 4, 36, 10), (4, 20, 10, 26))


def picture(*red: tuple[int, int, int, int], ground: tuple[int, int, int] = GREY) -> Image.Image:
    image = Image.new("RGB", (SIZE.width, SIZE.height), ground)
    for box in red:
        image.paste(RED, box)
    return image


def region(box: tuple[int, int, int, int], *, masked: bool = True, category: Category = Category.ANATOMY) -> Region:
    mask = None
    if masked:
        mask = np.zeros(tuple(SIZE), dtype=np.bool_)
        mask[box[1] : box[3], box[0] : box[2]] = True
    return Region(mask=mask, box=box, name="the hand", explanation="a sixth finger", category=category)


def see(image: Image.Image, masked: bool = True) -> Analysis:
    """Each spot whose centre is red is a flaw."""
    flawed = [box for box in SPOTS if image.getpixel(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)) == RED]
    return Analysis(size=SIZE, regions=tuple(region(box, masked=masked) for box in flawed), detector="spots")


@dataclass
class Painter:
    """Generates from a list, whose last image is repeated; inpaints with a colour chosen by the job."""

    pictures: Sequence[Image.Image | ModelError]
    colour: Callable[[InpaintJob], tuple[int, int, int]] = lambda _job: GREEN
    rows: int = 0
    painted: list[PaintJob] = field(default_factory=list)
    jobs: list[InpaintJob] = field(default_factory=list)

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        answers = [self.pictures[min(len(self.painted) + n, len(self.pictures) - 1)] for n in range(len(jobs))]
        self.painted += jobs
        self.rows += 10 * len(jobs)
        for answer in answers:
            if isinstance(answer, ModelError):
                raise answer
        return answers

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        self.rows += 7 * len(jobs)
        results = []
        for job in jobs:
            pixels = np.array(job.image)
            pixels[job.mask] = self.colour(job)
            results.append(Image.fromarray(pixels))
        return results

    def spent(self) -> Calls:
        return Calls(denoiser_rows=self.rows)


@dataclass
class MeanJudge:
    """Scores the mean of a channel; +1 is the best."""

    channel: int = 1
    name: str = "mean"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        assert set(prompts) == {PROMPT}
        return [float(np.asarray(image)[:, :, self.channel].mean()) / 255 for image in images]


def run(
    painter: Painter, config: RefineConfig | None = None, detector: ScriptedDetector | None = None, **options: object
) -> RefinementResult:
    parts = Parts(
        generator=painter,
        inpainter=painter,
        detector=detector or ScriptedDetector(see),
        judge=options.pop("judge", None),
        reviser=TemplateReviser(),
    )
    return refine(parts, PROMPT, config or RefineConfig(), **options).result


def record(result: RefinementResult) -> list[tuple[object, ...]]:
    return [
        (a.action, a.prompt, a.negative_prompt, a.seed, a.image and a.image.tobytes(), a.accepted, a.reason, a.calls)
        for a in result.attempts
    ] + [(result.best, result.stop)]


def test_a_clean_start_ends_at_once_and_costs_one_look() -> None:
    """The judge is not called either: there is nothing to compare."""
    painter, detector = Painter([picture()]), ScriptedDetector(see)
    result = run(painter, detector=detector, judge=MeanJudge())
    assert result.attempts[0].scores == ()
    assert (result.stop, result.best, len(result.attempts)) == ("clean", 0, 1)
    assert result.calls == Calls(denoiser_rows=10, detector_calls=1)
    assert len(detector.seen) == 1
    assert painter.jobs == []


@pytest.mark.parametrize("masked", [True, False])
def test_all_flaws_are_mended_in_one_round(masked: bool) -> None:
    painter = Painter([picture(*SPOTS)])
    result = run(painter, detector=ScriptedDetector(lambda image: see(image, masked)))
    assert result.stop == "clean"
    assert [attempt.action for attempt in result.attempts] == ["generate", "inpaint"]
    assert result.attempts[1].calls == Calls(denoiser_rows=21, detector_calls=1)


def test_pixels_outside_the_painted_area_never_change() -> None:
    result = run(Painter([picture(*SPOTS)]))
    start, end = (np.asarray(result.attempts[i].image) for i in (0, result.best))
    painted = result.attempts[result.best].painted
    assert painted is not None
    assert painted.any()
    assert np.array_equal(start[~painted], end[~painted])


def test_only_the_regions_that_got_better_are_kept() -> None:
    painter = Painter([picture(*SPOTS)], colour=lambda job: RED if job.mask[7, 33] else GREEN)
    result = run(painter, RefineConfig(max_rounds=1))
    start, end = (np.asarray(attempt.image) for attempt in result.attempts)
    assert result.attempts[1].accepted
    assert tuple(end[7, 7]) == GREEN
    assert np.array_equal(start[:, 27:40], end[:, 27:40])
    assert result.attempts[1].calls.detector_calls == 2


def test_regions_that_fail_together_are_tried_alone() -> None:
    """Green on the left raises the score; blue on the right lowers it more."""
    painter = Painter([picture(*SPOTS[:2])], colour=lambda job: (0, 0, 0) if job.mask[7, 33] else (0, 60, 0))
    judge = MeanJudge()
    judge.score = lambda images, prompts: [_score(image) for image in images]  # type: ignore[method-assign]
    result = run(painter, RefineConfig(max_rounds=1), judge=judge)
    assert result.attempts[1].accepted
    assert result.attempts[1].image.getpixel((7, 7)) == (0, 60, 0)
    assert result.attempts[1].image.getpixel((33, 7)) == RED
    assert result.attempts[1].calls.detector_calls == 3


def _score(image: Image.Image) -> float:
    return float(image.getpixel((7, 7)) == (0, 60, 0)) - 2.0 * float(image.getpixel((33, 7)) == (0, 0, 0))


def test_failed_regions_get_more_candidates_with_other_seeds_and_strength() -> None:
    painter = Painter([picture(SPOTS[0])], colour=lambda job: (255, job.seed % 251, job.seed % 241))
    detector = ScriptedDetector(lambda image: Analysis(size=SIZE, regions=(region(SPOTS[0]),), detector="stubborn"))
    options = {"candidates": 1, "max_candidates": 2, "strengths": (0.5, 0.9)}
    config = RefineConfig(strategy="inpaint", max_rounds=3, patience=3, **options)  # type: ignore[arg-type]
    result = run(painter, config, detector)
    assert result.stop == "rounds"
    assert [job.strength for job in painter.jobs] == [0.5, 0.9, 0.9, 0.9, 0.9]
    assert len({job.seed for job in painter.jobs}) == 5
    assert [attempt.calls.detector_calls for attempt in result.attempts] == [1, 1, 2, 2]


def test_the_best_candidate_of_each_region_is_combined() -> None:
    """The only good candidate of each region has a different number."""
    shades = iter([GREEN, RED, RED, GREEN])
    painter = Painter([picture(*SPOTS[:2])], colour=lambda _job: next(shades))
    result = run(painter, RefineConfig(candidates=2, max_rounds=1))
    assert result.stop == "clean"
    assert result.attempts[1].calls.detector_calls == 3


def test_the_judge_decides_between_candidates_that_the_detector_likes_as_well() -> None:
    shades = [(0, 150, 0), (0, 250, 0), (0, 200, 0)]
    left = iter(shades)
    painter = Painter([picture(SPOTS[0])], colour=lambda _job: next(left))
    result = run(painter, RefineConfig(candidates=3, max_rounds=1), judge=MeanJudge())
    assert result.stop == "clean"
    assert result.image.getpixel((7, 7)) == max(shades)


@pytest.mark.parametrize("placed", [0, 1])
def test_a_flaw_whose_place_is_not_known_is_regenerated_and_never_inpainted(placed: int) -> None:
    unplaced = Region(mask=None, box=None, name="the light", category=Category.ANATOMY)

    def look(image: Image.Image) -> Analysis:
        found = see(image)
        return (
            replace(found, regions=(unplaced, unplaced, *found.regions)) if image.getpixel((47, 31)) == GREY else found
        )

    painter = Painter([picture(*SPOTS[:placed]), picture(SPOTS[2], ground=GREEN)])
    result = run(painter, detector=ScriptedDetector(look))
    assert [attempt.action for attempt in result.attempts] == ["generate", "regenerate", "inpaint"]
    assert [job.mask[SPOTS[2][1] + 1, SPOTS[2][0] + 1] for job in painter.jobs] == [True]
    assert result.stop == "clean"
    assert run(Painter([picture()]), detector=ScriptedDetector(look), config=RefineConfig(strategy="inpaint")).stop == (
        "no_progress"
    )


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("strategy", ["auto", "inpaint", "regenerate"])
@pytest.mark.parametrize("given", [True, False])
def test_flaws_without_a_place_are_only_fixed_by_a_new_image_and_never_in_the_users(
    strategy: str, keep: str, *, given: bool
) -> None:
    unplaced = Region(mask=None, box=None, name="the light", category=Category.ANATOMY)
    nowhere = ScriptedDetector(lambda image: Analysis(size=SIZE, regions=(unplaced,), detector="d"))
    painter = Painter([picture(ground=(0, shade, 0)) for shade in range(9)])
    config = RefineConfig(strategy=strategy, keep=keep, max_rounds=2)  # type: ignore[arg-type]
    result = run(painter, config, nowhere, image=picture() if given else None)
    again = [] if given or strategy == "inpaint" else ["regenerate"] * 2
    assert [attempt.action for attempt in result.attempts] == ["given" if given else "generate", *again]
    assert painter.jobs == []
    assert result.stop in ("rounds", "no_progress")


@pytest.mark.parametrize("strategy", ["auto", "inpaint", "regenerate"])
@pytest.mark.parametrize("seed", range(5))
def test_never_worse_under_detector_and_judge(strategy: str, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def noise(_image: Image.Image) -> Analysis:
        boxes = [box for box in SPOTS if rng.random() < 0.6]
        regions = tuple(replace(region(box), severity=float(rng.random())) for box in boxes)
        return Analysis(size=SIZE, regions=regions, detector="noise")

    pictures = [Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for _ in range(12)]
    painter = Painter(pictures, colour=lambda job: tuple(rng.integers(0, 256, 3)))
    config = RefineConfig(max_rounds=6, patience=6, strategy=strategy, candidates=2)  # type: ignore[arg-type]
    result = run(painter, config, ScriptedDetector(noise), judge=MeanJudge())
    kept = [attempt for attempt in result.attempts if attempt.accepted]
    for earlier, later in itertools.pairwise(kept):
        assert later.analysis.burden <= earlier.analysis.burden
        assert later.scores[0].value >= earlier.scores[0].value
    assert result.attempts[result.best] is kept[-1]


def test_a_picture_that_the_judge_likes_less_is_refused() -> None:
    result = run(Painter([picture(*SPOTS)], colour=lambda _job: (0, 0, 0)), judge=MeanJudge(channel=0))
    assert result.best == 0
    assert "judge" in result.attempts[1].reason


def test_unreadable_is_never_clean_and_a_later_picture_may_follow() -> None:
    broken = UnreadableOutputError("no grammar", raw="?")
    result = run(Painter([picture(), picture(ground=GREEN)]), detector=ScriptedDetector([broken, see(picture())]))
    assert [attempt.accepted for attempt in result.attempts] == [False, True]
    assert result.attempts[0].error == "no grammar"
    assert result.attempts[0].analysis is None
    assert (result.best, result.stop) == (1, "clean")


@pytest.mark.parametrize("options", [{"config": RefineConfig(strategy="inpaint")}, {"image": picture()}])
def test_an_unreadable_start_that_cannot_be_painted_anew_ends(options: dict[str, object]) -> None:
    broken = UnreadableOutputError("no grammar", raw="?")
    result = run(Painter([picture()]), options.pop("config", None), ScriptedDetector([broken]), **options)
    assert (result.stop, result.best, len(result.attempts)) == ("unreadable", 0, 1)


def test_always_unreadable_ends_as_unreadable() -> None:
    pictures = [picture(ground=(n, n, n)) for n in range(9)]
    detector = ScriptedDetector(lambda _image: UnreadableOutputError("no grammar", raw="?"))
    result = run(Painter(pictures), detector=detector)
    assert result.stop == "unreadable"
    assert result.image.getpixel((0, 0)) == (0, 0, 0)


def test_one_unreadable_candidate_does_not_spoil_the_others() -> None:
    def detect(image: Image.Image) -> Analysis | Exception:
        return UnreadableOutputError("?", raw="?") if image.getpixel((7, 7)) == (0, 0, 1) else see(image)

    shades = iter([(0, 0, 1), GREEN])
    painter = Painter([picture(SPOTS[0])], colour=lambda _job: next(shades))
    result = run(painter, RefineConfig(candidates=2), ScriptedDetector(detect))
    assert result.stop == "clean"
    assert result.image.getpixel((7, 7)) == GREEN


@pytest.mark.parametrize("fault", ["raises", "wrong size", "too few"])
def test_bad_pictures_of_the_inpainter_are_recorded_and_the_best_is_kept(fault: str) -> None:
    painter = Painter([picture(*SPOTS)])

    def inpaint(jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        if fault == "raises":
            raise BadImageError("got NaN")
        return [Image.new("RGB", (8, 8))] * len(jobs) if fault == "wrong size" else []

    painter.inpaint = inpaint  # type: ignore[method-assign]
    result = run(painter, RefineConfig(strategy="inpaint"))
    assert result.best == 0
    assert result.stop == "no_progress"
    assert all(attempt.error for attempt in result.attempts[1:])


def test_a_generator_that_fails_at_first_is_asked_again() -> None:
    result = run(Painter([BadImageError("got NaN"), picture()]))
    assert [attempt.image is None for attempt in result.attempts] == [True, False]
    assert (result.best, result.stop) == (1, "clean")


def test_unserved_given_images_raise_and_unserved_generated_ones_are_recorded() -> None:
    with pytest.raises(OutOfDomainError):
        run(Painter([picture()]), detector=ScriptedDetector([OutOfDomainError("a photograph")]), image=picture())
    result = run(
        Painter([picture(ground=GREEN), picture()]),
        detector=ScriptedDetector([OutOfDomainError("odd"), see(picture())]),
    )
    assert result.attempts[0].error == "odd"


def test_budgets_stop_before_the_next_painting() -> None:
    painter = Painter([picture(*SPOTS)], colour=lambda job: RED if job.mask[7, 7] else (255, 0, len(painter.jobs)))
    assert run(painter, RefineConfig(max_denoiser_rows=10)).stop == "budget"
    assert painter.jobs == []
    assert run(painter, RefineConfig(max_seconds=1e-9)).stop == "budget"


@pytest.mark.parametrize("candidates", [1, 3])
def test_no_picture_is_looked_at_or_judged_twice(candidates: int) -> None:
    def colour(job: InpaintJob) -> tuple[int, int, int]:
        return (255 if job.seed % 3 else 0, job.seed % 251, job.seed % 241)

    judged: list[bytes] = []

    class Counting(MeanJudge):
        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
            judged.extend(image.tobytes() for image in images)
            return super().score(images, prompts)

    def reddish(image: Image.Image) -> Analysis:
        found = [box for box in SPOTS if image.getpixel(box[:2])[0] == 255]
        return Analysis(size=SIZE, regions=tuple(map(region, found)), detector="reddish")

    for seed in range(6):
        detector = ScriptedDetector(reddish)
        config = RefineConfig(seed=seed, strategy="inpaint", max_rounds=4, patience=4, candidates=candidates)
        result = run(Painter([picture(*SPOTS)], colour), config, detector, judge=Counting())
        looked = [image.tobytes() for image in detector.seen]
        assert len(looked) == len(set(looked)) == result.calls.detector_calls > len(result.attempts) - 1
        assert sorted(judged) == sorted(looked)
        judged.clear()


def test_a_painter_that_changes_nothing_costs_no_look() -> None:
    painter = Painter([picture(*SPOTS)], colour=lambda _job: RED)
    result = run(painter, RefineConfig(strategy="inpaint", candidates=3, dilate=0))
    assert len(painter.jobs) == 3 * len(SPOTS)
    assert [attempt.calls.detector_calls for attempt in result.attempts] == [1, 0]
    assert result.attempts[1].scores == result.attempts[0].scores
    assert (result.best, result.stop) == (0, "repeat")


def test_a_picture_whose_look_failed_is_looked_at_again() -> None:
    start = picture(*SPOTS)
    detector = ScriptedDetector([UnreadableOutputError("mumble", "?"), see(start)])
    result = run(Painter([start, start]), RefineConfig(strategy="regenerate", max_rounds=1), detector)
    assert [attempt.calls.detector_calls for attempt in result.attempts] == [1, 1]
    assert result.attempts[0].error
    assert result.attempts[1].analysis


def test_a_painter_that_repeats_itself_is_not_asked_for_ever() -> None:
    config = RefineConfig(strategy="regenerate", max_rounds=9, patience=9)
    result = run(Painter([picture(*SPOTS)]), config)
    assert (result.stop, len(result.attempts)) == ("repeat", 2)


class Broken(Painter):
    """Parts that fail as a bug does, at their n-th use."""

    def __init__(self, part: str, at: int) -> None:
        super().__init__([picture(*SPOTS), picture(SPOTS[0])])
        self.part, self.left = part, at

    def fail(self, part: str) -> None:
        if part == self.part:
            self.left -= 1
            if self.left < 0:
                raise ZeroDivisionError("a bug")

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        self.fail("generator")
        return super().generate(jobs)

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.fail("inpainter")
        return super().inpaint(jobs)

    def see(self, image: Image.Image) -> Analysis:
        self.fail("detector")
        return see(image)

    name = "broken"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        self.fail("judge")
        return [0.0] * len(images)

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        self.fail("reviser")
        return TemplateReviser().revise(prompt, history)

    def for_region(self, prompt: str, region: Region) -> Revision:
        self.fail("reviser")
        return TemplateReviser().for_region(prompt, region)

    def refined(self, **settings: object) -> RefinementResult:
        detector = ScriptedDetector(self.see)
        parts = Parts(generator=self, inpainter=self, detector=detector, judge=self, reviser=self)
        return refine(parts, PROMPT, RefineConfig(**settings)).result


@pytest.mark.parametrize(
    ("part", "at", "strategy"),
    [
        ("generator", 1, "regenerate"),
        ("inpainter", 0, "inpaint"),
        *itertools.product(["detector", "judge"], [1], ["inpaint", "regenerate"]),
        *itertools.product(["reviser"], [0], ["inpaint", "regenerate"]),
    ],
)
def test_a_part_that_fails_costs_its_attempt_and_ends_the_run_with_the_best_so_far(
    part: str, at: int, strategy: str
) -> None:
    result = Broken(part, at).refined(strategy=strategy)
    assert (result.best, result.stop, len(result.attempts)) == (0, "failed", 2)
    assert result.attempts[0].error is None
    assert result.attempts[1].error == "ZeroDivisionError: a bug"
    assert not result.attempts[1].accepted
    with pytest.raises(ZeroDivisionError, match="a bug"):
        Broken(part, at).refined(strategy=strategy, on_error="raise")


@pytest.mark.parametrize("part", ["generator", "detector", "judge"])
def test_a_part_that_fails_at_the_start_leaves_what_there_is(part: str) -> None:
    result = Broken(part, 0).refined()
    assert (result.stop, len(result.attempts)) == ("failed", 1)
    assert (result.attempts[0].image is None) == (part == "generator")
    assert result.attempts[0].error == "ZeroDivisionError: a bug"


def test_the_same_seed_gives_the_same_record_and_another_index_another() -> None:
    def colour(job: InpaintJob) -> tuple[int, int, int]:
        return (job.seed % 256, 0, 0)

    config = RefineConfig(seed=3)
    first, again, other = (run(Painter([picture(*SPOTS)], colour), config, index=index) for index in (0, 0, 1))
    assert record(first) == record(again)
    assert record(first) != record(other)
    assert [one.attempts[0].seed for one in (first, other)] == [3, 4]


def test_without_a_seed_runs_differ_and_seeds_are_short() -> None:
    first, other = (run(Painter([picture(*SPOTS)])) for _ in range(2))
    assert first.attempts[0].seed != other.attempts[0].seed
    assert all(0 <= run.attempts[0].seed < 10**9 for run in (first, other)), "short enough to be typed again"


def test_auto_paints_anew_after_repainting_twice_in_vain_and_then_repaints_again() -> None:
    detector = ScriptedDetector(lambda image: Analysis(size=SIZE, regions=(region(SPOTS[0]),), detector="stubborn"))
    grounds = [picture(SPOTS[0], ground=(n, n, n)) for n in range(9)]
    for strategy, actions in (
        ("auto", ["inpaint", "inpaint", "regenerate"] * 2),
        ("inpaint", ["inpaint"] * 4),
    ):
        shades = iter(range(99))
        painter = Painter(grounds, colour=lambda _job: (255, 0, next(shades)))  # noqa: B023
        result = run(painter, RefineConfig(max_rounds=4, patience=4, strategy=strategy), detector)  # type: ignore[arg-type]
        assert [attempt.action for attempt in result.attempts[1:]] == actions


def test_the_strategy_follows_the_flaws() -> None:
    def actions(regions: tuple[Region, ...], **options: object) -> list[str]:
        detector = ScriptedDetector(lambda _image: Analysis(size=SIZE, regions=regions, detector="fixed"))
        painter = Painter([picture(ground=(n, n, n)) for n in range(9)])
        return [a.action for a in run(painter, RefineConfig(max_rounds=1), detector, **options).attempts[1:]]

    small, large = region(SPOTS[0]), region((0, 0, 48, 24))
    light, spot = (replace(region(box), category=Category.OPTICS) for box in ((0, 0, 20, 20), SPOTS[0]))
    assert actions((small,)) == ["inpaint"]
    assert actions((spot,)) == ["inpaint"]
    assert actions((large,)) == ["regenerate"]
    assert actions((light,)) == ["regenerate"]
    assert actions((small, large)) == ["regenerate", "inpaint"]
    assert actions((large,), image=picture()) == ["inpaint"]


@pytest.mark.parametrize(
    ("boxes", "patches"), [(((4, 4, 10, 10), (5, 4, 12, 10)), 1), (((4, 4, 10, 10), (11, 4, 20, 10)), 2), (SPOTS, 3)]
)
def test_patches_are_disjoint_and_those_that_mostly_overlap_are_one(
    boxes: tuple[tuple[int, int, int, int], ...], patches: int
) -> None:
    painter = Painter([picture(SPOTS[0])])
    analysis = Analysis(size=SIZE, regions=tuple(region(box) for box in boxes), detector="fixed")
    run(painter, RefineConfig(max_rounds=1), ScriptedDetector(lambda _image: analysis))
    assert len(painter.jobs) == patches
    assert (sum(job.mask.astype(int) for job in painter.jobs) <= 1).all()
    assert (analysis.mask <= np.logical_or.reduce([job.mask for job in painter.jobs])).all()


def test_painted_together_all_regions_share_a_row_but_are_kept_one_by_one() -> None:
    shades = iter([(0, 0, 1), GREEN])

    class Striped(Painter):
        """Fixes the left half in its first image and the right half in its second."""

        def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
            pictures = super().inpaint(jobs)
            for number, image in enumerate(pictures):
                image.paste(RED, (24 * (1 - number), 0, 24 * (2 - number), SIZE.height))
            return pictures

    painter = Striped([picture(*SPOTS[:2])], colour=lambda _job: next(shades))
    result = run(painter, RefineConfig(together=True, candidates=2, max_rounds=1))
    assert [job.prompt for job in painter.jobs] == [PROMPT, PROMPT]
    assert painter.jobs[0].mask[7, 7]
    assert painter.jobs[0].mask[7, 33]
    assert result.attempts[1].calls == Calls(denoiser_rows=14, detector_calls=3)
    assert result.stop == "clean"
    assert (result.image.getpixel((7, 7)), result.image.getpixel((33, 7))) == ((0, 0, 1), GREEN)


def test_regeneration_learns_from_all_attempts_and_keeps_the_users_prompt() -> None:
    painter = Painter([picture(SPOTS[0], ground=(n, n, n)) for n in range(9)])
    run(painter, RefineConfig(strategy="regenerate", max_rounds=2, negative_prompt="text"))
    assert painter.painted[0] == PaintJob(prompt=PROMPT, negative_prompt="text", seed=painter.painted[0].seed)
    assert painter.painted[1].prompt == f"{PROMPT}, a complete, well-formed hand"
    assert painter.painted[1].negative_prompt == "text, a sixth finger"


def test_stopping_ends_with_the_best_so_far() -> None:
    painter = Painter([picture(*SPOTS)])
    parts = Parts(generator=painter, inpainter=painter, detector=ScriptedDetector(see), reviser=TemplateReviser())
    run = refine(parts, PROMPT, RefineConfig())
    for attempt in run:
        assert attempt.index == 0
        run.stop()
    assert (run.result.stop, len(run.result.attempts)) == ("interrupted", 1)


def test_bad_input_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="RGB"):
        run(Painter([]), image=Image.new("L", (8, 8)))


@pytest.mark.parametrize(
    "setting",
    [
        {"strategy": "magic"},
        {"max_rounds": -1},
        {"patience": 0},
        {"max_denoiser_rows": 0},
        {"strengths": ()},
        {"strengths": (1.5,)},
        {"candidates": 3, "max_candidates": 2},
        {"crop_min_side": 0.0},
        {"large_share": math.inf},
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="RefineConfig." + list(setting)[-1]):
        RefineConfig(**setting)  # type: ignore[arg-type]


def test_a_heatmap_tells_which_patch_got_better_where_regions_cannot() -> None:
    """All regions remain, so the burden is the same; the heat map falls in one patch and rises in the other."""
    warmth = {RED: 0.6, GREEN: 0.5, GREY: 0.7}

    def feel(image: Image.Image) -> Analysis:
        heatmap = np.zeros(tuple(SIZE), dtype=np.float32)
        for box in SPOTS[:2]:
            heatmap[box[1] : box[3], box[0] : box[2]] = warmth[image.getpixel((box[0] + 3, box[1] + 3))]
        return Analysis(size=SIZE, regions=tuple(map(region, SPOTS[:2])), heatmap=heatmap, detector="feeling")

    painter = Painter([picture(*SPOTS[:2])], colour=lambda job: GREEN if job.mask[:, :20].any() else GREY)
    config = RefineConfig(strategy="inpaint", max_rounds=1, dilate=0.0, feather=0.0)
    result = run(painter, config, ScriptedDetector(feel), judge=MeanJudge())
    assert result.attempts[1].accepted
    assert [result.image.getpixel((box[0] + 3, box[1] + 3)) for box in SPOTS[:2]] == [GREEN, RED]
    plain = ScriptedDetector(lambda image: replace(feel(image), heatmap=None))
    assert not run(painter, config, plain, judge=MeanJudge()).attempts[1].accepted
