"""A calibrated detector: its verdicts, the open ones, and what gates, joint detectors and figures make of these."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.conformance import assert_same, pictures

from refiner.calibration import ABSTAINED, Calibration, Isotonic, OperatingPoint, abstained
from refiner.detectors import load_detector
from refiner.detectors.calibrated import CalibratedDetector
from refiner.detectors.gated import GatedDetector
from refiner.detectors.ids import take_option
from refiner.detectors.joint import JointDetector
from refiner.detectors.registry import detector_needs, with_grounder
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError, InputError, UnreadableOutputError
from refiner.evaluate.tasks import build_task
from refiner.pipelines.judges import BurdenJudge
from refiner.records import analysis_from_dict, analysis_to_dict
from refiner.taxonomy import Category
from refiner.types import Analysis, Calls, Region, Size

SIZE = Size(40, 60)
SHADES = (0, 50, 100, 130, 150, 160, 200, 255)
POINT = OperatingPoint(
    threshold=0.55, wanted=0.05, false_positives=1, real=40, interval=(0.0, 0.13), found=30, generated=40,
    recall_interval=(0.6, 0.87),
)  # fmt: skip
CALIBRATION = Calibration(
    detector="brightness", point=POINT, max_error=0.2, band=(0.5, 0.6),
    curve=Isotonic(scores=(0.2, 0.55, 0.9), probabilities=(0.02, 0.4, 0.98)),
)  # fmt: skip


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (SIZE.width, SIZE.height), (shade, shade, shade))


def brightness(image: Image.Image) -> Analysis:
    region = Region(mask=None, box=(0, 0, 9, 9), name="the hand", category=Category.ANATOMY, score=0.3)
    return Analysis(
        size=SIZE, regions=(region,), fake_probability=float(np.asarray(image).mean()) / 255, tags=("before",),
        raw="an answer", detector="brightness",
    )  # fmt: skip


DETECTOR = ScriptedDetector(brightness, name="brightness")
CALIBRATED = CalibratedDetector(DETECTOR, CALIBRATION)


def saved(calibration: Calibration, folder: Path, name: str = "c.json") -> Path:
    return calibration.save(folder / name)


@pytest.mark.parametrize("shade", SHADES)
def test_the_verdict_is_that_of_the_calibration_and_nothing_else_changes(shade: int) -> None:
    plain, analysis = DETECTOR(picture(shade)), CALIBRATED(picture(shade))
    score = plain.fake_probability
    assert score is not None
    assert analysis.fake_probability == CALIBRATION.verdict(score)
    assert analysis.detector == CALIBRATED.name == f"brightness calibrated {CALIBRATION.digest}"
    assert (analysis.regions[0].score, analysis.raw) == (0.3, "an answer"), "regions stay, whatever the verdict"
    is_open = 0.5 <= score <= 0.6
    assert (analysis.fake_probability is None) == abstained(analysis.tags) == is_open
    assert analysis.tags[0] == "before"
    if is_open:
        assert "wrong in more than 20 % of the cases" in analysis.tags[-1]
    else:
        assert (analysis.fake_probability > 0.5) == (score > 0.55)  # type: ignore[operator]


def test_a_batch_gives_the_answers_of_single_calls() -> None:
    images = [picture(shade) for shade in SHADES]
    found = CALIBRATED.batch(images, ["a prompt"] * len(images))
    for alone, together in zip(map(CALIBRATED, images), found, strict=True):
        assert_same(alone, together)
        assert alone.tags == together.tags
    assert {analysis.fake_probability is None for analysis in found} == {True, False}
    assert CALIBRATED.batch([]) == []


def test_an_open_verdict_survives_the_record() -> None:
    analysis = CALIBRATED(picture(140))
    again = analysis_from_dict(json.loads(json.dumps(analysis_to_dict(analysis, arrays=True))))
    assert again.fake_probability is None
    assert abstained(again.tags)


def test_a_calibration_of_another_detector_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="calibration of the detector 'darkness', got one of 'brightness'"):
        CalibratedDetector(ScriptedDetector(brightness, name="darkness"), CALIBRATION)


def test_a_detector_without_a_verdict_is_refused() -> None:
    silent = ScriptedDetector(lambda _image: Analysis(size=SIZE, detector="brightness"), name="brightness")
    with pytest.raises(ConfigError, match="'brightness' gives no fake_probability"):
        CalibratedDetector(silent, CALIBRATION)(picture(9))


def test_what_the_detector_cannot_read_is_never_a_verdict() -> None:
    broken = ScriptedDetector(lambda _image: UnreadableOutputError("no JSON", raw="?"), name="brightness")
    with pytest.raises(UnreadableOutputError):
        CalibratedDetector(broken, CALIBRATION)(picture(9))


def test_the_pipeline_is_lent_to_the_detector_and_its_rows_count() -> None:
    class Looking(ScriptedDetector):
        pipe: object = None

        def bind(self, pipe: object) -> None:
            self.pipe = pipe

        def spent(self) -> Calls:
            return Calls(denoiser_rows=3)

    inner, pipe = Looking(brightness, name="brightness"), object()
    detector = CalibratedDetector(inner, CALIBRATION)
    detector.bind(pipe)  # type: ignore[arg-type]
    assert inner.pipe is pipe
    assert detector.spent() == Calls(denoiser_rows=3)
    assert CALIBRATED.spent() == Calls()
    assert detector.to("cpu") is detector


@pytest.mark.parametrize(("shade", "used"), [(100, 0), (140, 1), (200, 1)])
def test_a_gate_that_abstains_withholds_nothing_and_says_so(shade: int, used: int) -> None:
    finder = ScriptedDetector(brightness, name="finder")
    gated = GatedDetector(finder, CALIBRATED)
    analysis = gated(picture(shade))
    assert len(analysis.regions) == used
    assert (analysis.fake_probability is None) == abstained(analysis.tags) == (shade == 140)
    assert GatedDetector(finder, gated)(picture(shade)).fake_probability == analysis.fake_probability


@pytest.mark.parametrize(("other", "verdict"), [(0.1, None), (0.5, None), (0.9, 0.9)])
def test_joint_detectors_settle_an_open_verdict_only_with_a_positive_one(other: float, verdict: float | None) -> None:
    sure = ScriptedDetector(lambda _image: Analysis(size=SIZE, fake_probability=other, detector="x"), name="sure")
    silent = ScriptedDetector(lambda _image: Analysis(size=SIZE, detector="y"), name="silent")
    assert JointDetector([CALIBRATED, sure])(picture(140)).fake_probability == verdict
    assert JointDetector([silent, sure])(picture(140)).fake_probability == other, "a detector without verdicts"


def test_judges_read_the_regions_and_not_the_verdict() -> None:
    images = [picture(shade) for shade in SHADES]
    assert BurdenJudge(CALIBRATED).score(images, [""] * len(images)) == BurdenJudge(DETECTOR).score(images, [""] * 8)


def test_figures_leave_open_verdicts_out_and_show_how_many() -> None:
    task = build_task("detection", {}, {"threshold": 0.5})
    answers = CALIBRATED.batch([picture(shade) for shade in (60, 140, 200, 140)])
    records = [
        {"truth": {"fake": fake, "analysis": None}, "answer": {"analysis": analysis_to_dict(answer, arrays=True)}}
        for fake, answer in zip((False, True, True, False), answers, strict=True)
    ]
    rows = [task.row(record) for record in records]
    assert all(isinstance(row, dict) for row in rows)
    columns = {
        name: np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)  # type: ignore[index]
        for name in ("fake", "probability", "margin")
    }
    figures = task.figures(columns)
    assert (figures["tp"], figures["tn"], figures["images"], figures["accuracy"]) == (1, 1, 2, 1.0)
    assert figures["decided"] == 0.5
    nothing = task.figures({name: values[[1, 3]] for name, values in columns.items() if name != "probability"})
    assert (nothing["accuracy"], nothing["decided"]) == (None, 0.0)
    assert "group_mean" not in "".join(task.across({"one": nothing}))


def test_options_are_taken_out_of_ids() -> None:
    assert take_option("vlm:a,calibration=c.json,grounder=box", "calibration") == ("vlm:a,grounder=box", "c.json")
    assert take_option("vlm:a,grounder=box", "calibration") == ("vlm:a,grounder=box", None)
    assert take_option("micro,calibration=a,calibration=b", "calibration") == ("micro", "b")


def test_ids_name_a_calibration(tmp_path: Path) -> None:
    probe = load_detector("micro:probe", device="cpu")
    calibration = replace(CALIBRATION, detector=probe.name)
    file = saved(calibration, tmp_path)
    detector = load_detector(f"micro:probe,calibration={file}", device="cpu")
    assert detector.name == f"{probe.name} calibrated {calibration.digest}"
    image = pictures()[0]
    plain, found = probe(image), detector(image)
    assert found.fake_probability == calibration.verdict(plain.fake_probability or 0.0)
    assert len(found.regions) == len(plain.regions)
    assert detector_needs(f"micro:probe,calibration={file}") == detector_needs("micro:probe")
    with pytest.raises(ConfigError, match="takes no grounder"):
        with_grounder(f"micro:probe,calibration={file}", "box")
    with pytest.raises(ConfigError, match="calibration of the detector 'legion-micro"):
        load_detector(f"micro,calibration={file}", device="cpu")
    with pytest.raises(InputError, match="The calibration '' cannot be read"):
        detector_needs("micro:probe,calibration=")
    for load in (load_detector, detector_needs):
        with pytest.raises(InputError, match=r"nowhere\.json' cannot be read \(no such file"):
            load("micro:probe,calibration=nowhere.json")


def test_a_joint_id_has_a_calibration_of_its_own_and_of_its_parts(tmp_path: Path) -> None:
    probe = load_detector("micro:probe", device="cpu").name
    part = saved(replace(CALIBRATION, detector=probe), tmp_path, "part.json")
    joint = load_detector(f"joint:micro:probe,calibration={part}+micro:probe", device="cpu")
    assert isinstance(joint, JointDetector)
    assert joint.name == f"{probe} calibrated {Calibration.read(part).digest} & {probe}"
    whole = saved(replace(CALIBRATION, detector=joint.name), tmp_path, "whole.json")
    both = load_detector(f"joint:micro:probe,calibration={part}+micro:probe,calibration={whole}", device="cpu")
    assert isinstance(both, CalibratedDetector)
    assert len(detector_needs(f"joint:micro:probe,calibration={part}+micro:probe,calibration={whole}")) == 2


def test_a_refined_pipeline_takes_it_and_saves_its_id(model: str, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    from refiner import RefinedPipeline

    legion = load_detector("micro", device="cpu").name
    file = saved(replace(CALIBRATION, detector=legion), tmp_path)
    pipe = RefinedPipeline(DiffusionPipeline.from_pretrained(model), detector=f"micro,calibration={file}")
    assert pipe.judge is not None, "a bundled detector has the bundled judge, also with a calibration"
    pipe.save_pretrained(tmp_path / "pipe")
    again = RefinedPipeline.from_pretrained(tmp_path / "pipe")
    assert again.detector.name == pipe.detector.name == f"{legion} calibrated {Calibration.read(file).digest}"


def test_tags_of_models_do_not_open_a_verdict() -> None:
    said = ScriptedDetector(
        lambda _image: Analysis(size=SIZE, fake_probability=0.9, tags=(f"{ABSTAINED} no",), detector="b")
    )
    task = build_task("detection", {}, {"threshold": 0.5})
    record = {"truth": {"fake": True}, "answer": {"analysis": analysis_to_dict(said(picture(9)), arrays=True)}}
    row = task.row(record)
    assert isinstance(row, dict)
    assert row["probability"] == 0.9
