"""RefineConfig: numbers of numpy, what is no number, and its help."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import Field, asdict, fields
from pydoc import plaintext, render_doc

import numpy as np
import pytest

from refiner.errors import ConfigError
from refiner.pipelines import RefineConfig
from refiner.pipelines.saving.settings import config_from

NUMBERS = [field for field in fields(RefineConfig) if field.type in ("int", "int | None", "float", "float | None")]


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float64, np.float32])
def test_numbers_of_numpy_are_numbers(field: Field, kind: type) -> None:
    """They become Python's, so that a config equals its copy from JSON."""
    default = getattr(RefineConfig(), field.name)
    usual = {"max_denoiser_rows": 100, "max_seconds": 4.0, "seed": 5, "batch_images": 2}.get(field.name, default)
    whole = "int" in field.type
    number = kind(usual)
    if whole and issubclass(kind, np.floating):
        with pytest.raises(ConfigError, match=rf"RefineConfig\.{field.name} must be a whole number"):
            RefineConfig(**{field.name: number})
    elif number == usual:
        config = RefineConfig(**{field.name: number})
        assert type(getattr(config, field.name)) in (int, float)
        assert config_from(json.loads(json.dumps(asdict(config)))) == config


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
@pytest.mark.parametrize("value", [True, np.True_, "1", [1], 1j])
def test_what_is_no_number_is_refused_by_the_name_of_the_setting(field: Field, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"RefineConfig\.{field.name} must be a"):
        RefineConfig(**{field.name: value})


@pytest.mark.parametrize("strengths", [[0.5, 1], np.array([0.5, 1.0]), (np.float32(0.5), np.int64(1))])
def test_strengths_may_be_any_sequence_of_numbers(strengths: Sequence[float]) -> None:
    assert RefineConfig(strengths=strengths) == RefineConfig(strengths=(0.5, 1.0))
    assert json.dumps(asdict(RefineConfig(strengths=strengths)))


@pytest.mark.parametrize("strengths", [0.5, (), (True,), ("0.5",), None])
def test_other_strengths_are_refused(strengths: object) -> None:
    with pytest.raises(ConfigError, match=r"RefineConfig\.strengths must be one or more numbers"):
        RefineConfig(strengths=strengths)


@pytest.mark.parametrize("field", fields(RefineConfig), ids=lambda field: field.name)
def test_help_explains_every_setting(field: Field) -> None:
    """As ``name: text``, or ``name, name: text``, in the list of arguments."""
    said = render_doc(RefineConfig, renderer=plaintext)
    assert re.search(rf"^ \|\s+(\w+, )*{field.name}(, \w+)*: \S", said, re.MULTILINE)
