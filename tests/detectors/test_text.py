"""The detector of lettering with its real weights: rendered images, hostile sizes, the judge, and the evaluation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from support.lettering import KINDS, SIZE, WORDS, flagged, lettered

from refiner.cli.main import main
from refiner.detectors import load_detector
from refiner.detectors.text import reader as reading
from refiner.detectors.text.detector import TextDetector
from refiner.errors import ConfigError, InputError, MissingExtraError, ModelError, WeightsError
from refiner.lettering import of_steps
from refiner.pipelines.judges import judge_needs, load_judge
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.protocols import Detector

CASES = [(kind, script) for script in WORDS for kind in KINDS]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("text")


@pytest.mark.parametrize(("kind", "script"), CASES)
def test_lettering_like_in_photographs_is_told_right_from_wrong(detector: Detector, kind: str, script: str) -> None:
    shown = lettered(CASES.index((kind, script)), kind, script)
    assert flagged(detector(shown.image, shown.prompt)) == {word.upper() for word in shown.wrong}


def test_the_mask_is_on_the_wrong_word(detector: Detector) -> None:
    shown = lettered(1, "misspelt", "latin")
    (region,) = detector(shown.image, shown.prompt).regions
    assert region.box is not None
    assert region.box[3] < SIZE[1] / 2, "the first sign is in the upper half"
    assert 0.005 < region.pixels(SIZE[::-1]).mean() < 0.2


def test_a_batch_and_threads_give_the_answers_of_single_calls(detector: Detector) -> None:
    shown = [lettered(seed, "misspelt", script) for seed, script in enumerate(WORDS)]
    images, prompts = [each.image for each in shown], [each.prompt for each in shown]
    single = [detector(image, prompt).raw for image, prompt in zip(images, prompts, strict=True)]
    assert [each.raw for each in detector.batch(images[::-1], prompts[::-1])] == single[::-1]
    found: dict[int, str] = {}
    work = [
        threading.Thread(target=lambda at=at: found.update({at: detector(images[at], prompts[at]).raw}))
        for at in range(3)
    ]
    for each in work:
        each.start()
    for each in work:
        each.join()
    assert [found[at] for at in range(3)] == single


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (5, 5), (700, 6), (6, 700), (33, 31)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_images_of_any_shape_and_mode_are_read(detector: Detector, size: tuple[int, int], mode: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    analysis = detector(Image.fromarray(noise).convert(mode), 'a sign that says "OPEN"')
    assert analysis.size == size[::-1]
    assert [each.kind for each in of_steps(analysis.trace)] in (["missing"], ["unreadable"])


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_photographs_without_lettering_have_no_flaw(detector: Detector, name: str) -> None:
    photo = Image.fromarray(load_sample_image(name))
    assert detector(photo).regions == ()
    (missing,) = detector(photo, 'a wall with the words "OPEN"').regions
    assert not missing.placed


@pytest.mark.parametrize("script", WORDS)
def test_lettering_upside_down_counts_as_unreadable_or_missing(detector: Detector, script: str) -> None:
    shown = lettered(3, "right", script)
    analysis = detector(shown.image.rotate(180), shown.prompt)
    assert {each.kind for each in of_steps(analysis.trace)} <= {"unreadable", "missing"}
    assert len(analysis.regions) == len(of_steps(analysis.trace))


def test_a_script_that_cannot_be_read_is_refused_before_the_image_is_read() -> None:
    class Unused:
        name = "unused"

        def read(self, image: Image.Image) -> list[reading.Line]:
            raise AssertionError

    with pytest.raises(InputError, match="Cyrillic"):
        TextDetector(Unused())(Image.new("RGB", SIZE), 'a sign that says "ПРИВЕТ"')


def test_a_model_is_no_part_of_its_id() -> None:
    with pytest.raises(ConfigError, match="write text"):
        load_detector("text:some/model")
    assert judge_needs("text") == judge_needs("text:") == []


def test_what_is_not_installed_or_damaged_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_PACKAGES", ("rapidocr", "no_such_package"))
        with pytest.raises(MissingExtraError, match=r"\.\[text\]"):
            load_detector("text")
    monkeypatch.setitem(reading._WEIGHTS, "Rec.model_path", "lost.onnx")
    with pytest.raises(WeightsError, match=r"lost\.onnx"):
        load_detector("text")
    assert not reading.is_installed()


def test_a_failure_of_the_networks_is_one_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_image: object) -> None:
        raise RuntimeError("out of\nmemory")

    detector = load_detector("text")
    monkeypatch.setattr(detector.reader, "_engine", broken)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="out of memory"):
        detector(Image.new("RGB", SIZE), '"OPEN"')


def test_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for told, threads in {"1": 1, "3": 3, "200": 4, "": 4, "many": 4, "0": 4}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert reading._threads() == threads


def test_nothing_is_imported_before_the_first_image_and_nothing_is_downloaded() -> None:
    code = (
        "import sys, socket, refiner; from refiner.detectors import load_detector; d = load_detector('text');"
        "heavy = {'onnxruntime', 'cv2', 'rapidocr', 'torch'} & set(sys.modules); assert not heavy, heavy;"
        "from PIL import Image;"
        "\ndef refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse;"
        "assert d(Image.new('RGB', (64, 64)), '\"OPEN\"').trace[0].reason == 'missing';"
        "assert 'onnxruntime' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert socket.socket.connect  # this process is untouched


def test_the_judge_scores_the_share_of_wanted_words(detector: Detector) -> None:
    right, wrong = lettered(0, "right", "latin"), lettered(1, "misspelt", "chinese")
    judge = load_judge("text")
    assert judge.score([right.image, wrong.image], [right.prompt, wrong.prompt]) == [1.0, 0.5]
    with pytest.raises(InputError, match="asks for no words"):
        judge.score([right.image], ["a cat"])


def test_prompts_for_a_repair_name_the_wanted_words_and_negative_ones_do_not(detector: Detector) -> None:
    shown = lettered(1, "misspelt", "latin")
    (region,) = detector(shown.image, shown.prompt).regions
    (wanted,) = shown.wrong
    revision = TemplateReviser().for_region(shown.prompt, region)
    assert f'correctly spelled text "{wanted}"' in revision.prompt
    assert "reads" in revision.negative_prompt
    assert wanted not in revision.negative_prompt


def test_it_works_beside_another_detector() -> None:
    shown = lettered(1, "misspelt", "latin")
    both = load_detector("joint:text+text")
    assert flagged(both(shown.image, shown.prompt)) == shown.wrong
    assert len(both(shown.image, shown.prompt).regions) == 1


def test_the_evaluation_reports_word_accuracy_and_edit_distance(tmp_path: Path) -> None:
    shown = [lettered(seed, kind, "latin") for seed, kind in enumerate(("right", "misspelt", "missing"))]
    shown += [lettered(seed, "missing", script) for seed, script in enumerate(("chinese", "japanese"))]
    (tmp_path / "pictures").mkdir()
    prompts = {f"{at}.png": each.prompt for at, each in enumerate(shown)} | {
        "none.png": "a cat",
        "strange.png": '"ПРИВЕТ"',
    }
    for name in prompts:
        image = shown[int(name[0])].image if name[0].isdigit() else Image.new("RGB", (64, 64))
        image.save(tmp_path / "pictures" / name)
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    data = ("--data", str(tmp_path / "pictures"), "--prompts", str(tmp_path / "prompts.json"))
    assert main(["evaluate", "text", *data, "--out", str(tmp_path / "out")]) in (0, 1)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    figures = table["figures"]
    assert (figures["words"], figures["read"], figures["misspelt"], figures["missing"]) == (10, 6, 1, 3)
    assert figures["word_accuracy"] == pytest.approx(6 / 10)
    assert figures["all_read"] == pytest.approx(1 / 5)
    scripts = table["categories"]
    assert list(scripts) == ["Latin", "Chinese", "Japanese"]
    assert [row["words"] for row in scripts.values()] == [6, 2, 2]
    assert [row["word_accuracy"] for row in scripts.values()] == pytest.approx([4 / 6, 1 / 2, 1 / 2])
    assert 1 / 6 < scripts["Latin"]["edit_distance"] < 2 / 6
    assert scripts["Chinese"]["edit_distance"] == 1 / 2
    for name in ("word_accuracy", "edit_distance"):
        own = sum(row[name] * row["words"] for row in scripts.values())
        assert figures[name] == pytest.approx(own / figures["words"])
    assert table["coverage"]["failed"] == 1
