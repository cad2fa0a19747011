"""Benchmark of the tools that repair flaws, and of policies over them, in the micro world.

For every scene and seed, the loop refines the same start image with each tool alone ("inpaint", "edit", "regenerate"),
and with all of them in the order of a policy ("fixed": as they are listed, "measured": by the bundled table). Scenes
and referee are those of ``refiner.pipelines.bench``. The edit model is a stand-in (``CaptionEditPipeline``).

The bundled table counts how often each tool, alone, repaired each kind of flaw. It was counted by
``refiner micro tools`` on scenes that no benchmark uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from refiner.pipelines.bench import Case, Plan, check_run, refined, run, start_row, summarise
from refiner.pipelines.refined import RefinedPipeline
from refiner.repairs import Tool, counted, repair_of, repair_summary, tool_table

COUNTED = 900_003
"""First entry of the seeds of the scenes that the bundled table is counted on."""
Systems = Mapping[str, Mapping[str, Any]]
"""Name of a system -> its settings of ``RefineConfig``."""
Track = Callable[[Sequence[Case]], Iterable[Case]]


def with_editor(pipe: RefinedPipeline) -> RefinedPipeline:
    """Give the bundled pipeline the stand-in for an edit model, with the weights of its generator."""
    from refiner.pipelines.editing.caption import CaptionEditPipeline

    return pipe.with_parts(editor=CaptionEditPipeline.of(pipe.pipe), edit_call=dict(pipe.call_defaults))


def compare_tools(
    pipe: RefinedPipeline, tools: Sequence[Tool], prompts: int, seeds: int, folder: Path, track: Track
) -> dict[str, Any]:
    """Run the cases that ``folder`` does not hold yet, and return the summary of all cases.

    Args:
        pipe: the bundled pipeline, with an editor.
        tools: in the order of the policy "fixed".
        prompts, seeds, folder, track: see ``refiner.pipelines.bench.run``.
    """
    systems: Systems = {
        **{tool: {"tools": (tool,)} for tool in tools},
        "fixed": {"tools": tuple(tools)},
        "measured": {"tools": tuple(tools), "policy": "measured", "tool_table": tool_table("micro")},
    }
    pairs = [(policy, tool) for policy in ("measured", "fixed") for tool in tools] + [("measured", "fixed")]
    summary = partial(summarise, systems=("start", *systems), pairs=[*pairs, ("measured", "start")])
    return run(pipe, prompts, seeds, folder, track, _plan(systems, summary))


def count_tools(
    pipe: RefinedPipeline, tools: Sequence[Tool], prompts: int, seeds: int, folder: Path, track: Track
) -> dict[str, dict[str, list[int]]]:
    """Count how often each tool, alone, repairs each kind of flaw, on scenes that no benchmark uses."""
    systems: Systems = {tool: {"tools": (tool,)} for tool in tools}
    plan = _plan(systems, _counts)._replace(first=COUNTED)
    return run(pipe, prompts, seeds, folder, track, plan)


def _plan(systems: Systems, summary: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> Plan:
    return Plan(partial(_case, systems=systems), summary, settings={"systems": json.loads(json.dumps(systems))})


def _counts(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return counted(repair_of(row) for record in records for row in record["repairs"])


def _case(pipe: RefinedPipeline, case: Case, *, systems: Systems) -> dict[str, Any]:
    """Run all systems on one scene and seed, and return the record of the case."""
    rows, checks, repairs = dict[str, Any](), list[dict[str, Any]](), list[dict[str, Any]]()
    for name, settings in systems.items():
        config = replace(pipe.refine_config, **settings)
        rows[name], result = refined(pipe, case, config=config)
        checks.append(check_run(result, config.dilate))
        repairs += [repair_summary(repair) for attempt in result.attempts for repair in attempt.repairs]
    rows["start"] = start_row(result.attempts[0], case)
    scene = {"caption": case.scene.caption, "things": len(case.scene.things)}
    return {"prompt": case.number, "seed": case.seed, **scene, "systems": rows, "checks": checks, "repairs": repairs}
