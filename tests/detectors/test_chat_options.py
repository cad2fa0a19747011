"""The options of chat models: in ids, from the command line, for each family that has a chat model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.chat_servers import settle_environment
from support.odd_servers import OddServer, said

from refiner.detectors.chat.endpoint import EndpointChat
from refiner.detectors.chat.loading import load_chat
from refiner.detectors.chat.options import OPTIONS, EndpointSettings, read_options, with_options
from refiner.detectors.grounded import GroundedDetector, boxes_of
from refiner.detectors.ids import ModelId, parse_id
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.registry import FAMILIES, detector_needs, families, load_detector
from refiner.errors import ConfigError
from refiner.pipelines.revisers.chat import load_reviser, reviser_needs
from refiner.pipelines.revisers.template import TemplateReviser

URL = "http://127.0.0.1:1/v1"
CHATS = ["vlm", "fakexplain", "anomreason", "anomagent", "semantic", "checklist"]
"""Families of detectors that ask a chat model."""
VALUES: dict[str, tuple[str, Any]] = {
    "timeout": ("60.5", 60.5), "concurrency": ("3", 3), "attempts": ("2", 2), "max_side": ("640", 640),
    "max_tokens": ("999", 999), "temperature": ("0.25", 0.25), "quality": ("80", 80), "thinking": ("off", False),
    "extra_body": ('{"a": 1, "b": {"c": [2, "x,y=z"]}}', {"a": 1, "b": {"c": [2, "x,y=z"]}}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    settle_environment(monkeypatch)


def backend_of(detector: object) -> EndpointChat:
    assert isinstance(detector, GroundedDetector)
    assert isinstance(detector.backend, EndpointChat)
    return detector.backend


@pytest.mark.parametrize("family", CHATS)
def test_each_option_reaches_the_endpoint_of_each_family(family: str) -> None:
    text = "".join(f",{name}={value}" for name, (value, _) in VALUES.items())
    model = f"{family}:Qwen/Qwen3-VL-8B-Instruct@{URL}"
    assert detector_needs(f"{model}{text},grounder=box") == []
    detector = load_detector(f"{model}{text},grounder=box,boxes=pixels-yxyx")
    chat = backend_of(detector)
    assert {name: getattr(chat.settings, name) for name in VALUES} == {n: value for n, (_, value) in VALUES.items()}
    assert isinstance(detector, GroundedDetector)
    assert detector.boxes == BoxFormat(scale="pixels", order="yxyx")
    assert "temperature 0.25" in detector.name
    assert backend_of(load_detector(f"{model},grounder=box")).settings == EndpointSettings()


def test_these_are_all_families_with_a_chat_model() -> None:
    import importlib

    found = []
    for name in FAMILIES:
        module, _, attribute = families()[name].partition(":")
        if set(OPTIONS) <= set(getattr(importlib.import_module(module), attribute).options):
            found.append(name)
    assert sorted(found) == sorted(CHATS)


def test_a_reviser_has_them_too() -> None:
    text = "".join(f",{name}={value}" for name, (value, _) in VALUES.items())
    assert reviser_needs(f"chat:m@{URL}{text}") == []
    reviser = load_reviser(f"chat:m@{URL}{text}", TemplateReviser())
    assert reviser.backend.settings.timeout == 60.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("timeout=0", "timeout .* from 0.001 to 86400"), ("timeout=soon", "write timeout=SECONDS"),
        ("timeout=nan", "write timeout"), ("timeout=1e9", "write timeout"), ("timeout=", "Expected the options"),
        ("concurrency=0", "concurrency .* from 1"), ("concurrency=2.5", "whole number"), ("concurrency=²", "whole"),
        (f"concurrency={'9' * 5000}", "whole number"), ("attempts=-1", "whole number"), ("max_side=0", "max_side"),
        ("max_tokens=99999999", "max_tokens"), ("temperature=3", "temperature .* from 0 to 2"),
        ("quality=101", "quality .* from 1 to 100"), ("thinking=maybe", "thinking=on.off"),
        ("boxes=thirds", "'unit' or 'thousand' or 'pixels'"), ("boxes=unit-xxyy", "'xyxy' or 'yxyx'"),
        ("extra_body={", "JSON"), ("extra_body={}x", "extra_body"), ('extra_body={"model": "x"}', "'model'"),
        ('extra_body={"a": NaN}', "extra_body"), ("extra_body=/no/such/file.json", "extra_body"),
        ("speed=9", "Expected the options"), ("adapter=x", "serve the adapter there"),
    ],
)  # fmt: skip
def test_a_bad_option_is_refused_in_one_sentence_before_anything_is_asked(option: str, message: str) -> None:
    for find in (detector_needs, load_detector):
        with pytest.raises(ConfigError, match=message) as caught:
            find(f"vlm:m@{URL},{option}")
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.where == "endpoint"])
def test_what_needs_a_server_is_refused_for_a_model_that_runs_here(name: str) -> None:
    value = {"cache": "folder"}.get(name) or VALUES[name][0]
    with pytest.raises(ConfigError, match="works only with an endpoint"):
        read_options(ModelId(model="owner/model", options={name: value}))


def test_options_of_the_command_line_are_put_into_each_id_and_those_in_an_id_count_more(tmp_path: Path) -> None:
    options = {"timeout": 7, "thinking": False, "extra_body": {"a": 1, "b": "x, y"}}
    told = with_options(f"vlm:m@{URL},timeout=9,grounder=box", options)
    found = read_options(parse_id(told.removeprefix("vlm:").removesuffix(",grounder=box"), tuple(OPTIONS)))
    assert (found.settings.timeout, found.settings.thinking) == (9, False)
    assert found.settings.extra_body == {"a": 1, "b": "x, y"}
    edited = with_options(f"edit:m@{URL}", {"timeout": 7, "thinking": False})
    assert edited == f"edit:m@{URL},timeout=7", "an edit model gets the options that it has"
    joint = load_detector(with_options(f"joint:vlm:a@{URL},grounder=box+vlm:b@{URL},grounder=box", {"timeout": 7}))
    assert [backend_of(part).settings.timeout for part in joint.parts] == [7, 7]  # type: ignore[attr-defined]
    file = tmp_path / "body.json"
    file.write_text('\ufeff{"a": 2}', encoding="utf-8")
    assert backend_of(load_detector(f"vlm:m@{URL},extra_body={file}")).settings.extra_body == {"a": 2}
    for bad in ({"speed": 1}, {"cache": "a,b"}, {"cache": ""}):
        with pytest.raises(ConfigError):
            with_options(f"vlm:m@{URL}", bad)


MODELS = [
    {"id": "served", "root": "Qwen/Qwen3-VL-8B-Instruct", "parent": None},
    {"id": "tuned", "root": "/adapters/tuned", "parent": "served"},
    {"id": "loop", "root": "loop", "parent": "loop"}, {"id": "odd", "root": 5, "parent": ["x"]},
    {"id": "old", "root": "models/Qwen2.5-VL-7B"},
]  # fmt: skip
THOUSAND, PIXELS, UNIT = (BoxFormat(scale=scale) for scale in ("thousand", "pixels", "unit"))


@pytest.mark.parametrize(
    ("model", "models", "form", "listings"),
    [
        ("served", {"data": MODELS}, THOUSAND, 1),
        ("tuned", {"data": MODELS}, THOUSAND, 1),
        ("old", {"data": MODELS}, PIXELS, 1),
        ("loop", {"data": MODELS}, UNIT, 1),
        ("odd", {"data": MODELS}, UNIT, 1),
        ("any name", {"data": MODELS[:1]}, THOUSAND, 1),
        ("not listed", {"data": MODELS}, UNIT, 1),
        ("Qwen/Qwen2.5-VL-7B-Instruct", {"data": MODELS[:1]}, PIXELS, 0),
        ("m", None, UNIT, 1), ("m", {}, UNIT, 1), ("m", [], UNIT, 1), ("m", {"data": "no"}, UNIT, 1),
        ("m", {"data": [1, None]}, UNIT, 1), ("m", b"[" * 100_000, UNIT, 1), ("m", b"\xff", UNIT, 1),
    ],
)  # fmt: skip
def test_the_server_is_asked_what_it_serves_where_the_name_does_not_tell(
    model: str, models: Any, form: BoxFormat, listings: int
) -> None:
    server = OddServer(lambda body: said("{}"), models)
    chat = load_chat(ModelId(model=model, base_url=server.url))
    assert boxes_of(chat) == form
    assert server.listings == listings
    assert boxes_of(chat, "pixels-yxyx") == BoxFormat(scale="pixels", order="yxyx"), "what is told decides"
    assert server.bodies == []
    server.stop()


def test_a_server_that_is_not_there_costs_no_load() -> None:
    assert boxes_of(load_chat(ModelId(model="m", base_url=URL))) == UNIT


def test_the_same_question_to_another_server_is_answered_from_the_cache(tmp_path: Path) -> None:
    from PIL import Image

    answer = json.dumps({"regions": [{"name": "hand", "bbox_2d": [100, 100, 300, 300]}], "verdicts": []})
    servers = [OddServer(lambda body: said(answer)) for _ in range(3)]
    for server, more in zip(servers, ("", "", ",temperature=0.5"), strict=True):
        model = f"vlm:Qwen/Qwen3-VL@{server.url},grounder=box,cache={tmp_path}{more}"
        (region,) = load_detector(model)(Image.new("RGB", (64, 64))).regions
        assert region.box is not None
        server.stop()
    assert [len(server.bodies) for server in servers] == [2, 0, 2], "and what decides the answer decides its place"
