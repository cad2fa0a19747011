"""The laws that hold for every row of ``FAMILIES``, whether it is the pipeline or the ``inpainter=``."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from diffusers import DiffusionPipeline  # noqa: E402
from support.repairs import BOX, NOISE, PROMPT, STEPS, pictures, relenting, weights  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.errors import ConfigError  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.painting.arguments import KINDS  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import FAMILIES, denoiser_of, family_of, inpaints, takes  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings, repainter  # noqa: E402
from refiner.types import RefinementResult  # noqa: E402

pytestmark = NOISE
ROLES = ("pipe", "inpainter")
CONFIG = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint")


@functools.cache
def built(row: str) -> DiffusionPipeline:
    return ROWS[row].build()


@functools.cache
def generator() -> DiffusionPipeline:
    """The pipeline that generates where a row is the inpainter."""
    return stable_diffusion()


def options_of(row: str) -> dict[str, Any]:
    return {"num_inference_steps": STEPS, **ROWS[row].call}


def refined(row: str, role: str, pipe: DiffusionPipeline | None = None, **call: Any) -> RefinedPipeline:
    """Wrap a row's pipeline in one of its roles, with arguments of its call."""
    pipe, native, call = pipe or built(row), ROWS[row].native, {**options_of(row), **call}
    if role == "pipe":
        return RefinedPipeline(pipe, detector=relenting(), config=CONFIG, call=call, native=native)
    return RefinedPipeline(
        generator(), detector=relenting(), config=CONFIG, call={"num_inference_steps": 2}, inpainter=pipe,
        inpaint_call=call, native=native,
    )  # fmt: skip


def mended(pipe: RefinedPipeline, **options: Any) -> RefinementResult:
    """A refinement whose last image has an inpainted region."""
    pipe.detector = relenting()
    result = pipe(PROMPT, **{"seed": 1, **options}).results[0]
    assert result.best == len(result.attempts) - 1 == 1, result.attempts[-1].error
    return result


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Law 1: the first images are one call of the wrapped pipeline


@pytest.mark.parametrize("row", FAMILIES)
def test_the_first_images_are_one_call_of_the_wrapped_pipeline(row: str) -> None:
    call = {"prompt": ["a hand", "a sand"], "height": 32, "width": 32, "output_type": "np", **options_of(row)}
    plain = built(row)(**call, generator=seeded(3)).images
    ours = refined(row, "pipe")(**call, generator=seeded(3), max_rounds=0).images
    assert np.array_equal(ours, plain)


@contextmanager
def noting(pipe: DiffusionPipeline, made: bool = True) -> Iterator[list[dict[str, Any]]]:
    """Note the arguments of a pipeline's calls, and of calls of its twin, with the scheduler of each call."""
    calls = list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        for cls in {type(pipe), type(repainter(pipe))}:
            inner = cls.__call__

            @functools.wraps(inner)
            def call(self: Any, *args: Any, inner: Any = inner, **options: Any) -> Any:
                calls.append({**options, "scheduler": self.scheduler})
                return inner(self, *args, **options)

            patch.setattr(cls, "__call__", call)
        yield calls


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", FAMILIES)
def test_a_repaint_uses_what_the_image_was_painted_with(row: str, role: str) -> None:
    pipe = ROWS[row].build()
    pipe.scheduler.of_the_user = object()
    given = {
        name: each.default * 1.25
        for name, each in takes(pipe).items()
        if isinstance(each.default, float) and name not in KINDS and name not in ROWS[row].call
    }
    assert given
    heard = list[Any]()
    inner = pipe.encode_prompt
    pipe.encode_prompt = functools.wraps(inner)(lambda *args, **kw: (heard.append(args), inner(*args, **kw))[1])
    with noting(pipe) as calls:
        mended(refined(row, role, pipe), **(given if role == "pipe" else {}))
        print(role, [sorted(c) for c in calls])
    assert len(calls)==(2 if role=="pipe" else 1)
    print(len(heard))
    assert len(heard)>=len(calls)
    for call in calls:
        if role=="pipe":
            for n in given: assert call[n]==given[n],n
        for n in ROWS[row].call:
            if n in KINDS or n in ("image","use_resolution_binning"): continue
            assert call[n]==ROWS[row].call[n],n
        assert call["num_inference_steps"]==STEPS
        assert call["scheduler"].of_the_user is pipe.scheduler.of_the_user


# Law 4


def state(pipe: DiffusionPipeline) -> dict[str, Any]:
    """Everything that a user could find changed in a pipeline."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    # transformers adds hooks to text encoders in their first run.
    inner = [module for name, part in parts.items() if "text" not in name for module in part.modules()]
    return {
        "parts": {name: id(part) for name, part in pipe.components.items()},
        "attributes": sorted(name for name in vars(pipe) if not name.startswith("_")),
        "config": dict(pipe.config),
        "scheduler": (dict(pipe.scheduler.config), sorted(vars(pipe.scheduler))),
        "callbacks": list(getattr(pipe, "_callback_tensor_inputs", [])),
        "weights": weights(pipe),
        "dtypes": [part.dtype for part in parts.values()],
        "hooks": [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in inner],
        "methods": [{"forward", "encode", "_compiled_call_impl"} & vars(module).keys() for module in inner],
        "training": [module.training for module in inner],
    }


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", FAMILIES)
def test_pixels_outside_the_masks_and_the_pipeline_stay_as_they_were(row: str, role: str) -> None:
    pipe, given = refined(row, role), noise(seed=1)
    mended(pipe, image=None, start_image=given)
    before, chance = state(built(row)), torch.get_rng_state()
    result = mended(pipe, start_image=given)
    changed = (np.asarray(result.image) != np.asarray(given)).any(axis=2)
    assert changed[BOX[1] : BOX[3], BOX[0] : BOX[2]].mean() > 0.5
    assert not changed[~result.attempts[1].painted].any()
    assert not changed[-8:].any()
    assert state(built(row)) == before
    assert torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", FAMILIES)
def test_after_a_failure_the_pipeline_is_as_it_was_and_the_image_survives(row: str, role: str) -> None:
    pipe, given = refined(row, role), noise(seed=1)
    expected = pictures(mended(pipe, start_image=given))
    denoiser, before = denoiser_of(built(row)), state(built(row))
    passes = iter(range(1000))

    def fail(*_: Any) -> None:
        if next(passes) == 1:
            raise ZeroDivisionError("a bug of the user's")

    with denoiser.register_forward_pre_hook(fail):
        result = pipe(PROMPT, seed=1, start_image=given).results[0]
    assert (result.best, result.stop) == (0, "failed")
    assert result.attempts[1].error == "ZeroDivisionError: a bug of the user's"
    assert result.image.tobytes() == given.tobytes()
    assert state(built(row)) == before
    assert pictures(mended(pipe, start_image=given)) == expected


@pytest.mark.parametrize("row", FAMILIES)
def test_a_batch_of_regions_equals_single_calls(row: str) -> None:
    painter = DiffusersPainter(
        generator(), PaintSettings(native=32, inpaint_options=options_of(row)), inpainter=built(row)
    )
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, 8:24] = True
    crops = [
        Crop(
            image=noise(32, 32, seed), mask=mask, prompt=PROMPT[: 10 + 7 * seed], negative_prompt="blur"*("negative_prompt" in takes(built(row))), seed=seed,
            strength=0.5,
        )
        for seed in range(3)
    ]  # fmt: skip
    together = painter.paint(crops)
    for crop, pixels in zip(crops, together, strict=True):
        assert np.abs(pixels - painter.paint([crop])[0]).max() <= 5e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", FAMILIES)
def test_overlapping_calls_give_what_single_calls_give(row: str, role: str) -> None:
    pipes = [refined(row, role) for _ in range(2)]
    alone = [pictures(mended(pipe, seed=seed)) for seed, pipe in enumerate(pipes)]
    before, made, together = state(built(row)), dict[int, list[bytes]](), threading.Barrier(2)

    def work(number: int) -> None:
        together.wait()
        made[number] = pictures(mended(pipes[number], seed=number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [made[number] for number in range(2)] == alone
    assert state(built(row)) == before


# Law 5


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", FAMILIES)
def test_saved_folders_are_those_of_diffusers_and_load_again(row: str, role: str, tmp_path: Path) -> None:
    pipe = refined(row, role)
    for name in ("call_defaults", "inpaint_call_defaults"):
        setattr(pipe, name, {key: value for key, value in getattr(pipe, name).items() if "image" not in key})
    pipe.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path if role == "pipe" else tmp_path / "inpainter")
    assert type(plain).__name__ == row
    again = RefinedPipeline.from_pretrained(tmp_path, detector=relenting())
    again.set_progress_bar_config(disable=True)
    found = [pictures(mended(each, start_image=noise(seed=1))) for each in (pipe, again)]
    assert found[0] == found[1]
