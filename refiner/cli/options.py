"""Exit codes, help texts and types of arguments that several sub-commands share."""

from __future__ import annotations

import argparse
import math

DONE, FAILED, USER_ERROR, INTERRUPTED, UNREAD, TERMINATED = 0, 1, 2, 130, 141, 143
"""Exit codes: done; a model failed; the user can fix it; interrupted; the reader of the output went away; ended by
SIGTERM."""
DETECTOR = (
    "micro, text, legion:MODEL[,gate=ID], vlm:MODEL[@URL][,profile=NAME|FILE], anomagent:MODEL[@URL], "
    "fakexplain:MODEL[@URL][,adapter=PATH], anomreason:MODEL[@URL][,adapter=PATH], parts:hand,face@MODEL, a folder, "
    "a hub id, or several: joint:ID+ID; an id may end with ,calibration=FILE, which refiner calibrate writes"
)
GROUNDER = (
    "draws the masks of vlm:, anomagent:, fakexplain:, anomreason: and parts: detectors: sam:PATH, grabcut or box "
    "(grabcut; box for parts)"
)


def check_detector(detector: str, grounder: str | None = None) -> None:
    """Raise the errors of loading a detector that are known without a download; no torch is imported."""
    from refiner.detectors.registry import detector_needs

    detector_needs(detector, grounder)


def count(text: str) -> int:
    """Read a whole number of at least 1; a ``type`` of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def probability(text: str) -> float:
    """Read a number from 0 to 1; a ``type`` of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def port(text: str) -> int:
    """Read the number of a port; a ``type`` of argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)
