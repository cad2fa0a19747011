"""Arguments written as text: read as the type that they have, for every setting and every family."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

diffusers = pytest.importorskip("diffusers")

from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefineConfig  # noqa: E402
from refiner.pipelines.loading.written import (  # noqa: E402
    call_hints,
    class_named,
    config_hints,
    nearest,
    read_argument,
    readings,
    source_hints,
)
from refiner.pipelines.painting.families import FAMILIES  # noqa: E402

CONFIG = asdict(RefineConfig())


def read(name: str, text: str, hint: Any) -> Any:
    return read_argument(name, readings(text), hint)


@pytest.mark.parametrize("name", CONFIG)
def test_every_setting_of_the_loop_is_read_back(name: str) -> None:
    text = CONFIG[name] if isinstance(CONFIG[name], str) else json.dumps(CONFIG[name])
    found = read(name, text, config_hints()[name])
    assert RefineConfig(**{name: found}) == RefineConfig()
    if "Sequence" not in str(config_hints()[name]):  # these are read as lists
        assert found == CONFIG[name]
        assert type(found) is type(CONFIG[name])


@pytest.mark.parametrize("name", CONFIG)
def test_a_setting_of_another_type_is_refused(name: str) -> None:
    wrong = "[1]" if name == "inpaint_call" else '{"a": 1}'
    if isinstance(CONFIG[name], str) and name == "negative_prompt":
        assert read(name, wrong, config_hints()[name]) == wrong  # any text is a prompt
        return
    with pytest.raises(ConfigError, match=rf"Expected {name} of type .+, got .+: change it\."):
        read(name, wrong, config_hints()[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_source_of_a_class_tells_the_same_as_the_class(family: str) -> None:
    cls = class_named(family)
    assert cls is not None
    known, read = call_hints(cls), source_hints(family)
    assert {name: read.get(name) for name in known} == known
    assert {read[name] for name in read.keys() - known.keys()} <= {Any}, "what cannot be written needs other libraries"


def test_a_class_that_diffusers_does_not_have_has_no_source() -> None:
    assert source_hints("NoSuchPipeline") == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_arguments_of_every_family_are_known_without_weights(family: str) -> None:
    cls = class_named(family)
    assert cls is not None
    hints = call_hints(cls)
    guidance = "distilled_guidance_scale" if family == "HunyuanImagePipeline" else "guidance_scale"
    assert {"num_inference_steps", guidance} <= hints.keys()
    assert not hints.keys() & {"prompt", "image", "generator", "latents", "prompt_embeds", "callback_on_step_end"}
    assert read("num_inference_steps", "4", hints["num_inference_steps"]) == 4
    assert read(guidance, "1.5", hints[guidance]) == 1.5
    for text in ("0", "4.5", "true", "four"):
        with pytest.raises(ConfigError):
            read("num_inference_steps", text, hints["num_inference_steps"])


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("[1024, 512]", tuple[int, int] | None, (1024, 512)),
        ("[9, 18, 27]", tuple[int], (9, 18, 27)),
        ("null", tuple[int, int] | None, None),
        ("[1, 0.5]", list[float], [1, 0.5]),
        ('{"scale": 0.5}', dict[str, Any] | None, {"scale": 0.5}),
        ("123", str | list[str] | None, "123"),
        ("NaN", str, "NaN"),
        ("a=b", str, "a=b"),
        ("false", bool, False),
        ("[1", Any, "[1"),
    ],
)
def test_values_are_json_where_that_fits_and_else_text(text: str, hint: Any, value: Any) -> None:
    found = read("name", text, hint)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("[1]", tuple[int, int]), ("NaN", float), ("1e999", float), ("1", bool), ("[true]", list[int]), ("null", int)],
)
def test_values_that_do_not_fit_are_refused(text: str, hint: Any) -> None:
    with pytest.raises(ConfigError):
        read("name", text, hint)


def test_the_nearest_names_are_told() -> None:
    assert nearest("dilat", ["dilate", "order"]).startswith("dilate")
    assert nearest("zzz", ["dilate", "order"]) == "dilate or order"
