"""Edit models behind an endpoint as the ``inpainter=``."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import KEY, settle_environment
from support.edit_servers import Answer, EditServer, Fields, edited, good, refusing, shown
from support.repairs import NOISE, PROMPT
from support.tiny_editors import plain
from support.tiny_pipelines import stable_diffusion

from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import ConfigError
from refiner.ledger import Price, Prices
from refiner.pipelines import RefineConfig, RefinedPipeline
from refiner.taxonomy import Category
from refiner.types import Analysis, RefinementResult, Region, Size

pytestmark = NOISE
BOXES = ((8, 8, 20, 20), (60, 60, 76, 76))
GIVEN = plain(96, 96, seed=3)
FAST = "attempts=2,max_side=64,timeout=5"

Serve = Callable[..., EditServer]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    settle_environment(monkeypatch)
    servers = list[EditServer]()

    def start(script: Callable[[Fields], Answer] = good) -> EditServer:
        servers.append(EditServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@functools.cache
def generator() -> Any:
    return stable_diffusion()


def two_flaws() -> ScriptedDetector:
    """A detector that finds two flaws, which are less severe each time."""
    severities = iter(0.8**n for n in range(1000))

    def look(image: Image.Image) -> Analysis:
        own = {"name": "hand", "explanation": "six fingers", "category": Category.ANATOMY}
        severity = next(severities)
        regions = [Region(mask=None, box=box, severity=severity, **own) for box in BOXES]
        return Analysis(size=Size(image.height, image.width), regions=tuple(regions), detector="two")

    return ScriptedDetector(look)


def refined(server: EditServer, options: str = FAST, **config: Any) -> RefinedPipeline:
    config = {"max_rounds": 1, "strategy": "inpaint", **config}
    return RefinedPipeline(
        generator(), detector=two_flaws(), config=RefineConfig(**config), inpainter=f"edit:m@{server.url},{options}"
    )


def run(pipe: RefinedPipeline, **options: Any) -> RefinementResult:
    pipe.detector = two_flaws()
    return pipe(PROMPT, start_image=GIVEN, seed=1, **options).results[0]


def changed(image: Image.Image) -> list[float]:
    """The shares of the pixels of both flaws that were changed."""
    differs = (np.asarray(image) != np.asarray(GIVEN)).any(axis=2)
    return [float(differs[y0:y1, x0:x1].mean()) for x0, y0, x1, y1 in BOXES]


def scripted(*answers: Callable[[Fields], Answer]) -> Callable[[Fields], Answer]:
    """Answers in this order; the last one for all later requests."""
    queue, lock = chain(answers, repeat(answers[-1])), threading.Lock()

    def answer(fields: Fields) -> Answer:
        with lock:
            following = next(queue)
        return following(fields)

    return answer


def test_regions_are_edited_by_instructions_in_parallel_and_paid_once(serve: Serve, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=10)
    server = serve(lambda fields: (both.wait(), good(fields))[1])
    pipe = refined(server, f"{FAST},cache={tmp_path / 'cache'}", negative_prompt="blur")
    result = run(pipe)
    attempt = result.attempts[1]
    assert result.best == 1, attempt.error
    assert min(changed(result.image)) > 0.5
    assert not (np.asarray(result.image) != np.asarray(GIVEN)).any(axis=2)[~attempt.painted].any()
    assert server.most == 2
    for fields in server.asked:
        assert fields["path"] == "/v1/images/edits"
        assert (fields["model"], fields["n"], fields["response_format"]) == ("m", "1", "b64_json")
        assert fields["prompt"].startswith("Give the hand its natural anatomy: six fingers.")
        assert fields["prompt"].endswith("Do not show: blur.")
        image, mask = (Image.open(io.BytesIO(fields[name])) for name in ("image", "mask"))
        assert (image.mode, mask.mode) == ("RGB", "RGBA")
        assert fields["size"] == f"{image.width}x{image.height}" == f"{mask.width}x{mask.height}"
        assert 0 < (np.asarray(mask)[..., 3] == 0).mean() < 1
    assert len({fields["seed"] for fields in server.asked}) == 2
    costs = result.costs["m"]
    assert (costs.calls, costs.images, costs.prompt_tokens, costs.completion_tokens) == (2, 2, 14, 10)
    assert Prices(models={"m": Price(image=0.04)}).cost("m", costs) == 0.08
    again = run(pipe)
    assert again.image.tobytes() == result.image.tobytes()
    assert (again.costs["m"].calls, again.costs["m"].cached, len(server.asked)) == (0, 2, 2)
    assert again.costs["m"].images == 0, "an image from the cache costs nothing"


PASSING = {
    "429": refusing(429, "slow down"),
    "500": refusing(500, "oops"),
    "a dropped connection": None,
    "no JSON": (200, b"<html>"),
}
LASTING = {
    "a refusal": (refusing(400, "Your request was rejected by the safety system", code="moderation_blocked"), "safety"),
    "no image": (shown(b"GIF89a nothing of the kind"), "not a usable image"),
    "a URL": ((200, {"data": [{"url": "http://127.0.0.1:1/x.png"}]}), "without an image in b64_json"),
    "a huge image": (shown(b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
        "0000000d49484452000186a0000186a00802000000") + bytes(4)), "not a usable image"),
    "another image": (shown(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))),
                      "another image than the region"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_faults_that_pass_are_tried_again(fault: str, serve: Serve) -> None:
    answer = PASSING[fault]
    server = serve(scripted(lambda _: answer, good))
    result = run(refined(server, f"{FAST},concurrency=1"))
    assert result.best == 1
    assert min(changed(result.image)) > 0.5
    assert (result.costs["m"].calls, result.costs["m"].retries) == (3, 1)


@pytest.mark.parametrize("fault", LASTING)
def test_a_region_whose_request_fails_keeps_its_pixels_and_a_remark_says_why(fault: str, serve: Serve) -> None:
    answer, told = LASTING[fault]
    result = run(refined(serve(scripted(lambda _: answer, good)), f"{FAST},concurrency=1"))
    assert result.best == 1
    assert sorted(share > 0.5 for share in changed(result.image)) == [False, True]
    assert sorted(changed(result.image))[0] == 0
    assert "1 of 2 crops are unchanged" in result.attempts[1].note
    assert told in result.attempts[1].note
    assert KEY not in result.attempts[1].note
    failed = run(refined(serve(lambda _: answer)))
    assert failed.image.tobytes() == GIVEN.tobytes()
    assert told in failed.attempts[1].error
    assert KEY not in failed.attempts[1].error


def test_an_answer_of_another_size_is_fitted(serve: Serve) -> None:
    result = run(refined(serve(lambda fields: shown(edited(fields).resize((50, 70))))))
    assert result.best == 1
    assert min(changed(result.image)) > 0.5
    assert result.costs["m"].uncounted == 2


@pytest.mark.parametrize("field", ["mask", "size", "response_format", "seed", "n"])
def test_a_field_that_the_server_refuses_is_left_out_from_then_on(field: str, serve: Serve) -> None:
    def strict(fields: Fields) -> Answer:
        told = refusing(400, f"Unknown parameter: '{field}'.", param=field)
        return told if field in fields else good({"mask": _whole_mask(fields), **fields})

    server = serve(strict)
    result = run(refined(server, f"{FAST},concurrency=1", max_rounds=2))
    assert result.best == 2
    assert [field in fields for fields in server.asked] == [True, False, False, False, False]
    assert ("takes no seed" in result.attempts[1].note) == (field == "seed")


def _whole_mask(fields: Fields) -> bytes:
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(fields["image"])).convert("RGBA")
    picture.putalpha(0)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_further_fields_are_those_of_extra_body_and_own_ones_are_refused(serve: Serve) -> None:
    server = serve()
    run(refined(server, f'{FAST},extra_body={{"quality": "high"}}'))
    assert all(fields["quality"] == "high" for fields in server.asked)
    with pytest.raises(ConfigError, match="'prompt' of a request cannot be set by extra_body"):
        refined(server, 'extra_body={"prompt": "x"}')
    for option in ("thinking=off", "temperature=1", "max_tokens=9", "boxes=unit"):
        with pytest.raises(ConfigError, match=f"got {option.split('=')[0]}="):
            refined(server, option)
    with pytest.raises(ConfigError, match="edit:MODEL@URL"):
        RefinedPipeline(generator(), detector=two_flaws(), inpainter="edit:m")
    with pytest.raises(ConfigError, match=r"quality .in inpaint_call=. is not taken by a hosted edit model"):
        refined(server).with_parts(inpaint_call={"quality": "high"})
    with pytest.raises(ConfigError, match="strengths has no effect with HostedEditor"):
        run(refined(server, strengths=(0.3,)))


def test_a_key_that_is_not_accepted_ends_the_run_with_advice(serve: Serve) -> None:
    result = run(refined(serve(lambda _: refusing(401, f"bad key {KEY}")), max_rounds=3))
    assert (result.stop, len(result.attempts)) == ("failed", 2)
    assert "set the environment variable OPENAI_API_KEY" in result.attempts[1].error
    assert KEY not in result.attempts[1].error


def test_the_id_is_saved_but_one_of_another_machine_must_be_given_again(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    pipe = refined(server)
    assert "HostedEditor" in repr(pipe)
    pipe.to("cpu")
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = RefinedPipeline.from_pretrained(tmp_path, detector=two_flaws())
    assert again.ids["inpainter"] == pipe.ids["inpainter"]
    again.set_progress_bar_config(disable=True)
    assert run(again).image.tobytes() == run(pipe).image.tobytes()
    settings = tmp_path / "refiner.json"
    settings.write_text(settings.read_text().replace("127.0.0.1", "edits.invalid"))
    with pytest.raises(ConfigError, match="The inpainter saved with this pipeline sends data to another machine"):
        RefinedPipeline.from_pretrained(tmp_path, detector=two_flaws())
