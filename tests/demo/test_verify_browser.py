"""The page of ``refiner verify`` in Debian's Chromium, by clicks and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser, expect
from support.browsing import MARKS, Guest, launched
from support.claims import claimed, detected, opened
from support.demo_server import HOSTILE, Served
from support.demo_server import opened as serving

from refiner.verify.judgements import Answer, Judgements

pytestmark = MARKS
KEYS = {Answer.ACCEPT: "a", Answer.REJECT: "r", Answer.UNSURE: "u"}
WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture
def serve(tmp_path):
    """Serve ``refiner verify`` over a folder with the claims of images, each a list of numbers."""
    started = []

    def start(claims: list[list[int]], *arguments: str, detector: str = "critic 1") -> tuple[Served, Path]:
        found = detected(tmp_path, [[claimed(at, f" {HOSTILE}") for at in each] for each in claims], detector)
        running = serving([str(found), *arguments], tmp_path, [], "verify")
        started.append(running)
        return running.__enter__(), found

    yield start
    for running in started:
        running.__exit__(None, None, None)


class Annotator(Guest):
    """A browser page on which somebody judges."""

    def begin(self, name: str) -> None:
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_role("button", name="Start").click()

    def judged(self, count: int, total: int) -> None:
        expect(self.page.locator(".rf-progress strong")).to_have_text(f"{count} of {total}")

    def answer(self, answer: Answer, *, by_key: bool) -> None:
        if by_key:
            self.page.keyboard.press(KEYS[answer])
        else:
            self.page.locator(f"#rf-verify-{answer.lower()}").click()


@pytest.mark.parametrize("widths", [WIDTHS, WIDTHS[::-1]], ids=str)
def test_two_hundred_items_with_a_browser_that_is_closed_in_between(browser, serve, widths):
    served, found = serve([[4 * at + more for more in range(4)] for at in range(50)])
    rows = [row.id for row in opened(found, found / "verify").listing.rows]
    expected = {id_: list(Answer)[(at + at // 7) % 3] for at, id_ in enumerate(rows)}
    assert len(expected) == 200

    def judge(annotator: Annotator, start: int, end: int) -> None:
        for at in range(start, end):
            assert annotator.page.locator(".rf-claim").get_attribute("data-candidate") == rows[at]
            annotator.answer(expected[rows[at]], by_key=at % 3 > 0)
            annotator.judged(at + 1, 200)

    first = Annotator(browser, served.address, widths[0])
    first.begin("anna")
    first.judged(0, 200)
    judge(first, 0, 120)
    first.shoot(f"verify-{widths[0]}")
    first.leave()
    second = Annotator(browser, served.address, widths[1], dark=True)
    second.begin("anna")
    second.judged(120, 200)
    second.shoot(f"verify-dark-{widths[1]}")
    judge(second, 120, 200)
    expect(second.page.locator(".rf-finished")).to_contain_text("All candidates are judged")
    second.shoot(f"verify-end-{widths[1]}")
    second.leave()
    assert Judgements(found / "verify").of("anna") == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_buttons_are_in_reach_and_answers_can_be_taken_back(browser, serve, width):
    served, found = serve([[0, 1, 2]], "--annotator", "anna")
    annotator = Annotator(browser, served.address, width)
    page = annotator.page
    annotator.judged(0, 3)
    places = []
    for name in ("accept", "reject", "unsure"):
        box = page.locator(f"#rf-verify-{name}").bounding_box()
        assert box["height"] >= 44
        assert box["width"] >= 80
        assert 0 <= box["y"] <= 900 - box["height"], "it can be pressed without scrolling"
        assert width > 400 or box["y"] > 700, "the thumb reaches it"
        places.append(box)
    expect(page.locator("#rf-verify-undo")).to_be_disabled()
    expect(page.locator(".rf-outline")).to_be_visible()
    page.get_by_label("Show the outline").uncheck()
    expect(page.locator(".rf-outline")).to_be_hidden()
    page.keyboard.press("a")
    annotator.judged(1, 3)
    assert [page.locator(f"#rf-verify-{name}").bounding_box() for name in ("accept", "reject", "unsure")] == places
    expect(page.locator(".rf-outline")).to_be_hidden()
    page.get_by_label("Show the outline").check()
    first, second = list(opened(found, found / "verify").rows)[:2]
    for undo in (lambda: page.keyboard.press("z"), page.locator("#rf-verify-undo").click):
        undo()
        annotator.judged(0, 3)
        expect(page.locator(".rf-claim")).to_have_attribute("data-candidate", first)
        page.keyboard.press("r")
        annotator.judged(1, 3)
        expect(page.locator(".rf-claim")).to_have_attribute("data-candidate", second)
    assert Judgements(found / "verify").of("anna") == {first: Answer.REJECT}
    annotator.leave()


def test_keys_pressed_in_a_hurry_judge_nothing_unseen(browser, serve):
    served, found = serve([[0, 1, 2], [3, 4, 5]], "--annotator", "anna")
    annotator = Annotator(browser, served.address)
    annotator.judged(0, 6)
    shown = annotator.page.locator(".rf-claim").get_attribute("data-candidate")
    press = "(key) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    annotator.page.evaluate(f"['a', 'r', 'u'].forEach({press})")
    annotator.judged(1, 6)
    assert Judgements(found / "verify").of("anna") == {shown: Answer.ACCEPT}
    for keys in ("Control+a", "Alt+r", "x"):
        annotator.page.keyboard.press(keys)
    annotator.page.keyboard.press("u")
    annotator.judged(2, 6)
    assert list(Judgements(found / "verify").of("anna").values()) == [Answer.ACCEPT, Answer.UNSURE]
    annotator.leave()


def test_a_name_that_is_typed_while_the_page_loads_is_not_taken_before_start(browser, serve):
    served, _ = serve([[0, 1]])
    annotator = Annotator(browser, "about:blank")
    annotator.page.add_init_script("""
        new MutationObserver((_, watcher) => {
          const box = document.querySelector("#rf-annotator textarea, #rf-annotator input");
          if (!box) return;
          watcher.disconnect();
          box.value = "an";
          box.dispatchEvent(new Event("input", {bubbles: true}));
        }).observe(document, {childList: true, subtree: true});
    """)
    annotator.page.goto(served.address)
    expect(annotator.page.get_by_label("Your name")).to_have_value("an")
    annotator.page.wait_for_timeout(2000)
    annotator.begin("anna")
    annotator.judged(0, 2)
    expect(annotator.page.locator(".rf-progress")).to_contain_text("anna")
    annotator.leave()


def test_two_annotators_judge_the_same_folder(browser, serve):
    served, found = serve([[0, 1]])
    anna, ben = (Annotator(browser, served.address, width) for width in WIDTHS)
    for annotator, name in ((anna, "anna"), (ben, "ben")):
        annotator.begin(name)
        annotator.judged(0, 2)
    anna.answer(Answer.ACCEPT, by_key=True)
    anna.judged(1, 2)
    ben.answer(Answer.REJECT, by_key=False)
    ben.judged(1, 2)
    anna.answer(Answer.REJECT, by_key=True)
    anna.judged(2, 2)
    ben.page.keyboard.press("z")
    expect(ben.page.locator(".rf-claim")).to_contain_text("Others say: anna: accepted")
    first, second = opened(found, found / "verify").rows
    assert Judgements(found / "verify").of("anna") == {first: Answer.ACCEPT, second: Answer.REJECT}
    assert Judgements(found / "verify").of("ben") == {}
    for annotator in (anna, ben):
        annotator.leave()


def test_blind_mode_sends_nothing_that_could_sway(browser, serve):
    served, found = serve([[0, 1]], "--annotator", "anna", "--blind", detector="critic-7b")
    for row in opened(found, found / "verify").rows:
        Judgements(found / "verify").add(row, "benjamin", Answer.REJECT)
    annotator, sent = Annotator(browser, served.address), list[str]()
    annotator.page.on("response", lambda answer: "/run/predict" in answer.url and sent.append(answer.text()))
    annotator.page.reload()
    for count in range(2):
        annotator.judged(count, 2)
        expect(annotator.page.locator(".rf-claim")).to_contain_text(f"the part {count}")
        sent.append(annotator.page.content())
        annotator.answer(Answer.ACCEPT, by_key=True)
    annotator.judged(2, 2)
    sent.append(annotator.page.evaluate("fetch('/config').then((answer) => answer.text())"))
    whole = "".join(sent)
    assert "it is odd in way 1" in whole
    for secret in ("critic-7b", "benjamin", "everity:", "onfidence:", "000.png"):
        assert secret not in whole, secret
    annotator.leave()


def test_an_answer_that_cannot_be_kept_is_told_and_asked_again(browser, serve):
    served, found = serve([[0, 1]], "--annotator", "anna")
    annotator = Annotator(browser, served.address)
    annotator.judged(0, 2)
    (found / "verify" / "judgements.jsonl").mkdir()
    annotator.page.keyboard.press("a")
    expect(annotator.page.locator("#rf-verify-status")).to_contain_text("Cannot write the file")
    expect(annotator.page.locator(".rf-claim")).to_contain_text("the part 0")
    (found / "verify" / "judgements.jsonl").rmdir()
    annotator.page.keyboard.press("a")
    annotator.judged(1, 2)
    annotator.leave()


def test_an_image_that_is_gone_is_passed_over(browser, serve, tmp_path):
    served, _ = serve([[0], [1]], "--annotator", "anna")
    (tmp_path / "images" / "000.png").unlink()
    annotator = Annotator(browser, served.address)
    expect(annotator.page.locator(".rf-claim")).to_contain_text("the part 1")
    expect(annotator.page.locator(".rf-progress")).to_contain_text("1 cannot be shown.")
    annotator.page.keyboard.press("a")
    expect(annotator.page.locator(".rf-finished")).to_contain_text("1 could not be shown")
    annotator.leave()
