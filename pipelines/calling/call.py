"""One call of RefinedPipeline: its start images, a run for each, and the output."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.errors import BadImageError, ConfigError, RefinerWarning
from refiner.pipelines.calling.marks import MarkedDetector
from refiner.pipelines.calling.request import Request
from refiner.pipelines.calling.seeding import Seeding, default_generator, recorded
from refiner.pipelines.calling.starts import Batch, batches_of, painted
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.editors import check_settings, editor_of, edits
from refiner.pipelines.editing.hosted import HostedEditor, HostedInpainter, local
from refiner.pipelines.loop import refine
from refiner.pipelines.painting import families
from refiner.pipelines.painting.arguments import TEXTS, embeddings_in
from refiner.pipelines.painting.caches import PromptCache
from refiner.pipelines.painting.crops import CropInpainter
from refiner.pipelines.painting.interrupts import Interrupt
from refiner.pipelines.painting.painter import DiffusersPainter, PaintSettings
from refiner.pipelines.parts import Parts, Start
from refiner.pipelines.run import RefinementRun
from refiner.pipelines.saving.record import Wrapped, settings_of
from refiner.pipelines.together.group import Member
from refiner.pipelines.tools import ToolInpainter
from refiner.repairs import LocalTool
from refiner.types import Attempt, RefinementResult

if TYPE_CHECKING:
    import torch

    Images = list[Image.Image] | NDArray[np.float32] | torch.Tensor

OutputType = Literal["pil", "np", "pt", "latent"]
INTERRUPTED = "Interrupted; the image was not begun."


@dataclass(eq=False)
class Call:
    """The state that all images of one call share.

    Args:
        pipe: the pipeline and its parts.
        request: what the user asked for.
        seeding: the random numbers of the images.
        output_type: what the start images are converted to; "pil" counts as "np".
        masks: the regions that the user marked; empty: the detector finds them.
    """

    pipe: Wrapped
    request: Request
    seeding: Seeding
    output_type: str = "pil"
    masks: Sequence[Image.Image] = ()
    starts: dict[int, Start] = field(default_factory=dict)
    """The start images that were made so far."""

    def __post_init__(self) -> None:
        self.interrupt = Interrupt(self.pipe.pipe)
        self.prompts = PromptCache()
        self.batches = batches_of(self.pipe.pipe, self.request, self.seeding, self.pipe.native)
        self.places = [(batch, row) for batch in self.batches for row in range(batch.total)]
        self._records: dict[int, dict[str, Any]] = {}

    @property
    def config(self) -> RefineConfig:
        return self.request.config

    def run(self, number: int, member: Member | None = None) -> RefinementRun:
        """Prepare the refinement of one image, of a group or by itself."""
        batch, row = self.places[number]
        image = self.request.images[number] if self.request.images else None
        interrupt = Interrupt(self.pipe.pipe, self.interrupt)
        options = batch.of_image(self.pipe.pipe, row)
        negative = options.get("negative_prompt") or ""
        config = replace(self.config, negative_prompt=negative, seed=self.seeding.seeds[number])
        if member is None:
            parts = self._parts(config, interrupt.listening(options))
        else:
            parts = member.parts(options, lambda: self._parts(config, self.interrupt.listening(options)))
        if self.masks:
            parts = replace(parts, detector=MarkedDetector(parts.detector, self.masks))
        generated = image is None and not families.inpaints(self.pipe.pipe)
        prompt = self.request.prompts[number // self.request.count]
        settings = settings_of(
            self.pipe,
            config=config,
            index=self.seeding.indices[number],
            call={**(batch.arguments if generated else {**options, **_prompt(batch, row)}), **self._marked()},
            image=image,
        )
        if member is not None:
            settings["images_together"] = batch.total
        begin = partial(self.begin, number, interrupt if batch.total == 1 else self.interrupt, settings)
        return refine(
            parts,
            prompt,
            config,
            image=image,
            start=None if not generated else begin if member is None else partial(member.start, begin),
            texts={name: options[name] for name in TEXTS if isinstance(options.get(name), str)},
            index=self.seeding.indices[number],
            number=number,
            flag=interrupt,
            settings=settings,
        )

    def begin(self, number: int, interrupt: Interrupt, settings: dict[str, Any] | None = None) -> Start:
        """Return a start image; the call of the wrapped pipeline that makes it is made when it is first needed."""
        batch, row = self.places[number]
        if number not in self.starts:
            if interrupt.is_set():
                return Start(error=BadImageError(INTERRUPTED))
            self._paint(number - row, batch, interrupt)
        if settings is not None:
            settings["start"] = {"row": row, **self._records[number - row]}
        return self.starts[number]

    def _paint(self, first: int, batch: Batch, interrupt: Interrupt) -> None:
        pipe = self.pipe.pipe
        generators = batch.generators or (default_generator(pipe),)
        self._records[first] = {
            "images": batch.total,
            "generators": [recorded(generator) for generator in generators],
            "default": not batch.generators,
            "seed": batch.seed,
        }
        latent = self.output_type == "latent"  # after an interrupt, these are the latents of the last step
        made = painted(
            self._painter({}),
            pipe,
            batch if latent else replace(batch, arguments=interrupt.listening(batch.arguments)),
            output_type="np" if self.output_type == "pil" else self.output_type,
            interrupted=(lambda: False) if latent else interrupt.is_set,
            record=self.config.on_error == "record",
        )
        if self.output_type == "pil":  # the pixels are not needed, and large
            made = [start._replace(pixels=None) for start in made]
        self.starts.update(enumerate(made, start=first))

    def _marked(self) -> dict[str, Any]:
        return {"mask_image": self.masks} if self.masks else {}

    def _painter(self, options: Mapping[str, Any], *, edits_for: DiffusersPainter | None = None) -> DiffusersPainter:
        """Build the painter of images and regions, or for ``edits_for`` the one of regions that the editor edits."""
        options = dict(options)
        sides = {name: options.pop(name, None) for name in ("height", "width")}
        inpaint, inpainter = {**self.pipe.inpaint_call_defaults, **self.config.inpaint_call}, self.pipe.inpainter
        if edits_for is not None:
            inpaint, inpainter = self.pipe.edit_call_defaults, self.pipe.editor
        settings = PaintSettings(**sides, native=self.pipe.native, options=options, inpaint_options=inpaint)
        return DiffusersPainter(
            self.pipe.pipe,
            settings,
            inpainter=local(inpainter),
            second_stage=self.pipe.second_stage,
            prompt_cache=self.prompts,
            tally=None if edits_for is None else edits_for.tally,
        )

    def _parts(self, config: RefineConfig, options: Mapping[str, Any]) -> Parts:
        """Build the parts of the loop for one image.

        Raises:
            ConfigError: a pipeline does not support one of the settings.
        """
        painter = self._painter(options)
        check_settings(self.pipe.inpainter, config)
        painter.check(soft=config.soft_edge > 0)
        tool: LocalTool = "inpaint" if editor_of(self.pipe.inpainter) is None else "edit"
        repairers = {tool: _inpainter(self.pipe.inpainter, painter, config)}
        if self.pipe.editor is not None:
            editing = self._painter(options, edits_for=painter)
            repairers["edit"] = _inpainter(self.pipe.editor, editing, replace(config, soft_edge=0))
        return Parts(
            generator=painter,
            inpainter=repairers[tool] if len(repairers) == 1 else ToolInpainter(repairers),
            tools=tuple(repairers),
            negatives=_takes_negatives(self.pipe.pipe, options),
            detector=self.pipe.detector,
            judge=self.pipe.judge,
            reviser=self.pipe.reviser,
        )

    def unrefined(self) -> list[RefinementResult]:
        """Make all start images, as latents, and describe them: latents are neither looked at nor refined."""
        for number in range(self.request.total):
            start = self.begin(number, self.interrupt)
            if start.error is not None:
                raise start.error
        told = "The output is latents, which are not analysed or refined."
        nothing: dict[str, Any] = {"image": None, "analysis": None, "accepted": True, "reason": told}
        texts = [prompt for prompt in self.request.prompts for _ in range(self.request.count)]
        attempts = [
            Attempt(index=0, action="generate", prompt=prompt, seed=seed, **nothing)
            for prompt, seed in zip(texts, self.seeding.first, strict=True)
        ]
        return [RefinementResult(prompt=one.prompt, attempts=(one,), best=0, stop="unrefined") for one in attempts]


def _inpainter(inpainter: Any, painter: DiffusersPainter, config: RefineConfig) -> CropInpainter:
    """Build the inpainter of one tool; ``painter`` runs the model ``inpainter``, unless that is a hosted one."""
    if isinstance(inpainter, HostedEditor):
        return HostedInpainter(inpainter, config)
    sides = {"native": painter.native, "multiple": painter.multiple, "cell": painter.cell}
    config = replace(config, mixed_strengths=1.0) if edits(inpainter) else config
    return CropInpainter(painter.paint, **sides, config=config, mark=painter.mark, spent=painter.spent)


def _prompt(batch: Batch, row: int) -> dict[str, Any]:
    prompt = batch.arguments.get("prompt")
    return {} if prompt is None else {"prompt": prompt if isinstance(prompt, str) else prompt[row // batch.count]}


def _takes_negatives(pipe: Any, options: Mapping[str, Any]) -> bool:
    """Whether a negative prompt can be added without switching guidance on."""
    if embeddings_in(options, "negative_") is not None or "negative_prompt" not in families.takes(pipe):
        return False
    return not families.family_of(pipe).negative_switches or options.get("negative_prompt") is not None


def images_of(call: Call, results: Sequence[RefinementResult], output_type: OutputType) -> Any:
    """Convert the kept images of a call to its output type, in order; images that do not exist are left out.

    An image that was kept as it was generated has the values that the pipeline returned, in their dtype.
    """
    kept = [result.attempts[result.best] for result in results]
    if output_type == "latent":
        return _joined([call.starts[number].pixels for number in sorted(call.starts)])
    if output_type == "pil":
        return [attempt.image for attempt in kept if attempt.image is not None]
    rows = []
    for number, (result, attempt) in enumerate(zip(results, kept, strict=True)):
        start = call.starts.get(number)
        if attempt.image is None:
            continue
        own = start is not None and result.best == 0 and start.pixels is not None
        rows.append(start.pixels if own and start else _values(attempt.image, output_type))
    return _joined(rows)


def _values(image: Image.Image, output_type: OutputType) -> Any:
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    if output_type == "np":
        return values
    import torch

    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def _joined(rows: Sequence[Any]) -> Any:
    if {tuple(row.shape) for row in rows} != {tuple(rows[0].shape)}:
        raise ConfigError("The images have different sizes: use output_type='pil'.")
    if isinstance(rows[0], np.ndarray):
        return np.stack(rows)
    import torch

    like = rows[0]
    return torch.stack([row.to(like.device, like.dtype) for row in rows])


def report(call: Call, results: Sequence[RefinementResult]) -> None:
    """Warn about images that are missing, or that nothing could be said about.

    Raises:
        Exception: there is no image at all. It is the exception of the wrapped pipeline, if that raised one.
    """
    lacking = [number for number, result in enumerate(results) if result.attempts[result.best].image is None]
    if len(lacking) == len(results):
        raise _nothing_made(call, results)
    if lacking:
        reasons = "; ".join(f"image {number}: {results[number].attempts[-1].error}" for number in lacking)
        _warn(f"{len(lacking)} of {len(results)} images could not be generated ({reasons}): see results.")
    if all(attempt.analysis is None for result in results for attempt in result.attempts):
        error = results[0].attempts[-1].error
        _warn(f"No image could be analysed, so nothing was refined ({error}): check the detector.")


def _warn(message: str) -> None:
    warnings.warn(message, RefinerWarning, stacklevel=4)


def _nothing_made(call: Call, results: Sequence[RefinementResult]) -> Exception:
    errors = [start.error for start in call.starts.values() if start.error is not None]
    foreign = [error for error in errors if not isinstance(error, BadImageError)]
    if foreign:
        return foreign[0]
    return BadImageError(
        f"No image of {results[0].prompt!r} was generated, because every attempt failed; the last error is: "
        f"{results[0].attempts[-1].error}"
    )
