"""The answers of several detectors for one image side by side as HTML, without scripts and without Gradio."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from refiner.demo.views.parts import how_found, notes, stage, words
from refiner.reports.overlays import flaw_words
from refiner.types import Analysis


def answers(image: Image.Image, said: Mapping[str, Analysis | str]) -> str:
    """A card for each detector: verdict, regions, heat map and explanations, or an error message.

    Args:
        image: RGB.
        said: name of the detector -> its analysis, or an error message.
    """
    toggles = '<label class="rf-toggle"><input type="checkbox" checked class="rf-show"> Show regions</label>'
    if any(isinstance(answer, Analysis) and answer.heatmap is not None for answer in said.values()):
        toggles += '<label class="rf-toggle"><input type="checkbox" class="rf-warm"> Show heat map</label>'
    cards = "".join(_card(image, name, answer) for name, answer in said.items())
    return f'<div class="rf-toggles">{toggles}</div><div class="rf-answers">{cards}</div>'


def _card(image: Image.Image, name: str, answer: Analysis | str) -> str:
    if isinstance(answer, str):
        return f"""<article class="rf-answer"><h3>{words(name)}</h3>{stage(image, None, "The image")}
<p class="rf-error">{words(answer)}</p></article>"""
    tags = f'<p class="rf-facts">{"".join(f"<span>{words(tag)}</span>" for tag in answer.tags)}</p>'
    raw = ""
    if answer.raw:
        raw = f"<details><summary>Raw output of the model</summary><pre>{words(answer.raw)}</pre></details>"
    return f"""<article class="rf-answer rf-look"><h3>{words(name)}</h3>{stage(image, answer, f"What {name} found")}
{_verdict(answer)}{tags if answer.tags else ""}{notes(answer)}{how_found(answer)}{raw}
<p class="rf-faint rf-small">{words(answer.detector)}</p></article>"""


def _verdict(answer: Analysis) -> str:
    found = flaw_words(answer)
    said = f'<p class="rf-verdict-line"><strong>{found[:1].upper()}{found[1:]}</strong></p>'
    if answer.fake_probability is None:
        return said
    share = 100 * answer.fake_probability
    return f"""{said}<p class="rf-fake">Probability that it is generated: {share:.0f} %
<i class="rf-meter rf-wide"><i style="width:{share:.0f}%"></i></i></p>"""
