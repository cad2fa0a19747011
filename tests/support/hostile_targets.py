"""What hostile inputs are given to: every reader of files and every parser of model text, each with valid inputs."""

from __future__ import annotations

from refiner.detectors import aligngemini, anomreason, fakexplain, legion, vlm  # noqa: F401 (their grammars, below)
