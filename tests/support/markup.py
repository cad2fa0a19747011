"""Reads the HTML of views, and fails if text became markup."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"' ${alert(1)} {{alert}} `x` **b** &amp;"
ALLOWED = {"article", "dd", "details", "div", "dl", "dt", "figure", "h3", "h4", "i", "img", "input", "label", "li",
           "ol", "p", "pre", "span", "strong", "summary", "ul", "circle", "g", "line", "path", "polyline", "svg",
           "text", "title", "table", "tbody", "td", "th", "thead", "tr"}  # fmt: skip


class Reader(HTMLParser):
    """Tags, attributes and text of a piece of HTML; fails if a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, kind=""):
        return [own for name, own in self.tags if name == tag and kind in (own.get("class") or "").split() + [""]]


def safe(html: str) -> Reader:
    """Read a piece of HTML; fails if text became markup."""
    reader = Reader(html)
    assert {tag for tag, _ in reader.tags} <= ALLOWED
    for tag, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/")
            assert "alt" in attributes
    return reader
