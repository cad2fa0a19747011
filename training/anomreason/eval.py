"""Measure the bundled AnomReasonor, and AnomAgent on the same model, on held-out images of the micro world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refiner.data.micro import MicroData
from refiner.detectors import load_detector
from refiner.training.chat.eval import held_out_scores, measured, summary
from refiner.training.runs import Run

_LONGEST = 256  # tokens of an answer; right ones have fewer than 200, but some about strange images never end
_AGENT_SHARE = 2  # the agent, which asks far more, gets one image for so many of AnomReasonor


def measure(folder: Path, run: Run, count: int) -> dict[str, float]:
    """``held_out_scores`` of a model in a folder. The agent is measured on drawn images: ``agent/injected/<score>``."""
    detector: Any = load_detector(f"anomreason:{folder}", device="cpu")
    detector.backend.max_tokens = _LONGEST
    scores = held_out_scores(detector, run, count)
    agent, images = load_detector(f"anomagent:{folder}", device="cpu"), max(2, 2 * count // _AGENT_SHARE)
    drawn = MicroData(images, painted=True)
    found = summary(list(measured(agent, (drawn.load(index) for index in range(images)))))
    return scores | {f"agent/injected/{name}": value for name, value in found.items()}
