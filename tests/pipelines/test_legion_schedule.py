"""LEGION's own controller as a mode of the loop: its calls are as published, and nothing is verified."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import BadImageError, ConfigError, UnreadableOutputError
from refiner.pipelines import CropInpainter, Parts, RefineConfig, refine
from refiner.pipelines.painting.crops import Crop, Pixels
from refiner.pipelines.saving.settings import SavedSettings, config_from
from refiner.protocols import InpaintJob, PaintJob, Revision
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size

SIZE = Size(64, 128)
PROMPT = "a red hand left of a green clock"
SPOTS = ((70, 10, 90, 30), (10, 10, 30, 30), (20, 20, 44, 40))
"""In the order in which the detector lists them; the last two overlap."""
PUBLISHED = (
    "Try to avoid the problem: {} And make every effort to maintain the photorealism and reasonableness of the entire "
    "image, as well as consistency and coherence in style, lighting, and shadows."
)


def region(box: tuple[int, int, int, int], severity: float = 1.0) -> Region:
    mask = np.zeros(tuple(SIZE), dtype=np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    said = f"the pixels at {box} are wrong"
    return Region(mask=mask, box=box, name="hand", explanation=said, category=Category.ANATOMY, severity=severity)


def always(*boxes: tuple[int, int, int, int]) -> ScriptedDetector:
    """Severities rise, so that the order of the detector is not that of the burden."""
    regions = tuple(region(box, severity=0.2 + 0.2 * number) for number, box in enumerate(boxes))
    return ScriptedDetector(lambda _image: Analysis(size=SIZE, regions=regions, detector="always"))


@dataclass
class Painter:
    """Every image that it makes has a colour of its own; ``broken`` are the numbers of inpainting calls that fail."""

    broken: Sequence[int] = ()
    painted: list[PaintJob] = field(default_factory=list)
    jobs: list[InpaintJob] = field(default_factory=list)
    calls: int = 0

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        self.painted += jobs
        return [Image.new("RGB", (SIZE.width, SIZE.height), (len(self.painted), 90, 0)) for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        self.jobs += jobs
        self.calls += 1
        if self.calls in self.broken:
            raise BadImageError("The inpainted image is black: use another seed.")
        return [Image.composite(self.colour(job.image), job.image, Image.fromarray(job.mask)) for job in jobs]

    def colour(self, image: Image.Image) -> Image.Image:
        return Image.new("RGB", image.size, (0, self.calls, 200))


@dataclass
class Reviser:
    """Adds the number of flaws in the memory; remembers what it was asked."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def revise(self, prompt: str, history: Sequence[Attempt]) -> Revision:
        flaws = sum(len(attempt.analysis.regions) for attempt in history if attempt.analysis)
        self.asked.append((prompt, flaws))
        return Revision(prompt=f"{prompt}, avoiding {flaws}")

    def for_region(self, prompt: str, region: Region) -> Revision:
        raise AssertionError("the published prompt is used")


def run(painter: Painter, config: RefineConfig, detector: ScriptedDetector, **options: object) -> RefinementResult:
    judge, reviser = options.pop("judge", None), options.pop("reviser", Reviser())
    parts = Parts(generator=painter, inpainter=painter, detector=detector, judge=judge, reviser=reviser)
    return refine(parts, PROMPT, config, **options).result


def test_inpainting_goes_round_by_round_and_region_by_region() -> None:
    """Order, prompts, masks, strengths, and that each call gets the image of the one before."""
    painter, detector = Painter(), always(*SPOTS)
    result = run(painter, RefineConfig.legion("inpaint"), detector)
    assert [attempt.action for attempt in result.attempts] == ["generate", "inpaint", "inpaint", "inpaint"]
    assert (result.stop, result.best, len(detector.seen)) == ("rounds", 3, 4)
    assert [job.prompt for job in painter.jobs] == [PUBLISHED.format(region(box).explanation) for box in SPOTS] * 3
    assert {(job.strength, job.whole, job.negative_prompt) for job in painter.jobs} == {(0.84, True, "")}
    images = [result.attempts[0].image, *(job.image for job in painter.jobs[1:]), result.image]
    for number, (job, before, after) in enumerate(zip(painter.jobs, images, images[1:], strict=False)):
        assert job.image.tobytes() == before.tobytes()
        changed = (np.asarray(before) != np.asarray(after)).any(axis=2)
        assert np.array_equal(changed, job.mask), number
    for job, box in zip(painter.jobs, SPOTS * 3, strict=True):
        grown = 10 * SIZE.width / 1024
        x0, y0, x1, y1 = box
        assert job.mask[y0:y1, x0:x1].all()
        assert job.mask[y0, x0 - int(grown)]
        assert not job.mask[:, : x0 - int(grown) - 1].any()
        assert not job.mask[: y0 - int(grown) - 1].any()


def test_every_region_has_noise_of_its_own_and_a_run_repeats() -> None:
    first, second, other = Painter(), Painter(), Painter()
    config = RefineConfig.legion("inpaint")
    assert config.seed == 42
    for painter, settings in ((first, config), (second, config), (other, replace(config, seed=43))):
        run(painter, settings, always(*SPOTS))
    seeds = [job.seed for job in first.jobs]
    assert len(set(seeds)) == len(seeds) == 9
    assert seeds == [job.seed for job in second.jobs]
    assert not {*seeds} & {job.seed for job in other.jobs}
    assert (first.painted[0].seed, other.painted[0].seed) == (42, 43)


def test_a_region_is_pasted_as_in_equation_6() -> None:
    """I + M (Inpaint(I, M, E) - I): inside the mask the model's own pixels, outside the old ones, to the bit."""
    rng = np.random.default_rng(0)
    seen: list[Crop] = []

    made: list[np.ndarray] = []

    def paint(crops: Sequence[Crop]) -> list[Pixels]:
        seen.extend(crops)
        answers = [rng.random((*crop.mask.shape, 3), dtype=np.float32) for crop in crops]
        made.extend(np.rint(answer * 255) for answer in answers)
        return answers

    config = RefineConfig.legion("inpaint", max_rounds=1)
    start = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[5:20, 30:50] = True
    job = InpaintJob(image=start, mask=mask, prompt="x", seed=0, strength=0.84, whole=True)
    inpainter = CropInpainter(paint, native=64, multiple=8, cell=8, config=config)
    (image,) = inpainter.inpaint([job])
    assert seen[0].image.tobytes() == start.tobytes()
    old = np.asarray(start).astype(np.float64)
    assert np.array_equal(np.asarray(image), old + mask[..., None] * (made[0] - old))


def worsening(image: Image.Image) -> Analysis:
    """One flaw more after every change."""
    if image.getpixel((80, 20)) == (1, 90, 0):
        return Analysis(size=SIZE, regions=(region(SPOTS[0]),), detector="worsening")
    return Analysis(size=SIZE, regions=tuple(map(region, SPOTS)), detector="worsening")


class Green:
    name = "green"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        assert {*prompts} == {PROMPT}
        return [float(np.asarray(image)[:, :, 1].mean()) for image in images]


@pytest.mark.parametrize("mode", ["inpaint", "regenerate"])
def test_what_is_kept_may_be_worse_and_the_result_says_so(mode: str) -> None:
    config = RefineConfig.legion(mode)  # type: ignore[arg-type]
    painter = Painter()
    result = run(painter, config, ScriptedDetector(worsening), judge=Green())
    start, end = result.attempts[0], result.attempts[result.best]
    assert result.best == len(result.attempts) - 1 == config.max_rounds
    assert end.analysis.burden == 3 > start.analysis.burden == 1
    assert end.image.tobytes() == result.image.tobytes()
    assert all(attempt.accepted for attempt in result.attempts)
    reasons = [attempt.reason for attempt in result.attempts[1:]]
    assert all(reason.startswith("kept without verification; ") for reason in reasons)
    assert "worse for the detector: burden 1.000 -> 3.000, score" in reasons[0]
    ours = run(Painter(), replace(config, keep="best"), ScriptedDetector(worsening), judge=Green())
    assert ours.best == 0
    assert "without verification" not in "".join(attempt.reason for attempt in ours.attempts)


def test_regeneration_revises_the_prompt_of_the_round_before_by_all_flaws_so_far() -> None:
    """Equation 5: P(t+1) = Revise(P(t), M(t)), and M(t) has the flaws of all images."""
    painter, reviser = Painter(), Reviser()
    result = run(painter, RefineConfig.legion("regenerate"), always(*SPOTS), reviser=reviser)
    once = f"{PROMPT}, avoiding 3"
    assert reviser.asked == [(PROMPT, 3), (once, 6)]
    assert [job.prompt for job in painter.painted] == [PROMPT, once, f"{once}, avoiding 6"]
    assert len({job.seed for job in painter.painted}) == 3
    assert [attempt.action for attempt in result.attempts] == ["generate", "regenerate", "regenerate"]
    ours = Reviser()
    run(Painter(), RefineConfig(strategy="regenerate", max_rounds=2), always(*SPOTS), reviser=ours)
    assert [prompt for prompt, _ in ours.asked] == [PROMPT, PROMPT]


def test_further_text_encoders_have_the_revised_prompt_of_the_round_before_too() -> None:
    painter = Painter()
    texts = {"prompt_2": PROMPT, "prompt_3": "film grain"}
    run(painter, RefineConfig.legion("regenerate"), always(SPOTS[0]), texts=texts)
    last = painter.painted[-1]
    assert last.texts == {"prompt_2": last.prompt, "prompt_3": "film grain, avoiding 1, avoiding 2"}


@pytest.mark.parametrize("mode", ["inpaint", "regenerate"])
def test_it_ends_early_only_if_nothing_is_found(mode: str) -> None:
    answers = iter([always(SPOTS[0])(Image.new("RGB", (128, 64))), Analysis(size=SIZE, detector="x")])
    painter = Painter()
    config = RefineConfig.legion(mode)  # type: ignore[arg-type]
    result = run(painter, config, ScriptedDetector(lambda _image: next(answers)))
    assert (result.stop, result.best, len(result.attempts)) == ("clean", 1, 2)
    same = Painter()
    same.colour = lambda image: image  # type: ignore[method-assign]
    result = run(same, RefineConfig.legion("inpaint"), always(*SPOTS))
    assert (result.stop, result.best) == ("rounds", 3)


def test_an_image_that_cannot_be_read_is_kept_and_never_counts_as_clean() -> None:
    answers = iter([always(SPOTS[0])(Image.new("RGB", (128, 64)))])

    def once(_image: Image.Image) -> Analysis:
        found = next(answers, None)
        if found is None:
            raise UnreadableOutputError("The answer cannot be read: ask again.", raw="?")
        return found

    result = run(Painter(), RefineConfig.legion("inpaint"), ScriptedDetector(once))
    assert (result.stop, result.best) == ("unreadable", 1)
    assert result.attempts[1].analysis is None
    assert result.attempts[1].reason == "kept without verification; could not be analysed"


@pytest.mark.parametrize(("broken", "best"), [((2,), 3), ((1, 2, 3), 3), (range(1, 10), 0)])
def test_a_region_that_cannot_be_inpainted_costs_that_region_alone(broken: Sequence[int], best: int) -> None:
    painter = Painter(broken=broken)
    result = run(painter, RefineConfig.legion("inpaint"), always(*SPOTS))
    assert (result.stop, result.best, painter.calls) == ("rounds", best, 9)
    first = result.attempts[1]
    if len(broken) == 1:
        assert first.note == "1 of 3 regions are unchanged. The inpainted image is black: use another seed."
        assert np.array_equal(first.painted, painter.jobs[0].mask | painter.jobs[2].mask)
    else:
        assert (first.image, first.accepted) == (None, False)
        assert first.error == "The inpainted image is black: use another seed."


def test_a_region_without_an_explanation_is_told_by_its_name() -> None:
    bare = replace(region(SPOTS[0]), explanation="")
    painter = Painter()
    detector = ScriptedDetector(lambda _image: Analysis(size=SIZE, regions=(bare,), detector="bare"))
    run(painter, RefineConfig.legion("inpaint", max_rounds=1), detector)
    assert painter.jobs[0].prompt == PUBLISHED.format("hand")


def test_marks_in_an_explanation_or_a_prompt_are_ordinary_words() -> None:
    odd = replace(region(SPOTS[0]), explanation="it reads [PROMPT] and [SKIP]")
    painter = Painter()
    detector = ScriptedDetector(lambda _image: Analysis(size=SIZE, regions=(odd,), detector="odd"))
    config = RefineConfig(strategy="inpaint", max_rounds=1, prompts="[PROMPT]: [EXPLANATION]")
    run(painter, config, detector)
    assert painter.jobs[0].prompt == f"{PROMPT}: it reads [PROMPT] and [SKIP]"


@pytest.mark.parametrize("mode", ["inpaint", "regenerate"])
def test_the_settings_survive_records_and_saved_pipelines(mode: str, tmp_path: object) -> None:
    config = RefineConfig.legion(mode)  # type: ignore[arg-type]
    assert config_from(json.loads(json.dumps(asdict(config)))) == config
    SavedSettings(config=config).write(str(tmp_path))
    assert SavedSettings.read(str(tmp_path)).config == config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"candidates": 2}, "candidates must be exactly 1"),
        ({"together": True, "prompts": ()}, "together must be False"),
        ({"keep": "none"}, "keep must be one of best, last"),
        ({"inpaint_call": {1: 2}}, "inpaint_call must be a mapping"),
        ({"inpaint_call": {"image": object()}}, "inpaint_call must be a mapping"),
        ({"inpaint_call": {"guidance_scale": float("nan")}}, "inpaint_call must be a mapping"),
        ({"inpaint_call": [1]}, "inpaint_call must be a mapping"),
        ({"rounds": 2}, "no setting rounds"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RefineConfig.legion("inpaint", **settings)


def test_another_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of inpaint, regenerate, got 'both'"):
        RefineConfig.legion("both")  # type: ignore[arg-type]
