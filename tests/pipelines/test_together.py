"""Several images of a call, refined together: as one by one, in fewer calls of every model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from support.chat_servers import settle_environment  # noqa: E402
from support.edit_servers import EditServer, good  # noqa: E402
from support.faulty_server import FaultyServer  # noqa: E402
from support.repairs import BOX, NOISE, STEPS  # noqa: E402
from support.tiny_pipelines import stable_diffusion, stable_diffusion_xl  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.errors import BadAnswerError, ConfigError, RefinerError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.families import FAMILIES  # noqa: E402
from refiner.pipelines.together.scheduler import Scheduler  # noqa: E402
from refiner.records import to_record  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Attempt, RefinementResult, Region, Size  # noqa: E402

pytestmark = NOISE
PROMPTS = ["a red hand", "a cat", "a clock on grass", "a tree"]
APART = ("StableDiffusionXLImg2ImgPipeline", "Sana*", "HunyuanDiT*", "OmniGenPipeline", "StableDiffusion3ControlNet*")
"""Rows that cannot be the pipeline, or that the documentation excepts from batches of several prompts."""


class Looking:
    """A detector whose flaws depend on the image alone: one in each of two boxes, as severe as it is bright there."""

    name = "looking"

    def __init__(self, boxes: Sequence[tuple[int, int, int, int]] = (BOX, (24, 24, 34, 34))) -> None:
        self.boxes, self.calls = boxes, list[int]()

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        self.calls.append(len(images))
        return [self._analysis(image) for image in images]

    def _analysis(self, image: Image.Image) -> Analysis:
        pixels = np.asarray(image, dtype=np.float64) / 255
        found = [
            Region(mask=None, box=box, name="hand", category=Category.ANATOMY, severity=pixels[y0:y1, x0:x1].mean())
            for box in self.boxes
            for x0, y0, x1, y1 in [box]
        ]
        return Analysis(size=Size(image.height, image.width), regions=tuple(found), detector=self.name)


class Bright:
    """A judge that likes dark images."""

    name = "dark"

    def __init__(self) -> None:
        self.calls = list[int]()

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        self.calls.append(len(images))
        return [-float(np.asarray(image).mean()) - len(prompt) for image, prompt in zip(images, prompts, strict=True)]


def config(**changes: Any) -> RefineConfig:
    return RefineConfig(**{"max_rounds": 2, "strengths": (0.5,), "min_burden_drop": 0.002, "dilate": 0.02, **changes})


def refined(pipe: Any = None, **options: Any) -> RefinedPipeline:
    parts = {
        "detector": Looking(),
        "judge": None,
        "config": config(),
        "call": {"num_inference_steps": STEPS},
        **options,
    }
    return RefinedPipeline(pipe or stable_diffusion(), **parts)


def far(first: Image.Image, second: Image.Image) -> float:
    """Share of the values that differ; none by more than a level."""
    steps = np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int))
    assert steps.max() <= 1
    return float((steps > 0).mean())


def decisions(result: RefinementResult) -> list[tuple[object, ...]]:
    return [
        (each.action, each.prompt, each.negative_prompt, each.seed, each.accepted, each.calls, each.error, each.note)
        for each in result.attempts
    ]


def assert_equal(together: Sequence[RefinementResult], alone: Sequence[RefinementResult]) -> None:
    """The same decisions and costs, and the same images within rounding."""
    assert list(map(decisions, together)) == list(map(decisions, alone))
    assert [(each.best, each.stop) for each in together] == [(each.best, each.stop) for each in alone]
    pairs = [
        pair for both in zip(together, alone, strict=True) for pair in zip(*(x.attempts for x in both), strict=True)
    ]
    shares = [far(one.image, other.image) for one, other in pairs if one.image is not None]
    assert np.mean(shares) < 0.002, shares  # weights are random here, so that images are mostly noise


def both_ways(pipe: RefinedPipeline, *args: Any, **options: Any) -> tuple[list[RefinementResult], ...]:
    return tuple(pipe(*args, seed=1, batch_images=size, **options).results for size in (None, 1))


SETTINGS: dict[str, dict[str, Any]] = {
    "auto": {},
    "inpaint": {"strategy": "inpaint"},
    "regenerate": {"strategy": "regenerate"},
    "without verification": {"keep": "last"},
    "several candidates": {"candidates": 2},
    "all regions in one pass": {"together": True},
    "the whole image in view": {"whole_image": True},
    "a negative prompt for each": {"negative_prompt": ["blur", "", "noise", "text"]},
    "images that were given": {"start_image": [noise(seed=seed) for seed in range(4)]},
    "marked regions": {"mask_image": Image.new("L", (64, 64), 255).crop((0, 0, 64, 64)), "strategy": "inpaint"},
    "a budget of rows": {"max_denoiser_rows": 3 * STEPS},
    "several strengths": {"severity_strength": 0.9, "mixed_strengths": 0.5},
    "one crop at a time": {"batch_size": 1},
    "a soft edge": {"soft_edge": 0.02},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_images_are_refined_as_one_by_one(settings: dict[str, Any]) -> None:
    together, alone = both_ways(refined(judge=Bright()), PROMPTS, **settings)
    assert_equal(together, alone)
    assert any(len(result.attempts) > 1 for result in together)


def test_prompts_of_a_second_text_encoder_and_several_images_of_a_prompt() -> None:
    pipe = refined(stable_diffusion_xl())
    second = ["a hand", "a cat", "a clock", "a sign"]
    assert_equal(*both_ways(pipe, PROMPTS, prompt_2=second))
    assert_equal(*both_ways(pipe, PROMPTS[:2], num_images_per_prompt=2))


TOGETHER = [row for row in FAMILIES if not any(fnmatchcase(row, name) for name in APART)]


def of_row(row: str) -> RefinedPipeline:
    call = {"num_inference_steps": 2, **ROWS[row].call}
    return refined(ROWS[row].build(), call=call, native=ROWS[row].native, config=config(max_rounds=1))


@pytest.mark.parametrize("row", TOGETHER)
def test_every_family_refines_given_images_as_one_by_one(row: str) -> None:
    prompts: Any = PROMPTS[0] if FAMILIES[row].single else PROMPTS[:2]
    given = {"start_image": [noise(seed=1), noise(seed=2)], "strategy": "inpaint"}
    assert_equal(*both_ways(of_row(row), prompts, **given))


@pytest.mark.parametrize("row", [row for row in TOGETHER if not FAMILIES[row].single])
def test_every_family_generates_new_images_as_one_by_one(row: str) -> None:
    options = {"strategy": "regenerate", "height": 64, "width": 64}
    pipe = of_row(row).with_parts(detector=Looking((BOX,)))
    together, alone = both_ways(pipe, PROMPTS[:2], **options)
    assert_equal(together, alone)
    assert [attempt.action for attempt in together[0].attempts] == ["generate", "regenerate"]


def test_each_model_is_called_once_a_round_for_all_images() -> None:
    pipe = refined(judge=Bright())
    sizes = list[int]()
    inner = pipe.pipe.unet.forward
    pipe.pipe.unet.forward = lambda sample, *args, **kw: (sizes.append(len(sample)), inner(sample, *args, **kw))[1]
    pipe(PROMPTS, seed=1, max_rounds=1, strategy="inpaint", guidance_scale=1.0)
    assert pipe.detector.calls[0] == pipe.judge.calls[0] == 4
    assert len(pipe.detector.calls) <= 4  # start, the patches, what was kept, and each patch by itself
    assert sizes[0] == 4
    assert max(sizes[STEPS:]) == 8  # two regions of each image
    sizes.clear()
    pipe(PROMPTS, seed=1, max_rounds=1, strategy="regenerate", guidance_scale=1.0)
    assert sizes == [4] * 2 * STEPS


@pytest.mark.parametrize("most", [1, 3])
def test_batch_size_bounds_the_calls_of_detector_and_judge(most: int) -> None:
    pipe = refined(judge=Bright())
    pipe(PROMPTS, seed=1, max_rounds=1, batch_size=most)
    assert max(pipe.detector.calls) == max(pipe.judge.calls) == most


@pytest.mark.parametrize("part", ["detector", "judge"])
def test_calls_that_need_too_much_memory_are_halved(part: str) -> None:
    pipe = refined(judge=Bright())
    model = getattr(pipe, part)
    inner = {"detector": "batch", "judge": "score"}[part]
    ask = getattr(model, inner)

    def limited(images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:
        if len(images) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return ask(images, prompts)

    expected = pipe(PROMPTS, seed=1).results
    setattr(model, inner, limited)
    assert_equal(pipe(PROMPTS, seed=1).results, expected)


def no_image_of(prompt: str) -> Callable[[Any, Sequence[Image.Image], Sequence[str]], list[Analysis]]:
    def batch(self: Looking, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Analysis]:
        if prompt in prompts:
            raise ZeroDivisionError("a bug")
        return [self._analysis(image) for image in images]

    return batch


def test_what_a_part_does_wrong_concerns_its_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = refined()(PROMPTS, seed=1).results
    monkeypatch.setattr(Looking, "batch", no_image_of(PROMPTS[1]))
    results = refined()(PROMPTS, seed=1).results
    assert results[1].attempts[-1].error == "ZeroDivisionError: a bug"
    assert results[1].stop == "failed"
    assert_equal([results[0], *results[2:]], [expected[0], *expected[2:]])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_ends_all_runs_and_leaves_no_thread(error: type[BaseException]) -> None:
    before, pipe = threading.active_count(), refined()

    def batch(*_: Any) -> list[Analysis]:
        raise error("stop")

    pipe.detector.batch = batch
    with pytest.raises(error):
        pipe(PROMPTS, seed=1, on_error="raise")
    assert threading.active_count() == before
    pipe.detector = Looking()
    assert len(pipe(PROMPTS, seed=1).results) == 4


def test_a_callback_hears_of_which_image_an_attempt_is_and_ends_that_one() -> None:
    heard = list[tuple[int, int]]()
    threads = set[int]()

    def hear(attempt: Attempt) -> bool:
        threads.add(threading.get_ident())
        heard.append((attempt.number, attempt.index))
        return attempt.number == 2

    results = refined()(PROMPTS, seed=1, callback_on_attempt=hear).results
    assert heard[:4] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert threads == {threading.get_ident()}
    assert results[2].stop == "interrupted"
    assert len(results[2].attempts) == 1
    assert all(len(results[number].attempts) > 1 for number in (0, 1, 3))
    assert [[each.number for each in result.attempts] for result in results] == [
        [number] * len(result.attempts) for number, result in enumerate(results)
    ]


def test_interrupt_ends_all_images_with_what_they_have() -> None:
    pipe = refined()
    results = pipe(
        PROMPTS, seed=1, callback_on_attempt=lambda attempt: attempt.number == 1 and pipe.interrupt()
    ).results
    assert [result.stop for result in results] == ["interrupted"] * 4
    assert all(result.image is not None for result in results)


def test_models_run_in_the_thread_of_the_caller_with_its_settings_of_torch() -> None:
    seen = set[tuple[int, bool]]()
    pipe = refined()
    look = pipe.detector._analysis
    pipe.detector._analysis = lambda image: (seen.add((threading.get_ident(), torch.is_grad_enabled())), look(image))[1]
    with torch.no_grad():
        pipe(PROMPTS, seed=1)
    assert seen == {(threading.get_ident(), False)}


def test_seconds_of_the_images_add_up_to_the_time_of_the_call() -> None:
    pipe = refined()
    began = time.monotonic()
    results = pipe(PROMPTS, seed=1).results
    took = time.monotonic() - began
    assert sum(attempt.seconds for result in results for attempt in result.attempts) <= took


@pytest.mark.parametrize("strategy", ["inpaint", "regenerate"])
def test_what_a_failed_call_for_several_images_cost_is_counted_and_each_is_tried_alone(strategy: str) -> None:
    given = [noise(seed=seed) for seed in range(3)]
    rows, calls = list[int](), list[int]()

    def fail(_: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(args[0] if args else kwargs["sample"]))
        calls.append(rows[-1])
        if rows[-1] > 2 and len(calls) > 1:  # the second step of a batch
            raise ZeroDivisionError("a bug that only a batch shows")

    pipe = refined(detector=Looking((BOX,)), call={"num_inference_steps": STEPS, "guidance_scale": 1.0})
    with pipe.pipe.unet.register_forward_pre_hook(fail, with_kwargs=True):
        results = pipe(PROMPTS[:3], seed=1, max_rounds=1, strategy=strategy, start_image=given).results
    assert all(result.attempts[1].error is None for result in results)
    spent = sum(attempt.calls.denoiser_rows for result in results for attempt in result.attempts)
    assert spent in (sum(rows), sum(rows) - 3)  # the pass that failed may be counted or not
    assert spent > sum(size for size in rows if size == 1)


def test_a_language_model_revises_the_prompts_of_all_images_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    settle_environment(monkeypatch)
    server = FaultyServer(latency=0.05, late=1, share=0)
    try:
        pipe = refined(reviser=f"chat:m@{server.url},concurrency=8", config=config(strategy="regenerate", max_rounds=1))
        pipe(PROMPTS, seed=1)
        assert server.most >= 3
    finally:
        server.stop()


def test_a_server_gets_the_requests_of_all_images_at_the_same_time() -> None:
    server = FaultyServer(latency=0.05, late=1, share=0)
    try:
        pipe = refined(detector=f"vlm:Qwen3-VL@{server.url},grounder=box,concurrency=8", config=config(max_rounds=1))
        results = pipe(PROMPTS, seed=1).results
        assert server.most >= len(PROMPTS)
        asked = [ledger.calls for result in results for ledger in result.costs.values()]
        assert sum(asked) == server.seen.total()
        assert min(asked) > 0
        tokens = [ledger.prompt_tokens for result in results for ledger in result.costs.values()]
        assert sum(tokens) == 10 * server.paid.total()
    finally:
        server.stop()


def test_the_regions_of_all_images_go_to_a_hosted_editor_or_the_pipeline_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settle_environment(monkeypatch)
    server = EditServer(lambda fields: (time.sleep(0.02), good(fields))[1])
    try:
        tools = config(tools=("inpaint", "edit"), max_rounds=2, patience=2)
        pipe = refined(editor=f"edit:painter@{server.url}", config=tools, call={"num_inference_steps": 1})
        given = [noise(seed=seed) for seed in range(4)]
        together, alone = both_ways(pipe, PROMPTS, start_image=given)
        assert_equal(together, alone)
        tried = {repair.tool for result in together for attempt in result.attempts for repair in attempt.repairs}
        assert tried == {"edit", "inpaint"}
        assert server.most >= len(PROMPTS)
        asked = [ledger.calls for result in (*together, *alone) for ledger in result.costs.values()]
        assert sum(asked) == len(server.asked)
    finally:
        server.stop()


def test_a_candidate_is_picked_by_hand_afterwards() -> None:
    results = refined()(PROMPTS, seed=1, keep_candidates=True, candidates=2, strategy="inpaint").results
    picked = results[1].with_choice({0: 1})
    assert picked.attempts[-1].by == "hand"
    assert picked.attempts[-1].analysis is not None


def test_the_record_says_so_and_replay_explains_a_difference() -> None:
    pipe = refined()
    alone, together = (pipe(PROMPTS, seed=1, batch_images=size).results[0] for size in (1, None))
    assert "images_together" not in alone.settings
    assert together.settings["images_together"] == 4
    assert pipe.replay(to_record(alone, {}, {})).image.tobytes() == alone.image.tobytes()
    with pytest.raises(ConfigError, match=r"4 images were refined together.*batch_images=1"):
        pipe.replay({**to_record(together, {}, {}), "picture": "0" * 64})


class Adding:
    """Adds up what is asked, and notes how many ask."""

    def __init__(self, rank: int) -> None:
        self.rank, self.sizes = rank, list[int]()

    def serve(self, items: Sequence[int]) -> list[int]:
        self.sizes.append(len(items))
        return [item + 1 for item in items]


def test_the_scheduler_waits_for_all_tasks_before_a_service_answers() -> None:
    first, last, scheduler = Adding(0), Adding(1), Scheduler()

    def task(number: int) -> int:
        for _ in range(number):
            number = scheduler.ask(first, number)
        return scheduler.ask(last, number)

    assert scheduler.run([lambda number=number: task(number) for number in range(4)]) == [1, 3, 5, 7]
    assert (first.sizes, last.sizes) == ([3, 2, 1], [4])
    assert scheduler.ask(first, 1) == 2  # outside a run


def test_a_task_that_fails_ends_the_others_where_they_wait() -> None:
    service, scheduler, ended = Adding(0), Scheduler(), list[int]()

    def task(number: int) -> None:
        try:
            scheduler.ask(service, number)
            if number == 1:
                raise BadAnswerError("no")
            scheduler.ask(service, number)
        finally:
            ended.append(number)

    with pytest.raises(RefinerError, match="no"):
        scheduler.run([lambda number=number: task(number) for number in range(3)])
    assert sorted(ended) == [0, 1, 2]
    assert service.sizes == [3]
