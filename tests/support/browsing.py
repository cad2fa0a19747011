"""Debian's Chromium, and visitors whose pages must stay without errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATIENCE = 120_000
"""Timeout in milliseconds; long, because the machine may be busy."""
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
MARKS = [pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"), pytest.mark.timeout(600)]


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser until the block ends."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield opened
        opened.close()


class Guest:
    """A browser page at an address on loopback. ``leave`` fails if the page had errors or asked other servers."""

    def __init__(self, browser: Browser, address: str, width: int = 1280, dark: bool = False) -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        context.set_default_timeout(PATIENCE)
        self.amiss: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda line: line.type == "error" and self.amiss.append(f"console: {line.text}"))
        self.page.on("pageerror", lambda error: self.amiss.append(f"page: {error}"))
        self.page.on("request", self._note_request)
        self.page.goto(address)

    def _note_request(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.amiss.append(f"asks elsewhere: {request.url}")

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True, animations="disabled")

    def leave(self) -> None:
        assert self.page.evaluate("window.harmed") is None
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0, "the page can be scrolled sideways"
        without = "[...document.images].filter((image) => !image.hasAttribute('alt')).map((image) => image.outerHTML)"
        assert not self.page.evaluate(without)
        self.page.context.close()
        assert not self.amiss
