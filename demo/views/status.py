"""What a job is doing, and what is shown before there is a result: HTML without scripts. Knows nothing of Gradio."""

from __future__ import annotations

from html import escape

from refiner.demo.jobs import Loading, Waiting
from refiner.demo.ranking import Ranking
from refiner.demo.studio import AttemptProgress
from refiner.demo.views.parts import words


def status_line(text: str, share: float | None = None, *, kind: str = "") -> str:
    """A line that tells what goes on; read out by screen readers.

    Args:
        text: plain text.
        share: of the work that is done, in [0, 1]; None: not at work.
        kind: "good", "bad" or "".
    """
    bar = "" if share is None else f'<div class="rf-bar"><i style="width:{100 * share:.1f}%"></i></div>'
    busy = " rf-busy" if share is not None else ""
    return f'<div class="rf-status rf-{kind or "plain"}{busy}" role="status"><p>{words(text)}</p>{bar}</div>'


def progress_line(event: Waiting | Loading | AttemptProgress | Ranking, rounds: int = 0) -> str:
    """The status line of a job at work."""
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
            return status_line(f"{name}: {done} of {total} pictures looked at.", done / total)


def missing(text: str) -> str:
    """What stands where nothing is yet; ``text`` is plain."""
    return f'<div class="rf-missing"><p>{escape(text)}</p></div>'
