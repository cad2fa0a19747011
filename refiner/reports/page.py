"""Self-contained HTML pages from the templates beside this file. All values are escaped."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image

from refiner.coverage import Coverage
from refiner.images import png_bytes
from refiner.reports.overlays import by_stage, flaw_words, place_words, trace_words
from refiner.reports.plots import cut, number, short, span, words
from refiner.reports.terms import heading
from refiner.reports.wording import judge_words, short_seed

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """A page of ``templates/``; only values of type ``Markup`` are HTML, others are escaped."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup((_HERE / "style.css").read_text(encoding="utf-8"))
    filters = (
        by_stage, covered, cut, data_uri, flaw_words, heading, judge_words, number, percent, percents, place_words,
        short, short_seed, span, trace_words, words,
    )  # fmt: skip
    environment.filters |= {each.__name__: each for each in filters}
    return environment


def data_uri(image: Image.Image) -> str:
    """An image as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def covered(row: Mapping[str, int]) -> str:
    """The coverage of figures in a cell of a table, from its columns."""
    return Coverage(**row).brief()


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %"


def percents(estimate: Mapping[str, float | None]) -> str:
    """The interval of a share in whole percent, in words."""
    low, high = estimate["low"], estimate["high"]
    return "interval not known" if low is None or high is None else f"{percent(low)} to {percent(high)}"
