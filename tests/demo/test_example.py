"""The example of the demo's first screen."""

from __future__ import annotations

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


def test_what_is_written_is_read(tmp_path):
    example = read_example()
    write_example(example, tmp_path / "example")
    again = read_example(tmp_path / "example")
    assert (again.prompt, again.best, again.stop) == (example.prompt, example.best, example.stop)
    for one, other in zip(example.attempts, again.attempts, strict=True):
        assert one.image == other.image
        assert [region.name for region in one.analysis.regions] == [region.name for region in other.analysis.regions]
        assert (one.scores, one.seed, one.reason) == (other.scores, other.seed, other.reason)
