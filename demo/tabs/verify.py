"""The panel on which people judge candidates: it only connects components and handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gradio as gr

from refiner.demo.components import Row, html, nothing
from refiner.demo.messages import public_message
from refiner.demo.reviews import YOU, Reviews
from refiner.demo.views.status import missing
from refiner.demo.views.verify import SAID, claim_card, finished, picture, progress_bar, refused
from refiner.errors import InputError
from refiner.verify.judgements import LONGEST_NAME, Answer, annotator_name
from refiner.verify.verification import Verification

_QUIET: Final[dict[str, Any]] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

_PRESSED: Final = {f"rf-verify-{answer.lower()}": answer for answer in Answer}
"""Id of a button -> its answer. The button that Gradio names to a handler is a copy made for the visitor."""
_UNDO: Final = "rf-verify-undo"

Find = Callable[[gr.Request], Verification | None]
"""The candidates of a visitor; None if there are none yet."""


class VerifyPanel:
    """Image, claim, three answers and undo.

    Args:
        find: the candidates.
        annotator: the name of the annotator; None to ask for it.
        blind: hide what could sway the annotator (``claim_card``).
        empty: what is said while there are no candidates.
        hint: what to do after the last judgement.
    """

    def __init__(self, find: Find, *, annotator: str | None, blind: bool, empty: str, hint: str) -> None:
        self.find, self.annotator, self.blind, self.empty, self.hint = find, annotator, blind, empty, hint
        with gr.Row(visible=annotator is None, elem_id="rf-verify-start") as self.start:
            self.name = gr.Textbox(
                label="Your name", max_length=LONGEST_NAME, max_lines=1, scale=3, min_width=180, elem_id="rf-annotator"
            )
            begin = gr.Button("Start", variant="primary", scale=1, min_width=90, elem_id="rf-verify-begin")
        self.status = html("", "rf-verify-status")
        with gr.Row(elem_classes="rf-split", elem_id="rf-verify"):
            with gr.Column(scale=3, min_width=300):
                self.picture = html(empty, "rf-verify-picture")
            with gr.Column(scale=2, min_width=300):
                self.claim = html("", "rf-verify-claim")
                self._toggle()
                with gr.Row(elem_id="rf-verify-answers"):
                    self.answers = [
                        gr.Button(str(answer).capitalize(), interactive=False, min_width=60, elem_id=name)
                        for name, answer in _PRESSED.items()
                    ]
                    self.undo = gr.Button("Undo", interactive=False, min_width=60, elem_id=_UNDO)
        self.shown = gr.Textbox(visible=False)
        buttons = [*self.answers, self.undo]
        self.outputs = [self.status, self.picture, self.claim, self.shown, *buttons, self.start]
        self._connect(begin)

    def _toggle(self) -> None:
        gr.HTML(
            '<label class="rf-toggle"><input type="checkbox" checked class="rf-show"> Show the outline</label>',
            elem_id="rf-verify-toggle",
            padding=False,
            js_on_load=None,
        )

    def show_on(self, event: Any) -> None:
        """Show the next candidate when something happens, such as the page being loaded.

        Not to an annotator who has to be asked for a name: a name that is half typed by then would be taken.
        """
        if self.annotator is not None:
            event(self.show, self.name, self.outputs, **_QUIET)

    def _connect(self, begin: gr.Button) -> None:
        gr.on([begin.click, self.name.submit], self.show, self.name, self.outputs, **_QUIET)
        clicks = [button.click for button in (*self.answers, self.undo)]
        # The page itself drops presses while an answer is being kept (head.html); Gradio would also drop later ones.
        self.judged = gr.on(
            clicks, self.judge, [self.name, self.shown], self.outputs, trigger_mode="multiple", **_QUIET
        )

    def show(self, name: str, request: gr.Request) -> Row:
        """The next candidate of an annotator."""
        try:
            verification = self.find(request)
            annotator = self.annotator or (annotator_name(name) if name else "")
            if verification is None or not annotator:
                return self._nothing(self.empty)
            return self._next(verification, annotator, "")
        except Exception as error:
            return self._refused(error)

    def judge(self, name: str, shown: str, request: gr.Request, event: gr.EventData) -> Row:
        """Keep an answer, or take the last one back, and show what comes next."""
        try:
            verification = self.find(request)
            if verification is None:
                raise InputError("There is nothing to judge any more: load the page again.")
            annotator = annotator_name(self.annotator or name)
            answer = _PRESSED.get(str(getattr(event.target, "elem_id", "")))
            if answer is None:
                return self._undone(verification, annotator)
            verification.judge(shown, annotator, answer)
            return self._next(verification, annotator, f"{SAID[answer].capitalize()}.")
        except Exception as error:
            return self._refused(error)

    def _undone(self, verification: Verification, annotator: str) -> Row:
        candidate = verification.undo(annotator)
        if candidate is None:
            return self._next(verification, annotator, "There is nothing to undo.")
        return self._candidate(verification, annotator, candidate, "Taken back: judge it again.")

    def _next(self, verification: Verification, annotator: str, last: str) -> Row:
        verification.judgements.refresh()
        candidate = verification.next(annotator)
        if candidate is not None:
            return self._candidate(verification, annotator, candidate, last)
        answers = verification.judgements.of(annotator)
        own = {id_: answer for id_, answer in answers.items() if id_ in verification.rows}
        told = finished(own, verification.broken, self.hint)
        status = progress_bar(verification.progress(annotator), annotator, last)
        return self._row(status, told, "", "", judge=False, undo=bool(own))

    def _candidate(self, verification: Verification, annotator: str, id_: str, last: str) -> Row:
        look, candidate = verification.load(id_)
        others = None if self.blind else _others(verification, id_, annotator)
        progress = verification.progress(annotator)
        return self._row(
            progress_bar(progress, annotator, last),
            picture(look, candidate),
            claim_card(look, candidate, others),
            id_,
            judge=True,
            undo=progress.judged > 0,
        )

    def _nothing(self, told: str) -> Row:
        shown = self._row("", missing(told), "", "", judge=False, undo=False)
        return *shown[:-1], gr.skip()

    def _refused(self, error: Exception) -> Row:
        """An answer that was not kept: the candidate stays."""
        return refused(public_message(error)), *nothing(len(self.outputs) - 1)

    def _row(self, status: str, picture: str, claim: str, shown: str, *, judge: bool, undo: bool) -> Row:
        usable = [gr.update(interactive=on) for on in (*[judge] * len(self.answers), undo)]
        return status, picture, claim, shown, *usable, gr.update(visible=False)


def _others(verification: Verification, candidate: str, annotator: str) -> dict[str, Answer]:
    about = verification.judgements.about(candidate)
    return {name: answer for name, answer in about.items() if name != annotator}


def review_panel(reviews: Reviews) -> VerifyPanel:
    """The panel of the demo: what the detectors found in a visitor's last image, and the accepted flaws as a file."""
    panel = VerifyPanel(
        lambda request: reviews.get(str(request.session_hash)),
        annotator=YOU,
        blind=False,
        empty="The flaws that the detectors find in your image appear here: analyse one in the tab Detect.",
        hint="The accepted flaws can be downloaded as training data.",
    )
    download = gr.DownloadButton("Accepted flaws (ZIP)", visible=False, size="sm", elem_id="rf-download-accepted")

    def offer(request: gr.Request) -> dict[str, Any]:
        archive = reviews.archive(str(request.session_hash))
        return gr.update(value=archive, visible=archive is not None)

    panel.judged.then(offer, None, download, **_QUIET)
    return panel
