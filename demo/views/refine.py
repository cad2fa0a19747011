"""A refinement as HTML, without scripts and without Gradio."""

from __future__ import annotations

from refiner.demo.views.parts import explained, how_found, notes, stage, web_image, words
from refiner.demo.views.status import status_line
from refiner.reports.overlays import flaw_words
from refiner.reports.plots import charts
from refiner.reports.terms import legend
from refiner.reports.wording import judge_words, judges_abbreviated, short_seed
from refiner.types import Attempt, RefinementResult

STOPS = {
    "clean": "no flaws are left",
    "rounds": "all rounds were used",
    "no_progress": "further rounds brought no improvement",
    "budget": "the budget was used up",
    "repeat": "the same image came out twice",
    "unreadable": "the detector's answer could not be read",
    "interrupted": "you stopped it",
    "failed": "a part failed",
    "unrefined": "latents are not refined",
}
"""Stop reason -> words that follow "Ended because"."""

_ACTIONS = {
    "generate": "Generated",
    "given": "Your image",
    "regenerate": "Regenerated",
    "inpaint": "Inpainted",
}


def refinement_outcome(result: RefinementResult) -> str:
    """The status line of a finished refinement."""
    start = next((attempt for attempt in result.attempts if attempt.image is not None), result.attempts[0])
    best = result.attempts[result.best]
    if best.image is None:
        return status_line(f"No image was generated: {best.error or best.reason}", kind="bad")
    kept = "The first image was kept" if best is start else f"Attempt {best.index} was kept"
    kept += ", as you chose" if best.by == "hand" else ""
    change = f"{flaw_words(start.analysis)} at first, now {flaw_words(best.analysis)}"
    said = flaw_words(best.analysis) if best is start else change
    unverified = "" if result.verified else " Nothing was verified: the last image was kept, better or not."
    return status_line(f"{kept}: {said}. Ended because {STOPS[result.stop]}.{unverified}", kind="good")


def comparison(result: RefinementResult) -> str:
    """The first and the kept image on top of each other, with a slider between them for keys, mouse and touch."""
    start = next((attempt for attempt in result.attempts if attempt.image is not None), None)
    best = result.attempts[result.best]
    if start is None or start.image is None or best.image is None:
        return ""
    width, height = start.image.size
    before, after = (
        f"{name}: attempt {attempt.index}, {flaw_words(attempt.analysis)}"
        for name, attempt in (("Before", start), ("After", best))
    )
    return f"""<figure class="rf-compare" style="--cut: 50%; --ratio: {width} / {height}">
<img src="{web_image(best.image)}" alt="{words(after)}">
<img class="rf-before" src="{web_image(start.image)}" alt="{words(before)}">
<span class="rf-side rf-left" aria-hidden="true">Before</span>
<span class="rf-side rf-right" aria-hidden="true">After</span>
<i class="rf-handle" aria-hidden="true"></i>
<input type="range" min="0" max="100" value="50" aria-label="Share of the image that shows the state before">
</figure>
<p class="rf-legend rf-faint"><span>{words(flaw_words(start.analysis))}</span>
<span>{words(flaw_words(best.analysis))}</span></p>"""


def plots(result: RefinementResult) -> str:
    """Charts of the detector's and the judge's values for each attempt, and what these values mean."""
    terms = explained(legend(("burden", *judges_abbreviated(result))))
    return f'<div class="rf-charts">{charts(result)}</div>{terms}'


def timeline(result: RefinementResult) -> str:
    """All attempts in order: images with regions, and whether and why they were accepted."""
    cards = "".join(_card(attempt, result) for attempt in result.attempts)
    toggle = '<label class="rf-toggle"><input type="checkbox" checked class="rf-show"> Show detected regions</label>'
    return f'{toggle}<ol class="rf-attempts">{cards}</ol>'


def _card(attempt: Attempt, result: RefinementResult) -> str:
    kept = attempt is result.attempts[result.best]
    verdict = "kept" if kept else "accepted" if attempt.accepted else "rejected"
    picture = '<div class="rf-stage rf-none">no image</div>'
    if attempt.image is not None:
        picture = stage(attempt.image, attempt.analysis, f"Attempt {attempt.index}")
    facts = [flaw_words(attempt.analysis)]
    facts += [f"{judge_words(score.name)}: {score.value:.4g}" for score in attempt.scores]
    facts += [f"seed {short_seed(attempt.seed)}", f"{attempt.seconds:.1f} s"]
    reason = f"{attempt.reason[:1].upper()}{attempt.reason[1:]}"
    said = f'<p class="rf-reason">{words(reason)}</p>'
    if attempt.error:
        said += f'<p class="rf-error">{words(attempt.error)}</p>'
    if attempt.note:
        said += f'<p class="rf-faint rf-small">{words(attempt.note)}</p>'
    if attempt.prompt != result.prompt:
        said += f'<p class="rf-prompt"><span class="rf-faint">Prompt</span> {words(attempt.prompt)}</p>'
    if attempt.negative_prompt:
        said += (
            f'<p class="rf-prompt"><span class="rf-faint">Negative prompt</span> {words(attempt.negative_prompt)}</p>'
        )
    return f"""<li class="rf-attempt rf-look rf-{verdict}">{picture}
<div class="rf-told"><p class="rf-head"><span class="rf-count">{attempt.index}</span>
<strong>{_ACTIONS[attempt.action]}</strong><span class="rf-verdict">{verdict}</span></p>
{said}<p class="rf-facts">{"".join(f"<span>{words(fact)}</span>" for fact in facts)}</p>
{notes(attempt.analysis)}{how_found(attempt.analysis)}</div></li>"""
