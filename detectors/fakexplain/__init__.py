"""FakeXplain (ICLR 2026): a detector that answers with reasoning, boxes, tags and a verdict (papers/fakexplain.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refiner.detectors.chat.options import CHAT_OPTIONS
from refiner.detectors.fakexplain.notes import NOTE
from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.fakexplain.detector import FakexplainDetector
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["FAMILY", "FakexplainDetector"]


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.fakexplain.loading import fakexplain_needs

    return fakexplain_needs(model)


FAMILY = Family(
    name="fakexplain",
    load=loader("refiner.detectors.fakexplain.loading:load_fakexplain"),
    recognise=lambda _config, folder: (folder / NOTE).is_file(),
    options=("dialect", "grounder", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_needs,
    usage=("fakexplain:<folder or hub id>", "fakexplain:<model>@<base url>"),
)


def __getattr__(name: str) -> Any:
    """Import ``FakexplainDetector`` only when it is used."""
    if name != "FakexplainDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from refiner.detectors.fakexplain.detector import FakexplainDetector

    return FakexplainDetector
