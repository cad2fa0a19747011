"""Measure the bundled AnomReasonor, and AnomAgent on the same model, on held-out images of the micro world."""

from __future__ import annotations

from pathlib import Path

from refiner.detectors import load_detector
from refiner.training.fakexplain.eval import held_out_scores
from refiner.training.runs import Run

_AGENT_SHARE = 10  # the agent, which asks far more, gets one image for so many of AnomReasonor


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``held_out_scores`` of a model in a folder; those of the agent have the prefix ``agent/``."""
    scores = held_out_scores(load_detector(f"anomreason:{folder}", device="cpu"), run, count)
    agent = load_detector(f"anomagent:{folder}", device="cpu")
    found = held_out_scores(agent, run, max(1, count // _AGENT_SHARE))
    return scores | {f"agent/{name}": value for name, value in found.items()}
