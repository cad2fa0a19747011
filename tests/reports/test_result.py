import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from refiner.errors import ConfigError, OutputError
from refiner.images import XMP
from refiner.masks import box_of
from refiner.reports.overlays import KIND_COLOURS, badge_points, before_after, flaw_words, marks, overlay, sheet
from refiner.reports.result import save_result
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, RefinementResult, Region, Score, Size, Step

NASTY = "</style><script>alert(1)</script> & \"quoted\" '日本語' {braces} %s \x07"


def picture(seed, size=(96, 80)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def region(x=10, y=12, masked=True, **changes):
    mask = np.zeros((80, 96), dtype=bool)
    mask[y : y + 20, x : x + 24] = True
    fields = {"name": "the hand", "category": Category.ANATOMY, "explanation": "six fingers", "severity": 0.7}
    return Region(mask=mask if masked else None, box=(x, y, x + 24, y + 20), **fields | changes)


def attempt(index, *regions, **changes):
    fields = {
        "index": index,
        "action": "generate" if index == 0 else "inpaint",
        "prompt": "a hand",
        "seed": index,
        "image": picture(index),
        "analysis": Analysis(size=Size(80, 96), detector="d", regions=regions, fake_probability=0.9),
        "scores": (Score(name="hps", value=0.2 + index / 100),),
        "accepted": True,
        "reason": "better",
    }
    return Attempt(**fields | changes)


def result(*attempts, best=0, prompt="a hand", stop="rounds"):
    return RefinementResult(prompt=prompt, attempts=attempts, best=best, stop=stop)


def usual():
    failed = attempt(2, image=None, analysis=None, scores=(), accepted=False, error="The painter returned black.")
    return result(attempt(0, region(), region(x=60, masked=False)), attempt(1), failed, best=1)


@pytest.mark.parametrize("verified", [True, False])
def test_a_run_without_verification_says_so(tmp_path, verified):
    why = "worse for the detector: burden 0.700 -> 1.400"
    last = attempt(1, region(), region(x=60), reason=why if verified else f"kept without verification; {why}")
    made = result(attempt(0, region()), last, best=1)
    assert made.verified is verified
    save_result(made, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("Nothing was verified: the last image was kept, whether it is better or not." in page) is not verified
    assert ("the line follows the best so far." in page) is verified
    assert "orse for the detector: burden 0.700 -&gt; 1.400" in page
    assert json.loads((tmp_path / "out" / "run.json").read_text())["verified"] is verified


def test_a_result_is_saved_whole(tmp_path):
    files = save_result(usual(), tmp_path / "out", {"rounds": 3})
    assert set(files) == {
        *("start", "best", "before_after", "sheet", "report", "run"),
        *("attempt-00", "attempt-01", "regions-00", "regions-01"),
    }
    assert sorted(files.values()) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {name: str(tmp_path / "out" / file) for name, file in record["files"].items()} == files
    assert record["config"] == {"rounds": 3}
    for name, image in [("start", 0), ("best", 1), ("attempt-00", 0), ("attempt-01", 1)]:
        with Image.open(files[name]) as saved:
            assert np.array_equal(np.asarray(saved), np.asarray(picture(image)))


def test_the_method_of_a_result_does_the_same(tmp_path):
    assert usual().save(str(tmp_path)).keys() == save_result(usual(), tmp_path).keys()


def test_painted_pictures_are_labelled_and_given_ones_are_not(tmp_path):
    files = save_result(result(attempt(0, region(), action="given"), attempt(1), best=1), tmp_path)
    with Image.open(files["start"]) as given, Image.open(files["best"]) as mended:
        assert XMP not in given.text
        assert "compositeWithTrainedAlgorithmicMedia" in mended.text[XMP]
        record = json.loads(mended.text["refiner"])
        assert record["attempts"][record["attempt"]]["seed"] == 1
    files = save_result(usual(), tmp_path)
    with Image.open(files["start"]) as made, Image.open(files["before_after"]) as pair:
        assert "/trainedAlgorithmicMedia" in made.text[XMP]
        assert XMP in pair.text


def test_a_later_result_replaces_an_earlier_one(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "attempt-final.png").write_text("mine too")
    save_result(result(*(attempt(index) for index in range(5))), tmp_path)
    files = save_result(result(attempt(0, image=None, analysis=None, accepted=False)), tmp_path)
    assert set(files) == {"sheet", "report", "run"}
    left = {str(path) for path in tmp_path.iterdir()} - set(files.values())
    assert left == {str(tmp_path / "notes.txt"), str(tmp_path / "attempt-final.png")}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        save_result(usual(), tmp_path / "file")


def test_settings_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="plain JSON"):
        save_result(usual(), tmp_path, {"value": object()})
    assert not list(tmp_path.iterdir())


class Page(HTMLParser):
    """The page's tags, text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.links = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(what, folder):
    with open(save_result(what, folder)["report"], encoding="utf-8") as file:
        page = Page(file.read())
    assert page.open == []
    return page


def test_the_page_needs_nothing_else(tmp_path):
    page = read_page(usual(), tmp_path)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("article") == 3
    assert page.tags.count("svg") == 3
    for words in ("a hand", "the hand", "six fingers", "anatomy", "The painter returned black.", "kept", "rejected"):
        assert words in page.text


def test_text_from_models_and_people_is_only_text(tmp_path):
    words = {"name": NASTY, "location": NASTY, "explanation": NASTY, "reasoning": NASTY}
    nasty = attempt(
        0, region(**words), prompt=NASTY, negative_prompt=NASTY, reason=NASTY, error=NASTY,
        scores=(Score(name=NASTY, value=1.0),),
    )  # fmt: skip
    other = attempt(1, prompt="revised" + NASTY)
    page = read_page(result(nasty, other, prompt=NASTY), tmp_path)
    assert "script" not in page.tags
    assert page.text.count(NASTY) >= 8


def test_the_steps_of_the_detector_are_told_as_text(tmp_path):
    trace = tuple(
        Step(stage=stage, subject=NASTY, outcome=outcome, text=NASTY, reason=why)
        for stage, outcome, why in (("Finder", "found", NASTY), ("Finder", "found", ""), (NASTY, "rejected", "no"))
    )
    told = Analysis(size=Size(80, 96), detector="d", regions=(region(),), trace=trace)
    page = read_page(result(attempt(0, analysis=told), attempt(1)), tmp_path)
    assert "How it was found (2 found, 1 rejected)" in page.text
    assert page.text.count("How it was found") == 1, "the other attempt has no trace"
    assert page.text.count(NASTY) == 8
    assert page.tags.count("h4") == 2, "the steps of a stage stand together"
    assert page.tags.count("script") == 0


@pytest.mark.parametrize(
    "what",
    [
        result(attempt(0)),
        result(attempt(0, image=None, analysis=None, scores=(), accepted=False), stop="unreadable"),
        result(attempt(0, analysis=None, error="unreadable", accepted=False)),
        result(attempt(0, image=None, analysis=None), attempt(1), best=1),
        result(*(attempt(index, region(x=index)) for index in range(12)), best=11),
        result(attempt(0, *(region(x=x, y=y) for x in (0, 3, 70) for y in (0, 3, 58)))),
        result(attempt(0), prompt="word " * 200),
        result(attempt(0), prompt="w" * 2000),
        result(attempt(0, scores=(Score(name="hps", value=float("nan")),))),
    ],
)
def test_unusual_results_are_saved_too(tmp_path, what):
    files = save_result(what, tmp_path)
    assert ("best" in files) == (what.attempts[what.best].image is not None)
    assert read_page(what, tmp_path).tags.count("article") == len(what.attempts)


@pytest.mark.parametrize("size", [(96, 96), (1024, 512), (17, 130)])
def test_marks_stay_on_their_regions(size):
    """Far from region and number the picture is as it was; on the region's edge it is not."""
    image = Image.new("RGB", size, "gray")
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[2:6, 3:9] = True
    spot = Region(mask=mask, box=(3, 2, 9, 6), name="spot", category=Category.COLOR)
    marked = overlay(image, Analysis(size=Size(size[1], size[0]), detector="d", regions=(spot,)))
    assert max(marked.size) >= 480
    changed = np.any(np.asarray(marked) != 128, axis=2)
    factor = marked.width / size[0]
    assert changed[int(4 * factor), int(3 * factor) : int(6 * factor)].any()
    assert not changed[int(6 * factor) + 60 :].any()


def test_a_region_whose_place_is_not_known_is_listed_and_not_drawn(tmp_path):
    unplaced = Region(mask=None, box=None, name="the odd light", category=Category.OPTICS)
    analysis = Analysis(size=Size(80, 96), regions=(unplaced,), detector="d")
    assert marks(analysis, (96, 80)).getbbox() is None
    assert flaw_words(analysis) == "1 flaw, place not known"
    save_result(result(attempt(0, region(), unplaced)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "the odd light" in page
    assert "place not known" in page


def test_pictures_of_several_attempts_have_room_for_each():
    assert before_after(usual()).width > 2 * 480
    assert before_after(result(attempt(0, image=None, analysis=None))) is None
    few, many = sheet(usual()), sheet(result(*(attempt(index) for index in range(9))))
    assert many.height > 2 * few.height
    assert marks(usual().attempts[0].analysis, (480, 400)).size == (480, 400)


@pytest.mark.parametrize("ground", ["#ffffff", "#000000", "#808080", *KIND_COLOURS.values()])
@pytest.mark.parametrize("category", [Category.ANATOMY, Category.COLOR, Category.OPTICS])
def test_an_outline_contrasts_with_any_image(ground, category):
    mask = np.zeros((96, 96), dtype=bool)
    mask[30:60, 30:60] = True
    spot = Region(mask=mask, box=(30, 30, 60, 60), name="spot", category=category)
    shown = overlay(Image.new("RGB", (96, 96), ground), Analysis(size=Size(96, 96), detector="d", regions=(spot,)))
    row = np.asarray(shown.convert("L")).astype(int)[shown.height // 2, : shown.width // 2]
    assert row.max() > 230
    assert row.min() < 40


def test_the_number_of_a_region_lies_on_it_and_beside_the_others():
    corner = np.add.outer(np.arange(96), np.arange(96)) > 150  # far from a corner of its box
    ring = np.hypot(*(np.indices((96, 96)) - 30)) < 12
    masks = [corner, ring, ring]
    spots = tuple(Region(mask=each, box=box_of(each), name="spot", category=Category.COLOR) for each in masks)
    for spot, mask in zip(spots, masks, strict=True):
        for x, y in badge_points(spot, Size(96, 96)):
            assert mask[int(96 * y), int(96 * x)]
    assert badge_points(replace(spots[0], mask=None, box=None), Size(96, 96)) == []
