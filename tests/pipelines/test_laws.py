"""The laws that hold for every row of ``FAMILIES``, whether it is the pipeline or the ``inpainter=``."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from support.repairs import BOX, NOISE, PROMPT, STEPS, pictures, relenting, weights  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402
from support.tiny_rows import ROWS, noise  # noqa: E402

from refiner.errors import ConfigError  # noqa: E402
from refiner.locks import exclusive  # noqa: E402
from refiner.pipelines import RefineConfig, RefinedPipeline  # noqa: E402
from refiner.pipelines.calling.request import call_names  # noqa: E402
from refiner.pipelines.editing.editors import edits  # noqa: E402
from refiner.pipelines.painting.arguments import KINDS  # noqa: E402
from refiner.pipelines.painting.crops import Crop  # noqa: E402
from refiner.pipelines.painting.families import FAMILIES, count_tokens, denoiser_of, inpaints, takes, tokenizers_of  # noqa: E402
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings, repainter  # noqa: E402
from refiner.types import RefinementResult  # noqa: E402

pytestmark = NOISE
ROLES = ("pipe", "inpainter")
CONFIG = RefineConfig(max_rounds=1, strengths=(0.5,), strategy="inpaint")


INPAINTERS = ("StableDiffusionXLImg2ImgPipeline",)
"""Rows that cannot be the pipeline."""
EDITING = tuple(row for row in FAMILIES if edits(getattr(diffusers, row)))
"""Rows that edit as the ``inpainter=``."""

EXCEPTIONS = (
    ("`*InpaintPipeline`, `FluxFillPipeline`", 1, "there is no call without an image: a grey image is inpainted"),
    ("`StableDiffusionXLImg2ImgPipeline`", 1, "never the pipeline, only an `inpainter=` or `second_stage=`"),
    (
        "`Sana*Pipeline`, `HunyuanDiT*Pipeline`",
        4,
        "several images of several prompts get wrong masks: `batch_images=1`",
    ),
    ("`OmniGenPipeline`", 4, "several prompts of different lengths are padded, which changes images: `batch_images=1`"),
    ("`StableDiffusion3ControlNetPipeline`", 4, "its ControlNet draws without a generator: `batch_images=1`"),
)
"""The rows, the law that they are an exception to, and the reason, as docs/pipelines.md has them."""
EXCEPTED = {
    (row, law)
    for names, law, _ in EXCEPTIONS
    for row in FAMILIES
    if any(fnmatchcase(row, name.strip("` ")) for name in names.split(","))
}


def rows(law: int) -> list[str]:
    return [row for row in FAMILIES if (row, law) not in EXCEPTED]


def roles() -> list[tuple[str, str]]:
    """Every row in every role that it can have; the laws of those that edit are in ``test_editing``."""
    pipes = [(row, "pipe") for row in FAMILIES if row not in INPAINTERS]
    return pipes + [(row, "inpainter") for row in FAMILIES if row not in EDITING]


def test_the_documentation_names_the_exceptions() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text(encoding="utf-8")
    table = page.split("| exceptions | law | reason |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {names} | {law} | {reason} |" for names, law, reason in EXCEPTIONS]
    assert ROWS.keys() == FAMILIES.keys()
    assert all(type(built(row)).__name__ == row for row in FAMILIES)


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


def prompts_for(row: str, first: str, second: str) -> str | list[str]:
    """Two prompts, or the first alone where a call takes only one."""
    return first if FAMILIES[row].single else [first, second]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Law 1: the first images are one call of the wrapped pipeline


@pytest.mark.parametrize("row", rows(1))
def test_the_first_images_are_one_call_of_the_wrapped_pipeline(row: str) -> None:
    options = {"height": 32, "width": 32, "output_type": "np", **options_of(row)}
    images = []
    for each in (built(row), functools.partial(refined(row, "pipe"), max_rounds=0)):
        torch.manual_seed(7)  # the ControlNet of SD3 uses no generator
        images.append(each(prompt=prompts_for(row, "a hand", "a sand"), generator=seeded(3), **options).images)
    assert np.array_equal(*images)


@pytest.mark.parametrize("row", [row for row in FAMILIES if (row, 1) in EXCEPTED and row not in INPAINTERS])
def test_a_class_that_can_only_inpaint_generates_by_inpainting_a_grey_image(row: str) -> None:
    """Chroma's twin class has no masks; it generates from noise, as everywhere else."""
    own, options = repainter(built(row), controlled="control_image" in ROWS[row].call), options_of(row)
    if inpaints(own):
        grey, white = Image.new("RGB", (32, 32), (127, 127, 127)), Image.new("L", (32, 32), 255)
        options |= {"image": [grey], "mask_image": [white], "strength": 1.0, **FAMILIES[row].fixed(32, 32)}
    plain = own(prompt=PROMPT, generator=seeded(3), height=32, width=32, output_type="np", **options).images[0]
    ours = refined(row, "pipe")(PROMPT, seed=3, height=32, width=32, max_rounds=0).images[0]
    assert np.abs(np.asarray(ours) - plain * 255).max() <= 1


@pytest.mark.parametrize("row", INPAINTERS)
def test_a_class_that_changes_images_is_refused_as_the_pipeline(row: str) -> None:
    with pytest.raises(ConfigError, match=f"{row} changes a given image"):
        refined(row, "pipe")


# Law 2: a repaint uses what the image was painted with


@contextmanager
def noted(pipe: DiffusionPipeline, *, ended: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Note the arguments and schedulers of the calls of a pipeline and its twin; with ``ended``, fail then."""
    calls = list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        for cls in {type(pipe), type(repainter(pipe))}:
            inner = cls.__call__

            @functools.wraps(inner)
            def call(self: Any, *, inner: Any = inner, **options: Any) -> Any:
                if self.vae is pipe.vae:
                    calls.append({**options, "scheduler": self.scheduler})
                    if ended:
                        raise HeardError
                return inner(self, **options)

            patch.setattr(cls, "__call__", call)
        yield calls


@pytest.mark.parametrize(("row", "role"), roles())
def test_a_repaint_uses_what_the_image_was_painted_with(row: str, role: str) -> None:
    pipe, heard = ROWS[row].build(), list[Any]()
    pipe.scheduler.of_the_user = object()
    encoder = pipe if hasattr(pipe, "encode_prompt") else pipe.multimodal_processor  # that of OmniGen
    method = "encode_prompt" if encoder is pipe else "process_multi_modal_prompt"
    inner = getattr(encoder, method)
    setattr(encoder, method, functools.wraps(inner)(lambda *args, **kw: (heard.append(args), inner(*args, **kw))[1]))
    given = {name: each.default * 0.75 for name, each in takes(pipe).items() if isinstance(each.default, float)}
    given = {name: value for name, value in given.items() if name not in KINDS and name in call_names(pipe)}
    assert given
    given |= {name: value for name, value in options_of(row).items() if name not in (*KINDS, "use_resolution_binning")}
    with noted(pipe) as calls:
        mended(refined(row, role, pipe, **given))
    assert len(calls) == len(ROLES) - ROLES.index(role)  # painting and repainting, or repainting alone
    for call in calls:
        assert {name: call[name] for name in given} == given
        assert call["scheduler"].of_the_user is pipe.scheduler.of_the_user
    assert len(heard) >= len(calls)


# Law 3: an argument is honoured or refused by name


class HeardError(Exception):
    """Ends a call whose arguments were noted."""


def example(name: str, default: Any) -> Any:
    """A value for an argument that is not its default."""
    kinds = {
        "row": torch.ones(1, 3),
        "layers": torch.ones(2, 1, 3),
        "text": "blur",
        "frame": (64, 64),
        "attention": {"scale": 0.5},
    }
    if KINDS.get(name) in kinds:
        return kinds[KINDS[name]]
    if isinstance(default, bool | float | int):
        return not default if isinstance(default, bool) else default + 1
    return {"latents": torch.ones(1, 3), "num_images_per_prompt": 2}.get(name, ["of the user"])


def arrived(name: str, value: Any, found: Any) -> bool:
    if KINDS.get(name) == "frame":
        return found is not None  # it is moved to the region
    if isinstance(value, torch.Tensor):
        return torch.equal(found, value)
    return found in (value, [value])


NEVER = ("self", "kwargs", "prompt", "generator", "seed", "return_dict", "output_type", "callback_on_step_end")
"""Parameters that are not passed on as they are; each has its own tests."""
SIZES = {"height": 48, "width": 48}


@pytest.mark.parametrize(("row", "role"), roles())
def test_an_argument_reaches_the_call_or_is_refused_by_name(row: str, role: str) -> None:
    pipe, reached, refused = built(row), set[str](), dict[str, str]()
    for name, each in takes(pipe).items():
        if name in NEVER or name in ROWS[row].call or (role == "pipe" and name in ("image", "mask_image", "strength")):
            continue
        value = SIZES.get(name, example(name, each.default))
        with noted(pipe, ended=True) as calls:
            try:
                if role == "pipe":
                    refined(row, role)(PROMPT, seed=1, on_error="raise", **{name: value})
                else:
                    refined(row, role, **{name: value})(PROMPT, seed=1, on_error="raise", start_image=noise())
            except ConfigError as error:
                refused[name] = str(error)
            except HeardError:
                if name != "num_images_per_prompt":
                    assert arrived(name, value, calls[0].get(name)), name
                reached.add(name)
    assert all(name in message for name, message in refused.items())
    assert {"num_inference_steps", "guidance_scale"} & takes(pipe).keys() <= reached | set(ROWS[row].call)
    assert ("latents" in reached) == (role == "pipe" and not inpaints(pipe) and "latents" in takes(pipe))


@pytest.mark.parametrize("row", FAMILIES)
def test_slips_and_what_refiner_sets_itself_are_refused_where_they_are_given(row: str) -> None:
    pipe, own = built(row), {"detector": relenting(), "judge": None}
    with pytest.raises(ConfigError, match=r"num_inference_step' .in inpaint_call=.: did you mean num_inference_steps"):
        RefinedPipeline(generator(), inpainter=pipe, inpaint_call={"num_inference_step": 1}, **own)
    for name in ("output_type", "prompt", "height"):
        with pytest.raises(ConfigError, match=rf"{name} .in inpaint_call=. is not taken.*use {name} when you call it"):
            RefinedPipeline(generator(), inpainter=pipe, inpaint_call={name: 1}, **own)
    if row not in INPAINTERS:
        for name in ("output_type", "return_dict"):
            with pytest.raises(ConfigError, match=rf"{name} .in call=. is not taken.*use {name} when you call it"):
                RefinedPipeline(pipe, call={name: False}, **own)


# Law 4: nothing else changes, a batch equals single calls, and calls may overlap or fail


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
        "processors": [id(module.processor) for module in inner if hasattr(module, "processor")],
    }


@pytest.mark.parametrize(("row", "role"), roles())
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


@pytest.mark.parametrize(("row", "role"), roles())
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


@pytest.mark.parametrize("row", [row for row in FAMILIES if row not in EDITING])
def test_a_batch_of_regions_equals_single_calls(row: str) -> None:
    painter = DiffusersPainter(
        generator(), PaintSettings(native=32, inpaint_options=options_of(row)), inpainter=built(row)
    )
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, 8:24] = True
    crops = [
        Crop(
            image=noise(32, 32, seed), mask=mask, prompt=PROMPT[: 10 + 7 * seed], negative_prompt="", seed=seed,
            strength=0.5,
        )
        for seed in range(3)
    ]  # fmt: skip
    together = painter.paint(crops)
    for crop, pixels in zip(crops, together, strict=True):
        assert np.abs(pixels - painter.paint([crop])[0]).max() <= 5e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


@pytest.mark.parametrize(("row", "role"), roles())
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


@pytest.mark.parametrize("row", [row for row in FAMILIES if row not in INPAINTERS])
def test_a_batch_of_images_equals_single_calls(row: str, request: pytest.FixtureRequest) -> None:
    if (row, 4) in EXCEPTED:
        request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError))
    call = {"prompt": prompts_for(row, "a hand", "a red cat"), "num_images_per_prompt": 2, "seed": 3}
    call |= {"height": 32, "width": 32}
    images = [refined(row, "pipe")(**call, max_rounds=0, batch_images=size).images for size in (None, 1)]
    values = [np.stack([np.asarray(image).astype(int) for image in each]) for each in images]
    assert np.abs(values[0] - values[1]).max() <= 1


@pytest.mark.parametrize("row", FAMILIES)
def test_tokens_are_counted_while_no_other_call_uses_the_tokenizers(row: str) -> None:
    count, _ = count_tokens(built(row))
    thread = threading.Thread(target=count, args=(PROMPT,))
    with exclusive(tokenizers_of(built(row))):
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()


# Law 5: saved folders are those of diffusers


@pytest.mark.parametrize(("row", "role"), roles())
def test_saved_folders_are_those_of_diffusers_and_load_again(row: str, role: str, tmp_path: Path) -> None:
    pipe = refined(row, role)
    for name in ("call_defaults", "inpaint_call_defaults"):
        setattr(pipe, name, {key: value for key, value in getattr(pipe, name).items() if "image" not in key})
    pipe.save_pretrained(tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path if role == "pipe" else tmp_path / "inpainter")
    assert type(plain).__name__ == row
    again = RefinedPipeline.from_pretrained(tmp_path, detector=relenting())
    again.set_progress_bar_config(disable=True)
    found = [mended(each, start_image=noise(seed=1)).image for each in (pipe, again)]
    # Weights in a file lie elsewhere in memory, which may round differently.
    assert np.abs(np.asarray(found[0]).astype(int) - np.asarray(found[1])).max() <= 1
