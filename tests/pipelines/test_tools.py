"""The tool that repairs a flaw: its order by a policy, what was tried in the record, and what follows from records."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from support.chat_servers import settle_environment
from support.edit_servers import EditServer, refusing
from support.repairs import NOISE, PROMPT
from support.tiny_editors import plain
from support.tiny_pipelines import flux_klein, stable_diffusion

from refiner.cli.main import main
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import BadImageError, ConfigError, InputError
from refiner.pipelines import RefineConfig, RefinedPipeline
from refiner.pipelines.tools import Toolbox, ToolInpainter
from refiner.protocols import Inpainted, InpaintJob
from refiner.repairs import LEAST_TRIES, TOOLS, lower_bound, success, tool_table
from refiner.reports.result import save_result
from refiner.taxonomy import Category
from refiner.types import Analysis, RefinementResult, Region, Size

pytestmark = NOISE
SIZE = Size(96, 96)
GIVEN = plain(96, 96, seed=3)
BOX = (8, 8, 24, 24)
CALL = {"num_inference_steps": 1}


def flaw(category: Category = Category.ANATOMY, severity: float = 0.9) -> Region:
    return Region(mask=None, box=BOX, name="hand", category=category, severity=severity)


def toolbox(local: Any = ("inpaint", "edit"), *, given: bool = False, **settings: Any) -> Toolbox:
    return Toolbox(RefineConfig(**settings), local, given=given)


def grown_mask() -> np.ndarray:
    mask = np.zeros(tuple(SIZE), dtype=bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


# The order


@pytest.mark.parametrize("order", [("edit", "inpaint", "regenerate"), ("regenerate", "edit"), ("inpaint",)])
def test_each_failure_at_a_place_moves_on_to_the_next_tool(order: tuple[Any, ...]) -> None:
    box = toolbox(tools=order, dilate=0)
    for tool in (*order, order[-1]):
        assert box.choose(flaw(), SIZE) == tool
        assert box.is_local(flaw(), SIZE) == (tool != "regenerate")
        box.failed.append(grown_mask())
    elsewhere = Region(mask=None, box=(60, 60, 80, 80), name="hand", category=Category.ANATOMY, severity=0.9)
    assert box.choose(elsewhere, SIZE) == order[0]


MEASURED: list[tuple[dict[str, Any], list[str]]] = [
    ({"anatomy": {"edit": [9, 10], "inpaint": [5, 10], "regenerate": [1, 10]}}, ["edit", "inpaint", "regenerate"]),
    ({"anatomy": {"edit": [5, 5], "inpaint": [90, 100]}}, ["inpaint", "edit", "regenerate"]),  # 0.57 and 0.83
    ({"anatomy": {"edit": [4, 4], "inpaint": [5, 10]}}, ["inpaint", "regenerate", "edit"]),  # too few
    ({"text": {"edit": [9, 10]}, "anatomy": {"inpaint": [5, 10]}}, ["edit", "inpaint", "regenerate"]),  # all others
    ({"text": {"edit": [9, 10]}, "anatomy": {"edit": [0, 4]}}, ["edit", "inpaint", "regenerate"]),  # 9 of 14
    ({"text": {"edit": [1, 2]}}, ["inpaint", "regenerate", "edit"]),  # nothing: as listed
]


@pytest.mark.parametrize(("table", "order"), MEASURED)
def test_the_tool_with_the_highest_lower_bound_comes_first(table: dict[str, Any], order: list[str]) -> None:
    box = toolbox(tools=["inpaint", "regenerate", "edit"], policy="measured", tool_table=table)
    assert list(box.order(Category.ANATOMY)) == order


@pytest.mark.parametrize("tries", [1, 4, 5, 30, 1000])
def test_bounds_are_those_of_wilson(tries: int) -> None:
    for better in {0, 1, tries // 3, tries - 1, tries}:
        wanted = binomtest(better, tries).proportion_ci(0.95, "wilson")
        assert success(better, tries) == pytest.approx((better / tries, wanted.low, wanted.high), abs=1e-9)
        low = wanted.low if tries >= LEAST_TRIES else 0.0
        assert lower_bound({"text": {"edit": [better, tries]}}, "text", "edit") == pytest.approx(low, abs=1e-9)
    assert success(0, 0) is None


WRONG = {
    "twice": {"tools": ["edit", "edit"]},
    "unknown": {"tools": ["pray"]},
    "a text": {"tools": "edit"},
    "a strategy": {"tools": ["edit"], "strategy": "inpaint"},
    "a policy": {"policy": "best"},
    "no tools": {"policy": "measured", "tool_table": {"text": {"edit": [1, 2]}}},
    "no table": {"policy": "measured", "tools": ["edit"]},
    "more successes than tries": {"tool_table": {"text": {"edit": [3, 2]}}},
    "an unknown category": {"tool_table": {"hair": {"edit": [1, 2]}}},
    "an unknown tool": {"tool_table": {"text": {"pray": [1, 2]}}},
}


@pytest.mark.parametrize("settings", WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"RefineConfig\.(tools|policy|tool_table|strategy)"):
        RefineConfig(**settings)


def test_a_tool_without_its_model_is_refused_and_an_image_of_the_user_is_not_regenerated() -> None:
    with pytest.raises(ConfigError, match="'edit', but there is no model that edits: pass one as editor="):
        toolbox(("inpaint",), tools=["inpaint", "edit"])
    with pytest.raises(ConfigError, match="'inpaint', but there is no model that inpaints"):
        toolbox(("edit",), tools=["inpaint"])
    with pytest.raises(ConfigError, match="An image of yours is not regenerated"):
        toolbox(tools=["regenerate"], given=True)
    assert toolbox(tools=["regenerate", "edit"], given=True).choose(flaw(), SIZE) == "edit"
    klein = flux_klein()
    with pytest.raises(ConfigError, match="Expected an edit model as editor=, got StableDiffusionPipeline"):
        RefinedPipeline(generator(), detector=relenting(set()), editor=generator())
    with pytest.raises(ConfigError, match="pass only one of them"):
        RefinedPipeline(generator(), detector=relenting(set()), editor=klein, inpainter=klein)
    with pytest.raises(ConfigError, match="edit_call= has no effect without an edit model"):
        RefinedPipeline(generator(), detector=relenting(set()), edit_call=CALL)
    with pytest.raises(ConfigError, match=r"step .in edit_call=. is not taken|takes no argument 'step'"):
        RefinedPipeline(generator(), detector=relenting(set()), editor=klein, edit_call={"step": 1})


# Runs


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EditServer]:
    settle_environment(monkeypatch)
    started = EditServer()
    yield started
    started.stop()


@functools.cache
def generator() -> Any:
    return stable_diffusion()


def relenting(better: set[int]) -> ScriptedDetector:
    """A detector for which the n-th image that it sees is better than those before if n is in ``better``."""
    seen = iter(range(1000))

    def look(image: Image.Image) -> Analysis:
        number = next(seen)
        severity = 0.9 * 0.8 ** sum(each <= number for each in better) if number in better or not number else 0.95
        return Analysis(size=Size(image.height, image.width), regions=(flaw(severity=severity),), detector="relenting")

    return ScriptedDetector(look)


def refined(server: EditServer, better: set[int], **config: Any) -> RefinedPipeline:
    settings = RefineConfig(**{"max_rounds": 3, "patience": 3, "seed": 1, **config})
    editor = f"edit:m@{server.url},max_side=64,attempts=1"
    return RefinedPipeline(
        generator(), detector=relenting(better), judge=None, config=settings, call=CALL, editor=editor
    )


def run(pipe: RefinedPipeline) -> RefinementResult:
    return pipe.stream(PROMPT, height=96, width=96).result


def used(result: RefinementResult) -> list[tuple[str, bool]]:
    return [(repair.tool, repair.better) for attempt in result.attempts for repair in attempt.repairs]


def test_tools_take_turns_after_failures_and_the_record_says_which_repaired_what(
    server: EditServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = refined(server, {3}, tools=["inpaint", "edit", "regenerate"])
    result = run(pipe)
    assert [attempt.action for attempt in result.attempts] == ["generate", "inpaint", "inpaint", "regenerate"]
    assert used(result) == [("inpaint", False), ("edit", False), ("regenerate", True)]
    assert len(server.asked) == result.costs["m"].calls > 0
    assert result.attempts[2].prompt.startswith("Give the hand its natural anatomy")
    save_result(result, tmp_path, {})
    assert tool_table(tmp_path) == {"anatomy": {"edit": [0, 1], "inpaint": [0, 1], "regenerate": [1, 1]}}
    assert main(["report", str(tmp_path), "--tools", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["table"] == tool_table(tmp_path)
    assert {name: document["rows"][0][name] for name in ("category", "tool", "better", "tries", "share")} == {
        "category": "anatomy",
        "tool": "edit",
        "better": 0,
        "tries": 1,
        "share": 0.0,
    }
    assert main(["report", str(tmp_path), "--tools", "--out", str(tmp_path / "t")]) == 0
    assert "regenerate" in capsys.readouterr().out
    assert json.loads((tmp_path / "t" / "tools.json").read_text()) == tool_table(tmp_path)
    twice = tool_table(tmp_path / "run.json", tmp_path / "t" / "tools.json")
    assert twice == {"anatomy": {"edit": [0, 2], "inpaint": [0, 2], "regenerate": [2, 2]}}


def test_a_run_that_repeats_uses_the_same_tools_and_gives_the_same_images(server: EditServer) -> None:
    table = {"anatomy": {"edit": [20, 20], "inpaint": [5, 20]}}
    settings = {"tools": ["inpaint", "edit"], "policy": "measured", "tool_table": table}
    first, second = (run(refined(server, {1}, **settings)) for _ in range(2))
    assert used(first) == used(second) == [("edit", True), ("edit", False), ("inpaint", False)]
    assert [one.image.tobytes() for one in first.attempts] == [one.image.tobytes() for one in second.attempts]
    ended = run(refined(server, {1}, **settings, max_rounds=1))
    assert [one.image.tobytes() for one in ended.attempts] == [one.image.tobytes() for one in first.attempts[:2]]


def test_without_tools_an_editor_is_used_where_inpainting_failed(server: EditServer) -> None:
    result = refined(server, set(), strategy="inpaint")
    assert used(run(result)) == [("inpaint", False), ("edit", False), ("edit", False)]
    with pytest.raises(ConfigError, match="'edit', but there is no model that edits"):
        run(result.with_parts(editor=None, config=RefineConfig(tools=["edit"], seed=1)))


def test_a_local_editor_beside_the_inpainter_is_saved_and_its_rows_count(tmp_path: Path) -> None:
    call = {**CALL, "text_encoder_out_layers": (0, 1, 2)}
    pipe = RefinedPipeline(
        generator(), detector=relenting(set()), judge=None, call=CALL, editor=flux_klein(), edit_call=call, native=64,
        config=RefineConfig(tools=["edit"], max_rounds=1, seed=1),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    attempt = run(pipe).attempts[1]
    assert attempt.calls.denoiser_rows > 0
    pipe.save_pretrained(tmp_path)
    again = RefinedPipeline.from_pretrained(tmp_path, detector=relenting(set()), judge=None)
    again.set_progress_bar_config(disable=True)
    assert type(again.editor) is type(pipe.editor)
    assert dict(again.edit_call_defaults) == {**CALL, "text_encoder_out_layers": [0, 1, 2]}


def test_an_inpainter_that_fails_does_not_cost_the_regions_of_the_other() -> None:
    def failing(jobs: Any) -> list[Image.Image]:
        raise BadImageError("The model is out of paint: buy some.")

    class Part:
        def __init__(self, inpaint: Callable[..., Any]) -> None:
            self.inpaint = inpaint

        def inpaint_each(self, groups: Any) -> list[Inpainted]:
            return [Inpainted(images=self.inpaint(jobs)) for jobs in groups]

    def grey(jobs: Any) -> list[Image.Image]:
        return [Image.new("RGB", job.image.size) for job in jobs]

    own = {"image": GIVEN, "mask": grown_mask(), "prompt": "x", "seed": 1, "strength": 1.0}
    jobs = [InpaintJob(**own, tool=tool) for tool in ("edit", "inpaint", "edit")]
    both = ToolInpainter({"inpaint": Part(grey), "edit": Part(failing)})
    assert [image is GIVEN for image in both.inpaint(jobs)] == [True, False, True]
    assert both.remarks() == ["2 of 3 regions are unchanged. The model is out of paint: buy some."]
    with pytest.raises(BadImageError, match="out of paint"):
        ToolInpainter({"inpaint": Part(failing), "edit": Part(failing)}).inpaint(jobs)


def test_records_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run records"):
        tool_table(tmp_path)
    file = tmp_path / "run.json"
    for text in (
        "{",
        "[]",
        '{"attempts": [{"repairs": [{"tool": "pray", "category": "text", "name": "", "better": true}]}]}',
    ):
        file.write_text(text)
        with pytest.raises(InputError, match="cannot be read"):
            tool_table(tmp_path)
    (tmp_path / "tools.json").write_text('{"text": {"edit": [2, 1]}}')
    with pytest.raises(InputError, match=r"The table of tools .* cannot be read"):
        tool_table(tmp_path / "tools.json")
    file.write_text('{"attempts": [{}]}')
    assert tool_table(tmp_path) == {}
    assert set(TOOLS) == {"inpaint", "edit", "regenerate"}


def test_a_hosted_editor_that_refuses_costs_only_its_regions(server: EditServer) -> None:
    server.script = lambda fields: refusing(400, "rejected by the safety system")
    result = run(refined(server, set(), tools=["edit", "inpaint"]))
    assert used(result)[0] == ("edit", False)
    assert "safety system" in (result.attempts[1].error or "")
    assert result.stop != "failed"
