"""The demo in Debian's Chromium: clicks, keys, and screenshots."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, expect
from support.browsing import MARKS, Guest, launched
from support.demo_server import HOSTILE, Served, served

from refiner.micro.examples import EXAMPLES

pytestmark = MARKS


@pytest.fixture(scope="module")
def demo(model, write_plugin, tmp_path_factory) -> Iterator[Served]:
    with served(model, write_plugin, tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as opened:
        yield opened


class Visitor(Guest):
    """A browser page with the demo."""

    def __init__(self, browser: Browser, demo: Served, width: int = 1280, dark: bool = False) -> None:
        super().__init__(browser, demo.address, width, dark)
        expect(self.page.get_by_role("button", name="Refine", exact=True)).to_be_enabled()

    def refine(self, prompt: str) -> None:
        self.page.get_by_label("Prompt", exact=True).fill(prompt)
        self.page.get_by_role("button", name="Refine", exact=True).click()

    def told(self, text: str | re.Pattern[str], where: str = "refine") -> None:
        expect(self.page.locator(f"#rf-{where}-status .rf-status")).to_contain_text(text)


@pytest.fixture
def visit(browser, demo):
    """Open the demo; the pages are checked and closed at the end."""
    demo.allow(10**9)
    visitors: list[Visitor] = []

    def come(width: int = 1280, dark: bool = False) -> Visitor:
        visitors.append(Visitor(browser, demo, width, dark))
        return visitors[-1]

    yield come
    demo.allow(10**9)
    for visitor in visitors:
        visitor.leave()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_refining_by_hand(visit, width, dark, tmp_path):
    visitor = visit(width, dark)
    page = visitor.page
    page.get_by_label("number input for Rounds").fill("2")
    visitor.refine(f"a red hand {HOSTILE}")
    visitor.told("was kept")
    cards = page.locator(".rf-attempt")
    assert cards.count() >= 2
    expect(page.locator(".rf-attempt.rf-kept")).to_have_count(1)
    expect(cards.first.locator(".rf-told")).to_contain_text("a patch too red " + HOSTILE)
    expect(page.locator("#rf-refine-plots svg[role=img]").first).to_be_visible()

    region = cards.first.locator(".rf-region").first
    tip = cards.first.locator(".rf-tip").first
    expect(tip).to_be_hidden()
    region.hover()
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("severity")
    page.mouse.move(1, 1)
    expect(tip).to_be_hidden()
    region.focus()
    page.keyboard.press("Enter")
    expect(region).to_have_attribute("aria-pressed", "true")
    expect(tip).to_be_visible()
    visitor.shoot(f"refine-{width}")
    region.click()
    expect(region).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Show detected regions").uncheck()
    expect(region).to_be_hidden()

    with page.expect_download() as coming:
        page.get_by_role("button", name="Run record").click()
    assert HOSTILE in coming.value.path().read_text().replace('\\"', '"')
    with page.expect_download() as coming:
        page.get_by_role("button", name="Image", exact=True).click()
    coming.value.save_as(tmp_path / "best.png")
    with Image.open(tmp_path / "best.png") as picture:
        assert picture.info["Source"] == "AI-generated"
        assert picture.size == (64, 64)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_picking_another_candidate(visit, width, dark):
    visitor = visit(width, dark)
    page = visitor.page
    expect(page.locator("#rf-picks")).to_be_hidden()
    page.get_by_label("Inpaint flaws").check()
    page.get_by_label("number input for Rounds").fill("2")
    visitor.refine("a red hand")
    visitor.told("was kept")
    picks = page.locator("#rf-picks")
    expect(picks).to_be_visible()
    options = picks.locator(".rf-options figure")
    expect(options.first).to_contain_text("now")
    expect(picks.get_by_role("radio")).to_have_count(options.count() - picks.locator(".rf-options").count())
    attempts = page.locator(".rf-attempt").count()
    use = page.get_by_role("button", name="Use it")
    use.click()
    visitor.told("Choose a candidate first")
    picks.get_by_role("radio").last.check()
    use.click()
    expect(page.locator(".rf-attempt")).to_have_count(attempts + 1)
    expect(page.locator(".rf-attempt").last).to_contain_text(re.compile("by hand"))
    expect(page.locator(".rf-attempt.rf-kept")).to_have_count(1)
    expect(picks.locator(".rf-chosen").last).to_contain_text("in use")
    visitor.shoot(f"candidates-{width}")
    visitor.refine("a green clock")
    expect(picks).to_be_hidden()
    visitor.told("was kept")


def test_the_slider_moves_by_mouse_and_keys(visit):
    visitor = visit()
    visitor.refine("a red hand")
    visitor.told("was kept")
    page = visitor.page
    figure = page.locator(".rf-compare")
    handle = figure.get_by_role("slider")
    expect(figure.get_by_role("img")).to_have_count(2)
    box = figure.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 5, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    moved = int(handle.input_value())
    assert moved < 35
    expect(figure).to_have_attribute("style", re.compile(rf"--cut: {moved}%"))
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(handle).to_have_value(str(moved + 1))
    expect(figure).to_have_attribute("style", re.compile(rf"--cut: {moved + 1}%"))


def test_stopping_keeps_the_best_so_far(visit, demo):
    visitor = visit()
    demo.allow(demo.seen() + 1)
    visitor.refine("a red hand")
    expect(visitor.page.locator(".rf-attempt")).to_have_count(1)
    visitor.page.locator("#rf-stop").click()
    demo.allow(10**9)
    visitor.told("Ended because you stopped it")
    expect(visitor.page.locator(".rf-attempt.rf-kept")).to_have_count(1)
    expect(visitor.page.locator("#rf-refine")).to_be_enabled()
    expect(visitor.page.locator("#rf-stop")).to_be_disabled()
    with visitor.page.expect_download() as coming:
        visitor.page.get_by_role("button", name="Report").click()
    assert "Stopped by the user" in coming.value.path().read_text()


def test_results_stay_until_new_ones_come(visit, demo):
    visitor = visit()
    page = visitor.page
    visitor.refine("a red hand")
    visitor.told("was kept")
    shown = page.locator(".rf-compare img").first.get_attribute("src")
    report = page.get_by_role("button", name="Report")

    def unchanged() -> None:
        assert page.locator(".rf-compare img").first.get_attribute("src") == shown
        expect(report).to_be_enabled()

    visitor.refine("  ")
    visitor.told("Write a prompt first")
    unchanged()
    demo.allow(demo.seen())
    visitor.refine("a green clock")
    visitor.told("Attempt 0")
    unchanged()
    demo.allow(demo.seen() + 1)
    expect(page.locator(".rf-attempt")).to_have_count(1)
    expect(page.locator(".rf-compare img").first).not_to_have_attribute("src", str(shown))
    expect(report).to_be_disabled()
    demo.allow(10**9)
    visitor.told("was kept")
    expect(report).to_be_enabled()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_phone_follows_a_run_and_a_desk_stays(visit, demo, width):
    visitor = visit(width)
    page = visitor.page
    demo.allow(demo.seen())
    visitor.refine("a red hand")
    visitor.told("Attempt 0")
    if width < 720:
        expect(page.locator("#rf-refine-status")).to_be_in_viewport(ratio=1)
    demo.allow(10**9)
    visitor.told("was kept")
    expect(page.locator(".rf-compare")).to_be_in_viewport(ratio=0.9 if width < 720 else 0.1)
    assert (page.evaluate("scrollY") > 0) == (width < 720)


def test_two_users_at_once_get_their_own(visit, demo):
    """A third user waits, is told so, and can stop waiting."""
    first, second, third = visit(), visit(), visit()
    demo.allow(demo.seen())
    for visitor, prompt in ((first, "a red hand"), (second, "a green clock"), (third, "a blue cat")):
        visitor.refine(prompt)
        expect(visitor.page.locator("#rf-refine")).to_be_disabled()
        visitor.told(re.compile("Attempt 0" if visitor is not third else "Waiting: 1 job ahead"))
    third.page.locator("#rf-stop").click()
    third.told("Stopped before there was an image")
    demo.allow(10**9)
    shown = []
    for visitor in (first, second):
        visitor.told("was kept")
        with visitor.page.expect_download() as coming:
            visitor.page.get_by_role("button", name="Run record").click()
        shown.append(coming.value.path().read_text())
    assert '"prompt": "a red hand"' in shown[0]
    assert "green clock" not in shown[0]
    assert '"prompt": "a green clock"' in shown[1]
    assert "red hand" not in shown[1]


def test_a_user_who_leaves_frees_the_place(visit, demo, browser):
    leaving = [Visitor(browser, demo) for _ in range(2)]
    demo.allow(demo.seen())
    for visitor in leaving:
        visitor.refine("a red hand")
        visitor.told("Attempt 0")
        visitor.page.context.close()
    demo.allow(10**9)
    staying = visit()
    staying.refine("a green clock")
    staying.told("was kept")


@pytest.fixture
def photo(tmp_path) -> Path:
    """An image with a hostile file name."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    path = tmp_path / "<img src=x onerror=window.harmed=1> ${7}.png"
    Image.fromarray(pixels).save(path)
    return path


def test_refining_a_picture_of_ones_own(visit, photo):
    visitor = visit()
    page = visitor.page
    page.get_by_role("button", name="Start from your own image").click()
    page.locator("#rf-refine-image input[type=file]").set_input_files(photo)
    expect(page.locator("#rf-refine-image img")).to_be_visible()
    visitor.refine("a red hand")
    visitor.told("was kept")
    expect(page.locator(".rf-attempt").first).to_contain_text("Your image")


def test_an_example_painted_anew(visit):
    """Only by clicks: choose an example and a strategy, and refine."""
    visitor = visit()
    page = visitor.page
    prompt, seed = EXAMPLES[2]
    page.get_by_text(prompt[:20]).first.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(prompt)
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))
    page.get_by_label("Regenerate").check()
    page.get_by_role("button", name="Refine", exact=True).click()
    visitor.told("was kept")
    expect(page.locator(".rf-attempt").nth(1)).to_contain_text("Regenerated")
    expect(page.locator(".rf-attempts")).not_to_contain_text("Inpainted")


def test_a_pasted_picture_is_looked_at(visit):
    visitor = visit()
    page = visitor.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name="Detect").click()
    page.evaluate("""async () => {
        const canvas = new OffscreenCanvas(70, 50);
        canvas.getContext("2d").fillRect(10, 10, 20, 20);
        await navigator.clipboard.write([new ClipboardItem({"image/png": await canvas.convertToBlob()})]);
    }""")
    page.locator("#rf-detect-image").get_by_label("Paste from clipboard").click()
    expect(page.locator("#rf-detect-image img")).to_be_visible()
    page.get_by_role("button", name="Analyse", exact=True).click()
    visitor.told("analysed the image (70 x 50 pixels)", "detect")


def test_errors_are_told_in_words_and_as_text(visit):
    visitor = visit()
    visitor.refine("   ")
    visitor.told("Write a prompt first")
    expect(visitor.page.get_by_text("Write a prompt first")).to_have_count(1)
    expect(visitor.page.locator("#rf-refine")).to_be_enabled()


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (390, False)])
def test_detecting_side_by_side(visit, photo, width, dark):
    visitor = visit(width, dark)
    page = visitor.page
    page.get_by_role("tab", name="Detect").click()
    page.get_by_role("button", name="Analyse", exact=True).click()
    visitor.told("Upload an image first", "detect")
    page.locator("#rf-detect-image input[type=file]").set_input_files(photo)
    expect(page.locator("#rf-detect-image img")).to_be_visible()
    page.get_by_role("button", name="Analyse", exact=True).click()
    visitor.told("2 of 2 detectors analysed the image (120 x 90 pixels)", "detect")
    cards = page.locator(".rf-answer")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("patches")
    expect(cards.first).to_contain_text("Probability that it is generated: 75 %")
    expect(cards.first).to_contain_text(HOSTILE)
    heat = page.locator(".rf-heat")
    expect(heat).to_have_count(1)
    expect(heat).to_be_hidden()
    page.get_by_label("Show heat map").check()
    expect(heat).to_be_visible()
    cards.first.locator(".rf-region").first.hover()
    expect(cards.first.locator(".rf-tip")).to_be_visible()
    expect(cards.last.locator(".rf-tip")).to_be_hidden()
    visitor.shoot(f"detect-{width}")
    assert "/patches" not in page.locator("#rf-detect-answers").inner_text()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_judging_what_was_detected(visit, photo, width, dark):
    visitor = visit(width, dark)
    page = visitor.page
    page.get_by_role("tab", name="Verify").click()
    expect(page.locator("#rf-verify-picture")).to_contain_text("analyse one in the tab Detect")
    expect(page.locator("#rf-verify-accept")).to_be_hidden()
    page.get_by_role("tab", name="Detect").click()
    page.locator("#rf-detect-image input[type=file]").set_input_files(photo)
    expect(page.locator("#rf-detect-image img")).to_be_visible()
    page.get_by_role("button", name="Analyse", exact=True).click()
    visitor.told("2 of 2 detectors analysed the image", "detect")
    page.keyboard.press("a")
    page.get_by_role("tab", name="Verify").click()
    progress = page.locator("#rf-verify-status strong")
    expect(progress).to_have_text("0 of 1")  # both detectors say the same
    expect(page.locator(".rf-claim")).to_contain_text("a patch too red " + HOSTILE)
    expect(page.locator(".rf-judged path.rf-outline")).to_be_visible()
    visitor.shoot(f"demo-verify-{width}")
    page.locator("#rf-verify-accept").click()
    expect(progress).to_have_text("1 of 1")
    with page.expect_download() as coming:
        page.locator("#rf-download-accepted").click()
    assert coming.value.path().read_bytes()[:2] == b"PK"
    page.keyboard.press("z")
    expect(progress).to_have_text("0 of 1")
    page.keyboard.press("r")
    expect(page.locator(".rf-finished")).to_contain_text("0 accepted, 1 rejected")
    expect(page.locator("#rf-download-accepted")).to_be_hidden()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (768, False), (390, True)])
def test_ranking_models_and_pictures(visit, photo, tmp_path, width, dark):
    visitor = visit(width, dark)
    page = visitor.page
    page.get_by_role("tab", name="Evaluate").click()
    page.get_by_label("Prompts, one per line").fill("a red hand\na green clock")
    page.get_by_role("checkbox", name="4 steps").uncheck()
    page.get_by_role("button", name="Rank", exact=True).click()
    visitor.told("Choose at least two generators", "rank")
    page.get_by_role("button", name="Your own images").click()
    other = tmp_path / "b.png"
    Image.new("RGB", (64, 64), (30, 200, 30)).save(other)
    page.locator("#rf-pictures-A input[type=file]").set_input_files([photo, other])
    expect(page.locator("#rf-pictures-A tr")).to_have_count(2)
    page.get_by_label("Name A").fill("my own")
    expect(page.get_by_label("Name A")).to_have_value("my own")
    page.get_by_role("button", name="Rank", exact=True).click()
    visitor.told("Best by CAP", "rank")
    rows = page.locator("#rf-rank-table tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#rf-rank-table")).to_contain_text("my own")
    expect(page.locator("#rf-rank-table .rf-charts svg[role=img]").first).to_be_visible()
    worst = page.locator(".rf-worst .rf-answer")
    expect(worst).to_have_count(4)
    worst.first.locator(".rf-region").first.hover()
    expect(worst.first.locator(".rf-tip")).to_be_visible()
    cell = rows.first.locator("td").first
    assert cell.evaluate("(cell) => getComputedStyle(cell, '::before').content") == (
        '"CAP ↓"' if width < 1000 else "none"
    )
    visitor.shoot(f"evaluate-{width}")
    with page.expect_download() as coming:
        page.get_by_role("button", name="Table (CSV)").click()
    assert coming.value.path().read_text().splitlines()[0].startswith("place,name,source")


@pytest.mark.parametrize(
    ("tab", "wanted"),
    [
        ("Refine", {"Detect", "Refine", "Start from your own image", "Models", "range slider for Rounds"}),
        ("Detect", {"Analyse"}),
        ("Evaluate", {"Rank", "Your own images"}),
    ],
)
def test_everything_can_be_reached_by_keys(visit, tab, wanted):
    """Press the tab key from the top of the page through one tab."""
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name=tab).focus()
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur(); window.getSelection().collapse(document.body, 0)")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''").strip())
    assert wanted <= {text.split("\n")[0] for text in reached}
