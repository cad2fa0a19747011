"""One candidate to be judged as HTML, without scripts and without Gradio."""

from __future__ import annotations

from collections.abc import Mapping

from refiner.demo.views.outlines import svg_path
from refiner.demo.views.parts import web_image, words
from refiner.demo.views.status import status_line
from refiner.types import Claim
from refiner.verify.candidates import Candidate, Look
from refiner.verify.judgements import Answer
from refiner.verify.verification import Progress

SIDE = 1024
"""Longer side of the image on the page, in pixels."""
QUESTION = "Is this description correct for this image?"
SAID = {Answer.ACCEPT: "accepted", Answer.REJECT: "rejected", Answer.UNSURE: "unsure"}


def picture(look: Look, candidate: Candidate) -> str:
    """The image with the outline of the candidate.

    Args:
        look: with the image.
        candidate: of that look.
    """
    width, height = look.image.size
    claim, mask = candidate.flaw
    outline = ""
    if claim.box is not None:
        x0, y0, x1, y1 = claim.box
        path = f"M{x0} {y0}H{x1}V{y1}H{x0}Z" if mask is None else svg_path(mask)
        kind = "plain" if claim.category is None else claim.category.legion or claim.category
        lines = "".join(f'<path class="{name}" d="{path}"/>' for name in ("rf-halo", f"rf-outline rf-{kind}"))
        outline = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{lines}</svg>'
    alt = "The image, with the described region outlined" if outline else "The image"
    return (
        f'<div class="rf-stage rf-judged" style="--ratio: {width} / {height}">'
        f'<img src="{web_image(look.image, SIDE)}" alt="{alt}">{outline}</div>'
    )


def claim_card(look: Look, candidate: Candidate, others: Mapping[str, Answer] | None) -> str:
    """What is claimed.

    Args:
        look: with the image.
        candidate: of that look.
        others: what other annotators say, by name. None hides them, and severity, score, detector and the name of the
            image, too, because that may name the detector or the generator.
    """
    claim, _ = candidate.flaw
    texts = [text for text in (claim.explanation, claim.reasoning) if text.strip()]
    head = claim.name.strip() or ("" if texts else "There is a flaw.")
    said = f"<h3>{words(head)}</h3>" if head else ""
    said += "".join(
        f'<p class="{kind}">{words(text)}</p>' for kind, text in zip(("rf-what", "rf-why"), texts, strict=False)
    )
    facts = _facts(claim, blind=others is None)
    small = ""
    if others is not None:
        told = ", ".join(f"{name}: {SAID[answer]}" for name, answer in others.items())
        about = [f"Others say: {told}"] if told else []
        about += [f"{look.name}, flaw {candidate.number} of {len(look.flaws)}", f"Found by {look.detector}"]
        small = "".join(f"<p>{words(text)}</p>" for text in about)
    return f"""<article class="rf-claim" data-candidate="{words(candidate.id)}">
<p class="rf-faint rf-small">{QUESTION}</p>{said}
<p class="rf-facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>
<div class="rf-about">{small}</div></article>"""


def _facts(claim: Claim, *, blind: bool) -> list[str]:
    """Short facts as HTML."""
    facts = [] if claim.category is None else [f"Kind: {words(str(claim.category).replace('_', ' '))}"]
    place = claim.location.strip() or ("" if claim.box else "not known")
    if place:
        facts.append(f"Place: {words(place)}{'' if claim.box else ', so it is not outlined'}")
    if blind:
        return facts
    if claim.severity is not None:
        meter = f'<i class="rf-meter"><i style="width:{100 * claim.severity:.0f}%"></i></i>'
        facts.append(f"Severity: {claim.severity:.2f} {meter}")
    if claim.score is not None:
        facts.append(f"Confidence: {claim.score:.0%}")
    return facts


def progress_bar(progress: Progress, annotator: str, last: str = "") -> str:
    """How far an annotator is.

    Args:
        progress: of the annotator.
        annotator: the name.
        last: what happened last, such as "Accepted."; plain text.
    """
    judged, total, broken = progress
    told = " ".join(filter(None, (last, f"{broken} cannot be shown." if broken else "")))
    note = f' <span class="rf-faint">{words(told)}</span>' if told else ""
    return f"""<div class="rf-progress" role="status">
<p><strong>{judged} of {total}</strong> judged by {words(annotator)}.{note}</p>
<div class="rf-bar"><i style="width:{100 * judged / total:.1f}%"></i></div></div>"""


def finished(answers: Mapping[str, Answer], broken: Mapping[str, str], hint: str) -> str:
    """What is shown when no candidate is left.

    Args:
        answers: the annotator's own, by candidate.
        broken: candidates that could not be shown, and why.
        hint: what to do next; plain text.
    """
    counts = [f"{sum(answer is kind for answer in answers.values())} {said}" for kind, said in SAID.items()]
    why = "".join(f"<li>{words(text)}</li>" for text in dict.fromkeys(broken.values()))
    missing = f'<p class="rf-error">{len(broken)} could not be shown:</p><ul>{why}</ul>' if broken else ""
    return f"""<article class="rf-claim rf-finished"><h3>All candidates are judged.</h3>
<p class="rf-what">{", ".join(counts)}.</p>{missing}<p class="rf-why">{words(hint)}</p></article>"""


def refused(message: str) -> str:
    """The status line of a judgement that was not kept; ``message`` is plain text."""
    return status_line(message, kind="bad")
