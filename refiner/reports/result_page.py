"""The page of a result: one HTML file that needs nothing else. All text from people and models is escaped."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from refiner.files import dumps
from refiner.images import png_bytes
from refiner.reports.overlays import KIND_COLOURS, fitted, flaw_words, marks
from refiner.types import Analysis, Attempt, RefinementResult, Region, Score

_STOPS = {
    "clean": "Stopped because nothing wrong was left.",
    "rounds": "Stopped after the last of its rounds.",
    "no_progress": "Stopped because further rounds brought nothing better.",
    "budget": "Stopped because its budget was spent.",
    "repeat": "Stopped because a picture came out a second time.",
    "unreadable": "Stopped because the detector's answer could not be read.",
    "interrupted": "Stopped by the user.",
}

_SIDE = 640

_CSS = """
:root { color-scheme: light dark; --paper: #f6f5f1; --card: #fff; --ink: #1b1b1a; --faint: #6d6b66; --rule: #dedbd3;
  --good: #1f7a4d; --bad: #b3362b; --bar: #cfcbc1; }
@media (prefers-color-scheme: dark) { :root { --paper: #161615; --card: #1f1f1d; --ink: #ecebe6; --faint: #a19e96;
  --rule: #35342f; --good: #5fc894; --bad: #f0857a; --bar: #4a4842; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 48px 32px 72px; }
h1 { font-size: 30px; line-height: 1.25; font-weight: 600; letter-spacing: -.01em; margin: 6px 0 10px;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 19px; font-weight: 600; margin: 52px 0 16px; }
h3 { font-size: 17px; font-weight: 600; margin: 0; }
p { margin: 0; } .faint { color: var(--faint); } .small { font-size: 13px; }
.figures { display: flex; flex-wrap: wrap; gap: 14px 44px; margin: 28px 0 32px; padding: 18px 0;
  border-block: 1px solid var(--rule); }
.figures dt { font-size: 13px; color: var(--faint); } .figures dd { margin: 0; font-size: 21px; white-space: nowrap; }
.figures dd span { color: var(--faint); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 24px; }
figure { margin: 0; } figcaption { margin-top: 8px; display: flex; justify-content: space-between; gap: 12px; }
.picture { position: relative; background: var(--rule); border-radius: 4px; overflow: hidden; }
.picture img { display: block; width: 100%; height: auto; } .picture img + img { position: absolute; inset: 0; }
#show { accent-color: var(--good); } .toggle { display: inline-flex; gap: 8px; align-items: center; margin: 0 0 14px; }
body:has(#show:not(:checked)) .picture img + img { display: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px; }
.charts svg { width: 100%; height: auto; display: block; overflow: visible; }
.charts text { font-size: 11px; fill: var(--faint); } .line { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.grid { stroke: var(--rule); } .yes { fill: var(--good); stroke: var(--good); }
.no { fill: var(--paper); stroke: var(--bad); stroke-width: 1.5; }
article { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 20px;
  margin-bottom: 16px; display: grid; grid-template-columns: 260px minmax(0, 1fr); gap: 24px; }
article.kept { border-color: var(--good); box-shadow: inset 3px 0 var(--good); }
.head { display: flex; align-items: baseline; gap: 12px; margin-bottom: 6px; }
.verdict { font-size: 13px; font-weight: 600; color: var(--bad); } .verdict.good { color: var(--good); }
.facts { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 8px 0 0; font-size: 13px; color: var(--faint); }
.prompt { margin-top: 10px; font-size: 14px; overflow-wrap: anywhere; }
.table { overflow-x: auto; margin-top: 16px; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 500; color: var(--faint); font-size: 12px; padding: 0 12px 6px 0; }
td { padding: 9px 12px 9px 0; border-top: 1px solid var(--rule); vertical-align: top; overflow-wrap: anywhere; }
td:first-child { width: 34px; } td:nth-child(n+4) { white-space: nowrap; }
.number { display: inline-grid; place-items: center; width: 22px; height: 22px;
  border-radius: 50%; color: #fff; font-size: 12px; }
.meter { width: 64px; height: 5px; border-radius: 3px; background: var(--bar); overflow: hidden; margin-top: 5px; }
.meter i { display: block; height: 100%; background: var(--bad); }
.none { display: grid; place-items: center; aspect-ratio: 1; color: var(--faint); font-size: 14px; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--faint); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 12.5px/1.5 ui-monospace, "Liberation Mono", monospace;
  background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 14px; }
@media (max-width: 760px) { main { padding: 28px 18px; } .pair, article { grid-template-columns: 1fr; } }
"""


def document(title: str, body: str) -> str:
    """A whole HTML page that needs nothing else; ``title`` is plain text, ``body`` is HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def page(result: RefinementResult, record: Mapping[str, Any]) -> str:
    """The whole HTML document of a result; ``record`` is its run record."""
    painted = [attempt for attempt in result.attempts if attempt.image is not None]
    start, best = (painted or result.attempts)[0], result.attempts[result.best]
    pair = "".join(_figure(name, attempt) for name, attempt in (("Before", start), ("After", best)))
    settings = dumps({"config": record["config"], "environment": record["environment"]})
    body = f"""<p class="faint small">Refinement report</p>
<h1>{escape(result.prompt)}</h1>
<p>{_lead(result)}</p>
{_figures(result, start, best)}
<label class="toggle"><input type="checkbox" id="show" checked> Show what the detector found</label>
<div class="pair">{pair}</div>
<h2>Round by round</h2>
<div class="charts">{charts(result)}</div>
<h2>Attempts</h2>
{"".join(_attempt(attempt, result) for attempt in result.attempts)}
<h2>Settings</h2>
<p class="faint small">A trained model made or changed the pictures on this page, except those marked "given".</p>
<details><summary>Configuration and versions</summary><pre>{escape(settings)}</pre></details>"""
    return document(result.prompt, body)


def _lead(result: RefinementResult) -> str:
    count = len(result.attempts)
    kept = "The start image was kept." if result.best == 0 else f"Attempt {result.best} was kept."
    return f"{kept} {count} attempt{'s' if count > 1 else ''}. {_STOPS[result.stop]}"


def _figures(result: RefinementResult, start: Attempt, best: Attempt) -> str:
    rows = []
    if start.analysis and best.analysis:
        rows.append(("Flaws found", *_change(len(start.analysis.regions), len(best.analysis.regions), "d")))
        areas = 100 * start.analysis.artifact_ratio, 100 * best.analysis.artifact_ratio
        rows.append(("Flagged area, %", *_change(*areas, ".1f")))
    for name in dict.fromkeys(score.name for score in best.scores):
        before, after = _score(start, name), _score(best, name)
        if before is not None and after is not None:
            rows.append((name, *_change(before, after, ".4g")))
    rows.append(("Denoiser rows", "", f"{result.calls.denoiser_rows}"))
    rows.append(("Detector calls", "", f"{result.calls.detector_calls}"))
    rows.append(("Seconds", "", f"{sum(attempt.seconds for attempt in result.attempts):.1f}"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{f'<span>{before} →</span> ' if before else ''}{after}</dd></div>"
        for name, before, after in rows
    )
    return f'<dl class="figures">{cells}</dl>'


def _change(before: float, after: float, form: str) -> tuple[str, str]:
    return format(before, form), format(after, form)


def _score(attempt: Attempt, name: str) -> float | None:
    return next((score.value for score in attempt.scores if score.name == name), None)


def data_uri(image: Image.Image) -> str:
    """A picture inside a page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")


def _picture(attempt: Attempt, alt: str, side: int) -> str:
    if attempt.image is None:
        return '<div class="picture none">no picture</div>'
    shown = attempt.image if max(attempt.image.size) <= _SIDE else fitted(attempt.image, _SIDE)
    layers = f'<img src="{data_uri(shown)}" alt="{escape(alt)}">'
    if attempt.analysis is not None and attempt.analysis.regions:
        layer = marks(attempt.analysis, fitted(shown, side).size)
        layers += f'<img src="{data_uri(layer)}" alt="">'
    return f'<div class="picture">{layers}</div>'


def _figure(name: str, attempt: Attempt) -> str:
    words = escape(flaw_words(attempt.analysis))
    caption = f'<span><strong>{name}</strong> · {words}</span><span class="faint">attempt {attempt.index}</span>'
    return f"<figure>{_picture(attempt, f'{name}: {attempt.prompt}', 600)}<figcaption>{caption}</figcaption></figure>"


def _attempt(attempt: Attempt, result: RefinementResult) -> str:
    kept = attempt is result.attempts[result.best]
    verdict = "kept" if kept else "accepted" if attempt.accepted else "rejected"
    facts = [flaw_words(attempt.analysis)]
    facts += [f"{score.name}: {score.value:.4g}" for score in attempt.scores]
    if attempt.analysis is not None and attempt.analysis.fake_probability is not None:
        facts.append(f"looks generated: {attempt.analysis.fake_probability:.0%}")
    facts += [f"seed {attempt.seed}", f"{attempt.seconds:.1f} s"]
    reason = escape(attempt.reason + (f" ({attempt.error})" if attempt.error else ""))
    prompt = ""
    if attempt.prompt != result.prompt:
        prompt = f'<p class="prompt"><span class="faint">Prompt</span> {escape(attempt.prompt)}</p>'
    if attempt.negative_prompt:
        prompt += f'<p class="prompt"><span class="faint">Not</span> {escape(attempt.negative_prompt)}</p>'
    if attempt.note:
        prompt += f'<p class="prompt faint small">{escape(attempt.note)}</p>'
    return f"""<article{' class="kept"' if kept else ""}>
<div>{_picture(attempt, attempt.prompt, 320)}</div>
<div>
<div class="head"><h3>{attempt.index} · {escape(attempt.action)}</h3>
<span class="verdict{" good" if attempt.accepted else ""}">{verdict}</span></div>
<p>{reason[:1].upper()}{reason[1:]}</p>
<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>
{prompt}{_regions(attempt.analysis)}
</div>
</article>
"""


def _regions(analysis: Analysis | None) -> str:
    if analysis is None or not analysis.regions:
        return ""
    rows = "".join(_region(number, region) for number, region in enumerate(analysis.regions, start=1))
    heads = "".join(f"<th>{head}</th>" for head in ("", "What", "Why", "Kind", "Severity", "Sure"))
    return f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _region(number: int, region: Region) -> str:
    colour = KIND_COLOURS[region.category.legion]
    place = f'<br><span class="faint">{escape(region.location)}</span>' if region.location else ""
    what = f"<strong>{escape(region.name)}</strong>{place}"
    why = escape(region.explanation)
    if region.reasoning:
        why += f'<br><span class="faint">{escape(region.reasoning)}</span>'
    meter = f'{region.severity:.2f}<div class="meter"><i style="width:{100 * region.severity:.0f}%"></i></div>'
    cells = (
        f'<span class="number" style="background:{colour}">{number}</span>',
        what,
        why,
        escape(str(region.category).replace("_", " ")),
        meter,
        f"{region.score:.0%}",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def charts(result: RefinementResult) -> str:
    """What detector and judge said of each attempt, a small SVG in a figure for each measure."""
    return "".join(_chart(*series) for series in _series(result))


Series = tuple[str, Sequence[float | None], Sequence[bool], bool]


def _series(result: RefinementResult) -> list[Series]:
    """What is plotted: title, a value for each attempt, whether it was accepted, whether higher is better."""
    accepted = [attempt.accepted for attempt in result.attempts]

    def of_analysis(value: Callable[[Analysis], float]) -> list[float | None]:
        return [None if attempt.analysis is None else value(attempt.analysis) for attempt in result.attempts]

    rows: list[Series] = [
        ("burden (severity x confidence)", of_analysis(lambda analysis: analysis.burden), accepted, False),
        ("flagged area, %", of_analysis(lambda analysis: 100 * analysis.artifact_ratio), accepted, False),
    ]
    named: dict[str, Score] = {score.name: score for attempt in result.attempts for score in attempt.scores}
    for name, score in named.items():
        values = [_score(attempt, name) for attempt in result.attempts]
        rows.append((name, values, accepted, score.higher_is_better))
    return rows


def _chart(title: str, values: Sequence[float | None], accepted: Sequence[bool], higher: bool) -> str:
    """A small SVG: one dot an attempt, full where it was accepted, and a line through the best so far."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known) if higher else 0.0, max(known)
    high = high if high > low else low + 1.0
    step = 240 / max(1, len(values) - 1)
    points = [
        (44 + step * place, 96 - 72 * (value - low) / (high - low), kept)
        for place, (value, kept) in enumerate(zip(values, accepted, strict=True))
        if value is not None
    ]
    path, y_best = [], points[0][1]
    for x, y, kept in points:
        y_best = y if kept else y_best
        path.append(f"{x:.1f},{y_best:.1f}")
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{"yes" if kept else "no"}"/>' for x, y, kept in points
    )
    marks = "".join(
        f'<text x="{44 + step * place:.1f}" y="122" text-anchor="middle">{place}</text>' for place in range(len(values))
    )
    words = f"{title}, {'higher' if higher else 'lower'} is better"
    return f"""<figure><p class="small">{escape(words)}</p>
<svg viewBox="0 0 300 128" role="img" aria-label="{escape(words)}">
<line class="grid" x1="44" x2="284" y1="24" y2="24"/><line class="grid" x1="44" x2="284" y1="96" y2="96"/>
<text x="36" y="28" text-anchor="end">{high:.4g}</text><text x="36" y="100" text-anchor="end">{low:.4g}</text>
<polyline class="line" points="{" ".join(path)}"/>{dots}{marks}
</svg></figure>"""
