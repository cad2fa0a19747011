"""The public edge: what ``import refiner`` gives, exactly."""

import importlib
import inspect
import subprocess
import sys
from importlib import metadata

import pytest

import refiner
from refiner import errors

NAMES = [
    "Analysis",
    "Attempt",
    "Category",
    "ModelError",
    "RefineConfig",
    "RefinedPipeline",
    "RefinementResult",
    "RefinerError",
    "Region",
    "UserError",
    "load_detector",
    "load_image",
]


def test_the_front_door_has_exactly_these_names():
    assert refiner.__all__ == NAMES
    assert set(NAMES) <= set(dir(refiner))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_leads_to_the_thing_itself(name):
    value = getattr(refiner, name)
    assert value.__name__ == name
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert inspect.getdoc(value)


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = refiner.torch


def test_the_version_is_the_installed_one():
    assert refiner.__version__ == metadata.version("diffusers-refiner")


def test_the_front_door_opens_without_heavy_libraries():
    """All names but the pipeline and the detectors are usable where torch cannot even be imported."""
    code = """
import sys
for name in ("torch", "diffusers", "transformers", "gradio"):
    sys.modules[name] = None
import refiner
assert refiner.Region and refiner.Category and refiner.RefinerError and refiner.load_image
assert refiner.RefineConfig and refiner.RefinedPipeline and refiner.load_detector
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def drawn(error):
    return [error.__name__, *(name for child in error.__subclasses__() for name in drawn(child))]


def test_the_exception_tree_is_the_one_that_its_module_draws():
    drawing = [word for word in errors.__doc__.split() if word.endswith("Error")]
    assert drawn(errors.RefinerError) == drawing
