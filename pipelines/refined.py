"""RefinedPipeline: any text-to-image pipeline, followed by looking at its pictures and mending them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refiner.detectors.joint import joined_ids
from refiner.errors import ConfigError
from refiner.images import Source, load_image
from refiner.pipelines.call import OutputType, RefinedPipelineOutput, Shared, converted, kept_image, parts_of, starts_of
from refiner.pipelines.config import RefineConfig, Strategy
from refiner.pipelines.judges import judges_of
from refiner.pipelines.loading import (
    Judges,
    Where,
    detector_on,
    fitting_reviser,
    id_of,
    judges_on,
    pipeline_like,
    saved_arguments,
)
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
"""How methods begin that set up where and how a pipeline runs, and so concern each pipeline that is wrapped."""


class RefinedPipeline:
    """A text-to-image pipeline that looks at its pictures, mends what is wrong, and keeps what is better.

    It wraps the pipeline and owns no weights of its own. Every attribute that it does not define is the pipeline's,
    for reading and writing: ``scheduler = ...``, ``load_lora_weights(...)``, ``enable_model_cpu_offload()`` and the
    like reach the wrapped pipeline, and so generation and inpainting alike. With pipelines of their own for inpainting
    or a second stage, ``to``, ``enable_...``, ``disable_...`` and the progress bar reach those too; all else, such as
    their scheduler, is set on them.

    Args:
        pipe: text-to-image pipeline of a family in ``refiner.pipelines.painting.families.FAMILIES``, or any with an
            ``inpainter``; one that can only repaint paints by repainting an empty picture.
        detector: says what is wrong with a picture; or its id. One with a method ``bind`` is lent the pipeline.
        judge: scores pictures against the user's prompt; or its id (see ``load_judge``), such as ``clip:PATH``; or a
            list of them, of which none may see a worse picture; "auto": the bundled one beside a bundled detector;
            None: the detector alone decides.
        reviser: makes prompts; or its id (see ``load_reviser``), such as ``chat:MODEL@URL``; None: a
            ``TemplateReviser``. By id or as None it fits the pipeline's text encoders.
        config: defaults of all calls.
        call: defaults for the wrapped pipeline's call, such as ``{"num_inference_steps": 30}``.
        inpainter: pipeline that repaints regions, or its id, such as one of FLUX Fill; None: ``pipe`` does.
        inpaint_call: defaults for the call that repaints; they go before ``call``, which an ``inpainter`` never gets.
        second_stage: pipeline from latents to pictures, or its id, such as SDXL's refiner, which takes over from
            ``denoising_end`` of the call on; None: there is none.
        native: side of the square pictures that the model was trained on, in pixels; None: as the pipeline says.

    Raises:
        ConfigError: a pipeline that cannot paint from text, repaint, or be a second stage, or that the detector cannot
            look through.
        ModelNotFoundError: an unknown detector or judge.
    """

    _OWN = frozenset({"pipe", "detector", "judge", "reviser", "refine_config", "call_defaults", "ids", "_runs"}) | {
        *("inpainter", "second_stage", "inpaint_call_defaults", "native")
    }

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
        parts = {"detector": detector, "judge": judge, "reviser": reviser}
        parts |= {"inpainter": inpainter, "second_stage": second_stage}
        self.ids = {name: found for name, part in parts.items() if (found := id_of(part))}
        self._runs: weakref.WeakSet[Interrupt] = weakref.WeakSet()
        self.detector = detector_on(detector, pipe.device) if isinstance(detector, str | Path) else detector
        if isinstance(self.detector, Borrower):
            self.detector.bind(pipe)
        self.judge = judges_on(judge, pipe.device)
        chosen = reviser or "template"
        self.reviser = fitting_reviser(chosen, pipe, call or {}) if isinstance(chosen, str) else chosen
        self.refine_config = config or RefineConfig()
        self.call_defaults = dict(call or {})
        self.inpaint_call_defaults = dict(inpaint_call or {})
        self.native = native

    def with_parts(self, **changes: Any) -> RefinedPipeline:
        """The same pipeline with some arguments changed: all others stay, and all weights are shared.

        ``interrupt`` of either ends the runs of both.

        Args:
            changes: arguments of the class other than ``pipe``, such as ``detector``, ``judge`` or ``config``.
        """
        kept: dict[str, Any] = {
            "config": self.refine_config,
            "call": self.call_defaults,
            "inpaint_call": self.inpaint_call_defaults,
            **{name: getattr(self, name) for name in (*PARTS, "native")},
        }
        again = RefinedPipeline(self.pipe, **(kept | changes))
        again.ids = {name: place for name, place in self.ids.items() if name not in changes} | again.ids
        again._runs = self._runs
        return again

    @classmethod
    def from_pipe(cls, pipe: DiffusionPipeline, *, detector: Detector | Where, **options: Any) -> RefinedPipeline:
        """Wrap a loaded pipeline; ``options`` are those of the class."""
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
            detector: detector or its id; None: the one that was saved with the pipeline.
            judge: see the class; "saved": what was saved with the pipeline, and "auto" where nothing was.
            reviser: see the class; None: the one that was saved with the pipeline.
            config: see the class; None: what was saved with the pipeline.
            dtype: of the pipeline's weights; None: as diffusers does.
            inpainter: see the class; None: the one that was saved with the pipeline.
            second_stage: see the class; None: the one that was saved with the pipeline.
            options: for ``DiffusionPipeline.from_pretrained``.

        Raises:
            ConfigError: no detector is named or saved, one that was saved would send pictures and the key to another
                machine, or the pipeline is of a family that is not served.
            ModelNotFoundError, WeightsError: a model that is unknown or damaged.
        """
        from diffusers import DiffusionPipeline

        given = {"detector": detector, "judge": judge, "reviser": reviser, "config": config}
        folder, arguments = saved_arguments(model, given | {"inpainter": inpainter, "second_stage": second_stage})
        refined = cls(DiffusionPipeline.from_pretrained(folder, dtype=dtype, **options), **arguments)
        refined.ids["model"] = str(model)
        return refined

    def save_pretrained(self, folder: Where, **options: Any) -> None:
        """Save as an ordinary diffusers folder with one more file, ``refiner.json``.

        Detector, judge, reviser and further pipelines are noted by the ids they were loaded by; those without one are
        saved into sub-folders where they have a ``save_pretrained``. All else, and several judges that were not all
        loaded by ids, must be passed again to ``from_pretrained``. ``options`` are those of diffusers.
        """
        self.pipe.save_pretrained(folder, **options)
        places: dict[str, Any] = {name: self.ids[name] for name in PARTS if name in self.ids}
        for name in {"detector", "judge", "inpainter", "second_stage"} - places.keys():
            if isinstance(part := getattr(self, name), Saveable):
                part.save_pretrained(Path(folder) / name, **(options if name in ("inpainter", "second_stage") else {}))
                places[name] = f"./{name}"
        SavedSettings(
            config=self.refine_config,
            call=self.call_defaults,
            inpaint_call=self.inpaint_call_defaults,
            native=self.native,
            **places,
        ).write(folder)

    def to(self, *args: Any, **options: Any) -> RefinedPipeline:
        """Move the pipelines as diffusers does, then detector and judge to their device; their dtype stays."""
        for pipe in self._pipelines():
            pipe.to(*args, **options)
        for part in (self.detector, *judges_of(self.judge)):
            if isinstance(part, Movable):
                part.to(self.pipe.device)
        return self

    def interrupt(self) -> None:
        """End what runs now with the best so far, from a callback or from any thread.

        The picture that is being painted stops at its next denoising step and is left out; so are pictures of the call
        that have not been begun. Setting ``_interrupt`` of the diffusers pipeline, as its own users do, does the same.
        """
        for run in list(self._runs):
            run.set()

    def replay(self, record: Mapping[str, Any], *, image: Source | None = None, **options: Any) -> RefinementResult:
        """Make the kept picture of a run again, bit for bit; see ``refiner.pipelines.saving.replay.replay``."""
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
        """Paint and refine one picture or several.

        Args:
            prompt: what to paint; one text or several.
            image: picture to refine instead of painting one; anything ``load_image`` reads.
            num_images_per_prompt: pictures of each prompt.
            generator: torch.Generator from which the seed is drawn, once; or one for each picture.
            seed: seed of the run; or one for each picture. Pictures of one prompt and seed are numbered, so that
                they differ; a picture depends on its prompt, seed and number alone. Without seed, generator and
                config, a seed is drawn at random.
            output_type: "pil", "np" or "pt".
            return_dict: False: a plain tuple (images, results).
            callback_on_attempt: gets every attempt as it is made; where it returns True, its picture is finished with
                what is best so far.
            options: those of ``stream``, such as ``strategy``, ``max_rounds`` or ``num_inference_steps``.

        Raises:
            InputError: an empty prompt, or an image that cannot be used.
            ConfigError: a setting out of its range.
            BadImageError: not one picture of a prompt could be painted.

        Returns:
            A picture for each prompt and number; after ``interrupt`` only those that were painted by then.
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
        """Refine one picture: a run to iterate over, attempt by attempt, with a ``result`` and a ``stop()``.

        Args:
            prompt: what to paint.
            image: picture to refine instead of painting one; anything ``load_image`` reads.
            negative_prompt: what to leave out; None: the config's.
            strategy: "auto", "inpaint" or "regenerate"; None: the config's.
            max_rounds: rounds after the first picture; None: the config's.
            seed: seed of the run; None: the config's.
            index: number of the picture among those with the same prompt and seed.
            config: all other settings of the loop; None: the pipeline's.
            height: pixels; None: the model's native side.
            width: pixels; None: the model's native side.
            shared: with the other pictures of a call; None: nothing.
            options: further arguments of the wrapped pipeline's call, such as ``num_inference_steps``,
                ``guidance_scale`` or ``callback_on_step_end``. They reach generation and, as far as it knows them,
                inpainting; an ``inpainter`` gets the callbacks alone. A ControlNet's picture is ``control_image``.
                None stands for the pipeline's default.

        Raises:
            InputError: an empty prompt, or an image that cannot be used.
            ConfigError: a setting out of its range.
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
        painting = PaintSettings(
            **sides,
            native=self.native,
            options=interrupt.listening(calls),
            inpaint_options=self.inpaint_call_defaults,
        )
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
