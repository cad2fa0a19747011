"""Load a RefinedPipeline onto a device, so that each part is loaded where it runs and in the precision it has there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from refiner.detectors.scripted import ScriptedDetector
from refiner.machine import Machine
from refiner.pipelines.loading.loras import Lora, load_loras
from refiner.pipelines.loading.parts import Judges, Where, load_parts
from refiner.pipelines.refined import RefinedPipeline
from refiner.pipelines.revisers.template import TemplateReviser
from refiner.protocols import Detector, Reviser


def load_refined(
    model: Where,
    machine: Machine,
    *,
    detector: Detector | Where | None = None,
    judge: Judges | Literal["saved"] = "saved",
    reviser: Reviser | str | None = None,
    inpainter: Where | None = None,
    second_stage: Where | None = None,
    editor: Where | None = None,
    loras: Sequence[Lora] = (),
    dtype: Any = None,
) -> RefinedPipeline:
    """Load a pipeline with its LoRAs, move it to the machine's device or offload it, then load the other parts there.

    Args:
        model, detector, judge, reviser, inpainter, second_stage, editor: as for ``RefinedPipeline.from_pretrained``.
        machine: device, dtype and offload.
        loras: LoRAs of the pipeline; a separate inpainter does not get them.
        dtype: torch dtype of the pipeline; None: ``machine.pipeline_dtype``.

    Raises:
        ConfigError, ModelNotFoundError, WeightsError: see ``RefinedPipeline.from_pretrained`` and ``load_loras``.
    """
    parts = {"detector": detector, "reviser": reviser, "inpainter": inpainter, "second_stage": second_stage}
    parts |= {"editor": editor}
    given: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
    given |= {} if judge == "saved" else {"judge": judge}
    loaded = load_parts(model, given, {"dtype": dtype or machine.pipeline_dtype})
    later = {name: loaded.arguments.pop(name, None) for name in ("detector", "judge", "reviser")}
    # A detector that is loaded on the CPU is float32, and would stay so on a GPU. So it is loaded after the move.
    refined = RefinedPipeline(
        loaded.pipe, detector=ScriptedDetector([]), judge=None, reviser=TemplateReviser(), **loaded.arguments
    )
    load_loras(refined, loras)
    machine.place(refined)
    refined.set_progress_bar_config(disable=True)
    whole = refined.with_parts(**later)
    whole.ids |= loaded.ids
    if loras:
        whole.ids["lora"] = [str(lora) for lora in loras]
    return whole
