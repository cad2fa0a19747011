"""The tab that ranks generators: it only connects components and handlers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr

from refiner.demo.components import Row, guarded, html, nothing
from refiner.demo.examples import PROMPTS
from refiner.demo.ranking import Entry, Order, Ranked, RankRequest, model_entries, rank
from refiner.demo.studio import Studio
from refiner.demo.tabs.refine import wire
from refiner.demo.views.rank import ranking, ranking_outcome
from refiner.demo.views.status import progress_line, status_line

_OUTPUTS = 5


def evaluate_tab(studio: Studio) -> None:
    """Add the components: prompts, models and folders of images as inputs, a ranking as output."""
    entries = model_entries(studio.settings.models)
    detectors = list(studio.settings.detectors)
    with gr.Row(elem_classes="rf-split"):
        with gr.Column(scale=2, min_width=300):
            prompts = gr.Textbox("\n".join(PROMPTS), label="Prompts, one per line", lines=5, max_lines=12)
            models = gr.CheckboxGroup(list(entries), value=list(entries)[:2], label="Models that generate now")
            with gr.Accordion("Your own images", open=False):
                gr.HTML(
                    '<p class="rf-faint rf-small">One image for each prompt, sorted by file name.</p>',
                    padding=False,
                    js_on_load=None,
                )
                folders = [
                    (
                        gr.Textbox(f"images {letter}", label=f"Name {letter}"),
                        gr.File(
                            label=f"Images {letter}",
                            file_count="multiple",
                            height=120,
                            elem_id=f"rf-pictures-{letter}",
                        ),
                    )
                    for letter in ("A", "B")
                ]
            with gr.Row():
                run = gr.Button("Rank", variant="primary", elem_id="rf-rank", scale=3)
                stop = gr.Button("Stop", variant="stop", interactive=False, scale=1, min_width=90)
            by = gr.Radio(
                [("Flaws (CAP)", "CAP"), ("Flawed area (PAR)", "PAR"), ("Match with the prompt (HPS)", "HPS")],
                value="CAP",
                label="Rank by",
            )
            detector = gr.Dropdown(detectors, value=detectors[0], label="Detector")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**53)
        with gr.Column(scale=3, min_width=320):
            status = html("", "rf-rank-status")
            table = html("The ranking appears here.", "rf-rank-table")
            with gr.Row():
                files = [
                    gr.DownloadButton(label, interactive=False, size="sm", min_width=90, elem_id=f"rf-download-{name}")
                    for label, name in (("Table (CSV)", "csv"), ("Reports and images (ZIP)", "zip"))
                ]
    summary = gr.JSON(visible=False)
    handler = guarded(_ranking(studio, entries), _OUTPUTS)
    inputs = [prompts, models, *(part for folder in folders for part in folder), by, detector, seed]
    wire(studio, (run, stop), handler, inputs, [status, table, summary, *files], files, "rank")


def _ranking(studio: Studio, entries: dict[str, Entry]) -> Callable[..., Iterator[Row]]:
    def rank_generators(
        prompts: str,
        models: list[str],
        name_a: str,
        files_a: list[str] | None,
        name_b: str,
        files_b: list[str] | None,
        by: Order,
        detector: str,
        seed: int,
        request: gr.Request,
    ) -> Iterator[Row]:
        own = [
            Entry(name=name.strip(), files=tuple(files))
            for name, files in ((name_a, files_a), (name_b, files_b))
            if files
        ]
        wanted = RankRequest(
            entries=(*(entries[name] for name in models), *own),
            prompts=tuple(line.strip() for line in (prompts or "").splitlines() if line.strip()),
            detector=detector,
            by=by,
            seed=int(seed or 0),
        )
        yield (status_line("Starting.", 0.0), *nothing(_OUTPUTS - 1))
        with tempfile.TemporaryDirectory(prefix="refiner-demo-", ignore_cleanup_errors=True) as folder:
            for event in rank(studio, str(request.session_hash), wanted, Path(folder)):
                if not isinstance(event, Ranked):
                    yield (progress_line(event), *nothing(_OUTPUTS - 1))
                    continue
                said = ranking_outcome(event.document, event.left)
                yield said, ranking(event.document, event.worst), event.document, *event.files.values()
                return
        yield (status_line("Stopped before two generators were done: there is no ranking."), *nothing(_OUTPUTS - 1))

    return rank_generators
