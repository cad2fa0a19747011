"""AnomReason (ICLR 2026): the agents that find anomalies of meaning, and the model that is tuned on what they found.

Two families of detectors: ``anomagent`` asks any vision-language model in several steps, ``anomreason`` asks a model
that is tuned to list the anomalies itself (papers/anomreason.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refiner.detectors.anomreason.notes import NOTE
from refiner.detectors.chat.options import CHAT_OPTIONS
from refiner.detectors.family import Family, loader

if TYPE_CHECKING:
    from refiner.detectors.family import Needs
    from refiner.detectors.ids import ModelId

__all__ = ["AGENT", "FAMILY"]


def _agent_needs(model: ModelId) -> Needs:
    from refiner.detectors.anomreason.loading import anomagent_needs

    return anomagent_needs(model)


def _needs(model: ModelId) -> Needs:
    from refiner.detectors.anomreason.loading import anomreason_needs

    return anomreason_needs(model)


AGENT = Family(
    name="anomagent",
    load=loader("refiner.detectors.anomreason.loading:load_anomagent"),
    options=("drafts", "grounder", "max_calls", "max_objects", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_agent_needs,
    usage=("anomagent:<folder or hub id>", "anomagent:<model>@<base url>"),
)
FAMILY = Family(
    name="anomreason",
    load=loader("refiner.detectors.anomreason.loading:load_anomreason"),
    recognise=lambda _config, folder: (folder / NOTE).is_file(),
    options=("format", "grounder", *CHAT_OPTIONS),
    endpoint=True,
    needs_folder=False,
    needs=_needs,
    usage=("anomreason:<folder or hub id>", "anomreason:<model>@<base url>"),
)
