"""A ranking of generators as HTML, without scripts and without Gradio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refiner.demo.ranking import Flawed
from refiner.demo.views.parts import explained, notes, stage, words
from refiner.demo.views.status import status_line
from refiner.evaluate.ranking import HIGHER_IS_BETTER, VARIANTS
from refiner.files import Json
from refiner.reports.overlays import flaw_words
from refiner.reports.page import covered
from refiner.reports.plots import forest, short, span
from refiner.reports.ranking import lead
from refiner.reports.terms import legend


def ranking_outcome(document: Json, left: Sequence[str] = ()) -> str:
    """The status line of a finished ranking.

    Args:
        document: from ``refiner.evaluate.ranking.rank_runs``.
        left: names of the generators that were not done when the ranking was stopped.
    """
    stopped = f"Stopped, without {', '.join(left)}. " if left else ""
    return status_line(f"{stopped}Best by {document['by']}: {document['systems'][0]['name']}.", kind="good")


def ranking(document: Json, worst: Sequence[Flawed] = ()) -> str:
    """Table, comparison of neighbours in the order, plots, and the worst images of a ranking.

    Args:
        document: from ``refiner.evaluate.ranking.rank_runs``.
        worst: images to show, those of one generator together.
    """
    names = [name for name in document["systems"][0]["figures"] if name not in VARIANTS]
    settings = f'<p class="rf-faint rf-small">{words(document["signature"])}</p>'
    return f"""<p class="rf-reason">{words(lead(document))}</p>
{_table(document, names)}
<ul class="rf-wins">{"".join(f"<li>{line}</li>" for line in _wins(document))}</ul>
<div class="rf-charts">{"".join(_plots(document, names))}</div>
{_worst(worst, document["by"])}
<h3>What the figures mean</h3>{explained(legend([*names, "coverage"]))}
<details><summary>Settings of the figures</summary>{settings}</details>"""


def _worst(worst: Sequence[Flawed], by: str) -> str:
    """A card for each image, under the name of its generator."""
    parts = []
    for name, group in itertools.groupby(worst, key=lambda each: each.name):
        cards = "".join(map(_card, group))
        parts.append(f'<h4>{words(name)}</h4><div class="rf-answers rf-worst">{cards}</div>')
    return f"<h3>The worst images of each generator, by {by}</h3>{''.join(parts)}" if parts else ""


def _card(flawed: Flawed) -> str:
    facts = [flaw_words(flawed.analysis)] + ([] if flawed.score is None else [f"HPS {short(flawed.score)}"])
    found = f"<details><summary>What was found</summary>{notes(flawed.analysis)}</details>"
    picture = stage(flawed.image, flawed.analysis, f"{flawed.name}: {flawed.prompt}")
    return f"""<article class="rf-answer rf-look">{picture}
<p class="rf-facts">{"".join(f"<span>{words(fact)}</span>" for fact in facts)}</p>
<p class="rf-small">{words(flawed.prompt)}</p>{found if flawed.analysis.regions else ""}</article>"""


def _table(document: Json, names: list[str]) -> str:
    told = {name: f"{name} {'↑' if name in HIGHER_IS_BETTER else '↓'}" for name in names}
    heads = "".join(f'<th scope="col">{head}</th>' for head in told.values())
    rows = "".join(
        f'<tr><th scope="row"><span class="rf-place">{system["place"]}</span> {words(system["name"])}</th>'
        f"{''.join(_figure(head, system['figures'][name]) for name, head in told.items())}"
        f'<td data-label="coverage">{covered(system["coverage"])}</td></tr>'
        for system in document["systems"]
    )
    return f"""<div class="rf-table" tabindex="0" role="region" aria-label="Ranking"><table>
<thead><tr><th scope="col">generator</th>{heads}<th scope="col">coverage</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="rf-faint rf-small">↑ higher is better, ↓ lower is better.
Below each value: its 95 % confidence interval over prompts of this kind.</p>"""


def _figure(head: str, estimate: Mapping[str, Any]) -> str:
    return f'<td data-label="{head}">{short(estimate["value"])}<span>{span(estimate)}</span></td>'


def _wins(document: Json) -> Iterator[str]:
    by = document["by"]
    for one, other in itertools.pairwise(document["orders"][by]):
        share = document["wins"][by][one][other]["overall"]
        yield (
            f"<strong>{words(one)}</strong> has a better {by} than <strong>{words(other)}</strong> with a "
            f"probability of {100 * share:.0f} %."
        )


def _plots(document: Json, names: list[str]) -> Iterator[str]:
    for name in names:
        way = "higher" if name in HIGHER_IS_BETTER else "lower"
        rows = [(system["name"], system["figures"][name]) for system in document["systems"]]
        yield forest(f"{name}, {way} is better", rows, from_zero=name not in HIGHER_IS_BETTER)
