"""A gate decides whether the regions of a detector are used, and gives the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.conformance import assert_same
from support.legion_folders import save_original

from refiner import RefinedPipeline
from refiner.detectors import load_detector
from refiner.detectors.gated import GatedDetector
from refiner.detectors.ids import is_elsewhere
from refiner.detectors.registry import detector_needs
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, ModelNotFoundError, OutOfDomainError, UnreadableOutputError
from refiner.taxonomy import Category
from refiner.types import Analysis, Calls, Region, Size

SIZE = Size(40, 60)
SHADES = (0, 100, 127, 128, 200, 255)


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (SIZE.width, SIZE.height), (shade, shade, shade))


def finding(_image: Image.Image) -> Analysis:
    region = Region(mask=None, box=(0, 0, 9, 9), name="the hand", category=Category.ANATOMY)
    heat = np.ones(tuple(SIZE), dtype=np.float32)
    return Analysis(
        size=SIZE,
        regions=(region,),
        heatmap=heat,
        raw="an answer",
        tags=("before",),
        detector="x",
        fake_probability=0.9,
    )


def brightness(image: Image.Image) -> Analysis:
    chance = float(np.asarray(image).mean()) / 255
    return Analysis(size=SIZE, fake_probability=chance, detector="brightness")


FINDER, GATE = ScriptedDetector(finding, name="finder"), ScriptedDetector(brightness, name="brightness")


@pytest.mark.parametrize("shade", SHADES)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_regions_are_used_from_the_threshold_on(shade: int, threshold: float) -> None:
    analysis = GatedDetector(FINDER, GATE, threshold=threshold)(picture(shade))
    chance = shade / 255
    assert analysis.fake_probability == pytest.approx(chance)
    assert (analysis.raw, analysis.detector) == ("an answer", "finder gated by brightness")
    used = chance >= threshold
    assert [region.name for region in analysis.regions] == ["the hand"] * used
    assert (analysis.heatmap is not None) == used
    assert analysis.tags[0] == "before"
    assert ("1 region withheld: brightness takes the image for real" in analysis.tags[-1]) == (not used)


def test_a_batch_gives_the_answers_of_single_calls() -> None:
    gated = GatedDetector(FINDER, GATE)
    images = [picture(shade) for shade in SHADES]
    for alone, together in zip(map(gated, images), gated.batch(images, ["a prompt"] * len(images)), strict=True):
        assert_same(alone, together)
        assert alone.tags == together.tags
    assert gated.batch([]) == []


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\]"):
        GatedDetector(FINDER, GATE, threshold=threshold)


def test_a_gate_without_a_verdict_is_refused_at_its_first_answer() -> None:
    silent = ScriptedDetector(lambda _image: Analysis(size=SIZE, detector="silent"), name="silent")
    with pytest.raises(ConfigError, match="'silent' gives no fake_probability"):
        GatedDetector(FINDER, silent)(picture(9))


def test_a_gate_that_is_known_to_have_no_verdict_is_refused_at_once(tmp_path: Path) -> None:
    folder = save_original(tmp_path / "legion")
    with pytest.raises(ConfigError, match="'legion:legion' gives no fake_probability"):
        load_detector("legion:micro:legion", device="cpu", gate=folder)
    decided = load_detector(save_original(tmp_path / "stage-2", "stage-2"), device="cpu")
    assert GatedDetector(FINDER, GatedDetector(FINDER, decided)).decides


@pytest.mark.parametrize("error", [UnreadableOutputError("no JSON", raw="?"), OutOfDomainError("a photograph")])
@pytest.mark.parametrize("place", [0, 1])
def test_what_one_cannot_read_is_never_clean(error: Exception, place: int) -> None:
    parts = [FINDER, GATE]
    parts[place] = ScriptedDetector(lambda _image: error)
    with pytest.raises(type(error)):
        GatedDetector(*parts)(picture(9))


def test_the_pipeline_is_lent_to_both_and_all_rows_count() -> None:
    class Looking(ScriptedDetector):
        pipe: object = None

        def bind(self, pipe: object) -> None:
            self.pipe = pipe

        def spent(self) -> Calls:
            return Calls(denoiser_rows=3)

    finder, gate, pipe = Looking(finding), Looking(brightness), object()
    gated = GatedDetector(finder, gate)
    gated.bind(pipe)  # type: ignore[arg-type]
    assert finder.pipe is gate.pipe is pipe
    assert gated.spent() == Calls(denoiser_rows=6)
    assert gated.to("cpu") is gated


def test_ids_name_a_gate(tmp_path: Path) -> None:
    folder = save_original(tmp_path / "legion")
    by_id = load_detector(f"legion:{folder},gate=micro", device="cpu")
    by_argument = load_detector(folder, device="cpu", gate="micro")
    by_object = load_detector(f"legion:{folder},gate=nowhere", device="cpu", gate=load_detector("micro", device="cpu"))
    for detector in (by_id, by_argument, by_object):
        assert isinstance(detector, GatedDetector)
        assert detector.name == f"legion:legion gated by {load_detector('micro', device='cpu').name}"
    assert len(detector_needs(f"legion:{folder},gate=micro:probe")) == 2
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_detector(f"legion:{folder},gate=nowhere", device="cpu")
    with pytest.raises(ConfigError, match="takes no gate: leave the gate out"):
        load_detector("micro:probe", device="cpu", gate="micro")


@pytest.mark.parametrize(("host", "elsewhere"), [("127.0.0.1:8000", False), ("example.org", True)])
def test_a_saved_id_shows_that_its_gate_is_elsewhere(host: str, elsewhere: bool) -> None:
    assert is_elsewhere(f"legion:folder,gate=vlm:model@http://{host}/v1") == elsewhere


def test_a_pipeline_saves_the_gate_with_its_detector(tmp_path: Path) -> None:
    pipe = RefinedPipeline.from_pretrained("micro", detector="legion:micro,gate=micro:probe")
    assert " gated by " in pipe.detector.name
    pipe.save_pretrained(tmp_path / "pipe")
    again = RefinedPipeline.from_pretrained(tmp_path / "pipe")
    assert again.detector.name == pipe.detector.name


def test_the_public_layout_behind_the_bundled_gate(tmp_path: Path) -> None:
    """The bundled detector knows the micro world; its verdict withholds what untrained weights claim there."""
    from support.conformance import pictures

    bundled = load_detector("micro", device="cpu")
    gated = load_detector(save_original(tmp_path / "legion"), device="cpu", gate="micro")
    assert isinstance(gated, GatedDetector)
    gated.detector.model.config.max_new_tokens = 8  # type: ignore[attr-defined]
    images = pictures()
    found, verdicts = gated.batch(images), bundled.batch(images)
    assert {bool(analysis.regions) for analysis in found} == {True, False}
    for image, analysis, verdict in zip(images, found, verdicts, strict=True):
        assert analysis.fake_probability == verdict.fake_probability
        assert bool(analysis.regions) == (analysis.fake_probability >= 0.5)
        assert analysis.raw
        assert_same(gated(image), analysis)
