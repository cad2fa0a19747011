"""The demo as ``refiner demo`` starts it: the bundled models, real jobs, and many of them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

pytest.importorskip("gradio")
pytest.importorskip("torch")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from support.demo_server import Served, opened

from refiner.demo.examples import PROMPTS, write_pictures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FIRST = "micro:legion"
"""The default detector; it finds the flaw of each example image."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[Served]:
    with opened([], tmp_path_factory.mktemp("demo"), []) as running:
        yield running


@pytest.fixture
def client(demo, tmp_path) -> Iterator[Client]:
    opened = Client(demo.address, verbose=False, download_files=tmp_path / "downloads", analytics_enabled=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def flawed(tmp_path_factory) -> list[str]:
    """Images of ``PROMPTS`` in their order, each with a drawn flaw."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def test_a_flawed_picture_is_refined_by_the_bundled_models(client, flawed):
    status, before_after, plots, timeline, summary, picture, record, report = client.predict(
        prompt=PROMPTS[0], image=handle_file(flawed[0]), rounds=1, api_name="/refine"
    )
    assert "was kept" in status
    assert before_after.count("data:image/webp") == 2
    assert "<svg" in plots
    assert [attempt["action"] for attempt in summary["attempts"]] in (["given", "inpaint"], ["given", "regenerate"])
    assert timeline.count('<li class="rf-attempt') == 2
    region = summary["attempts"][0]["analysis"]["regions"][0]
    assert region["explanation"] in timeline
    assert 0 < region["severity"] <= 1
    run = json.loads(Path(record).read_text())
    assert [attempt["seed"] for attempt in run["attempts"]] == [attempt["seed"] for attempt in summary["attempts"]]
    assert run["config"] == {
        "model": "micro", "detector": FIRST, "strategy": "auto", "rounds": 1, "seed": 5, "own_picture": True,
    }  # fmt: skip
    with Image.open(picture) as kept, Image.open(flawed[0]) as given:
        assert kept.size == given.size
        assert (ImageChops.difference(kept, given).getbbox() is None) == (summary["best"] == 0)
    assert "<html" in Path(report).read_text()


def test_all_bundled_detectors_answer(client, flawed):
    status, shown, summary = client.predict(image=handle_file(flawed[0]), api_name="/detect")
    assert "8 of 8 detectors analysed the image (96 x 96 pixels)" in status
    assert shown.count("<article") == 8
    bundled = ("aligngemini", "anomreason", "fakexplain", "legion", "probe", "vlm", "xaigd")
    assert set(summary) == {*(f"micro:{name}" for name in bundled), "text"}
    assert all(0 <= said["artifact_ratio"] <= 1 for said in summary.values())
    assert summary[FIRST]["regions"]


def test_the_prompt_of_an_image_reaches_the_detectors(client, flawed):
    prompt = 'a sign that says "OPEN"'
    options = {"image": handle_file(flawed[0]), "detectors": ["text"], "api_name": "/detect"}
    _, shown, summary = client.predict(prompt=prompt, **options)
    assert [region["name"] for region in summary["text"]["regions"]] == ['the text "OPEN"']
    assert "the prompt asks for OPEN" in shown
    with pytest.raises(AppError, match="at most"):
        client.predict(prompt="x" * 5000, **options)


def test_twenty_jobs_of_the_bundled_models_end_or_are_refused_in_bounded_memory(client, demo, flawed):
    """The peak memory comes from the kernel, so that no short peak is missed."""
    sent = [
        client.submit(
            prompt=PROMPTS[number % 3], image=handle_file(flawed[number % 3]), rounds=1, seed=number,
            api_name="/refine",
        )
        for number in range(20)
    ]  # fmt: skip
    ended, refused = [], []
    for job in sent:
        try:
            ended.append(job.result(timeout=500))
        except AppError as error:
            refused.append(str(error))
    assert len(ended) >= 18
    assert all("running or waiting: try again in a few minutes" in said for said in refused)
    for status, *_, summary, picture, record, _ in ended:
        assert re.search("was kept: .* Ended because (all rounds were used|no flaws are left)", status)
        assert json.loads(Path(record).read_text())["picture"]
        assert len(summary["attempts"]) <= 2
        assert Path(picture).stat().st_size
    print(f"{len(ended)} ended, {len(refused)} refused, at most {demo.peak_memory() / 2**30:.2f} GiB")
    assert demo.peak_memory() < 4 * 2**30
