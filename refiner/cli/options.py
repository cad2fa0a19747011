"""Exit codes and help texts that several sub-commands share."""

from __future__ import annotations

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; a model failed; the user can fix it; interrupted."""
DETECTOR = "micro, vlm:MODEL[@URL], parts:hand,face@MODEL, a folder, a hub id, or several: joint:ID+ID"
GROUNDER = "draws the masks of vlm:MODEL and parts:NAMES: sam:PATH, grabcut or box (grabcut; box for parts)"
