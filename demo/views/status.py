"""The progress of a job and placeholders for results as HTML, without scripts and without Gradio."""

from __future__ import annotations

from html import escape

from refiner.demo.jobs import Loading, Waiting
from refiner.demo.ranking import Ranking
from refiner.demo.studio import AttemptProgress
from refiner.demo.views.parts import words


def status_line(text: str, share: float | None = None, *, kind: str = "") -> str:
    """A status line, which screen readers read aloud.

    Args:
        text: plain text.
        share: share of the work that is done, in [0, 1]; None: no work in progress.
        kind: "good", "bad", "example" or "".
    """
    bar = "" if share is None else f'<div class="rf-bar"><i style="width:{100 * share:.1f}%"></i></div>'
    busy = " rf-busy" if share is not None else ""
    return f'<div class="rf-status rf-{kind or "plain"}{busy}" role="status"><p>{words(text)}</p>{bar}</div>'


def progress_line(event: Waiting | Loading | AttemptProgress | Ranking, rounds: int = 0) -> str:
    """The status line of a running job.

    Args:
        event: the latest event of the job.
        rounds: most rounds of a refinement after the first image.
    """
    match event:
        case Waiting(ahead=ahead):
            return status_line(f"Waiting: {ahead} job{'s' if ahead > 1 else ''} ahead of yours.", 0.0)
        case Loading():
            return status_line("Loading the models.", 0.0)
        case AttemptProgress(attempt=attempt, step=step, steps=steps):
            done = step / steps if steps else 0.0
            at = f", step {step}" + (f" of {steps}" if steps else "") if step else ""
            return status_line(f"Attempt {attempt}{at}.", min(1.0, (attempt + min(done, 1.0)) / (rounds + 1)))
        case Ranking(name=name, done=done, total=total):
            return status_line(f"{name}: {done} of {total} images analysed.", done / total)


def missing(text: str) -> str:
    """A placeholder until there is a result; ``text`` is plain text."""
    return f'<div class="rf-missing"><p>{escape(text)}</p></div>'
