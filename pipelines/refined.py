"""RefinedPipeline: a text-to-image pipeline whose images are checked for flaws and refined."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from refiner.detectors import load_detector
from refiner.detectors.ids import split_options
from refiner.detectors.joint import joined_ids
from refiner.errors import ConfigError
from refiner.images import Source, load_image
from refiner.pipelines.calling.call import Call, OutputType, images_of, report
from refiner.pipelines.calling.marks import masks_of
from refiner.pipelines.calling.request import bound, check_calls, check_inpaint_call, request_of
from refiner.pipelines.calling.results import results_of
from refiner.pipelines.calling.seeding import seeding_of
from refiner.pipelines.calling.signature import described_call, signature_of
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.editors import check_editor
from refiner.pipelines.editing.hosted import HostedEditor, local
from refiner.pipelines.judges import judges_of
from refiner.pipelines.loading.parts import (
    Judges,
    check_parts,
    fitting_reviser,
    ids_of,
    inpainter_like,
    judges_on,
    load_parts,
    pipeline_like,
)
from refiner.pipelines.loading.sources import Where
from refiner.pipelines.numbers import plain, plain_values
from refiner.pipelines.painting.families import check_complete, check_pipelines, own_image
from refiner.pipelines.painting.interrupts import Interrupt
from refiner.pipelines.painting.vocabulary import check_words
from refiner.pipelines.region_prompts import own_words
from refiner.pipelines.revisers.plain import ReviserLike
from refiner.pipelines.run import RefinementRun
from refiner.pipelines.saving.folder import save_folder
from refiner.pipelines.saving.record import described
from refiner.pipelines.saving.replay import replay
from refiner.pipelines.saving.settings import PARTS
from refiner.plain import DetectorLike, as_detector
from refiner.protocols import Borrower, Movable
from refiner.types import Attempt, RefinementResult

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from refiner.pipelines.calling.output import RefinedPipelineOutput

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
        detector: finds the flaws of an image; a detector, its id, or a function of an image (see
            ``refiner.plain.as_detector``). A detector with a method ``bind`` uses the weights of ``pipe``.
        judge: scores images against the user's prompt; a judge or an object with ``score`` (see
            ``refiner.plain.as_judge``), an id (see ``load_judge``), such as ``clip:PATH``, or a list of these. An
            accepted image is not worse for any of the judges. "auto": the bundled judge if all detectors are bundled,
            otherwise none. None: only the detector decides.
        reviser: writes the prompts; a reviser, its id (see ``load_reviser``), such as ``chat:MODEL@URL``, or a function
            of prompt and attempts that returns the next prompt. None: a ``TemplateReviser``. A reviser given by id, or
            None, is fitted to the text encoders of the pipeline.
        config: default settings of all calls.
        call: default arguments for the call of the wrapped pipeline, such as ``{"num_inference_steps": 30}``.
        inpainter: pipeline that inpaints regions, or its id, such as a FLUX Fill. An edit model, such as
            Qwen-Image-Edit or FLUX Kontext, edits them by instructions; a hosted one has the id ``edit:MODEL@URL``.
            None: ``pipe`` inpaints.
        inpaint_call: default arguments for the inpainting call. They override ``call``. A separate ``inpainter`` gets
            no arguments from ``call``, except callbacks.
        second_stage: pipeline that turns latents into images, or its id, such as the SDXL refiner. It continues at
            ``denoising_end`` of the call. None: there is no second stage.
        editor: edit model beside what inpaints, or its id; see ``tools`` of ``RefineConfig`` for when it is used.
        edit_call: default arguments for the call of ``editor``.
        native: side of the square images that the model was trained on, in pixels; None: the pipeline's own value.

    Raises:
        ConfigError: a pipeline cannot generate from text, inpaint, or be a second stage; the detector cannot use the
            pipeline; or detector, judge or reviser cannot be called as one.
        ModelNotFoundError: the detector or judge is unknown.
    """

    _OWN = frozenset(
        {
            *PARTS,
            "pipe",
            "refine_config",
            "call_defaults",
            "inpaint_call_defaults",
            "edit_call_defaults",
            "native",
            "ids",
            "_runs",
        }
    )

    def __init__(
        self,
        pipe: DiffusionPipeline,
        *,
        detector: DetectorLike | Where,
        judge: Judges | Literal["auto"] = "auto",
        reviser: ReviserLike | str | None = None,
        config: RefineConfig | None = None,
        call: Mapping[str, Any] | None = None,
        inpainter: DiffusionPipeline | HostedEditor | Where | None = None,
        inpaint_call: Mapping[str, Any] | None = None,
        second_stage: DiffusionPipeline | Where | None = None,
        editor: DiffusionPipeline | HostedEditor | Where | None = None,
        edit_call: Mapping[str, Any] | None = None,
        native: int | None = None,
    ) -> None:
        parts = dict(zip(PARTS, (detector, judge, reviser, inpainter, second_stage, editor), strict=True))
        check_parts(parts)
        self.pipe = pipe
        self.inpainter = inpainter_like(inpainter, pipe) if isinstance(inpainter, str | Path) else inpainter
        self.second_stage = pipeline_like(second_stage, pipe) if isinstance(second_stage, str | Path) else second_stage
        self.editor = inpainter_like(editor, pipe) if isinstance(editor, str | Path) else editor
        check_pipelines(pipe, self.inpainter, self.second_stage)
        check_editor(self.editor, self.inpainter)
        if judge == "auto":
            bundled = [split_options(each)[0].partition(":")[0] == "micro" for each in joined_ids(str(detector))]
            judge = "micro" if all(bundled) else None
        self.ids = ids_of(parts | {"judge": judge})
        self._runs: weakref.WeakSet[Interrupt] = weakref.WeakSet()
        place = pipe._execution_device  # of an offloaded pipeline, this is the GPU
        if isinstance(detector, str | Path):
            detector = load_detector(detector, device=place)
        self.detector = as_detector(detector)
        if isinstance(self.detector, Borrower):
            self.detector.bind(pipe)
        self.judge = judges_on(judge, place)
        self.reviser = fitting_reviser(reviser or "template", pipe, call or {})
        self.refine_config = config or RefineConfig()
        self.call_defaults = plain_values(call or {})
        self.inpaint_call_defaults = plain_values(inpaint_call or {})
        self.edit_call_defaults = plain_values(edit_call or {})
        check_calls(self)
        self.native = plain(native)

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
            "edit_call": self.edit_call_defaults,
            "native": self.native,
        }

    @classmethod
    def from_pipe(cls, pipe: DiffusionPipeline, *, detector: DetectorLike | Where, **options: Any) -> RefinedPipeline:
        """Wrap a loaded pipeline; ``options`` are the other arguments of the class."""
        return cls(pipe, detector=detector, **options)

    @classmethod
    def from_pretrained(
        cls,
        model: Where,
        *,
        detector: DetectorLike | Where | None = None,
        judge: Judges | Literal["saved"] = "saved",
        reviser: ReviserLike | str | None = None,
        config: RefineConfig | Where | None = None,
        call: Mapping[str, Any] | None = None,
        inpainter: DiffusionPipeline | HostedEditor | Where | None = None,
        inpaint_call: Mapping[str, Any] | None = None,
        second_stage: DiffusionPipeline | Where | None = None,
        editor: DiffusionPipeline | HostedEditor | Where | None = None,
        edit_call: Mapping[str, Any] | None = None,
        native: int | None = None,
        **options: Any,
    ) -> RefinedPipeline:
        """Load a text-to-image pipeline as diffusers does, and wrap it.

        What is wrong with the arguments is said before the weights are downloaded.

        Args:
            model: folder, hub id with an optional ``@revision``, or ``"micro"`` for the bundled models; or a checkpoint
                file (``.safetensors``, ``.ckpt``) or its URL on the hub, which is loaded with ``from_single_file``.
            detector, reviser, call, inpainter, inpaint_call, second_stage, editor, edit_call, native: see the class;
                None: the one saved with the pipeline. Further pipelines given by id get the pipeline's dtype and
                device, and ``token``, ``cache_dir`` and ``local_files_only``.
            judge: see the class; "saved": the judge saved with the pipeline, or "auto" if there are no saved settings.
            config: see the class; None: the saved one. A path or hub id is the ``config`` of ``from_single_file``: the
                pipeline that has the configuration of a checkpoint.
            options: all other arguments of ``DiffusionPipeline.from_pretrained``, such as ``variant``, ``dtype`` or
                ``torch_dtype``, ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``use_safetensors``,
                ``device_map``, ``custom_pipeline``, and components, such as ``vae``. For a checkpoint, those of
                ``from_single_file``.

        Raises:
            ConfigError: no detector is given or saved; an option is unknown or out of its range; a saved part would
                send images and the API key to another machine; or the pipeline is of a family that is not supported.
            ModelNotFoundError, WeightsError: a model is unknown or damaged.
        """
        if isinstance(config, str | Path):
            options, config = {**options, "config": config}, None
        given = {"detector": detector, "reviser": reviser, "config": config, "call": call, "inpainter": inpainter}
        given |= {"inpaint_call": inpaint_call, "second_stage": second_stage, "native": native, "editor": editor}
        given = {name: value for name, value in {**given, "edit_call": edit_call}.items() if value is not None}
        loaded = load_parts(model, given if judge == "saved" else given | {"judge": judge}, options)
        refined = cls(loaded.pipe, **loaded.arguments)
        refined.ids |= loaded.ids
        return refined

    def save_pretrained(self, folder: Where, **options: Any) -> None:
        """Save as an ordinary diffusers folder with one more file, ``refiner.json``.

        A detector, judge, reviser or further pipeline that was loaded by its id is stored as this id. Without an id, it
        is saved into a sub-folder if it has a ``save_pretrained``; a reviser is not. Everything else must be passed to
        ``from_pretrained`` again; so must a list of judges if not all of them were loaded by id. ``options`` are passed
        to ``save_pretrained`` of the pipelines. With ``push_to_hub`` the whole folder is uploaded.
        """
        save_folder(self, folder, self._defaults(), options)

    def to(self, *args: Any, **options: Any) -> RefinedPipeline:
        """Move the pipelines as diffusers does, then the other parts to the same device; these keep their dtype."""
        for pipe in self._pipelines():
            pipe.to(*args, **options)
        for part in (self.detector, self.reviser, *judges_of(self.judge)):
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
        if not name.startswith(_FOR_ALL) or len(self._pipelines()) == 1:
            return found

        def on_all(*args: Any, **options: Any) -> None:
            for pipe in self._pipelines():
                if hasattr(pipe, name):
                    getattr(pipe, name)(*args, **options)

        return on_all

    def __getattribute__(self, name: str) -> Any:
        if name == "__call__":
            return described_call(self, self.pipe)
        if name == "__signature__":
            return signature_of(self.pipe, type(self).__call__)
        return super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self.pipe) if not name.startswith("_"))})

    def __repr__(self) -> str:
        return described(self)

    def _pipelines(self) -> list[DiffusionPipeline]:
        further = local(self.inpainter), self.second_stage, local(self.editor)
        return [self.pipe, *(pipe for pipe in further if pipe is not None)]

    def __setattr__(self, name: str, value: object) -> None:
        if name in RefinedPipeline._OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.pipe, name, value)

    def __call__(
        self,
        *args: Any,
        start_image: Source | Sequence[Source] | None = None,
        mask_image: Any = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        config: RefineConfig | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_attempt: Callable[[Attempt], bool | None] | None = None,
        **options: Any,
    ) -> RefinedPipelineOutput | tuple[Any, list[RefinementResult]]:
        """Generate and refine one image or several.

        The start images are made by one call of the wrapped pipeline with the same arguments, so that they are those
        of the wrapped pipeline, bit for bit. Then the images are refined together, round by round; see
        ``RefineConfig.batch_images``.

        Args:
            args: positional arguments, as the call of the wrapped pipeline has them; the first is the prompt.
            start_image: image to refine instead of generating one, or one for each requested image; anything that
                ``load_image`` reads. ``height`` and ``width`` resize it. ``image`` means the same, unless the call of
                the wrapped pipeline has an ``image`` of its own, such as a reference or a control image.
            mask_image: region of the image that may change (white), or several; each is inpainted, whatever the
                detector finds. Pillow images, arrays or tensors (H, W).
            seed: the k-th image of each prompt is generated with ``torch.manual_seed(seed + k)``; or one seed for each
                image.
            generator: as in the wrapped call. Without seed, generator and a seed in the config, torch's global random
                numbers are used, as in diffusers.
            config: settings of the loop; None: ``refine_config`` of this pipeline.
            output_type: "pil", "np" (N, H, W, 3), "pt" (N, 3, H, W), or "latent": latents, which are not refined. An
                image that is kept as it was generated has the values and the dtype of the wrapped pipeline.
            return_dict: False: return a plain tuple (images, results).
            callback_on_attempt: called with each attempt; its ``number`` says of which image. If it returns True, the
                run of this image ends with the best image so far.
            options: arguments of the wrapped pipeline's call, such as ``prompt`` or ``num_inference_steps``; regions
                are inpainted with them, too. Fields of ``RefineConfig``, such as ``max_rounds``, for this call only.
                And ``strength`` for ``strengths``. A separate ``inpainter`` gets only the callbacks. The image of a
                ControlNet may be passed as ``control_image``.

        Returns:
            The images that could be generated, and a result for each requested image. A ``RefinerWarning`` tells which
            images are missing.

        Raises:
            ConfigError, InputError: an argument is unknown or out of its range; nothing has been generated yet.
            BadImageError: no image could be generated. If the wrapped pipeline raised an exception, it is raised.
        """
        options = bound(self.pipe, args, options)
        generator, output_type = options.pop("generator", generator), options.pop("output_type", output_type)
        return_dict = options.pop("return_dict", return_dict)
        if output_type not in get_args(OutputType):
            raise ConfigError(f"output_type must be one of {', '.join(get_args(OutputType))}, got {output_type!r}.")
        call = self._call(options, start_image, mask_image, seed, generator, config, output_type)
        if output_type == "latent":
            results = call.unrefined()
        else:
            results = results_of(call, callback_on_attempt)
            report(call, results)
        images = images_of(call, results, output_type)
        if not return_dict:
            return images, results
        from refiner.pipelines.calling.output import RefinedPipelineOutput

        return RefinedPipelineOutput(images=images, results=results)

    def stream(
        self,
        *args: Any,
        start_image: Source | None = None,
        mask_image: Any = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        index: int = 0,
        config: RefineConfig | None = None,
        **options: Any,
    ) -> RefinementRun:
        """Generate and refine one image, attempt by attempt.

        Args:
            args, start_image, mask_image, generator, config, options: see the call of this class.
            seed: the image is generated with ``torch.manual_seed(seed + index)``.
            index: number of the image among those with the same prompt and seed.

        Returns:
            A run to iterate over. It yields the attempts and has a ``result`` and a ``stop()``. The start image is
            generated when the first attempt is requested.

        Raises:
            ConfigError, InputError: an argument is unknown or out of its range; or several images are requested.
        """
        options = bound(self.pipe, args, options)
        generator = options.pop("generator", generator)
        call = self._call(options, start_image, mask_image, seed, generator, config, "pil", index=index)
        if call.request.total != 1:
            raise ConfigError(
                f"stream makes one image, got a request for {call.request.total}: call the pipeline for several."
            )
        return call.run(0)

    def _call(
        self,
        options: Mapping[str, Any],
        start_image: Source | Sequence[Source] | None,
        mask_image: Any,
        seed: int | Sequence[int] | None,
        generator: Any,
        config: RefineConfig | None,
        output_type: str,
        *,
        index: int = 0,
    ) -> Call:
        """Sort and check the arguments of a call."""
        options = plain_values(options)
        if "image" in options and not own_image(self.pipe):
            alias = options.pop("image")
            if start_image is not None and alias is not None:
                raise ConfigError("image and start_image are the same here: pass only one of them.")
            start_image = alias if start_image is None else start_image
        request = request_of(
            self.pipe,
            options,
            config=config or self.refine_config,
            call=self.call_defaults,
            start_image=start_image,
        )
        check_inpaint_call(self.pipe, self.inpainter, request.config.inpaint_call)
        check_complete(self.pipe, local(self.inpainter))
        check_words(self._pipelines(), [*request.prompts, *request.negatives, *own_words(request.config)])
        seeding = seeding_of(self.pipe, request, seed=seed, generator=generator, index=index)
        masks = () if mask_image is None else masks_of(mask_image)
        call = Call(self, request, seeding, output_type, masks)
        self._runs.add(call.interrupt)
        return call
