"""Several detectors together: each flaw once, no unreadable answer counts as clean, and joint ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refiner import RefinedPipeline
from refiner.detectors import load_detector
from refiner.detectors.joint import JointDetector, joined_ids
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, ModelNotFoundError, OutOfDomainError, UnreadableOutputError
from refiner.records import to_record
from refiner.taxonomy import Category
from refiner.types import Analysis, Box, Calls, Region, Size

SIZE = Size(40, 60)
PICTURE = Image.new("RGB", (SIZE.width, SIZE.height), (200, 60, 60))


def region(name: str, box: Box, *, masked: bool = True) -> Region:
    x0, y0, x1, y1 = box
    mask = np.zeros(tuple(SIZE), dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return Region(mask=mask if masked else None, box=box, name=name, category=Category.SHAPE)


def saying(*regions: Region, **more: object) -> ScriptedDetector:
    answer = Analysis(size=SIZE, regions=regions, detector="scripted", **more)  # type: ignore[arg-type]
    return ScriptedDetector(lambda _image: answer)


def names(analysis: Analysis) -> list[str]:
    return [each.name for each in analysis.regions]


@pytest.mark.parametrize("masked", [True, False])
def test_a_flaw_that_two_have_seen_keeps_the_words_of_the_first(masked: bool) -> None:
    first = saying(region("the hand", (0, 0, 20, 20), masked=masked))
    second = saying(region("a blob", (5, 5, 22, 22), masked=masked), region("an ear", (40, 20, 50, 30), masked=masked))
    assert names(JointDetector([first, second])(PICTURE)) == ["the hand", "an ear"]
    assert names(JointDetector([second, first])(PICTURE)) == ["a blob", "an ear"]


@pytest.mark.parametrize(("shared", "kept"), [(2, True), (3, False)])
def test_a_region_is_another_one_below_three_tenths(shared: int, kept: bool) -> None:
    first, second = (
        saying(region("the hand", (0, 0, 10, 10))),
        saying(region("a blob", (10 - shared, 0, 20 - shared, 10))),
    )
    assert names(JointDetector([first, second])(PICTURE)) == ["the hand", *["a blob"] * kept]


def test_regions_of_one_detector_may_overlap_each_other() -> None:
    twice = saying(region("an eye", (0, 0, 20, 20)), region("a pupil", (5, 5, 10, 10)))
    assert names(JointDetector([twice, saying()])(PICTURE)) == ["an eye", "a pupil"]


def test_the_surest_verdict_and_the_texts_of_all() -> None:
    low, high = np.full(tuple(SIZE), 0.2, dtype=np.float32), np.zeros(tuple(SIZE), dtype=np.float32)
    high[:5] = 0.9
    unsure = saying(fake_probability=0.2, heatmap=low, raw="one", tags=("a",))
    sure = saying(fake_probability=0.9, heatmap=high, raw="two", tags=("a", "b"))
    joint = JointDetector([unsure, sure])(PICTURE)
    assert (joint.fake_probability, joint.raw, joint.tags) == (0.9, "one\ntwo", ("a", "b"))
    assert joint.heatmap is not None
    assert np.array_equal(joint.heatmap, np.maximum(low, high))
    without = JointDetector([unsure, sure, saying()])(PICTURE)
    assert without.heatmap is None
    assert JointDetector([saying(), saying()])(PICTURE).fake_probability is None


@pytest.mark.parametrize("error", [UnreadableOutputError("no JSON", raw="?"), OutOfDomainError("a photograph")])
@pytest.mark.parametrize("place", [0, 1])
def test_what_one_cannot_read_is_never_clean(error: Exception, place: int) -> None:
    parts = [saying(), saying()]
    parts[place] = ScriptedDetector(lambda _image: error)
    with pytest.raises(type(error)):
        JointDetector(parts)(PICTURE)
    with pytest.raises(type(error)):
        JointDetector(parts).batch([PICTURE, PICTURE])


def test_the_pipeline_is_lent_to_all_and_all_rows_count() -> None:
    class Looking(ScriptedDetector):
        pipe: object = None

        def bind(self, pipe: object) -> None:
            self.pipe = pipe

        def spent(self) -> Calls:
            return Calls(denoiser_rows=3)

    looking, plain = [Looking([]), Looking([])], saying()
    joint, pipe = JointDetector([*looking, plain]), object()
    joint.bind(pipe)  # type: ignore[arg-type]
    assert all(each.pipe is pipe for each in looking)
    assert joint.spent() == Calls(denoiser_rows=6)
    assert joint.to("cpu") is joint


def test_one_detector_is_not_several() -> None:
    with pytest.raises(ConfigError, match="two detectors or more, got 1"):
        JointDetector([saying()])


def test_ids_are_joined_by_a_plus() -> None:
    joint = load_detector("joint:micro+micro:probe", device="cpu")
    assert isinstance(joint, JointDetector)
    assert [each.name for each in joint.detectors] == [
        load_detector(each, device="cpu").name for each in ("micro", "micro:probe")
    ]
    assert joined_ids("micro+other") == ["micro+other"]


@pytest.mark.parametrize("name", ["joint:", "joint:micro", "joint:micro+", "joint:+", "joint:joint:micro+micro"])
def test_what_joins_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="joint:micro\\+micro:probe"):
        load_detector(name)


def test_an_unknown_one_among_them_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_detector("joint:micro+nowhere", device="cpu")
    with pytest.raises(ConfigError, match="leave the grounder out"):
        load_detector("joint:micro+micro:probe", device="cpu", grounder="box")


def test_they_guide_a_refinement_that_can_be_made_again() -> None:
    pipe = RefinedPipeline.from_pretrained("micro", detector="joint:micro+micro:probe", judge="auto")
    assert pipe.judge is not None
    assert "hps" in pipe.judge.name
    result = pipe("a red hand with five fingers on a sky background", seed=3, max_rounds=1).results[0]
    record = json.loads(json.dumps(to_record(result, None, {})))
    assert sorted(record["settings"]["detector"]["weights"]) == ["detectors0.model", "detectors1.model"]
    assert result.attempts[0].calls.denoiser_rows > 30  # the probe's runs count as denoiser rows
    assert pipe.replay(record).image.tobytes() == result.image.tobytes()
    next(pipe.detector.detectors[1].model.parameters()).data.add_(0.1)
    with pytest.raises(ConfigError, match="another detector"):
        pipe.replay(record)
