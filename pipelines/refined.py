"""RefinedPipeline: a text-to-image pipeline whose images are checked for flaws and refined."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refiner.detectors import load_detector
from refiner.detectors.joint import joined_ids
from refiner.errors import ConfigError
from refiner.images import Source, load_image
from refiner.pipelines.call import OutputType, RefinedPipelineOutput, Shared, converted, kept_image, parts_of, starts_of
from refiner.pipelines.config import RefineConfig, Strategy
from refiner.pipelines.judges import judges_of
from refiner.pipelines.loading import Judges, Where, fitting_reviser, ids_of, judges_on, pipeline_like, saved_arguments
from refiner.pipelines.loop import refine
from refiner.pipelines.painting.caches import PromptCache
from refiner.pipelines.painting.families import check_pipelines
from refiner.pipelines.painting.interrupts import Interrupt
from refiner.pipelines.painting.painter import PaintSettings
from refiner.pipelines.run import RefinementRun
from refiner.pipelines.saving.record import settings_of
from refiner.pipelines.saving.replay import replay
from refiner.pipelines.saving.settings import PARTS, SavedSettings
from refiner.protocols import Borrower, Detector, Movable, Reviser, Saveable
from refiner.types import Attempt, RefinementResult

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from refiner.pipelines.call import Images

_FOR_ALL = ("enable_", "disable_", "set_progress_bar_config", "remove_all_hooks", "maybe_free_model_hooks")
"""Prefixes of the methods that set up where and how a pipeline runs; they are called on each wrapped pipeline."""


class RefinedPipeline:
    """A text-to-image pipeline that finds flaws in its images, fixes them, and keeps an image only if it is better.

    It wraps a diffusers pipeline and has no weights. All attributes that it does not define are those of the wrapped
    pipeline, for reading and writing. So ``scheduler = ...``, ``load_lora_weights(...)``,
    ``enable_model_cpu_offload()`` and so on apply to the wrapped pipeline, for generation and inpainting. If there are
    separate pipelines for inpainting or a second stage, ``to``, ``enable_...``, ``disable_...`` and the progress bar
    apply to them too. Everything else, such as their scheduler, must be set on these pipelines.

    Args:
        pipe: text-to-image pipeline of a family in ``refiner.pipelines.painting.families.FAMILIES``; with an
            ``inpainter``, any text-to-image pipeline. A pipeline that can only inpaint generates an image by inpainting
            an empty one.
        detector: finds the flaws of an image; a detector or its id. A detector with a method ``bind`` uses the weights
            of ``pipe``.
        judge: scores images against the user's prompt; a judge, its id (see ``load_judge``), such as ``clip:PATH``, or
            a list of these. An accepted image is not worse for any of the judges. "auto": the bundled judge if all
            detectors are bundled, otherwise none. None: only the detector decides.
        reviser: writes the prompts; a reviser or its id (see ``load_reviser``), such as ``chat:MODEL@URL``. None: a
            ``TemplateReviser``. A reviser given by id, or None, is fitted to the text encoders of the pipeline.
        config: default settings of all calls.
        call: default arguments for the call of the wrapped pipeline, such as ``{"num_inference_steps": 30}``.
        inpainter: pipeline that inpaints regions, or its id, such as a FLUX Fill; None: ``pipe`` inpaints.
        inpaint_call: default arguments for the inpainting call. They override ``call``. A separate ``inpainter`` gets
            no arguments from ``call``, except callbacks.
        second_stage: pipeline that turns latents into images, or its id, such as the SDXL refiner. It continues at
            ``denoising_end`` of the call. None: there is no second stage.
        native: side of the square images that the model was trained on, in pixels; None: the pipeline's own value.

    Raises:
        ConfigError: a pipeline cannot generate from text, inpaint, or be a second stage; or the detector cannot use
            the pipeline.
        ModelNotFoundError: the detector or judge is unknown.
    """

    _OWN = frozenset(
        {*PARTS, "pipe", "refine_config", "call_defaults", "inpaint_call_defaults", "native", "ids", "_runs"}
    )

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        detector: Detector | Where,
        judge: Judges | Literal["auto"] = "auto",
        reviser: Reviser | str | None = None,
        config: RefineConfig | None = None,
        call: Mapping[str, Any] | None = None,
        inpainter: DiffusionPipeline | Where | None = None,
        inpaint_call: Mapping[str, Any] | None = None,
        second_stage: DiffusionPipeline | Where | None = None,
        native: int | None = None,
    ) -> None:
        self.pipe = pipe
        self.inpainter = pipeline_like(inpainter, pipe) if isinstance(inpainter, str | Path) else inpainter
        self.second_stage = pipeline_like(second_stage, pipe) if isinstance(second_stage, str | Path) else second_stage
        check_pipelines(pipe, self.inpainter, self.second_stage)
        if judge == "auto":
            bundled = [each.partition(":")[0] == "micro" for each in joined_ids(str(detector))]
            judge = "micro" if all(bundled) else None
        parts = (detector, judge, reviser, inpainter, second_stage)
        self.ids = ids_of(dict(zip(PARTS, parts, strict=True)))
        self._runs: weakref.WeakSet[Interrupt] = weakref.WeakSet()
        place = pipe._execution_device  # of an offloaded pipeline, this is the GPU
        self.detector = load_detector(detector, device=place) if isinstance(detector, str | Path) else detector
        if isinstance(self.detector, Borrower):
            self.detector.bind(pipe)
        self.judge = judges_on(judge, place)
        chosen = reviser or "template"
        self.reviser = fitting_reviser(chosen, pipe, call or {}) if isinstance(chosen, str) else chosen
        self.refine_config = config or RefineConfig()
        self.call_defaults = dict(call or {})
        self.inpaint_call_defaults = dict(inpaint_call or {})
        self.native = native

    def with_parts(self, **changes: Any) -> RefinedPipeline:
        """Return a new RefinedPipeline with some arguments changed; the other arguments and all weights are shared.

        ``changes`` are arguments of the class other than ``pipe``. ``interrupt`` of either one ends the runs of both.
        """
        kept = self._defaults() | {name: getattr(self, name) for name in PARTS}
        again = RefinedPipeline(self.pipe, **(kept | changes))
        again.ids = {name: place for name, place in self.ids.items() if name not in changes} | again.ids
        again._runs = self._runs
        return again

    def _defaults(self) -> dict[str, Any]:
        return {
            "config": self.refine_config,
            "call": self.call_defaults,
            "inpaint_call": self.inpaint_call_defaults,
            "native": self.native,
        }

    @classmethod
    def from_pipe(cls, pipe: DiffusionPipeline, *, detector: Detector | Where, **options: Any) -> RefinedPipeline:
        """Wrap a loaded pipeline; ``options`` are the other arguments of the class."""
        return cls(pipe, detector=detector, **options)

    @classmethod
    def from_pretrained(
        cls,
        model: Where,
        *,
        detector: Detector | Where | None = None,
        judge: Judges | Literal["saved"] = "saved",
        reviser: Reviser | str | None = None,
        config: RefineConfig | None = None,
        dtype: torch.dtype | None = None,
        inpainter: DiffusionPipeline | Where | None = None,
        second_stage: DiffusionPipeline | Where | None = None,
        **options: Any,
    ) -> RefinedPipeline:
        """Load a text-to-image pipeline and wrap it.

        Args:
            model: folder, hub id with an optional ``@revision``, or ``"micro"`` for the bundled models.
            detector, reviser, config, inpainter, second_stage: see the class; None: the one saved with the pipeline.
            judge: see the class; "saved": the judge saved with the pipeline, or "auto" if the folder has no settings.
            dtype: dtype of the pipeline's weights; None: the default of diffusers.
            options: passed to ``DiffusionPipeline.from_pretrained``.

        Raises:
            ConfigError: no detector is given or saved; or a saved part would send images and the API key to another
                machine; or the pipeline is of a family that is not supported.
            ModelNotFoundError, WeightsError: a model is unknown or damaged.
        """
        from diffusers import DiffusionPipeline

        given = {"detector": detector, "judge": judge, "reviser": reviser, "config": config}
        folder, arguments = saved_arguments(model, given | {"inpainter": inpainter, "second_stage": second_stage})
        refined = cls(DiffusionPipeline.from_pretrained(folder, dtype=dtype, **options), **arguments)
        refined.ids["model"] = str(model)
        return refined

    def save_pretrained(self, folder: Where, **options: Any) -> None:
        """Save as an ordinary diffusers folder with one more file, ``refiner.json``.

        A detector, judge, reviser or further pipeline that was loaded by its id is stored as this id. Without an id, it
        is saved into a sub-folder if it has a ``save_pretrained``; a reviser is not. Everything else must be passed to
        ``from_pretrained`` again; so must a list of judges if not all of them were loaded by id. ``options`` are passed
        to ``save_pretrained`` of the pipelines.
        """
        self.pipe.save_pretrained(folder, **options)
        places: dict[str, Any] = {name: self.ids[name] for name in PARTS if name in self.ids}
        for name in {"detector", "judge", "inpainter", "second_stage"} - places.keys():
            if isinstance(part := getattr(self, name), Saveable):
                part.save_pretrained(Path(folder) / name, **(options if name in ("inpainter", "second_stage") else {}))
                places[name] = f"./{name}"
        SavedSettings(**self._defaults(), **places).write(folder)

    def to(self, *args: Any, **options: Any) -> RefinedPipeline:
        """Move the pipelines as diffusers does, then move detector and judge to the same device in their own dtype."""
        for pipe in self._pipelines():
            pipe.to(*args, **options)
        for part in (self.detector, *judges_of(self.judge)):
            if isinstance(part, Movable):
                part.to(self.pipe.device)
        return self

    def interrupt(self) -> None:
        """End the current runs with the best image so far; can be called from a callback or from any thread.

        An unfinished image stops at its next denoiser step and is dropped. Images of the call that have not been
        started are not generated. Setting ``_interrupt`` of the diffusers pipeline has the same effect.
        """
        for run in list(self._runs):
            run.set()

    def replay(self, record: Mapping[str, Any], *, image: Source | None = None, **options: Any) -> RefinementResult:
        """Reproduce the kept image of a run, bit for bit; see ``refiner.pipelines.saving.replay.replay``."""
        return replay(self, record, image=None if image is None else load_image(image), **options)

    def __getattr__(self, name: str) -> Any:
        if name in RefinedPipeline._OWN:
            raise AttributeError(name)
        found = getattr(self.pipe, name)
        if not name.startswith(_FOR_ALL) or self.inpainter is self.second_stage is None:
            return found

        def on_all(*args: Any, **options: Any) -> None:
            for pipe in self._pipelines():
                if hasattr(pipe, name):
                    getattr(pipe, name)(*args, **options)

        return on_all

    def _pipelines(self) -> list[DiffusionPipeline]:
        return [pipe for pipe in (self.pipe, self.inpainter, self.second_stage) if pipe is not None]

    def __setattr__(self, name: str, value: object) -> None:
        if name in RefinedPipeline._OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.pipe, name, value)

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        image: Source | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | Sequence[int] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_attempt: Callable[[Attempt], bool | None] | None = None,
        **options: Any,
    ) -> RefinedPipelineOutput | tuple[Images, list[RefinementResult]]:
        """Generate and refine one image or several.

        Args:
            prompt: what to generate; one text or several.
            image: see ``stream``.
            num_images_per_prompt: number of images for each prompt.
            generator: a torch.Generator from which one seed is drawn; or one generator for each image.
            seed: seed of the run; or one seed for each image. Images with the same prompt and seed are numbered, so
                that they differ. An image depends only on its prompt, seed and number. If seed, generator and config
                are all None, the seed is random.
            output_type: "pil", "np" (float32, (N, H, W, 3), in [0, 1]) or "pt" (float32, (N, 3, H, W), in [0, 1]).
            return_dict: False: return a plain tuple (images, results).
            callback_on_attempt: called with each attempt. If it returns True, the run of this image ends with the best
                image so far.
            options: further arguments of ``stream``, such as ``strategy``, ``max_rounds`` or ``num_inference_steps``.

        Returns:
            One image for each prompt and number, with its result; after ``interrupt``, only the finished images.

        Raises:
            InputError, ConfigError: see ``stream``.
            BadImageError: no image could be generated for one of the prompts.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}.")
        given = None if image is None else load_image(image)
        shared = Shared(interrupt=Interrupt(self.pipe), prompts=PromptCache())
        self._runs.add(shared.interrupt)
        results: list[RefinementResult] = []
        for text, number, index in starts_of(
            prompt, num_images_per_prompt, seed=seed, generator=generator, config=options.get("config")
        ):
            run = self.stream(text, seed=number, index=index, image=given, shared=shared, **options)
            for attempt in run:
                if callback_on_attempt is not None and callback_on_attempt(attempt):
                    run.stop()
            results.append(run.result)
            if shared.interrupt.is_set():
                results = [result for result in results if result.attempts[result.best].image] or results
                break
        images = converted([kept_image(result) for result in results], output_type)
        return RefinedPipelineOutput(images, results) if return_dict else (images, results)

    def stream(
        self,
        prompt: str,
        *,
        image: Source | None = None,
        negative_prompt: str | None = None,
        strategy: Strategy | None = None,
        max_rounds: int | None = None,
        seed: int | None = None,
        index: int = 0,
        config: RefineConfig | None = None,
        height: int | None = None,
        width: int | None = None,
        shared: Shared | None = None,
        **options: Any,
    ) -> RefinementRun:
        """Generate and refine one image, attempt by attempt.

        Args:
            prompt: what to generate.
            image: image to refine instead of generating one; anything that ``load_image`` reads.
            negative_prompt, strategy, max_rounds, seed: see ``RefineConfig``; None: the value of the config.
            index: number of the image among those with the same prompt and seed.
            config: all other settings of the loop; None: ``refine_config`` of this pipeline.
            height, width: in pixels; None: the side that the model was trained on.
            shared: state shared with the other images of a call; None: nothing is shared.
            options: further arguments for the call of the wrapped pipeline, such as ``num_inference_steps``,
                ``guidance_scale`` or ``callback_on_step_end``. They are used for generation, and for inpainting if its
                call accepts them. A separate ``inpainter`` gets only the callbacks. Pass the image of a ControlNet as
                ``control_image``. None: the default of the pipeline.

        Returns:
            A run to iterate over. It yields the attempts and has a ``result`` and a ``stop()``.

        Raises:
            InputError: the prompt is empty, or the image cannot be used.
            ConfigError: a setting is out of its range.
        """
        changes = {"negative_prompt": negative_prompt, "strategy": strategy, "max_rounds": max_rounds, "seed": seed}
        settings = replace(config or self.refine_config, **_given(changes))
        calls = {**self.call_defaults, **_given(options)}
        sides = {"height": calls.pop("height", None), "width": calls.pop("width", None)}
        sides |= _given({"height": height, "width": width})
        start = None if image is None else load_image(image)
        made_by = settings_of(self, config=settings, index=index, call=calls, image=start, **sides)
        interrupt = Interrupt(self.pipe, shared.interrupt if shared else None)
        self._runs.add(interrupt)
        calls, own = interrupt.listening(calls), self.inpaint_call_defaults
        painting = PaintSettings(**sides, native=self.native, options=calls, inpaint_options=own)
        parts = parts_of(self, settings, painting, shared.prompts if shared else None)
        track = partial(self._with_progress, settings.max_rounds + 1)
        return refine(parts, prompt, settings, image=start, index=index, flag=interrupt, settings=made_by, track=track)

    def _with_progress(self, total: int, attempts: Iterator[Attempt]) -> Iterator[Attempt]:
        with self.pipe.progress_bar(total=total) as bar:
            for attempt in attempts:
                bar.update()
                yield attempt


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
