"""The example of the demo's first screen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from refiner.demo.example import FOLDER, read_example, write_example
from refiner.demo.examples import PROMPTS


def test_the_example_is_small_real_and_better_than_its_start():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 150_000
    example = read_example()
    start, best = example.attempts[0], example.attempts[example.best]
    assert example.prompt in PROMPTS
    assert start.image != best.image
    assert start.analysis is not None
    assert best.analysis is not None
    assert start.analysis.burden > best.analysis.burden
    assert [score.name for score in start.scores] == [score.name for score in best.scores]


def test_its_images_are_labelled():
    for path in FOLDER.glob("*.png"):
        assert "trainedAlgorithmicMedia" in path.read_bytes().decode("latin1")


BUILD = """
import sys
from refiner.demo.app import build
from refiner.demo.settings import DemoSettings
from refiner.demo.studio import Studio
app = build(Studio(DemoSettings(models={"m": sys.argv[1]}, detectors={"d": "d"})))
print(*(part["props"].get("value") for part in app.config["components"] if part["type"] == "html"))
"""


@pytest.mark.parametrize(("model", "shown"), [("micro", True), ("/models/own", False)])
def test_it_is_on_the_first_screen_of_a_demo_with_its_models(model, shown):
    pytest.importorskip("gradio")
    page = subprocess.run([sys.executable, "-P", "-c", BUILD, model], check=True, capture_output=True, text=True).stdout
    for part in ("An example, refined earlier", "rf-compare", "rf-attempt"):
        assert (part in page) == shown


def test_what_is_written_is_read(tmp_path):
    example = read_example()
    write_example(example, tmp_path / "example")
    again = read_example(tmp_path / "example")
    assert (again.prompt, again.best, again.stop) == (example.prompt, example.best, example.stop)
    for one, other in zip(example.attempts, again.attempts, strict=True):
        assert one.image == other.image
        assert [region.name for region in one.analysis.regions] == [region.name for region in other.analysis.regions]
        assert (one.scores, one.seed, one.reason) == (other.scores, other.seed, other.reason)
