"""A ranking of generators as HTML, without scripts and without Gradio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refiner.demo.views.parts import words
from refiner.demo.views.status import status_line
from refiner.evaluate.ranking import FIGURES, HIGHER_IS_BETTER, VARIANTS
from refiner.files import Json
from refiner.reports.page import covered
from refiner.reports.plots import forest, short, span
from refiner.reports.ranking import lead


def ranking_outcome(document: Json, left: Sequence[str] = ()) -> str:
    """The status line of a finished ranking.

    Args:
        document: from ``refiner.evaluate.ranking.rank_runs``.
        left: names of the generators that were not done when the ranking was stopped.
    """
    stopped = f"Stopped, without {', '.join(left)}. " if left else ""
    return status_line(f"{stopped}Best by {document['by']}: {document['systems'][0]['name']}.", kind="good")


def ranking(document: Json) -> str:
    """Table, comparison of neighbours in the order, and plots of a ranking.

    Args:
        document: from ``refiner.evaluate.ranking.rank_runs``.
    """
    names = [name for name in document["systems"][0]["figures"] if name not in VARIANTS]
    terms = "".join(f"<dt>{name}</dt><dd>{FIGURES[name]}</dd>" for name in names)
    return f"""<p class="rf-reason">{words(lead(document))}</p>
{_table(document, names)}
<ul class="rf-wins">{"".join(f"<li>{line}</li>" for line in _wins(document))}</ul>
<div class="rf-charts">{"".join(_plots(document, names))}</div>
<details><summary>What the metrics mean</summary><dl class="rf-terms">{terms}</dl>
<p class="rf-faint rf-small">{words(document["signature"])}</p></details>"""


def _table(document: Json, names: list[str]) -> str:
    heads = "".join(f'<th scope="col">{name} {"↑" if name in HIGHER_IS_BETTER else "↓"}</th>' for name in names)
    rows = "".join(
        f'<tr><td>{system["place"]}</td><th scope="row">{words(system["name"])}</th>'
        f"{''.join(_figure(system['figures'][name]) for name in names)}<td>{covered(system['coverage'])}</td></tr>"
        for system in document["systems"]
    )
    return f"""<div class="rf-table" tabindex="0" role="region" aria-label="Ranking"><table>
<thead><tr><th scope="col"></th><th scope="col">generator</th>{heads}<th scope="col">coverage</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="rf-faint rf-small">Below each value: its 95 % confidence interval over prompts of this kind.</p>"""


def _figure(estimate: Mapping[str, Any]) -> str:
    return f"<td>{short(estimate['value'])}<span>{span(estimate)}</span></td>"


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
