"""All detectors pass the checks of ``support.conformance``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.conformance import Conformance, assert_same, networks, pictures
from support.scripted_agent import save_agent
from support.tiny_experts import save_tiny_expert
from support.tiny_locators import save_locator
from support.tiny_pal4vst import save_pal4vst
from support.tiny_xaigd import save_tiny

from refiner.detectors import load_detector
from refiner.detectors.registry import bundled_detectors
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.masks import box_of
from refiner.micro.world import render, sample_scene
from refiner.plain import as_detector
from refiner.protocols import Detector
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size


def scripted() -> Detector:
    """Marks the darkest pixels; depends only on the image, so that the order does not matter."""

    def answer(image: Image.Image) -> Analysis:
        grey = np.asarray(image.convert("L"))
        mask = grey == grey.min()
        box = box_of(mask)
        assert box is not None
        region = Region(mask=mask, box=box, name="the darkest pixels", category=Category.COLOR)
        return Analysis(size=Size(image.height, image.width), regions=(region,), detector="scripted")

    return ScriptedDetector(answer)


def parts() -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        return load_detector(f"parts:hand,face,text@{save_locator(Path(folder))}", device="cpu")


def pal4vst() -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        file = save_pal4vst(Path(folder) / "end2end.pt", "logits")
        return load_detector(f"pal4vst:{file},output=logits", device="cpu")


def xaigd(kind: str) -> Detector:
    """A tiny network of X-AIGD's tasks, which tells regions whatever its verdict is."""
    with tempfile.TemporaryDirectory() as folder:
        return load_detector(f"xaigd:{save_tiny(Path(folder), kind)},regions=all", device="cpu")


def vision_language() -> Detector:
    """A tiny network of Qwen3-VL's architecture that gives one of three answers, depending on the image."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.vlm.questions import box_format, finding

    flaws = [{"name": f"thing {n}", "category": "shape", "bbox_2d": [90 * n, 9, 90 * n + 200, 600]} for n in range(2)]
    answers = [json.dumps({"regions": found, "verdicts": []}) for found in (flaws[:1], flaws, [])]
    rng = np.random.default_rng(1)
    questions = [finding(render(sample_scene(rng)), "", box_format("qwen"), thorough=True) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"vlm:{folder}", device="cpu", grounder="box")


def fakexplain() -> Detector:
    """A tiny network of Qwen3-VL's architecture that gives one of three answers of FakeXplain."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.fakexplain.grammar import DIALECTS, Answer, Flaw, write
    from refiner.detectors.fakexplain.question import asking
    from refiner.detectors.reading.boxes import BoxFormat

    form, dialect = BoxFormat(), DIALECTS["paper"]
    flaws = tuple(Flaw(f"thing {n}", (0.09 * n, 0.1, 0.09 * n + 0.2, 0.6)) for n in range(2))
    said = [Answer(flaws[:1], ("light",), True), Answer(flaws, ("shape",), True), Answer((), (), False)]
    answers = [write(answer, dialect, form=form, shown=Size(96, 96)) for answer in said]
    rng = np.random.default_rng(1)
    questions = [asking(render(sample_scene(rng)), dialect, form) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"fakexplain:{folder}", device="cpu", grounder="box")


def semantic() -> Detector:
    """A tiny network of Qwen3-VL's architecture that gives one of three answers of AlignGemini's semantic branch."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.aligngemini.grammar import write
    from refiner.detectors.aligngemini.question import asking
    from refiner.detectors.fakexplain.grammar import Answer, Flaw
    from refiner.detectors.reading.boxes import BoxFormat

    form = BoxFormat()
    flaws = tuple(Flaw(f"thing {n}: odd", (0.09 * n, 0.1, 0.09 * n + 0.2, 0.6)) for n in range(2))
    said = [Answer(flaws[:1], (), True), Answer(flaws, (), True), Answer((), (), False)]
    answers = [write(answer, form=form, shown=Size(96, 96)) for answer in said]
    rng = np.random.default_rng(1)
    questions = [asking(render(sample_scene(rng)), form) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"semantic:{folder}", device="cpu", grounder="box")


def dda() -> Detector:
    with tempfile.TemporaryDirectory() as folder:
        return load_detector(f"dda:{save_tiny_expert(Path(folder))}", device="cpu")


def aligngemini() -> Detector:
    from refiner.detectors.aligngemini.detector import AlignGeminiDetector

    return AlignGeminiDetector(semantic(), dda())


def anomreason() -> Detector:
    """A tiny network of Qwen3-VL's architecture that gives one of three lists of anomalies."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.anomreason.grammar import Anomaly, write
    from refiner.detectors.anomreason.question import asking
    from refiner.detectors.chat.backend import ChatRequest
    from refiner.detectors.reading.boxes import BoxFormat

    form = BoxFormat()
    found = [Anomaly(f"thing {n}", "odd", "cannot be", 0.5, (0.09 * n, 0.1, 0.09 * n + 0.2, 0.6)) for n in range(2)]
    answers = [write(listed, form=form, shown=Size(96, 96)) for listed in (found[:1], found, [])]
    rng = np.random.default_rng(1)
    scenes = [render(sample_scene(rng)) for _ in range(6)]
    questions = [ChatRequest(user=asking(scene, "anomaly_only", None), images=(scene,)) for scene in scenes]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"anomreason:{folder},format=anomaly_only", device="cpu", grounder="box")


def anomagent() -> Detector:
    """A tiny network of Qwen3-VL's architecture; each of its answers fits all steps of the agent."""
    with tempfile.TemporaryDirectory() as folder:
        save_agent(folder)
        return load_detector(f"anomagent:{folder}", device="cpu", grounder="box")


PROMPT = "two red apples left of a cup"


def checklist() -> Detector:
    """A tiny network of Qwen3-VL's architecture that answers the statements of ``PROMPT`` in one of three ways."""
    from support.tiny_chat_models import save_teller

    from refiner.detectors.checklist.questions import asking
    from refiner.detectors.checklist.rules import parse_rules
    from refiner.detectors.vlm.questions import box_format

    statements = parse_rules(PROMPT).statements
    place = [90, 100, 290, 600]
    said = [{1: "no"}, {2: "no", 4: "no"}, {}]
    answers = [
        json.dumps(
            {"answers": [
                {"item": item, "evidence": "seen", "answer": wrong.get(item, "yes"), "bbox_2d": place}
                for item in range(1, len(statements) + 1)
            ]}
        )
        for wrong in said
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    questions = [asking(render(sample_scene(rng)), statements, box_format("qwen")) for _ in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        save_teller(folder, answers, questions)
        return load_detector(f"checklist:{folder}", device="cpu", grounder="box")


def plain() -> Detector:
    """A function that marks the darkest pixels."""

    def darkest(image: Image.Image) -> list[dict[str, Any]]:
        grey = np.asarray(image.convert("L"))
        return [{"name": "the darkest pixels", "mask": grey == grey.min(), "category": "color"}]

    return as_detector(darkest)


def classifier(kind: str) -> Detector:
    """A classifier with random weights in the layout of its paper; its heat maps become regions."""
    from support import tiny_classifiers as tiny

    family, _, variant = kind.partition("-")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.pth"
        if family == "drct":
            tiny.save_drct(file, variant)
        else:
            {"cnnspot": tiny.save_cnnspot, "npr": tiny.save_npr, "univfd": tiny.save_univfd}[family](file)
        backbone = f",backbone={tiny.save_backbone(Path(folder) / 'clip')}" if family == "univfd" else ""
        return load_detector(f"{family}:{file},regions=heatmap{backbone}", device="cpu")


def published() -> Detector:
    """A tiny network in the layout of LEGION's public weights."""
    from support.legion_folders import save_original

    with tempfile.TemporaryDirectory() as folder:
        detector: Any = load_detector(save_original(Path(folder) / "legion"), device="cpu")
    detector.model.config.max_new_tokens = 12
    return detector


DETECTORS: dict[str, Callable[[], Detector]] = {
    "scripted": scripted,
    "plain": plain,
    "vlm": vision_language,
    "fakexplain": fakexplain,
    "semantic": semantic,
    "dda": dda,
    "aligngemini": aligngemini,
    "anomreason": anomreason,
    "anomagent": anomagent,
    "checklist": checklist,
    "parts": parts,
    "text": lambda: load_detector("text", device="cpu"),
    "pal4vst": pal4vst,
    "xaigd": lambda: xaigd("dinov2"),
    "xaigd cnn": lambda: xaigd("timm"),
    **{kind: partial(classifier, kind) for kind in ("cnnspot", "npr", "univfd", "drct-convnext", "drct-clip")},
    "published": published,
    "gated": lambda: load_detector("micro:legion", device="cpu", gate="micro:probe"),
    "micro:legion": lambda: load_detector("micro:legion", device="cpu"),
    "micro:probe": lambda: load_detector("micro:probe", device="cpu"),
    "joint": lambda: load_detector("joint:micro:legion+micro:probe", device="cpu"),
    "micro:vlm": lambda: load_detector("micro:vlm", device="cpu"),
    "micro:fakexplain": lambda: load_detector("micro:fakexplain", device="cpu"),
    "micro:anomreason": lambda: load_detector("micro:anomreason", device="cpu"),
    "micro:xaigd": lambda: load_detector("micro:xaigd", device="cpu"),
    "micro:aligngemini": lambda: load_detector("micro:aligngemini", device="cpu"),
}


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Detector:
    return DETECTORS[request.param]()


class TestConformance(Conformance):
    @pytest.fixture(scope="class")
    @classmethod
    def prompt(cls, detector: Detector) -> str | None:
        return PROMPT if detector.name.startswith("checklist:") else None


def test_legion_survives_saving(tmp_path: Path) -> None:
    from refiner.detectors.legion.detector import LegionDetector

    images = pictures()
    detector = load_detector("micro", device="cpu")
    assert isinstance(detector, LegionDetector)
    detector.save_pretrained(tmp_path)
    again = load_detector(tmp_path, device="cpu")
    for image in images:
        assert_same(again(image), detector(image))
    with pytest.raises(ConfigError, match="one prompt for each"):
        detector.batch(images, ["just one"])


def test_every_bundled_detector_is_checked() -> None:
    assert set(bundled_detectors()) <= DETECTORS.keys()


@pytest.mark.parametrize("name", sorted(DETECTORS.keys() - {"scripted", "plain", "text"}))
def test_the_search_for_networks_finds_some(name: str) -> None:
    assert list(networks(DETECTORS[name]()))
