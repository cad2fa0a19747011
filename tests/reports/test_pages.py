"""The report pages in Debian's Chromium: none is wider than its window, and every figure on them is explained."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Browser
from support.browsing import MARKS, launched
from support.report_pages import PAGES, evaluated

from refiner.evaluate.tasks import TASKS
from refiner.reports.terms import heading, legend

WIDTHS = (390, 768, 1280)
KINDS = (*PAGES, *(f"evaluation: {task}" for task in TASKS))
ALONE = {"page.html", "macros.html", "trace.html"}
"""Templates that are parts of pages."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a page of a kind when it is first asked for."""
    written: dict[str, Path] = {}

    def page(kind: str) -> Path:
        if kind not in written:
            folder = tmp_path_factory.mktemp("page")
            name, _, task = kind.partition(": ")
            written[kind] = evaluated(task, folder) if task else PAGES[name](folder)
        return written[kind]

    return page


def test_every_template_has_its_page() -> None:
    templates = Path(__file__).parents[2] / "refiner/reports/templates"
    assert {path.name for path in templates.iterdir()} == {f"{kind}.html" for kind in (*PAGES, "evaluation")} | ALONE


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS) for kind in KINDS])
def test_no_page_is_wider_than_its_window(browser: Browser, page_of: Callable[[str], Path], kind: str) -> None:
    """On phones and tablets, no table is wider than the window either, and each of its cells says what it is."""
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda line: line.type == "error" and problems.append(line.text))
    page.goto(page_of(kind).as_uri())
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)  # type: ignore[arg-type]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{kind} at {width} pixels, {colours}"
            if width < 900:
                boxes = "[...document.querySelectorAll('.table, .table :is(td, th)')]"
                over = "(box) => box.scrollWidth > box.clientWidth"
                assert page.evaluate(f"{boxes}.filter({over}).map((box) => box.outerHTML.slice(0, 200))") == []
                mute = "tbody td:not([data-label]):not(:empty):not(:has(.number))"
                assert page.locator(mute).count() == 0
    context.close()
    assert not problems


@pytest.mark.parametrize("task", TASKS)
def test_every_figure_of_a_task_is_explained(page_of: Callable[[str], Path], task: str) -> None:
    page = page_of(f"evaluation: {task}")
    table = json.loads((page.parent / "table.json").read_text())
    columns = next(iter((page.parent / "samples.csv").read_text().splitlines()))
    rows = [table["figures"], *table["groups"].values(), *table["categories"].values()]
    names = {name for row in rows for name in row if not name.endswith(("_low", "_high"))}
    assert names, columns
    text = html.unescape(page.read_text())
    for name in names:
        assert legend([name]), f"{name} has no meaning in refiner.reports.terms"
        assert f">{heading(name)}<" in text
        assert all(f"<dt>{term}</dt><dd>" in text for term in legend([name]))
    captions = re.findall(r'<figure[^>]*><p class="small">([^:<]+)', text)
    assert not [caption for caption in captions if "_" in caption]


@pytest.mark.parametrize("kind", ["ranking", "audit"])
def test_every_figure_of_a_ranking_is_explained(page_of: Callable[[str], Path], kind: str) -> None:
    text = html.unescape(page_of(kind).read_text())
    for name in ("CAP", "MAI", "AF", "AF_share", "MAI_image", "PAR", "HPS", "coverage"):
        assert f">{heading(name)}" in text
        assert all(f"<dt>{term}</dt><dd>{meaning}." in text for term, meaning in legend([name]).items())


def test_the_row_of_a_calibration_is_explained(page_of: Callable[[str], Path]) -> None:
    text = html.unescape(page_of("calibration").read_text())
    rows = re.findall(r'<th class="text" scope="row">([^<]+)</th><td data-label="value">', text)
    explained = {term.lower() for term in re.findall(r"<dt>([^<]+)</dt>", text)}
    parts = {row: re.split(", | outside", row)[0].lower() for row in rows}
    assert len(rows) > 10
    assert {row for row, part in parts.items() if part not in explained} == set()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("miou_pooled", "mIoU pooled"),
        ("heatmap_PixF1_per_image", "heat map PixF1 per image"),
        ("f1@0.7", "F1 @0.7"),
        ("BoxF1@0.1_artifact", "BoxF1 @0.1 artifact"),
        ("PAR>0_predicted_par", "PAR > 0 predicted PAR"),
        ("hps_change", "HPS change"),
        ("some_new_figure", "some new figure"),
    ],
)
def test_headings(name: str, told: str) -> None:
    assert heading(name) == told
    assert bool(legend([name])) == ("new" not in name)
