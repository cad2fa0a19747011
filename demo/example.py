"""A finished refinement for the first screen: made once by the bundled models, and stored beside this file.

``make example`` makes it again.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from refiner.files import Json, atomic_write, dumps
from refiner.images import load_image, png_bytes
from refiner.provenance import ai_label
from refiner.records import analysis_from_dict, analysis_to_dict
from refiner.types import Attempt, RefinementResult, Score

FOLDER: Final = Path(__file__).parent / "example"
_DOCUMENT: Final = "example.json"
_PLAIN: Final = (
    "index", "action", "prompt", "negative_prompt", "seed", "accepted", "reason", "note", "error", "seconds",
)  # fmt: skip


def write_example(result: RefinementResult, folder: Path = FOLDER) -> None:
    """Write what the page shows of a result into a folder; what was there is deleted.

    Raises:
        OutputError: the folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for attempt in result.attempts:
        if attempt.image is not None:
            label = ai_label(from_given_image=attempt.action == "given")
            atomic_write(folder / _picture(attempt.index), png_bytes(attempt.image, label))
    plain = {name: getattr(result, name) for name in ("prompt", "best", "stop")}
    atomic_write(folder / _DOCUMENT, dumps(plain | {"attempts": [_stored(each) for each in result.attempts]}) + "\n")


def read_example(folder: Path = FOLDER) -> RefinementResult:
    """Read what ``write_example`` wrote."""
    stored = json.loads((folder / _DOCUMENT).read_text(encoding="utf-8"))
    attempts = tuple(_restored(each, folder) for each in stored.pop("attempts"))
    return RefinementResult(attempts=attempts, **stored)


def _picture(index: int) -> str:
    return f"attempt-{index:02d}.png"


def _stored(attempt: Attempt) -> Json:
    analysis = attempt.analysis
    return {name: getattr(attempt, name) for name in _PLAIN} | {
        "image": attempt.image is not None,
        "analysis": None if analysis is None else analysis_to_dict(analysis, arrays=True),
        "scores": [vars(score) for score in attempt.scores],
        "seconds": round(attempt.seconds, 1),
    }


def _restored(stored: Mapping[str, Any], folder: Path) -> Attempt:
    return Attempt(
        image=load_image(folder / _picture(stored["index"])) if stored["image"] else None,
        analysis=None if stored["analysis"] is None else analysis_from_dict(stored["analysis"]),
        scores=tuple(Score(**score) for score in stored["scores"]),
        **{name: stored[name] for name in _PLAIN},
    )


def _main(prompt: str, seed: str) -> None:
    from refiner.pipelines import RefinedPipeline

    _, results = RefinedPipeline.from_pretrained("micro")(prompt, seed=int(seed), return_dict=False)
    result = results[0]
    write_example(result)
    print(f"{FOLDER.name}: attempt {result.best} of {len(result.attempts)} was kept")


if __name__ == "__main__":
    _main(*sys.argv[1:])
